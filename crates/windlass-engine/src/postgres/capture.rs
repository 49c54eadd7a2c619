//! Captures a database: `pg_dump` streamed, rows counted in the same snapshot beside it.

use std::process::Stdio;

use jiff::Timestamp;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStdout, Command};
use windlass_core::point::TableCount;

use super::PostgresError;
use super::counts;
use super::inspect::{self, Database};
use super::session::Session;
use super::tools::Tools;

/// `gzip` level 1: level 6, the default of `pg_dump`, costs three times the time for a tenth of the size.
const COMPRESSION: &str = "--compress=1";

/// A tool whose standard output is the capture.
pub struct Stream {
    tool: &'static str,
    child: Child,
    stdout: ChildStdout,
    stderr: tokio::task::JoinHandle<String>,
}

impl Stream {
    fn start(tool: &'static str, mut command: Command) -> Result<Self, PostgresError> {
        let failed = |source| PostgresError::Start { tool: tool.into(), source };
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(failed(std::io::Error::other("it has no pipes")));
        };
        Ok(Self { tool, child, stdout, stderr: tokio::spawn(tail(stderr)) })
    }

    /// Reads the next bytes; 0 at the end.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, PostgresError> {
        self.stdout.read(buffer).await.map_err(|source| PostgresError::Start { tool: self.tool.into(), source })
    }

    /// Waits for the tool to end well; returns what it said.
    pub async fn finish(mut self) -> Result<String, PostgresError> {
        let status = self.child.wait().await;
        let status = status.map_err(|source| PostgresError::Start { tool: self.tool.into(), source })?;
        let stderr = self.stderr.await.unwrap_or_default();
        if status.success() {
            Ok(stderr)
        } else {
            Err(PostgresError::Tool { tool: self.tool.into(), status: status.to_string(), stderr })
        }
    }
}

/// The last 16 KiB of what a tool says.
pub(super) async fn tail(mut stderr: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 4096];
    while let Ok(read) = stderr.read(&mut buffer).await
        && read > 0
    {
        kept.extend_from_slice(&buffer[..read]);
        if kept.len() > 32 << 10 {
            kept.drain(..kept.len() - (16 << 10));
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// The capture of one database, on its way.
pub struct DatabaseCapture {
    /// What the database is.
    pub database: Database,
    /// The moment of the snapshot, by the server's clock.
    pub snapshot_at: Timestamp,
    /// The dump.
    pub dump: Stream,
    /// Holds the snapshot open for as long as anyone may still need it.
    holder: Session,
    counter: tokio::task::JoinHandle<Result<Vec<TableCount>, PostgresError>>,
}

#[derive(Deserialize)]
struct Snapshot {
    snapshot: String,
}

/// Begins the capture of one database.
pub async fn begin(tools: &Tools, name: &str) -> Result<DatabaseCapture, PostgresError> {
    let mut holder = Session::open(tools, name).await?;
    holder.lines("begin isolation level repeatable read read only").await?;
    let Snapshot { snapshot } = holder.row("select pg_export_snapshot() as snapshot").await?;
    let database = inspect::database(&mut holder, tools.server_version).await?;
    let mut command = tools.command("pg_dump");
    command.args(["--format=custom", "--no-password", COMPRESSION]);
    command.arg(format!("--snapshot={snapshot}")).arg(tools.dbname(name)?);
    let dump = Stream::start("pg_dump", command)?;
    let counter = tokio::spawn(count_within(tools.clone(), name.to_owned(), snapshot));
    Ok(DatabaseCapture { snapshot_at: database.now, database, dump, holder, counter })
}

impl DatabaseCapture {
    /// Ends it, once the dump was read to its end: what the tool said, and the rows by table.
    pub async fn finish(self) -> Result<(String, Vec<TableCount>), PostgresError> {
        let said = self.dump.finish().await?;
        let counts = self.counter.await.map_err(|error| PostgresError::Answer {
            database: "the counting session".into(),
            why: error.to_string(),
        })??;
        self.holder.close().await;
        Ok((said, counts))
    }
}

async fn count_within(tools: Tools, database: String, snapshot: String) -> Result<Vec<TableCount>, PostgresError> {
    let mut session = Session::open(&tools, &database).await?;
    let literal = snapshot.replace('\'', "''");
    session
        .lines(&format!("begin isolation level repeatable read read only; set transaction snapshot '{literal}'"))
        .await?;
    let counts = counts::count(&mut session).await?;
    session.close().await;
    Ok(counts)
}

/// Begins the capture of roles and settings; says whether their passwords are in it.
pub async fn globals(tools: &Tools) -> Result<(Stream, bool), PostgresError> {
    #[derive(Deserialize)]
    struct Right {
        passwords: bool,
    }
    let mut session = Session::open_any(tools).await?;
    let right: Right = session.row("select has_table_privilege('pg_catalog.pg_authid', 'select') as passwords").await?;
    session.close().await;
    let mut command = tools.command("pg_dumpall");
    command.args(["--globals-only", "--no-password"]).arg(format!("--dbname={}", tools.url()));
    if !right.passwords {
        command.arg("--no-role-passwords");
    }
    Ok((Stream::start("pg_dumpall", command)?, right.passwords))
}
