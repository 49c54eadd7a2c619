//! Carries out the tasks of a restore. Each looks at how things are and does what is missing.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::SignedDuration;
use windlass_core::application::{Check, Strategy};
use windlass_core::name::Name;
use windlass_core::point::ComponentManifest;
use windlass_core::restore::{
    ActionStep, CommandStep, DatabaseStep, FilesPlace, Old, Plan, Refusal, ReplaceDatabase, ReplaceFiles, Step,
};
use windlass_engine::exchange::{Exchange, ExchangeError, Side};
use windlass_engine::postgres::inspect::written;
use windlass_engine::postgres::replace::{drop_private, drop_unfinished, fence, oid_of, switch};
use windlass_engine::process;
use windlass_engine::progress::{Event, Progress};
use windlass_engine::restore::{self as engine, FilesTarget, dump_of};
use windlass_repo::format::restic::Excludes;

use super::Work;
use super::journal::{Journal, RestoredDatabase};
use super::replaced::{Database, exchanges};
use super::server;
use super::tasks::Forward;
use crate::error::TaskError;
use crate::restore::source_of;
use windlass_engine::checks::{self, Found};

/// How long the application may take to stop or start.
const CONTROL_LIMIT: SignedDuration = SignedDuration::from_mins(10);

/// Carries out one task. Returns what a person should know.
pub(super) async fn carry_out(work: &Work<'_>, journal: &mut Journal, task: Forward) -> Result<Vec<String>, TaskError> {
    let step = match task {
        Forward::Stop => return stop(work, &journal.plan).await.map(|()| Vec::new()),
        Forward::Start => return start(work).await.map(|()| Vec::new()),
        Forward::Prove => return prove(work, &journal.plan, Stage::Restored).await,
        Forward::Fence(step)
        | Forward::Delete(step)
        | Forward::LayDown(step)
        | Forward::Check(step)
        | Forward::Switch(step)
        | Forward::Halt(step)
        | Forward::TakeOut(step)
        | Forward::Prune(step)
        | Forward::PutIn(step)
        | Forward::Launch(step)
        | Forward::Command(step) => step,
    };
    match journal.plan.steps[step].clone() {
        Step::ReplaceDatabase(plan) => {
            let database = Database::of(work.application, journal, step, &plan)?;
            replace_database(work, journal, task, &database, &plan).await
        }
        Step::ReplaceFiles(plan) => {
            let places = exchanges(journal, step, &plan)?;
            replace_files(work, task, places, &plan).await
        }
        Step::ReplaceServer(plan) => server::forward(work, journal, (step, task), &plan).await,
        Step::Action(plan) => command(work, &plan).await.map(|()| Vec::new()),
        Step::Database(_)
        | Step::Folder(_)
        | Step::DataFolder(_)
        | Step::Extract(_)
        | Step::Stop(_)
        | Step::ReplaceVolume(_)
        | Step::Start(_) => Ok(Vec::new()),
    }
}

async fn replace_database(
    work: &Work<'_>,
    journal: &mut Journal,
    task: Forward,
    database: &Database,
    plan: &ReplaceDatabase,
) -> Result<Vec<String>, TaskError> {
    let component = &plan.fill.component;
    let tools = database.tools().await?;
    match task {
        Forward::Fence(_) => {
            if plan.oid.is_some() {
                let text = format!("set the database {} aside", database.names().live);
                let fenced = fence(&tools, &database.replaced);
                doing(work.progress, component, &text, fenced).await.map_err(TaskError::Postgres)?;
            }
        }
        Forward::Delete(_) => {
            let dropped = drop_private(&tools, &database.names().old, plan.oid).await;
            dropped.map_err(TaskError::Postgres)?;
        }
        Forward::LayDown(_) => return fill(work, database, plan).await,
        Forward::Check(_) => return check(work, database, plan).await,
        Forward::Switch(step) => {
            // Known before it has its name: so it can be told from another one later.
            if let Some(oid) = oid_of(&tools, &database.names().new).await.map_err(TaskError::Postgres)? {
                let written = written(&tools, &database.names().new).await.map_err(TaskError::Postgres)?;
                journal.note(|journal| {
                    journal.restored.insert(step, RestoredDatabase { oid, written });
                })?;
            }
            let restored = journal.restored.get(&step).map(|restored| restored.oid);
            switch(&tools, database.names(), restored).await.map_err(TaskError::Postgres)?;
        }
        // Of files, servers, commands, and the application.
        Forward::Halt(_)
        | Forward::Launch(_)
        | Forward::TakeOut(_)
        | Forward::Prune(_)
        | Forward::PutIn(_)
        | Forward::Command(_)
        | Forward::Stop
        | Forward::Start
        | Forward::Prove => {}
    }
    Ok(Vec::new())
}

async fn fill(work: &Work<'_>, database: &Database, plan: &ReplaceDatabase) -> Result<Vec<String>, TaskError> {
    let (vault, manifest) = (work.vault()?, manifest_of(work, &plan.fill.component)?);
    let tools = database.tools().await?;
    // What an interrupted try left is begun anew.
    drop_unfinished(&tools, database.names()).await.map_err(TaskError::Postgres)?;
    let mut fill: DatabaseStep = plan.fill.clone();
    fill.target.database.clone_from(&database.names().new);
    let left_out = engine::database(vault, manifest, &fill, &tools, work.progress).await.map_err(TaskError::Restore)?;
    Ok(left_out.into_iter().map(|what| format!("{}: left out: {what}", plan.fill.database)).collect())
}

async fn check(work: &Work<'_>, database: &Database, plan: &ReplaceDatabase) -> Result<Vec<String>, TaskError> {
    let component = &plan.fill.component;
    let dump = dump_of(manifest_of(work, component)?, &plan.fill.database).map_err(TaskError::Restore)?;
    let tools = database.tools().await?;
    let checked = checks::database(&work.application.checks, component, dump, &tools, &database.names().new);
    judge(work, component, checked.await.map_err(TaskError::Postgres)?)
}

async fn replace_files(
    work: &Work<'_>,
    task: Forward,
    places: Vec<Exchange>,
    plan: &ReplaceFiles,
) -> Result<Vec<String>, TaskError> {
    match task {
        Forward::LayDown(_) => stage(work, places, plan).await,
        Forward::TakeOut(_) => {
            let taken = move_files(places, |place| place.take_out(Side::Out));
            doing(work.progress, &plan.component, "set the files aside", taken).await
        }
        Forward::Prune(_) => move_files(places, |place| place.prune(Side::In).map(|()| Vec::new())).await,
        Forward::PutIn(_) => {
            let put = move_files(places, |place| place.put_in(Side::In, Side::Out));
            doing(work.progress, &plan.component, "put the restored files in", put).await
        }
        // Of databases, servers, commands, and the application.
        Forward::Halt(_)
        | Forward::Launch(_)
        | Forward::Fence(_)
        | Forward::Delete(_)
        | Forward::Check(_)
        | Forward::Switch(_)
        | Forward::Command(_)
        | Forward::Stop
        | Forward::Start
        | Forward::Prove => Ok(Vec::new()),
    }
}

async fn stage(work: &Work<'_>, places: Vec<Exchange>, plan: &ReplaceFiles) -> Result<Vec<String>, TaskError> {
    let vault = work.vault()?;
    let exclude = Excludes::new(&plan.exclude).map_err(TaskError::Files)?;
    let mut notes = Vec::new();
    for (exchange, place) in places.into_iter().zip(&plan.places) {
        let exchange = Arc::new(exchange);
        let begun = Arc::clone(&exchange);
        let staging = blocking(move || begun.begin()).await?;
        let target = FilesTarget {
            component: &plan.component,
            snapshot: &plan.snapshot,
            folder: staging.folder.clone(),
            strip: Some(PathBuf::from(&place.path)),
            elsewhere: staging.elsewhere.clone(),
            exclude: if place.is_file { Excludes::default() } else { exclude.clone() },
            shown: shown(&exchange, place),
            bytes: plan.bytes,
        };
        let restored = engine::files_into(vault, target, work.progress).await.map_err(TaskError::Restore)?;
        notes.extend(restored.warnings);
        blocking(move || exchange.record(&staging, &restored.elsewhere)).await?;
    }
    Ok(notes)
}

fn shown(exchange: &Exchange, place: &FilesPlace) -> PathBuf {
    exchange.stages().into_iter().next().map_or_else(|| PathBuf::from(&place.path), |stage| stage.join("in"))
}

/// Moves files, on a thread of its own: there may be many.
pub(super) async fn move_files(
    places: Vec<Exchange>,
    work: impl Fn(&Exchange) -> Result<Vec<String>, ExchangeError> + Send + 'static,
) -> Result<Vec<String>, TaskError> {
    blocking(move || {
        let mut notes = Vec::new();
        for place in &places {
            notes.extend(work(place)?);
        }
        Ok(notes)
    })
    .await
}

/// Does something to files on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ExchangeError> + Send + 'static,
) -> Result<T, TaskError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(TaskError::Exchange),
        Err(error) => Err(TaskError::Thread { source: std::io::Error::other(error) }),
    }
}

/// Stops the application, unless it is stopped already.
pub(super) async fn stop(work: &Work<'_>, plan: &Plan) -> Result<(), TaskError> {
    let is_planned = plan.steps.iter().any(|step| matches!(step, Step::Stop(_)));
    match &work.application.control {
        _ if work.stopped => Ok(()),
        Some(control) => control_with(work, &work.application.name, ("stop", "the application"), &control.stop).await,
        None if is_planned => Err(TaskError::NoControl),
        None => Ok(()),
    }
}

/// Starts the application.
pub(super) async fn start(work: &Work<'_>) -> Result<(), TaskError> {
    match &work.application.control {
        Some(control) => control_with(work, &work.application.name, ("start", "the application"), &control.start).await,
        None => Ok(()),
    }
}

/// Runs a command of the settings that stops or starts something.
pub(super) async fn control_with(
    work: &Work<'_>,
    name: &Name,
    (verb, what): (&'static str, &'static str),
    argv: &[String],
) -> Result<(), TaskError> {
    let done = async {
        process::run_to_start(argv, CONTROL_LIMIT).await.map_err(|source| TaskError::Control { verb, what, source })
    };
    doing(work.progress, name, &format!("{verb} {what}"), done).await
}

async fn command(work: &Work<'_>, plan: &ActionStep) -> Result<(), TaskError> {
    let component = work.application.components.iter().find(|component| component.name == plan.component);
    let action = match component.map(|component| &component.strategy) {
        // What was confirmed is what is run, also when it goes on another day.
        Some(Strategy::Action(action))
            if action.restore.as_deref().map(CommandStep::of) == Some(plan.command.clone()) =>
        {
            action
        }
        _ => {
            let what = format!("{}, with the `restore` command that was confirmed", plan.component);
            return Err(TaskError::Refused(Refusal::NotInSettings { what }));
        }
    };
    let manifest = manifest_of(work, &plan.component)?;
    engine::action(work.vault()?, manifest, plan, action, work.progress).await.map_err(TaskError::Restore)
}

/// What is asked whether it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// What was restored.
    Restored,
    /// What was there before.
    Undone,
}

/// Asks the application whether it works, and what is missing that it mentions.
pub(super) async fn prove(work: &Work<'_>, plan: &Plan, stage: Stage) -> Result<Vec<String>, TaskError> {
    let url = |check: &'_ Check| match check {
        Check::Http { url } => Some(url.clone()),
        Check::Sql { .. } | Check::Files { .. } => None,
    };
    let urls: Vec<String> = work.application.checks.iter().filter_map(url).collect();
    let mut all = checks::addresses(urls.iter().map(String::as_str)).await;
    for step in &plan.steps {
        let Step::ReplaceDatabase(step) = step else { continue };
        // One that was not there is not there again.
        if stage == Stage::Undone && (step.oid.is_none() || step.old == Old::Deleted) {
            continue;
        }
        let Some(source) = source_of(Some(work.application), &step.fill.component) else { continue };
        let tools = engine::tools_for(&source.url, Some(source)).await.map_err(TaskError::Postgres)?;
        let found = checks::files(work.application, &step.fill.component, &tools, &step.fill.database);
        let found = found.await.map_err(TaskError::Postgres)?;
        all.held.extend(found.held);
        all.failed.extend(found.failed);
        all.noted.extend(found.noted);
    }
    judge(work, &work.application.name, all)
}

pub(super) fn judge(work: &Work<'_>, name: &Name, found: Found) -> Result<Vec<String>, TaskError> {
    if !found.failed.is_empty() {
        return Err(TaskError::Checks { findings: found.failed });
    }
    if !found.held.is_empty() {
        work.progress.event(Event::Done { component: name, text: &format!("checked: {}", found.held.join(", ")) });
    }
    Ok(found.noted)
}

pub(super) fn manifest_of<'a>(work: &Work<'a>, component: &Name) -> Result<&'a ComponentManifest, TaskError> {
    let found = work.manifests.iter().find(|manifest| manifest.component == *component);
    found.ok_or_else(|| TaskError::Restore(engine::RestoreError::Mismatch { component: component.clone() }))
}

/// Does something, and says so: what it is when it begins, and that it is done when it is.
pub(super) async fn doing<T, E>(
    progress: &dyn Progress,
    component: &Name,
    text: &str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    progress.event(Event::Step { component, text, total: None });
    let done = work.await?;
    progress.event(Event::Done { component, text });
    Ok(done)
}
