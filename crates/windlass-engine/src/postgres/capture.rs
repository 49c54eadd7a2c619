//! Captures a database: `pg_dump` streamed, its rows counted on the way.
//!
//! One session exports a snapshot and holds the tables as they are, while `pg_dump` writes what it sees in that very
//! snapshot. Owners and privileges are in the dump; whether they come back is chosen at restore. When a capture is
//! dropped half-way, `pg_dump` and the session end.

use std::collections::BTreeSet;
use std::process::Stdio;

use jiff::{SignedDuration, Timestamp};
use rustix::pipe::fcntl_setpipe_size;
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::process::{ChildStdout, Command};
use windlass_core::duration::display;
use windlass_core::point::TableCount;
use windlass_repo::format::dump::{DumpError, RowCounter, Rows, Toc, Walker};

use super::child::Running;
use super::counts::{self, Held};
use super::inspect::{self, Database};
use super::session::Session;
use super::tools::Tools;
use super::{PostgresError, database_of};

/// `gzip` level 1, which every `pg_restore` reads: level 6, the default, takes three times as long to save a tenth.
const COMPRESSION: &str = "--compress=1";

/// Bytes the pipe from `pg_dump` may hold: it goes on writing while what it wrote is counted, sealed and stored.
const PIPE: usize = 1 << 20;

/// How long a lock on a table may be waited for: a backup that waits for ever is worse than one that fails.
const LOCK: &str = "10min";

/// Leaves out the rows of what matches; names in quotes match themselves.
const EXCLUDE: &str = "--exclude-table-data=";

/// Bytes of arguments a program is given.
const ARGUMENTS: usize = 1 << 20;

/// More than this between the server's clock and this machine's is worth saying: recovery points are dated by it.
const SKEW: SignedDuration = SignedDuration::from_secs(60);

/// A tool whose standard output is the capture.
pub struct Stream {
    tool: &'static str,
    running: Running,
    stdout: ChildStdout,
    bytes: u64,
    /// Counts the rows of a dump on the way, or tells what is wrong with it.
    counter: Option<Result<RowCounter, DumpError>>,
}

impl Stream {
    fn start(tool: &'static str, mut command: Command) -> Result<Self, PostgresError> {
        let mut running = Running::start(tool, command.stdout(Stdio::piped()))?;
        let stdout = running.stdout()?;
        Ok(Self { tool, running, stdout, bytes: 0, counter: None })
    }

    /// The same stream, of a dump whose rows are counted.
    fn counted(self) -> Self {
        // Where it may not be enlarged, it holds what it holds.
        let _ = fcntl_setpipe_size(&self.stdout, PIPE);
        Self { counter: Some(Ok(RowCounter::new())), ..self }
    }

    /// Reads the next bytes; 0 at the end, be it good or not.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, PostgresError> {
        if matches!(self.counter, Some(Err(_))) {
            return Ok(0);
        }
        let read = self.stdout.read(buffer).await.map_err(|source| self.running.failed(source))?;
        if let Some(Ok(counter)) = &mut self.counter
            && let Err(error) = counter.feed(buffer.get(..read).unwrap_or_default())
        {
            self.counter = Some(Err(error));
        }
        self.bytes += read as u64;
        Ok(read)
    }

    /// Waits for the tool to end well, once everything was read; returns what it said. What was not read is lost,
    /// and the tool fails for it.
    pub async fn finish(self) -> Result<String, PostgresError> {
        Ok(self.finish_counted().await?.0)
    }

    /// Ends it, and tells the rows that were counted.
    async fn finish_counted(self) -> Result<(String, Rows), PostgresError> {
        let Self { tool, running, stdout, bytes, counter } = self;
        drop(stdout);
        let not_whole = |source| PostgresError::NotWhole { tool: tool.to_owned(), source };
        let rows = match counter {
            None => Ok(Rows::new()),
            // The tool was still writing when its dump was found to be none; that it fails for this tells nothing.
            Some(Err(error)) => return Err(not_whole(error)),
            Some(Ok(counter)) => counter.finish(),
        };
        let said = running.finish().await?;
        if bytes == 0 {
            return Err(PostgresError::Empty { tool: tool.to_owned() });
        }
        Ok((said, rows.map_err(not_whole)?))
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
    /// Holds the snapshot open for as long as anyone may still need it, and the tables.
    session: Session,
    held: Held,
    skew: SignedDuration,
}

/// Begins the capture of one database, with its owners and privileges or without.
pub async fn begin(tools: &Tools, name: &str, owners: bool) -> Result<DatabaseCapture, PostgresError> {
    begin_with(tools, name, owners, None).await
}

/// A table, by its schema and its name.
pub type TableName = (String, String);

/// The same, with the rows of some tables only: of others they may be in the dump, and are not counted.
pub async fn begin_with(
    tools: &Tools,
    name: &str,
    owners: bool,
    rows_of: Option<&BTreeSet<TableName>>,
) -> Result<DatabaseCapture, PostgresError> {
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
    let mut held = counts::hold(&mut session).await?;
    let mut command = tools.command("pg_dump");
    command.args(["--format=custom", "--no-password", COMPRESSION]);
    if !owners {
        command.args(["--no-owner", "--no-acl"]);
    }
    if let Some(rows_of) = rows_of {
        let without = held.retain(rows_of);
        // Where they are too many to be named, their rows go by.
        if without.iter().map(|table| table.len() + EXCLUDE.len()).sum::<usize>() < ARGUMENTS {
            command.args(without.iter().map(|table| format!("{EXCLUDE}{table}")));
        }
        command.arg("--no-blobs");
    }
    command.arg(format!("--lock-wait-timeout={LOCK}"));
    command.arg(format!("--snapshot={snapshot}")).arg(tools.dbname(name)?);
    let dump = Stream::start("pg_dump", command)?.counted();
    let skew = database.now.duration_since(here);
    Ok(DatabaseCapture { snapshot_at: database.now, database, dump, session, held, skew })
}

impl DatabaseCapture {
    /// Ends it, once the dump was read to its end: warnings, one a line, and the rows by table.
    pub async fn finish(mut self) -> Result<(String, Vec<TableCount>), PostgresError> {
        let (mut warnings, rows) = self.dump.finish_counted().await?;
        let counts = counts::complete(&mut self.session, self.held, &rows).await?;
        self.session.close().await;
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

/// What a dump of a database would hold.
pub async fn table_of_contents(tools: &Tools, name: &str) -> Result<Toc, PostgresError> {
    let mut command = tools.command("pg_dump");
    command.args(["--format=custom", "--no-password", "--schema-only"]).arg(format!("--lock-wait-timeout={LOCK}"));
    command.arg(tools.dbname(name)?);
    let mut dump = Stream::start("pg_dump", command)?;
    let not_whole = |source| PostgresError::NotWhole { tool: "pg_dump".to_owned(), source };
    let (mut walker, mut buffer) = (Walker::new(), vec![0; 64 << 10]);
    loop {
        let read = dump.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        walker.feed(buffer.get(..read).unwrap_or_default()).map_err(not_whole)?;
    }
    dump.finish().await?;
    let toc = walker.toc().cloned();
    walker.finish().map_err(not_whole)?;
    Ok(toc.unwrap_or_default())
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
