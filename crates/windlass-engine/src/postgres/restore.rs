//! Fills a database from a dump that arrives as a stream.
//!
//! The head of the dump is spooled - it holds definitions only - and the data are never staged:
//!
//! ```text
//! head  → pg_restore --section=pre-data      schemas, types, tables
//! dump  → pg_restore --section=data          rows, as they arrive
//! head  → pg_restore --section=post-data -j  indexes, constraints, triggers, several at once
//! ```
//!
//! A database made for the restore is dropped again if it fails; one that was there stays as the failure left it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bytes::Bytes;
use futures::stream::{Stream, StreamExt};
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::process::Command;
use windlass_core::point::DatabaseDump;
use windlass_core::restore::{DatabaseFacts, Relation};
use windlass_repo::format::dump::{Toc, Walker, select};

use super::PostgresError;
use super::capture::tail;
use super::session::Session;
use super::tools::Tools;

/// Indexes and constraints built at once.
const JOBS: &str = "--jobs=2";

/// What is restored, and how.
pub struct Restore<'a> {
    /// The client tools, at the target's server.
    pub tools: &'a Tools,
    /// The target database.
    pub database: &'a str,
    /// What is known of the source.
    pub dump: &'a DatabaseDump,
    /// Whether the database is made first.
    pub create: bool,
    /// Whether owners and privileges are set as in the dump.
    pub owners: bool,
    /// The relations wanted; empty for all.
    pub relations: &'a [Relation],
    /// A folder for the spooled head.
    pub spool: &'a Path,
    /// Hears of every piece of the dump, in bytes.
    pub moved: &'a (dyn Fn(u64) + Sync),
}

/// What was left out, in words.
pub type LeftOut = Vec<String>;

impl Restore<'_> {
    /// Restores; the stream is the opened dump from its beginning.
    pub async fn run(
        &self,
        dump: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
    ) -> Result<LeftOut, PostgresError> {
        if self.create {
            self.create_database().await?;
        }
        let result = self.fill(dump).await;
        if result.is_err() && self.create {
            // The error that counts is the one above; a database that cannot be dropped now is seen by the next plan.
            let _ = self.administer(&format!("drop database if exists {}", quote(self.database))).await;
        }
        result
    }

    async fn fill(
        &self,
        mut dump: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
    ) -> Result<LeftOut, PostgresError> {
        let mut spool = Spool::begin(self, &mut dump).await?;
        let (list, left_out) = self.list(&spool.toc).await?;
        let head = spool.path.clone();
        self.section("pre-data", &head, list.as_deref(), &[]).await?;
        self.data(&mut spool, dump, list.as_deref()).await?;
        self.section("post-data", &head, list.as_deref(), &[JOBS]).await?;
        let mut session = Session::open(self.tools, self.database).await?;
        session.lines("analyze").await?;
        session.close().await;
        Ok(left_out)
    }

    fn command(&self, section: &str, list: Option<&Path>) -> Result<Command, PostgresError> {
        let mut command = self.tools.command("pg_restore");
        command.args(["--exit-on-error", "--no-password"]).arg(format!("--section={section}"));
        command.arg(self.tools.dbname(self.database)?);
        if !self.owners {
            command.args(["--no-owner", "--no-acl"]);
        }
        if let Some(list) = list {
            command.arg(format!("--use-list={}", list.display()));
        }
        Ok(command)
    }

    async fn section(&self, name: &str, head: &Path, list: Option<&Path>, more: &[&str]) -> Result<(), PostgresError> {
        let mut command = self.command(name, list)?;
        command.args(more).arg(head);
        run(command, &format!("pg_restore --section={name}")).await
    }

    /// Gives the whole dump to `pg_restore`, the spooled beginning first.
    async fn data(
        &self,
        spool: &mut Spool,
        mut dump: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
        list: Option<&Path>,
    ) -> Result<(), PostgresError> {
        let tool = "pg_restore --section=data";
        let failed = |source| PostgresError::Start { tool: tool.into(), source };
        let mut command = self.command("data", list)?;
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let (Some(mut stdin), Some(stderr)) = (child.stdin.take(), child.stderr.take()) else {
            return Err(failed(std::io::Error::other("it has no pipes")));
        };
        let stderr = tokio::spawn(tail(stderr));
        let mut broken = None;
        let mut pieces =
            futures::stream::iter(std::mem::take(&mut spool.beginning).into_iter().map(Ok)).chain(&mut dump);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|source| PostgresError::Dump { database: self.dump.name.clone(), source })?;
            (self.moved)(piece.len() as u64);
            // pg_restore stops reading once it has what it wants, or has failed: how it ends tells which.
            if broken.is_none() {
                broken = stdin.write_all(&piece).await.err();
            }
        }
        drop(stdin);
        let status = child.wait().await.map_err(failed)?;
        let stderr = stderr.await.unwrap_or_default();
        if status.success() {
            Ok(())
        } else {
            Err(PostgresError::Tool { tool: tool.into(), status: status.to_string(), stderr })
        }
    }

    /// The list of what is wanted, where not everything is.
    async fn list(&self, toc: &Toc) -> Result<(Option<PathBuf>, LeftOut), PostgresError> {
        if self.relations.is_empty() {
            return Ok((None, Vec::new()));
        }
        let selection = select(toc, self.relations).map_err(|missing| PostgresError::Answer {
            database: self.dump.name.clone(),
            why: format!("the dump holds no {}.{}", missing.schema, missing.table.as_deref().unwrap_or("*")),
        })?;
        let path = self.spool.join("list");
        let written = tokio::fs::write(&path, selection.to_list(toc)).await;
        written.map_err(|source| PostgresError::File { path: path.clone(), source })?;
        let left_out = selection
            .left_out
            .iter()
            .map(|name| format!("foreign key {name}: the table it points to was not selected"));
        Ok((Some(path), left_out.collect()))
    }

    async fn create_database(&self) -> Result<(), PostgresError> {
        let dump = self.dump;
        let mut sql = format!(
            "create database {} template template0 encoding {} lc_collate {} lc_ctype {}",
            quote(self.database),
            literal(&dump.encoding),
            literal(&dump.collate),
            literal(&dump.ctype)
        );
        if let Some(locale) = &dump.provider_locale
            && self.tools.server_version >= 150_000
        {
            let of = if dump.locale_provider == "builtin" { "builtin_locale" } else { "icu_locale" };
            sql.push_str(&format!(" locale_provider {} {of} {}", dump.locale_provider, literal(locale)));
        }
        self.administer(&sql).await
    }

    async fn administer(&self, sql: &str) -> Result<(), PostgresError> {
        let mut session = maintenance(self.tools).await?;
        session.lines(sql).await?;
        session.close().await;
        Ok(())
    }
}

/// A session with a database that is always there.
async fn maintenance(tools: &Tools) -> Result<Session, PostgresError> {
    match Session::open(tools, "postgres").await {
        Ok(session) => Ok(session),
        Err(_) => Session::open(tools, "template1").await,
    }
}

/// The head of a dump on disk, and the pieces that were read to get it.
struct Spool {
    path: PathBuf,
    toc: Toc,
    beginning: Vec<Bytes>,
}

impl Spool {
    async fn begin(
        restore: &Restore<'_>,
        dump: &mut (impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin),
    ) -> Result<Self, PostgresError> {
        let path = restore.spool.join("head.dump");
        let failed = |source| PostgresError::File { path: path.clone(), source };
        let unreadable = |source| PostgresError::Dump { database: restore.dump.name.clone(), source };
        let mut file = BufWriter::new(tokio::fs::File::create(&path).await.map_err(failed)?);
        let mut walker = Walker::new();
        let mut beginning = Vec::new();
        while walker.head().is_none() {
            let Some(piece) = dump.next().await else {
                return Err(unreadable(std::io::Error::other("it ends within its head")));
            };
            let piece = piece.map_err(unreadable)?;
            walker.feed(&piece).map_err(|error| unreadable(std::io::Error::other(error)))?;
            file.write_all(&piece).await.map_err(failed)?;
            beginning.push(piece);
        }
        file.flush().await.map_err(failed)?;
        if let Some(head) = walker.head() {
            file.get_ref().set_len(head).await.map_err(failed)?;
        }
        let toc = walker.toc().cloned().unwrap_or_default();
        Ok(Self { path, toc, beginning })
    }
}

async fn run(mut command: Command, tool: &str) -> Result<(), PostgresError> {
    let failed = |source| PostgresError::Start { tool: tool.into(), source };
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    let stderr = match child.stderr.take() {
        Some(stderr) => tail(stderr).await,
        None => String::new(),
    };
    let status = child.wait().await.map_err(failed)?;
    if status.success() {
        Ok(())
    } else {
        Err(PostgresError::Tool { tool: tool.into(), status: status.to_string(), stderr })
    }
}

/// Looks at the target of a restore.
pub async fn look(
    tools: &Tools,
    database: &str,
    dump: &DatabaseDump,
    roles: &[String],
) -> Result<DatabaseFacts, PostgresError> {
    #[derive(serde::Deserialize)]
    struct Tables {
        n: u64,
    }
    let mut session = maintenance(tools).await?;
    let names = |rows: Vec<serde_json::Value>| -> BTreeSet<String> {
        rows.iter().filter_map(|row| row.get("name")?.as_str().map(str::to_owned)).collect()
    };
    let known = names(session.rows("select rolname as name from pg_roles").await?);
    let offered = names(session.rows("select name from pg_available_extensions").await?);
    let exists =
        session.rows(&format!("select 1 as name from pg_database where datname = {}", literal(database))).await?;
    session.close().await;
    let mut tables = 0;
    if !exists.is_empty() {
        let mut session = Session::open(tools, database).await?;
        let counted: Tables = session
            .row(
                "select count(*) as n from pg_class c join pg_namespace n on n.oid = c.relnamespace \
                 where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f') and n.nspname not in ('pg_catalog', 'information_schema') \
                 and n.nspname !~ '^pg_(toast|temp)'",
            )
            .await?;
        tables = counted.n;
        session.close().await;
    }
    Ok(DatabaseFacts {
        url: super::with_database(tools.url(), database)?,
        database: database.to_owned(),
        server_version: tools.server_version,
        exists: !exists.is_empty(),
        tables,
        missing_roles: roles.iter().filter(|role| !known.contains(*role)).cloned().collect(),
        missing_extensions: dump.extensions.keys().filter(|name| !offered.contains(*name)).cloned().collect(),
    })
}

/// A name as SQL wants it.
fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL wants it.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
