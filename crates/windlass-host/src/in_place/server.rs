//! A server as a whole, recovered beside the one that is there and put in its place.
//!
//! The one that is there runs on until everything is laid down, recovered and checked; then it is stopped, the folders exchange their
//! entries, and the new one is started. `PG_VERSION` is the first entry that goes and the last that comes: on what is half exchanged no
//! server starts.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use windlass_core::application::{Control, Physical, Strategy};
use windlass_core::name::Name;
use windlass_core::point::{ComponentData, ComponentManifest, PhysicalData};
use windlass_core::restore::{CommandStep, Refusal, ReplaceServer};
use windlass_engine::checks;
use windlass_engine::exchange::{Exchange, ExchangeError, Side, Staging, carry};
use windlass_engine::postgres::physical::recover::After;
use windlass_engine::postgres::physical::{LaidDown, Server};
use windlass_engine::postgres::tools::Tools;
use windlass_engine::postgres::{PostgresError, database_of};
use windlass_engine::restore::{self as engine, RestoreError};

use windlass_repo::format::walg::Ledger;

use super::Work;
use super::forward::{blocking, control_with, doing, judge, manifest_of, move_files};
use super::journal::{Journal, Returned};
use super::replaced::folders;
use super::tasks::{Back, Forward};
use crate::error::TaskError;
use crate::scratch::Scratch;

/// How long recovery may take.
const LONGEST: SignedDuration = SignedDuration::from_hours(7 * 24);

/// How long a server may take to be gone, or to answer, once its command has ended.
const PATIENCE: Duration = Duration::from_mins(5);
const AGAIN: Duration = Duration::from_millis(200);

/// Carries out one task of a restore.
pub(super) async fn forward(
    work: &Work<'_>,
    journal: &Journal,
    (index, task): (usize, Forward),
    plan: &ReplaceServer,
) -> Result<Vec<String>, TaskError> {
    let places = folders(journal, index, plan);
    match task {
        Forward::LayDown(_) => lay_down(work, journal, (index, plan), places).await?,
        Forward::Halt(_) => {
            as_planned(work, plan).await?;
            halt(work, plan).await?;
        }
        Forward::TakeOut(_) => {
            halt(work, plan).await?;
            let taken = move_files(places, |place| place.take_out(Side::Out));
            return doing(work.progress, &plan.component, "set the data folder aside", taken).await;
        }
        Forward::Prune(_) => {
            return move_files(places, |place| place.prune(Side::In).map(|()| Vec::new())).await;
        }
        Forward::PutIn(_) => {
            halt(work, plan).await?;
            let put = move_files(data_last(places), |place| place.put_in(Side::In, Side::Out));
            return doing(work.progress, &plan.component, "put the recovered data folder in", put).await;
        }
        Forward::Launch(_) => launch(work, plan).await?,
        // Of databases, commands, and the application.
        Forward::Fence(_)
        | Forward::Delete(_)
        | Forward::Check(_)
        | Forward::Switch(_)
        | Forward::Command(_)
        | Forward::Stop
        | Forward::Start
        | Forward::Prove => {}
    }
    Ok(Vec::new())
}

/// Carries out one task that goes back.
pub(super) async fn back(
    work: &Work<'_>,
    journal: &Journal,
    (index, task): (usize, Back),
    plan: &ReplaceServer,
    returned: &mut Returned,
) -> Result<Vec<String>, TaskError> {
    let places = folders(journal, index, plan);
    match task {
        Back::Halt(_) => halt(work, plan).await.map(|()| Vec::new()),
        Back::TakeOut(_) => {
            halt(work, plan).await?;
            move_files(places, |place| place.take_out(Side::Undone)).await
        }
        Back::Prune(_) => move_files(places, |place| place.prune(Side::Out).map(|()| Vec::new())).await,
        Back::PutIn(_) => {
            halt(work, plan).await?;
            let put = move_files(data_last(places), |place| place.put_in(Side::Out, Side::Undone));
            doing(work.progress, &plan.component, "put the data folder back", put).await
        }
        Back::Launch(_) => {
            // It may have been broken before: its data are what they were.
            if let Err(error) = launch(work, plan).await {
                returned.unstarted.get_or_insert(error.without_output());
            }
            Ok(Vec::new())
        }
        Back::Discard(_) => {
            let was_used = journal.has_begun(Forward::Launch(index));
            returned.kept |= was_used;
            let stages: Vec<String> =
                places.iter().flat_map(Exchange::stages).map(|stage| stage.display().to_string()).collect();
            let cleared = move_files(places, move |place| {
                place.drop_nursery()?;
                if !was_used {
                    place.clear()?;
                    place.leave_nothing()?;
                }
                Ok(Vec::new())
            });
            cleared.await?;
            let kept = format!(
                "{}: the server that was recovered had been started, and is kept in {}",
                plan.component,
                stages.join(", ")
            );
            Ok(was_used.then_some(kept).into_iter().collect())
        }
        Back::Stop | Back::Start | Back::Switch(_) => Ok(Vec::new()),
    }
}

/// What makes the data folder whole comes when everything else is there.
fn data_last(mut places: Vec<Exchange>) -> Vec<Exchange> {
    places.reverse();
    places
}

/// Lays the base backup down beside what is there, has its server recover, and asks the application's checks of it.
async fn lay_down(
    work: &Work<'_>,
    journal: &Journal,
    (index, plan): (usize, &ReplaceServer),
    places: Vec<Exchange>,
) -> Result<(), TaskError> {
    let (vault, manifest) = (work.vault()?, manifest_of(work, &plan.component)?);
    let (physical, data) = (settings(work, plan)?, physical_data(manifest)?);
    let owner = owner_of(plan)?;
    let identity = format!("{} {index}", journal.id);
    let begun = blocking(move || {
        let stagings = places.iter().map(Exchange::begin).collect::<Result<Vec<_>, _>>()?;
        // What was begun and killed goes on, if it is known how far it came.
        let goes_on = places.first().and_then(|place| Ledger::of(&place.nursery_path())) == Some(identity.clone());
        if !goes_on {
            places.iter().try_for_each(Exchange::drop_nursery)?;
        }
        let nurseries = places.iter().map(Exchange::nursery).collect::<Result<Vec<_>, _>>()?;
        let top = nurseries.first().cloned().unwrap_or_default();
        let ledger = Ledger::open(&top, &identity);
        let ledger = ledger.map_err(|source| ExchangeError { doing: "write in", path: top, source })?;
        Ok((places, stagings, nurseries, Arc::new(ledger)))
    });
    let (places, stagings, nurseries, ledger) = begun.await?;
    let Some((first, others)) = nurseries.split_first() else { return Ok(()) };
    let tablespaces = plan.tablespaces.iter().map(|tablespace| tablespace.oid).zip(others.iter().cloned());
    let laid_down = LaidDown::apart(first, &tablespaces.collect::<BTreeMap<u32, PathBuf>>());
    let scratch = Scratch::make_for(&work.host.program, LONGEST, owner).await?;
    let recovered = async {
        let (step, recoverer) = (plan.recover.as_ref(), scratch.recoverer());
        let recovered =
            engine::recovered(vault, manifest, (data, &laid_down), step, Some(&ledger), recoverer, work.progress).await;
        let recovered = recovered.map_err(TaskError::Restore)?;
        let own = database_of(&physical.server.url).map_err(TaskError::Postgres)?;
        let own = own.unwrap_or_else(|| "postgres".to_owned());
        let asked = &work.application.checks;
        let found = checks::asked(asked, &plan.component, &own, &recovered.server.tools, &own).await;
        judge(work, &plan.component, found.map_err(TaskError::Postgres)?)?;
        recovered.end(After::AsItWas).await.map_err(|error| TaskError::Restore(RestoreError::DataFolder(error)))
    };
    let recovered = recovered.await;
    scratch.end(work.progress).await?;
    recovered?;
    // From here on it is taken apart: killed now, it is begun anew.
    if let Some(ledger) = Arc::into_inner(ledger) {
        ledger.end(first).map_err(|source| TaskError::State { path: first.clone(), source })?;
    }
    let plan = plan.clone();
    blocking(move || take_over(&plan, &places, &stagings, &laid_down, owner)).await
}

/// Takes what was recovered for what is put in: its links lead to where it will be.
fn take_over(
    plan: &ReplaceServer,
    places: &[Exchange],
    stagings: &[Staging],
    laid_down: &LaidDown,
    owner: Option<(u32, u32)>,
) -> Result<(), ExchangeError> {
    let data = laid_down.data.as_path();
    let link = |at: PathBuf, to: &str| {
        let failed = |source| ExchangeError { doing: "make the link", path: at.clone(), source };
        match std::fs::remove_file(&at) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        symlink(to, &at).map_err(failed)?;
        owner.map_or(Ok(()), |(user, group)| lchown(&at, Some(user), Some(group))).map_err(failed)
    };
    for tablespace in &plan.tablespaces {
        link(data.join("pg_tblspc").join(tablespace.oid.to_string()), &tablespace.place.path)?;
    }
    if let (Some(wal), Some(staging)) = (&plan.wal, stagings.last()) {
        let folder = data.join("pg_wal");
        carry(&folder, &staging.folder)?;
        let emptied = std::fs::remove_dir(&folder);
        emptied.map_err(|source| ExchangeError { doing: "remove the folder", path: folder.clone(), source })?;
        link(folder, &wal.path)?;
    }
    let filled = std::iter::once(data).chain(laid_down.tablespaces.values().map(PathBuf::as_path));
    for ((place, staging), from) in places.iter().zip(stagings).zip(filled) {
        place.adopt(staging, from)?;
    }
    for (place, staging) in places.iter().zip(stagings) {
        place.drop_nursery()?;
        place.record(staging, &[])?;
    }
    Ok(())
}

/// That the server has no databases but those of the plan: it ran on while its successor was laid down.
async fn as_planned(work: &Work<'_>, plan: &ReplaceServer) -> Result<(), TaskError> {
    let physical = settings(work, plan)?;
    let Ok(tools) = Tools::find(&physical.server).await else { return Ok(()) };
    let Ok(server) = Server::open(&tools, Some(Path::new(&plan.data.path))).await else { return Ok(()) };
    let is_new = |database: &&String| !plan.databases.contains(database) && !plan.gone.contains(database);
    let new: Vec<&str> = server.databases().iter().filter(is_new).map(String::as_str).collect();
    if new.is_empty() {
        return Ok(());
    }
    let why = format!("the databases {} were made in it meanwhile, and would be gone", new.join(", "));
    Err(TaskError::Refused(Refusal::NotReplaceable { what: format!("the server of {}", plan.component), why }))
}

/// Stops the server, unless it is stopped.
async fn halt(work: &Work<'_>, plan: &ReplaceServer) -> Result<(), TaskError> {
    let physical = settings(work, plan)?;
    if is_down(physical, plan).await {
        return Ok(());
    }
    // A crashed one that its command does not know is stopped all the same.
    let stopped = control_with(work, &plan.component, ("stop", "the server"), &control(physical, plan)?.stop).await;
    if stopped.is_err() && is_down(physical, plan).await {
        return Ok(());
    }
    stopped?;
    let began = Instant::now();
    while !is_down(physical, plan).await {
        if began.elapsed() > PATIENCE {
            let (component, folder) = (plan.component.clone(), PathBuf::from(&plan.data.path));
            return Err(TaskError::StillRuns { component, folder });
        }
        tokio::time::sleep(AGAIN).await;
    }
    Ok(())
}

/// Starts the server, unless it runs, and waits until it answers from its own folder.
async fn launch(work: &Work<'_>, plan: &ReplaceServer) -> Result<(), TaskError> {
    let physical = settings(work, plan)?;
    if is_down(physical, plan).await {
        control_with(work, &plan.component, ("start", "the server"), &control(physical, plan)?.start).await?;
    }
    let began = Instant::now();
    loop {
        match answers(physical, plan).await {
            Ok(()) => return Ok(()),
            Err(error) if began.elapsed() > PATIENCE => return Err(error),
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

async fn answers(physical: &Physical, plan: &ReplaceServer) -> Result<(), TaskError> {
    let tools = Tools::find(&physical.server).await.map_err(TaskError::Postgres)?;
    let opened = Server::open(&tools, Some(Path::new(&plan.data.path))).await;
    opened.map(drop).map_err(|error| TaskError::Restore(RestoreError::DataFolder(error)))
}

/// Whether no server works in the folder: no process that can be seen from here does, and there is no pid file, or nobody listens where
/// the server should. Anything that is not clear is no.
async fn is_down(physical: &Physical, plan: &ReplaceServer) -> bool {
    let folder = Path::new(&plan.data.path);
    let real = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let works_there = |process: std::fs::DirEntry| {
        std::fs::read_link(process.path().join("exe"))
            .is_ok_and(|program| program.file_name() == Some("postgres".as_ref()))
            && std::fs::read_link(process.path().join("cwd")).is_ok_and(|at| at == real)
    };
    if processes.into_iter().any(works_there) {
        return false;
    }
    match std::fs::symlink_metadata(folder.join("postmaster.pid")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(_) => false,
        // It crashed, or runs where its processes cannot be seen.
        Ok(_) => Tools::find(&physical.server).await.is_err_and(|error| nobody_listens(&error)),
    }
}

/// Whether an error says that there is no server: a password that is wrong, or a server that is full, say that there is one.
pub(super) fn nobody_listens(error: &PostgresError) -> bool {
    let said = ["Connection refused", "No such file or directory"];
    matches!(error, PostgresError::Connect { why, .. } if said.iter().any(|said| why.contains(said)))
}

/// The component as the settings have it now: stopped and started as was confirmed.
fn settings<'a>(work: &Work<'a>, plan: &ReplaceServer) -> Result<&'a Physical, TaskError> {
    let component = work.application.components.iter().find(|component| component.name == plan.component);
    match component.map(|component| &component.strategy) {
        Some(Strategy::Physical(physical)) if control(physical, plan).is_ok() => Ok(physical),
        _ => Err(not_in_settings(&plan.component)),
    }
}

fn control<'a>(physical: &'a Physical, plan: &ReplaceServer) -> Result<&'a Control, TaskError> {
    let confirmed = |control: &&Control| {
        (CommandStep::of(&control.stop), CommandStep::of(&control.start)) == (plan.stop.clone(), plan.start.clone())
    };
    physical.control.as_ref().filter(confirmed).ok_or_else(|| not_in_settings(&plan.component))
}

fn not_in_settings(component: &Name) -> TaskError {
    TaskError::Refused(Refusal::NotInSettings { what: format!("{component}, with the `control` that was confirmed") })
}

fn physical_data(manifest: &ComponentManifest) -> Result<&PhysicalData, TaskError> {
    match &manifest.data {
        ComponentData::Physical(data) => Ok(data),
        _ => Err(TaskError::Restore(RestoreError::Mismatch { component: manifest.component.clone() })),
    }
}

/// Whose the server is: the owner of the folder that is there, where we are root.
fn owner_of(plan: &ReplaceServer) -> Result<Option<(u32, u32)>, TaskError> {
    if !rustix::process::geteuid().is_root() || !plan.data.exists {
        return Ok(None);
    }
    let path = PathBuf::from(&plan.data.path);
    let meta = path.metadata().map_err(|source| TaskError::State { path, source })?;
    Ok(Some((meta.uid(), meta.gid())))
}
