//! What is done to objects of any kind, and what the answers of the API server to it mean.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::error::OperatorError;

/// A kind of object that is in namespaces, and known to us.
pub(crate) trait Kind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned
{
}

impl<K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned> Kind for K {}

/// The name of a kind, for a message.
pub(crate) fn kind<K: Resource<DynamicType = ()>>() -> &'static str {
    match K::kind(&()) {
        std::borrow::Cow::Borrowed(kind) => kind,
        // No kind of ours has one.
        std::borrow::Cow::Owned(_) => "object",
    }
}

/// Those that a selector of labels chooses, as the API server remembers them: in a namespace of a thousand, reading them all from
/// its store for each turn would take it up. What is listed may be older than what was just seen; nothing may be done for good
/// because of it, and who waits for what it says looks again.
pub(crate) fn remembered(labels: &str) -> ListParams {
    ListParams::default().labels(labels).match_any()
}

/// An object, where it is there.
pub(crate) async fn find<K: Kind>(client: &Client, namespace: &str, name: &str) -> Result<Option<K>, OperatorError> {
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    api.get_opt(name).await.map_err(|error| OperatorError::read(kind::<K>(), namespace, name, error))
}

/// The same, without what is in it.
pub(crate) async fn find_metadata<K: Kind>(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<PartialObjectMeta<K>>, OperatorError> {
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    api.get_metadata_opt(name).await.map_err(|error| OperatorError::read(kind::<K>(), namespace, name, error))
}

/// Makes an object; one of its name that is there stays as it is.
pub(crate) async fn create<K: Kind + Serialize>(
    client: &Client,
    object: &K,
    manager: &str,
) -> Result<(), OperatorError> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let by = PostParams { field_manager: Some(manager.to_owned()), ..PostParams::default() };
    match api.create(&by, object).await {
        Ok(_) => Ok(()),
        // Not a conflict with anything else, such as with a quota that changed meanwhile.
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        Err(error) => Err(OperatorError::write(kind::<K>(), &namespace, &name, error)),
    }
}

/// Deletes an object, and no other of its name where its UID is given. One that is gone is deleted.
pub(crate) async fn delete<K: Kind>(
    client: &Client,
    namespace: &str,
    name: &str,
    uid: Option<String>,
) -> Result<(), OperatorError> {
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let mut how = DeleteParams::background();
    if uid.is_some() {
        how = how.preconditions(Preconditions { uid, resource_version: None });
    }
    match api.delete(name, &how).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(OperatorError::write(kind::<K>(), namespace, name, error)),
    }
}

/// Whether an object was made for another one, by its UID: what has the same name later is another one.
pub(crate) fn is_owned_by(object: &impl ResourceExt, uid: Option<&str>) -> bool {
    object.owner_references().iter().any(|owner| Some(owner.uid.as_str()) == uid)
}

/// Whether a finalizer holds an object.
pub(crate) fn is_held(object: &impl ResourceExt, finalizer: &str) -> bool {
    object.finalizers().iter().any(|other| other == finalizer)
}

/// Has a finalizer hold an object.
pub(crate) async fn hold<K: Kind>(client: &Client, object: &K, finalizer: &str) -> Result<(), OperatorError> {
    if is_held(object, finalizer) {
        return Ok(());
    }
    let mut all = object.finalizers().to_vec();
    all.push(finalizer.to_owned());
    set_finalizers::<K>(client, object, &all).await
}

/// Lets an object go, as far as one finalizer holds it. `K` is its kind: of the object itself its metadata are enough.
pub(crate) async fn let_go<K: Kind>(
    client: &Client,
    object: &impl ResourceExt,
    finalizer: &str,
) -> Result<(), OperatorError> {
    if !is_held(object, finalizer) {
        return Ok(());
    }
    let left: Vec<String> = object.finalizers().iter().filter(|other| *other != finalizer).cloned().collect();
    set_finalizers::<K>(client, object, &left).await
}

/// Sets the finalizers, unless the object changed meanwhile: then its change brings us back.
async fn set_finalizers<K: Kind>(
    client: &Client,
    object: &impl ResourceExt,
    all: &[String],
) -> Result<(), OperatorError> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let patch = json!({ "metadata": { "finalizers": all, "resourceVersion": object.resource_version() } });
    match api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(OperatorError::write(kind::<K>(), &namespace, &name, error)),
    }
}
