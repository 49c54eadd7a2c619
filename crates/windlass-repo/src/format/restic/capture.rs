//! Takes a snapshot, and makes sure that what it relies on is there.
//!
//! ```text
//! write packs → write index → write snapshot → reload the index → every pack there and unmarked?
//!                                                  └ no: read everything again, against that index
//! ```
//!
//! A prune that runs at the same time marks packs first and looks for snapshots then. Each side writes before it
//! reads, so at least one of them sees the other.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use rustic_core::repofile::{PackId, SnapshotFile};
use rustic_core::{BackupOptions, FileType, OpenStatus, ReadBackend, Repository, RusticResult, SnapshotOptions};

use super::source::{Excludes, Report, Walk};
use super::verify::needed_packs;
use super::{Files, FilesError};

/// How often a capture is tried when packs vanish under it.
const TRIES: u32 = 3;

/// What is captured.
pub struct Source {
    /// Absolute paths.
    pub paths: Vec<PathBuf>,
    /// Patterns of what is left out.
    pub exclude: Vec<String>,
    /// The host's name in the snapshot.
    pub host: String,
    /// Tags of the snapshot.
    pub tags: Vec<String>,
    /// Hears of every piece read, in bytes.
    pub moved: Arc<dyn Fn(u64) + Send + Sync>,
}

/// A snapshot was taken.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Its identifier, in hex.
    pub snapshot: String,
    /// Bytes of new data, as stored.
    pub added_bytes: u64,
    /// What the walk met.
    pub report: Report,
    /// Entries that the snapshot should hold and does not.
    pub lost: u64,
}

impl Files {
    /// Takes a snapshot of what is there.
    pub async fn capture(&self, source: Source) -> Result<Captured, FilesError> {
        // Patterns that are none are told apart from what goes wrong later.
        let excludes = Excludes::new(&source.exclude)?;
        let source = Arc::new((source, excludes));
        for attempt in 0..TRIES {
            let source = Arc::clone(&source);
            let backend = self.backend();
            let done = self.opened("capture", move |repository| {
                let (repository, captured, snapshot) = take(repository, &source.0, &source.1, attempt > 0)?;
                Ok(is_settled(repository, &backend, &snapshot)?.then_some(captured))
            });
            if let Some(captured) = done.await? {
                return Ok(captured);
            }
        }
        Err(FilesError::Unsettled { place: self.place(), tries: TRIES })
    }
}

type Taken = (Repository<OpenStatus>, Captured, SnapshotFile);

fn take(repository: Repository<OpenStatus>, source: &Source, excludes: &Excludes, again: bool) -> RusticResult<Taken> {
    let repository = repository.to_indexed_ids()?;
    let walk = Walk::new(&source.paths, excludes.clone(), Arc::clone(&source.moved));
    let mut options = SnapshotOptions::default().host(source.host.clone());
    for tag in &source.tags {
        options = options.add_tags(tag)?;
    }
    let mut backup = BackupOptions::default().no_scan(true);
    // A second try must not lean on the trees of a snapshot whose packs are going.
    backup.parent_opts.force = again;
    let snapshot = repository.archive(&backup, &walk, options.to_snapshot()?, &source.paths)?;
    let report = walk.report();
    let summary = snapshot.summary.clone().unwrap_or_default();
    let stored = summary.files_new + summary.files_changed + summary.files_unmodified;
    let captured = Captured {
        snapshot: snapshot.id.to_hex().to_string(),
        added_bytes: summary.data_added_packed,
        lost: report.files.saturating_sub(stored),
        report,
    };
    Ok((repository.drop_index(), captured, snapshot))
}

/// Whether everything the snapshot relies on is there and unmarked, by an index and a listing read after it was written.
fn is_settled(
    repository: Repository<OpenStatus>,
    backend: &impl ReadBackend,
    snapshot: &SnapshotFile,
) -> RusticResult<bool> {
    // Marked packs are no part of this index: what lies only in them counts as not there.
    let repository = repository.to_indexed()?;
    let Some(needed) = needed_packs(&repository, snapshot.tree)? else { return Ok(false) };
    let there: HashSet<PackId> = backend.list(FileType::Pack)?.into_iter().map(PackId::from).collect();
    Ok(needed.keys().all(|pack| there.contains(pack)))
}
