//! What must happen even when Windlass is killed: after-hooks, and the removal of scratch places.
//!
//! A small process of the same binary, in a session of its own, holds one end of a pipe. It waits for the word
//! to act, for the pipe to break - Windlass is gone, however it went - or for the deadline, whichever is first;
//! then it does what it was told at its start, once, and reports. So there is one place where after-hooks run,
//! and it is the same whether all went well or not.
//!
//! Not promised: that it survives what ends every process of a control group, such as `systemctl kill -s KILL`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use windlass_core::application::Hook;

use crate::postgres::scratch;
use crate::process;

/// The hidden subcommand that makes the binary a supervisor.
pub const SUBCOMMAND: &str = "__supervise";

/// What the supervisor is told at its start.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Orders {
    /// Commands to run, in order, each whatever became of the others.
    pub after: Vec<Order>,
    /// Scratch places to tear down.
    pub teardown: Vec<PathBuf>,
    /// Seconds until it acts by itself.
    pub deadline: u64,
}

/// A command in the orders.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    run: Vec<String>,
    timeout_ms: i64,
}

impl From<&Hook> for Order {
    fn from(hook: &Hook) -> Self {
        Self { run: hook.run.clone(), timeout_ms: i64::try_from(hook.timeout.as_millis()).unwrap_or(i64::MAX) }
    }
}

/// What the supervisor did.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Whether it acted because the deadline had passed.
    pub overdue: bool,
    /// What went wrong, in words.
    pub failures: Vec<String>,
}

/// Why there is no supervisor, or no report of it.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// It did not start.
    #[error("start the supervisor `{}`", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It went away without a report.
    #[error("hear from the supervisor: it ended without a report")]
    Lost,
}

/// A supervisor at work. Dropped, it acts at once, as if Windlass had been killed.
pub struct Supervisor {
    child: Child,
    orders: ChildStdin,
}

impl Supervisor {
    /// Starts a supervisor; when this returns, what was ordered will happen.
    pub async fn start(program: &Path, orders: &Orders) -> Result<Self, SupervisorError> {
        let failed = |source| SupervisorError::Start { program: program.to_owned(), source };
        let mut child = Command::new(program)
            .arg(SUBCOMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(failed)?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(SupervisorError::Lost);
        };
        let mut line = serde_json::to_vec(orders).map_err(|e| failed(e.into()))?;
        line.push(b'\n');
        stdin.write_all(&line).await.map_err(failed)?;
        // It answers once it has understood and left our session; only then may anything be paused.
        let mut stdout = tokio::io::BufReader::new(stdout);
        let mut ready = String::new();
        stdout.read_line(&mut ready).await.map_err(failed)?;
        if ready != "ready\n" {
            return Err(SupervisorError::Lost);
        }
        child.stdout = Some(stdout.into_inner());
        Ok(Self { child, orders: stdin })
    }

    /// Tells it to act, and waits for its report.
    pub async fn act(self) -> Result<Report, SupervisorError> {
        let Self { mut child, orders } = self;
        drop(orders);
        let mut text = String::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_string(&mut text).await.map_err(|_| SupervisorError::Lost)?;
        }
        let _ = child.wait().await;
        serde_json::from_str(&text).map_err(|_| SupervisorError::Lost)
    }
}

/// The supervisor's own life, on standard input and output. Returns when it has done what it was told.
pub fn serve() -> std::io::Result<()> {
    // A session of its own: neither the terminal's interrupt nor the end of the login reaches it.
    // Where it leads a group already it was started for itself, and stays.
    let _ = rustix::process::setsid();
    let mut input = BufReader::new(std::io::stdin());
    let mut line = String::new();
    input.read_line(&mut line)?;
    let orders: Orders = serde_json::from_str(&line)?;
    let mut output = std::io::stdout();
    output.write_all(b"ready\n")?;
    output.flush()?;

    let (gone, wait) = mpsc::channel();
    std::thread::spawn(move || {
        // Whatever else arrives, only the end of it counts.
        let _ = std::io::copy(&mut input, &mut std::io::sink());
        let _ = gone.send(());
    });
    let overdue = wait.recv_timeout(Duration::from_secs(orders.deadline)).is_err();
    let report = carry_out(&orders, overdue);
    // Windlass may be gone, and then nobody listens.
    let _ = serde_json::to_writer(&output, &report).map_err(std::io::Error::from).and_then(|()| output.flush());
    Ok(())
}

fn carry_out(orders: &Orders, overdue: bool) -> Report {
    let mut failures = Vec::new();
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Err(error) => failures.push(format!("start a runtime: {error}")),
        Ok(runtime) => runtime.block_on(async {
            for command in &orders.after {
                if let Err(error) = process::run(&command.run, SignedDuration::from_millis(command.timeout_ms)).await {
                    failures.push(windlass_core::diagnose::chain(&error));
                }
            }
        }),
    }
    for place in &orders.teardown {
        if let Err(error) = scratch::teardown(place) {
            failures.push(windlass_core::diagnose::chain(&error));
        }
    }
    Report { overdue, failures }
}
