//! Runs: how their Jobs stand, and the commit of those that are whole.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::{Api, Client, ResourceExt};
use windlass_core::id::PointId;
use windlass_core::point::RecoveryPoint;
use windlass_core::task;
use windlass_repo::error::RepositoryError;
use windlass_repo::run::Run;

use super::open::Opened;
use crate::error::OperatorError;
use crate::job::{State, state};
use crate::kryton::names;
use crate::objects::remembered;

/// A Job of a backup.
pub(super) struct Attempted {
    pub(super) name: String,
    pub(super) run: task::Run,
    pub(super) state: State,
}

/// The Jobs of a `Kryton`'s backups that are still there, the oldest first.
pub(super) async fn jobs(client: &Client, namespace: &str, kryton: &str) -> Result<Vec<Attempted>, OperatorError> {
    let api: Api<Job> = Api::namespaced(client.clone(), namespace);
    let of_it = format!("{}={kryton},app.kubernetes.io/component=backup", names::FOR);
    let listed = api.list(&remembered(&of_it)).await;
    let listed = listed.map_err(|error| OperatorError::read("Jobs of Kryton", namespace, kryton, error))?;
    let mut all = Vec::new();
    for job in listed {
        let created = job.metadata.creation_timestamp.as_ref().map_or_else(Timestamp::now, |time| time.0);
        let run = task::Run::of_job(&job.name_any(), &job.uid().unwrap_or_default(), created);
        let state = state(client, namespace, &job).await?;
        all.push(Attempted { name: job.name_any(), run, state });
    }
    all.sort_by_key(|job| job.run.scheduled);
    Ok(all)
}

/// Commits every run whose components are all there, whatever became of its Job.
pub(super) async fn commit_whole(opened: &Opened) -> Result<Vec<RecoveryPoint>, RepositoryError> {
    let mut committed = Vec::new();
    for id in Run::open(&opened.vault).await? {
        let Some(run) = Run::load(&opened.vault, id).await? else { continue };
        committed.extend(run.commit(&opened.vault, &opened.writer).await?);
    }
    Ok(committed)
}

/// Whether a run's point is among those committed.
pub(super) fn is_committed(points: &[PointId], run: &task::Run) -> bool {
    points.iter().any(|point| run.is_of_same_job(*point))
}
