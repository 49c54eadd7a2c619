//! Puts back what was there: after a failure, or by `windlass undo`.

use jiff::Timestamp;
use windlass_core::diagnose::chain;
use windlass_core::restore::{Old, ReplaceDatabase, ReplaceFiles, Step};
use windlass_engine::exchange::{Exchange, Side};
use windlass_engine::moment;
use windlass_engine::postgres::PostgresError;
use windlass_engine::postgres::inspect::written;
use windlass_engine::postgres::replace::{
    PutBack, drop_private, drop_unfinished, is_invalid, let_in, oid_of, prepared, put_back as put_database_back,
};

use super::Work;
use super::forward::{Stage, blocking, doing, move_files, prove, start, stop};
use super::journal::{Journal, Lock, Returned, State, Task};
use super::replaced::{Database, end_what_it_left, exchanges, folders, same_servers};
use super::server;
use super::tasks::{self, Back, Forward};
use crate::error::TaskError;

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
    look_before(work, journal).await?;
    end_what_it_left(work, journal).await?;
    let is_failure = matches!(journal.state, State::Running | State::PuttingBack);
    journal.settle(|journal| {
        if !matches!(journal.state, State::PuttingBack | State::Undoing) || journal.back.is_empty() {
            journal.back = tasks::back(journal, !is_failure);
        }
        if is_failure {
            journal.state = State::PuttingBack;
            journal.failure.get_or_insert_with(|| "it was interrupted, and then undone".to_owned());
        } else {
            journal.state = State::Undoing;
        }
    })?;
    stop_again(work, journal).await.map_err(|error| TaskError::halted(journal, error))?;
    let returned = if is_failure { put_back(work, journal).await } else { take_back(work, journal).await };
    let mut notes = returned.map_err(|error| TaskError::halted(journal, error))?;
    for step in &journal.plan.steps {
        if let (Step::ReplaceServer(step), false) = (step, is_failure) {
            notes.push(format!(
                "{}: take a base backup now (`windlass backup {}`): the newest timeline in its archive is that of the server that was undone",
                step.component, journal.application
            ));
        }
    }
    let unproven = match &journal.returned.unstarted {
        Some(failure) => Some(TaskError::Before { failure: failure.clone() }),
        None => match prove(work, &journal.plan, Stage::Undone).await {
            Ok(more) => {
                notes.extend(more);
                None
            }
            Err(error) => Some(error),
        },
    };
    Ok(Undone { notes, gone: journal.returned.gone.clone(), unproven: unproven.map(Box::new) })
}

/// Nothing is begun where it could not be ended: what was there has to be there still.
async fn refuse_what_is_gone(work: &Work<'_>, journal: &Journal) -> Result<(), TaskError> {
    let no = |why| Err(TaskError::no_undo(journal, why));
    for (index, step) in journal.plan.steps.iter().enumerate() {
        match step {
            Step::ReplaceDatabase(step) if !journal.has_deleted(index) => {
                let database = Database::of(work.application, journal, index, step)?;
                let (tools, names) = (database.tools().await?, database.names());
                let old = oid_of(&tools, &names.old).await.map_err(TaskError::Postgres)?;
                if step.oid.is_some() && old != step.oid {
                    return no(format!(
                        "the database {}, which was {} before, is not there any more",
                        names.old, names.live
                    ));
                }
                let prepared = prepared(&tools, &names.live).await.map_err(TaskError::Postgres)?;
                if prepared > 0 {
                    return no(format!(
                        "{} has {prepared} prepared transactions: commit or roll back each",
                        names.live
                    ));
                }
                if oid_of(&tools, &names.undone).await.map_err(TaskError::Postgres)?.is_some() {
                    return no(format!("there is a database {} already, which is none of ours", names.undone));
                }
            }
            Step::ReplaceFiles(step) => can_go_back(journal, exchanges(journal, index, step)?).await?,
            Step::ReplaceServer(step) => can_go_back(journal, folders(journal, index, step)).await?,
            _ => {}
        }
    }
    Ok(())
}

/// That what was taken out of folders is there to be put back.
async fn can_go_back(journal: &Journal, places: Vec<Exchange>) -> Result<(), TaskError> {
    let looked = blocking(move || places.iter().try_for_each(Exchange::can_go_back)).await;
    looked.map_err(|error| {
        TaskError::no_undo(journal, format!("what was there before is not there any more: {}", chain(&error)))
    })
}

/// Looks whether a restore can be undone, before anything is touched.
pub async fn look_before(work: &Work<'_>, journal: &Journal) -> Result<(), TaskError> {
    refuse(work, journal)?;
    same_servers(work, journal).await?;
    if matches!(journal.state, State::Restored | State::Unproven) {
        refuse_what_is_gone(work, journal).await?;
    }
    Ok(())
}

/// Why a restore cannot be undone, where it cannot.
fn refuse(work: &Work<'_>, journal: &Journal) -> Result<(), TaskError> {
    let no = |why| Err(TaskError::no_undo(journal, why));
    if !journal.state.can_be_undone() {
        return no(format!("it is {}", journal.state.word()));
    }
    let stands = |other: &Journal| other.number > journal.number && other.state.can_be_undone();
    let all = Journal::all(&work.host.state, Some(&journal.application))?;
    match all.into_iter().find(stands) {
        Some(later) => no(format!("the restore {} came after it: undo that first, or `--forget` it", later.id)),
        None => Ok(()),
    }
}

/// Stops an application that an interrupted restore had stopped: since then the machine may have started it again.
pub(super) async fn stop_again(work: &Work<'_>, journal: &Journal) -> Result<(), TaskError> {
    let is_open = |task: &Task<Back>| task.done.is_none();
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
    if needed { stop(work, &journal.plan).await } else { Ok(()) }
}

/// Puts back what was there before a restore that failed. What was restored so far is removed, unless somebody changed it.
/// Returns what a person should know.
pub(super) async fn put_back(work: &Work<'_>, journal: &mut Journal) -> Result<Vec<String>, TaskError> {
    let notes = carry_out(work, journal).await?;
    journal.note(|journal| {
        journal.state = State::PutBack;
        journal.finished = Some(Timestamp::now());
        if journal.returned.kept {
            journal.keep_until_its_grace_ends();
        }
    })?;
    Ok(notes)
}

/// Puts back what was there before a restore that is undone. What was restored is kept until the grace ends.
async fn take_back(work: &Work<'_>, journal: &mut Journal) -> Result<Vec<String>, TaskError> {
    let notes = carry_out(work, journal).await?;
    journal.note(|journal| {
        journal.state = State::Undone;
        journal.keep_until_its_grace_ends();
    })?;
    Ok(notes)
}

async fn carry_out(work: &Work<'_>, journal: &mut Journal) -> Result<Vec<String>, TaskError> {
    let (mut notes, mut returned) = (Vec::new(), journal.returned.clone());
    for index in 0..journal.back.len() {
        if journal.back[index].done.is_some() {
            continue;
        }
        let what = journal.back[index].what;
        journal.note(|journal| journal.back[index].begin())?;
        moment::reach("before back", &what);
        notes.extend(back(work, journal, what, &mut returned).await?);
        journal.note(|journal| {
            journal.returned = returned.clone();
            journal.back[index].end();
        })?;
    }
    for (index, step) in journal.plan.steps.iter().enumerate() {
        if let (Step::Action(step), true) = (step, journal.has_begun(Forward::Command(index))) {
            returned.gone.push(format!("what the command of {} overwrote", step.component));
        }
    }
    journal.returned = returned;
    Ok(notes)
}

async fn back(
    work: &Work<'_>,
    journal: &Journal,
    what: Back,
    returned: &mut Returned,
) -> Result<Vec<String>, TaskError> {
    let index = match what {
        Back::Stop => return stop(work, &journal.plan).await.map(|()| Vec::new()),
        Back::Start => {
            // The data are what they were; that it does not start keeps nobody from anything.
            if let Err(error) = start(work).await {
                returned.unstarted.get_or_insert(error.without_output());
            }
            return Ok(Vec::new());
        }
        Back::Halt(step)
        | Back::TakeOut(step)
        | Back::Prune(step)
        | Back::PutIn(step)
        | Back::Launch(step)
        | Back::Switch(step)
        | Back::Discard(step) => step,
    };
    match &journal.plan.steps[index] {
        Step::ReplaceFiles(step) => {
            let places = exchanges(journal, index, step)?;
            match what {
                Back::TakeOut(_) => move_files(places, |place| place.take_out(Side::Undone)).await,
                Back::Prune(_) => move_files(places, |place| place.prune(Side::Out).map(|()| Vec::new())).await,
                Back::PutIn(_) => {
                    let put = move_files(places, |place| place.put_in(Side::Out, Side::Undone));
                    doing(work.progress, &step.component, "put the files back", put).await
                }
                Back::Discard(_) => discard_files(journal, index, step, places, returned).await,
                Back::Halt(_) | Back::Launch(_) | Back::Switch(_) | Back::Stop | Back::Start => Ok(Vec::new()),
            }
        }
        Step::ReplaceServer(step) => server::back(work, journal, (index, what), step, returned).await,
        Step::ReplaceDatabase(step) => {
            let database = Database::of(work.application, journal, index, step)?;
            match what {
                Back::Switch(_) => {
                    let text = format!("put the database {} back", database.names().live);
                    let put = put_one_back(journal, index, step, &database, returned);
                    doing(work.progress, &step.fill.component, &text, put).await
                }
                Back::Discard(_) => discard_database(journal, index, &database, returned).await,
                Back::Halt(_)
                | Back::TakeOut(_)
                | Back::Prune(_)
                | Back::PutIn(_)
                | Back::Launch(_)
                | Back::Stop
                | Back::Start => Ok(Vec::new()),
            }
        }
        Step::Action(_)
        | Step::Database(_)
        | Step::Folder(_)
        | Step::DataFolder(_)
        | Step::Extract(_)
        | Step::Stop(_)
        | Step::ReplaceVolume(_)
        | Step::Start(_) => Ok(Vec::new()),
    }
}

async fn put_one_back(
    journal: &Journal,
    index: usize,
    step: &ReplaceDatabase,
    database: &Database,
    returned: &mut Returned,
) -> Result<Vec<String>, TaskError> {
    let (tools, names) = (database.tools().await?, database.names());
    let restored = journal.restored.get(&index).map(|restored| restored.oid);
    match put_database_back(&tools, &database.replaced, restored).await.map_err(TaskError::Postgres)? {
        PutBack::Done => Ok(Vec::new()),
        PutBack::BesideAStranger => {
            Ok(vec![format!("a database {} that somebody made meanwhile is kept as {}", names.live, names.undone)])
        }
        PutBack::Gone if step.old == Old::Deleted => {
            returned.gone.push(format!("the database {}, which the plan deleted first", names.live));
            let new = oid_of(&tools, &names.new).await.map_err(TaskError::Postgres)?;
            returned.kept |= new.is_some();
            Ok(new
                .map(|_| format!("what was being restored of {} is kept as {}", names.live, names.new))
                .into_iter()
                .collect())
        }
        PutBack::Gone => {
            let why = "what was there before the restore is not there any more".to_owned();
            Err(TaskError::Postgres(PostgresError::Moved { database: names.live.clone(), why }))
        }
    }
}

async fn discard_database(
    journal: &Journal,
    index: usize,
    database: &Database,
    returned: &mut Returned,
) -> Result<Vec<String>, TaskError> {
    let (tools, names) = (database.tools().await?, database.names());
    drop_unfinished(&tools, names).await.map_err(TaskError::Postgres)?;
    // It had its name for a while, and somebody may have written to it.
    let Some(restored) = journal.restored.get(&index) else { return Ok(Vec::new()) };
    let there = oid_of(&tools, &names.undone).await.map_err(TaskError::Postgres)?;
    if there != Some(restored.oid) {
        return Ok(Vec::new());
    }
    if !is_invalid(&tools, &names.undone).await.map_err(TaskError::Postgres)? {
        let_in(&tools, names, &names.undone).await.map_err(TaskError::Postgres)?;
        let now = written(&tools, &names.undone).await.map_err(TaskError::Postgres)?;
        // Of a server that does not count nothing is known.
        if now.all.is_none() || now != restored.written {
            returned.kept = true;
            let (live, kept) = (&names.live, &names.undone);
            return Ok(vec![format!("{live} was written to after it had been restored: that copy is kept as {kept}")]);
        }
    }
    drop_private(&tools, &names.undone, there).await.map_err(TaskError::Postgres)?;
    Ok(Vec::new())
}

async fn discard_files(
    journal: &Journal,
    index: usize,
    step: &ReplaceFiles,
    places: Vec<Exchange>,
    returned: &mut Returned,
) -> Result<Vec<String>, TaskError> {
    // What was put in was written before; what was changed since is the application's.
    let since = journal.begun(Forward::PutIn(index)).unwrap_or(Timestamp::UNIX_EPOCH);
    let component = step.component.clone();
    let notes = blocking(move || {
        let mut notes = Vec::new();
        for place in &places {
            let changed = place.strangers(since)?;
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
    Ok(notes)
}

impl TaskError {
    /// A restore failed, and what was there is back.
    pub(super) fn put_back(source: Self, journal: &Journal, notes: Vec<String>) -> Self {
        let Returned { gone, unstarted, .. } = journal.returned.clone();
        Self::PutBack { source: Box::new(source), notes, gone, unstarted }
    }
}
