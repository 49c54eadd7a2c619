//! Puts back what was there: after a failure, or by `windlass undo`.

use jiff::Timestamp;
use windlass_core::diagnose::chain;
use windlass_core::restore::{Old, ReplaceDatabase, ReplaceFiles, Step};
use windlass_engine::exchange::{Exchange, Side};
use windlass_engine::moment;
use windlass_engine::postgres::PostgresError;
use windlass_engine::postgres::inspect::written;
use windlass_engine::postgres::replace::{
    PutBack, drop_private, drop_unfinished, let_in, oid_of, put_back as put_database_back,
};

use super::Work;
use super::forward::{blocking, move_files, prove, say, start, stop};
use super::journal::{Journal, Lock, State};
use super::replaced::{Database, exchanges, same_servers};
use super::tasks::{self, Back, Forward};
use crate::error::TaskError;

/// What came of putting back what was there.
#[derive(Debug, Default)]
pub(crate) struct Returned {
    /// What a person should know.
    pub(crate) notes: Vec<String>,
    /// What could not come back, in words.
    pub(crate) gone: Vec<String>,
    /// Why the application did not start again.
    pub(crate) unstarted: Option<Box<TaskError>>,
    /// Whether something of what was restored is kept, because it was changed since.
    kept: bool,
}

/// What came of an undo.
#[derive(Debug)]
pub struct Undone {
    /// What a person should know.
    pub notes: Vec<String>,
    /// What could not come back, in words.
    pub gone: Vec<String>,
    /// Why the application is not proven to work: it did not start, or a check failed.
    pub unproven: Option<Box<TaskError>>,
}

/// Undoes a restore, or puts back what an interrupted one had changed. Whoever holds the lock has read its journal since.
pub async fn undo(work: &Work<'_>, journal: &mut Journal, _lock: &Lock) -> Result<Undone, TaskError> {
    refuse(work, journal)?;
    same_servers(work, journal).await?;
    let returned = match journal.state {
        State::Running | State::PuttingBack => {
            journal.settle(|journal| {
                journal.state = State::PuttingBack;
                journal.failure.get_or_insert_with(|| "it was interrupted, and then undone".to_owned());
                if journal.back.is_empty() {
                    journal.back = tasks::back(journal, false);
                }
            })?;
            stop_again(work, journal).await.map_err(|error| TaskError::halted(journal, error))?;
            put_back(work, journal).await
        }
        _ => {
            journal.settle(|journal| {
                if journal.state != State::Undoing {
                    journal.back = tasks::back(journal, true);
                }
                journal.state = State::Undoing;
            })?;
            stop_again(work, journal).await.map_err(|error| TaskError::halted(journal, error))?;
            take_back(work, journal).await
        }
    };
    let Returned { mut notes, gone, unstarted, .. } = returned.map_err(|error| TaskError::halted(journal, error))?;
    let unproven = match unstarted {
        Some(error) => Some(error),
        None => match prove(work, &journal.plan).await {
            Ok(more) => {
                notes.extend(more);
                None
            }
            Err(error) => Some(Box::new(error)),
        },
    };
    Ok(Undone { notes, gone, unproven })
}

/// Why a restore cannot be undone, where it cannot.
fn refuse(work: &Work<'_>, journal: &Journal) -> Result<(), TaskError> {
    let no = |why| Err(TaskError::NoUndo { restore: journal.id.to_string(), why });
    if !journal.state.can_be_undone() {
        return no(format!("it is {}", journal.state.word()));
    }
    let stands = |other: &Journal| other.id > journal.id && other.state.can_be_undone();
    let all = Journal::all(&work.host.state, Some(&journal.application))?;
    match all.into_iter().find(stands) {
        Some(later) => no(format!("the restore {} came after it: undo that first, or `--forget` it", later.id)),
        None => Ok(()),
    }
}

/// Stops an application that an interrupted restore had stopped: since then the machine may have started it again.
pub(super) async fn stop_again(work: &Work<'_>, journal: &Journal) -> Result<(), TaskError> {
    let is_open = |task: &super::journal::Task<Back>| task.done.is_none();
    let needed = match journal.state {
        State::Running => journal.has_done(Forward::Stop) && !journal.has_begun(Forward::Start),
        State::PuttingBack | State::Undoing => {
            let stops = journal.back.iter().any(|task| task.what == Back::Stop && is_open(task));
            journal.has_begun(Forward::Stop)
                && !stops
                && journal.back.iter().any(|task| task.what.moves_data() && is_open(task))
        }
        _ => false,
    };
    if needed { stop(work).await } else { Ok(()) }
}

/// Puts back what was there before a restore that failed. What was restored so far is removed, unless somebody changed it.
pub(super) async fn put_back(work: &Work<'_>, journal: &mut Journal) -> Result<Returned, TaskError> {
    if journal.back.is_empty() {
        let tasks = tasks::back(journal, false);
        journal.note(|journal| journal.back = tasks)?;
    }
    let returned = carry_out(work, journal).await?;
    journal.note(|journal| {
        journal.state = State::PutBack;
        journal.finished = Some(Timestamp::now());
        if returned.kept {
            journal.keep_until_its_grace_ends();
        }
    })?;
    Ok(returned)
}

/// Puts back what was there before a restore that is undone. What was restored is kept until the grace ends.
async fn take_back(work: &Work<'_>, journal: &mut Journal) -> Result<Returned, TaskError> {
    let returned = carry_out(work, journal).await?;
    journal.note(|journal| {
        journal.state = State::Undone;
        journal.keep_until_its_grace_ends();
    })?;
    Ok(returned)
}

async fn carry_out(work: &Work<'_>, journal: &mut Journal) -> Result<Returned, TaskError> {
    let mut returned = Returned::default();
    for index in 0..journal.back.len() {
        if journal.back[index].done.is_some() {
            continue;
        }
        let what = journal.back[index].what;
        journal.note(|journal| journal.back[index].begin())?;
        moment::reach("before back", &what);
        back(work, journal, what, &mut returned).await?;
        journal.note(|journal| journal.back[index].end())?;
    }
    for (index, step) in journal.plan.steps.iter().enumerate() {
        if let (Step::Action(step), true) = (step, journal.has_begun(Forward::Command(index))) {
            returned.gone.push(format!("what the command of {} overwrote", step.component));
        }
    }
    Ok(returned)
}

async fn back(work: &Work<'_>, journal: &Journal, what: Back, returned: &mut Returned) -> Result<(), TaskError> {
    let index = match what {
        Back::Stop => return stop(work).await,
        Back::Start => {
            // The data are what they were; that it does not start keeps nobody from anything.
            returned.unstarted = start(work).await.err().map(Box::new);
            return Ok(());
        }
        Back::TakeOut(step) | Back::Prune(step) | Back::PutIn(step) | Back::Switch(step) | Back::Discard(step) => step,
    };
    match &journal.plan.steps[index] {
        Step::ReplaceFiles(step) => {
            let places = exchanges(journal, index, step)?;
            match what {
                Back::TakeOut(_) => {
                    returned.notes.extend(move_files(places, |place| place.take_out(Side::Undone)).await?);
                }
                Back::Prune(_) => {
                    move_files(places, |place| place.prune(Side::Out).map(|()| Vec::new())).await?;
                }
                Back::PutIn(_) => {
                    say(work.progress, &step.component, "put the files back");
                    returned.notes.extend(move_files(places, |place| place.put_in(Side::Out, Side::Undone)).await?);
                }
                Back::Discard(_) => discard_files(journal, index, step, places, returned).await?,
                Back::Switch(_) | Back::Stop | Back::Start => {}
            }
        }
        Step::ReplaceDatabase(step) => {
            let database = Database::of(work.application, journal, index, step)?;
            match what {
                Back::Switch(_) => put_one_back(work, journal, index, step, &database, returned).await?,
                Back::Discard(_) => discard_database(journal, index, &database, returned).await?,
                Back::TakeOut(_) | Back::Prune(_) | Back::PutIn(_) | Back::Stop | Back::Start => {}
            }
        }
        Step::Action(_) | Step::Database(_) | Step::Folder(_) | Step::Stop(_) | Step::Start(_) => {}
    }
    Ok(())
}

async fn put_one_back(
    work: &Work<'_>,
    journal: &Journal,
    index: usize,
    step: &ReplaceDatabase,
    database: &Database,
    returned: &mut Returned,
) -> Result<(), TaskError> {
    let (tools, names) = (database.tools().await?, database.names());
    say(work.progress, &step.fill.component, &format!("put the database {} back", names.live));
    let restored = journal.restored.get(&index).map(|restored| restored.oid);
    match put_database_back(&tools, &database.replaced, restored).await.map_err(TaskError::Postgres)? {
        PutBack::Done => {}
        PutBack::BesideAStranger => returned
            .notes
            .push(format!("a database {} that somebody made meanwhile is kept as {}", names.live, names.undone)),
        PutBack::Gone if step.old == Old::Deleted => {
            returned.gone.push(format!("the database {}, which the plan deleted first", names.live));
        }
        PutBack::Gone => {
            let why = "what was there before the restore is not there any more".to_owned();
            return Err(TaskError::Postgres(PostgresError::Moved { database: names.live.clone(), why }));
        }
    }
    Ok(())
}

async fn discard_database(
    journal: &Journal,
    index: usize,
    database: &Database,
    returned: &mut Returned,
) -> Result<(), TaskError> {
    let (tools, names) = (database.tools().await?, database.names());
    drop_unfinished(&tools, names).await.map_err(TaskError::Postgres)?;
    // It had its name for a while, and somebody may have written to it.
    let Some(restored) = journal.restored.get(&index) else { return Ok(()) };
    let there = oid_of(&tools, &names.undone).await.map_err(TaskError::Postgres)?;
    if there == Some(restored.oid) {
        let_in(&tools, names, &names.undone).await.map_err(TaskError::Postgres)?;
        let now = written(&tools, &names.undone).await.map_err(TaskError::Postgres)?;
        if now == restored.written {
            drop_private(&tools, &names.undone, there).await.map_err(TaskError::Postgres)?;
        } else {
            returned.kept = true;
            let (live, kept) = (&names.live, &names.undone);
            returned
                .notes
                .push(format!("{live} was written to after it had been restored: that copy is kept as {kept}"));
        }
    }
    Ok(())
}

async fn discard_files(
    journal: &Journal,
    index: usize,
    step: &ReplaceFiles,
    places: Vec<Exchange>,
    returned: &mut Returned,
) -> Result<(), TaskError> {
    // What was put in is as old as its restore; what is younger is the application's.
    let since = journal.begun(Forward::PutIn(index)).unwrap_or(Timestamp::UNIX_EPOCH);
    let component = step.component.clone();
    let notes = blocking(move || {
        let mut notes = Vec::new();
        for place in &places {
            let changed = place.changed_since(Side::Undone, since)?;
            if changed == 0 {
                place.clear()?;
                place.leave_nothing()?;
            } else {
                let stages: Vec<String> = place.stages().iter().map(|stage| stage.display().to_string()).collect();
                let kept = stages.join(", ");
                notes.push(format!(
                    "{component}: {changed} entries were made or changed meanwhile: they are kept in {kept}"
                ));
            }
        }
        Ok(notes)
    });
    let notes = notes.await?;
    returned.kept |= !notes.is_empty();
    returned.notes.extend(notes);
    Ok(())
}

impl TaskError {
    /// A restore failed, and what was there is back.
    pub(super) fn put_back(source: Self, returned: Returned) -> Self {
        let Returned { notes, gone, unstarted, .. } = returned;
        let unstarted = unstarted.map(|error| chain(&*error));
        Self::PutBack { source: Box::new(source), notes, gone, unstarted }
    }
}
