//! What is kept of restores: removed once its grace has ended or when somebody says so, or given up.

use jiff::Timestamp;
use windlass_core::application::Application;
use windlass_core::diagnose::chain;
use windlass_core::name::Name;
use windlass_core::restore::Step;
use windlass_engine::postgres::replace::{Names, drop_private, drop_unfinished};
use windlass_engine::progress::{Event, Progress};

use super::Work;
use super::forward::move_files;
use super::journal::{Journal, Lock, State};
use super::replaced::{Database, end_what_it_left, exchanges, folders, same_servers};
use super::tasks::Forward;
use crate::error::TaskError;
use crate::host::Host;

/// Whether something is kept of a restore that can be removed.
pub fn may_forget(journal: &Journal) -> Result<(), TaskError> {
    if journal.state.keeps() {
        return Ok(());
    }
    let why = format!("it is {}, and keeps nothing that could be removed", journal.state.word());
    Err(TaskError::no_undo(journal, why))
}

/// Whether there is something of a restore to be given up.
pub fn may_abandon(journal: &Journal) -> Result<(), TaskError> {
    if journal.state.is_unsettled() || journal.state.keeps() {
        return Ok(());
    }
    let why = format!("it is {}, and keeps nothing", journal.state.word());
    Err(TaskError::no_undo(journal, why))
}

/// Removes what is kept of a restore: from here on it cannot be undone. Returns what a person should know.
pub async fn forget(work: &Work<'_>, journal: &mut Journal, _lock: &Lock) -> Result<Vec<String>, TaskError> {
    may_forget(journal)?;
    same_servers(work, journal).await?;
    end_what_it_left(work, journal).await?;
    // Half of it is nothing that could be put back.
    journal.note(|journal| journal.state = State::Removing)?;
    let removed = remove(work, journal).await.map_err(|error| TaskError::halted(journal, error))?;
    journal.settle(|journal| journal.state = State::Over)?;
    Ok(removed)
}

async fn remove(work: &Work<'_>, journal: &Journal) -> Result<Vec<String>, TaskError> {
    let mut notes = Vec::new();
    // A folder the restore had made goes with what was in it, once that was taken back.
    let went_back = !journal.back.is_empty();
    for (index, step) in journal.plan.steps.iter().enumerate() {
        match step {
            Step::ReplaceDatabase(step) => {
                let database = Database::of(work.application, journal, index, step)?;
                let (tools, names) = (database.tools().await?, database.names());
                let restored = journal.restored.get(&index).map(|restored| restored.oid);
                drop_unfinished(&tools, names).await.map_err(TaskError::Postgres)?;
                for (private, ours) in [(&names.old, step.oid), (&names.undone, restored)] {
                    if drop_private(&tools, private, ours).await.map_err(TaskError::Postgres)? {
                        notes.push(format!("the database {private} is none of the restore's, and is left alone"));
                    }
                }
            }
            Step::ReplaceFiles(step) => {
                let places = exchanges(journal, index, step)?;
                let clear = move |place: &windlass_engine::exchange::Exchange| {
                    place.clear()?;
                    if went_back { place.leave_nothing() } else { Ok(()) }.map(|()| Vec::new())
                };
                move_files(places, clear).await?;
            }
            Step::ReplaceServer(step) => {
                let clear = move |place: &windlass_engine::exchange::Exchange| {
                    place.drop_nursery()?;
                    place.clear()?;
                    if went_back { place.leave_nothing() } else { Ok(()) }.map(|()| Vec::new())
                };
                move_files(folders(journal, index, step), clear).await?;
            }
            Step::Action(_)
            | Step::Database(_)
            | Step::Folder(_)
            | Step::DataFolder(_)
            | Step::Extract(_)
            | Step::Stop(_)
            | Step::ReplaceVolume(_)
            | Step::Start(_) => {}
        }
    }
    Ok(notes)
}

/// Gives a restore up as it is: nothing is moved or removed, and it is in nobody's way any more. Returns what it may have
/// left, by name.
pub fn abandon(journal: &mut Journal, _lock: &Lock) -> Result<Vec<String>, TaskError> {
    may_abandon(journal)?;
    let left = left_over(journal)?;
    journal.note(|journal| {
        journal.state = State::Abandoned;
        journal.finished = Some(Timestamp::now());
    })?;
    Ok(left)
}

/// The names of what a restore may have left.
fn left_over(journal: &Journal) -> Result<Vec<String>, TaskError> {
    let mut left = Vec::new();
    for (index, step) in journal.plan.steps.iter().enumerate() {
        match step {
            Step::ReplaceDatabase(step) => {
                let names = Names::of(journal.id, index, &step.fill.database);
                left.push(format!("{}: the database {} as it was before, if it is there", names.live, names.old));
                left.push(format!("{}: {} or {}, which were restored", names.live, names.new, names.undone));
            }
            Step::ReplaceFiles(step) => {
                left.extend(exchanges(journal, index, step)?.iter().flat_map(|place| left_in(&step.component, place)));
            }
            Step::ReplaceServer(step) => {
                let places = folders(journal, index, step);
                left.extend(places.iter().flat_map(|place| left_in(&step.component, place)));
                let nurseries = places.iter().map(windlass_engine::exchange::Exchange::nursery_path);
                let there = nurseries.filter(|path| path.exists());
                left.extend(
                    there.map(|path| format!("{}: {}, which was being restored", step.component, path.display())),
                );
                if journal.has_begun(Forward::Halt(index)) && journal.state.is_unsettled() {
                    left.push(format!("the server of {}, which may still be stopped: start it", step.component));
                }
            }
            Step::Action(_)
            | Step::Database(_)
            | Step::Folder(_)
            | Step::DataFolder(_)
            | Step::Extract(_)
            | Step::Stop(_)
            | Step::ReplaceVolume(_)
            | Step::Start(_) => {}
        }
    }
    if journal.has_begun(Forward::Stop) && journal.state.is_unsettled() {
        left.push("the application, which may still be stopped: start it".to_owned());
    }
    Ok(left)
}

fn left_in(component: &Name, place: &windlass_engine::exchange::Exchange) -> Vec<String> {
    let tell = |stage: &std::path::PathBuf| {
        format!("{component}: `out` of {}, as it was before; `in` and `undone`, restored", stage.display())
    };
    place.stages().iter().map(tell).collect()
}

/// Removes what is kept of restores whose grace has ended, as their plans said, where all of what they replaced is in the
/// new point. Returns those whose was removed.
pub async fn expire(
    host: &Host,
    application: &Application,
    in_the_point: &[Name],
    progress: &dyn Progress,
) -> Result<Vec<Journal>, TaskError> {
    let now = Timestamp::now();
    let is_over = |journal: &Journal| match journal.state {
        State::Restored | State::Undone | State::PutBack => journal.until.is_some_and(|until| until <= now),
        State::Removing => true,
        _ => false,
    };
    let is_in_the_point =
        |journal: &Journal| journal.plan.steps.iter().filter_map(Step::component).all(|c| in_the_point.contains(c));
    let is_due = |journal: &Journal| is_over(journal) && is_in_the_point(journal);
    if !Journal::all(&host.state, Some(&application.name))?.iter().any(is_due) {
        return Ok(Vec::new());
    }
    let lock = Lock::take(&host.state, &application.name)?;
    let work = Work { vault: None, manifests: &[], application, host, stopped: false, progress };
    let mut over = Vec::new();
    let warn = |text: &str| progress.event(Event::Warning { text });
    for mut journal in Journal::all(&host.state, Some(&application.name))?.into_iter().filter(is_due) {
        match forget(&work, &mut journal, &lock).await {
            Ok(notes) => {
                for note in &notes {
                    warn(note);
                }
                over.push(journal);
            }
            // The others go all the same.
            Err(error) => warn(&format!("the old copy of {} could not be removed: {}", journal.id, chain(&error))),
        }
    }
    Ok(over)
}
