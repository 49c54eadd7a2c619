//! What is lost by an undo: what was written since the restore.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;
use windlass_core::diagnose::chain;
use windlass_core::restore::Step;
use windlass_engine::postgres::inspect::{Written, written};
use windlass_repo::format::restic::is_stage;

use super::Work;
use super::forward::blocking;
use super::journal::Journal;
use super::replaced::Database;
use crate::error::TaskError;

/// What is lost by an undo.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UndoImpact {
    /// Seconds since the restore came to its end.
    pub span_seconds: i64,
    /// What is lost of databases.
    pub databases: Vec<DatabaseLoss>,
    /// Files, links and folders that were made or changed since.
    pub entries_changed: u64,
}

/// What is lost of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DatabaseLoss {
    /// Its name.
    pub database: String,
    /// Rows inserted, changed and deleted since; absent where that is not known.
    pub rows_written: Option<u64>,
    /// Why it is not known, where its server does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

/// Tells what an undo would lose. Nothing is written.
pub async fn impact_of_undo(work: &Work<'_>, journal: &Journal) -> Result<UndoImpact, TaskError> {
    let Some(finished) = journal.finished else { return Ok(UndoImpact::default()) };
    let now = Timestamp::now();
    let mut impact = UndoImpact { span_seconds: now.duration_since(finished).as_secs(), ..UndoImpact::default() };
    for (index, step) in journal.plan.steps.iter().enumerate() {
        match step {
            Step::ReplaceDatabase(step) => {
                let before = journal.restored.get(&index).map(|restored| restored.written);
                let database = step.fill.database.clone();
                impact.databases.push(match rows_now(work, journal, index, step).await {
                    // A server that crashed counts anew.
                    Ok(now) => DatabaseLoss {
                        database,
                        rows_written: before.and_then(|before| now.rows.checked_sub(before.rows)),
                        unknown: None,
                    },
                    Err(error) => DatabaseLoss { database, rows_written: None, unknown: Some(chain(&error)) },
                });
            }
            Step::ReplaceFiles(step) => {
                let places: Vec<PathBuf> = step.places.iter().map(|place| PathBuf::from(&place.path)).collect();
                let changed = move || Ok(places.iter().map(|place| touched_since(place, finished)).sum::<u64>());
                impact.entries_changed += blocking(changed).await?;
            }
            // What is written since to a server as a whole is not counted.
            Step::ReplaceServer(_)
            | Step::Action(_)
            | Step::Database(_)
            | Step::Folder(_)
            | Step::DataFolder(_)
            | Step::Extract(_)
            | Step::Stop(_)
            | Step::ReplaceVolume(_)
            | Step::Start(_) => {}
        }
    }
    Ok(impact)
}

async fn rows_now(
    work: &Work<'_>,
    journal: &Journal,
    index: usize,
    step: &windlass_core::restore::ReplaceDatabase,
) -> Result<Written, TaskError> {
    let database = Database::of(work.application, journal, index, step)?;
    written(&database.tools().await?, &database.names().live).await.map_err(TaskError::Postgres)
}

/// Entries whose inode changed after a moment. What cannot be read is not counted.
fn touched_since(path: &Path, moment: Timestamp) -> u64 {
    let Ok(meta) = path.symlink_metadata() else { return 0 };
    let is_newer = (meta.ctime(), meta.ctime_nsec()) > (moment.as_second(), moment.subsec_nanosecond().into());
    let mut count = u64::from(is_newer);
    if meta.is_dir() {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        count += entries.filter(|e| !is_stage(&e.file_name())).map(|e| touched_since(&e.path(), moment)).sum::<u64>();
    }
    count
}
