//! A client tool at work: what it says is collected beside it, so that it never waits for a reader.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio_util::task::AbortOnDropHandle;

use super::PostgresError;
use crate::process::tail_of;

/// Bytes kept of a tool's standard error: the end of it, where the cause stands.
const TAIL: usize = 64 << 10;

/// How long standard error may stay open once the tool has ended: whatever it left behind is not waited for.
const GRACE: Duration = Duration::from_secs(2);

/// A running tool, ended when dropped.
pub(super) struct Running {
    tool: String,
    child: Child,
    stderr: AbortOnDropHandle<String>,
}

impl Running {
    /// Starts a tool; `tool` is what errors call it.
    pub(super) fn start(tool: &str, command: &mut Command) -> Result<Self, PostgresError> {
        let failed = |source| PostgresError::Start { tool: tool.to_owned(), source };
        let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().map_err(failed)?;
        let Some(stderr) = child.stderr.take() else {
            return Err(failed(std::io::Error::other("it has no standard error")));
        };
        Ok(Self { tool: tool.to_owned(), child, stderr: AbortOnDropHandle::new(tokio::spawn(tail_of(stderr, TAIL))) })
    }

    /// Its standard input, which was asked to be a pipe.
    pub(super) fn stdin(&mut self) -> Result<ChildStdin, PostgresError> {
        self.child.stdin.take().ok_or_else(|| self.failed(std::io::Error::other("it has no standard input")))
    }

    /// Its standard output, which was asked to be a pipe.
    pub(super) fn stdout(&mut self) -> Result<ChildStdout, PostgresError> {
        self.child.stdout.take().ok_or_else(|| self.failed(std::io::Error::other("it has no standard output")))
    }

    /// Waits for its end: how it ended, and the end of what it said.
    pub(super) async fn end(&mut self) -> Result<(ExitStatus, String), PostgresError> {
        let status = self.child.wait().await.map_err(|source| self.failed(source))?;
        let said = tokio::time::timeout(GRACE, &mut self.stderr).await;
        Ok((status, said.ok().and_then(Result::ok).unwrap_or_default()))
    }

    /// Waits for it to end well; returns what it said.
    pub(super) async fn finish(mut self) -> Result<String, PostgresError> {
        let (status, stderr) = self.end().await?;
        if status.success() {
            Ok(stderr)
        } else {
            Err(PostgresError::Tool { tool: self.tool, status: status.to_string(), stderr })
        }
    }

    /// An error of its pipes.
    pub(super) fn failed(&self, source: std::io::Error) -> PostgresError {
        PostgresError::Start { tool: self.tool.clone(), source }
    }
}
