//! A `Kryton` that a restore holds: it is stopped by the values of its own release, and takes no backups meanwhile.
//!
//! What is held, and the volume of the notes that a restore has given it, stand in annotations of the `Kryton`: whoever
//! reconciles it needs nothing else.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Map, Value, json};

use super::{names, release};
use crate::api::kryton::Kryton;
use crate::api::restore::Restore;
use crate::context::Context;
use crate::error::OperatorError;
use crate::objects;

/// The restore that is at work on it, by its name: no other begins, and no backup.
const HELD: &str = "windlass.dev/restored-by";

/// The restore that has it stopped, by its name.
const STOPPED: &str = "windlass.dev/stopped-by";

/// The claim of the notes that a restore has given it.
const CLAIM: &str = "windlass.dev/notes-claim";

/// The restore that is at work on a `Kryton`, whether it is there or not.
pub(crate) fn holder(kryton: &Kryton) -> Option<&str> {
    kryton.annotations().get(HELD).map(String::as_str)
}

/// The restore that has it stopped, whether it is there or not.
pub(crate) fn stopper(kryton: &Kryton) -> Option<&str> {
    kryton.annotations().get(STOPPED).map(String::as_str)
}

/// The claim that a restore has given it.
pub(crate) fn claim(kryton: &Kryton) -> Option<&str> {
    kryton.annotations().get(CLAIM).map(String::as_str)
}

/// What restores do to a `Kryton`; one that is gone does nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    /// The one that is at work on it.
    pub(crate) by: Option<String>,
    /// The one that has it stopped.
    pub(crate) stopped: Option<String>,
}

/// Reads what restores do to a `Kryton`.
pub(super) async fn held(context: &Context, kryton: &Kryton) -> Result<Held, OperatorError> {
    let there = async |name: Option<&str>| match name {
        Some(name) if is_there(context, kryton, name).await? => Ok(Some(name.to_owned())),
        _ => Ok::<_, OperatorError>(None),
    };
    Ok(Held { by: there(holder(kryton)).await?, stopped: there(stopper(kryton)).await? })
}

/// Whether a restore is there.
pub(crate) async fn is_there(context: &Context, kryton: &Kryton, restore: &str) -> Result<bool, OperatorError> {
    let namespace = kryton.namespace().unwrap_or_default();
    Ok(objects::find_metadata::<Restore>(&context.client, &namespace, restore).await?.is_some())
}

/// The values that hold a release, and give it the volume of the notes.
pub(super) fn values(kryton: &Kryton, held: bool) -> Map<String, Value> {
    let mut values = Map::new();
    if held {
        values.insert("replicaCount".to_owned(), json!(0));
        // An autoscaler would set the number of replicas anew.
        values.insert("autoscaling".to_owned(), json!({ "enabled": false }));
    }
    if let Some(claim) = claim(kryton) {
        values.insert("persistence".to_owned(), json!({ "existingClaim": claim }));
    }
    values
}

/// Has a `Kryton` stopped, unless it changed meanwhile: two restores must not both take it.
pub(crate) async fn stop(context: &Context, kryton: &Kryton, restore: &str) -> Result<(), OperatorError> {
    let taken = json!({ HELD: restore, STOPPED: restore });
    annotate(context, kryton, &json!({ "resourceVersion": kryton.resource_version(), "annotations": taken })).await
}

/// Has a `Kryton` started, with this volume of the notes; the one it had by itself where there is none.
pub(crate) async fn start(context: &Context, kryton: &Kryton, claim: Option<&str>) -> Result<(), OperatorError> {
    annotate(context, kryton, &json!({ "annotations": { STOPPED: null, CLAIM: claim } })).await
}

/// Lets a `Kryton` go: others may begin.
pub(crate) async fn release(context: &Context, kryton: &Kryton) -> Result<(), OperatorError> {
    annotate(context, kryton, &json!({ "annotations": { HELD: null } })).await
}

async fn annotate(context: &Context, kryton: &Kryton, metadata: &Value) -> Result<(), OperatorError> {
    let (namespace, name) = (kryton.namespace().unwrap_or_default(), kryton.name_any());
    let api: Api<Kryton> = Api::namespaced(context.client.clone(), &namespace);
    let patched =
        api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(json!({ "metadata": metadata }))).await;
    match patched {
        Ok(_) => Ok(()),
        // It changed, or is gone: the next look tells.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(OperatorError::write("Kryton", &namespace, &name, error)),
    }
}

/// How many replicas a `Kryton`'s Deployment is to have; none where there is no Deployment.
async fn replicas(context: &Context, namespace: &str, name: &str) -> Result<i32, OperatorError> {
    let found = objects::find::<Deployment>(&context.client, namespace, name).await?;
    Ok(found.and_then(|deployment| deployment.spec).map_or(0, |spec| spec.replicas.unwrap_or(1)))
}

/// What is still running of a `Kryton` that is being stopped, in words; `None` where nothing is.
pub(crate) async fn still_running(context: &Context, kryton: &Kryton) -> Result<Option<String>, OperatorError> {
    let (namespace, name) = (kryton.namespace().unwrap_or_default(), kryton.name_any());
    let wanted = replicas(context, &namespace, &name).await?;
    if wanted > 0 {
        return Ok(Some(format!("Deployment {name} is being scaled to 0")));
    }
    let of_it = format!("app.kubernetes.io/instance={name},app.kubernetes.io/component=server");
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    let pods = pods.list_metadata(&ListParams::default().labels(&of_it)).await;
    let pods = pods.map_err(|error| OperatorError::read("Pods of Kryton", &namespace, &name, error))?;
    if let Some(pod) = pods.items.first() {
        return Ok(Some(format!("Pod {} is ending", pod.name_any())));
    }
    // What is being captured is that of before: it is let finish.
    let of_it = format!("{}={name},app.kubernetes.io/component=backup", names::FOR);
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &namespace);
    let jobs = jobs.list(&ListParams::default().labels(&of_it)).await;
    let jobs = jobs.map_err(|error| OperatorError::read("Jobs of Kryton", &namespace, &name, error))?;
    let at_work = |job: &&Job| job.status.as_ref().is_some_and(|status| status.active.unwrap_or(0) > 0);
    Ok(jobs.iter().find(at_work).map(|job| format!("Job {} takes a backup", job.name_any())))
}

/// What is not up yet of a `Kryton` that is being started, in words; `None` where it runs.
pub(crate) async fn not_up(context: &Context, kryton: &Kryton) -> Result<Option<String>, OperatorError> {
    let (namespace, name) = (kryton.namespace().unwrap_or_default(), kryton.name_any());
    let wanted = replicas(context, &namespace, &name).await?;
    if wanted == 0 {
        return Ok(Some(format!("Deployment {name} is being scaled up")));
    }
    let ready = release::ready(context, &namespace, &name, None).await?;
    Ok((ready.holds != Some(true)).then_some(ready.message))
}

/// Whether a `Kryton` is to run at all, by its own values.
pub(crate) fn is_to_run(kryton: &Kryton) -> bool {
    let said = kryton.spec.values.as_ref().and_then(|values| values.get("replicaCount"));
    said.and_then(Value::as_i64) != Some(0)
}

/// The folder of the notes within their volume.
pub(crate) fn folder_of_notes(kryton: &Kryton) -> &str {
    let said = kryton.spec.values.as_ref().and_then(|values| values.get("persistence")?.get("subPath")?.as_str());
    said.unwrap_or_default().trim_start_matches('/')
}

/// Where the server of a `Kryton` is reached within the cluster.
pub(crate) fn address(kryton: &Kryton) -> String {
    let port = kryton.spec.values.as_ref().and_then(|values| values.get("service")?.get("port")?.as_u64());
    let (name, namespace) = (kryton.name_any(), kryton.namespace().unwrap_or_default());
    format!("http://{name}.{namespace}.svc:{}", port.unwrap_or(3001))
}
