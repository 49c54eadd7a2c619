//! Looks at the target of a restore, for its plan.

use std::collections::BTreeSet;

use serde::Deserialize;
use windlass_core::point::DatabaseDump;
use windlass_core::restore::DatabaseFacts;

use super::PostgresError;
use super::create::{maintenance, missing_locale};
use crate::postgres::quote::{literal, name};
use crate::postgres::session::Session;
use crate::postgres::tools::Tools;
use crate::postgres::with_database;

/// What there is of one's own in a database: relations, but those an extension brings along.
const RELATIONS: &str = "\
    select count(*) as n from pg_class c join pg_namespace n on n.oid = c.relnamespace \
    where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f') and n.nspname not in ('pg_catalog', 'information_schema') \
      and n.nspname !~ '^pg_(toast|temp)' \
      and not exists (select 1 from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')";

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

/// Looks at a database that is to be filled from a dump which names these roles.
pub async fn look(
    tools: &Tools,
    database: &str,
    dump: &DatabaseDump,
    roles: &Roles,
) -> Result<DatabaseFacts, PostgresError> {
    let mut session = maintenance(tools).await?;
    let known = names(&mut session, "select rolname as name from pg_roles").await?;
    let offered = names(&mut session, "select name from pg_available_extensions").await?;
    let collations = "select collname as name from pg_collation where collnamespace = 'pg_catalog'::regnamespace \
                      and collencoding in (-1, pg_char_to_encoding(";
    let collations = names(&mut session, &format!("{collations}{}))", literal(&dump.encoding))).await?;
    let found = format!("select datname as name from pg_database where datname = {}", literal(database));
    let exists = !names(&mut session, &found).await?.is_empty();
    session.close().await;
    let mut tables = 0;
    if exists {
        let mut session = Session::open(tools, database).await?;
        tables = session.number(RELATIONS).await?.into();
        session.close().await;
    }
    let mut missing_extensions = Vec::new();
    for extension in dump.extensions.keys() {
        if !offered.contains(extension) {
            missing_extensions.push(extension.clone());
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
        exists,
        tables,
        missing_roles: missing(&roles.owners),
        missing_required_roles: missing(&roles.required),
        missing_locale: if exists || tools.are_for_scratch() { None } else { missing_locale(tools, dump).await? },
        missing_collations: dump.collations.iter().filter(|name| !collations.contains(*name)).cloned().collect(),
        missing_extensions,
    })
}

async fn names(session: &mut Session, query: &str) -> Result<BTreeSet<String>, PostgresError> {
    Ok(session.all::<Named>(query).await?.into_iter().map(|row| row.name).collect())
}

/// Whether an extension can be had: some must be loaded when the server starts, and a scratch server loads nothing.
async fn try_out(tools: &Tools, extension: &str) -> Result<(), PostgresError> {
    let mut session = maintenance(tools).await?;
    // Created where it would be: in the first schema of the search path, which must not be the catalog.
    let sql = format!(
        "begin; set local search_path = public; create extension if not exists {} cascade; rollback",
        name(extension)
    );
    session.lines(&sql).await?;
    session.close().await;
    Ok(())
}
