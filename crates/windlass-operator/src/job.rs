//! How a Job stands, and why it does not come to its end: as its Pods say, and where it has none, the cluster.
//!
//! With `restartPolicy: OnFailure` a Pod goes with its Job's last attempt. What it said is noted at the Job while it is there.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Event, Pod, PodStatus};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::error::OperatorError;
use crate::lost;
use crate::objects::remembered;

/// The note at a Job of what its last Pod said of its failure.
const SAID: &str = "kryton.azrtydxb.io/said";

/// The most of a note, in characters.
const LONG: usize = 1000;

/// How a Job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing of it runs or ever ran: there is no Pod, or it cannot start. Why, where that is known.
    Waiting(Option<String>),
    /// It runs. Why an earlier attempt failed, where one did.
    Running(Option<String>),
    /// It ended well.
    Ended,
    /// Its reason and message, and what its last container said.
    Failed(String),
}

/// How a Job stands.
pub(crate) async fn state(client: &Client, namespace: &str, job: &Job) -> Result<State, OperatorError> {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let holds = |type_: &str| conditions.iter().find(|c| c.type_ == type_ && c.status == "True");
    // The latter of each is said first, and alone while a Pod of an earlier attempt is not gone from a node that does not answer.
    let (complete, failed) =
        (holds("Complete").or_else(|| holds("SuccessCriteriaMet")), holds("Failed").or_else(|| holds("FailureTarget")));
    if complete.is_some() {
        return Ok(State::Ended);
    }
    let pod = last_pod(client, namespace, &job.name_any()).await?;
    let said = pod.as_ref().and_then(why);
    if let Some(failed) = failed {
        let reason = failed.reason.clone().unwrap_or_else(|| "Failed".to_owned());
        let message = failed.message.clone().unwrap_or_default();
        let said = said.or_else(|| job.annotations().get(SAID).cloned());
        let said = said.map_or_else(String::new, |said| format!("; {said}"));
        return Ok(State::Failed(format!("{reason}: {message}{said}")));
    }
    let Some(pod) = pod else {
        let refused = refused(client, namespace, &job.name_any()).await?;
        return Ok(State::Waiting(refused.or_else(|| job.annotations().get(SAID).cloned())));
    };
    let has_begun = has_begun(&pod);
    if said.is_some() || (has_begun && !is_ending(&pod)) {
        note(client, namespace, job, said.as_deref()).await?;
    }
    Ok(if has_begun { State::Running(said) } else { State::Waiting(said) })
}

/// The Pods of a Job.
pub(crate) async fn pods(client: &Client, namespace: &str, job: &str) -> Result<Vec<Pod>, OperatorError> {
    listed(client, namespace, job, &ListParams::default().labels(&of(job))).await
}

/// Whether anything of a Job runs or ever ran, as it is now.
pub(crate) async fn has_any_begun(client: &Client, namespace: &str, job: &str) -> Result<bool, OperatorError> {
    Ok(pods(client, namespace, job).await?.iter().any(has_begun))
}

fn of(job: &str) -> String {
    format!("batch.kubernetes.io/job-name={job}")
}

async fn listed(client: &Client, namespace: &str, job: &str, which: &ListParams) -> Result<Vec<Pod>, OperatorError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let listed = api.list(which).await;
    Ok(listed.map_err(|error| OperatorError::read("Pods of Job", namespace, job, error))?.items)
}

async fn last_pod(client: &Client, namespace: &str, job: &str) -> Result<Option<Pod>, OperatorError> {
    let pods = listed(client, namespace, job, &remembered(&of(job))).await?;
    Ok(pods.into_iter().max_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0)))
}

/// Why the cluster makes no Pod for a Job: a quota, an admission. Only its Events tell.
async fn refused(client: &Client, namespace: &str, job: &str) -> Result<Option<String>, OperatorError> {
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let of_it = format!("involvedObject.kind=Job,involvedObject.name={job},reason=FailedCreate");
    let listed = api.list(&ListParams::default().fields(&of_it)).await;
    let events = listed.map_err(|error| OperatorError::read("Events of Job", namespace, job, error))?.items;
    let newest = events.into_iter().max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
    Ok(newest.and_then(|event| event.message).map(|message| format!("no Pod is made for it: {message}")))
}

/// Notes what a Pod says, where it is news.
async fn note(client: &Client, namespace: &str, job: &Job, said: Option<&str>) -> Result<(), OperatorError> {
    let said: Option<String> = said.map(|said| said.chars().take(LONG).collect());
    if job.annotations().get(SAID) == said.as_ref() {
        return Ok(());
    }
    let name = job.name_any();
    let api: Api<Job> = Api::namespaced(client.clone(), namespace);
    let patch = json!({ "metadata": { "uid": job.uid(), "annotations": { SAID: said } } });
    match api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        // It is gone, or another of its name.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(OperatorError::write("Job", namespace, &name, error)),
    }
}

/// What containers wait for when all is well.
const USUAL: [&str; 2] = ["PodInitializing", "ContainerCreating"];

/// What a Pod tells of why it does not start, or did not end well.
pub(crate) fn why(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let node = || pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    if lost::is_silent(pod) {
        let (pod, node) = (pod.name_any(), node());
        return Some(format!(
            "Pod {pod} is to end, and node {node} tells nothing of it: it is waited for until the node is back, or removed from the cluster"
        ));
    }
    if let Some(reason) = &status.reason {
        return Some(format!("{reason}: {}", status.message.clone().unwrap_or_default()));
    }
    let conditions = || status.conditions.iter().flatten();
    let ends = conditions().find(|c| c.type_ == "DisruptionTarget" && c.status == "True");
    let stays = conditions().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(condition) = ends.or(stays) {
        let reason = condition.reason.clone().unwrap_or_default();
        return Some(format!("{reason}: {}", condition.message.clone().unwrap_or_default()));
    }
    if is_ending(pod) {
        return None;
    }
    if is_cut_off(pod) {
        return Some(format!("node {}, on which it runs, does not answer", node()));
    }
    containers(pod).find_map(|container| failed(container).or_else(|| waits(container)))
}

/// Whether its node does not answer: all its containers are ready, as the node said last, and the Pod is not, as the cluster
/// says for a node that is silent.
fn is_cut_off(pod: &Pod) -> bool {
    let conditions = || pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let is = |type_: &str, said: &str| conditions().any(|c| c.type_ == type_ && c.status == said);
    is("ContainersReady", "True") && is("Ready", "False")
}

/// Whether it was told to end: how its containers end then is not why.
fn is_ending(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// How a container ended, where that was not well and it did not end well since.
fn failed(container: &ContainerStatus) -> Option<String> {
    let ended = |state: Option<&ContainerState>| state.and_then(|state| state.terminated.clone());
    let ended = ended(container.state.as_ref()).or_else(|| ended(container.last_state.as_ref()))?;
    let (reason, said) = (ended.reason.unwrap_or_default(), ended.message.unwrap_or_default());
    (ended.exit_code != 0)
        .then(|| format!("{} ended with {} ({reason}): {}", container.name, ended.exit_code, said.trim()))
}

fn waits(container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.clone().filter(|reason| !USUAL.contains(&reason.as_str()))?;
    Some(format!("{} waits: {reason}: {}", container.name, waiting.message.clone().unwrap_or_default()))
}

/// Whether what it is for ever ran; what prepares that does not count.
fn has_begun(pod: &Pod) -> bool {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let mut states = containers.flat_map(|container| [container.state.as_ref(), container.last_state.as_ref()]);
    states.any(|state| state.is_some_and(|state| state.running.is_some() || state.terminated.is_some()))
}

/// The containers of a Pod, in the order in which they run.
fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let of = |pick: fn(&PodStatus) -> &Option<Vec<ContainerStatus>>| {
        pod.status.iter().flat_map(move |status| pick(status).iter().flatten())
    };
    of(|status| &status.init_container_statuses).chain(of(|status| &status.container_statuses))
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::Value;

    use super::*;

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({ "status": status })).unwrap()
    }

    fn backup(state: &Value, last: &Value) -> Pod {
        let installed = json!({ "name": "install", "state": { "terminated": { "exitCode": 0 } } });
        let backup = json!({ "name": "backup", "state": state, "lastState": last });
        pod(&json!({ "initContainerStatuses": [installed], "containerStatuses": [backup] }))
    }

    #[test]
    fn the_cause_is_told_and_not_that_it_is_waited_for_the_next_attempt() {
        let killed = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
        let waiting = json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 10s" } });
        for state in [waiting, json!({ "running": {} })] {
            let pod = backup(&state, &killed);
            assert_eq!(why(&pod).unwrap(), "backup ended with 137 (OOMKilled): ");
            assert!(has_begun(&pod));
        }
    }

    #[test]
    fn how_a_pod_ends_that_was_told_to_is_not_why_its_job_failed() {
        let mut pod = backup(&json!({ "terminated": { "exitCode": 143 } }), &json!({}));
        assert!(why(&pod).is_some());
        pod.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
        assert_eq!(why(&pod), None);
        pod.metadata.deletion_timestamp = Some(Time(Timestamp::now() - SignedDuration::from_mins(2)));
        assert!(why(&pod).unwrap().contains("tells nothing of it"));
        pod.status.as_mut().unwrap().phase = Some("Failed".to_owned());
        assert_eq!(why(&pod), None);
    }

    #[test]
    fn a_pod_that_is_not_ready_though_its_containers_are_is_on_a_node_that_is_silent() {
        let with = |ready: &str, containers: &str| {
            let condition = |type_: &str, status: &str| json!({ "type": type_, "status": status });
            let conditions = [condition("Ready", ready), condition("ContainersReady", containers)];
            let running = json!({ "name": "backup", "state": { "running": {} } });
            let mut pod = pod(&json!({ "conditions": conditions, "containerStatuses": [running] }));
            pod.spec = serde_json::from_value(json!({ "nodeName": "far", "containers": [] })).unwrap();
            why(&pod)
        };
        assert_eq!(with("False", "True").unwrap(), "node far, on which it runs, does not answer");
        assert_eq!([with("True", "True"), with("False", "False")], [None, None]);
    }

    #[test]
    fn what_is_usual_is_not_told() {
        for reason in USUAL {
            let pod = backup(&json!({ "waiting": { "reason": reason } }), &json!({}));
            assert_eq!(why(&pod), None);
            assert!(!has_begun(&pod));
        }
        assert_eq!(why(&backup(&json!({ "running": {} }), &json!({}))), None);
    }

    #[test]
    fn an_image_that_is_not_there_a_node_that_is_full_and_an_eviction_are_told() {
        let image = backup(&json!({ "waiting": { "reason": "ErrImagePull", "message": "not found" } }), &json!({}));
        assert_eq!(why(&image).unwrap(), "backup waits: ErrImagePull: not found");
        let condition = |type_: &str, status: &str| json!({ "type": type_, "status": status, "reason": "Why", "message": "because" });
        let full = pod(&json!({ "conditions": [condition("PodScheduled", "False")] }));
        assert_eq!(why(&full).unwrap(), "Why: because");
        let evicted =
            pod(&json!({ "conditions": [condition("PodScheduled", "True"), condition("DisruptionTarget", "True")] }));
        assert_eq!(why(&evicted).unwrap(), "Why: because");
    }
}
