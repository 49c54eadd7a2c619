//! The Jobs of a restore: one for each task that is an agent's. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodTemplateSpec};
use k8s_openapi::api::core::v1::{TypedLocalObjectReference, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};
use windlass_core::restore::ReplaceVolume;
use windlass_core::task::Work;

use super::source::Source;
use super::world::World;
use crate::api::restore::Restore;
use crate::kryton::{Agent, component, names, task};

/// The part of an application that Jobs of restores are labelled with.
pub(super) const COMPONENT: &str = "restore";

/// The label with the restore that made a volume.
pub(super) const RESTORE: &str = "windlass.dev/restore";

/// One task, and the Job that carries it out.
pub(super) struct Built {
    pub(super) name: String,
    pub(super) task: ConfigMap,
    pub(super) job: Job,
}

/// What a Job is to do, and what it may need for it.
pub(super) struct Order<'a> {
    /// The end of its name.
    pub(super) what: &'static str,
    pub(super) work: Work,
    /// Seconds after which it has failed.
    pub(super) deadline: i64,
    /// The claim of the notes, where they are read.
    pub(super) notes: Option<&'a str>,
}

/// The Job of a task. Where the repository is given, it is opened.
pub(super) fn job(
    restore: &Restore,
    world: &World,
    order: Order<'_>,
    source: Option<&Source>,
    binary: &str,
) -> Box<Built> {
    let name = format!("{}-{}", restore.name_any(), order.what);
    let into = world.into.name_any();
    let store = source.map(|source| (&source.backup, source.own.repository));
    // Where no repository is opened the name is only told.
    let application = source.map_or_else(component, |source| source.valid.name.clone());
    let document = task(&application, &restore.namespace().unwrap_or_default(), store, order.work);
    let document = serde_json::to_string_pretty(&document).unwrap_or_default();
    let labels = names::labels(&into, COMPONENT);
    let metadata = ObjectMeta {
        name: Some(name.clone()),
        namespace: restore.namespace(),
        labels: Some(labels.clone()),
        owner_references: restore.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    };
    let pod = Agent {
        container: COMPONENT,
        kryton: &source.map_or_else(|| into.clone(), |source| source.kryton.name_any()),
        store: source.map(|source| &source.backup),
        variables: &world.connection.variables,
        image: &world.image,
        task: &name,
        restart: "Never",
        binary,
        notes: order.notes,
    };
    let template = ObjectMeta { labels: Some(labels), ..ObjectMeta::default() };
    let spec = JobSpec {
        backoff_limit: Some(2),
        active_deadline_seconds: Some(order.deadline),
        pod_failure_policy: Some(final_failures()),
        template: PodTemplateSpec { metadata: Some(template), spec: Some(pod.pod()) },
        ..JobSpec::default()
    };
    Box::new(Built {
        task: ConfigMap {
            metadata: metadata.clone(),
            data: Some(BTreeMap::from([("task.json".to_owned(), document)])),
            ..ConfigMap::default()
        },
        job: Job { metadata, spec: Some(spec), ..Job::default() },
        name,
    })
}

/// An agent that ends with 1 would fail again: it is not tried again, as it is after any other end.
fn final_failures() -> PodFailurePolicy {
    PodFailurePolicy {
        rules: vec![PodFailurePolicyRule {
            action: "FailJob".to_owned(),
            on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
                container_name: Some(COMPONENT.to_owned()),
                operator: "In".to_owned(),
                values: vec![1],
            }),
            on_pod_conditions: None,
        }],
    }
}

/// The claim of a volume that is made of a snapshot. It belongs to nobody: what is in it is the application's.
pub(super) fn claim(
    restore: &Restore,
    kryton: &str,
    step: &ReplaceVolume,
    like: Option<&PersistentVolumeClaimSpec>,
) -> PersistentVolumeClaim {
    let mut labels = names::labels(kryton, "server");
    labels.insert(RESTORE.to_owned(), restore.name_any());
    let source = TypedLocalObjectReference {
        api_group: Some("snapshot.storage.k8s.io".to_owned()),
        kind: "VolumeSnapshot".to_owned(),
        name: step.snapshot.clone(),
    };
    let size = BTreeMap::from([("storage".to_owned(), Quantity(step.bytes.to_string()))]);
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(step.new.clone()),
            namespace: restore.namespace(),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: like
                .and_then(|like| like.access_modes.clone())
                .or_else(|| Some(vec!["ReadWriteOnce".to_owned()])),
            storage_class_name: like.and_then(|like| like.storage_class_name.clone()),
            data_source: Some(source),
            resources: Some(VolumeResourceRequirements { requests: Some(size), limits: None }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}
