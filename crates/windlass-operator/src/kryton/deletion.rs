//! The end of a `Kryton`: its release is removed before the object goes. What is made by others' word - volumes, snapshots,
//! dumps - stays, unless the deletion policy says otherwise; dumps stay always.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};

use super::names;
use crate::api::kryton::{DeletionPolicy, Kryton};
use crate::context::Context;
use crate::error::OperatorError;
use crate::objects;
use crate::release::records;
use crate::snapshot;

/// By which Helm knows what it has made (`pkg/action/validate.go` of Helm 3).
const RELEASE: &str = "meta.helm.sh/release-name";

/// Holds the object until its release is gone.
pub(crate) const FINALIZER: &str = "kryton.azrtydxb.io/release";

/// Sees to it that the object does not go before [`finish`].
pub(super) async fn guard(context: &Context, kryton: &Kryton) -> Result<(), OperatorError> {
    match context.helm {
        Some(_) => objects::hold(&context.client, kryton, FINALIZER).await,
        None => Ok(()),
    }
}

/// Removes the release, and lets the object go.
pub(super) async fn finish(
    context: &Context,
    kryton: &impl ResourceExt,
    policy: Option<DeletionPolicy>,
) -> Result<(), OperatorError> {
    if !objects::is_held(kryton, FINALIZER) {
        return Ok(());
    }
    let (namespace, name) = (kryton.namespace().unwrap_or_default(), kryton.name_any());
    // Where there is no release there is nothing that helm could do.
    if let Some(helm) = &context.helm
        && !records(&context.client, &namespace, &name).await?.is_empty()
    {
        helm.uninstall(&namespace, &name).await?;
    }
    if policy == Some(DeletionPolicy::Delete) {
        let volumes: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &namespace);
        let of_it = ListParams::default().labels(&format!("app.kubernetes.io/instance={name}"));
        let failed = |error| OperatorError::write("PersistentVolumeClaims of", &namespace, &name, error);
        volumes.delete_collection(&DeleteParams::default(), &of_it).await.map_err(failed)?;
        remove_snapshots(context, &namespace, &name).await?;
        // The passwords that fit the volumes, and nothing else.
        for secret in [names::database_secret(&name), format!("{name}-secret")] {
            let found = objects::find_metadata::<Secret>(&context.client, &namespace, &secret).await?;
            // One of the same name that is somebody else's stays.
            if found.is_some_and(|found| found.annotations().get(RELEASE) == Some(&name)) {
                objects::delete::<Secret>(&context.client, &namespace, &secret, None).await?;
            }
        }
    }
    objects::let_go::<Kryton>(&context.client, kryton, FINALIZER).await
}

/// Removes the snapshots that were taken of the notes, and none of anybody else's.
async fn remove_snapshots(context: &Context, namespace: &str, name: &str) -> Result<(), OperatorError> {
    let snapshots = snapshot::all(context.client.clone(), namespace);
    let of_it = ListParams::default().labels(&snapshot::labels_of(name));
    let found = match snapshots.list_metadata(&of_it).await {
        Ok(found) => found,
        // This cluster has no snapshots.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(OperatorError::read("VolumeSnapshots of", namespace, name, error)),
    };
    for old in found {
        match snapshots.delete(&old.name_any(), &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(OperatorError::write("VolumeSnapshot", namespace, &old.name_any(), error)),
        }
    }
    Ok(())
}
