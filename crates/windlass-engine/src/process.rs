//! A command of the user's own: an argument vector, a time limit, and the end of what it said.
//!
//! Promised: no shell; the command and everything it started in its process group are ended at the limit or when
//! the future is dropped; output is kept to a bound; what a command that starts an application leaves running goes on.
//! Not promised: that a command which leaves its process group is found.

use std::process::Stdio;

use jiff::SignedDuration;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStderr, Command};
use windlass_core::diagnose::SAYING;

/// Bytes kept of what a command writes to its standard error: the end of it.
pub const TAIL: usize = 16 << 10;

/// Why a command counts as failed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It did not start.
    #[error("start `{program}`")]
    Start {
        /// The program.
        program: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It ended with a failure.
    #[error("run `{program}`: it ended with {status}{}", quoted(stderr))]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: String,
        /// The end of its standard error.
        stderr: String,
    },
    /// It took too long and was ended.
    #[error("run `{program}`: it took longer than {limit:#} and was ended{}", quoted(stderr))]
    TimedOut {
        /// The program.
        program: String,
        /// How long it was given.
        limit: SignedDuration,
        /// The end of its standard error.
        stderr: String,
    },
    /// Its pipes broke.
    #[error("talk to `{program}`")]
    Pipe {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
}

fn quoted(stderr: &str) -> String {
    let text = stderr.trim_end();
    if text.is_empty() { String::new() } else { format!("{SAYING}{text}") }
}

/// A running command, ended with its whole process group when dropped.
pub struct Process {
    program: String,
    child: Child,
    stderr: tokio::task::JoinHandle<String>,
    group: Option<Pid>,
}

impl Process {
    /// Starts a command in a process group of its own; standard error is collected, the rest is as given.
    pub fn start(argv: &[String], stdin: Stdio, stdout: Stdio) -> Result<Self, ProcessError> {
        let program = argv.first().cloned().unwrap_or_default();
        let mut child = Command::new(&program)
            .args(argv.iter().skip(1))
            .stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| ProcessError::Start { program: program.clone(), source })?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let stderr = tokio::spawn(tail(child.stderr.take()));
        Ok(Self { program, child, stderr, group })
    }

    /// The running command.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// An error of its pipes.
    pub fn pipe_error(&self, source: std::io::Error) -> ProcessError {
        ProcessError::Pipe { program: self.program.clone(), source }
    }

    /// Ends it and says that it took too long.
    pub async fn time_out(mut self, limit: SignedDuration) -> ProcessError {
        self.end_group();
        let _ = self.child.wait().await;
        let stderr = self.stderr().await;
        ProcessError::TimedOut { program: self.program.clone(), limit, stderr }
    }

    /// Waits for it to end well; returns the end of its standard error.
    pub async fn wait(self) -> Result<String, ProcessError> {
        self.wait_and(false).await
    }

    async fn wait_and(mut self, leave: bool) -> Result<String, ProcessError> {
        let status = self.child.wait().await.map_err(|source| self.pipe_error(source))?;
        if leave && status.success() {
            self.group = None;
            return Ok(String::new());
        }
        // Whoever it left behind in its group holds the pipe open, and nobody waits for them.
        self.end_group();
        let stderr = self.stderr().await;
        if status.success() {
            Ok(stderr)
        } else {
            Err(ProcessError::Failed { program: self.program.clone(), status: status.to_string(), stderr })
        }
    }

    async fn stderr(&mut self) -> String {
        let collected = tokio::time::timeout(std::time::Duration::from_secs(2), &mut self.stderr).await;
        collected.ok().and_then(Result::ok).unwrap_or_default()
    }

    fn end_group(&mut self) {
        if let Some(group) = self.group.take() {
            // It is gone already where this fails.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end_group();
    }
}

/// Runs a command that neither reads nor writes anything of ours.
pub async fn run(argv: &[String], limit: SignedDuration) -> Result<(), ProcessError> {
    run_and(argv, limit, false).await
}

/// Runs a command that starts something: what it leaves running, where it ends well, goes on.
pub async fn run_to_start(argv: &[String], limit: SignedDuration) -> Result<(), ProcessError> {
    run_and(argv, limit, true).await
}

async fn run_and(argv: &[String], limit: SignedDuration, leave: bool) -> Result<(), ProcessError> {
    let mut process = Process::start(argv, Stdio::null(), Stdio::null())?;
    let wait = std::time::Duration::try_from(limit).unwrap_or_default();
    match tokio::time::timeout(wait, process.child.wait()).await {
        Ok(_) => process.wait_and(leave).await.map(drop),
        Err(_) => Err(process.time_out(limit).await),
    }
}

/// The end of what a command says, where it can be heard.
async fn tail(stderr: Option<ChildStderr>) -> String {
    match stderr {
        Some(stderr) => tail_of(stderr, TAIL).await,
        None => String::new(),
    }
}

/// Reads to the end and keeps the last bytes, as many as said.
pub(crate) async fn tail_of(mut stream: impl AsyncRead + Unpin, keep: usize) -> String {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 8 << 10];
    while let Ok(read) = stream.read(&mut buffer).await
        && read > 0
    {
        kept.extend_from_slice(&buffer[..read]);
        if kept.len() > 2 * keep {
            kept.drain(..kept.len() - keep);
        }
    }
    let start = kept.len().saturating_sub(keep);
    String::from_utf8_lossy(&kept[start..]).into_owned()
}
