//! The names of everything that is made for a `Kryton`, and the labels it carries.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};

use crate::api::kryton::Kryton;

/// The CronJob, and the ConfigMap with its task.
pub(crate) fn backup(kryton: &str) -> String {
    format!("{kryton}-backup")
}

/// The ConfigMap of the look before the first schedule, and the beginning of its Jobs' names.
pub(crate) fn preflight(kryton: &str) -> String {
    format!("{kryton}-preflight")
}

/// The CronJob of snapshots, and its account and what that may do.
pub(crate) fn snapshot(kryton: &str) -> String {
    format!("{kryton}-snapshot")
}

/// The Secret of Windlass's own: the writer's key and the repository's identifier.
pub(crate) fn own_secret(kryton: &str) -> String {
    format!("{kryton}-windlass")
}

/// The Secret of the database, where nothing else is said.
pub(crate) fn database_secret(kryton: &str) -> String {
    format!("{kryton}-postgresql")
}

/// The label that Jobs and their Pods carry, by which they are found.
pub(crate) const FOR: &str = "kryton.azrtydxb.io/name";

/// The `Kryton` that an object is labelled for.
pub(crate) fn labelled_for(made: &impl ResourceExt) -> Option<ObjectRef<DeserializeGuard<Kryton>>> {
    Some(ObjectRef::new(made.labels().get(FOR)?).within(&made.namespace().unwrap_or_default()))
}

/// Labels of what belongs to one part of a `Kryton`.
pub(crate) fn labels(kryton: &str, component: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "kryton"),
        ("app.kubernetes.io/instance", kryton),
        ("app.kubernetes.io/component", component),
        ("app.kubernetes.io/managed-by", "kryton-operator"),
        (FOR, kryton),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// What is made for a `Kryton` goes when it goes.
pub(crate) fn owner(kryton: &Kryton) -> Option<OwnerReference> {
    kryton.controller_owner_ref(&())
}

/// `namespace/name`.
pub(crate) fn full(kryton: &Kryton) -> String {
    format!("{}/{}", kryton.namespace().unwrap_or_default(), kryton.name_any())
}
