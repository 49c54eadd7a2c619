//! The recovery points of an application, as a listing of the repository shows them.
//!
//! Any process can build it from the store alone. A document that cannot be read or trusted is not passed over:
//! it stands in [`Catalog::damaged`], and whatever deletes must stop at it.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use windlass_core::id::PointId;
use windlass_core::name::Name;
use windlass_core::point::RecoveryPoint;

use crate::error::RepositoryError;
use crate::layout;
use crate::live::{Hold, Tombstone};
use crate::store::{Key, StoreError};
use crate::vault::Vault;

/// Documents read at once.
const PARALLEL: usize = 16;

/// One point and what has been said about it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The point.
    pub point: RecoveryPoint,
    /// Its commit record.
    pub key: Key,
    /// SHA-256 of its commit record as stored, in hex.
    pub sha256: String,
    /// When it was committed, by the store's clock.
    pub committed: Timestamp,
    /// Why it must not be deleted.
    pub holds: Vec<Hold>,
    /// The mark that it is going to be deleted.
    pub tombstone: Option<Tombstone>,
}

impl Entry {
    /// Whether the point holds every one of these components.
    pub fn holds_all<'a>(&self, names: impl IntoIterator<Item = &'a Name>) -> bool {
        names.into_iter().all(|name| self.point.components.iter().any(|component| component.name == *name))
    }

    /// The moment the point stands for, but never one after its commit by the store's clock: where a server's clock is
    /// ahead, an old point must not pass for the newest.
    pub fn stands_for(&self) -> Timestamp {
        self.point.at.min(self.committed)
    }
}

/// A document that cannot be read or trusted.
#[derive(Debug)]
pub struct Damaged {
    /// The document.
    pub key: Key,
    /// The point it belongs to, where its name says so.
    pub point: Option<PointId>,
    /// Why.
    pub error: RepositoryError,
}

/// All points of an application, by the moment they stand for, the oldest first.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Points that can be read and trusted.
    pub entries: Vec<Entry>,
    /// Commit records that cannot, and tombstones.
    pub damaged: Vec<Damaged>,
}

impl Catalog {
    /// Builds the catalog from the store.
    pub async fn load(vault: &Vault) -> Result<Self, RepositoryError> {
        let listed =
            vault.store().list_all(Some(&layout::points(vault.application()))).await.map_err(RepositoryError::Store)?;
        let mut holds = Hold::load(vault).await?;
        let (marks, unreadable) = Tombstone::load_what_can_be(vault).await?;
        let mut tombstones: BTreeMap<PointId, Tombstone> = marks.into_iter().map(|t| (t.point, t)).collect();
        let read: Vec<_> = futures::stream::iter(listed)
            .map(|object| async move {
                let result = read_point(vault, &object.key).await;
                (object, result)
            })
            .buffered(PARALLEL)
            .collect()
            .await;
        let damaged = unreadable.into_iter().map(|(key, error)| Damaged { key, point: None, error }).collect();
        let mut catalog = Self { damaged, ..Self::default() };
        for (object, result) in read {
            match result {
                Ok((point, sha256)) => catalog.entries.push(Entry {
                    sha256,
                    holds: holds.remove(&point.id).unwrap_or_default(),
                    tombstone: tombstones.remove(&point.id),
                    key: object.key,
                    committed: object.modified,
                    point,
                }),
                // Swept between the listing and the read.
                Err(RepositoryError::Store(StoreError::NotFound { .. })) => {}
                Err(error @ RepositoryError::Store(_)) => return Err(error),
                Err(error) => catalog.damaged.push(Damaged { point: point_of(&object.key), key: object.key, error }),
            }
        }
        catalog.entries.sort_by_key(|entry| (entry.stands_for(), entry.point.id));
        Ok(catalog)
    }

    /// A point by its identifier.
    pub fn get(&self, application: &Name, point: PointId) -> Result<&Entry, RepositoryError> {
        let found = self.entries.iter().find(|entry| entry.point.id == point);
        found.ok_or_else(|| RepositoryError::NoPoint { point, application: application.clone() })
    }

    /// The points that are not going to be deleted, the oldest first.
    pub fn live(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.tombstone.is_none())
    }
}

/// The identifier in the name of a commit record.
pub fn point_of(key: &Key) -> Option<PointId> {
    let name = key.file_name();
    let id = name.strip_suffix(".partial.json").or_else(|| name.strip_suffix(".json"))?;
    id.parse().ok()
}

/// The point and the digest of its commit record.
async fn read_point(vault: &Vault, key: &Key) -> Result<(RecoveryPoint, String), RepositoryError> {
    let bytes = vault.store().get(key).await.map_err(RepositoryError::Store)?;
    let point: RecoveryPoint = vault.accept(key, &bytes)?;
    if *key == layout::point(vault.application(), point.id, point.is_complete())
        && point.application == *vault.application()
    {
        Ok((point, crate::hex::sha256(&bytes)))
    } else {
        Err(RepositoryError::Misplaced { key: key.clone() })
    }
}

/// What a run sets out to do, written before anything else: `runs/<application>/<point>/intent.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Intent {
    /// The version of this document.
    pub format: u32,
    /// The run and the point it will make.
    pub point: PointId,
    /// The application.
    pub application: Name,
    /// The components it sets out to capture.
    pub components: Vec<Name>,
    /// The host it runs on.
    pub host: String,
    /// When it began.
    pub started: Timestamp,
}

/// The applications that have keyrings, points or runs in a repository, by the folders that are there.
pub async fn applications(store: &crate::store::Store) -> Result<Vec<Name>, RepositoryError> {
    let mut names = BTreeSet::new();
    for folder in ["keys", "points", "runs"] {
        let mut listing = store.list(Some(&Key::foreign(folder)));
        while let Some(object) = listing.try_next().await.map_err(RepositoryError::Store)? {
            // `keys/<application>/…`: what lies directly in the folder belongs to none.
            let segments: Vec<&str> = object.key.segments().collect();
            if let [_, name, _, ..] = segments.as_slice() {
                names.extend(name.parse::<Name>());
            }
        }
    }
    Ok(names.into_iter().collect())
}
