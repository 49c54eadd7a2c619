//! Servers brought to a moment: where it is in the archive, and a place for the server that recovers.

use windlass_core::name::Name;
use windlass_core::point::{ComponentData, ComponentManifest, PhysicalData};
use windlass_core::restore::{DataFolderStep, Moment, Reach, Refusal, Request, Wanted};
use windlass_core::wal::{Lsn, Timeline};
use windlass_engine::postgres::physical::PhysicalError;
use windlass_engine::postgres::physical::recover::Recoverer;
use windlass_engine::postgres::scratch::Place;
use windlass_engine::postgres::tools::server_folder;
use windlass_engine::progress::{Event, Progress};
use windlass_engine::restore::{self, RestoreError};
use windlass_engine::supervisor::{Orders, Supervisor};
use windlass_repo::format::walg::{BackupName, Backups, NoMoment, WalgError};
use windlass_repo::vault::Vault;

use crate::error::TaskError;
use crate::restore::Here;

/// Seconds a recovery may take before its place is torn down.
const LONGEST: u64 = 7 * 24 * 3600;

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

fn archive(vault: &Vault, component: &Name, data: &PhysicalData) -> Result<(Backups, BackupName), TaskError> {
    let archive = vault.cluster(component, &data.system_identifier, data.sealed);
    Ok((archive.map_err(|error| TaskError::Restore(RestoreError::Key(error)))?, data.backup.parse().map_err(walg)?))
}

fn walg(error: WalgError) -> TaskError {
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
            let major = data.server_version / 10_000;
            if !matches!(server_folder(major).await, Ok((found, _)) if found == major) {
                let (component, moment) = (component.clone(), moment.clone());
                return Err(TaskError::Refused(Refusal::NoServer { component, moment, major }));
            }
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
    let program = match here {
        Some(here) => here.host.program.clone(),
        None => std::env::current_exe().map_err(|source| TaskError::State { path: "windlass".into(), source })?,
    };
    let place = Place::make().map_err(TaskError::Postgres)?;
    let orders = Orders { after: Vec::new(), teardown: vec![place.path.clone()], deadline: LONGEST };
    let supervisor = Supervisor::start(&program, &orders).await.map_err(TaskError::Supervisor)?;
    let done = carried_out(Some(Recoverer { place: &place, program: &program })).await;
    let report = supervisor.act().await.map_err(TaskError::Supervisor)?;
    for failure in report.failures {
        progress.event(Event::Warning { text: &format!("tear down the scratch place: {failure}") });
    }
    done.map_err(TaskError::Restore)
}
