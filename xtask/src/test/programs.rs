//! The programs that cargo builds of the tests, and how they are run: in two lanes, side by side.
//!
//! Stories of clusters wait most of the time, and must not be waited for too long; what else there is computes. So the
//! second lane gives way to the first. Stories of whole servers are run with a second version of PostgreSQL as well.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::NEVER_SKIP;
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

/// Where `bench/install` puts the programs of another PostgreSQL than the system's.
const POSTGRESQL_17: &str = ".bench/postgresql-17/bin";

/// What is run with that as well, by program: these stories, or all where none is named. Between them they go through
/// everything that versions of PostgreSQL do differently.
const WITH_17: [(&str, &[&str]); 7] = [
    ("postgres_physical", &[]),
    ("postgres_streamed", &[]),
    ("physical", &["a_server_comes_back_as_a_whole_and_was_proven_before"]),
    ("archive", &["a_standby_follows_what_is_archived"]),
    (
        "moments",
        &[
            "every_way_to_name_a_moment_leads_to_exactly_that",
            "a_server_is_left_at_a_moment_to_be_looked_at_and_goes_on_when_it_is_told",
        ],
    ),
    ("server_in_place", &["a_server_goes_back_to_a_moment_and_forth_again"]),
    ("extract", &["one_table_of_a_moment_comes_back_as_it_was_then"]),
];

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
            at_most(&mut command, if of_clusters { "4" } else { "2" });
            one(&program.name, command, &sums)?;
        }
        if !of_clusters {
            with_17(programs, &sums)?;
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

/// Sets how many of a program's tests go side by side, where nobody did.
fn at_most(command: &mut Command, threads: &str) {
    if std::env::var_os(THREADS).is_none() {
        command.env(THREADS, threads);
    }
}

/// Stories of whole servers once more, with the other PostgreSQL before all others on PATH.
fn with_17(programs: &[Program], sums: &Mutex<Sums>) -> Result<()> {
    let bin = root()?.join(POSTGRESQL_17);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([bin.clone()].into_iter().chain(std::env::split_paths(&path)))?;
    for (name, stories) in WITH_17 {
        let name_17 = format!("{name} with PostgreSQL 17");
        if !bin.join("initdb").is_file() {
            println!("skipped, for there is nothing in {POSTGRESQL_17}: {name_17}");
            ensure!(
                std::env::var_os(NEVER_SKIP).is_none(),
                "{name_17} was skipped: there is nothing in {POSTGRESQL_17}"
            );
            if let Ok(mut sums) = sums.lock() {
                sums.ignored += 1;
            }
            continue;
        }
        let program = programs.iter().find(|program| program.name == name);
        let mut command = program.with_context(|| format!("there are no tests named {name}"))?.command();
        command.arg("--exact").args(stories).env("PATH", &path);
        at_most(&mut command, "2");
        one(&name_17, command, sums)?;
    }
    Ok(())
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
