//! Puts a restored database in the place of one that is there, by names alone.
//!
//! ```text
//! fence     shop → windlass_<restore>_1_old       nobody connects to it any more; it is the undo
//!           … windlass_<restore>_1_new is filled and checked …
//! switch    windlass_<restore>_1_new → shop
//! put back  shop → windlass_<restore>_1_undone,  windlass_<restore>_1_old → shop
//! ```
//!
//! Promised: every step looks at which names there are and does what is missing, so that it can be run again after it
//! was killed anywhere; a database is known by its identifier in the server, not by its name: what somebody else made under
//! one of these names is neither moved silently nor dropped; nothing is dropped here but by [`drop_private`], which takes no
//! name that is not ours. Not promised: that logical replication goes on; slots and subscriptions stay with the old copy,
//! which refuses connections.

use std::time::{Duration, Instant};

use serde::Deserialize;
use windlass_core::id::RestoreId;
use windlass_core::point::DatabaseDump;
use windlass_core::restore::LiveDatabase;

use super::PostgresError;
use super::inspect::free_bytes_of;
use super::quote::{literal, name};
use super::restore::{Roles, look_at_server};
use super::session::Session;
use super::tools::Tools;
use crate::moment;

/// What private names begin with.
const PRIVATE: &str = "windlass_";

/// How long sessions may take to end once they were told to.
const PATIENCE: Duration = Duration::from_secs(20);

/// The states of a name that is in use: by sessions, or by prepared transactions.
const IN_USE: &str = "55006";

/// The names one database goes by during a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Its own.
    pub live: String,
    /// Of what was there.
    pub old: String,
    /// Of what is being restored.
    pub new: String,
    /// Of what was restored, once what was there is back.
    pub undone: String,
}

impl Names {
    /// The names for the database of this number in a restore.
    pub fn of(restore: RestoreId, number: usize, live: &str) -> Self {
        let private = |what| format!("{PRIVATE}{}_{number}_{what}", restore.to_string().to_lowercase());
        Self { live: live.to_owned(), old: private("old"), new: private("new"), undone: private("undone") }
    }
}

/// Whether a database's name is one a restore gives while it is at work or until its undo ends.
pub fn is_private(database: &str) -> bool {
    let rest = database.strip_prefix(PRIVATE).unwrap_or_default();
    let mut parts = rest.splitn(3, '_');
    let id = parts.next().is_some_and(|id| id.to_uppercase().parse::<RestoreId>().is_ok());
    let number = parts.next().is_some_and(|number| number.parse::<usize>().is_ok());
    id && number && parts.next().is_some_and(|what| ["old", "new", "undone"].contains(&what))
}

/// A database that is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// Its names.
    pub names: Names,
    /// The identifier of what was there before.
    pub oid: Option<u32>,
    /// Whether nobody was to connect to that.
    pub closed: bool,
}

/// A database of the server.
#[derive(Clone, Debug, Deserialize)]
struct Found {
    name: String,
    oid: u32,
    /// Whether it is what an interrupted `drop database` left.
    invalid: bool,
}

async fn find(tools: &Tools, wanted: &[&str]) -> Result<Vec<Found>, PostgresError> {
    let list: Vec<String> = wanted.iter().map(|name| literal(name)).collect();
    let mut session = Session::beside(tools, wanted).await?;
    let query = format!(
        "select datname as name, oid::bigint as oid, datconnlimit = -2 as invalid from pg_database where datname in ({})",
        list.join(", ")
    );
    let found = session.all(&query).await?;
    session.close().await;
    Ok(found)
}

async fn administer(tools: &Tools, names: &Names, sql: &str) -> Result<(), PostgresError> {
    Session::administer(tools, &[&names.live], sql).await
}

/// What tells a server from all others, where it says so: the system identifier of its data.
pub async fn server_identity(tools: &Tools) -> Result<Option<String>, PostgresError> {
    let mut session = Session::open_any(tools).await?;
    identity(&mut session).await
}

async fn identity(session: &mut Session) -> Result<Option<String>, PostgresError> {
    #[derive(Deserialize)]
    struct Row {
        id: String,
    }
    match session.row::<Row>("select system_identifier::text as id from pg_control_system()").await {
        Ok(row) => Ok(Some(row.id)),
        // Some providers keep it to themselves.
        Err(PostgresError::Statement { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The identifier of a database, where there is one of that name.
pub async fn oid_of(tools: &Tools, database: &str) -> Result<Option<u32>, PostgresError> {
    Ok(find(tools, &[database]).await?.first().map(|found| found.oid))
}

/// Looks at a database that is to be replaced. Nothing is asked of the database itself: it may be broken.
pub async fn look_live(
    tools: &Tools,
    database: &str,
    dump: &DatabaseDump,
    roles: &Roles,
) -> Result<LiveDatabase, PostgresError> {
    #[derive(Deserialize)]
    struct Row {
        is_super: bool,
        may_create: bool,
        me: String,
        oid: Option<u32>,
        owner: Option<String>,
        is_owner: bool,
        owns_like_dump: bool,
        is_template: bool,
        is_invalid: bool,
        is_closed: bool,
        prepared: u64,
        slots: Vec<String>,
        subscriptions: Vec<String>,
        bytes: u64,
        wal_bytes: u64,
    }
    let facts = look_at_server(tools, database, dump, roles).await?;
    let (wanted, owner) = (literal(database), literal(&dump.owner));
    // Since 16, who is a member need not be let become the role.
    let become_it = if tools.server_version >= 160_000 { "SET" } else { "MEMBER" };
    let mut session = Session::beside(tools, &[database]).await?;
    let row: Row = session
        .row(&format!(
            "select r.rolsuper as is_super, r.rolcreatedb as may_create, r.rolname as me, d.oid::bigint as oid, \
             o.rolname as owner, coalesce(pg_has_role(r.oid, d.datdba, 'USAGE'), false) as is_owner, \
             coalesce((select pg_has_role(r.oid, oid, '{become_it}') from pg_roles where rolname = {owner}), true) as owns_like_dump, \
             coalesce(d.datistemplate, false) as is_template, coalesce(d.datconnlimit = -2, false) as is_invalid, \
             coalesce(not d.datallowconn, false) as is_closed, \
             (select count(*) from pg_prepared_xacts where database = {wanted}) as prepared, \
             coalesce((select json_agg(slot_name order by slot_name) from pg_replication_slots where database = {wanted}), '[]') as slots, \
             coalesce((select json_agg(subname order by subname) from pg_subscription s where s.subdbid = d.oid), '[]') as subscriptions, \
             coalesce(pg_database_size(d.oid), 0) as bytes, \
             pg_size_bytes(current_setting('max_wal_size')) as wal_bytes \
             from pg_roles r left join pg_database d on d.datname = {wanted} left join pg_roles o on o.oid = d.datdba \
             where r.rolname = current_user"
        ))
        .await?;
    let server = identity(&mut session).await?;
    session.close().await;
    let mut obstacles = Vec::new();
    let me = &row.me;
    if !row.is_super && !row.may_create {
        obstacles.push(format!(
            "the role {me} may not make or rename databases: `alter role {me} createdb` lets it, where the server's provider does"
        ));
    }
    if let (false, false, Some(owner)) = (row.is_super, row.is_owner, &row.owner) {
        obstacles.push(format!(
            "it belongs to {owner}, and the role {me} may not rename it: `grant {owner} to {me}` lets it"
        ));
    }
    if !row.is_super && !row.owns_like_dump && facts.missing_roles.is_empty() {
        obstacles.push(format!("the role {me} may not give a database to {}", dump.owner));
    }
    if row.is_template {
        obstacles.push("it is a template".into());
    }
    if row.is_invalid {
        let drop = format!("drop database {}", name(database));
        obstacles.push(format!("it is what an interrupted `drop database` left: `{drop}`, and it is made anew"));
    }
    if row.prepared > 0 {
        obstacles.push(format!(
            "it has {} prepared transactions: `commit prepared` or `rollback prepared` each (pg_prepared_xacts lists them)",
            row.prepared
        ));
    }
    let mut notes = Vec::new();
    if !row.slots.is_empty() {
        notes.push(format!(
            "the logical replication slots {} stay with the old copy: who reads them has to begin anew",
            row.slots.join(", ")
        ));
    }
    if !row.subscriptions.is_empty() {
        notes.push(format!(
            "the subscriptions {} are not restored: they stay with the old copy, which cannot be removed before they are dropped there",
            row.subscriptions.join(", ")
        ));
    }
    Ok(LiveDatabase {
        facts,
        oid: row.oid,
        server,
        closed: row.is_closed,
        obstacles,
        notes,
        free_bytes: free_bytes_of(tools).await,
        bytes: row.bytes,
        wal_bytes: row.wal_bytes,
    })
}

/// Sets the database aside: from here on nobody connects to it. Does nothing where it was done, or nothing was there.
pub async fn fence(tools: &Tools, replaced: &Replaced) -> Result<(), PostgresError> {
    let (Replaced { names, .. }, Some(oid)) = (replaced, replaced.oid) else { return Ok(()) };
    let found = find(tools, &[&names.live, &names.old]).await?;
    match found.iter().find(|database| database.oid == oid) {
        Some(database) if database.name == names.old => Ok(()),
        Some(_) if found.len() > 1 => Err(changed(names, &format!("another database is called {}", names.old))),
        Some(_) => set_aside(tools, replaced, &names.live, &names.old).await,
        None if found.is_empty() => Err(changed(names, "it is not there any more")),
        None => Err(changed(names, "another database has its name now")),
    }
}

/// Gives the restored database the name. Does nothing where it was done.
pub async fn switch(tools: &Tools, names: &Names, restored: Option<u32>) -> Result<(), PostgresError> {
    let found = find(tools, &[&names.live, &names.new]).await?;
    let oid_of = |wanted: &str| found.iter().find(|database| database.name == wanted).map(|database| database.oid);
    match (oid_of(&names.new), oid_of(&names.live)) {
        (Some(_), None) => rename(tools, names, &names.new, &names.live).await,
        (None, Some(live)) if Some(live) == restored => Ok(()),
        (_, Some(_)) => Err(changed(names, "somebody made a database of that name meanwhile")),
        (None, None) => Err(changed(names, "the restored database is not there any more")),
    }
}

/// What came of putting a database back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutBack {
    /// What was there is there again, or nothing was.
    Done,
    /// As well, and a database that somebody made meanwhile under its name is kept as the one that is undone.
    BesideAStranger,
    /// What was there is gone: what has its name, if anything, stays.
    Gone,
}

/// Puts back what was there, whatever has been done so far. What has the name meanwhile is kept under another.
pub async fn put_back(tools: &Tools, replaced: &Replaced, restored: Option<u32>) -> Result<PutBack, PostgresError> {
    let names = &replaced.names;
    let found = find(tools, &[&names.live, &names.old, &names.undone]).await?;
    let oid_of = |wanted: &str| found.iter().find(|database| database.name == wanted).map(|database| database.oid);
    let (live, old, undone) = (oid_of(&names.live), oid_of(&names.old), oid_of(&names.undone));
    if live.is_some() && live == replaced.oid {
        open(tools, replaced).await?;
        return told(tools, names, undone, restored).await;
    }
    let is_ours = old.is_some() && old == replaced.oid;
    if is_ours && found.iter().any(|database| database.name == names.old && database.invalid) {
        // Its deletion had begun: nobody can use it any more.
        super::restore::create::drop(tools, &names.old).await?;
        return Ok(PutBack::Gone);
    }
    if replaced.oid.is_some() && !is_ours {
        return Ok(PutBack::Gone);
    }
    // Where nothing was there, only what was restored goes.
    if live.is_some() && (is_ours || live == restored) {
        if undone.is_some() {
            return Err(changed(names, "somebody made a database of that name after it was put back"));
        }
        set_aside(tools, replaced, &names.live, &names.undone).await?;
    }
    if is_ours {
        moment::pass();
        rename(tools, names, &names.old, &names.live).await?;
        moment::pass();
        open(tools, replaced).await?;
    }
    told(tools, names, if is_ours { live.or(undone) } else { undone }, restored).await
}

/// Tells what came of it. A database of somebody else is let be looked into under its new name.
async fn told(
    tools: &Tools,
    names: &Names,
    undone: Option<u32>,
    restored: Option<u32>,
) -> Result<PutBack, PostgresError> {
    if undone.is_none() || undone == restored {
        return Ok(PutBack::Done);
    }
    let_in(tools, names, &names.undone).await?;
    Ok(PutBack::BesideAStranger)
}

/// Lets sessions into a database that had been set aside.
pub async fn let_in(tools: &Tools, names: &Names, database: &str) -> Result<(), PostgresError> {
    administer(tools, names, &format!("alter database {} allow_connections true", name(database))).await
}

/// Drops a database that a restore made or set aside, if it is the one of this identifier. Does nothing where it is gone;
/// whether another one has its name.
pub async fn drop_private(tools: &Tools, database: &str, oid: Option<u32>) -> Result<bool, PostgresError> {
    if !is_private(database) {
        return Err(PostgresError::Answer {
            database: database.to_owned(),
            why: "it is not one of ours to drop".into(),
        });
    }
    match oid_of(tools, database).await? {
        None => Ok(false),
        there if there != oid => Ok(true),
        _ => super::restore::create::drop(tools, database).await.map(|()| false),
    }
}

/// The prepared transactions of a database, which keep it from being renamed.
pub async fn prepared(tools: &Tools, database: &str) -> Result<u64, PostgresError> {
    let mut session = Session::beside(tools, &[database]).await?;
    let query = format!("select count(*) as n from pg_prepared_xacts where database = {}", literal(database));
    let n = session.number(&query).await?;
    session.close().await;
    Ok(u64::from(n))
}

/// Whether a database is what an interrupted `drop database` left: nobody can use it any more.
pub async fn is_invalid(tools: &Tools, database: &str) -> Result<bool, PostgresError> {
    Ok(find(tools, &[database]).await?.iter().any(|found| found.invalid))
}

/// Ends what sessions called like these are still at, and waits for them: a statement goes on in the server when who gave it
/// was killed.
pub async fn end_what_was_left(tools: &Tools) -> Result<(), PostgresError> {
    #[derive(Deserialize)]
    struct Row {
        n: u64,
    }
    let end = format!(
        "select count(pg_terminate_backend(pid)) as n from pg_stat_activity \
         where application_name = {} and pid <> pg_backend_pid() and usesysid = (select oid from pg_roles where rolname = current_user)",
        literal(tools.name())
    );
    let began = Instant::now();
    let mut session = Session::open_any(tools).await?;
    while session.row::<Row>(&end).await?.n > 0 && began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    session.close().await;
    Ok(())
}

/// Drops a database that is being filled, which nobody else knows.
pub async fn drop_unfinished(tools: &Tools, names: &Names) -> Result<(), PostgresError> {
    super::restore::create::drop(tools, &names.new).await
}

async fn open(tools: &Tools, replaced: &Replaced) -> Result<(), PostgresError> {
    let names = &replaced.names;
    if replaced.closed {
        return Ok(());
    }
    let_in(tools, names, &names.live).await
}

async fn set_aside(tools: &Tools, replaced: &Replaced, from: &str, to: &str) -> Result<(), PostgresError> {
    let names = &replaced.names;
    administer(tools, names, &format!("alter database {} allow_connections false", name(from))).await?;
    moment::pass();
    let done = rename(tools, names, from, to).await;
    if done.is_err() && from == names.live {
        // Nothing has been done to it: whoever used it may go on. Where this fails too, the first failure tells why.
        let _ = open(tools, replaced).await;
    }
    done
}

/// Renames a database, once every session with it has ended.
async fn rename(tools: &Tools, names: &Names, from: &str, to: &str) -> Result<(), PostgresError> {
    // Those that we may not end are waited for.
    let end = format!(
        "select count(pg_terminate_backend(a.pid)) from pg_stat_activity a join pg_roles r on r.oid = a.usesysid, \
                (select rolsuper as is_super from pg_roles where rolname = current_user) me \
         where a.datname = {} and a.pid <> pg_backend_pid() \
           and (me.is_super or not r.rolsuper and (pg_has_role(a.usesysid, 'USAGE') or pg_has_role('pg_signal_backend', 'USAGE')))",
        literal(from)
    );
    let rename = format!("alter database {} rename to {}", name(from), name(to));
    let began = Instant::now();
    loop {
        administer(tools, names, &end).await?;
        match administer(tools, names, &rename).await {
            Err(PostgresError::Statement { sqlstate: Some(state), .. })
                if state == IN_USE && began.elapsed() < PATIENCE =>
            {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            done => return done,
        }
    }
}

fn changed(names: &Names, why: &str) -> PostgresError {
    PostgresError::Moved { database: names.live.clone(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::{Names, is_private};

    #[test]
    fn only_names_of_ours_are_private() {
        let names = Names::of("01KAEXAMP0E0000000000000ZZ".parse().unwrap(), 3, "shop");
        assert_eq!(names.old, "windlass_01kaexamp0e0000000000000zz_3_old");
        assert!(is_private(&names.old) && is_private(&names.new) && is_private(&names.undone));
        for other in ["shop", "windlass", "windlass_old", "windlass_01kaexamp0e0000000000000zz_old", "windlass_x_1_old"]
        {
            assert!(!is_private(other), "{other}");
        }
    }
}
