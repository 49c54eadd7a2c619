//! A restore under way: `pg_restore` for a section, and for the rows and indexes of a lane.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::stream::Stream;
use tokio::process::Command;

use super::spool::Spool;
use super::target::Target;
use super::{JOBS, PostgresError, Restore, lanes, verdict};
use crate::postgres::child::Running;
use crate::postgres::tools::Tools;

/// A restore under way.
pub(super) struct Work<'w, 'a> {
    restore: &'w Restore<'a>,
    tools: &'w Tools,
    options: Vec<&'static str>,
    target: &'w Target,
    /// Lanes that have come to their end.
    ended: AtomicUsize,
}

impl<'w, 'a> Work<'w, 'a> {
    pub(super) fn new(
        restore: &'w Restore<'a>,
        tools: &'w Tools,
        options: Vec<&'static str>,
        target: &'w Target,
    ) -> Self {
        Self { restore, tools, options, target, ended: AtomicUsize::new(0) }
    }

    /// `pg_restore` for a section, or for what a list names of it.
    pub(super) fn command(&self, section: &str, list: Option<&Path>) -> Result<Command, PostgresError> {
        let mut command = self.tools.command("pg_restore");
        command.args(&self.options).arg(format!("--section={section}")).arg(self.tools.dbname(self.restore.database)?);
        if let Some(list) = list {
            command.arg(format!("--use-list={}", list.display()));
        }
        if let Some(settings) = &self.target.settings {
            command.env("PGOPTIONS", settings);
        }
        Ok(command)
    }

    /// Restores what stands in the head of the dump. Tools that are elsewhere get it on standard input, and then one job.
    pub(super) async fn section(
        &self,
        section: &str,
        list: Option<&Path>,
        head: &Path,
        jobs: usize,
    ) -> Result<(), PostgresError> {
        let mut command = self.command(section, list)?;
        if self.tools.are_here() {
            if jobs > 1 {
                command.arg(format!("--jobs={jobs}"));
            }
            command.arg(head);
        } else {
            let unreadable = |source| PostgresError::File { path: head.to_owned(), source };
            command.stdin(std::fs::File::open(head).map_err(unreadable)?);
        }
        let running = Running::start(&format!("pg_restore --section={section}"), command.stdout(Stdio::null()))?;
        verdict::judge(self.tools, running.finish().await)
    }

    /// Restores the rows of one lane, and then the indexes that need no others; tells those.
    pub(super) async fn lane(
        &self,
        name: &str,
        spool: &Spool,
        ids: &BTreeSet<i64>,
        wanted: Option<&BTreeSet<i64>>,
        dump: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
        moved: &(dyn Fn(u64) + Sync),
    ) -> Result<BTreeSet<i64>, PostgresError> {
        let list = spool.list(name, ids.clone()).await?;
        self.restore.data(self.tools, self.command("data", Some(&list))?, dump, moved).await?;
        let indexes = lanes::indexes(&spool.toc, wanted, ids);
        let mut left = lanes::parts(&spool.toc, &indexes, &self.restore.dump.tables);
        left.reverse();
        while let Some(mut part) = left.pop() {
            // A lane that is alone builds as many at once as there would be lanes.
            let is_alone = self.ended.load(Ordering::Relaxed) > 0;
            if is_alone {
                part.extend(left.drain(..).flatten());
            }
            let list = spool.list(&format!("{name}-indexes"), part).await?;
            self.section("post-data", Some(&list), &spool.path, if is_alone { JOBS } else { 1 }).await?;
        }
        self.ended.fetch_add(1, Ordering::Relaxed);
        Ok(indexes)
    }
}
