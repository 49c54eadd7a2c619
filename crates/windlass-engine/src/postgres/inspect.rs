//! What a server and its databases are.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use windlass_core::application::Databases;
use windlass_core::point::{DatabaseDump, ObjectRef, TableCount};

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
            let names: Vec<String> = names.into_iter().map(|row| row.datname).collect();
            if names.is_empty() {
                Err(nothing("the server has no database that allows connections"))
            } else {
                Ok(names)
            }
        }
    }
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
