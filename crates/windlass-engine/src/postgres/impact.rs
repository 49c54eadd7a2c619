//! What replacing a database does to what it holds, told before: rows now and then, and who is at work in it.

use std::collections::BTreeMap;

use windlass_core::diagnose::chain;
use windlass_core::point::DatabaseDump;
use windlass_core::restore::{DatabaseImpact, LiveDatabase, ReplaceDatabase, TableImpact};

use super::inspect::content;
use super::tools::Tools;

/// What a step would do to the database that is there, as it is now. One that cannot be looked into is replaced all the same.
pub async fn impact(
    tools: Option<&Tools>,
    step: &ReplaceDatabase,
    dump: &DatabaseDump,
    live: Option<&LiveDatabase>,
) -> DatabaseImpact {
    let mut impact = DatabaseImpact {
        component: step.fill.component.clone(),
        database: step.fill.target.database.clone(),
        bytes: None,
        unknown: None,
        tables: Vec::new(),
        more_tables: 0,
        same_rows: 0,
        sessions: 0,
        needed_bytes: live.map_or(step.fill.bytes, |live| live.needed_bytes(step.fill.bytes)),
        free_bytes: live.and_then(|live| live.free_bytes),
    };
    let (Some(tools), Some(_)) = (tools, step.oid) else { return impact };
    let now = match content(tools, &step.fill.target.database).await {
        Ok(now) => now,
        Err(error) => {
            impact.unknown = Some(chain(&error));
            return impact;
        }
    };
    (impact.bytes, impact.sessions) = (Some(now.bytes), now.sessions);
    let mut pairs = BTreeMap::new();
    for count in &dump.tables {
        pairs.entry((&count.schema, &count.table)).or_insert((None, None)).0 = Some(count);
    }
    for count in &now.tables {
        pairs.entry((&count.schema, &count.table)).or_insert((None, None)).1 = Some(count);
    }
    for ((schema, table), (then, now)) in pairs {
        let exact = then.is_none_or(|count| count.exact) && now.is_none_or(|count| count.exact);
        let (rows_then, rows_now) = (then.map(|count| count.rows), now.map(|count| count.rows));
        if rows_then == rows_now {
            impact.same_rows += 1;
        } else {
            let (schema, table) = (schema.clone(), table.clone());
            impact.tables.push(TableImpact { schema, table, rows_now, rows_then, exact });
        }
    }
    impact
}
