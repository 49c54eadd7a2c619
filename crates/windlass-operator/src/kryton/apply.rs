//! Makes the cluster what was built, by server-side apply: a field that someone changed is set back, one that nobody set
//! is left to others.

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use secrecy::ExposeSecret;
use serde::Serialize;
use windlass_core::id::RepositoryId;
use windlass_repo::random::Fresh;
use windlass_repo::writer::Writer;

use super::names;
use super::validate::{Own, REPOSITORY, Valid, WRITER};
use crate::error::OperatorError;
use crate::objects::{self, Kind, kind};

/// Whose fields they are.
pub(crate) const MANAGER: &str = "windlass-operator";

/// Makes an object what it should be.
pub(crate) async fn apply<K: Kind + Serialize>(client: &Client, object: &K) -> Result<K, OperatorError> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let applied = api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object)).await;
    applied.map_err(|error| OperatorError::write(kind::<K>(), &namespace, &name, error))
}

/// Removes an object that was made for the `Kryton` and is no longer wanted; one of the same name that is someone else's
/// stays.
pub(super) async fn remove<K: Kind>(client: &Client, valid: &Valid, name: &str) -> Result<(), OperatorError> {
    let found = objects::find_metadata::<K>(client, &valid.namespace, name).await?;
    let uid = valid.owner.as_ref().map(|owner| owner.uid.as_str());
    match found.filter(|found| objects::is_owned_by(found, uid)) {
        Some(found) => objects::delete::<K>(client, &valid.namespace, name, found.uid()).await,
        None => Ok(()),
    }
}

/// Windlass's own Secret, made where it is not there. Two operators that make it at once end with the same.
pub(super) async fn own(client: &Client, valid: &Valid) -> Result<Own, OperatorError> {
    let (namespace, name) = (&valid.namespace, names::own_secret(valid.name.as_str()));
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let failed = |error| OperatorError::write("Secret", namespace, &name, error);
    let repository = RepositoryId::fresh().map_err(windlass_repo::error::RepositoryError::Randomness)?;
    let fresh = Own { writer: Writer::fresh()?, repository };
    let values = [(WRITER, fresh.writer.expose_secret().to_owned()), (REPOSITORY, repository.to_string())];
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            labels: Some(names::labels(valid.name.as_str(), "backup")),
            owner_references: valid.owner.clone().map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        string_data: Some(values.map(|(key, value)| (key.to_owned(), value)).into()),
        ..Secret::default()
    };
    match api.create(&PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }, &secret).await {
        Ok(_) => Ok(fresh),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let found = api.get(&name).await.map_err(|e| OperatorError::read("Secret", namespace, &name, e))?;
            if let Some(own) = Own::read(&super::dereference::Found::of(&found)) {
                return Ok(own);
            }
            // Someone emptied it: what it held is lost, and the repository knows a new writer when it meets one.
            let metadata = ObjectMeta { namespace: Some(namespace.clone()), ..secret.metadata };
            apply(client, &Secret { metadata, ..secret }).await?;
            Ok(fresh)
        }
        Err(error) => Err(failed(error)),
    }
}
