//! Whether what a release made is still as it was made.
//!
//! After each upgrade what there is - each object by its UID and generation - is noted in an annotation of the release's
//! newest Secret, so that a change is seen also by an operator that was not there when it happened. What scales by itself
//! is not compared: its autoscaler changes it.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::record::Record;
use crate::error::OperatorError;

/// The annotation with what there was after the last upgrade.
pub(crate) const APPLIED: &str = "windlass.dev/applied";

/// What there is of a release: `Kind/name`, and by what it is told.
pub(crate) type Made = BTreeMap<String, String>;

/// Looks at what there is of a release.
pub(crate) async fn look(client: &Client, namespace: &str, release: &str) -> Result<Made, OperatorError> {
    let mut made = Made::new();
    add::<Deployment>(client, namespace, release, &mut made).await?;
    add::<StatefulSet>(client, namespace, release, &mut made).await?;
    add::<Service>(client, namespace, release, &mut made).await?;
    add::<ConfigMap>(client, namespace, release, &mut made).await?;
    add::<Ingress>(client, namespace, release, &mut made).await?;
    Ok(made)
}

async fn add<K>(client: &Client, namespace: &str, release: &str, made: &mut Made) -> Result<(), OperatorError>
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
        let told = format!("{}:{}", meta.uid.clone().unwrap_or_default(), stands.unwrap_or_default());
        made.insert(format!("{}/{}", K::kind(&()), object.name_any()), told);
    }
    Ok(())
}

/// What differs, in words; nothing where nothing was noted.
pub(crate) fn differences(record: &Record, now: &Made, scales: bool) -> Vec<String> {
    let Some(before) = record.applied.as_ref() else { return Vec::new() };
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

/// Notes what there is.
pub(crate) async fn note(
    client: &Client,
    namespace: &str,
    release: &str,
    revision: i64,
    made: &Made,
) -> Result<(), OperatorError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let name = format!("sh.helm.release.v1.{release}.v{revision}");
    let patch = json!({ "metadata": { "annotations": { APPLIED: json!(made).to_string() } } });
    match secrets.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        // It was superseded, or removed, meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(OperatorError::write("Secret", namespace, &name, error)),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::record::State;
    use super::*;

    #[test]
    fn what_is_gone_or_was_changed_is_told_and_what_came_is_not() {
        let made = |all: &[(&str, &str)]| -> Made { all.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect() };
        let applied = made(&[("Deployment/a", "u:1"), ("Service/a", "u:5")]);
        let record = Record {
            revision: 1,
            state: State::Deployed,
            digest: None,
            since: Timestamp::UNIX_EPOCH,
            applied: Some(applied),
        };
        assert!(
            differences(&record, &made(&[("Deployment/a", "u:1"), ("Service/a", "u:5"), ("Service/b", "x")]), false)
                .is_empty()
        );
        assert_eq!(
            differences(&record, &made(&[("Deployment/a", "u:2")]), false),
            ["Deployment/a was changed", "Service/a is gone"]
        );
        assert_eq!(differences(&record, &made(&[("Deployment/a", "u:2")]), true), ["Service/a is gone"]);
    }
}
