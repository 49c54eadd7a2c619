//! Takes a snapshot, and makes sure that what it relies on is there.
//!
//! ```text
//! write packs → write index → write snapshot → reload the index → every pack there and unmarked?
//!                                                  └ no: read everything again, against that index
//! ```
//!
//! Where nothing differs from the snapshot before ([`unchanged`]), no packs and no index are written, and the snapshot
//! names the trees of that one. The index is then reloaded only if it is not the one its packs were found by.
//!
//! A prune that runs at the same time marks packs first and looks for snapshots then. Each side writes before it
//! reads, so at least one of them sees the other.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Zoned;
use rustic_core::repofile::{PackId, SnapshotFile, SnapshotId, StringList};
use rustic_core::{
    BackupOptions, FileType, Id, IndexedIds, OpenStatus, ReadBackend, Repository, RusticResult, SnapshotGroup,
    SnapshotGroupCriterion, SnapshotOptions, TreeId,
};

use super::backend::Backend;
use super::source::{Excludes, Report, Walk};
use super::unchanged::{self, Unchanged};
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
    /// Whether nothing differed from the snapshot before, so that its trees are this one's.
    pub unchanged: bool,
}

impl Files {
    /// Takes a snapshot of what is there.
    pub async fn capture(&self, source: Source) -> Result<Captured, FilesError> {
        // Patterns that are none are told apart from what goes wrong later.
        let excludes = Excludes::new(&source.exclude)?;
        let source = Arc::new((source, excludes));
        for attempt in 0..TRIES {
            let source = Arc::clone(&source);
            let done = self.opened_with_backend("capture", move |repository, backend| {
                // A second try must not lean on the trees of a snapshot whose packs are going.
                let (repository, taken) = take(repository, backend, &source.0, &source.1, attempt > 0)?;
                let settled = relies_on_what_is_there(backend, &taken)? || is_settled(repository, backend, taken.tree)?;
                Ok(settled.then_some(taken.captured))
            });
            if let Some(captured) = done.await? {
                return Ok(captured);
            }
        }
        Err(FilesError::Unsettled { place: self.place(), tries: TRIES })
    }
}

/// A snapshot that was written.
struct Taken {
    captured: Captured,
    tree: TreeId,
    /// The packs it relies on by an index that was read before, and the files of that index.
    leaning: Option<(HashSet<PackId>, BTreeSet<Id>)>,
}

fn take(
    repository: Repository<OpenStatus>,
    backend: &Backend,
    source: &Source,
    excludes: &Excludes,
    again: bool,
) -> RusticResult<(Repository<OpenStatus>, Taken)> {
    let mut options = SnapshotOptions::default().host(source.host.clone());
    for tag in &source.tags {
        options = options.add_tags(tag)?;
    }
    let snapshot = options.to_snapshot()?;
    if again {
        return archive(repository.to_indexed_ids()?, snapshot, source, excludes, None);
    }
    // Where snapshots cannot be read, everything is.
    let Some(parent) = parent_of(&repository, &snapshot, &source.paths).unwrap_or_default() else {
        return archive(repository.to_indexed_ids()?, snapshot, source, excludes, None);
    };
    let index = index_files(backend)?;
    let repository = repository.to_indexed()?;
    let began = Zoned::now();
    let Some(same) = unchanged::compare(&repository, backend, (&source.paths, excludes), parent.tree) else {
        return archive(repository, snapshot, source, excludes, Some(parent.id));
    };
    repository.save_snapshots(vec![again_as(&parent, snapshot, &same, began)])?;
    let written = backend.written(FileType::Snapshot).pop().unwrap_or_default();
    let captured = Captured {
        snapshot: written.to_hex().to_string(),
        added_bytes: 0,
        lost: 0,
        report: same.report,
        unchanged: true,
    };
    Ok((repository.drop_index(), Taken { captured, tree: parent.tree, leaning: Some((same.packs, index)) }))
}

/// The newest snapshot of the same paths on the same host, which is the one the archiver would take.
fn parent_of(
    repository: &Repository<OpenStatus>,
    snapshot: &SnapshotFile,
    paths: &[PathBuf],
) -> RusticResult<Option<SnapshotFile>> {
    let Some(paths) = list_of(paths) else { return Ok(None) };
    let like = SnapshotFile { paths, ..snapshot.clone() };
    let group = SnapshotGroup::from_snapshot(&like, SnapshotGroupCriterion::default());
    let all = repository.get_matching_snapshots(|other| group.matches(other))?;
    Ok(all.into_iter().max_by(|a, b| a.time.cmp(&b.time)))
}

/// Paths as a snapshot has them; `None` where one is not UTF-8.
fn list_of(paths: &[PathBuf]) -> Option<StringList> {
    let paths = paths.iter().map(|path| path.to_str()).collect::<Option<Vec<_>>>()?;
    // A text would be split at its commas; JSON is the other way to make one.
    serde_json::from_value(paths.into()).ok()
}

/// Has the archiver take the snapshot.
fn archive<S: IndexedIds>(
    repository: Repository<S>,
    snapshot: SnapshotFile,
    source: &Source,
    excludes: &Excludes,
    parent: Option<SnapshotId>,
) -> RusticResult<(Repository<OpenStatus>, Taken)> {
    let walk = Walk::new(&source.paths, excludes.clone(), Arc::clone(&source.moved));
    let mut backup = BackupOptions::default().no_scan(true);
    backup.parent_opts.force = parent.is_none();
    backup.parent_opts.parents = parent.iter().map(|id| id.to_hex().to_string()).collect();
    let snapshot = repository.archive(&backup, &walk, snapshot, &source.paths)?;
    let report = walk.report();
    let summary = snapshot.summary.clone().unwrap_or_default();
    let stored = summary.files_new + summary.files_changed + summary.files_unmodified;
    let captured = Captured {
        snapshot: snapshot.id.to_hex().to_string(),
        added_bytes: summary.data_added_packed,
        lost: report.files.saturating_sub(stored),
        report,
        unchanged: false,
    };
    Ok((repository.drop_index(), Taken { captured, tree: snapshot.tree, leaning: None }))
}

/// The snapshot that the archiver would write where nothing changed.
fn again_as(parent: &SnapshotFile, snapshot: SnapshotFile, same: &Unchanged, began: Zoned) -> SnapshotFile {
    let mut summary = snapshot.summary.unwrap_or_default();
    summary.files_unmodified = same.report.files;
    summary.total_files_processed = same.report.files;
    summary.total_bytes_processed = same.report.bytes;
    summary.dirs_unmodified = same.trees;
    summary.total_dirs_processed = same.trees;
    summary.total_dirsize_processed = same.tree_bytes;
    summary.backup_end = Zoned::now();
    summary.backup_duration = summary.backup_end.duration_since(&began).as_secs_f64();
    summary.total_duration = summary.backup_end.duration_since(&snapshot.time).as_secs_f64();
    summary.backup_start = began;
    SnapshotFile {
        tree: parent.tree,
        paths: parent.paths.clone(),
        parent: Some(parent.id),
        parents: vec![parent.id],
        summary: Some(summary),
        ..snapshot
    }
}

fn index_files(backend: &Backend) -> RusticResult<BTreeSet<Id>> {
    Ok(backend.list(FileType::Index)?.into_iter().collect())
}

/// Whether the packs a snapshot relies on are there and unmarked, where that can be said without reading the index anew:
/// its files are named by what is in them, so the same names are the same index.
fn relies_on_what_is_there(backend: &Backend, taken: &Taken) -> RusticResult<bool> {
    let Some((packs, index)) = &taken.leaning else { return Ok(false) };
    if index_files(backend)? != *index {
        return Ok(false);
    }
    let there: HashSet<PackId> = backend.list(FileType::Pack)?.into_iter().map(PackId::from).collect();
    Ok(packs.is_subset(&there))
}

/// Whether everything the snapshot relies on is there and unmarked, by an index and a listing read after it was written.
fn is_settled(repository: Repository<OpenStatus>, backend: &Backend, tree: TreeId) -> RusticResult<bool> {
    // Marked packs are no part of this index: what lies only in them counts as not there.
    let repository = repository.to_indexed()?;
    let Some(needed) = needed_packs(&repository, backend, tree)? else { return Ok(false) };
    let there: HashSet<PackId> = backend.list(FileType::Pack)?.into_iter().map(PackId::from).collect();
    Ok(needed.keys().all(|pack| there.contains(pack)))
}
