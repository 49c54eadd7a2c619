//! Runs: what their Jobs say, and the commit of those that are whole.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use windlass_core::id::PointId;
use windlass_core::point::RecoveryPoint;
use windlass_core::task;
use windlass_repo::error::RepositoryError;
use windlass_repo::run::Run;

use super::open::Opened;
use crate::error::OperatorError;
use crate::kryton::names;

/// A Job of a backup.
pub(super) struct Attempted {
    pub(super) name: String,
    pub(super) run: task::Run,
    pub(super) state: State,
}

/// How a Job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    Ended,
    /// Its reason and message, and what its last container said.
    Failed(String),
}

/// The Jobs of a `Kryton`'s backups that are still there, the oldest first.
pub(super) async fn jobs(client: &Client, namespace: &str, kryton: &str) -> Result<Vec<Attempted>, OperatorError> {
    let api: Api<Job> = Api::namespaced(client.clone(), namespace);
    let of_it = format!("{}={kryton},app.kubernetes.io/component=backup", names::FOR);
    let listed = api.list(&ListParams::default().labels(&of_it)).await;
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

/// How a Job stands, and why it failed where it did.
pub(crate) async fn state(client: &Client, namespace: &str, job: &Job) -> Result<State, OperatorError> {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let holds = |type_: &str| conditions.iter().find(|c| c.type_ == type_ && c.status == "True");
    if let Some(failed) = holds("Failed") {
        let reason = failed.reason.clone().unwrap_or_else(|| "Failed".to_owned());
        let message = failed.message.clone().unwrap_or_default();
        let said = last_words(client, namespace, &job.name_any()).await?;
        let said = said.map_or_else(String::new, |said| format!("; {said}"));
        return Ok(State::Failed(format!("{reason}: {message}{said}")));
    }
    Ok(if holds("Complete").is_some() { State::Ended } else { State::Running })
}

/// Why the last Pod of a Job did not end well, where it is still there: with `restartPolicy: OnFailure` it goes with its
/// Job's last attempt.
pub(crate) async fn last_words(client: &Client, namespace: &str, job: &str) -> Result<Option<String>, OperatorError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let listed = api.list(&ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"))).await;
    let mut pods = listed.map_err(|error| OperatorError::read("Pods of Job", namespace, job, error))?.items;
    pods.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    Ok(pods.last().and_then(why))
}

/// What a Pod tells of why it is not running, or did not end well.
pub(super) fn why(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    if let Some(reason) = &status.reason {
        return Some(format!("{reason}: {}", status.message.clone().unwrap_or_default()));
    }
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    for container in containers {
        let states = [container.state.as_ref(), container.last_state.as_ref()];
        for state in states.into_iter().flatten() {
            if let Some(ended) = state.terminated.as_ref().filter(|ended| ended.exit_code != 0) {
                let reason = ended.reason.clone().unwrap_or_default();
                let said = ended.message.clone().unwrap_or_default();
                return Some(format!("{} ended with {} ({reason}): {}", container.name, ended.exit_code, said.trim()));
            }
            if let Some(waiting) =
                state.waiting.as_ref().filter(|waiting| waiting.reason.as_deref() != Some("PodInitializing"))
            {
                let reason = waiting.reason.clone().unwrap_or_default();
                return Some(format!(
                    "{} waits: {reason}: {}",
                    container.name,
                    waiting.message.clone().unwrap_or_default()
                ));
            }
        }
    }
    None
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
