//! Whether what a release made is still as it was made.
//!
//! After each upgrade what there is - each object by its UID and generation - is noted in an annotation of the release's
//! newest Secret, so that a change is seen also by an operator that was not there when it happened. What somebody changed
//! between the upgrade and the note is noted as changed. What scales by itself is not compared: its autoscaler changes it.

use std::collections::BTreeMap;
use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::record::Record;
use crate::error::OperatorError;

/// The annotation with what there was after the last upgrade.
pub(crate) const APPLIED: &str = "windlass.dev/applied";

/// By what an object is told that somebody changed before it could be noted: nothing is ever told so.
const CHANGED: &str = "changed";

/// Who writes what a release is made of.
const HELM: &str = "helm";

/// What there is of a release: `Kind/name`, and by what it is told.
pub(crate) type Made = BTreeMap<String, String>;

/// Looks at what there is of a release, to compare it with what was noted.
pub(crate) async fn look(client: &Client, namespace: &str, release: &str) -> Result<Made, OperatorError> {
    look_since(client, namespace, release, Timestamp::MAX).await
}

/// Looks at what an upgrade made that began at a time.
async fn look_since(client: &Client, namespace: &str, release: &str, began: Timestamp) -> Result<Made, OperatorError> {
    let mut made = Made::new();
    add::<Deployment>(client, namespace, release, began, &mut made).await?;
    add::<StatefulSet>(client, namespace, release, began, &mut made).await?;
    add::<Service>(client, namespace, release, began, &mut made).await?;
    add::<ConfigMap>(client, namespace, release, began, &mut made).await?;
    add::<Ingress>(client, namespace, release, began, &mut made).await?;
    Ok(made)
}

async fn add<K>(
    client: &Client,
    namespace: &str,
    release: &str,
    began: Timestamp,
    made: &mut Made,
) -> Result<(), OperatorError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let of_it = format!("app.kubernetes.io/instance={release},app.kubernetes.io/managed-by=Helm");
    let listed = api.list_metadata(&ListParams::default().labels(&of_it)).await;
    let listed = listed.map_err(|error| OperatorError::read("objects of release", namespace, release, error))?;
    for object in listed {
        let meta = &object.metadata;
        // Objects without a generation change only when someone changes them.
        let stands = meta.generation.map(|generation| generation.to_string()).or_else(|| meta.resource_version.clone());
        let told = if object.managed_fields().iter().any(|entry| is_somebodys(entry, began)) {
            CHANGED.to_owned()
        } else {
            format!("{}:{}", meta.uid.clone().unwrap_or_default(), stands.unwrap_or_default())
        };
        made.insert(format!("{}/{}", K::kind(&()), object.name_any()), told);
    }
    Ok(())
}

/// Whether somebody but helm has set what an object is, at that time or later. Controllers set its status, its scale and notes.
fn is_somebodys(entry: &ManagedFieldsEntry, began: Timestamp) -> bool {
    let helm = entry.manager.as_deref() == Some(HELM) || entry.subresource.as_deref().is_some_and(|of| !of.is_empty());
    let fields = entry.fields_v1.as_ref().and_then(|fields| fields.0.as_object());
    let of_its_own = fields.is_some_and(|fields| fields.keys().any(|key| key != "f:metadata" && key != "f:status"));
    // Times are kept to the second.
    let late = entry.time.as_ref().is_some_and(|time| time.0.as_second() >= began.as_second());
    !helm && of_its_own && late
}

/// What differs from what was noted, in words.
pub(crate) fn differences(before: &Made, now: &Made, scales: bool) -> Vec<String> {
    let mut found = Vec::new();
    for (object, was) in before {
        match now.get(object) {
            None => found.push(format!("{object} is gone")),
            Some(is) if is != was && !(scales && object.starts_with("Deployment/")) => {
                found.push(format!("{object} was changed"));
            }
            Some(_) => {}
        }
    }
    found
}

/// Whether somebody changed it before it could be noted.
pub(crate) fn is_changed(noted: &Made) -> bool {
    noted.values().any(|told| told == CHANGED)
}

/// Notes at a revision what there is of it; what that is.
pub(crate) async fn note(
    client: &Client,
    namespace: &str,
    release: &str,
    record: &Record,
) -> Result<Made, OperatorError> {
    let made = look_since(client, namespace, release, record.began).await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let name = format!("sh.helm.release.v1.{release}.v{}", record.revision);
    let patch = json!({ "metadata": { "annotations": { APPLIED: json!(made).to_string() } } });
    match secrets.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(made),
        // It was superseded, or removed, meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(made),
        Err(error) => Err(OperatorError::write("Secret", namespace, &name, error)),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, Time};

    use super::*;

    #[test]
    fn what_is_gone_or_was_changed_is_told_and_what_came_is_not() {
        let made = |all: &[(&str, &str)]| -> Made { all.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect() };
        let before = made(&[("Deployment/a", "u:1"), ("Service/a", "u:5")]);
        let more = made(&[("Deployment/a", "u:1"), ("Service/a", "u:5"), ("Service/b", "x")]);
        assert!(differences(&before, &more, false).is_empty());
        let other = made(&[("Deployment/a", "u:2")]);
        assert_eq!(differences(&before, &other, false), ["Deployment/a was changed", "Service/a is gone"]);
        assert_eq!(differences(&before, &other, true), ["Service/a is gone"]);
    }

    #[test]
    fn only_what_others_than_helm_and_controllers_set_since_then_is_somebodys() {
        let entry = |manager: &str, subresource: Option<&str>, fields: &[&str], second: i64| ManagedFieldsEntry {
            manager: Some(manager.to_owned()),
            subresource: subresource.map(str::to_owned),
            time: Timestamp::from_second(second).ok().map(Time),
            fields_v1: Some(FieldsV1(fields.iter().map(|field| ((*field).to_owned(), json!({}))).collect())),
            ..ManagedFieldsEntry::default()
        };
        let began = "1970-01-01T00:01:40.7Z".parse().unwrap();
        assert!(is_somebodys(&entry("kubectl-patch", None, &["f:spec"], 100), began));
        assert!(is_somebodys(&entry("kubectl-edit", Some(""), &["f:metadata", "f:data"], 101), began));
        assert!(!is_somebodys(&entry("kubectl-patch", None, &["f:spec"], 99), began));
        assert!(!is_somebodys(&entry("helm", None, &["f:spec"], 100), began));
        assert!(!is_somebodys(&entry("kube-controller-manager", None, &["f:metadata"], 100), began));
        assert!(!is_somebodys(&entry("kube-controller-manager", Some("status"), &["f:status"], 100), began));
        assert!(!is_somebodys(&entry("kubectl", Some("scale"), &["f:spec"], 100), began));
    }
}
