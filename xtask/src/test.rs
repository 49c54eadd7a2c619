//! Runs every test of the workspace and sums up.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{rights, root};

/// Set where skipping is failing.
const NEVER_SKIP: &str = "WINDLASS_NEVER_SKIP";

/// How many tests of a program go side by side.
const THREADS: &str = "RUST_TEST_THREADS";

/// What makes cargo build the stories of the cluster.
const CLUSTER: &str = "--features=windlass/cluster";

/// What `charts/check` holds; it needs the helm that is built for the cluster.
const CHARTS: &str = "the charts render, and the operator's installs what config does";

/// Runs all tests; the last line says how many passed and failed. `false` where one failed or none ran.
pub(crate) fn run() -> Result<bool> {
    let missing = what_a_cluster_lacks();
    if missing.is_none() {
        bench("install", "kubernetes")?;
        // What was asked of it before proves nothing of today's stories.
        bench("cluster/cluster", "down")?;
        bench("cluster/cluster", "up")?;
    }
    let tested = test_all(missing.is_none()).and_then(|(mut sums, good)| {
        if missing.is_none() {
            compare(&mut sums, good)?;
        }
        Ok((sums, good))
    });
    if missing.is_none() {
        bench("cluster/cluster", "down")?;
    }
    let (mut sums, good) = tested?;
    if let Some(missing) = missing {
        for name in stories_of_the_cluster()?.iter().map(String::as_str).chain([CHARTS, rights::NAME]) {
            println!("skipped, for there is {missing} here: {name}");
            sums.ignored += 1;
        }
        ensure!(
            std::env::var_os(NEVER_SKIP).is_none(),
            "the stories of the cluster were skipped: there is {missing} here"
        );
    }
    let skipped = if sums.ignored > 0 { format!(", {} skipped", sums.ignored) } else { String::new() };
    println!("{} passed, {} failed{skipped}", sums.passed, sums.failed);
    Ok(good && sums.failed == 0 && sums.passed > 0)
}

/// What is missing for a cluster on this machine.
fn what_a_cluster_lacks() -> Option<&'static str> {
    let says = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    if says("id", "-u").as_deref() != Some("0") {
        return Some("no root");
    }
    if says("go", "version").is_none() { Some("no Go") } else { None }
}

fn bench(program: &str, argument: &str) -> Result<()> {
    let status = Command::new(root()?.join("bench").join(program)).arg(argument).status();
    let status = status.with_context(|| format!("start bench/{program}"))?;
    ensure!(status.success(), "bench/{program} {argument} ended with {status}");
    Ok(())
}

/// After the stories: what they used of what the operator is granted, and whether its chart grants the same.
fn compare(sums: &mut Sums, all_passed: bool) -> Result<()> {
    let charts = Command::new(root()?.join("charts/check")).status().context("start charts/check")?;
    sums.count(CHARTS, charts.success());
    if all_passed {
        sums.count(rights::NAME, rights::check()?);
    } else {
        println!("skipped, for not every test passed: {}", rights::NAME);
        sums.ignored += 1;
    }
    Ok(())
}

fn test_all(cluster: bool) -> Result<(Sums, bool)> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--workspace", "--no-fail-fast"]);
    if cluster {
        command.arg(CLUSTER);
    }
    // Most of them wait for servers and clusters most of the time.
    if std::env::var_os(THREADS).is_none() {
        command.env(THREADS, "4");
    }
    let mut child =
        command.current_dir(root()?).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start cargo")?;
    let output = child.stdout.take().context("read what cargo prints")?;
    let mut sums = Sums::default();
    for line in BufReader::new(output).lines() {
        let line = line?;
        sums.add(&line);
        println!("{line}");
    }
    Ok((sums, child.wait()?.success()))
}

/// The stories that need a cluster, by name.
fn stories_of_the_cluster() -> Result<Vec<String>> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--quiet", "--package=windlass", CLUSTER, "--test=cluster", "--test=api", "--", "--list"]);
    let output = command.current_dir(root()?).output().context("start cargo")?;
    ensure!(output.status.success(), "the stories of the cluster do not build");
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

#[derive(Default)]
struct Sums {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Sums {
    fn count(&mut self, name: &str, passed: bool) {
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        *(if passed { &mut self.passed } else { &mut self.failed }) += 1;
    }

    /// `test result: ok. 3 passed; 0 failed; 0 ignored; …`
    fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        let words: Vec<&str> = counts.split_whitespace().collect();
        for pair in words.windows(2) {
            let [number, what] = pair else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what.trim_end_matches(';') {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}
