//! Opens the repository of a `Kryton`, and makes it where it was never made.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use secrecy::ExposeSecret;
use serde_json::json;
use windlass_core::repository::{Encryption, S3};
use windlass_repo::error::RepositoryError;
use windlass_repo::keyring::Unlock;
use windlass_repo::repository::Repository;
use windlass_repo::store::open::open_bucket_with;
use windlass_repo::vault::Vault;
use windlass_repo::writer::Writer;

use crate::api::kryton::Kryton;
use crate::context::Context;
use crate::error::OperatorError;
use crate::kryton::names;
use crate::kryton::validate::{Backup, Fault, Own, REPOSITORY};
use crate::status::in_words;

/// An application's part of a repository, and who writes.
pub(crate) struct Opened {
    pub(crate) vault: Vault,
    pub(crate) writer: Writer,
}

/// Why there is nothing to work on.
pub(crate) enum Shut {
    /// Somebody has to do something.
    Fault(Fault),
    /// It may pass.
    Error(OperatorError),
}

impl std::fmt::Display for Shut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fault(fault) => f.write_str(&fault.message),
            Self::Error(error) => f.write_str(&in_words(error)),
        }
    }
}

impl<E: Into<OperatorError>> From<E> for Shut {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// Opens the repository. One that is not there is made, if it never was; one that was there and is gone is not made again.
pub(crate) async fn open(context: &Context, kryton: &Kryton, backup: &Backup, own: &Own) -> Result<Opened, Shut> {
    let writer = Writer::read(&own.writer).ok_or_else(|| {
        Shut::Fault(Fault::new(
            "SecretMalformed",
            format!(
                "Secret `{}` holds no writer's key; delete it, and it is made anew",
                names::own_secret(&kryton.name_any())
            ),
        ))
    })?;
    // The certificate has to lie in a file for as long as the store is opened.
    let ca = match &backup.ca {
        Some((_, pem)) => Some(
            CaFile::write(pem.expose_secret())
                .map_err(|source| RepositoryError::State { path: PathBuf::from("ca.crt"), source })?,
        ),
        None => None,
    };
    let place = S3 { ca: ca.as_ref().map(|file| file.0.path().to_owned()), ..backup.place.clone() };
    let store = open_bucket_with(&place, &backup.credentials).map_err(RepositoryError::Store)?;
    let owner = format!("kubernetes/{}/{}", context.cluster, names::full(kryton));
    let known =
        kryton.status.as_ref().and_then(|status| status.backup.as_ref()).and_then(|backup| backup.repository.clone());
    let repository = match Repository::open(store.clone(), None).await {
        Ok(repository) if repository.id() == own.repository => repository,
        Ok(repository) if repository.identity().owner == owner => {
            // Ours of before: the object was deleted and made again, or its Secret lost.
            remember(context, kryton, &repository).await?;
            repository
        }
        Ok(repository) => {
            let message = format!(
                "{} belongs to {}: two never share a prefix; give this one another spec.backup.objectStore.prefix",
                repository.store().location(),
                repository.identity().owner
            );
            return Err(Shut::Fault(Fault::new("PrefixTaken", message)));
        }
        Err(RepositoryError::Missing { store: location })
            if known.as_deref() == Some(own.repository.to_string().as_str()) =>
        {
            let message = format!(
                "{location} held repository {} and does not any more: nothing is made in its stead; bring the bucket back, or choose another prefix",
                own.repository
            );
            return Err(Shut::Fault(Fault::new("RepositoryVanished", message)));
        }
        Err(RepositoryError::Missing { .. }) => Repository::init_as(store, own.repository, &owner).await?,
        Err(error) => return Err(error.into()),
    };
    let repository = repository.probed().await?;
    let application = kryton
        .name_any()
        .parse()
        .map_err(|_| Shut::Fault(Fault::new("NameUnusable", "the name cannot be that of an application")))?;
    Vault::create(&repository, &application, &Encryption::None).await?;
    let mut vault = Vault::open(&repository, &application, &Unlock::Open).await?;
    if !vault.writers().has_endorsement(writer.id) {
        let keyring = vault.keyring().ok();
        writer.introduce(vault.store(), vault.application(), &names::full(kryton), keyring).await?;
        vault.reload_writers().await?;
    }
    Ok(Opened { vault, writer })
}

/// Writes down which repository it is.
async fn remember(context: &Context, kryton: &Kryton, repository: &Repository) -> Result<(), OperatorError> {
    let (namespace, name) = (kryton.namespace().unwrap_or_default(), names::own_secret(&kryton.name_any()));
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    let patch = json!({ "stringData": { REPOSITORY: repository.id().to_string() } });
    let patched = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
    patched.map(drop).map_err(|error| OperatorError::write("Secret", &namespace, &name, error))
}

struct CaFile(tempfile::NamedTempFile);

impl CaFile {
    fn write(pem: &str) -> std::io::Result<Self> {
        use std::io::Write;
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(pem.as_bytes())?;
        Ok(Self(file))
    }
}
