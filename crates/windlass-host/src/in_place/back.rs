//! Puts back what was there: after a failure, or by `windlass undo`; and removes it once its grace has ended.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;
use windlass_core::restore::{Old, Step};
use windlass_engine::exchange::{Exchange, Side};
use windlass_engine::postgres::inspect::written;
use windlass_engine::postgres::replace::{drop_private, oid_of, put_back as put_database_back};
use windlass_engine::progress::Progress;
use windlass_repo::format::restic::is_stage;

use super::forward::{control, move_files, prove, step};
use super::journal::{Journal, Lock, State, Task, What};
use super::replacing::Replacing;
use super::{Work, replacing};
use crate::error::TaskError;
use crate::host::Host;

/// What is lost by an undo: what was written since the restore.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UndoImpact {
    /// Seconds since the restore came to its end.
    pub span_seconds: i64,
    /// By database, rows inserted, changed and deleted since; absent where the server does not tell.
    pub rows_written: Vec<(String, Option<u64>)>,
    /// Files, links and folders that were made or changed since.
    pub entries_changed: u64,
}

/// Tells what an undo would lose. Nothing is written.
pub async fn impact_of_undo(work: &Work<'_>, journal: &Journal) -> Result<UndoImpact, TaskError> {
    let Some(finished) = journal.finished else { return Ok(UndoImpact::default()) };
    let now = Timestamp::now();
    let mut impact = UndoImpact { span_seconds: now.duration_since(finished).as_secs(), ..UndoImpact::default() };
    for (index, replacing) in replacing(work, journal)? {
        match replacing {
            Replacing::Database(database) => {
                let before = journal.restored.get(&index).map(|restored| restored.written);
                let tools = database.tools().await?;
                let after = written(&tools, &database.names.live).await.map_err(TaskError::Postgres)?;
                // A server that crashed counts anew.
                let rows = before.and_then(|before| after.checked_sub(before));
                impact.rows_written.push((database.names.live.clone(), rows));
            }
            Replacing::Files(_) => {
                if let Step::ReplaceFiles(step) = &journal.plan.steps[index] {
                    for place in &step.places {
                        impact.entries_changed += changed_since(Path::new(&place.path), finished);
                    }
                }
            }
        }
    }
    Ok(impact)
}

/// Entries whose inode changed after a moment. What cannot be read is not counted.
fn changed_since(path: &Path, moment: Timestamp) -> u64 {
    let Ok(meta) = path.symlink_metadata() else { return 0 };
    let is_newer = (meta.ctime(), meta.ctime_nsec()) > (moment.as_second(), moment.subsec_nanosecond().into());
    let mut count = u64::from(is_newer);
    if meta.is_dir() {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        count += entries.filter(|e| !is_stage(&e.file_name())).map(|e| changed_since(&e.path(), moment)).sum::<u64>();
    }
    count
}

/// Undoes a restore, or puts back what an interrupted one had changed. Returns what a person should know.
pub async fn undo(work: &Work<'_>, journal: &mut Journal, _lock: &Lock) -> Result<Vec<String>, TaskError> {
    if !journal.state.can_be_undone() {
        let why = format!("it is {}", journal.state.word());
        return Err(TaskError::NoUndo { restore: journal.id.to_string(), why });
    }
    let stands = |other: &Journal| {
        other.id > journal.id
            && (other.state.is_unsettled() || matches!(other.state, State::Restored | State::Unproven))
    };
    let all = Journal::all(&work.host.state, Some(&journal.application))?;
    if let Some(later) = all.into_iter().find(|other| stands(other)) {
        let why = format!("the restore {} came after it: undo that first, or `--forget` it", later.id);
        return Err(TaskError::NoUndo { restore: journal.id.to_string(), why });
    }
    if matches!(journal.state, State::Running | State::PuttingBack) {
        journal.note(|journal| {
            journal.state = State::PuttingBack;
            journal.failure.get_or_insert_with(|| "it was interrupted, and then undone".to_owned());
        })?;
        put_back(work, journal).await?;
        return Ok(Vec::new());
    }
    journal.note(|journal| {
        journal.state = State::Undoing;
        if journal.back.is_empty() {
            journal.back = tasks_of(journal, true);
        }
    })?;
    let notes = carry_out(work, journal).await?;
    journal.note(|journal| {
        journal.state = State::Undone;
        journal.finished = Some(Timestamp::now());
    })?;
    let proven = prove(work, &journal.plan).await;
    match proven {
        Ok(more) => Ok([notes, more].concat()),
        Err(error) => Ok([notes, vec![windlass_core::diagnose::chain(&error)]].concat()),
    }
}

/// Puts back what was there before a restore that failed. What was restored so far is removed.
pub(super) async fn put_back(work: &Work<'_>, journal: &mut Journal) -> Result<(), TaskError> {
    if journal.back.is_empty() {
        let tasks = tasks_of(journal, false);
        journal.note(|journal| journal.back = tasks)?;
    }
    carry_out(work, journal).await?;
    journal.note(|journal| {
        journal.state = State::PutBack;
        journal.finished = Some(Timestamp::now());
    })
}

/// The tasks that put back what was there, by how far the restore came.
fn tasks_of(journal: &Journal, keep_what_was_restored: bool) -> Vec<Task> {
    let mut tasks = Vec::new();
    let begun = |what| journal.has_begun(what);
    if begun(What::Start) || (begun(What::Prove) && begun(What::Stop)) {
        tasks.push(What::Stop);
    }
    for (index, step) in journal.plan.steps.iter().enumerate() {
        match step {
            Step::ReplaceFiles(_) => {
                if begun(What::PutIn(index)) {
                    tasks.extend([What::TakeOut(index), What::Prune(index)]);
                }
                if begun(What::TakeOut(index)) {
                    tasks.push(What::PutIn(index));
                }
            }
            // What the plan deleted first is not there to be put back.
            Step::ReplaceDatabase(step)
                if (begun(What::Fence(index)) || begun(What::Switch(index)))
                    && (step.old != Old::Deleted || !begun(What::Delete(index))) =>
            {
                tasks.push(What::PutBack(index));
            }
            _ => {}
        }
    }
    if begun(What::Stop) {
        tasks.push(What::Start);
    }
    if !keep_what_was_restored {
        let begun = (0..journal.plan.steps.len()).filter(|index| begun(What::LayDown(*index)));
        tasks.extend(begun.map(What::Discard));
    }
    tasks.into_iter().map(|what| Task { what, begun: None, done: None }).collect()
}

async fn carry_out(work: &Work<'_>, journal: &mut Journal) -> Result<Vec<String>, TaskError> {
    let mut notes = Vec::new();
    for index in 0..journal.back.len() {
        if journal.back[index].done.is_some() {
            continue;
        }
        let what = journal.back[index].what;
        journal.note(|journal| {
            journal.back[index].begun.get_or_insert(Timestamp::now());
        })?;
        notes.extend(back(work, journal, what).await?);
        journal.note(|journal| journal.back[index].done = Some(Timestamp::now()))?;
    }
    Ok(notes)
}

async fn back(work: &Work<'_>, journal: &Journal, what: What) -> Result<Vec<String>, TaskError> {
    let index = match what {
        What::Stop | What::Start => return control(work, what).await.map(|()| Vec::new()),
        What::TakeOut(step) | What::Prune(step) | What::PutIn(step) | What::PutBack(step) | What::Discard(step) => step,
        _ => return Ok(Vec::new()),
    };
    let is_failure = journal.state == State::PuttingBack;
    match replacing(work, journal)?.remove(&index) {
        Some(Replacing::Files(places)) => {
            if let (What::PutIn(_), Some(component)) = (what, journal.plan.steps[index].component()) {
                step(work.progress, component, "put the files back", None);
            }
            move_files(places, move |place| put_files(place, what)).await
        }
        Some(Replacing::Database(database)) => {
            let (tools, names) = (database.tools().await?, &database.names);
            if what == What::PutBack(index) {
                if let Some(component) = journal.plan.steps[index].component() {
                    step(work.progress, component, &format!("put the database {} back", names.live), None);
                }
                let restored = journal.restored.get(&index).map(|restored| restored.oid);
                put_database_back(&tools, names, database.oid, restored).await.map_err(TaskError::Postgres)?;
            } else if is_failure {
                drop_private(&tools, &names.new).await.map_err(TaskError::Postgres)?;
                // Somebody may have made a database of that name meanwhile: what is not ours stays.
                let undone = oid_of(&tools, &names.undone).await.map_err(TaskError::Postgres)?;
                let restored = journal.restored.get(&index).map(|restored| restored.oid);
                if undone.is_some() && undone == restored {
                    drop_private(&tools, &names.undone).await.map_err(TaskError::Postgres)?;
                } else if undone.is_some() {
                    return Ok(vec![format!(
                        "a database {} that somebody made meanwhile is kept as {}",
                        names.live, names.undone
                    )]);
                }
            }
            Ok(Vec::new())
        }
        None => Ok(Vec::new()),
    }
}

fn put_files(place: &Exchange, what: What) -> Result<Vec<String>, windlass_engine::exchange::ExchangeError> {
    match what {
        What::TakeOut(_) => place.take_out(Side::Undone).map(|()| Vec::new()),
        What::Prune(_) => place.prune(Side::Out).map(|()| Vec::new()),
        What::PutIn(_) => place.put_in(Side::Out, Side::Undone),
        _ => place.clear().map(|()| Vec::new()),
    }
}

/// Removes what is kept of a restore: after that it cannot be undone.
pub async fn forget(work: &Work<'_>, journal: &mut Journal, _lock: &Lock) -> Result<(), TaskError> {
    if !journal.state.keeps() {
        let why = format!("it is {}, and keeps nothing", journal.state.word());
        return Err(TaskError::NoUndo { restore: journal.id.to_string(), why });
    }
    for (_, replacing) in replacing(work, journal)? {
        match replacing {
            Replacing::Database(database) => {
                let tools = database.tools().await?;
                for private in [&database.names.old, &database.names.new, &database.names.undone] {
                    drop_private(&tools, private).await.map_err(TaskError::Postgres)?;
                }
            }
            Replacing::Files(places) => {
                move_files(places, |place| place.clear().map(|()| Vec::new())).await?;
            }
        }
    }
    journal.note(|journal| journal.state = State::Over)
}

/// Removes what is kept of restores whose grace has ended, as their plans said. Returns those whose was removed.
pub async fn expire(
    host: &Host,
    application: &windlass_core::application::Application,
    progress: &dyn Progress,
) -> Result<Vec<Journal>, TaskError> {
    let now = Timestamp::now();
    let is_over = |journal: &Journal| journal.state.keeps() && journal.until.is_some_and(|until| until <= now);
    let mut over = Vec::new();
    for mut journal in Journal::all(&host.state, Some(&application.name))?.into_iter().filter(is_over) {
        let lock = Lock::take(&host.state, &application.name)?;
        let work = Work { vault: None, manifests: &[], application, host, progress };
        forget(&work, &mut journal, &lock).await?;
        over.push(journal);
    }
    Ok(over)
}
