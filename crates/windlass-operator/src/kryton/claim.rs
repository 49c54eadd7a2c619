//! Finds the claim of the volume that holds the notes: it is looked for, not guessed.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Api, Client};

use crate::error::OperatorError;

/// Where the server keeps the notes.
const NOTES: &str = "/data/notes";

/// The claim that the Deployment mounts for the notes; where there is no Deployment, one that is named for it.
pub(crate) async fn of_notes(client: &Client, namespace: &str, name: &str) -> Result<Option<String>, OperatorError> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let failed = |error| OperatorError::read("Deployment", namespace, name, error);
    if let Some(claim) = deployments.get_opt(name).await.map_err(failed)?.as_ref().and_then(mounted) {
        return Ok(Some(claim));
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    for candidate in [format!("{name}-data"), name.to_owned()] {
        let failed = |error| OperatorError::read("PersistentVolumeClaim", namespace, &candidate, error);
        if claims.get_metadata_opt(&candidate).await.map_err(failed)?.is_some() {
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

fn mounted(deployment: &Deployment) -> Option<String> {
    let pod = deployment.spec.as_ref()?.template.spec.as_ref()?;
    let mounts = pod.containers.iter().flat_map(|container| container.volume_mounts.iter().flatten());
    let of_notes = mounts.filter(|mount| mount.mount_path.trim_end_matches('/') == NOTES || mount.name == "data");
    let volume = of_notes.map(|mount| mount.name.as_str()).next()?;
    let volume = pod.volumes.iter().flatten().find(|candidate| candidate.name == volume)?;
    Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone())
}
