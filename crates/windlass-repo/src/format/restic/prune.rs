//! Forgets snapshots, and removes packs that nothing needs any more.
//!
//! ```text
//! forget → mark what no snapshot uses → list the snapshots again, unmark what they use → (grace) → remove
//! ```
//!
//! `rustic_core` marks packs in its index files (`packs_to_delete`), which its own index and restic's ignore; a
//! marked pack is removed by a later prune, a grace after its mark. Against a capture that runs at the same time:
//! the capture writes its snapshot and then reads the index; this writes the marks and then reads the snapshots -
//! so at least one of them sees the other. A capture longer than half the grace fails, so nothing relies on a pack
//! that was marked before it began. Packs are never repacked: one with a needed blob in it stays whole.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Span};
use rustic_core::repofile::SnapshotId;
use rustic_core::{LimitOption, OpenStatus, PruneOptions, Repository, RusticResult};
use serde::Serialize;

use super::{Files, FilesError};

/// What a prune did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Packs removed, marked a grace ago.
    pub removed_packs: u64,
    /// Their bytes.
    pub removed_bytes: u64,
    /// Bytes of packs marked now, to be removed after the grace.
    pub marked_bytes: u64,
}

impl Files {
    /// Removes the snapshots that carry one of these tags. Their data stay until they are pruned.
    pub async fn forget(&self, tags: &BTreeSet<String>) -> Result<u64, FilesError> {
        let tags = tags.clone();
        self.opened("forget snapshots", move |repository| {
            let doomed: Vec<SnapshotId> = repository
                .get_all_snapshots()?
                .into_iter()
                .filter(|snapshot| tags.iter().any(|tag| snapshot.tags.contains(tag)))
                .map(|snapshot| snapshot.id)
                .collect();
            repository.delete_snapshots(&doomed)?;
            Ok(doomed.len() as u64)
        })
        .await
    }

    /// Marks what nothing needs, unmarks what turns out to be needed, and removes what was marked `grace` ago.
    ///
    /// `needed` are the snapshots that live recovery points name: if one of them is missing, nothing is done.
    pub async fn prune(&self, needed: &BTreeSet<String>, grace: SignedDuration) -> Result<Pruned, FilesError> {
        let (needed, place) = (needed.clone(), self.place());
        let done = self.opened("prune", move |repository| {
            let there: BTreeSet<String> =
                repository.get_all_snapshots()?.iter().map(|snapshot| snapshot.id.to_hex().to_string()).collect();
            if let Some(missing) = needed.difference(&there).next() {
                return Ok(Err(missing.clone()));
            }
            let options = options(grace);
            let first = round(&repository, &options)?;
            // The marks are written; whatever was captured meanwhile is seen now, and what it uses is unmarked.
            let second = round(&repository, &options)?;
            Ok(Ok(Pruned {
                removed_packs: first.removed_packs + second.removed_packs,
                removed_bytes: first.removed_bytes + second.removed_bytes,
                ..first
            }))
        });
        done.await?.map_err(|snapshot| FilesError::NoSnapshot { snapshot, place })
    }
}

fn round(repository: &Repository<OpenStatus>, options: &PruneOptions) -> RusticResult<Pruned> {
    let plan = repository.prune_plan(options)?;
    let stats = &plan.stats;
    let pruned = Pruned {
        removed_packs: stats.packs_to_delete.remove,
        removed_bytes: stats.size_to_delete.remove,
        marked_bytes: stats.size_sum().remove + stats.size_unref,
    };
    repository.prune(options, plan)?;
    Ok(pruned)
}

fn options(grace: SignedDuration) -> PruneOptions {
    let mut options = PruneOptions::default();
    let half = grace.as_secs() / 2;
    options.keep_delete = Span::new().seconds(grace.as_secs());
    // A pack of a capture that is still at work is used by no snapshot yet.
    options.keep_pack = Span::new().seconds(half);
    options.max_unused = LimitOption::Unlimited;
    options.no_resize = true;
    options
}
