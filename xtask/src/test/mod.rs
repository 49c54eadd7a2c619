//! Runs every test of the workspace and sums up.

mod programs;
mod sums;

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use self::sums::Sums;
use crate::{rights, root};

/// Set where skipping is failing.
const NEVER_SKIP: &str = "WINDLASS_NEVER_SKIP";

/// What `charts/check` holds; it needs the helm that is built for the cluster.
const CHARTS: &str = "the charts render, and the operator's installs what config does";

/// Runs all tests; the last line says how many passed and failed. `false` where one failed or none ran.
pub(crate) fn run() -> Result<bool> {
    let missing = what_a_cluster_lacks();
    let programs = programs::build(missing.is_none())?;
    let sums = match missing {
        None => with_clusters(&programs)?,
        Some(missing) => without_clusters(&programs, missing)?,
    };
    for name in &sums.failed_programs {
        println!("not well: {name}");
    }
    let skipped = if sums.ignored > 0 { format!(", {} skipped", sums.ignored) } else { String::new() };
    println!("{} passed, {} failed{skipped}", sums.passed, sums.failed);
    Ok(sums.are_good())
}

fn with_clusters(programs: &[programs::Program]) -> Result<Sums> {
    bench("install", "kubernetes")?;
    // What was asked of it before proves nothing of today's stories.
    bench("cluster/cluster", "down")?;
    bench("cluster/cluster", "up")?;
    let tested = programs::run(programs).and_then(|mut sums| {
        compare(&mut sums)?;
        Ok(sums)
    });
    bench("cluster/cluster", "down")?;
    tested
}

fn without_clusters(programs: &[programs::Program], missing: &str) -> Result<Sums> {
    let mut sums = programs::run(programs)?;
    let mut skipped = vec![CHARTS.to_owned(), rights::NAME.to_owned()];
    for program in programs::of_clusters()? {
        skipped.extend(program.tests()?);
    }
    for name in skipped {
        println!("skipped, for there is {missing} here: {name}");
        sums.ignored += 1;
    }
    ensure!(std::env::var_os(NEVER_SKIP).is_none(), "the stories of the cluster were skipped: there is {missing} here");
    Ok(sums)
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
fn compare(sums: &mut Sums) -> Result<()> {
    let all_passed = sums.are_good();
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
