//! Fills a database from a dump that arrives as a stream.
//!
//! The head of the dump is spooled - it holds definitions only - and the data are never staged:
//!
//! ```text
//! head  → pg_restore --section=pre-data      schemas, types, tables
//! dump  → pg_restore --section=data          rows and large objects, as they arrive, in two lanes (`lanes.rs`)
//! head  → pg_restore --section=post-data -j  indexes of a lane's tables as soon as its rows are in; then the rest,
//!                                            constraints, triggers, views, several at once
//! head  → what the database itself was set to, where it was made for this
//! ```
//!
//! Promised: a database made for the restore is dropped again if it fails; one that was there stays as the failure
//! left it, and the error says so. Subscriptions are left out, for a copy that subscribes acts on its source.
//! Not promised: that a database made for it goes when the future is dropped or the process killed half-way; its comment
//! then says what it is, and the next plan does.

pub(super) mod create;
mod extensions;
mod lanes;
mod look;
mod roles;
mod settings;
mod spool;
mod target;
mod verdict;
mod work;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, Stream, StreamExt};
use rustix::pipe::fcntl_setpipe_size;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use windlass_core::point::DatabaseDump;
use windlass_core::restore::Relation;
use windlass_repo::format::dump::{Toc, select};

pub use self::look::{Roles, look, look_ahead, look_at_server};
use self::spool::Spool;
use self::target::Target;
use self::work::Work;
use super::PostgresError;
use super::child::Running;
use super::session::Session;
use super::tools::Tools;

/// Indexes and constraints built at once.
const JOBS: usize = 2;

/// Bytes the pipe to `pg_restore` may hold: it goes on reading while what follows is opened.
const PIPE: usize = 256 << 10;

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
    /// Opens the dump once more from its beginning, for a second lane of rows; where it cannot be, there is one lane.
    pub again: Option<&'a (dyn Fn() -> BoxFuture<'a, std::io::Result<Pieces>> + Sync)>,
}

/// A dump as it arrives.
pub type Pieces = BoxStream<'static, std::io::Result<Bytes>>;

/// What was left out, in words.
pub type LeftOut = Vec<String>;

impl Restore<'_> {
    /// Restores; the stream is the opened dump from its beginning.
    pub async fn run(
        &self,
        mut dump: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
    ) -> Result<LeftOut, PostgresError> {
        let spool = Spool::begin(self.spool, &self.dump.name, &mut dump).await?;
        let tools = self.tools.at_least(major(&spool.toc.dump_version)).await?;
        let mut left_out = Vec::new();
        let ids = self.wanted(&tools, &spool, &mut left_out).await?;
        if self.create {
            let owner = self.owners.then_some(self.dump.owner.as_str());
            left_out.extend(create::database(self.tools, self.database, self.dump, owner).await?);
        }
        match self.fill(&tools, spool, dump, ids.as_ref()).await {
            Ok((more, session)) => {
                if self.create {
                    create::unmark(self.tools, self.database, session).await;
                }
                left_out.extend(more);
                Ok(left_out)
            }
            Err(error) => Err(self.clean_up(error).await),
        }
    }

    /// Fills the database; what was left out, and a session with it where one is still open.
    async fn fill(
        &self,
        tools: &Tools,
        mut spool: Spool,
        dump: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
        ids: Option<&BTreeSet<i64>>,
    ) -> Result<(LeftOut, Option<Session>), PostgresError> {
        let mut left_out = Vec::new();
        let subscriptions = spool.toc.entries.iter().filter(|entry| entry.kind == "SUBSCRIPTION");
        left_out.extend(subscriptions.map(|entry| format!("subscription {}: a copy does not subscribe", entry.tag)));
        let target = Target::look(self.tools, self.database).await?;
        let kept = self.without_foreign(&spool.toc, ids).await?;
        let ids = kept.as_ref().or(ids);
        let work = Work::new(self, tools, self.options(tools, &target), &target);
        let list = match ids {
            Some(ids) => Some(spool.list("list", ids.clone()).await?),
            None => None,
        };
        work.section("pre-data", list.as_deref(), &spool.path, 1).await?;
        let beginning = std::mem::take(&mut spool.beginning);
        let dump = futures::stream::iter(beginning.into_iter().map(Ok)).chain(dump);
        let lanes = lanes::deal(&spool.toc, ids, &self.dump.tables);
        let (rest, is_left) = match (self.again, lanes.as_slice()) {
            (Some(again), [first, second]) if tools.are_here() => {
                let unreadable = |source| PostgresError::Dump { database: self.dump.name.clone(), source };
                let dump_again = again().await.map_err(unreadable)?;
                let (one, two) = futures::try_join!(
                    work.lane("lane-1", &spool, first, ids, dump, self.moved),
                    work.lane("lane-2", &spool, second, ids, dump_again, &|_| ()),
                )?;
                let all = || spool.toc.entries.iter().map(|entry| entry.id).collect();
                let mut rest = ids.cloned().unwrap_or_else(all);
                rest.retain(|id| !one.contains(id) && !two.contains(id));
                let is_left = spool.toc.entries.iter().any(|entry| entry.behind_data && rest.contains(&entry.id));
                (Some(spool.list("rest", rest).await?), is_left)
            }
            _ => {
                self.data(tools, work.command("data", list.as_deref())?, dump, self.moved).await?;
                (list, true)
            }
        };
        if is_left {
            work.section("post-data", rest.as_deref(), &spool.path, JOBS).await?;
        }
        let mut session = Session::open(self.tools, self.database).await?;
        target.finish(&mut session).await?;
        let session = match target::gather(self.tools, self.database, session).await {
            Ok(session) => Some(session),
            Err(error) => {
                left_out.push(format!("statistics, which autovacuum will gather: {error}"));
                None
            }
        };
        if self.create && self.relations.is_empty() {
            match settings::apply(self, tools, &spool).await {
                Ok(more) => left_out.extend(more),
                // The data are in: what the database itself was set to can be told, and set by hand.
                Err(error) => left_out.push(format!("the settings of the database itself: {error}")),
            }
        }
        Ok((left_out, session))
    }

    /// The entries without those that are another's business; `None` where there are none of those.
    async fn without_foreign(
        &self,
        toc: &Toc,
        ids: Option<&BTreeSet<i64>>,
    ) -> Result<Option<BTreeSet<i64>>, PostgresError> {
        // Elsewhere `pg_restore` reads no list.
        if !self.tools.are_here() {
            return Ok(None);
        }
        let mut session = Session::open(self.tools, self.database).await?;
        let foreign = extensions::foreign(&mut session, toc).await?;
        session.close().await;
        if foreign.is_empty() {
            return Ok(None);
        }
        let mut kept = ids.cloned().unwrap_or_else(|| toc.entries.iter().map(|entry| entry.id).collect());
        kept.retain(|id| !foreign.contains(id));
        Ok(Some(kept))
    }

    /// Options that hold for every section.
    fn options(&self, tools: &Tools, target: &Target) -> Vec<&'static str> {
        let mut options = vec!["--no-password", "--no-subscriptions"];
        if !verdict::is_ahead(tools) {
            options.push("--exit-on-error");
        }
        if !self.owners {
            options.extend(["--no-owner", "--no-acl"]);
        }
        if !target.tablespaces {
            options.push("--no-tablespaces");
        }
        options
    }

    /// Gives the whole dump to `pg_restore`.
    async fn data(
        &self,
        tools: &Tools,
        mut command: Command,
        mut pieces: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
        moved: &(dyn Fn(u64) + Sync),
    ) -> Result<(), PostgresError> {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut running = Running::start("pg_restore --section=data", command)?;
        let mut stdin = running.stdin()?;
        // Where it may not be enlarged, it holds what it holds.
        let _ = fcntl_setpipe_size(&stdin, PIPE);
        let mut next = async || -> Result<Option<Bytes>, PostgresError> {
            let unreadable = |source| PostgresError::Dump { database: self.dump.name.clone(), source };
            let piece = pieces.next().await.transpose().map_err(unreadable)?;
            moved(piece.as_ref().map_or(0, |piece| piece.len() as u64));
            Ok(piece)
        };
        while let Some(piece) = next().await? {
            // It stops reading once it has what it wants, or has failed: how it ends tells which.
            if stdin.write_all(&piece).await.is_err() {
                break;
            }
        }
        drop(stdin);
        verdict::judge(tools, running.finish().await)?;
        // Whoever gives the dump checks it to its end.
        while next().await?.is_some() {}
        Ok(())
    }

    /// The entries that are wanted, where not all are.
    async fn wanted(
        &self,
        tools: &Tools,
        spool: &Spool,
        left_out: &mut LeftOut,
    ) -> Result<Option<BTreeSet<i64>>, PostgresError> {
        let all = self.relations.is_empty();
        if !tools.are_here() {
            let why = "single tables cannot be restored through `via`: restore all, into another database";
            return if all { Ok(None) } else { Err(self.wrong(why.into())) };
        }
        let mut ids = if all {
            spool.toc.entries.iter().map(|entry| entry.id).collect()
        } else {
            self.selected(&spool.toc, left_out)?
        };
        let mut missing = roles::missing(tools, &spool.toc, self.owners).await?;
        missing.retain(|id, _| ids.contains(id));
        if all && missing.is_empty() {
            return Ok(None);
        }
        if !missing.is_empty() && !tools.are_for_scratch() {
            let roles: BTreeSet<String> = missing.into_values().flatten().collect();
            return Err(PostgresError::Roles { database: self.database.to_owned(), roles: sentence(&roles) });
        }
        for entry in &spool.toc.entries {
            if let Some(roles) = missing.get(&entry.id) {
                ids.remove(&entry.id);
                // The tag of a user mapping begins with what it is.
                let tag = entry.tag.strip_prefix(&format!("{} ", entry.kind)).unwrap_or(&entry.tag);
                left_out.push(format!("{} {tag}: there is no role {}", entry.kind, sentence(roles)));
            }
        }
        Ok(Some(ids))
    }

    /// The entries the wanted relations need.
    fn selected(&self, toc: &Toc, left_out: &mut LeftOut) -> Result<BTreeSet<i64>, PostgresError> {
        let selection = select(toc, self.relations).map_err(|missing| {
            self.wrong(format!("the dump holds no {}.{}", missing.schema, missing.table.as_deref().unwrap_or("*")))
        })?;
        let keys = selection.left_out.iter();
        left_out.extend(keys.map(|name| format!("foreign key {name}: the table it points to was not selected")));
        Ok(selection.ids)
    }

    fn wrong(&self, why: String) -> PostgresError {
        PostgresError::Answer { database: self.dump.name.clone(), why }
    }

    /// Removes what a failed restore made; what cannot be removed is told with the error.
    async fn clean_up(&self, error: PostgresError) -> PostgresError {
        let remains = if self.create {
            match create::drop(self.tools, self.database).await {
                Ok(()) => return error,
                Err(why) => format!("the database made for it could not be dropped again ({why})"),
            }
        } else {
            "it was there before, and now holds a part of the dump".to_owned()
        };
        PostgresError::LeftBehind { database: self.database.to_owned(), remains, source: Box::new(error) }
    }
}

fn sentence(roles: &BTreeSet<String>) -> String {
    roles.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// The major version in a version as text: `15` of `15.18 (Debian 15.18-0+deb12u1)`.
fn major(version: &str) -> u32 {
    version.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
