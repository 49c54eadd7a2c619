//! Rows by table: what a dump holds, told in the dump's own snapshot, and what a restore brought.
//!
//! What a dump holds is counted while it goes by. What the server has to be asked for - a table the dump tells nothing of,
//! a database that is replaced - is counted one table after another, the smallest first, up to a size each and a sum of
//! sizes. Beyond, the server's estimate is taken and called one, except that a table is never said to hold rows or none
//! without having looked: so the loss of all rows is seen at any size.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Deserialize;
use windlass_core::point::TableCount;
use windlass_repo::format::dump::Rows;

use super::PostgresError;
use super::capture::TableName;
use super::session::Session;

/// Tables up to this size on disk are counted.
pub const EXACT_UP_TO: u64 = 256 << 20;

/// Tables are counted until they make up this much on disk.
pub const EXACT_IN_ALL: u64 = 16 << 30;

/// Tables locked by one statement.
const LOCKED_AT_ONCE: usize = 500;

#[derive(Deserialize)]
struct Table {
    schema: String,
    name: String,
    quoted: String,
    estimate: f64,
    bytes: u64,
}

/// Every table whose rows a dump holds: no views, no parents of partitions, nothing an extension brings along, and
/// on a standby no unlogged tables, which cannot be read there.
const TABLES: &str = "\
    select n.nspname as schema, c.relname as name, format('%I.%I', n.nspname, c.relname) as quoted, \
           greatest(c.reltuples, 0)::float8 as estimate, pg_table_size(c.oid) as bytes \
    from pg_class c join pg_namespace n on n.oid = c.relnamespace \
    where c.relkind = 'r' and (c.relpersistence = 'p' or c.relpersistence = 'u' and not pg_is_in_recovery()) \
      and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)' \
      and not exists (select 1 from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e') \
    order by pg_table_size(c.oid), 1, 2";

/// Tables that are held as they are until the session's transaction ends.
pub(super) struct Held(Vec<Table>);

impl Held {
    /// Keeps those of them; the others, as SQL names them.
    pub(super) fn retain(&mut self, wanted: &BTreeSet<TableName>) -> Vec<String> {
        let is_wanted = |table: &Table| wanted.contains(&(table.schema.clone(), table.name.clone()));
        let (kept, others) = std::mem::take(&mut self.0).into_iter().partition(is_wanted);
        self.0 = kept;
        let others: Vec<Table> = others;
        others.into_iter().map(|table| table.quoted).collect()
    }
}

/// Holds the tables of the session's database: a table that is emptied or rewritten looks empty to older snapshots,
/// so that a count and a dump would differ if they came to it before and after. `pg_dump` takes the same locks.
pub(super) async fn hold(session: &mut Session) -> Result<Held, PostgresError> {
    let tables: Vec<Table> = session.all(TABLES).await?;
    for some in tables.chunks(LOCKED_AT_ONCE) {
        let mut sql = String::from("lock table ");
        for (at, table) in some.iter().enumerate() {
            let _ = write!(sql, "{}only {}", if at == 0 { "" } else { ", " }, table.quoted);
        }
        sql.push_str(" in access share mode");
        session.lines(&sql).await?;
    }
    Ok(Held(tables))
}

/// The rows of the tables that are held: those that were counted in the dump, and the server's word for the others.
pub(super) async fn complete(
    session: &mut Session,
    held: Held,
    counted: &Rows,
) -> Result<Vec<TableCount>, PostgresError> {
    let (mut counts, mut others) = (Vec::new(), Vec::new());
    for table in held.0 {
        let name = (table.schema, table.name);
        match counted.get(&name).copied().flatten() {
            Some(rows) => {
                let (schema, table, bytes) = (name.0, name.1, table.bytes);
                counts.push(TableCount { schema, table, rows, exact: true, bytes });
            }
            None => others.push(Table { schema: name.0, name: name.1, ..table }),
        }
    }
    counts.extend(count(session, Held(others)).await?);
    sort(&mut counts);
    Ok(counts)
}

fn sort(counts: &mut [TableCount]) {
    counts.sort_by(|a, b| (&a.schema, &a.table).cmp(&(&b.schema, &b.table)));
}

/// Counts the tables that are held, as the session's transaction sees them.
pub(super) async fn count(session: &mut Session, held: Held) -> Result<Vec<TableCount>, PostgresError> {
    count_within(session, held, EXACT_UP_TO, EXACT_IN_ALL).await
}

async fn count_within(
    session: &mut Session,
    held: Held,
    up_to: u64,
    in_all: u64,
) -> Result<Vec<TableCount>, PostgresError> {
    let (mut counts, mut sum) = (Vec::new(), 0u64);
    for table in held.0 {
        sum = sum.saturating_add(table.bytes);
        let (rows, exact) = if table.bytes <= up_to && sum <= in_all {
            (exactly(session, &table.quoted).await?, true)
        } else if has_rows(session, &table.quoted).await? {
            (rounded(table.estimate).max(1), false)
        } else {
            (0, true)
        };
        counts.push(TableCount { schema: table.schema, table: table.name, rows, exact, bytes: table.bytes });
    }
    sort(&mut counts);
    Ok(counts)
}

/// Counts some tables, whatever their size.
pub async fn count_these(session: &mut Session, wanted: &[&TableCount]) -> Result<Vec<TableCount>, PostgresError> {
    let wanted: BTreeSet<_> = wanted.iter().map(|count| named(count)).collect();
    let mut counts = Vec::new();
    for Table { schema, name, quoted, bytes, .. } in session.all(TABLES).await? {
        if wanted.contains(&(schema.as_str(), name.as_str())) {
            let rows = exactly(session, &quoted).await?;
            counts.push(TableCount { schema, table: name, rows, exact: true, bytes });
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

async fn has_rows(session: &mut Session, quoted: &str) -> Result<bool, PostgresError> {
    #[derive(Deserialize)]
    struct Any {
        any: bool,
    }
    Ok(session.row::<Any>(&format!("select exists (select from only {quoted}) as any")).await?.any)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate that is not negative")]
fn rounded(estimate: f64) -> u64 {
    estimate.round() as u64
}

fn named(count: &TableCount) -> (&str, &str) {
    (&count.schema, &count.table)
}

/// What differs between what a dump should hold and what was found, in words. Of an estimate only this is compared:
/// that there are rows at all.
pub fn differences(expected: &[&TableCount], found: &[TableCount]) -> Vec<String> {
    let found: BTreeMap<_, _> = found.iter().map(|count| (named(count), count.rows)).collect();
    let mut differences = Vec::new();
    for count in expected {
        let TableCount { schema, table, rows, exact, .. } = count;
        match found.get(&named(count)) {
            None => differences.push(format!("the table {schema}.{table} is missing")),
            Some(there) if *exact && there != rows => {
                differences.push(format!("{schema}.{table} has {there} rows instead of {rows}"));
            }
            Some(0) if !exact && *rows > 0 => {
                differences.push(format!("{schema}.{table} has no rows instead of about {rows}"));
            }
            Some(_) => {}
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::{TableCount, differences};

    fn table(name: &str, rows: u64, exact: bool) -> TableCount {
        TableCount { schema: "s".into(), table: name.into(), rows, exact, bytes: 0 }
    }

    #[test]
    fn counts_are_compared_to_the_row_and_estimates_only_as_some_or_none() {
        let expected = [
            table("a", 3, true),
            table("b", 1000, false),
            table("c", 1000, false),
            table("d", 0, true),
            table("e", 0, true),
        ];
        let found = [table("a", 2, true), table("b", 7, true), table("c", 0, true), table("d", 0, true)];
        assert_eq!(
            differences(&expected.iter().collect::<Vec<_>>(), &found),
            ["s.a has 2 rows instead of 3", "s.c has no rows instead of about 1000", "the table s.e is missing"]
        );
    }
}
