//! Which WAL of the archives is not needed any more: planned, shown, and deleted.
//!
//! Every base backup needs the WAL from its start to its stop. Behind it every moment can be restored as far as the WAL is there
//! without a gap, so all of it stays from the start of the *first* base backup on: the newest one that is older than `pitr`, for
//! that and all later ones reach every moment since; the oldest there is, where `pitr` is not said. A base backup before the first
//! can then be restored to its end only. The first is one of a complete point that is not marked for deletion, or one that somebody
//! reads at the moment; of all others that are there what they need for themselves stays. Histories of timelines are never deleted.
//!
//! What goes lies before the first in the log *and* was stored before its point was committed, by the store's clock: a server that was put
//! back writes anew in places that an older timeline had long left behind.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use windlass_core::name::Name;
use windlass_core::point::{ComponentData, PhysicalData};
use windlass_core::retention::DoomedWal;
use windlass_core::wal::{Segment, SegmentSize, WalFile};

use crate::error::RepositoryError;
use crate::format::walg::Codec;
use crate::layout;
use crate::live;
use crate::store::Key;
use crate::sweep::{Live, SweepError};
use crate::vault::Vault;

/// A base backup that is there.
struct Base {
    /// When its point was committed, by the store's clock.
    at: Timestamp,
    data: PhysicalData,
    /// Whether it is sure to stay for now.
    stays: bool,
    is_pinned: bool,
}

impl Base {
    /// The number of the segment it starts in.
    fn first(&self) -> u64 {
        Segment::of(self.data.start, self.data.timeline, self.data.segment_size).number
    }

    /// And of the one it stops in.
    fn last(&self) -> u64 {
        Segment::before(self.data.stop, self.data.timeline, self.data.segment_size).number
    }
}

/// What goes of a cluster's archive: its objects, with what is told of them.
pub(crate) struct Going {
    pub(crate) told: DoomedWal,
    pub(crate) objects: Vec<(Key, u64)>,
}

/// Plans for every cluster of an application; those of which nothing goes are left out. Without rules everything stays.
pub async fn plan(vault: &Vault, pitr: Option<SignedDuration>, now: Timestamp) -> Result<Vec<DoomedWal>, SweepError> {
    Ok(going(vault, pitr, now).await?.into_iter().map(|going| going.told).collect())
}

pub(crate) async fn going(
    vault: &Vault,
    pitr: Option<SignedDuration>,
    now: Timestamp,
) -> Result<Vec<Going>, SweepError> {
    let failed = SweepError::Repository;
    let (pinned, _) = live::pinned(vault, now).await.map_err(failed)?;
    let live = Live::read(vault).await?;
    let mut clusters: BTreeMap<(Name, String), Vec<Base>> = BTreeMap::new();
    for entry in &live.catalog.entries {
        for manifest in live.manifests.get(&entry.point.id).into_iter().flatten() {
            if let ComponentData::Physical(data) = &manifest.data {
                let key = (manifest.component.clone(), data.system_identifier.clone());
                let is_pinned = pinned.contains(&entry.point.id);
                let stays = is_pinned || (entry.point.is_complete() && entry.tombstone.is_none());
                let base = Base { at: entry.committed, data: data.clone(), stays, is_pinned };
                clusters.entry(key).or_default().push(base);
            }
        }
    }
    let mut all = Vec::new();
    for ((component, cluster), bases) in clusters {
        let folder = layout::wal(&layout::cluster(vault.application(), &component, &cluster));
        let listed = vault.store().list_all(Some(&folder)).await;
        let listed = listed.map_err(|error| failed(RepositoryError::Store(error)))?;
        let Some(first) = first(&bases, pitr, now) else { continue };
        let size = first.data.segment_size;
        let number = first.first();
        let mut objects = Vec::new();
        for object in listed {
            let Some(found) = number_of(object.key.file_name(), size).filter(|found| *found < number) else { continue };
            if object.modified >= first.at || bases.iter().any(|base| (base.first()..=base.last()).contains(&found)) {
                continue;
            }
            objects.push((object.key, object.size));
        }
        if objects.is_empty() {
            continue;
        }
        let bytes = objects.iter().map(|(_, size)| size).sum();
        let before = Segment::of(first.data.start, first.data.timeline, size).name(size);
        all.push(Going {
            told: DoomedWal { component, cluster, before, since: first.at, files: objects.len() as u64, bytes },
            objects,
        });
    }
    Ok(all)
}

/// The base backup from whose start on everything stays.
fn first(bases: &[Base], pitr: Option<SignedDuration>, now: Timestamp) -> Option<&Base> {
    let stay = || bases.iter().filter(|base| base.stays);
    let is_old = |base: &&Base| pitr.is_some_and(|pitr| now.duration_since(base.at) >= pitr);
    let anchor = stay().filter(is_old).max_by_key(|base| base.at).or_else(|| stay().min_by_key(|base| base.at));
    anchor.into_iter().chain(bases.iter().filter(|base| base.is_pinned)).min_by_key(|base| base.at)
}

/// The number of the segment a file of the archive belongs to; none of a history, and of what is none of ours.
fn number_of(name: &str, size: SegmentSize) -> Option<u64> {
    match WalFile::parse(Codec::split(name).0, size).ok()? {
        WalFile::Segment(segment) | WalFile::Partial(segment) | WalFile::Backup { segment, .. } => Some(segment.number),
        WalFile::History(_) => None,
    }
}
