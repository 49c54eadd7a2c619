//! Walks what is to be captured, and remembers everything that did not go as it should.
//!
//! `rustic_core` logs what it cannot read and goes on; so every error is noted here, where it happens, and the
//! caller decides what it means. Entries come sorted by the bytes of their names, as restic wants them. Links are
//! stored, never followed; mount points are. Sockets hold no data and are counted, not stored.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use jiff::Timestamp;
use rustic_core::repofile::{Metadata as NodeMetadata, Node, NodeType};
use rustic_core::{ErrorKind, ReadSource, ReadSourceEntry, ReadSourceOpen, RusticError, RusticResult};

use windlass_core::id::RestoreId;

use super::FilesError;
use super::owners::Owners;
use crate::regular;

/// Problems remembered in words; more are counted only.
const REMEMBERED: usize = 100;

/// What a walk met.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Entries that are no folders.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Sockets, which hold no data.
    pub sockets: u64,
    /// Entries left out by a pattern; what is in a folder left out is not looked at.
    pub excluded: u64,
    /// Files that changed while they were read.
    pub changed: Vec<PathBuf>,
    /// Entries that went away between their listing and their reading.
    pub vanished: u64,
    /// What could not be read, in words; at most a hundred.
    pub unreadable: Vec<String>,
    /// How many could not be read.
    pub unreadable_count: u64,
}

impl Report {
    fn note(&mut self, path: &Path, error: &std::io::Error) {
        self.unreadable_count += 1;
        if self.unreadable.len() < REMEMBERED {
            self.unreadable.push(format!("`{}`: {error}", path.display()));
        }
    }
}

/// Patterns of what is left out, for the folders of one component.
#[derive(Clone, Debug, Default)]
pub struct Excludes {
    names: GlobSet,
    paths: GlobSet,
}

impl Excludes {
    /// A pattern without a slash matches names anywhere; one with a slash matches paths from the component's
    /// folder on; `**` crosses folders, and a slash at the end is only for reading.
    pub fn new(patterns: &[String]) -> Result<Self, FilesError> {
        let (mut names, mut paths) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        let wrong = |pattern: &str, error: &globset::Error| FilesError::Pattern {
            pattern: pattern.to_owned(),
            why: error.kind().to_string(),
        };
        for pattern in patterns {
            let text = pattern.strip_suffix('/').unwrap_or(pattern);
            let anchored = text.contains('/');
            let text = text.strip_prefix('/').unwrap_or(text);
            let glob = GlobBuilder::new(text).literal_separator(true).build().map_err(|e| wrong(pattern, &e))?;
            if anchored {
                paths.add(glob)
            } else {
                names.add(glob)
            };
        }
        let built = |builder: GlobSetBuilder| builder.build().map_err(|e| wrong("", &e));
        Ok(Self { names: built(names)?, paths: built(paths)? })
    }

    /// Whether a path is left out of what is captured of a folder.
    pub fn matches(&self, root: &Path, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default();
        self.names.is_match(name) || path.strip_prefix(root).is_ok_and(|relative| self.paths.is_match(relative))
    }
}

/// What the folders begin with that a restore in place keeps beside what is there.
pub const STAGE: &str = ".windlass-";

/// Whether a name is that of such a folder: the restore's identifier follows, in small letters. It is no part of what is
/// captured, wherever it stands.
pub fn is_stage(name: &OsStr) -> bool {
    let rest = name.to_str().and_then(|name| name.strip_prefix(STAGE));
    let id = rest.and_then(|rest| rest.get(..26));
    id.is_some_and(|id| id == id.to_lowercase() && id.to_uppercase().parse::<RestoreId>().is_ok())
}

/// What is to be captured.
pub(super) struct Walk {
    roots: Vec<PathBuf>,
    excludes: Excludes,
    owners: Arc<Owners>,
    report: Arc<Mutex<Report>>,
    moved: Arc<dyn Fn(u64) + Send + Sync>,
}

impl Walk {
    pub(super) fn new(roots: &[PathBuf], excludes: Excludes, moved: Arc<dyn Fn(u64) + Send + Sync>) -> Self {
        let mut roots = roots.to_vec();
        roots.sort();
        Self { roots, excludes, owners: Arc::new(Owners::read()), report: Arc::default(), moved }
    }

    /// What the walk met, once it is over.
    pub(super) fn report(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ReadSource for Walk {
    type Open = Opening;
    type Iter = Entries;

    fn size(&self) -> RusticResult<Option<u64>> {
        Ok(None)
    }

    fn entries(&self) -> Entries {
        Entries {
            roots: self.roots.clone().into_iter(),
            root: PathBuf::new(),
            open: Vec::new(),
            excludes: self.excludes.clone(),
            owners: Arc::clone(&self.owners),
            report: Arc::clone(&self.report),
            moved: Arc::clone(&self.moved),
        }
    }
}

/// Entries, folder before content.
pub(super) struct Entries {
    roots: std::vec::IntoIter<PathBuf>,
    root: PathBuf,
    /// The folders being walked, each with the names still to come, the next one last.
    open: Vec<(PathBuf, Vec<OsString>)>,
    excludes: Excludes,
    owners: Arc<Owners>,
    report: Arc<Mutex<Report>>,
    moved: Arc<dyn Fn(u64) + Send + Sync>,
}

impl Iterator for Entries {
    type Item = RusticResult<ReadSourceEntry<Opening>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (path, is_root) = if let Some((folder, names)) = self.open.last_mut() {
                if let Some(name) = names.pop() {
                    (folder.join(name), false)
                } else {
                    self.open.pop();
                    continue;
                }
            } else {
                self.root = self.roots.next()?;
                (self.root.clone(), true)
            };
            if !is_root && path.file_name().is_some_and(is_stage) {
                continue;
            }
            if !is_root && self.excludes.matches(&self.root, &path) {
                self.report().excluded += 1;
                continue;
            }
            match self.entry(&path) {
                Ok(Some(entry)) => return Some(Ok(entry)),
                Ok(None) => {}
                // It went between the listing and the look: there is nothing to capture.
                Err(error) if !is_root && error.kind() == std::io::ErrorKind::NotFound => self.report().vanished += 1,
                Err(error) => self.report().note(&path, &error),
            }
        }
    }
}

impl Entries {
    fn report(&self) -> std::sync::MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&mut self, path: &Path) -> std::io::Result<Option<ReadSourceEntry<Opening>>> {
        let meta = path.symlink_metadata()?;
        if meta.is_dir() {
            let mut names = names(path)?;
            names.reverse();
            self.open.push((path.to_owned(), names));
        }
        let Some(node) = node(path, &meta, &self.owners)? else {
            self.report().sockets += 1;
            return Ok(None);
        };
        let mut report = self.report();
        if node.is_dir() {
            report.folders += 1;
        } else {
            report.files += 1;
        }
        let open = node.is_file().then(|| {
            report.bytes += meta.len();
            let (report, moved) = (Arc::clone(&self.report), Arc::clone(&self.moved));
            Opening { path: path.to_owned(), seen: Seen::of(&meta), report, moved }
        });
        drop(report);
        Ok(Some(ReadSourceEntry { path: path.to_owned(), node, open }))
    }
}

/// The names in a folder, sorted by their bytes.
pub(super) fn names(folder: &Path) -> std::io::Result<Vec<OsString>> {
    let mut names = std::fs::read_dir(folder)?.map(|e| e.map(|e| e.file_name())).collect::<Result<Vec<_>, _>>()?;
    names.sort_unstable_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}

/// An entry as it is stored, but for its content; `None` for a socket, which is not stored.
pub(super) fn node(path: &Path, meta: &Metadata, owners: &Owners) -> std::io::Result<Option<Node>> {
    let kind = meta.file_type();
    let node_type = if kind.is_socket() {
        return Ok(None);
    } else if kind.is_dir() {
        NodeType::Dir
    } else if kind.is_symlink() {
        NodeType::from_link(&path.read_link()?)
    } else if kind.is_block_device() {
        NodeType::Dev { device: meta.rdev() }
    } else if kind.is_char_device() {
        NodeType::Chardev { device: meta.rdev() }
    } else if kind.is_fifo() {
        NodeType::Fifo
    } else {
        NodeType::File
    };
    let name = path.file_name().unwrap_or_default();
    Ok(Some(Node::new_node(name, node_type, metadata(path, meta, owners)?)))
}

fn metadata(path: &Path, meta: &Metadata, owners: &Owners) -> std::io::Result<NodeMetadata> {
    let is_dir = meta.is_dir();
    let linked = meta.nlink() > 1 && !is_dir;
    Ok(NodeMetadata {
        mode: Some(go_mode(meta.mode())),
        mtime: time(meta.mtime(), meta.mtime_nsec()),
        // The time of access changes by being captured; restic stores it, we store what does not.
        atime: time(meta.mtime(), meta.mtime_nsec()),
        ctime: time(meta.ctime(), meta.ctime_nsec()),
        uid: Some(meta.uid()),
        gid: Some(meta.gid()),
        user: owners.user(meta.uid()),
        group: owners.group(meta.gid()),
        inode: meta.ino(),
        // Only hard links need it, and it changes from boot to boot.
        device_id: if linked { meta.dev() } else { 0 },
        size: if meta.is_file() { meta.len() } else { 0 },
        links: if is_dir { 0 } else { meta.nlink() },
        // The type has no public name; its JSON, which is restic's own, is the way to make one.
        extended_attributes: match attributes(path)? {
            none if none.is_empty() => Vec::new(),
            some => serde_json::from_value(some.into())?,
        },
    })
}

/// The extended attributes as restic's JSON has them.
fn attributes(path: &Path) -> std::io::Result<Vec<serde_json::Value>> {
    let names = match xattr::list(path) {
        Ok(names) => names,
        // The file system has none.
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let attribute = |name: OsString| {
        let value = xattr::get(path, &name)?.map(|value| BASE64_STANDARD.encode(value));
        Ok(serde_json::json!({ "name": name.to_string_lossy(), "value": value }))
    };
    names.map(attribute).collect()
}

fn time(seconds: i64, nanos: i64) -> Option<Timestamp> {
    Timestamp::new(seconds, i32::try_from(nanos).ok()?).ok()
}

/// The mode as Go's `fs.FileMode` has it, which is how restic stores it.
fn go_mode(mode: u32) -> u32 {
    let mut go = mode & 0o777;
    for (unix, bit) in [(0o4000, 23), (0o2000, 22), (0o1000, 20)] {
        if mode & unix != 0 {
            go |= 1 << bit;
        }
    }
    go | match mode & 0o170_000 {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        0o020_000 => 1 << 26 | 1 << 21,
        _ => 0,
    }
}

/// A file about to be read.
pub(super) struct Opening {
    path: PathBuf,
    seen: Seen,
    report: Arc<Mutex<Report>>,
    moved: Arc<dyn Fn(u64) + Send + Sync>,
}

/// What would be different if a file had changed.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    size: u64,
    mtime: (i64, i64),
}

impl Seen {
    fn of(meta: &Metadata) -> Self {
        Self { size: meta.len(), mtime: (meta.mtime(), meta.mtime_nsec()) }
    }
}

impl ReadSourceOpen for Opening {
    type Reader = Watched;

    fn open(self) -> RusticResult<Watched> {
        match regular::open(&self.path) {
            Ok(file) => Ok(Watched { file, of: self, read: 0 }),
            Err(error) => {
                let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
                if error.kind() == std::io::ErrorKind::NotFound {
                    report.vanished += 1;
                    report.files -= 1;
                    report.bytes -= self.seen.size;
                } else {
                    report.note(&self.path, &error);
                }
                drop(report);
                Err(RusticError::with_source(ErrorKind::InputOutput, format!("open {}", self.path.display()), error))
            }
        }
    }
}

/// A file being read: errors and changes are noted.
pub(super) struct Watched {
    file: File,
    of: Opening,
    read: u64,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let result = self.file.read(buffer);
        match &result {
            Ok(0) => {
                let now = self.file.metadata().map(|meta| Seen::of(&meta));
                if !now.is_ok_and(|now| now == self.of.seen) || self.read != self.of.seen.size {
                    let mut report = self.of.report.lock().unwrap_or_else(PoisonError::into_inner);
                    // What was read is what is stored.
                    report.bytes = report.bytes + self.read - self.of.seen.size;
                    self.of.seen.size = self.read;
                    if report.changed.last() != Some(&self.of.path) {
                        report.changed.push(self.of.path.clone());
                    }
                }
            }
            Ok(count) => {
                self.read += *count as u64;
                (self.of.moved)(*count as u64);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => self.of.report.lock().unwrap_or_else(PoisonError::into_inner).note(&self.of.path, error),
        }
        result
    }
}
