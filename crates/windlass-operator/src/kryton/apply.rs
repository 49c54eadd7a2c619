//! Makes the cluster what was built, by server-side apply: a field that someone changed is set back, one that nobody set
//! is left to others.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde::de::DeserializeOwned;
use windlass_core::id::RepositoryId;
use windlass_repo::random::Fresh;
use windlass_repo::writer::Writer;

use super::names;
use super::validate::{Own, REPOSITORY, Valid, WRITER};
use crate::error::OperatorError;
use crate::status::kind;

/// Whose fields they are.
pub(crate) const MANAGER: &str = "windlass-operator";

/// Makes an object what it should be.
pub(crate) async fn apply<K>(client: &Client, object: &K) -> Result<K, OperatorError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
{
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let applied = api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object)).await;
    applied.map_err(|error| OperatorError::write(kind::<K>(), &namespace, &name, error))
}

/// Removes an object that was made for the `Kryton` and is no longer wanted; one of the same name that is someone else's
/// stays.
pub(super) async fn remove<K>(client: &Client, valid: &Valid, name: &str) -> Result<bool, OperatorError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &valid.namespace);
    let read = |error| OperatorError::read(kind::<K>(), &valid.namespace, name, error);
    let Some(found) = api.get_metadata_opt(name).await.map_err(read)? else { return Ok(false) };
    let uid = valid.owner.as_ref().map(|owner| owner.uid.as_str());
    let ours = found.metadata.owner_references.iter().flatten().any(|owner| Some(owner.uid.as_str()) == uid);
    if !ours {
        return Ok(false);
    }
    let only_it = Preconditions { uid: found.metadata.uid.clone(), resource_version: None };
    let removed = api.delete(name, &DeleteParams::background().preconditions(only_it)).await;
    match removed {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(OperatorError::write(kind::<K>(), &valid.namespace, name, error)),
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
