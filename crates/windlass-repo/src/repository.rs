//! A repository: made once, recognised ever after.

use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use futures::future::ready;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use windlass_core::id::RepositoryId;
use windlass_core::name::Name;
use windlass_core::point::FORMAT;

use crate::error::RepositoryError;
use crate::hex;
use crate::random::Fresh;
use crate::store::Store;
use crate::{layout, manual, sign};

/// `windlass.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The version of the layout.
    pub format: u32,
    /// The repository's identifier.
    pub id: RepositoryId,
    /// When it was made.
    pub created: Timestamp,
    /// The host that made it.
    pub owner: String,
    /// `primary`; replicas come later.
    pub role: String,
    /// SHA-256 of `README.txt` as it was written, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readme_sha256: Option<String>,
}

/// A repository, opened. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Repository {
    store: Store,
    identity: Identity,
}

impl Repository {
    /// Makes a repository in an empty place.
    pub async fn init(store: Store, owner: &str) -> Result<Self, RepositoryError> {
        let id = RepositoryId::fresh().map_err(RepositoryError::Randomness)?;
        Self::init_as(store, id, owner).await
    }

    /// The same, of an identifier that was chosen before.
    pub async fn init_as(store: Store, id: RepositoryId, owner: &str) -> Result<Self, RepositoryError> {
        if let Some(identity) = find(&store).await? {
            return Err(RepositoryError::Exists { store: store.location().to_owned(), found: identity.id });
        }
        // Who made one here and was killed before may have left a trial of what the store can do.
        let mut others = store.list(None).try_filter(|object| ready(!layout::is_probe(&object.key)));
        if let Some(object) = others.try_next().await.map_err(RepositoryError::Store)? {
            return Err(RepositoryError::Foreign { store: store.location().to_owned(), example: object.key });
        }
        let store = probed(store).await?;
        let mut identity = Identity {
            format: FORMAT,
            id,
            created: Timestamp::now(),
            owner: owner.to_owned(),
            role: "primary".to_owned(),
            readme_sha256: None,
        };
        identity.readme_sha256 = Some(hex::sha256(manual::readme(&identity).as_bytes()));
        let mut bytes =
            serde_json::to_vec_pretty(&identity).map_err(|e| RepositoryError::Write(sign::DocumentError::Json(e)))?;
        bytes.push(b'\n');
        // Two that init at once: the second finds other bytes under the key and is refused.
        store.create(&layout::identity(), bytes).await.map_err(RepositoryError::Store)?;
        store.create(&layout::readme(), manual::readme(&identity)).await.map_err(RepositoryError::Store)?;
        Ok(Self { store, identity })
    }

    /// Opens the repository that is there, and refuses one that is not the one this host knows.
    pub async fn open(store: Store, known: Option<RepositoryId>) -> Result<Self, RepositoryError> {
        let location = || store.location().to_owned();
        match (find(&store).await?, known) {
            (Some(identity), Some(known)) if identity.id != known => {
                Err(RepositoryError::Replaced { store: location(), known, found: identity.id })
            }
            (Some(identity), _) => Ok(Self { store, identity }),
            (None, Some(known)) => {
                // Some servers answer credentials they do not know with "no such object"; a listing tells.
                store.list(None).try_next().await.map_err(RepositoryError::Store)?;
                Err(RepositoryError::Vanished { store: location(), known })
            }
            (None, None) => Err(RepositoryError::Missing { store: location() }),
        }
    }

    /// Finds out what its store can do, before anything is written to it.
    pub async fn probed(self) -> Result<Self, RepositoryError> {
        Ok(Self { store: probed(self.store).await?, ..self })
    }

    /// That it is where it was. A disk that is not mounted any more takes what is written as well, and so does a bucket that was
    /// emptied.
    pub async fn still_there(&self) -> Result<(), RepositoryError> {
        Self::open(self.store.clone(), Some(self.id())).await.map(drop)
    }

    /// Its store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its identifier.
    pub fn id(&self) -> RepositoryId {
        self.identity.id
    }
}

async fn probed(store: Store) -> Result<Store, RepositoryError> {
    let trial = layout::probe(Fresh::fresh().map_err(RepositoryError::Randomness)?);
    store.probed(&trial).await.map_err(RepositoryError::Store)
}

async fn find(store: &Store) -> Result<Option<Identity>, RepositoryError> {
    let key = layout::identity();
    match store.find_at_first(&key).await.map_err(RepositoryError::Store)? {
        None => Ok(None),
        Some(bytes) => sign::read(&bytes).map(Some).map_err(|source| RepositoryError::Document { key, source }),
    }
}

/// What a host remembers of the repositories it has seen, so that one that vanished is never made anew.
pub struct Known {
    path: PathBuf,
}

impl Known {
    /// The memory of a repository of that name, in the host's state folder.
    pub fn new(state: &Path, name: &Name) -> Self {
        Self { path: state.join("repositories").join(format!("{name}.json")) }
    }

    /// The repository seen there, if one was.
    pub fn get(&self, location: &str) -> Result<Option<RepositoryId>, RepositoryError> {
        let failed = |source| RepositoryError::State { path: self.path.clone(), source };
        match std::fs::read(&self.path) {
            Ok(bytes) => {
                let seen: Seen = serde_json::from_slice(&bytes).map_err(|e| failed(e.into()))?;
                Ok((seen.location == location).then_some(seen.id))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Remembers the repository.
    pub fn set(&self, repository: &Repository) -> Result<(), RepositoryError> {
        let failed = |source| RepositoryError::State { path: self.path.clone(), source };
        let seen = Seen { location: repository.store.location().to_owned(), id: repository.id() };
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(failed)?;
        let file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        serde_json::to_writer(&file, &seen).map_err(|e| failed(e.into()))?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&self.path).map_err(|e| failed(e.error))?;
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }
}

#[derive(Serialize, Deserialize)]
struct Seen {
    location: String,
    id: RepositoryId,
}

/// What this host has sealed to before: it cannot open a keyring to see that a new one is ours.
pub fn remember_recipient(
    state: &Path,
    repository: RepositoryId,
    application: &Name,
    found: &str,
) -> Result<(), RepositoryError> {
    let path = state.join("recipients").join(repository.to_string()).join(application.to_string());
    let failed = |source| RepositoryError::State { path: path.clone(), source };
    match std::fs::read_to_string(&path) {
        Ok(known) if known.trim() == found => Ok(()),
        Ok(known) => Err(RepositoryError::OtherRecipient {
            application: application.clone(),
            known: known.trim().to_owned(),
            found: found.to_owned(),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path.parent().unwrap_or(state)).map_err(failed)?;
            std::fs::write(&path, format!("{found}\n")).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}
