//! Deletes what was marked, after its grace, and finds what dead runs left.
//!
//! ```text
//! plan (shown) → tombstone → grace → sweep: commit record, data, manifests, tombstone
//! ```
//!
//! Promised: nothing that a live manifest names is deleted; nothing pinned or held; never the newest complete
//! point; nothing at all while one document of the application cannot be read or trusted. A sweep that is killed
//! is finished by the next: the tombstone goes last. Several sweeps at once delete the same things twice at most.
//! Ages are told by the store's clock alone.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use windlass_core::id::PointId;
use windlass_core::point::ComponentManifest;

use crate::catalog::{Catalog, Entry};
use crate::error::RepositoryError;
use crate::format::restic::{Files, FilesError, Pruned};
use crate::format::walg::WAL;
use crate::layout;
use crate::live::{self, Hold, Tombstone, Why};
use crate::run::Attempt;
use crate::store::{Key, ObjectInfo, StoreError};
use crate::vault::Vault;
use crate::writer::Writer;

/// How far the clocks of a store and of a writer may differ.
const CLOCKS: SignedDuration = SignedDuration::from_mins(5);

/// How long things stay after they were marked, and how old what a run left must be.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// From the tombstone to the deletion.
    pub grace: SignedDuration,
    /// The longest a run may take: what is younger may still be in the making.
    pub longest_run: SignedDuration,
}

/// Why nothing was swept.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// A document cannot be read: what it names is unknown, so nothing may go.
    #[error("sweep {application}: `{key}` cannot be read, and what it needs is therefore unknown")]
    Unreadable {
        /// The application.
        application: windlass_core::name::Name,
        /// The document.
        key: Key,
        /// Why.
        source: RepositoryError,
    },
    /// The repository.
    #[error(transparent)]
    Repository(RepositoryError),
    /// The application's restic repository.
    #[error(transparent)]
    Files(FilesError),
}

impl windlass_core::diagnose::Diagnose for SweepError {
    fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "WDL-1230",
            Self::Repository(error) => error.code(),
            Self::Files(error) => error.code(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "SweepStopped",
            Self::Repository(error) => error.reason(),
            Self::Files(error) => error.reason(),
        }
    }

    fn outcome(&self) -> windlass_core::diagnose::Outcome {
        match self {
            Self::Unreadable { .. } => windlass_core::diagnose::Outcome::Failed,
            Self::Repository(error) => error.outcome(),
            Self::Files(error) => error.outcome(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Unreadable { key, .. } => vec![format!(
                "run `windlass repo check`; nothing is deleted until `{key}` is readable again or was removed by hand"
            )],
            Self::Repository(error) => error.hints(),
            Self::Files(error) => error.hints(),
        }
    }
}

/// What a sweep did, and what it left for another time.
#[derive(Debug, Default, Serialize)]
pub struct Swept {
    /// Points deleted.
    pub points: Vec<PointId>,
    /// Rests of dead runs deleted.
    pub orphans: Vec<PointId>,
    /// Objects deleted.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Uploads that died, whose parts were removed.
    pub dead_uploads: u64,
    /// Marked, and not yet due.
    pub waiting: Vec<PointId>,
    /// Due, but pinned, held, or the newest complete point.
    pub kept: Vec<PointId>,
    /// Rests of dead runs that were marked now.
    pub marked: Vec<PointId>,
    /// Objects the store refused to delete; they are still there, and still catalogued.
    pub denied: Vec<String>,
}

/// What must not go, as read from the store just now.
pub struct Live {
    /// The catalog.
    pub catalog: Catalog,
    /// The manifests of every point that is not due, and of those due.
    pub manifests: BTreeMap<PointId, Vec<ComponentManifest>>,
}

impl Live {
    /// Reads every commit record and every manifest of the application; one that cannot be read stops it.
    pub async fn read(vault: &Vault) -> Result<Self, SweepError> {
        let application = || vault.application().clone();
        let mut catalog = Catalog::load(vault).await.map_err(SweepError::Repository)?;
        if let Some(damaged) = catalog.damaged.pop() {
            return Err(SweepError::Unreadable { application: application(), key: damaged.key, source: damaged.error });
        }
        let mut manifests = BTreeMap::new();
        for entry in &catalog.entries {
            let mut all = Vec::new();
            for summary in &entry.point.components {
                match vault.component(&entry.point, summary).await {
                    Ok(manifest) => all.push(manifest),
                    // Its own sweep was interrupted after the commit record was listed.
                    Err(RepositoryError::Store(StoreError::NotFound { .. })) if entry.tombstone.is_some() => {}
                    Err(error @ RepositoryError::Store(StoreError::Unreachable { .. })) => {
                        return Err(SweepError::Repository(error));
                    }
                    Err(source) => {
                        let key = layout::component(vault.application(), entry.point.id, &summary.name);
                        return Err(SweepError::Unreadable { application: application(), key, source });
                    }
                }
            }
            manifests.insert(entry.point.id, all);
        }
        Ok(Self { catalog, manifests })
    }

    /// The restic snapshots that live points need.
    pub fn snapshots(&self) -> BTreeSet<String> {
        self.manifests.values().flatten().filter_map(|m| m.snapshot().map(str::to_owned)).collect()
    }
}

/// Sweeps one application. Its restic repository is pruned apart, by [`prune`].
pub async fn sweep(vault: &Vault, writer: &Writer, rules: Rules) -> Result<Swept, SweepError> {
    let now = live::now_of(vault.store()).await.map_err(SweepError::Repository)?;
    // Who cannot open the keyring can neither forget snapshots nor tell whose tombstones these are.
    vault.keyring().map_err(|error| SweepError::Repository(RepositoryError::Key(error)))?;
    let live = Live::read(vault).await?;
    let mut swept = Swept::default();
    // And the newest whose source was not damaged.
    let complete = || live.catalog.entries.iter().rev().filter(|entry| entry.point.is_complete());
    let newest = complete().next().into_iter().chain(complete().find(|entry| entry.point.is_sound()));
    let newest: Vec<PointId> = newest.map(|entry| entry.point.id).collect();
    for tombstone in Tombstone::load(vault).await.map_err(SweepError::Repository)? {
        let entry = live.catalog.entries.iter().find(|entry| entry.point.id == tombstone.point);
        if now.duration_since(tombstone.since.unwrap_or(now)) < rules.grace {
            swept.waiting.push(tombstone.point);
        } else if spared(vault, entry, &newest, tombstone.point, now).await.map_err(SweepError::Repository)? {
            swept.kept.push(tombstone.point);
        } else if let (Why::Orphan, Some(_)) = (tombstone.why, entry) {
            // It was committed after all: the second look found a manifest that names it.
            let key = layout::tombstone(vault.application(), tombstone.point);
            delete(vault, &key, 0, &mut swept).await.map_err(SweepError::Repository)?;
        } else {
            remove(vault, &tombstone, entry, &live, &mut swept).await?;
        }
    }
    mark_orphans(vault, writer, &live, rules, now, &mut swept).await.map_err(SweepError::Repository)?;
    tidy(vault, rules, now, &mut swept).await.map_err(SweepError::Repository)?;
    Ok(swept)
}

/// Whether a point must stay though it is due. Pins and holds are read here, right before the deletion: whoever reads a
/// point pins it first and looks for its tombstone then.
async fn spared(
    vault: &Vault,
    entry: Option<&Entry>,
    newest: &[PointId],
    point: PointId,
    now: Timestamp,
) -> Result<bool, RepositoryError> {
    let (pinned, _) = live::pinned(vault, now).await?;
    let held = entry.is_some() && Hold::holds(vault, point).await?;
    Ok(held || pinned.contains(&point) || newest.contains(&point))
}

/// Deletes a point, its commit record first and its tombstone last.
async fn remove(
    vault: &Vault,
    tombstone: &Tombstone,
    entry: Option<&Entry>,
    live: &Live,
    swept: &mut Swept,
) -> Result<(), SweepError> {
    let (application, point) = (vault.application(), tombstone.point);
    let denied = swept.denied.len();
    let beside = beside(vault, live, point).await.map_err(SweepError::Repository)?;
    if let Some(entry) = entry {
        delete(vault, &entry.key, 0, swept).await.map_err(SweepError::Repository)?;
        if swept.denied.len() > denied {
            // With its commit record there the point is whole; its data must stay with it.
            return Ok(());
        }
    }
    // First of all: only manifests and notes tell that they are of this point.
    for (key, size) in beside {
        delete(vault, &key, size, swept).await.map_err(SweepError::Repository)?;
    }
    if swept.denied.len() > denied {
        return Ok(());
    }
    let marker = point.to_string();
    let of_it = |object: &ObjectInfo| object.key.segments().any(|segment| segment == marker);
    for folder in [layout::dumps(application), layout::verifications(application), layout::runs(application)] {
        let listed = vault
            .store()
            .list_all(Some(&folder))
            .await
            .map_err(|e| SweepError::Repository(RepositoryError::Store(e)))?;
        for object in listed.iter().filter(|object| of_it(object)) {
            delete(vault, &object.key, object.size, swept).await.map_err(SweepError::Repository)?;
        }
    }
    if swept.denied.len() > denied {
        return Ok(());
    }
    forget(vault, point).await?;
    delete(vault, &layout::tombstone(application, point), 0, swept).await.map_err(SweepError::Repository)?;
    if entry.is_some() {
        swept.points.push(point);
    } else {
        swept.orphans.push(point);
    }
    Ok(())
}

/// What a run wrote beside the repository, as its manifests and its notes of attempts name it, with sizes. What another
/// point's manifest names is not its own; nor is an object that was there before the attempt.
async fn beside(vault: &Vault, live: &Live, point: PointId) -> Result<Vec<(Key, u64)>, RepositoryError> {
    let others: BTreeSet<&str> = live
        .manifests
        .iter()
        .filter(|(id, _)| **id != point)
        .flat_map(|(_, manifests)| manifests.iter().flat_map(ComponentManifest::objects))
        .map(|object| object.key.as_str())
        .collect();
    let own = live.manifests.get(&point).into_iter().flatten().flat_map(ComponentManifest::objects);
    let named = own.map(|object| (Key::foreign(&object.key), None));
    let attempts = Attempt::all(vault, point).await?;
    let base_backups = base_backups(vault, &attempts, &others).await?;
    let tried = attempts.iter().map(|attempt| (Key::foreign(&attempt.key), Some(attempt.at)));
    let mut found = BTreeMap::new();
    for (key, since) in named.chain(tried) {
        // WAL is not of one point alone: without it every older base backup would end there.
        let is_wal = key.segments().any(|segment| segment == WAL);
        if is_wal || key.name_above().is_none() || others.contains(key.as_str()) || found.contains_key(&key) {
            continue;
        }
        match vault.store().head(&key).await {
            Ok(object) if since.is_none_or(|since| object.modified.duration_since(since) > -CLOCKS) => {
                found.insert(key, object.size);
            }
            Ok(_) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(RepositoryError::Store(error)),
        }
    }
    Ok(base_backups.into_iter().chain(found).collect())
}

/// What a run wrote of base backups, which have no folder of their own in its name: of each the sentinel first, so that nothing
/// is left that looks whole. One that another point's manifest names is not its own; nor is what was there before.
async fn base_backups(
    vault: &Vault,
    attempts: &[Attempt],
    others: &BTreeSet<&str>,
) -> Result<Vec<(Key, u64)>, RepositoryError> {
    let mut found = Vec::new();
    for attempt in attempts {
        let folder = Key::foreign(&attempt.key);
        let Some(sentinel) = layout::sentinel_of(vault.application(), &folder) else { continue };
        if others.contains(sentinel.as_str()) {
            continue;
        }
        let mut objects = vault.store().list_all(Some(&folder)).await.map_err(RepositoryError::Store)?;
        match vault.store().head(&sentinel).await {
            Ok(object) => objects.insert(0, object),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(RepositoryError::Store(error)),
        }
        let is_own = |object: &ObjectInfo| object.modified.duration_since(attempt.at) > -CLOCKS;
        found.extend(objects.into_iter().filter(is_own).map(|object| (object.key, object.size)));
    }
    Ok(found)
}

/// Forgets the restic snapshots of a run, where the application has any.
async fn forget(vault: &Vault, run: PointId) -> Result<(), SweepError> {
    let Some(files) = files_of(vault).await? else { return Ok(()) };
    files.forget(&BTreeSet::from([run.to_string()])).await.map_err(SweepError::Files)?;
    Ok(())
}

/// Removes from the application's restic repository what no recovery point needs; see [`Files::prune`].
pub async fn prune(vault: &Vault, grace: SignedDuration) -> Result<Pruned, SweepError> {
    let Some(files) = files_of(vault).await? else { return Ok(Pruned::default()) };
    let live = Live::read(vault).await?;
    files.prune(&live.snapshots(), grace).await.map_err(SweepError::Files)
}

/// The application's restic repository, where it has one.
async fn files_of(vault: &Vault) -> Result<Option<Files>, SweepError> {
    let prefix = layout::files(vault.application());
    let store = |error| SweepError::Repository(RepositoryError::Store(error));
    if vault.store().list_all(Some(&prefix)).await.map_err(store)?.is_empty() {
        return Ok(None);
    }
    let keyring = vault.keyring().map_err(|error| SweepError::Repository(RepositoryError::Key(error)))?;
    Ok(Some(Files::ours(vault.store(), &prefix, keyring.restic_password())))
}

pub(crate) async fn delete(vault: &Vault, key: &Key, size: u64, swept: &mut Swept) -> Result<(), RepositoryError> {
    match vault.store().delete(key).await {
        Ok(()) => {
            swept.objects += 1;
            swept.bytes += size;
            Ok(())
        }
        Err(StoreError::Denied { .. }) => {
            swept.denied.push(key.to_string());
            Ok(())
        }
        Err(error) => Err(RepositoryError::Store(error)),
    }
}

/// Marks what runs left that are long over and were never committed: the first of two looks, a grace apart.
async fn mark_orphans(
    vault: &Vault,
    writer: &Writer,
    live: &Live,
    rules: Rules,
    now: Timestamp,
    swept: &mut Swept,
) -> Result<(), RepositoryError> {
    let application = vault.application();
    let mut newest: BTreeMap<PointId, Timestamp> = BTreeMap::new();
    for (folder, depth) in [(layout::runs(application), 2), (layout::dumps(application), 3)] {
        for object in vault.store().list_all(Some(&folder)).await.map_err(RepositoryError::Store)? {
            let run = object.key.segments().nth(depth).and_then(|segment| segment.parse().ok());
            let Some(run) = run else { continue };
            let newest = newest.entry(run).or_insert(object.modified);
            *newest = object.modified.max(*newest);
        }
    }
    let known: BTreeSet<PointId> = live.catalog.entries.iter().map(|entry| entry.point.id).collect();
    for (run, last) in newest {
        let settled = known.contains(&run) || swept.waiting.contains(&run) || swept.kept.contains(&run);
        if !settled && !swept.orphans.contains(&run) && now.duration_since(last) > rules.longest_run {
            Tombstone::set(vault, writer, run, Why::Orphan, None).await?;
            swept.marked.push(run);
        }
    }
    Ok(())
}

/// Removes pins that have ended, probes that stayed behind, and parts of uploads that died.
async fn tidy(vault: &Vault, rules: Rules, now: Timestamp, swept: &mut Swept) -> Result<(), RepositoryError> {
    let dead = match vault.store().dead_uploads().await {
        Ok(dead) => dead,
        // Seeing them takes a right of its own; without it a lifecycle rule of the bucket must do this.
        Err(StoreError::Denied { .. }) => Vec::new(),
        Err(error) => return Err(RepositoryError::Store(error)),
    };
    for upload in dead {
        if now.duration_since(upload.since) > rules.longest_run {
            match vault.store().remove_dead_upload(&upload).await {
                Ok(()) => swept.dead_uploads += 1,
                Err(StoreError::Denied { .. }) => swept.denied.push(upload.key),
                Err(error) => return Err(RepositoryError::Store(error)),
            }
        }
    }
    let (_, ended) = live::pinned(vault, now).await?;
    for key in ended {
        delete(vault, &key, 0, swept).await?;
    }
    let probes = vault.store().list_all(Some(&Key::foreign("live/probe"))).await.map_err(RepositoryError::Store)?;
    for probe in probes {
        if now.duration_since(probe.modified) > SignedDuration::from_hours(1) {
            delete(vault, &probe.key, probe.size, swept).await?;
        }
    }
    Ok(())
}
