//! Carries out the tasks of a restore. Each looks at how things are and does what is missing.

use std::collections::HashMap;
use std::path::PathBuf;

use jiff::SignedDuration;
use windlass_core::application::Strategy;
use windlass_core::name::Name;
use windlass_core::point::ComponentManifest;
use windlass_core::restore::{DatabaseStep, Plan, ReplaceDatabase, ReplaceFiles, Step};
use windlass_engine::exchange::{Exchange, Side};
use windlass_engine::postgres::inspect::written;
use windlass_engine::postgres::replace::{drop_private, fence, oid_of, switch};
use windlass_engine::process;
use windlass_engine::progress::{Event, Progress};
use windlass_engine::restore::{self as engine, FilesTarget, dump_of};

use super::Work;
use super::journal::{Journal, RestoredDatabase, What};
use super::replacing::{Database, Replacing};
use crate::checks::{self, Found};
use crate::error::TaskError;

/// How long the application may take to stop or start.
const CONTROL_LIMIT: SignedDuration = SignedDuration::from_mins(10);

/// Carries out one task. Returns what a person should know.
pub(super) async fn carry_out(work: &Work<'_>, journal: &mut Journal, what: What) -> Result<Vec<String>, TaskError> {
    let replacing = super::replacing(work, journal)?;
    let of = |step: &usize| replacing.get(step);
    match what {
        What::Stop | What::Start => control(work, what).await.map(|()| Vec::new()),
        What::Fence(step) => match (of(&step), &journal.plan.steps[step]) {
            (Some(Replacing::Database(database)), Step::ReplaceDatabase(plan)) => set_aside(work, database, plan).await,
            _ => Ok(Vec::new()),
        },
        What::Delete(step) => match of(&step) {
            Some(Replacing::Database(database)) => {
                let dropped = drop_private(&database.tools().await?, &database.names.old).await;
                dropped.map(|()| Vec::new()).map_err(TaskError::Postgres)
            }
            _ => Ok(Vec::new()),
        },
        What::LayDown(step) => match (of(&step), &journal.plan.steps[step]) {
            (Some(Replacing::Database(database)), Step::ReplaceDatabase(plan)) => fill(work, database, plan).await,
            (Some(Replacing::Files(places)), Step::ReplaceFiles(plan)) => stage(work, places, plan).await,
            _ => Ok(Vec::new()),
        },
        What::Check(step) => match (of(&step), &journal.plan.steps[step]) {
            (Some(Replacing::Database(database)), Step::ReplaceDatabase(plan)) => check(work, database, plan).await,
            _ => Ok(Vec::new()),
        },
        What::Switch(step) => match of(&step) {
            Some(Replacing::Database(database)) => take_the_name(journal, step, database).await,
            _ => Ok(Vec::new()),
        },
        What::TakeOut(step) | What::Prune(step) | What::PutIn(step) => {
            match replacing.into_iter().find(|(at, _)| *at == step) {
                Some((_, Replacing::Files(places))) => exchange(work, &journal.plan, what, step, places).await,
                _ => Ok(Vec::new()),
            }
        }
        What::Command(step) => match &journal.plan.steps[step] {
            Step::Action(plan) => command(work, plan).await,
            _ => Ok(Vec::new()),
        },
        What::Prove => prove(work, &journal.plan).await,
        What::PutBack(_) | What::Discard(_) => Ok(Vec::new()),
    }
}

/// Stops or starts the application.
pub(super) async fn control(work: &Work<'_>, what: What) -> Result<(), TaskError> {
    let Some(control) = &work.application.control else { return Ok(()) };
    let (verb, argv) = if what == What::Stop { ("stop", &control.stop) } else { ("start", &control.start) };
    let text = format!("{verb} the application");
    step(work.progress, &work.application.name, &text, None);
    let done = process::run(argv, CONTROL_LIMIT).await;
    done.map_err(|source| TaskError::Control { verb, source })
}

async fn set_aside(work: &Work<'_>, database: &Database, plan: &ReplaceDatabase) -> Result<Vec<String>, TaskError> {
    if let Some(oid) = plan.oid {
        step(work.progress, &plan.fill.component, &format!("set the database {} aside", database.names.live), None);
        fence(&database.tools().await?, &database.names, oid).await.map_err(TaskError::Postgres)?;
    }
    Ok(Vec::new())
}

async fn fill(work: &Work<'_>, database: &Database, plan: &ReplaceDatabase) -> Result<Vec<String>, TaskError> {
    let (Some(vault), manifest) = (work.vault, manifest_of(work, &plan.fill.component)?) else { return Ok(Vec::new()) };
    let tools = database.tools().await?;
    // What an interrupted try left is begun anew.
    drop_private(&tools, &database.names.new).await.map_err(TaskError::Postgres)?;
    let mut fill: DatabaseStep = plan.fill.clone();
    fill.target.database.clone_from(&database.names.new);
    let left_out = engine::database(vault, manifest, &fill, &tools, work.progress).await.map_err(TaskError::Restore)?;
    Ok(left_out.into_iter().map(|what| format!("{}: left out: {what}", plan.fill.database)).collect())
}

async fn stage(work: &Work<'_>, places: &[Exchange], plan: &ReplaceFiles) -> Result<Vec<String>, TaskError> {
    let Some(vault) = work.vault else { return Ok(Vec::new()) };
    let mut notes = Vec::new();
    for (exchange, place) in places.iter().zip(&plan.places) {
        exchange.begin().map_err(TaskError::Exchange)?;
        let target = FilesTarget {
            component: &plan.component,
            snapshot: &plan.snapshot,
            folder: exchange.staging(),
            strip: Some(PathBuf::from(&place.path)),
            elsewhere: exchange.elsewhere().into_iter().collect::<HashMap<_, _>>(),
            bytes: plan.bytes,
        };
        notes.extend(engine::files_into(vault, target, work.progress).await.map_err(TaskError::Restore)?);
        exchange.record().map_err(TaskError::Exchange)?;
    }
    Ok(notes)
}

async fn check(work: &Work<'_>, database: &Database, plan: &ReplaceDatabase) -> Result<Vec<String>, TaskError> {
    let component = &plan.fill.component;
    step(work.progress, component, &format!("check the database {}", database.names.live), None);
    let dump = dump_of(manifest_of(work, component)?, &plan.fill.database).map_err(TaskError::Restore)?;
    let tools = database.tools().await?;
    let checked = checks::database(work.application, component, dump, &tools, &database.names.new);
    judge(work, component, checked.await.map_err(TaskError::Postgres)?)
}

async fn take_the_name(journal: &mut Journal, step: usize, database: &Database) -> Result<Vec<String>, TaskError> {
    let tools = database.tools().await?;
    // Known before it has its name: so it can be told from another one later.
    if let Some(oid) = oid_of(&tools, &database.names.new).await.map_err(TaskError::Postgres)? {
        let written = written(&tools, &database.names.new).await.map_err(TaskError::Postgres)?;
        journal.note(|journal| {
            journal.restored.insert(step, RestoredDatabase { oid, written });
        })?;
    }
    switch(&tools, &database.names).await.map_err(TaskError::Postgres)?;
    Ok(Vec::new())
}

/// Moves files, on a thread of its own: there may be many.
async fn exchange(
    work: &Work<'_>,
    plan: &Plan,
    what: What,
    index: usize,
    places: Vec<Exchange>,
) -> Result<Vec<String>, TaskError> {
    if let (What::TakeOut(_), Some(component)) = (what, plan.steps[index].component()) {
        step(work.progress, component, "exchange the files", None);
    }
    move_files(places, move |place| match what {
        What::TakeOut(_) => place.take_out(Side::Out).map(|()| Vec::new()),
        What::Prune(_) => place.prune(Side::In).map(|()| Vec::new()),
        _ => place.put_in(Side::In, Side::Out),
    })
    .await
}

/// Does something with every place, on a thread of its own.
pub(super) async fn move_files(
    places: Vec<Exchange>,
    work: impl Fn(&Exchange) -> Result<Vec<String>, windlass_engine::exchange::ExchangeError> + Send + 'static,
) -> Result<Vec<String>, TaskError> {
    let done = tokio::task::spawn_blocking(move || {
        let mut notes = Vec::new();
        for place in &places {
            notes.extend(work(place)?);
        }
        Ok(notes)
    });
    match done.await {
        Ok(done) => done.map_err(TaskError::Exchange),
        Err(error) => {
            Err(TaskError::State { path: PathBuf::from("the exchange of files"), source: std::io::Error::other(error) })
        }
    }
}

async fn command(work: &Work<'_>, plan: &windlass_core::restore::ActionStep) -> Result<Vec<String>, TaskError> {
    let component = work.application.components.iter().find(|component| component.name == plan.component);
    let (Some(vault), Some(Strategy::Action(action))) = (work.vault, component.map(|component| &component.strategy))
    else {
        return Ok(Vec::new());
    };
    let manifest = manifest_of(work, &plan.component)?;
    engine::action(vault, manifest, plan, action, work.progress).await.map_err(TaskError::Restore)?;
    Ok(Vec::new())
}

/// Asks the application whether it works, and what is missing that it mentions.
pub(super) async fn prove(work: &Work<'_>, plan: &Plan) -> Result<Vec<String>, TaskError> {
    let name = &work.application.name;
    if !work.application.checks.is_empty() {
        step(work.progress, name, "check the application", None);
    }
    let mut all = checks::addresses(work.application).await;
    for step in &plan.steps {
        let Step::ReplaceDatabase(step) = step else { continue };
        let Some(source) = super::look::source_of(work.application, &step.fill.component) else { continue };
        let tools = engine::tools_for(&source.url, Some(source)).await.map_err(TaskError::Postgres)?;
        let found = checks::files(work.application, &step.fill.component, &tools, &step.fill.database);
        let found = found.await.map_err(TaskError::Postgres)?;
        all.held.extend(found.held);
        all.failed.extend(found.failed);
        all.noted.extend(found.noted);
    }
    judge(work, name, all)
}

fn judge(work: &Work<'_>, name: &Name, found: Found) -> Result<Vec<String>, TaskError> {
    if !found.failed.is_empty() {
        return Err(TaskError::Checks { findings: found.failed });
    }
    if !found.held.is_empty() {
        work.progress.event(Event::Done { component: name, text: &format!("checked: {}", found.held.join(", ")) });
    }
    Ok(found.noted)
}

fn manifest_of<'a>(work: &Work<'a>, component: &Name) -> Result<&'a ComponentManifest, TaskError> {
    let found = work.manifests.iter().find(|manifest| manifest.component == *component);
    found.ok_or_else(|| TaskError::Restore(engine::RestoreError::Mismatch { component: component.clone() }))
}

pub(super) fn step(progress: &dyn Progress, component: &Name, text: &str, total: Option<u64>) {
    progress.event(Event::Step { component, text, total });
    progress.event(Event::Done { component, text });
}
