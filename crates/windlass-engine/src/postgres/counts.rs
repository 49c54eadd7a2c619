//! Rows by table: what a dump holds, told in the dump's own snapshot, and what a restore brought.

use serde::Deserialize;
use windlass_core::point::TableCount;

use super::PostgresError;
use super::session::Session;

/// Tables up to this size on disk are counted; of larger ones the server's estimate is taken, and called one.
/// Counting reads the table once more, beside the dump.
pub const EXACT_UP_TO: u64 = 256 << 20;

#[derive(Deserialize)]
struct Table {
    schema: String,
    name: String,
    quoted: String,
    estimate: f64,
    bytes: u64,
}

/// Every table whose rows a dump holds: no views, no parents of partitions, nothing an extension brings along.
const TABLES: &str = "\
    select n.nspname as schema, c.relname as name, format('%I.%I', n.nspname, c.relname) as quoted, \
           greatest(c.reltuples, 0)::float8 as estimate, pg_table_size(c.oid) as bytes \
    from pg_class c join pg_namespace n on n.oid = c.relnamespace \
    where c.relkind = 'r' and c.relpersistence <> 't' \
      and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)' \
      and not exists (select 1 from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e') \
    order by 1, 2";

/// Counts the tables of the session's database, as its transaction sees them.
pub async fn count(session: &mut Session) -> Result<Vec<TableCount>, PostgresError> {
    let mut counts = Vec::new();
    for row in session.rows(TABLES).await? {
        let table: Table = serde_json::from_value(row)
            .map_err(|error| PostgresError::Answer { database: "the list of tables".into(), why: error.to_string() })?;
        let exact = table.bytes <= EXACT_UP_TO;
        let rows = if exact { exactly(session, &table.quoted).await? } else { rounded(table.estimate) };
        counts.push(TableCount { schema: table.schema, table: table.name, rows, exact });
    }
    Ok(counts)
}

/// Counts some tables, whatever their size.
pub async fn count_these(session: &mut Session, wanted: &[&TableCount]) -> Result<Vec<TableCount>, PostgresError> {
    let mut counts = Vec::new();
    for row in session.rows(TABLES).await? {
        let Ok(table) = serde_json::from_value::<Table>(row) else { continue };
        if wanted.iter().any(|count| count.schema == table.schema && count.table == table.name) {
            let rows = exactly(session, &table.quoted).await?;
            counts.push(TableCount { schema: table.schema, table: table.name, rows, exact: true });
        }
    }
    Ok(counts)
}

async fn exactly(session: &mut Session, quoted: &str) -> Result<u64, PostgresError> {
    #[derive(Deserialize)]
    struct Count {
        n: u64,
    }
    Ok(session.row::<Count>(&format!("select count(*) as n from only {quoted}")).await?.n)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate that is not negative")]
fn rounded(estimate: f64) -> u64 {
    estimate.round() as u64
}

/// What differs between what a dump should hold and what was found, in words. Estimates are not compared.
pub fn differences(expected: &[&TableCount], found: &[TableCount]) -> Vec<String> {
    let mut differences = Vec::new();
    for count in expected {
        let there = found.iter().find(|f| f.schema == count.schema && f.table == count.table);
        match there {
            None => differences.push(format!("the table {}.{} is missing", count.schema, count.table)),
            Some(there) if count.exact && there.rows != count.rows => differences
                .push(format!("{}.{} has {} rows instead of {}", count.schema, count.table, there.rows, count.rows)),
            Some(_) => {}
        }
    }
    differences
}
