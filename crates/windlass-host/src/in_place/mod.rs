//! Restores in the place of what is there, with undo.
//!
//! ```text
//! stop → set aside → lay down beside → check → switch → start → check → (undo until the grace ends)
//! ```
//!
//! Promised: what is done is exactly the confirmed plan, as a list of tasks that is on disk before the first is begun
//! ([`journal`]); a failure before the end puts back what was there; a kill at any moment leaves a restore that the same
//! command finishes, and that `windlass undo` puts back; nothing that was there is deleted before its grace has ended, but
//! where the plan says so. Not promised: that data written between the point and the restore are merged, or that an
//! application which nothing stops does not write meanwhile.

mod back;
mod forward;
pub mod journal;
pub mod look;
mod replacing;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use windlass_core::application::Application;
use windlass_core::diagnose::chain;
use windlass_core::point::ComponentManifest;
use windlass_core::restore::{Old, Plan, Step};
use windlass_engine::progress::{Event, Progress};
use windlass_repo::vault::Vault;

use self::journal::{Journal, Lock, State, What};
use self::replacing::Replacing;
use crate::error::TaskError;
use crate::host::Host;

pub use self::back::{UndoImpact, expire, forget, impact_of_undo, undo};

/// What a restore in place works with.
pub struct Work<'a> {
    /// The application's part of the repository; none where only what is there is put back.
    pub vault: Option<&'a Vault>,
    /// The manifests of the point.
    pub manifests: &'a [ComponentManifest],
    /// The application.
    pub application: &'a Application,
    /// This machine.
    pub host: &'a Host,
    /// Whoever watches.
    pub progress: &'a dyn Progress,
}

/// What came of a restore in place.
pub struct Done {
    /// Its journal.
    pub journal: Journal,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// The tasks of a plan, in order.
fn tasks_of(plan: &Plan) -> Vec<What> {
    let steps = || plan.steps.iter().enumerate();
    let databases = || steps().filter_map(|(index, step)| matches!(step, Step::ReplaceDatabase(_)).then_some(index));
    let files = || steps().filter_map(|(index, step)| matches!(step, Step::ReplaceFiles(_)).then_some(index));
    let deleted =
        |index: &usize| matches!(&plan.steps[*index], Step::ReplaceDatabase(step) if step.old == Old::Deleted);
    let mut tasks = Vec::new();
    tasks.extend(steps().any(|(_, step)| matches!(step, Step::Stop(_))).then_some(What::Stop));
    tasks.extend(databases().map(What::Fence));
    tasks.extend(databases().filter(deleted).map(What::Delete));
    tasks.extend(databases().map(What::LayDown));
    tasks.extend(files().map(What::LayDown));
    tasks.extend(databases().map(What::Check));
    tasks.extend(databases().map(What::Switch));
    tasks.extend(files().flat_map(|index| [What::TakeOut(index), What::Prune(index), What::PutIn(index)]));
    tasks.extend(steps().filter_map(|(index, step)| matches!(step, Step::Action(_)).then_some(What::Command(index))));
    tasks.extend(steps().any(|(_, step)| matches!(step, Step::Start(_))).then_some(What::Start));
    tasks.push(What::Prove);
    tasks
}

/// Begins a restore in place: from here on it is finished or put back.
pub fn begin(
    host: &Host,
    plan: &Plan,
    digest: &str,
    request: &windlass_core::restore::Request,
) -> Result<Journal, TaskError> {
    Journal::begin(&host.state, plan, digest, request, tasks_of(plan))
}

/// Carries on with a restore, from its first task or from where it was interrupted. A failure puts back what was there.
pub async fn carry_on(work: &Work<'_>, mut journal: Journal, _lock: &Lock) -> Result<Done, TaskError> {
    if journal.state == State::PuttingBack {
        let failure = journal.failure.clone().unwrap_or_default();
        back::put_back(work, &mut journal).await?;
        let why = TaskError::NoUndo { restore: journal.id.to_string(), why: format!("it had failed: {failure}") };
        return Err(TaskError::PutBack(Box::new(why)));
    }
    let mut notes = Vec::new();
    for index in 0..journal.tasks.len() {
        if journal.tasks[index].done.is_some() {
            continue;
        }
        let what = journal.tasks[index].what;
        journal.note(|journal| {
            journal.tasks[index].begun.get_or_insert(Timestamp::now());
        })?;
        match forward::carry_out(work, &mut journal, what).await {
            Ok(more) => notes.extend(more),
            Err(error) if matches!(what, What::Start | What::Prove) => {
                journal.note(|journal| {
                    journal.state = State::Unproven;
                    journal.failure = Some(chain(&error));
                    end(journal);
                })?;
                return Err(TaskError::Unproven { restore: journal.id, source: Box::new(error) });
            }
            Err(error) => return Err(fail(work, journal, error).await),
        }
        journal.note(|journal| journal.tasks[index].done = Some(Timestamp::now()))?;
    }
    journal.note(|journal| {
        journal.state = State::Restored;
        end(journal);
    })?;
    Ok(Done { journal, notes })
}

fn end(journal: &mut Journal) {
    let now = Timestamp::now();
    journal.finished = Some(now);
    let grace = journal.plan.undo_seconds.map(SignedDuration::from_secs);
    journal.until = grace.and_then(|grace| now.checked_add(grace).ok());
}

async fn fail(work: &Work<'_>, mut journal: Journal, error: TaskError) -> TaskError {
    work.progress
        .event(Event::Warning { text: &format!("it failed, and what was there is put back: {}", chain(&error)) });
    let begun = journal.note(|journal| {
        journal.state = State::PuttingBack;
        journal.failure = Some(chain(&error));
    });
    let done = match begun {
        Ok(()) => back::put_back(work, &mut journal).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => TaskError::PutBack(Box::new(error)),
        Err(source) => TaskError::Stuck { restore: journal.id, failure: chain(&error), source: Box::new(source) },
    }
}

/// How each step of a plan is carried out.
fn replacing(work: &Work<'_>, journal: &Journal) -> Result<BTreeMap<usize, Replacing>, TaskError> {
    let mut all = BTreeMap::new();
    for (index, step) in journal.plan.steps.iter().enumerate() {
        if let Some(replacing) = Replacing::of(work.application, journal, index, step)? {
            all.insert(index, replacing);
        }
    }
    Ok(all)
}
