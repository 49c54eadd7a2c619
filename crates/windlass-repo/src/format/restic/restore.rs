//! Lays a snapshot down in a folder, with bounded memory.
//!
//! Only into a folder that is empty or made now: every parent is then of our making, and no link can lead a write
//! elsewhere. Contents are fetched together (`fetch.rs`); each blob's SHA-256 is compared with its name. Runs of zeros
//! become holes. Times of folders are set last.

use std::collections::HashMap;
use std::fs::{File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::digest::{SHA256, digest};
use rustic_core::repofile::{BlobType, Node, NodeType};
use rustic_core::{BlobId, DataId, IndexedFull, Repository, RusticResult, TreeId};
use rustix::fs::{AtFlags, CWD, FileType as UnixType, Mode, Timespec, Timestamps, mknodat, utimensat};

use super::backend::Backend;
use super::fetch::{self, Located, Sink, Source};
use super::source::Excludes;
use super::{Files, FilesError};
use crate::hex;

/// Files whose contents are fetched together.
const BATCH: usize = 1024;

/// Blobs that are fetched together, unless one file has more.
const BLOBS: usize = 16 << 10;

/// How often what was written so far is sent to disk.
const EVERY: Duration = Duration::from_millis(500);

/// Where a snapshot goes.
pub struct Target {
    /// The folder, empty or not there yet.
    pub folder: PathBuf,
    /// A folder of the snapshot, whose content goes directly into the target; where absent, whole paths go below it.
    pub strip: Option<PathBuf>,
    /// Folders that go elsewhere, by their paths below the target: those are there already.
    pub elsewhere: HashMap<PathBuf, PathBuf>,
    /// What is not laid down: patterns, matched to paths below the target.
    pub exclude: Excludes,
    /// Hears of every piece written, in bytes.
    pub moved: Arc<dyn Fn(u64) + Send + Sync>,
}

impl Target {
    /// A folder that takes all of a snapshot, or what is in a folder of it, and nobody who watches.
    pub fn new(folder: PathBuf, strip: Option<PathBuf>) -> Self {
        let (elsewhere, exclude) = (HashMap::new(), Excludes::default());
        Self { folder, strip, elsewhere, exclude, moved: Arc::new(|_| {}) }
    }
}

/// What was laid down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Entries that are no folders.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Those of the folders that go elsewhere which the snapshot has.
    pub elsewhere: Vec<PathBuf>,
    /// What could not be set, in words: owners where we are not root, attributes the file system does not have.
    pub warnings: Vec<String>,
}

impl Files {
    /// Restores a snapshot.
    pub async fn restore(&self, snapshot: &str, target: Target) -> Result<Restored, FilesError> {
        let (id, place, backend) = (snapshot.to_owned(), self.place(), self.backend());
        self.opened("restore", move |repository| {
            let repository = repository.to_indexed()?;
            let snapshot = repository.get_snapshot_from_str(&id, |_| true)?;
            let own = target.strip.as_ref().map(|path| repository.node_from_path(snapshot.tree, path)).transpose()?;
            let what = match own {
                None => What::Tree(snapshot.tree, None),
                Some(node) if node.is_dir() => What::Tree(node.subtree.unwrap_or_default(), Some(node)),
                Some(node) => What::Entry(node),
            };
            Ok(lay_down(&repository, backend.clone(), what, &target, &place))
        })
        .await?
    }
}

/// What is laid down in the target.
enum What {
    /// The content of a folder, and what the folder itself is where the target stands for it.
    Tree(TreeId, Option<Node>),
    /// Something that is no folder, by its name.
    Entry(Node),
}

/// What is known of a restore on its way.
struct Laying<'a, S> {
    repository: &'a Repository<S>,
    backend: Backend,
    place: &'a str,
    target: &'a Target,
    done: Restored,
    batch: Vec<(PathBuf, Node)>,
    /// Blobs of the batch.
    blobs: usize,
    /// Folders, whose metadata are set when nothing is written into them any more.
    folders: Vec<(PathBuf, Node)>,
    /// The first path of each hard linked file, by device and inode.
    linked: HashMap<(u64, u64), PathBuf>,
    links: Vec<(PathBuf, PathBuf)>,
    refused_owner: AtomicBool,
}

fn lay_down<S: IndexedFull + Sync>(
    repository: &Repository<S>,
    backend: Backend,
    what: What,
    target: &Target,
    place: &str,
) -> Result<Restored, FilesError>
where
    Repository<S>: Sync,
{
    let folder = target.folder.clone();
    let failed = |source| FilesError::Target { path: folder.clone(), source };
    let made = !folder.exists();
    std::fs::create_dir_all(&folder).map_err(failed)?;
    if made {
        // Nobody looks into it before everything has the rights it had.
        std::fs::set_permissions(&folder, Permissions::from_mode(0o700)).map_err(failed)?;
    }
    if std::fs::read_dir(&folder).map_err(failed)?.next().is_some() {
        return Err(failed(std::io::Error::other("it is not empty any more")));
    }
    let mut laying = Laying {
        repository,
        backend,
        place,
        target,
        done: Restored::default(),
        batch: Vec::new(),
        blobs: 0,
        folders: Vec::new(),
        linked: HashMap::new(),
        links: Vec::new(),
        refused_owner: AtomicBool::new(false),
    };
    while_writing_to_disk(&folder, || {
        match what {
            What::Tree(tree, own) => {
                laying.folders.extend(own.map(|node| (folder.clone(), node)));
                laying.tree(&folder, Path::new(""), tree)?;
            }
            What::Entry(node) => laying.named(&folder, Path::new(""), node)?,
        }
        laying.finish()
    })
}

/// Does work that writes into a folder, and has the system write it to disk at the same time: left alone it waits until a
/// tenth of the memory is full of it, and all the while the disk rests.
fn while_writing_to_disk<T>(folder: &Path, work: impl FnOnce() -> T) -> T {
    let (over, is_over) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let Ok(folder) = File::open(folder) else { return };
            while is_over.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                // Whether it is on disk is asked at the end.
                let _ = rustix::fs::syncfs(&folder);
            }
        });
        let done = work();
        drop(over);
        done
    })
}

impl<S: IndexedFull + Sync> Laying<'_, S>
where
    Repository<S>: Sync,
{
    fn rustic<T>(&self, result: RusticResult<T>) -> Result<T, FilesError> {
        result.map_err(|error| FilesError::of("restore", self.place, &error))
    }

    /// Lays a tree down in a folder, which stands for this path below the target: it may lie elsewhere.
    fn tree(&mut self, folder: &Path, below: &Path, id: TreeId) -> Result<(), FilesError> {
        for node in self.rustic(self.repository.get_tree(&id))?.nodes {
            if !self.target.exclude.matches(Path::new(""), &below.join(node.name())) {
                self.named(folder, below, node)?;
            }
        }
        Ok(())
    }

    fn named(&mut self, folder: &Path, below: &Path, node: Node) -> Result<(), FilesError> {
        let name = node.name().into_owned();
        if !is_plain(&name) {
            let name = name.to_string_lossy().into_owned();
            return Err(FilesError::Hostile { place: self.place.to_owned(), name });
        }
        self.entry(folder.join(&name), &below.join(&name), node)
    }

    fn entry(&mut self, path: PathBuf, below: &Path, node: Node) -> Result<(), FilesError> {
        let failed = |source| FilesError::Target { path: path.clone(), source };
        match &node.node_type {
            NodeType::Dir => {
                let path = if let Some(elsewhere) = self.target.elsewhere.get(below) {
                    self.done.elsewhere.push(elsewhere.clone());
                    elsewhere.clone()
                } else {
                    std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
                    path
                };
                self.done.folders += 1;
                let subtree = node.subtree;
                self.folders.push((path.clone(), node));
                if let Some(subtree) = subtree {
                    self.tree(&path, below, subtree)?;
                }
                return Ok(());
            }
            NodeType::File => {
                if node.meta.links > 1 {
                    let key = (node.meta.device_id, node.meta.inode);
                    if let Some(first) = self.linked.get(&key) {
                        self.links.push((first.clone(), path));
                        self.done.files += 1;
                        return Ok(());
                    }
                    self.linked.insert(key, path.clone());
                }
                self.blobs += node.content.as_ref().map_or(0, Vec::len);
                self.batch.push((path, node));
                return if self.batch.len() >= BATCH || self.blobs >= BLOBS { self.write_batch() } else { Ok(()) };
            }
            NodeType::Symlink { .. } => symlink(node.node_type.to_link(), &path).map_err(failed)?,
            NodeType::Fifo => special(&path, UnixType::Fifo, 0).map_err(failed)?,
            NodeType::Dev { device } => special(&path, UnixType::BlockDevice, *device).map_err(failed)?,
            NodeType::Chardev { device } => special(&path, UnixType::CharacterDevice, *device).map_err(failed)?,
            NodeType::Socket => return Ok(()),
        }
        self.done.files += 1;
        let warnings = self.dress(&path, &node);
        self.done.warnings.extend(warnings);
        Ok(())
    }

    /// Writes the files of a batch.
    fn write_batch(&mut self) -> Result<(), FilesError> {
        let batch = std::mem::take(&mut self.batch);
        self.blobs = 0;
        let (warnings, this) = (Mutex::new(Vec::new()), &*self);
        let source =
            Source { locate: &|id| this.locate(id), blob: &|id, plain| this.blob(id, plain), backend: &this.backend };
        let sink = Sink {
            make: &|path| File::options().write(true).create_new(true).mode(0o600).open(path),
            done: &|path, node| {
                warnings.lock().unwrap_or_else(PoisonError::into_inner).extend(this.dress(path, node));
            },
            moved: &*this.target.moved,
        };
        let bytes = fetch::write(&batch, &source, &sink)?;
        self.done.files += batch.len() as u64;
        self.done.bytes += bytes;
        self.done.warnings.extend(warnings.into_inner().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    fn locate(&self, id: &DataId) -> Result<Located, FilesError> {
        let entry = self.rustic(self.repository.get_index_entry(id))?;
        let (offset, length, plain) = (entry.location.offset, entry.location.length, entry.location.data_length());
        Ok(Located { pack: entry.pack, offset, length, plain })
    }

    fn blob(&self, id: &DataId, plain: u32) -> Result<bytes::Bytes, FilesError> {
        let blob = self.rustic(self.repository.get_blob_cached(&BlobId::from(**id), BlobType::Data))?;
        let is_whole = u64::from(plain) == blob.len() as u64;
        if is_whole && hex::encode(digest(&SHA256, &blob).as_ref()) == id.to_hex().as_str() {
            Ok(blob)
        } else {
            let why = format!("the blob {} is not what its name says: it is damaged", id.to_hex().as_str());
            Err(FilesError::Repository { doing: "restore", place: self.place.to_owned(), why })
        }
    }

    /// Sets owner, mode, attributes and times; says what could not be set.
    fn dress(&self, path: &Path, node: &Node) -> Vec<String> {
        let meta = &node.meta;
        let mut warnings = Vec::new();
        if (meta.uid.is_some() || meta.gid.is_some())
            && lchown(path, meta.uid, meta.gid).is_err()
            && !self.refused_owner.swap(true, Ordering::Relaxed)
        {
            warnings.push(format!("owners could not be set, `{}` for one: only root may", path.display()));
        }
        for attribute in &meta.extended_attributes {
            let value = attribute.value.as_deref().unwrap_or_default();
            if let Err(error) = xattr::set(path, &attribute.name, value) {
                warnings.push(format!(
                    "the attribute {} of `{}` could not be set: {error}",
                    attribute.name,
                    path.display()
                ));
            }
        }
        if !node.is_symlink()
            && let Some(mode) = meta.mode
            && let Err(error) = std::fs::set_permissions(path, Permissions::from_mode(unix_mode(mode)))
        {
            warnings.push(format!("the mode of `{}` could not be set: {error}", path.display()));
        }
        if let Some(mtime) = meta.mtime {
            let spec =
                |at: jiff::Timestamp| Timespec { tv_sec: at.as_second(), tv_nsec: at.subsec_nanosecond().into() };
            // Before 1970 jiff counts nanoseconds down, the system up.
            let mut modified = spec(mtime);
            if modified.tv_nsec < 0 {
                modified.tv_sec -= 1;
                modified.tv_nsec += 1_000_000_000;
            }
            let times = Timestamps { last_access: modified, last_modification: modified };
            if let Err(error) = utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW) {
                warnings.push(format!("the time of `{}` could not be set: {error}", path.display()));
            }
        }
        warnings
    }

    fn finish(mut self) -> Result<Restored, FilesError> {
        self.write_batch()?;
        for (first, path) in std::mem::take(&mut self.links) {
            std::fs::hard_link(&first, &path).map_err(|source| FilesError::Target { path, source })?;
        }
        // The deepest first: setting a folder's time must be the last thing done in it.
        for (path, node) in std::mem::take(&mut self.folders).iter().rev() {
            let warnings = self.dress(path, node);
            self.done.warnings.extend(warnings);
        }
        let folder = File::open(&self.target.folder);
        folder
            .and_then(|folder| rustix::fs::syncfs(folder).map_err(Into::into))
            .map_err(|source| FilesError::Target { path: self.target.folder.clone(), source })?;
        Ok(self.done)
    }
}

/// Whether a name is that of an entry, and leads nowhere else.
pub(super) fn is_plain(name: &std::ffi::OsStr) -> bool {
    let bytes = name.as_bytes();
    !(bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') || bytes.contains(&0))
}

fn special(path: &Path, kind: UnixType, device: u64) -> std::io::Result<()> {
    Ok(mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, device)?)
}

/// The mode as the system has it, from that of Go's `fs.FileMode`.
pub(super) fn unix_mode(go: u32) -> u32 {
    let special = [(23, 0o4000), (22, 0o2000), (20, 0o1000)];
    special.iter().filter(|(bit, _)| go & (1 << bit) != 0).fold(go & 0o777, |mode, (_, unix)| mode | unix)
}
