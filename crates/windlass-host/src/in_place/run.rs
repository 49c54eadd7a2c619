//! Runs a restore in place, from its plan or from where it was interrupted.

use jiff::{SignedDuration, Timestamp};
use windlass_core::diagnose::chain;
use windlass_core::point::ComponentManifest;
use windlass_engine::moment;
use windlass_engine::progress::{Event, Progress};
use windlass_repo::catalog::{Catalog, Entry};
use windlass_repo::vault::Vault;

use super::back::{put_back, stop_again};
use super::journal::{Journal, Lock, State};
use super::replaced::{end_what_it_left, same_servers};
use super::tasks::{self, Forward};
use super::{Done, Work, forward};
use crate::error::TaskError;
use crate::restore::{Here, Planned, look_again};
use crate::verify::{pin, unpin};

/// Runs a plan. Until its journal is on disk, nothing but the repository is touched; from there on it is finished or put
/// back.
pub async fn run(
    vault: &Vault,
    catalog: &Catalog,
    entry: &Entry,
    planned: &Planned,
    here: Here<'_>,
    stopped: bool,
    progress: &dyn Progress,
) -> Result<Done, TaskError> {
    let (host, application) = (here.host, here.application);
    let _lock = Lock::take(&host.state, &application.name)?;
    if let Some(journal) = Journal::unsettled(&host.state, &application.name)? {
        return Err(TaskError::unsettled(&journal));
    }
    let pin = pin(vault, entry, "restore in place", progress).await?;
    look_again(vault, catalog, entry, planned, Some(here), progress).await?;
    let journal = Journal::begin(&host.state, &planned.plan, &planned.digest, &planned.request)?;
    let work = Work { vault: Some(vault), manifests: &planned.manifests, application, host, stopped, progress };
    let done = carry_on(&work, journal).await;
    unpin(pin).await;
    done
}

/// Goes on with a restore that was interrupted; whoever holds the lock has read its journal since.
pub async fn finish(
    vault: &Vault,
    entry: &Entry,
    mut journal: Journal,
    _lock: &Lock,
    here: Here<'_>,
    stopped: bool,
    progress: &dyn Progress,
) -> Result<Done, TaskError> {
    let pin = pin(vault, entry, "restore in place", progress).await?;
    let mut manifests: Vec<ComponentManifest> = Vec::new();
    for summary in &entry.point.components {
        manifests.push(vault.component(&entry.point, summary).await?);
    }
    let (host, application) = (here.host, here.application);
    let work = Work { vault: Some(vault), manifests: &manifests, application, host, stopped, progress };
    same_servers(&work, &journal).await?;
    end_what_it_left(&work, &journal).await?;
    let stopped_again = stop_again(&work, &journal).await;
    stopped_again.map_err(|error| TaskError::halted(&journal, error))?;
    let done = if journal.state == State::PuttingBack {
        let notes = put_back(&work, &mut journal).await.map_err(|error| TaskError::halted(&journal, error))?;
        let failure = journal.failure.clone().unwrap_or_default();
        Err(TaskError::put_back(TaskError::Before { failure }, &journal, notes))
    } else {
        carry_on(&work, journal).await
    };
    unpin(pin).await;
    done
}

/// Carries out what is left of the tasks. A failure puts back what was there.
async fn carry_on(work: &Work<'_>, mut journal: Journal) -> Result<Done, TaskError> {
    let mut notes = Vec::new();
    for index in 0..journal.tasks.len() {
        if journal.tasks[index].done.is_some() {
            continue;
        }
        let what = journal.tasks[index].what;
        journal.settle(|journal| journal.tasks[index].begin())?;
        moment::reach("before", &what);
        match forward::carry_out(work, &mut journal, what).await {
            Ok(more) => notes.extend(more),
            Err(error) if matches!(what, Forward::Start | Forward::Prove) => {
                journal.settle(|journal| {
                    journal.state = State::Unproven;
                    journal.failure = Some(error.without_output());
                    journal.finished = Some(Timestamp::now());
                })?;
                return Err(TaskError::Unproven { restore: journal.id, source: Box::new(error) });
            }
            Err(error) => return Err(fail(work, journal, error).await),
        }
        journal.settle(|journal| journal.tasks[index].end())?;
        moment::reach("after", &what);
    }
    journal.settle(|journal| {
        journal.state = State::Restored;
        journal.keep_until_its_grace_ends();
    })?;
    Ok(Done { journal, notes })
}

/// Puts back what was there after a failure, and tells both. Where what was there is deleted, there is nothing to be put
/// back, and it stays as it is: the same command goes on with it.
async fn fail(work: &Work<'_>, mut journal: Journal, error: TaskError) -> TaskError {
    let failure = error.without_output();
    if (0..journal.plan.steps.len()).any(|step| journal.has_begun(Forward::Delete(step))) {
        return match journal.settle(|journal| journal.failure = Some(failure)) {
            Ok(()) => TaskError::halted(&journal, error),
            Err(error) => error,
        };
    }
    work.progress
        .event(Event::Warning { text: &format!("it failed, and what was there is put back: {}", chain(&error)) });
    let begun = journal.settle(|journal| {
        journal.state = State::PuttingBack;
        journal.failure = Some(failure);
        journal.back = tasks::back(journal, false);
    });
    let done = match begun {
        Ok(()) => put_back(work, &mut journal).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(notes) => TaskError::put_back(error, &journal, notes),
        Err(source) => TaskError::Stuck { restore: journal.id, failure: chain(&error), source: Box::new(source) },
    }
}

impl Journal {
    /// Writes down how far the restore is. Where that cannot be written, it stops there, half-way.
    pub(super) fn settle(&mut self, change: impl FnOnce(&mut Self)) -> Result<(), TaskError> {
        self.note(change).map_err(|error| TaskError::halted(self, error))
    }

    /// It came to an end now, and what it keeps stays for as long as the plan says.
    pub(super) fn keep_until_its_grace_ends(&mut self) {
        let now = Timestamp::now();
        let grace = self.plan.undo_seconds.map(SignedDuration::from_secs);
        self.finished = Some(now);
        self.until = grace.and_then(|grace| now.checked_add(grace).ok());
    }
}
