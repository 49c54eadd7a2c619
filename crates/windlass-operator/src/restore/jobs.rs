//! Has a Job carry out a task, and reads what came of it.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Client, ResourceExt};
use windlass_core::task::Done;

use super::build::Built;
use crate::api::restore::Restore;
use crate::context::Context;
use crate::error::OperatorError;
use crate::job::{State, pods, state, why};
use crate::kryton::apply;
use crate::objects;

/// How a task stands.
pub(super) enum Ran {
    /// Nothing of it runs yet: why.
    Waiting(String),
    /// It is under way: in words.
    Pending(String),
    /// What came of it.
    Done(Box<Done>),
    /// Why it failed.
    Failed(String),
}

/// Has a task carried out, once: a Job that is there is that task's.
pub(super) async fn run(context: &Context, restore: &Restore, what: &Built) -> Result<Ran, OperatorError> {
    let (namespace, name) = (restore.namespace().unwrap_or_default(), &what.name);
    let client = &context.client;
    let uid = restore.uid();
    let Some(job) = objects::find::<Job>(client, &namespace, name).await? else {
        let there = objects::find_metadata::<ConfigMap>(client, &namespace, name).await?;
        if there.is_some_and(|there| !objects::is_owned_by(&there, uid.as_deref())) {
            return Ok(Ran::Failed(format!(
                "ConfigMap {name} is there and is not of this restore: give it another name"
            )));
        }
        apply::apply(client, &what.task).await?;
        objects::create(client, &what.job, apply::MANAGER).await?;
        return Ok(Ran::Pending(format!("Job {name} begins")));
    };
    if !objects::is_owned_by(&job, uid.as_deref()) {
        let is_older =
            job.owner_references().iter().any(|owner| owner.kind == "Restore" && owner.name == restore.name_any());
        return Ok(if is_older {
            Ran::Waiting(format!("Job {name} of an earlier Restore of this name is going"))
        } else {
            Ran::Failed(format!("Job {name} is there and is not of this restore: give it another name"))
        });
    }
    if job.metadata.deletion_timestamp.is_some() {
        return Ok(Ran::Pending(format!("Job {name} is begun anew")));
    }
    match state(client, &namespace, &job).await? {
        State::Failed(why) => Ok(Ran::Failed(format!("Job {name}: {why}"))),
        State::Waiting(why) => Ok(Ran::Waiting(
            why.map_or_else(|| format!("Job {name} has not begun"), |why| format!("Job {name}: {why}")),
        )),
        State::Running(why) => {
            let why = why.map_or_else(String::new, |why| format!("; an attempt failed: {why}"));
            Ok(Ran::Pending(format!("Job {name} is at work{why}")))
        }
        State::Ended => {
            match told(client, &namespace, name).await? {
                Some(Ok(done)) => return Ok(Ran::Done(Box::new(done))),
                Some(Err(why)) => return Ok(Ran::Failed(format!("Job {name}: what came of it cannot be read: {why}"))),
                None => {}
            }
            // Its Pod is gone, and with it what came of it: what is done already is not done twice.
            objects::delete::<Job>(client, &namespace, name, None).await?;
            Ok(Ran::Pending(format!("Job {name} is begun anew: its Pod was deleted before it was read")))
        }
    }
}

/// Removes the Job of a task, so that it is carried out again.
pub(super) async fn remove(context: &Context, restore: &Restore, what: &str) -> Result<(), OperatorError> {
    let (namespace, name) = (restore.namespace().unwrap_or_default(), format!("{}-{what}", restore.name_any()));
    objects::delete::<Job>(&context.client, &namespace, &name, None).await
}

/// Ends a task, whatever it is at; what of it is still there, in words.
pub(super) async fn end(context: &Context, restore: &Restore, what: &str) -> Result<Option<String>, OperatorError> {
    remove(context, restore, what).await?;
    let (namespace, name) = (restore.namespace().unwrap_or_default(), format!("{}-{what}", restore.name_any()));
    let left = pods(&context.client, &namespace, &name).await?;
    Ok(left.first().map(|pod| why(pod).unwrap_or_else(|| format!("Pod {} is ending", pod.name_any()))))
}

/// What the Pod that ended well has told; or why that cannot be read.
async fn told(
    client: &Client,
    namespace: &str,
    job: &str,
) -> Result<Option<Result<Done, serde_json::Error>>, OperatorError> {
    let of = pods(client, namespace, job).await?.into_iter().filter_map(|pod| pod.status);
    let containers = of.flat_map(|status| status.container_statuses.unwrap_or_default());
    let ended = containers.filter_map(|container| container.state?.terminated).find(|ended| ended.exit_code == 0);
    Ok(ended.map(|ended| serde_json::from_str(&ended.message.unwrap_or_default())))
}
