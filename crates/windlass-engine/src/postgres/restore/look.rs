//! Looks at the target of a restore, for its plan.

use std::collections::BTreeSet;

use serde::Deserialize;
use windlass_core::point::DatabaseDump;
use windlass_core::restore::DatabaseFacts;
use windlass_repo::format::dump::Toc;

use super::create::{is_unfinished, missing_locale};
use super::{PostgresError, extensions};
use crate::postgres::quote::{literal, name};
use crate::postgres::session::Session;
use crate::postgres::tools::Tools;
use crate::postgres::with_database;

/// What there is of one's own in a database: relations, functions, types of their own, schemas and large objects, but
/// those an extension brings along, and the schema `public`.
const OBJECTS: &str = "\
    with own as (select oid from pg_namespace where nspname not in ('pg_catalog', 'information_schema') and nspname !~ '^pg_(toast|temp)'), \
    brought as (select classid, objid from pg_depend where deptype = 'e') \
    select (select count(*) from pg_class c where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f') and c.relnamespace in (select oid from own) \
              and (('pg_class'::regclass)::oid, c.oid) not in (select classid, objid from brought)) \
         + (select count(*) from pg_proc p where p.pronamespace in (select oid from own) \
              and (('pg_proc'::regclass)::oid, p.oid) not in (select classid, objid from brought)) \
         + (select count(*) from pg_type t where t.typnamespace in (select oid from own) and t.typtype in ('d', 'e', 'r') \
              and (('pg_type'::regclass)::oid, t.oid) not in (select classid, objid from brought)) \
         + (select count(*) from pg_namespace n where n.oid in (select oid from own) and n.nspname <> 'public' \
              and (('pg_namespace'::regclass)::oid, n.oid) not in (select classid, objid from brought)) \
         + (select count(*) from pg_largeobject_metadata) as n";

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// The roles a dump names.
#[derive(Clone, Debug, Default)]
pub struct Roles {
    /// Those that own something or have a privilege.
    pub owners: BTreeSet<String>,
    /// Those of policies and user mappings.
    pub required: BTreeSet<String>,
}

impl Roles {
    /// The roles that a dump names, as far as some entries need them (none: all), with the owner of its database.
    pub fn of(toc: &Toc, wanted: Option<&BTreeSet<i64>>, owner: &str) -> Self {
        let all = || toc.entries.iter().map(|entry| entry.id).collect();
        let wanted = wanted.cloned().unwrap_or_else(all);
        let mut roles = Self { owners: [owner.to_owned()].into(), required: BTreeSet::new() };
        roles.owners.extend(toc.owners().into_iter().map(str::to_owned));
        roles.required.extend(toc.required_roles(&wanted).into_iter().map(str::to_owned));
        roles
    }
}

/// Looks at a database that is to be filled from a dump which names these roles.
pub async fn look(
    tools: &Tools,
    database: &str,
    dump: &DatabaseDump,
    roles: &Roles,
) -> Result<DatabaseFacts, PostgresError> {
    let mut session = Session::beside(tools, &[]).await?;
    let Held { exists, tables, unfinished } = held(&mut session, tools, database).await?;
    let facts = look_through(session, tools, database, dump, roles, exists).await?;
    // It has the locale it was made with.
    let missing_locale = facts.missing_locale.filter(|_| !exists);
    Ok(DatabaseFacts { exists, tables, unfinished, missing_locale, ..facts })
}

/// Looks at a database that is to be filled with something of which nothing is known yet.
pub async fn look_ahead(tools: &Tools, database: &str) -> Result<DatabaseFacts, PostgresError> {
    let mut session = Session::beside(tools, &[]).await?;
    let Held { exists, tables, unfinished } = held(&mut session, tools, database).await?;
    session.close().await;
    Ok(DatabaseFacts {
        url: with_database(tools.url(), database)?,
        database: database.to_owned(),
        server_version: tools.server_version,
        exists,
        tables,
        unfinished,
        missing_roles: Vec::new(),
        missing_required_roles: Vec::new(),
        missing_locale: None,
        missing_collations: Vec::new(),
        missing_extensions: Vec::new(),
    })
}

/// What a database holds, where it is there.
#[derive(Default)]
struct Held {
    exists: bool,
    tables: u64,
    unfinished: bool,
}

async fn held(session: &mut Session, tools: &Tools, database: &str) -> Result<Held, PostgresError> {
    let found = format!("select datname as name from pg_database where datname = {}", literal(database));
    if names(session, &found).await?.is_empty() {
        return Ok(Held::default());
    }
    let mut session = Session::open(tools, database).await?;
    let tables = session.number(OBJECTS).await?.into();
    let unfinished = session.number(&is_unfinished()).await? > 0;
    session.close().await;
    Ok(Held { exists: true, tables, unfinished })
}

/// Looks at the server alone, where a database is to be made for a dump which names these roles.
pub async fn look_at_server(
    tools: &Tools,
    database: &str,
    dump: &DatabaseDump,
    roles: &Roles,
) -> Result<DatabaseFacts, PostgresError> {
    look_through(Session::beside(tools, &[]).await?, tools, database, dump, roles, false).await
}

/// The same, through a session with the server; `exists` where the database is there and is filled as it is.
async fn look_through(
    mut session: Session,
    tools: &Tools,
    database: &str,
    dump: &DatabaseDump,
    roles: &Roles,
    exists: bool,
) -> Result<DatabaseFacts, PostgresError> {
    let known = names(&mut session, "select rolname as name from pg_roles").await?;
    let offered = names(&mut session, "select name from pg_available_extensions").await?;
    let collations = "select collname as name from pg_collation where collnamespace = 'pg_catalog'::regnamespace \
                      and collencoding in (-1, pg_char_to_encoding(";
    let collations = names(&mut session, &format!("{collations}{}))", literal(&dump.encoding))).await?;
    let barred = extensions::barred(&mut session, tools.server_version, dump).await?;
    let missing_locale = if tools.are_for_scratch() {
        session.close().await;
        None
    } else {
        missing_locale(session, tools.server_version, dump).await?
    };
    let lacking = extensions::lacking(tools, barred, exists.then_some(database)).await?;
    let place = if exists { "it" } else { "template1" };
    let barred = |extension: &str| {
        format!(
            "{extension} (which only a superuser may create: have one create it in {place}, `create extension {}`)",
            name(extension)
        )
    };
    let mut missing_extensions = Vec::new();
    for extension in dump.extensions.keys() {
        if !offered.contains(extension) {
            missing_extensions.push(extension.clone());
        } else if lacking.contains(extension) {
            missing_extensions.push(barred(extension));
        } else if tools.are_for_scratch()
            && let Err(error) = try_out(tools, extension).await
        {
            missing_extensions.push(format!("{extension} ({error})"));
        }
    }
    let missing = |roles: &BTreeSet<String>| roles.difference(&known).cloned().collect();
    Ok(DatabaseFacts {
        url: with_database(tools.url(), database)?,
        database: database.to_owned(),
        server_version: tools.server_version,
        exists: false,
        tables: 0,
        unfinished: false,
        missing_roles: missing(&roles.owners),
        missing_required_roles: missing(&roles.required),
        missing_locale,
        missing_collations: dump.collations.iter().filter(|name| !collations.contains(*name)).cloned().collect(),
        missing_extensions,
    })
}

/// The column `name` of a query.
pub(super) async fn names(session: &mut Session, query: &str) -> Result<BTreeSet<String>, PostgresError> {
    Ok(session.all::<Named>(query).await?.into_iter().map(|row| row.name).collect())
}

/// Whether an extension can be had: some must be loaded when the server starts, and a scratch server loads nothing.
async fn try_out(tools: &Tools, extension: &str) -> Result<(), PostgresError> {
    let mut session = Session::beside(tools, &[]).await?;
    // Created where it would be: in the first schema of the search path, which must not be the catalog.
    let sql = format!(
        "begin; set local search_path = public; create extension if not exists {} cascade; rollback",
        name(extension)
    );
    session.lines(&sql).await?;
    session.close().await;
    Ok(())
}
