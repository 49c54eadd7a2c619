//! Servers brought to a moment: where it is in the archive, and what is made of it - a data folder, or databases of another server.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::SignedDuration;
use windlass_core::application::{Application, Postgres, Strategy};
use windlass_core::diagnose::chain;
use windlass_core::name::Name;
use windlass_core::point::{ComponentData, ComponentManifest, PhysicalData};
use windlass_core::restore::{
    DataFolderStep, ExtractStep, FolderFacts, Moment, Reach, Refusal, Request, TargetFacts, Wanted,
};
use windlass_core::wal::{Lsn, Timeline};
use windlass_engine::postgres::physical::PhysicalError;
use windlass_engine::postgres::restore::look_ahead;
use windlass_engine::postgres::scratch::Place;
use windlass_engine::postgres::tools::server_folder;
use windlass_engine::postgres::{PostgresError, database_of};
use windlass_engine::progress::{Event, Progress};
use windlass_engine::restore::{self, RestoreError};
use windlass_repo::format::walg::{BackupName, Backups, NoMoment, WalgError};
use windlass_repo::vault::Vault;

use crate::error::TaskError;
use crate::restore::Here;
use crate::scratch::Scratch;

/// How long a recovery may take before its place is torn down.
const LONGEST: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What is wrong with a URL.
const ONE_DATABASE: &str = "several databases are restored, so it must name the server only, without a database";

/// That a moment of one server is asked of one server.
pub(crate) fn is_of_one(parts: &[Wanted<'_>], request: &Request) -> Result<(), TaskError> {
    let Some(moment @ (Moment::Lsn(_) | Moment::Transaction(_) | Moment::Named(_))) = &request.moment else {
        return Ok(());
    };
    let of_servers = parts.iter().filter(|part| matches!(part.manifest.data, ComponentData::Physical(_)));
    match (of_servers.count(), parts.first()) {
        (1, _) | (_, None) => Ok(()),
        (servers, Some(part)) => Err(TaskError::Refused(Refusal::NoMoment {
            component: part.manifest.component.clone(),
            moment: moment.clone(),
            backup: "none".to_owned(),
            why: format!("it is a moment of one server, and {servers} are to be restored whose WAL is archived"),
            older_may_do: false,
        })),
    }
}

/// Where the WAL ends that leads on from a base backup, where it does.
pub(crate) async fn goes_on(vault: &Vault, component: &Name, data: &PhysicalData) -> Result<Option<Lsn>, TaskError> {
    let (archive, name) = archive(vault, component, data)?;
    let held = archive.look().await.map_err(walg)?;
    let end = held.replay(&name).and_then(|replay| held.end_of(&replay));
    Ok(end.filter(|end| end.0 > data.stop.0 + held.size.bytes()))
}

pub(crate) fn archive(
    vault: &Vault,
    component: &Name,
    data: &PhysicalData,
) -> Result<(Backups, BackupName), TaskError> {
    let archive = vault.cluster(component, &data.system_identifier, data.sealed);
    Ok((archive.map_err(|error| TaskError::Restore(RestoreError::Key(error)))?, data.backup.parse().map_err(walg)?))
}

pub(crate) fn walg(error: WalgError) -> TaskError {
    TaskError::Restore(RestoreError::DataFolder(PhysicalError::Walg(error)))
}

/// Where a moment is behind a base backup. `None` where the archive holds nothing but what makes it consistent: it is its own moment.
pub(crate) async fn reach(
    vault: &Vault,
    component: &Name,
    data: &PhysicalData,
    moment: &Moment,
    timeline: Option<Timeline>,
) -> Result<Option<Reach>, TaskError> {
    let refused = |why: String, older_may_do| {
        let (component, moment, backup) = (component.clone(), moment.clone(), data.backup.clone());
        TaskError::Refused(Refusal::NoMoment { component, moment, backup, why, older_may_do })
    };
    let (archive, name) = archive(vault, component, data)?;
    let held = archive.look().await.map_err(walg)?;
    match archive.locate(&held, &name, moment, timeline, &|_| {}).await {
        Ok(reach) => {
            has_server(component, data.server_version / 10_000).await?;
            Ok(Some(reach))
        }
        Err(NoMoment::TooLate { is_bare: true, .. }) if matches!(moment, Moment::Time(_)) => Ok(None),
        Err(NoMoment::Archive(error)) => Err(walg(error)),
        Err(error) => {
            let older_may_do =
                matches!(error, NoMoment::TooEarly { .. } | NoMoment::NotFound { .. } | NoMoment::NoTimeline { .. });
            Err(refused(error.to_string(), older_may_do))
        }
    }
}

/// That a standby may follow what is archived: it would make every tablespace that was made since in its own folder, which may be one
/// that the primary uses.
pub(crate) async fn may_be_followed(vault: &Vault, component: &Name, data: &PhysicalData) -> Result<(), TaskError> {
    let (archive, name) = archive(vault, component, data)?;
    let held = archive.look().await.map_err(walg)?;
    match archive.locate(&held, &name, &Moment::Newest, None, &|_| {}).await {
        Err(NoMoment::Archive(error)) => Err(walg(error)),
        Err(error @ NoMoment::Tablespace { .. }) => Err(TaskError::Refused(Refusal::NoMoment {
            component: component.clone(),
            moment: Moment::Newest,
            backup: data.backup.clone(),
            why: error.to_string(),
            older_may_do: false,
        })),
        _ => Ok(()),
    }
}

/// That there is a server here of the version that recovers.
pub(crate) async fn has_server(component: &Name, major: u32) -> Result<(), TaskError> {
    match server_folder(major).await {
        Ok((found, _)) if found == major => Ok(()),
        _ => Err(TaskError::Refused(Refusal::NoServer { component: component.clone(), major })),
    }
}

/// Lays down a data folder, and has a server recover on it where the plan says so.
pub(crate) async fn lay_down(
    vault: &Vault,
    manifest: &ComponentManifest,
    step: &DataFolderStep,
    here: Option<Here<'_>>,
    progress: &dyn Progress,
) -> Result<Vec<String>, TaskError> {
    let carried_out = |recoverer| restore::data_folder(vault, manifest, step, recoverer, progress);
    if step.recover.is_none() {
        return carried_out(None).await.map_err(TaskError::Restore);
    }
    let scratch = Scratch::make(&program(here)?, LONGEST).await?;
    let done = carried_out(Some(scratch.recoverer())).await.map_err(TaskError::Restore);
    // What was restored is there, and what failed is to be told, whatever becomes of the scratch place.
    if let Err(error) = scratch.end(progress).await {
        progress.event(Event::Warning { text: &format!("the scratch place stays: {}", chain(&error)) });
    }
    done
}

/// Recovers a server in a scratch place, and fills databases of another from databases of it.
pub(crate) async fn extract(
    vault: &Vault,
    manifest: &ComponentManifest,
    step: &ExtractStep,
    here: Option<Here<'_>>,
    progress: &dyn Progress,
) -> Result<Vec<String>, TaskError> {
    let ComponentData::Physical(data) = &manifest.data else {
        return Err(TaskError::Restore(RestoreError::Mismatch { component: step.component.clone() }));
    };
    let scratch = Scratch::make(&program(here)?, LONGEST).await?;
    let done = async {
        let server = scratch.server(vault, manifest, data, step.recover.as_ref(), progress).await?;
        let mut notes = Vec::new();
        for database in &step.databases {
            let source = here.and_then(|here| server_of(here.application, &step.component));
            let to = restore::tools_for(&database.target.url, source).await.map_err(TaskError::Postgres)?;
            let carried = restore::extract(&step.component, database, &server.tools, &to, progress).await;
            notes.extend(carried.map_err(TaskError::Restore)?);
        }
        Ok(notes)
    };
    let done = done.await;
    scratch.end(progress).await?;
    done
}

/// What is found where databases of a component go that are taken out of it, and at the moment they are of.
pub(crate) async fn extracted_facts(
    part: &Wanted<'_>,
    data: &PhysicalData,
    target: &str,
    (reach, here): (Option<Reach>, Option<Here<'_>>),
) -> Result<TargetFacts, TaskError> {
    let component = &part.manifest.component;
    let refused = |refusal| Err(TaskError::Refused(refusal));
    if !is_url(target) {
        return refused(Refusal::NotAServer { component: component.clone(), target: target.to_owned() });
    }
    let wanted = part.extracted();
    let named = database_of(target).map_err(TaskError::Postgres)?;
    if named.is_some() && wanted.len() > 1 {
        return Err(TaskError::Postgres(PostgresError::Url { url: target.to_owned(), why: ONE_DATABASE }));
    }
    let major = data.server_version / 10_000;
    has_server(component, major).await?;
    let source = here.and_then(|here| server_of(here.application, component));
    let tools = restore::tools_for(target, source).await.map_err(TaskError::Postgres)?;
    let mut databases = BTreeMap::new();
    for database in wanted {
        let into = named.as_deref().unwrap_or(database);
        let found = look_ahead(&tools, into).await.map_err(TaskError::Postgres)?;
        databases.insert(database.to_owned(), found);
    }
    let path = Place::base();
    let place = FolderFacts {
        path: path.to_string_lossy().into_owned(),
        exists: true,
        entries: 0,
        free_bytes: restore::free_bytes(&path),
        begun: None,
    };
    Ok(TargetFacts::Extracted { databases, place, reach })
}

/// Whether a target is a server, and no folder.
pub(crate) fn is_url(target: &str) -> bool {
    ["postgresql://", "postgres://"].iter().any(|scheme| target.starts_with(scheme))
}

/// The server of a component whose base backups are taken.
fn server_of<'a>(application: &'a Application, component: &Name) -> Option<&'a Postgres> {
    let component = application.components.iter().find(|other| other.name == *component)?;
    match &component.strategy {
        Strategy::Physical(physical) => Some(&physical.server),
        Strategy::Postgres(_) | Strategy::Disk(_) | Strategy::Action(_) => None,
    }
}

/// The `windlass` that looks after scratch places.
fn program(here: Option<Here<'_>>) -> Result<PathBuf, TaskError> {
    match here {
        Some(here) => Ok(here.host.program.clone()),
        None => std::env::current_exe().map_err(|source| TaskError::State { path: "windlass".into(), source }),
    }
}
