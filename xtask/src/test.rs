//! Runs every test of the workspace and sums up.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::root;

/// Runs all tests; the last line says how many passed and failed. `false` where one failed or none ran.
pub(crate) fn run() -> Result<bool> {
    let mut child = Command::new(env!("CARGO"))
        .args(["test", "--workspace", "--no-fail-fast"])
        .current_dir(root()?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo")?;
    let output = child.stdout.take().context("read what cargo prints")?;
    let mut sums = Sums::default();
    for line in BufReader::new(output).lines() {
        let line = line?;
        sums.add(&line);
        println!("{line}");
    }
    let status = child.wait()?;
    let skipped = if sums.ignored > 0 { format!(", {} skipped", sums.ignored) } else { String::new() };
    println!("{} passed, {} failed{skipped}", sums.passed, sums.failed);
    Ok(status.success() && sums.failed == 0 && sums.passed > 0)
}

#[derive(Default)]
struct Sums {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Sums {
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
