//! What a server and its databases are.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use windlass_core::application::Databases;
use windlass_core::point::{DatabaseDump, ObjectRef, TableCount};

use super::replace::is_private;
use super::session::Session;
use super::tools::Tools;
use super::{PostgresError, database_of};

/// The databases wanted of a server, by name.
pub async fn databases(tools: &Tools, wanted: Databases) -> Result<Vec<String>, PostgresError> {
    #[derive(Deserialize)]
    struct Named {
        datname: String,
    }
    let nothing = |why| PostgresError::Nothing { url: tools.url().to_owned(), why };
    match wanted {
        Databases::Named => {
            let name = database_of(tools.url())?.ok_or_else(|| nothing("its url names no database"))?;
            Ok(vec![name])
        }
        Databases::All => {
            let mut session = Session::open_any(tools).await?;
            // A limit of -2 marks what an interrupted DROP DATABASE left behind: nobody can connect to it.
            let query = "select datname from pg_database \
                         where datallowconn and not datistemplate and datconnlimit <> -2 order by datname";
            let names = session.all::<Named>(query).await?;
            session.close().await;
            let names: Vec<String> =
                names.into_iter().map(|row| row.datname).filter(|name| !is_private(name)).collect();
            if names.is_empty() {
                Err(nothing("the server has no database that allows connections"))
            } else {
                Ok(names)
            }
        }
    }
}

/// Tables and sequences that `pg_dump` would have to read and may not, where there are no policies of row security.
const UNREADABLE: &str = "\
    select format('%I.%I', n.nspname, c.relname) as name \
    from pg_class c join pg_namespace n on n.oid = c.relnamespace \
    where c.relkind in ('r', 'p', 'm', 'S') and n.nspname <> 'information_schema' and n.nspname !~ '^pg_' \
      and not has_table_privilege(c.oid, 'select') \
      and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e' \
                      and d.classid = 'pg_class'::regclass) \
    order by 1 limit 10";

/// Sees whether everything in the database that the URL names can be read.
pub async fn readable(tools: &Tools) -> Result<(), PostgresError> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    for database in databases(tools, Databases::Named).await? {
        let mut session = Session::open(tools, &database).await?;
        let unreadable: Vec<Named> = session.all(UNREADABLE).await?;
        session.close().await;
        if !unreadable.is_empty() {
            let names: Vec<String> = unreadable.into_iter().map(|found| found.name).collect();
            let why = format!("the role may not read {}", names.join(", "));
            return Err(PostgresError::Answer { database, why });
        }
    }
    Ok(())
}

/// What a database is made of, and what it holds.
#[derive(Clone, Debug, Deserialize)]
pub struct Database {
    /// Encoding, as `pg_encoding_to_char` gives it.
    pub encoding: String,
    /// `libc`, `icu` or `builtin`.
    pub locale_provider: String,
    /// `LC_COLLATE`.
    pub collate: String,
    /// `LC_CTYPE`.
    pub ctype: String,
    /// The ICU or builtin locale.
    pub provider_locale: Option<String>,
    /// The owner.
    pub owner: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// The server's clock, at the beginning of the transaction.
    pub now: Timestamp,
    /// Extensions and their versions.
    pub extensions: BTreeMap<String, String>,
    /// Collations of the server's own that columns, indexes and types use.
    pub collations: Vec<String>,
}

impl Database {
    /// What a manifest says of a dump of it.
    pub fn into_dump(
        self,
        name: &str,
        object: ObjectRef,
        snapshot_at: Timestamp,
        tables: Vec<TableCount>,
    ) -> DatabaseDump {
        DatabaseDump {
            name: name.to_owned(),
            object,
            snapshot_at,
            encoding: self.encoding,
            locale_provider: self.locale_provider,
            collate: self.collate,
            ctype: self.ctype,
            provider_locale: self.provider_locale,
            owner: self.owner,
            extensions: self.extensions,
            collations: self.collations,
            tables,
            database_bytes: self.bytes,
        }
    }
}

/// Collations that a dump names and does not bring along.
const COLLATIONS: &str = "\
    select distinct c.collname from pg_collation c where c.collnamespace = 'pg_catalog'::regnamespace and c.collname <> 'default' \
      and (exists (select 1 from pg_attribute a join pg_class r on r.oid = a.attrelid \
             where a.attcollation = c.oid and not a.attisdropped and r.relnamespace <> 'pg_catalog'::regnamespace \
               and r.relnamespace <> 'information_schema'::regnamespace and r.relkind <> 't') \
        or exists (select 1 from pg_type t where t.typcollation = c.oid and t.typtype = 'd' \
             and t.typnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)) \
        or exists (select 1 from pg_range g where g.rngcollation = c.oid))";

/// Looks at the database of a session.
pub async fn database(session: &mut Session, server_version: u32) -> Result<Database, PostgresError> {
    let provider = if server_version >= 150_000 {
        "case d.datlocprovider when 'i' then 'icu' when 'b' then 'builtin' else 'libc' end"
    } else {
        "'libc'"
    };
    let locale = match server_version {
        170_000.. => "d.datlocale",
        150_000.. => "d.daticulocale",
        _ => "null::text",
    };
    session
        .row(&format!(
            "select pg_encoding_to_char(d.encoding) as encoding, {provider} as locale_provider, \
             d.datcollate as collate, d.datctype as ctype, {locale} as provider_locale, \
             pg_get_userbyid(d.datdba) as owner, pg_database_size(d.oid) as bytes, \
             to_char(now() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') as now, \
             coalesce((select json_object_agg(extname, extversion) from pg_extension where extname <> 'plpgsql'), '{{}}') as extensions, \
             coalesce((select json_agg(x.collname order by x.collname) from ({COLLATIONS}) x), '[]') as collations \
             from pg_database d where d.datname = current_database()"
        ))
        .await
}

/// Bytes free on the file system of the server's data directory, where this machine is the server's: `None` where that
/// cannot be told, since a folder of that name may be somebody else's.
pub async fn free_bytes_of(tools: &Tools) -> Option<u64> {
    #[derive(Deserialize)]
    struct Row {
        folder: Option<String>,
        started: i64,
    }
    if !tools.are_here() {
        return None;
    }
    let mut session = Session::open_any(tools).await.ok()?;
    let query = "select (select setting from pg_settings where name = 'data_directory') as folder, \
                 extract(epoch from pg_postmaster_start_time())::bigint as started";
    let row: Row = session.row(query).await.ok()?;
    session.close().await;
    let folder = std::path::PathBuf::from(row.folder?);
    // Its third line is when the server started (<https://www.postgresql.org/docs/current/storage-file-layout.html>).
    let lines = std::fs::read_to_string(folder.join("postmaster.pid")).ok()?;
    let started: i64 = lines.lines().nth(2)?.trim().parse().ok()?;
    // The file is written a moment before or after the server takes the time.
    (started.abs_diff(row.started) <= 2).then(|| crate::restore::free_bytes(&folder))
}

/// What a database holds now.
#[derive(Clone, Debug)]
pub struct Content {
    /// Bytes on disk.
    pub bytes: u64,
    /// Its tables and their rows.
    pub tables: Vec<TableCount>,
    /// Sessions others have with it.
    pub sessions: u64,
}

/// Counts what a database holds, as a backup would; a table that somebody holds is not waited for long.
pub async fn content(tools: &Tools, database: &str) -> Result<Content, PostgresError> {
    #[derive(Deserialize)]
    struct Row {
        bytes: u64,
        sessions: u64,
    }
    let mut session = Session::open(tools, database).await?;
    session.lines("begin isolation level repeatable read read only; set local lock_timeout = '5s'").await?;
    let query = "select pg_database_size(current_database()) as bytes, (select count(*) from pg_stat_activity \
                 where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend') as sessions";
    let row: Row = session.row(query).await?;
    let held = super::counts::hold(&mut session).await?;
    let tables = super::counts::count(&mut session, held).await?;
    session.close().await;
    Ok(Content { bytes: row.bytes, tables, sessions: row.sessions })
}

/// What was written to a database ever since its server counts that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Rows inserted, changed and deleted in its own tables.
    pub rows: u64,
    /// As many in the catalogs as well, without what gathering statistics writes: large objects and definitions are there.
    /// Absent where the server does not count.
    pub all: Option<u64>,
}

/// What was written to a database.
pub async fn written(tools: &Tools, database: &str) -> Result<Written, PostgresError> {
    let mut session = Session::open(tools, database).await?;
    let query = "select coalesce(sum(n) filter (where is_user), 0)::bigint as rows, \
                 case when current_setting('track_counts')::boolean then coalesce(sum(n), 0)::bigint end as \"all\" from ( \
                 select s.n_tup_ins + s.n_tup_upd + s.n_tup_del as n, \
                        s.schemaname not in ('pg_catalog', 'information_schema') and s.schemaname !~ '^pg_toast' as is_user \
                 from pg_stat_all_tables s join pg_class c on c.oid = s.relid \
                 where not c.relisshared and c.relname !~ '^pg_statistic') s";
    let row = session.row(query).await?;
    session.close().await;
    Ok(row)
}
