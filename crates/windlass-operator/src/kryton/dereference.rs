//! Reads what a `Kryton` refers to. Only what was asked for and is not there is `None`; an API server that does not answer
//! is an error.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt};
use secrecy::SecretString;

use super::names;
use crate::api::kryton::{Connection, Kryton};
use crate::error::OperatorError;
use crate::objects;

/// A Secret as it was found. Its values are never shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) name: String,
    /// The version of the object.
    pub(crate) version: String,
    values: BTreeMap<String, SecretString>,
    /// Keys whose values are no text.
    unreadable: Vec<String>,
}

impl Found {
    /// A Secret, where it is there.
    pub(crate) async fn read(client: &Client, namespace: &str, name: &str) -> Result<Option<Self>, OperatorError> {
        Ok(objects::find::<Secret>(client, namespace, name).await?.as_ref().map(Self::of))
    }

    /// A Secret's values, as far as they are text.
    pub(crate) fn of(secret: &Secret) -> Self {
        let version = secret.resource_version().unwrap_or_default();
        let mut found = Self { name: secret.name_any(), version, ..Self::default() };
        for (key, value) in secret.data.iter().flatten() {
            match String::from_utf8(value.0.clone()) {
                Ok(text) => {
                    found.values.insert(key.clone(), SecretString::from(text));
                }
                Err(_) => found.unreadable.push(key.clone()),
            }
        }
        found
    }

    /// The value of a key, where there is one that is text and not empty.
    pub(crate) fn get(&self, key: &str) -> Option<&SecretString> {
        use secrecy::ExposeSecret;
        self.values.get(key).filter(|value| !value.expose_secret().is_empty())
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// What is wrong with a key that [`Found::get`] does not give.
    pub(crate) fn lacks(&self, key: &str) -> String {
        if self.unreadable.iter().any(|other| other == key) {
            format!("the key `{key}` of Secret `{}` is no text", self.name)
        } else if self.values.contains_key(key) {
            format!("the key `{key}` of Secret `{}` is empty", self.name)
        } else {
            format!("Secret `{}` has no key `{key}`", self.name)
        }
    }

    /// The names of its keys, for a message.
    pub(crate) fn keys(&self) -> String {
        let keys: Vec<&str> = self.values.keys().chain(&self.unreadable).map(String::as_str).collect();
        if keys.is_empty() { "none".to_owned() } else { keys.join(", ") }
    }
}

/// The names of the Secrets that a `Kryton` with backups refers to.
pub(crate) struct Named {
    pub(crate) credentials: String,
    pub(crate) ca: Option<String>,
    pub(crate) database: String,
    pub(crate) own: String,
}

impl Named {
    /// `None` where no backups are asked for.
    pub(crate) fn of(kryton: &Kryton) -> Option<Self> {
        let backup = kryton.spec.backup.as_ref()?;
        Some(Self {
            credentials: backup.object_store.credentials_secret_ref.name.clone(),
            ca: backup.object_store.ca_secret_ref.as_ref().map(|secret| secret.name.clone()),
            database: database_secret(kryton, backup.connection.as_ref()),
            own: names::own_secret(&kryton.name_any()),
        })
    }

    /// Whether a Secret is among them.
    pub(crate) fn has(&self, name: &str) -> bool {
        [&self.credentials, &self.database, &self.own].into_iter().chain(&self.ca).any(|named| named == name)
    }
}

/// The `Kryton`s that name a Secret.
pub(crate) fn users_of(
    store: &Store<DeserializeGuard<Kryton>>,
    secret: &PartialObjectMeta<Secret>,
) -> Vec<ObjectRef<DeserializeGuard<Kryton>>> {
    let (namespace, name) = (secret.namespace(), secret.name_any());
    let names = |kryton: &Kryton| Named::of(kryton).is_some_and(|named| named.has(&name));
    store
        .state()
        .iter()
        .filter(|guarded| guarded.namespace() == namespace)
        .filter(|guarded| guarded.0.as_ref().is_ok_and(&names))
        .map(|guarded| ObjectRef::from_obj(guarded.as_ref()))
        .collect()
}

/// The Secret of the database: the one that is named, or the chart's.
pub(crate) fn database_secret(kryton: &Kryton, connection: Option<&Connection>) -> String {
    let named = connection.and_then(|connection| connection.secret_ref.as_ref());
    named.map_or_else(|| names::database_secret(&kryton.name_any()), |secret| secret.name.clone())
}

/// What a `Kryton` refers to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dereferenced {
    /// The credentials of the object store.
    pub(crate) credentials: Option<Found>,
    /// The certificate of its server.
    pub(crate) ca: Option<Found>,
    /// The database's Secret.
    pub(crate) database: Option<Found>,
    /// Windlass's own.
    pub(crate) own: Option<Found>,
}

impl Dereferenced {
    /// The versions of the Secrets by which a database is reached and a store is opened.
    pub(crate) fn versions(&self) -> String {
        let all = [&self.credentials, &self.ca, &self.database];
        let versions: Vec<&str> = all.into_iter().flatten().map(|found| found.version.as_str()).collect();
        versions.join(" ")
    }

    /// Reads what backups need.
    pub(crate) async fn read(client: &Client, kryton: &Kryton) -> Result<Self, OperatorError> {
        let Some(named) = Named::of(kryton) else { return Ok(Self::default()) };
        let namespace = kryton.namespace().unwrap_or_default();
        let read = async |name: &str| Found::read(client, &namespace, name).await;
        Ok(Self {
            credentials: read(&named.credentials).await?,
            ca: match &named.ca {
                Some(name) => read(name).await?,
                None => None,
            },
            database: read(&named.database).await?,
            own: read(&named.own).await?,
        })
    }
}
