//! What a restore sets for its own sessions at the target's server, and what it owes for it at the end.
//!
//! Nobody is told that something was restored before all of it was, so no statement on the way has to wait for the disk:
//! sessions commit without. At the end one commit that does wait takes everything before it to the disk.

use serde::Deserialize;

use super::PostgresError;
use crate::postgres::session::Session;
use crate::postgres::tools::Tools;

/// Tables of which statistics are gathered by one statement.
const GATHERED_AT_ONCE: usize = 500;

/// Commits that do not wait for the disk.
const UNHURRIED: &str = "-c synchronous_commit=off";

/// Has the system begin to write what a session wrote after this many pages, the most there may be: else all of it waits in
/// memory, and whatever next makes it durable stands still for it.
const FLUSHED: &str = "-c backend_flush_after=256";

/// What may be set, and what there is. Whether a message may be put into the log decides whether commits may be left
/// unfinished: it is what finishes them, and the one thing that writes and changes nothing. Memory for building indexes,
/// in kB, is raised where the server may have more for it than it is set to: as much as its shared buffers for the two
/// sessions that build at once, and at most 1 GiB each.
const QUERY: &str = "\
    select (select count(*) from pg_tablespace where spcname not in ('pg_default', 'pg_global')) as tablespaces, \
           exists (select from pg_proc where proname = 'pg_logical_emit_message' and pronamespace = 'pg_catalog'::regnamespace \
                   and proargtypes[2] = 'text'::regtype and has_function_privilege(oid, 'execute')) as may_finish, \
           coalesce((select setting = '0' from pg_settings where name = 'backend_flush_after'), false) as may_flush, \
           case when b.mine < b.may then b.may else 0 end as memory \
    from (select pg_size_bytes(current_setting('maintenance_work_mem')) / 1024 as mine, \
          least(pg_size_bytes(current_setting('shared_buffers')) / 2 / 1024, 1048576) as may) b";

/// What stays behind: nothing but that everything before it is on disk.
const FINISH: &str = "select pg_logical_emit_message(true, 'windlass', 'restored')";

/// Whatever the role or the database is set to, this commit waits.
const WAIT: &str =
    "select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'";

/// Tables and materialized views, largest first; partitions come with what they are partitions of. The server's own
/// catalogs brought statistics along, and are looked after by autovacuum.
const TABLES: &str = "\
    select format('%I.%I', n.nspname, c.relname) as quoted, pg_relation_size(c.oid) as bytes \
    from pg_class c join pg_namespace n on n.oid = c.relnamespace \
    where c.relkind in ('r', 'm', 'p') and not c.relispartition and n.nspname !~ '^pg_(toast|temp)' \
      and n.nspname not in ('pg_catalog', 'information_schema') order by 2 desc, 1";

/// What is known of the target's server.
pub(super) struct Target {
    /// Whether it has tablespaces of its own.
    pub(super) tablespaces: bool,
    /// `PGOPTIONS` for the sessions of `pg_restore`.
    pub(super) settings: Option<String>,
    unfinished: bool,
}

impl Target {
    pub(super) async fn look(tools: &Tools, database: &str) -> Result<Self, PostgresError> {
        #[derive(Deserialize)]
        struct Found {
            tablespaces: u32,
            may_finish: bool,
            may_flush: bool,
            memory: u32,
        }
        // Tools that are elsewhere are not reached by our environment, and a pooler may refuse settings.
        let mut may_set = tools.are_here();
        let mut session = match Session::open_with(tools, database, may_set.then_some(UNHURRIED)).await {
            Err(PostgresError::Connect { .. }) if may_set => {
                may_set = false;
                Session::open(tools, database).await?
            }
            opened => opened?,
        };
        let Found { tablespaces, may_finish, may_flush, memory } = session.row(QUERY).await?;
        session.close().await;
        let mut settings = Vec::new();
        if may_finish {
            settings.push(UNHURRIED.to_owned());
        }
        // What goes into a server that is thrown away need not come to the disk.
        if may_flush && !tools.are_for_scratch() {
            settings.push(FLUSHED.to_owned());
        }
        if memory > 0 {
            settings.push(format!("-c maintenance_work_mem={memory}"));
        }
        Ok(Self {
            tablespaces: tablespaces > 0,
            settings: (may_set && !settings.is_empty()).then(|| settings.join(" ")),
            unfinished: may_set && may_finish,
        })
    }

    /// Takes everything that was committed to the disk.
    pub(super) async fn finish(&self, session: &mut Session) -> Result<(), PostgresError> {
        if self.unfinished {
            session.lines(WAIT).await?;
            session.lines(FINISH).await?;
        }
        Ok(())
    }
}

/// Gathers statistics in two sessions at once, the one at hand, which it gives back, and another.
pub(super) async fn gather(tools: &Tools, database: &str, mut session: Session) -> Result<Session, PostgresError> {
    #[derive(Deserialize)]
    struct Table {
        quoted: String,
        bytes: u64,
    }
    let tables: Vec<Table> = session.all(TABLES).await?;
    let (mut here, mut there) = ((0, Vec::new()), (0, Vec::new()));
    for Table { quoted, bytes } in tables {
        let less: &mut (u64, Vec<String>) = if here.0 <= there.0 { &mut here } else { &mut there };
        less.0 = less.0.saturating_add(bytes.max(1));
        less.1.push(quoted);
    }
    let beside = async {
        // Nothing to do is not worth a session.
        if !there.1.is_empty() {
            analyze(Session::open(tools, database).await?, &there.1).await?.close().await;
        }
        Ok(())
    };
    let (session, ()) = futures::try_join!(analyze(session, &here.1), beside)?;
    Ok(session)
}

async fn analyze(mut session: Session, tables: &[String]) -> Result<Session, PostgresError> {
    for some in tables.chunks(GATHERED_AT_ONCE) {
        session.lines(&format!("analyze {}", some.join(", "))).await?;
    }
    Ok(session)
}
