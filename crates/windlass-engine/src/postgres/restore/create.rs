//! Makes the database a dump goes into, and drops it again.

use windlass_core::point::DatabaseDump;

use super::{LeftOut, PostgresError, extensions};
use crate::postgres::quote::{literal, name};
use crate::postgres::session::Session;
use crate::postgres::tools::Tools;

/// States that say that a locale is not to be had: no such locale, not with this encoding, not in this build.
const NO_LOCALE: [&str; 4] = ["42809", "22023", "42P17", "0A000"];

/// Makes a database with the encoding, locale and owner of the source, and marks it as unfinished: from template0, or from
/// what has the extensions that it needs (`extensions.rs`). Only a scratch server takes another locale instead of one that is
/// not installed: there nobody depends on the order of texts.
pub(super) async fn database(
    tools: &Tools,
    database: &str,
    dump: &DatabaseDump,
    owner: Option<&str>,
) -> Result<LeftOut, PostgresError> {
    let template = extensions::template(tools, dump).await?;
    let sql = |locale: &str| {
        let owner = owner.map_or_else(String::new, |owner| format!(" owner {}", name(owner)));
        let encoding = literal(&dump.encoding);
        format!("create database {} template {template} encoding {encoding}{locale}{owner}", name(database))
    };
    let why = match wanted(tools.server_version, dump) {
        Ok(locale) => match make(tools, database, &sql(&locale)).await {
            Err(PostgresError::Statement { sqlstate: Some(state), why, .. }) if NO_LOCALE.contains(&&*state) => why,
            result => return result.map(|()| Vec::new()),
        },
        Err(why) => why,
    };
    if !tools.are_for_scratch() {
        return Err(PostgresError::Locale { database: database.to_owned(), why });
    }
    // Whatever C.UTF-8 cannot have, C can.
    let plain = |locale: &str| libc(tools.server_version, locale, locale);
    let instead = if make(tools, database, &sql(&plain("C.UTF-8"))).await.is_ok() {
        "C.UTF-8"
    } else {
        make(tools, database, &sql(&plain("C"))).await?;
        "C"
    };
    Ok(vec![format!("the locale {}, taken for {instead} here: {why}", dump.collate)])
}

/// The comment of a database whose restore has not come to its end.
const UNFINISHED: &str = "windlass: a restore into this database has not come to its end";

/// Makes a database and marks it. A server that does not let us goes without the mark.
async fn make(tools: &Tools, database: &str, sql: &str) -> Result<(), PostgresError> {
    let mut session = Session::beside(tools, &[]).await?;
    session.lines(sql).await?;
    let _ = session.lines(&format!("comment on database {} is {}", name(database), literal(UNFINISHED))).await;
    session.close().await;
    Ok(())
}

/// Takes the mark away, unless the dump brought a comment of its own. The session is one with the database, where there
/// still is one.
pub(super) async fn unmark(tools: &Tools, database: &str, session: Option<Session>) {
    let comment = literal(UNFINISHED);
    let sql = format!(
        "do $$ begin if shobj_description((select oid from pg_database where datname = current_database()), 'pg_database') = {comment} \
         then execute {}; end if; end $$",
        literal(&format!("comment on database {} is null", name(database)))
    );
    if let Some(mut session) = session
        && session.lines(&sql).await.is_ok()
    {
        return session.close().await;
    }
    if let Ok(mut session) = Session::open(tools, database).await {
        let _ = session.lines(&sql).await;
        session.close().await;
    }
}

/// A query whose `n` is 1 where the database of the session is marked so.
pub(super) fn is_unfinished() -> String {
    format!(
        "select count(*) as n from pg_database where datname = current_database() and shobj_description(oid, 'pg_database') = {}",
        literal(UNFINISHED)
    )
}

/// Drops a database, and ends who is connected to it: that is nobody but a restore that has just been ended.
pub(in crate::postgres) async fn drop(tools: &Tools, database: &str) -> Result<(), PostgresError> {
    let force = if tools.server_version >= 130_000 { " with (force)" } else { "" };
    administer(tools, &format!("drop database if exists {}{force}", name(database))).await
}

/// The locale of the source, in the words of the target's version; or why that version has no such locale.
fn wanted(server_version: u32, dump: &DatabaseDump) -> Result<String, String> {
    let libc = libc(server_version, &dump.collate, &dump.ctype);
    let (option, since) = match dump.locale_provider.as_str() {
        "icu" => ("icu_locale", 150_000),
        "builtin" => ("builtin_locale", 170_000),
        _ => return Ok(libc),
    };
    if server_version < since {
        return Err(format!("its server knows no locales of {}", dump.locale_provider));
    }
    let locale = dump.provider_locale.as_deref().unwrap_or_default();
    let libc = libc.replace(" locale_provider libc", "");
    Ok(format!("{libc} locale_provider {} {option} {}", dump.locale_provider, literal(locale)))
}

fn libc(server_version: u32, collate: &str, ctype: &str) -> String {
    // template0 may have another provider, which would be inherited.
    let provider = if server_version >= 150_000 { " locale_provider libc" } else { "" };
    format!(" lc_collate {} lc_ctype {}{provider}", literal(collate), literal(ctype))
}

/// Runs a statement in a database that is always there.
pub(super) async fn administer(tools: &Tools, sql: &str) -> Result<(), PostgresError> {
    Session::administer(tools, &[], sql).await
}

/// Why the locale of a dump is not to be had on a server, as far as that can be told without making a database: by a
/// collation of it, which is taken back. It is the last that is asked of the session.
pub(super) async fn missing_locale(
    mut session: Session,
    server_version: u32,
    dump: &DatabaseDump,
) -> Result<Option<String>, PostgresError> {
    #[derive(serde::Deserialize)]
    struct Encoding {
        name: String,
    }
    if let Err(why) = wanted(server_version, dump) {
        session.close().await;
        return Ok(Some(why));
    }
    let encoding = "select pg_encoding_to_char(encoding) as name from pg_database where datname = current_database()";
    // A collation is one of the encoding it is made in.
    if session.row::<Encoding>(encoding).await?.name != dump.encoding {
        session.close().await;
        return Ok(None);
    }
    let (collate, ctype) = (literal(&dump.collate), literal(&dump.ctype));
    let sql = format!(
        "begin; create collation pg_temp.windlass (provider = libc, lc_collate = {collate}, lc_ctype = {ctype}); rollback"
    );
    match session.lines(&sql).await {
        Ok(_) => {
            session.close().await;
            Ok(None)
        }
        Err(PostgresError::Statement { sqlstate: Some(state), why, .. }) if NO_LOCALE.contains(&&*state) => {
            Ok(Some(why))
        }
        // No right to make one, or a server that only reads: it is told when the database is made.
        Err(_) => Ok(None),
    }
}
