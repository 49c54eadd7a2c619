//! What is said about points for a while: pins, holds and tombstones.
//!
//! A *pin* keeps a point from being swept while something reads it, for a time that stands in its name; it is
//! renewed by writing another, so nothing can go stale for longer. A *hold* keeps it until somebody lifts it.
//! A *tombstone* says that a point, or what a dead run left, is going to be deleted, after a grace.
//! All ages are told by the store's clock: from when an object was written to when another was.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use windlass_core::id::{EntryId, PointId};
use windlass_core::point::FORMAT;

use crate::error::RepositoryError;
use crate::layout;
use crate::random::Fresh;
use crate::retention::GRACE;
use crate::store::{Key, Store};
use crate::vault::Vault;
use crate::writer::Writer;

/// How long one pin holds.
const PIN: Duration = Duration::from_hours(1);

/// The present moment by the store's clock: a trial object is written, looked at and removed.
pub async fn now_of(store: &Store) -> Result<Timestamp, RepositoryError> {
    let key = layout::probe(EntryId::fresh().map_err(RepositoryError::Randomness)?);
    store.create(&key, Bytes::from_static(b"now\n")).await.map_err(RepositoryError::Store)?;
    let now = store.head(&key).await.map_err(RepositoryError::Store)?.modified;
    // A store whose credentials cannot delete still tells the time; the probe is swept later.
    let _ = store.delete(&key).await;
    Ok(now)
}

/// How long ago a run began, by the store's clock, which also went on while this machine slept.
pub async fn age_of_run(vault: &Vault, run: PointId) -> Result<SignedDuration, RepositoryError> {
    let intent = layout::intent(vault.application(), run);
    let began = vault.store().head(&intent).await.map_err(RepositoryError::Store)?.modified;
    Ok(now_of(vault.store()).await?.duration_since(began))
}

/// A pin that is renewed until it is dropped or the process ends.
pub struct Pin {
    renewal: tokio::task::JoinHandle<()>,
    store: Store,
    keys: std::sync::Arc<std::sync::Mutex<Vec<Key>>>,
}

impl Pin {
    /// Pins a point: what reads it afterwards reads it whole.
    pub async fn set(vault: &Vault, point: PointId, why: &str) -> Result<Self, RepositoryError> {
        let body = Bytes::from(format!("{}\n", serde_json::json!({ "format": FORMAT, "point": point, "why": why })));
        let key = pin_key(vault, point)?;
        vault.store().create(&key, body.clone()).await.map_err(RepositoryError::Store)?;
        let keys = std::sync::Arc::new(std::sync::Mutex::new(vec![key]));
        let (store, renewed) = (vault.store().clone(), std::sync::Arc::clone(&keys));
        let application = vault.application().clone();
        let renewal = tokio::spawn(async move {
            loop {
                tokio::time::sleep(PIN / 3).await;
                let Ok(entry) = EntryId::fresh() else { continue };
                let key = layout::pin(&application, point, entry, PIN.as_secs());
                // A renewal that fails is tried again long before the last one ends.
                if store.create(&key, body.clone()).await.is_ok() {
                    renewed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(key);
                }
            }
        });
        Ok(Self { renewal, store: vault.store().clone(), keys })
    }

    /// Lifts the pin. One that is only dropped ends by itself.
    pub async fn lift(self) {
        self.renewal.abort();
        let keys = std::mem::take(&mut *self.keys.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for key in keys {
            // What cannot be deleted ends by itself.
            let _ = self.store.delete(&key).await;
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

fn pin_key(vault: &Vault, point: PointId) -> Result<Key, RepositoryError> {
    let entry = EntryId::fresh().map_err(RepositoryError::Randomness)?;
    Ok(layout::pin(vault.application(), point, entry, PIN.as_secs()))
}

/// Whether a point may be deleted at this very moment: it was marked a grace ago. Asked after it was pinned, the answer stands.
pub async fn is_going(vault: &Vault, point: PointId) -> Result<bool, RepositoryError> {
    let now = now_of(vault.store()).await?;
    // A tombstone that cannot be read stops every sweep.
    let (marks, _) = Tombstone::load_what_can_be(vault).await?;
    let since = marks.into_iter().find(|mark| mark.point == point).and_then(|mark| mark.since);
    Ok(since.is_some_and(|since| now.duration_since(since) >= GRACE))
}

/// The points that are pinned at a moment of the store's clock, and the pins that have ended.
pub async fn pinned(vault: &Vault, now: Timestamp) -> Result<(BTreeSet<PointId>, Vec<Key>), RepositoryError> {
    let mut pinned = BTreeSet::new();
    let mut ended = Vec::new();
    for object in
        vault.store().list_all(Some(&layout::pins(vault.application()))).await.map_err(RepositoryError::Store)?
    {
        let mut parts = object.key.file_name().split('.');
        let point = parts.next().and_then(|id| id.parse::<PointId>().ok());
        let seconds = parts.nth(1).and_then(|s| s.parse::<i64>().ok());
        let (Some(point), Some(seconds)) = (point, seconds) else { continue };
        if now.duration_since(object.modified).as_secs() <= seconds {
            pinned.insert(point);
        } else {
            ended.push(object.key);
        }
    }
    Ok((pinned, ended))
}

/// A legal hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The version of this document.
    pub format: u32,
    /// Its identifier.
    pub entry: EntryId,
    /// The point.
    pub point: PointId,
    /// Why, in words.
    pub reason: String,
    /// When it was set.
    pub since: Timestamp,
}

/// What stands for the reason of a hold that cannot be read.
const UNREADABLE: &str = "a hold that cannot be read";

impl Hold {
    /// Whether it could be read; it holds all the same.
    pub fn is_readable(&self) -> bool {
        self.reason != UNREADABLE
    }

    /// Whether a point is held now, by the names of the holds alone.
    pub async fn holds(vault: &Vault, point: PointId) -> Result<bool, RepositoryError> {
        let listed = vault.store().list_all(Some(&layout::holds(vault.application()))).await;
        let begins = format!("{point}.");
        Ok(listed.map_err(RepositoryError::Store)?.iter().any(|object| object.key.file_name().starts_with(&begins)))
    }

    /// Sets a hold.
    pub async fn set(vault: &Vault, writer: &Writer, point: PointId, reason: &str) -> Result<Self, RepositoryError> {
        let entry = EntryId::fresh().map_err(RepositoryError::Randomness)?;
        let hold = Self { format: FORMAT, entry, point, reason: reason.to_owned(), since: Timestamp::now() };
        let key = layout::hold(vault.application(), point, entry);
        vault.store().create(&key, writer.sign(&hold)?).await.map_err(RepositoryError::Store)?;
        Ok(hold)
    }

    /// Lifts it.
    pub async fn lift(&self, vault: &Vault) -> Result<(), RepositoryError> {
        let key = layout::hold(vault.application(), self.point, self.entry);
        vault.store().delete(&key).await.map_err(RepositoryError::Store)
    }

    /// All holds of an application. One that cannot be read still holds: its name says what.
    pub async fn load(vault: &Vault) -> Result<BTreeMap<PointId, Vec<Self>>, RepositoryError> {
        let mut holds: BTreeMap<PointId, Vec<Self>> = BTreeMap::new();
        for object in
            vault.store().list_all(Some(&layout::holds(vault.application()))).await.map_err(RepositoryError::Store)?
        {
            let mut parts = object.key.file_name().split('.');
            let (Some(Ok(point)), Some(Ok(entry))) = (parts.next().map(str::parse), parts.next().map(str::parse))
            else {
                continue;
            };
            let bytes = vault.store().get(&object.key).await.map_err(RepositoryError::Store)?;
            let unreadable = Self { format: FORMAT, entry, point, reason: UNREADABLE.into(), since: object.modified };
            holds.entry(point).or_default().push(vault.accept(&object.key, &bytes).unwrap_or(unreadable));
        }
        Ok(holds)
    }
}

/// The mark that a point, or what a dead run left, is going to be deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The version of this document.
    pub format: u32,
    /// The point or run.
    pub point: PointId,
    /// Why it goes.
    pub why: Why,
    /// The digest of the plan that was shown and confirmed; none for the rest of a dead run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// When it was set, by the store's clock; known once it was listed.
    #[serde(skip)]
    pub since: Option<Timestamp>,
}

/// Why something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// Retention.
    Retention,
    /// No manifest names it, and its run is long over.
    Orphan,
}

impl Tombstone {
    /// Sets a tombstone. One that is there already stays as it is, with its age.
    pub async fn set(
        vault: &Vault,
        writer: &Writer,
        point: PointId,
        why: Why,
        plan: Option<&str>,
    ) -> Result<(), RepositoryError> {
        let key = layout::tombstone(vault.application(), point);
        if vault.store().find(&key).await.map_err(RepositoryError::Store)?.is_some() {
            return Ok(());
        }
        let tombstone = Self { format: FORMAT, point, why, plan: plan.map(str::to_owned), since: None };
        match vault.store().create(&key, writer.sign(&tombstone)?).await {
            // Another process set one at the same time.
            Ok(_) | Err(crate::store::StoreError::Occupied { .. }) => Ok(()),
            Err(error) => Err(RepositoryError::Store(error)),
        }
    }

    /// Lifts a tombstone, if there is one.
    pub async fn lift(vault: &Vault, point: PointId) -> Result<(), RepositoryError> {
        vault.store().delete(&layout::tombstone(vault.application(), point)).await.map_err(RepositoryError::Store)
    }

    /// All tombstones of an application. One that cannot be trusted is an error: nothing is deleted on its word,
    /// and nothing else is while it lies there.
    pub async fn load(vault: &Vault) -> Result<Vec<Self>, RepositoryError> {
        let (good, damaged) = Self::load_what_can_be(vault).await?;
        damaged.into_iter().next().map_or(Ok(good), |(_, error)| Err(error))
    }

    /// The tombstones that can be trusted, and those that cannot, which mark nothing: for whoever does not delete.
    pub async fn load_what_can_be(vault: &Vault) -> Result<(Vec<Self>, Vec<(Key, RepositoryError)>), RepositoryError> {
        let (mut good, mut damaged) = (Vec::new(), Vec::new());
        let folder = layout::tombstones(vault.application());
        for object in vault.store().list_all(Some(&folder)).await.map_err(RepositoryError::Store)? {
            let Some(bytes) = vault.store().find(&object.key).await.map_err(RepositoryError::Store)? else { continue };
            match vault.accept::<Self>(&object.key, &bytes) {
                Ok(mark) if object.key == layout::tombstone(vault.application(), mark.point) => {
                    good.push(Self { since: Some(object.modified), ..mark });
                }
                Ok(_) => damaged.push((object.key.clone(), RepositoryError::Misplaced { key: object.key })),
                Err(error) => damaged.push((object.key, error)),
            }
        }
        Ok((good, damaged))
    }
}
