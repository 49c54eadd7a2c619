//! Captures a database: `pg_dump` streamed, rows counted in the same snapshot beside it.
//!
//! One session exports a snapshot, holds the tables as they are, and counts them while `pg_dump` writes what it sees
//! in that very snapshot. Owners and privileges are in the dump; whether they come back is chosen at restore. When a
//! capture is dropped half-way, `pg_dump` and the session end.

use std::process::Stdio;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::process::{ChildStdout, Command};
use tokio_util::task::AbortOnDropHandle;
use windlass_core::duration::display;
use windlass_core::point::TableCount;

use super::child::Running;
use super::counts::{self, Held};
use super::inspect::{self, Database};
use super::session::Session;
use super::tools::Tools;
use super::{PostgresError, database_of};

/// `gzip` level 1, which every `pg_restore` reads: level 6, the default, takes three times as long to save a tenth.
const COMPRESSION: &str = "--compress=1";

/// How long a lock on a table may be waited for: a backup that waits for ever is worse than one that fails.
const LOCK: &str = "10min";

/// More than this between the server's clock and this machine's is worth saying: recovery points are dated by it.
const SKEW: SignedDuration = SignedDuration::from_secs(60);

/// A tool whose standard output is the capture.
pub struct Stream {
    tool: &'static str,
    running: Running,
    stdout: ChildStdout,
    bytes: u64,
}

impl Stream {
    fn start(tool: &'static str, mut command: Command) -> Result<Self, PostgresError> {
        let mut running = Running::start(tool, command.stdout(Stdio::piped()))?;
        let stdout = running.stdout()?;
        Ok(Self { tool, running, stdout, bytes: 0 })
    }

    /// Reads the next bytes; 0 at the end.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, PostgresError> {
        let read = self.stdout.read(buffer).await.map_err(|source| self.running.failed(source))?;
        self.bytes += read as u64;
        Ok(read)
    }

    /// Waits for the tool to end well, once everything was read; returns what it said. What was not read is lost,
    /// and the tool fails for it.
    pub async fn finish(self) -> Result<String, PostgresError> {
        let Self { tool, running, stdout, bytes } = self;
        drop(stdout);
        let said = running.finish().await?;
        if bytes == 0 { Err(PostgresError::Empty { tool: tool.to_owned() }) } else { Ok(said) }
    }
}

/// The capture of one database, on its way.
pub struct DatabaseCapture {
    /// What the database is.
    pub database: Database,
    /// The moment of the snapshot, by the server's clock.
    pub snapshot_at: Timestamp,
    /// The dump.
    pub dump: Stream,
    /// Counts, and holds the snapshot open for as long as anyone may still need it.
    counter: AbortOnDropHandle<Result<(Vec<TableCount>, Session), PostgresError>>,
    skew: SignedDuration,
}

/// Begins the capture of one database.
pub async fn begin(tools: &Tools, name: &str) -> Result<DatabaseCapture, PostgresError> {
    #[derive(Deserialize)]
    struct Snapshot {
        snapshot: String,
    }
    let mut session = Session::open(tools, name).await?;
    session.lines(&format!("set lock_timeout = '{LOCK}'")).await?;
    let here = Timestamp::now();
    session.lines("begin isolation level repeatable read read only").await?;
    let Snapshot { snapshot } = session.row("select pg_export_snapshot() as snapshot").await?;
    let database = inspect::database(&mut session, tools.server_version).await?;
    let held = counts::hold(&mut session).await?;
    let mut command = tools.command("pg_dump");
    command.args(["--format=custom", "--no-password", COMPRESSION]);
    command.arg(format!("--lock-wait-timeout={LOCK}"));
    command.arg(format!("--snapshot={snapshot}")).arg(tools.dbname(name)?);
    let dump = Stream::start("pg_dump", command)?;
    let counter = AbortOnDropHandle::new(tokio::spawn(count(session, held)));
    let skew = database.now.duration_since(here);
    Ok(DatabaseCapture { snapshot_at: database.now, database, dump, counter, skew })
}

async fn count(mut session: Session, held: Held) -> Result<(Vec<TableCount>, Session), PostgresError> {
    let counts = counts::count(&mut session, held).await?;
    Ok((counts, session))
}

impl DatabaseCapture {
    /// Ends it, once the dump was read to its end: warnings, one a line, and the rows by table.
    pub async fn finish(self) -> Result<(String, Vec<TableCount>), PostgresError> {
        let mut warnings = self.dump.finish().await?;
        let (counts, session) = self.counter.await.map_err(|error| PostgresError::Answer {
            database: "the counting session".into(),
            why: error.to_string(),
        })??;
        session.close().await;
        if self.skew.abs() > SKEW {
            let way = if self.skew.is_negative() { "behind" } else { "ahead of" };
            warnings.push_str(&format!(
                "\nthe server's clock is {} {way} this machine's, and the recovery point is dated by it",
                display(self.skew.abs())
            ));
        }
        Ok((warnings.trim().to_owned(), counts))
    }
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
    if let Some(database) = database_of(tools.url())? {
        // Otherwise it asks `postgres`, which a role for one application may not be let into.
        command.arg(format!("--database={database}"));
    }
    if !right.passwords {
        command.arg("--no-role-passwords");
    }
    Ok((Stream::start("pg_dumpall", command)?, right.passwords))
}
