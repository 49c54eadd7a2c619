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
//! was killed anywhere; a database is known by its identifier in the server, not by its name; nothing is dropped here but by
//! [`drop_private`], which takes no name that is not ours. Not promised: that logical replication goes on; slots stay with
//! the old copy, which refuses connections.

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

/// A database of the server.
#[derive(Clone, Debug, Deserialize)]
struct Found {
    name: String,
    oid: u32,
}

async fn find(tools: &Tools, wanted: &[&str]) -> Result<Vec<Found>, PostgresError> {
    let list: Vec<String> = wanted.iter().map(|name| literal(name)).collect();
    let mut session = beside(tools, wanted).await?;
    let query =
        format!("select datname as name, oid::bigint as oid from pg_database where datname in ({})", list.join(", "));
    let found = session.all(&query).await?;
    session.close().await;
    Ok(found)
}

/// A session with a database of the server that is none of these.
async fn beside(tools: &Tools, not: &[&str]) -> Result<Session, PostgresError> {
    let mut failure = None;
    for database in ["postgres", "template1"].into_iter().filter(|database| !not.contains(database)) {
        match Session::open(tools, database).await {
            Ok(session) => return Ok(session),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    Err(failure.unwrap_or_else(|| PostgresError::Answer {
        database: not.join(", "),
        why: "there is no other database".into(),
    }))
}

async fn administer(tools: &Tools, names: &Names, sql: &str) -> Result<(), PostgresError> {
    let mut session = beside(tools, &[&names.live]).await?;
    session.lines(sql).await?;
    session.close().await;
    Ok(())
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
        prepared: u64,
        slots: Vec<String>,
        subscriptions: u64,
        bytes: u64,
        wal_bytes: u64,
    }
    let facts = look_at_server(tools, database, dump, roles).await?;
    let (wanted, owner) = (literal(database), literal(&dump.owner));
    let mut session = beside(tools, &[database]).await?;
    let row: Row = session
        .row(&format!(
            "select r.rolsuper as is_super, r.rolcreatedb as may_create, r.rolname as me, d.oid::bigint as oid, \
             o.rolname as owner, coalesce(pg_has_role(r.oid, d.datdba, 'MEMBER'), false) as is_owner, \
             coalesce((select pg_has_role(r.oid, oid, 'MEMBER') from pg_roles where rolname = {owner}), true) as owns_like_dump, \
             coalesce(d.datistemplate, false) as is_template, \
             (select count(*) from pg_prepared_xacts where database = {wanted}) as prepared, \
             coalesce((select json_agg(slot_name order by slot_name) from pg_replication_slots where database = {wanted}), '[]') as slots, \
             (select count(*) from pg_stat_subscription s join pg_stat_activity a on a.pid = s.pid where a.datname = {wanted}) as subscriptions, \
             coalesce(pg_database_size(d.oid), 0) as bytes, \
             pg_size_bytes(current_setting('max_wal_size')) as wal_bytes \
             from pg_roles r left join pg_database d on d.datname = {wanted} left join pg_roles o on o.oid = d.datdba \
             where r.rolname = current_user"
        ))
        .await?;
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
    if row.subscriptions > 0 {
        notes.push("it subscribes to another server: subscriptions are not restored".into());
    }
    Ok(LiveDatabase {
        facts,
        oid: row.oid,
        obstacles,
        notes,
        free_bytes: free_bytes_of(tools).await,
        bytes: row.bytes,
        wal_bytes: row.wal_bytes,
    })
}

/// Sets the database aside: from here on nobody connects to it. Does nothing where it was done.
pub async fn fence(tools: &Tools, names: &Names, oid: u32) -> Result<(), PostgresError> {
    let found = find(tools, &[&names.live, &names.old]).await?;
    if found.iter().any(|database| database.name == names.old) {
        return Ok(());
    }
    match found.first() {
        Some(database) if database.oid == oid => {}
        Some(_) => return Err(changed(names, "another database has its name now")),
        None => return Err(changed(names, "it is not there any more")),
    }
    set_aside(tools, names, &names.live, &names.old).await
}

/// Gives the restored database the name. Does nothing where it was done.
pub async fn switch(tools: &Tools, names: &Names) -> Result<(), PostgresError> {
    let found = find(tools, &[&names.live, &names.new]).await?;
    let has = |wanted: &str| found.iter().any(|database| database.name == wanted);
    match (has(&names.new), has(&names.live)) {
        (true, false) => rename(tools, names, &names.new, &names.live).await,
        (false, true) => Ok(()),
        (true, true) => Err(changed(names, "somebody made a database of that name meanwhile")),
        (false, false) => Err(changed(names, "the restored database is not there any more")),
    }
}

/// Puts back what was there, whatever has been done so far; `oid` is that of what was there. What has the name
/// meanwhile is kept under another.
pub async fn put_back(
    tools: &Tools,
    names: &Names,
    oid: Option<u32>,
    restored: Option<u32>,
) -> Result<(), PostgresError> {
    let found = find(tools, &[&names.live, &names.old, &names.undone]).await?;
    let oid_of = |wanted: &str| found.iter().find(|database| database.name == wanted).map(|database| database.oid);
    let (live, old) = (oid_of(&names.live), oid_of(&names.old));
    if live.is_some() && live == oid {
        return open(tools, names).await;
    }
    if oid.is_some() && old.is_none() {
        return Err(changed(names, "what was there before the restore is not there any more"));
    }
    // Where nothing was there, only what was restored goes.
    if live.is_some() && (old.is_some() || live == restored) {
        if oid_of(&names.undone).is_some() {
            return Err(changed(names, "somebody made a database of that name after it was put back"));
        }
        set_aside(tools, names, &names.live, &names.undone).await?;
    }
    if old.is_some() {
        moment::pass();
        rename(tools, names, &names.old, &names.live).await?;
        moment::pass();
        open(tools, names).await?;
    }
    Ok(())
}

/// Drops a database that a restore made or set aside. Does nothing where it is gone.
pub async fn drop_private(tools: &Tools, database: &str) -> Result<(), PostgresError> {
    if !is_private(database) {
        return Err(PostgresError::Answer {
            database: database.to_owned(),
            why: "it is not one of ours to drop".into(),
        });
    }
    super::restore::create::drop(tools, database).await
}

async fn open(tools: &Tools, names: &Names) -> Result<(), PostgresError> {
    administer(tools, names, &format!("alter database {} allow_connections true", name(&names.live))).await
}

async fn set_aside(tools: &Tools, names: &Names, from: &str, to: &str) -> Result<(), PostgresError> {
    administer(tools, names, &format!("alter database {} allow_connections false", name(from))).await?;
    moment::pass();
    let done = rename(tools, names, from, to).await;
    if done.is_err() {
        // Nothing has been done to it: whoever used it may go on. Where this fails too, the first failure tells why.
        let _ = administer(tools, names, &format!("alter database {} allow_connections true", name(from))).await;
    }
    done
}

/// Renames a database, once every session with it has ended.
async fn rename(tools: &Tools, names: &Names, from: &str, to: &str) -> Result<(), PostgresError> {
    let end = format!(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity \
         where datname = {} and pid <> pg_backend_pid() and usesysid is not null",
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
