//! The programs that cargo builds of the tests, and how they are run: in two lanes, side by side.
//!
//! Stories of clusters wait most of the time, and must not be waited for too long; what else there is computes. So the
//! second lane gives way to the first.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::sums::Sums;
use crate::root;

/// What makes cargo build the stories of the cluster.
const CLUSTER: &str = "--features=windlass/cluster";

/// The programs whose stories ask clusters.
const OF_CLUSTERS: [&str; 2] = ["cluster", "api"];

/// How many tests of a program go side by side.
const THREADS: &str = "RUST_TEST_THREADS";

/// By how much the second lane gives way, as `nice` has it.
const WAY: &str = "10";

/// A program of tests.
pub(super) struct Program {
    /// Of the library, the binary, or the file of stories.
    name: String,
    executable: PathBuf,
    /// The folder of its package, in which cargo runs tests.
    package: PathBuf,
}

impl Program {
    fn is_of_clusters(&self) -> bool {
        OF_CLUSTERS.contains(&self.name.as_str())
    }

    fn command(&self) -> Command {
        let mut command = if self.is_of_clusters() {
            Command::new(&self.executable)
        } else {
            let mut nice = Command::new("nice");
            nice.args(["-n", WAY]).arg(&self.executable);
            nice
        };
        // What cargo would tell it, as far as any asks for it.
        command.current_dir(&self.package).env("CARGO", env!("CARGO")).env("CARGO_MANIFEST_DIR", &self.package);
        command
    }

    /// Its tests, by name.
    pub(super) fn tests(&self) -> Result<Vec<String>> {
        let output = Command::new(&self.executable).arg("--list").output();
        let output = output.with_context(|| format!("start {}", self.executable.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }
}

/// Builds all tests, those of clusters as well where they are asked for.
pub(super) fn build(clusters: bool) -> Result<Vec<Program>> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    if clusters {
        command.arg(CLUSTER);
    }
    let output = command.current_dir(root()?).stderr(Stdio::inherit()).output().context("start cargo")?;
    ensure!(output.status.success(), "the tests do not build");
    String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| program(line).transpose()).collect()
}

/// The stories of clusters alone, built to be named.
pub(super) fn of_clusters() -> Result<Vec<Program>> {
    Ok(build(true)?.into_iter().filter(Program::is_of_clusters).collect())
}

fn program(line: &str) -> Result<Option<Program>> {
    /// What cargo says of something it built; of what is no artifact, nothing of this is there.
    #[derive(Deserialize)]
    struct Built {
        executable: Option<PathBuf>,
        manifest_path: Option<PathBuf>,
        profile: Option<Profile>,
        target: Option<Target>,
    }
    #[derive(Deserialize)]
    struct Profile {
        test: bool,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
    }
    let built: Built = serde_json::from_str(line).context("read what cargo says it built")?;
    let (Some(executable), Some(manifest), Some(target)) = (built.executable, built.manifest_path, built.target) else {
        return Ok(None);
    };
    if !built.profile.is_some_and(|profile| profile.test) {
        return Ok(None);
    }
    let package = manifest.parent().map(Path::to_owned).unwrap_or_default();
    Ok(Some(Program { name: target.name, executable, package }))
}

/// Runs all programs; what they say is printed as they say it.
pub(super) fn run(programs: &[Program]) -> Result<Sums> {
    let sums = Mutex::new(Sums::default());
    let lane = |of_clusters: bool| -> Result<()> {
        for program in programs.iter().filter(|program| program.is_of_clusters() == of_clusters) {
            let mut command = program.command();
            if std::env::var_os(THREADS).is_none() {
                command.env(THREADS, if of_clusters { "4" } else { "2" });
            }
            one(&program.name, command, &sums)?;
        }
        if !of_clusters {
            let mut command = Command::new("nice");
            command.args(["-n", WAY, env!("CARGO"), "test", "--workspace", "--doc"]).current_dir(root()?);
            one("examples in documents", command, &sums)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let clusters = scope.spawn(|| lane(true));
        let others = lane(false);
        let clusters = clusters.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the lane of clusters panicked")));
        others.and(clusters)
    })?;
    Ok(sums.into_inner().unwrap_or_default())
}

fn one(name: &str, mut command: Command, sums: &Mutex<Sums>) -> Result<()> {
    println!("     Running {name}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start the tests of {name}"))?;
    let output = child.stdout.take().context("read what the tests print")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if let Ok(mut sums) = sums.lock() {
            sums.add(&line);
        }
        println!("{line}");
    }
    let status = child.wait()?;
    if !status.success()
        && let Ok(mut sums) = sums.lock()
    {
        sums.failed_programs.push(name.to_owned());
    }
    Ok(())
}
