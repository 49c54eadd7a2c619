//! Extensions that only a superuser may create, such as pgvector's `vector`.
//!
//! A role that is none restores them all the same where a superuser has created them beforehand in `template1`: the database
//! is then made from that instead of from `template0`. What belongs to such an extension - its comment - stays as it is.

use std::collections::BTreeSet;

use windlass_core::point::DatabaseDump;
use windlass_repo::format::dump::Toc;

use super::PostgresError;
use super::look::names;
use crate::postgres::session::Session;
use crate::postgres::tools::Tools;

/// The database that new ones are made from where nothing else is said.
const TEMPLATE: &str = "template1";

/// Extensions that the role may not create: it is no superuser, and no version that is offered is trusted.
const BARRED: &str = "\
    select name from pg_available_extension_versions \
    where not (select rolsuper from pg_roles where rolname = current_user) \
    group by name having bool_and(superuser and not trusted)";

/// Trust came with version 13.
const BARRED_BEFORE_13: &str = "\
    select name from pg_available_extension_versions \
    where not (select rolsuper from pg_roles where rolname = current_user) group by name having bool_and(superuser)";

/// Extensions of a database that the role could neither have created nor may change.
const FOREIGN: &str = "select extname as name from pg_extension where not pg_has_role(extowner, 'USAGE')";

/// The extensions of a dump that its restore may not create.
pub(super) async fn barred(
    session: &mut Session,
    server_version: u32,
    dump: &DatabaseDump,
) -> Result<BTreeSet<String>, PostgresError> {
    if dump.extensions.is_empty() {
        return Ok(BTreeSet::new());
    }
    let query = if server_version >= 130_000 { BARRED } else { BARRED_BEFORE_13 };
    let mut barred = names(session, query).await?;
    barred.retain(|name| dump.extensions.contains_key(name));
    Ok(barred)
}

/// Which of these are lacking in a database; in `template1` where none is named.
pub(super) async fn lacking(
    tools: &Tools,
    barred: BTreeSet<String>,
    database: Option<&str>,
) -> Result<BTreeSet<String>, PostgresError> {
    if barred.is_empty() {
        return Ok(barred);
    }
    let mut session = match Session::open(tools, database.unwrap_or(TEMPLATE)).await {
        Ok(session) => session,
        // It is closed to us: then nothing in it is of use.
        Err(PostgresError::Connect { .. }) if database.is_none() => return Ok(barred),
        Err(error) => return Err(error),
    };
    let there = names(&mut session, "select extname as name from pg_extension").await?;
    session.close().await;
    Ok(barred.difference(&there).cloned().collect())
}

/// What a database for a dump is made from.
pub(super) async fn template(tools: &Tools, dump: &DatabaseDump) -> Result<&'static str, PostgresError> {
    if dump.extensions.is_empty() {
        return Ok("template0");
    }
    // Also through the template itself, where it is the only one that is there: the session ends before it is copied.
    let mut session = Session::beside(tools, &[]).await?;
    let barred = barred(&mut session, tools.server_version, dump).await?;
    session.close().await;
    Ok(if barred.is_empty() { "template0" } else { TEMPLATE })
}

/// The entries of a dump that concern extensions which were there before, and are another's.
pub(super) async fn foreign(session: &mut Session, toc: &Toc) -> Result<BTreeSet<i64>, PostgresError> {
    let comments = || toc.entries.iter().filter(|entry| entry.kind == "COMMENT");
    if !comments().any(|entry| entry.tag.starts_with("EXTENSION ")) {
        return Ok(BTreeSet::new());
    }
    let foreign = names(session, FOREIGN).await?;
    let is_of_one = |tag: &str| {
        let named = tag.strip_prefix("EXTENSION ").map(|name| name.trim_matches('"'));
        named.is_some_and(|name| foreign.contains(name))
    };
    Ok(comments().filter(|entry| is_of_one(&entry.tag)).map(|entry| entry.id).collect())
}
