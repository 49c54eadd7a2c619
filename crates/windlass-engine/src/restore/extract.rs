//! Fills a database from one of a server that was recovered in a scratch place, by a dump that goes by.
//!
//! Promised: what the database needs of its new server - roles, extensions, collations - is looked at before the first write; of
//! tables that are not wanted no rows are read, as long as their names fit into the arguments of `pg_dump`; the rows of the others are counted on the way, and compared with those that arrived.

use std::collections::BTreeSet;

use bytes::Bytes;
use windlass_core::name::Name;
use windlass_core::point::{ObjectRef, TableCount};
use windlass_core::restore::{ExtractedDatabase, fill, is_free};
use windlass_repo::format::dump::Toc;

use super::{RestoreError, spool, wanted};
use crate::postgres::PostgresError;
use crate::postgres::capture::{DatabaseCapture, Stream, TableName, begin_with, table_of_contents};
use crate::postgres::counts::{count_these, differences};
use crate::postgres::restore::{Restore, Roles, look};
use crate::postgres::session::Session;
use crate::postgres::tools::Tools;
use crate::progress::{Event, Progress};

/// Bytes read at once.
const PIECE: usize = 256 << 10;

/// Fills a database at `to` from one at `from`. What a person should know.
pub async fn extract(
    component: &Name,
    asked: &ExtractedDatabase,
    from: &Tools,
    to: &Tools,
    progress: &dyn Progress,
) -> Result<Vec<String>, RestoreError> {
    let of = |database: &str| {
        let database = database.to_owned();
        move |source| RestoreError::Database { database, source }
    };
    let (name, target) = (asked.database.as_str(), asked.target.database.as_str());
    let toc = table_of_contents(from, name).await.map_err(of(name))?;
    let chosen = wanted(&toc, name, &asked.relations)?;
    let tables = chosen.as_ref().map(|chosen| tables_of(&toc, &chosen.tables));
    let ids = chosen.map(|chosen| chosen.ids);
    let mut capture = begin_with(from, name, true, tables.as_ref()).await.map_err(of(name))?;
    let dump = capture.database.clone().into_dump(name, ObjectRef::default(), capture.snapshot_at, Vec::new());
    let roles = Roles::of(&toc, ids.as_ref(), &dump.owner);
    let facts = look(to, target, &dump, &roles).await.map_err(of(target))?;
    is_free(&facts).map_err(RestoreError::Refused)?;
    let mut notes = Vec::new();
    let step = fill(component, (&dump, from.server_version), asked.relations.clone(), facts, &mut notes)
        .map_err(RestoreError::Refused)?;
    let text = format!("carry {name} over into {target}");
    progress.event(Event::Step { component, text: &text, total: (ids.is_none()).then_some(dump.database_bytes) });
    let spool = spool().map_err(of(target))?;
    let restore = Restore {
        again: None,
        tools: to,
        database: target,
        dump: &dump,
        create: step.create,
        owners: step.owners,
        relations: &step.relations,
        spool: spool.path(),
        moved: &|more| progress.event(Event::Bytes { component, more }),
    };
    let left_out = restore.run(Box::pin(pieces(&mut capture.dump))).await.map_err(of(target))?;
    notes.extend(left_out.into_iter().map(|what| format!("{name}: left out: {what}")));
    let rows = compare(capture, to, target).await.map_err(of(target))?;
    let text = format!("{target}: {rows} rows, as counted in {name} at that moment");
    progress.event(Event::Done { component, text: &text });
    Ok(notes)
}

/// The names of some tables.
fn tables_of(toc: &Toc, ids: &BTreeSet<i64>) -> BTreeSet<TableName> {
    let tables = toc.entries.iter().filter(|entry| ids.contains(&entry.id));
    tables.map(|entry| (entry.schema.clone(), entry.tag.clone())).collect()
}

/// A dump as it is written.
fn pieces(dump: &mut Stream) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send {
    futures::stream::try_unfold((dump, vec![0; PIECE]), |(dump, mut buffer)| async {
        let read = dump.read(&mut buffer).await.map_err(std::io::Error::other)?;
        let piece = Bytes::copy_from_slice(buffer.get(..read).unwrap_or_default());
        Ok((read > 0).then_some((piece, (dump, buffer))))
    })
}

/// Whether all rows arrived that were dumped; how many.
async fn compare(capture: DatabaseCapture, to: &Tools, target: &str) -> Result<u64, PostgresError> {
    let (_, counted) = capture.finish().await?;
    let expected: Vec<&TableCount> = counted.iter().collect();
    let mut session = Session::open(to, target).await?;
    let there = count_these(&mut session, &expected).await?;
    session.close().await;
    let differences = differences(&expected, &there);
    if differences.is_empty() {
        return Ok(expected.iter().map(|table| table.rows).sum());
    }
    let (database, why) = (target.to_owned(), differences.join("; "));
    let remains =
        "it was filled, and does not hold what it should: it is left for you to look at, and must not be used"
            .to_owned();
    let source = Box::new(PostgresError::Answer { database: database.clone(), why });
    Err(PostgresError::LeftBehind { database, remains, source })
}
