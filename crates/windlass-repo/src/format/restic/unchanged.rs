//! Finds out whether everything is still as its last snapshot has it, without the archiver.
//!
//! A tree of a snapshot is JSON, and what the archiver would write of a folder is known but for the names of the blobs,
//! which it takes from the parent where a file is unchanged. So each tree of the parent is compared with that, byte by
//! byte, and the names of the blobs are read off on the way. Where every byte is the same, the archiver would make the
//! same trees and store nothing; at the first that is not, and at anything that cannot be read, it is left to do so.
//!
//! Folders are compared by a few threads, each reading one folder and its tree at a time.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use rustic_core::repofile::{Metadata as NodeMetadata, Node, NodeType, PackId};
use rustic_core::{DataId, Id, IndexedFull, Repository, TreeId};

use super::backend::Backend;
use super::owners::Owners;
use super::source::{Excludes, Report, is_stage, names, node};
use super::trees::Trees;

/// Threads that compare. Each waits for the disk or the store about as long as it works.
const THREADS: usize = 4;

/// Digits of an identifier.
const DIGITS: usize = 64;

/// What a parent holds of places that are as it has them.
#[derive(Default)]
pub(super) struct Unchanged {
    /// What was met, which is what the parent holds.
    pub(super) report: Report,
    /// The packs its trees and files lie in.
    pub(super) packs: HashSet<PackId>,
    /// Its trees.
    pub(super) trees: u64,
    /// Their bytes, as JSON.
    pub(super) tree_bytes: u64,
}

impl Unchanged {
    fn add(mut self, other: Self) -> Self {
        self.report.files += other.report.files;
        self.report.folders += other.report.folders;
        self.report.bytes += other.report.bytes;
        self.report.sockets += other.report.sockets;
        self.report.excluded += other.report.excluded;
        self.packs.extend(other.packs);
        self.trees += other.trees;
        self.tree_bytes += other.tree_bytes;
        self
    }
}

/// Compares places with the tree that a snapshot has of them. `None`: something differs, or cannot be read.
pub(super) fn compare<S: IndexedFull + Sync>(
    repository: &Repository<S>,
    backend: &Backend,
    (paths, excludes): (&[PathBuf], &Excludes),
    tree: TreeId,
) -> Option<Unchanged> {
    let roots = Roots::new(paths)?;
    let top = Job { tree, folder: Folder::Above { depth: 0, from: 0, to: roots.0.len() } };
    let work = Work {
        trees: Trees::new(repository, backend),
        roots,
        excludes,
        owners: Owners::read(),
        queue: Mutex::new(Queue { open: vec![top], busy: 0 }),
        more: Condvar::new(),
        differs: AtomicBool::new(false),
    };
    let found = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| work.run())).collect();
        threads.into_iter().map(|thread| thread.join().ok()).collect::<Option<Vec<_>>>()
    })?;
    let same = !work.differs.into_inner();
    same.then(|| found.into_iter().fold(Unchanged::default(), Unchanged::add))
}

/// What is captured, sorted, each as the names on the way to it.
struct Roots(Vec<(PathBuf, Vec<OsString>)>);

impl Roots {
    /// `None` where it takes the archiver to say what the trees would be: a path within another, or with dots in it.
    fn new(paths: &[PathBuf]) -> Option<Self> {
        let mut paths = paths.to_vec();
        paths.sort();
        if paths.windows(2).any(|pair| pair[1].starts_with(&pair[0])) {
            return None;
        }
        let names = |path: PathBuf| {
            let names = path.components().skip(1).map(|part| match part {
                Component::Normal(name) => Some(name.to_owned()),
                _ => None,
            });
            let names = names.collect::<Option<Vec<_>>>().filter(|names| path.is_absolute() && !names.is_empty())?;
            Some((path, names))
        };
        paths.into_iter().map(names).collect::<Option<_>>().map(Self)
    }

    /// The names in a folder above some of them, each with those it leads to.
    fn below(&self, depth: usize, from: usize, to: usize) -> Vec<(&OsStr, usize, usize)> {
        let mut groups: Vec<(&OsStr, usize, usize)> = Vec::new();
        for (index, (_, names)) in self.0.iter().enumerate().take(to).skip(from) {
            let Some(name) = names.get(depth) else { continue };
            match groups.last_mut() {
                Some(group) if group.0 == name => group.2 = index + 1,
                _ => groups.push((name, index, index + 1)),
            }
        }
        groups
    }
}

/// A folder to compare with a tree.
struct Job {
    tree: TreeId,
    folder: Folder,
}

enum Folder {
    /// One above what is captured: it holds the way to some of the roots, and nothing else.
    Above { depth: usize, from: usize, to: usize },
    /// One that is captured, with the root it belongs to.
    Captured { root: usize, path: PathBuf },
}

struct Queue {
    open: Vec<Job>,
    /// Threads that may still add to it.
    busy: usize,
}

struct Work<'a, S> {
    trees: Trees<'a, S>,
    roots: Roots,
    excludes: &'a Excludes,
    owners: Owners,
    queue: Mutex<Queue>,
    more: Condvar,
    differs: AtomicBool,
}

impl<S: IndexedFull> Work<'_, S> {
    /// Compares folders until there are no more, or one differs.
    fn run(&self) -> Unchanged {
        let mut found = Unchanged::default();
        while let Some(job) = self.next() {
            let below = self.folder(&job, &mut found);
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.busy -= 1;
            match below {
                Some(below) => queue.open.extend(below),
                None => self.differs.store(true, Ordering::Relaxed),
            }
            drop(queue);
            self.more.notify_all();
        }
        found
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if self.differs.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(job) = queue.open.pop() {
                queue.busy += 1;
                return Some(job);
            }
            if queue.busy == 0 {
                return None;
            }
            queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Compares one folder. Returns those in it, with their trees.
    fn folder(&self, job: &Job, found: &mut Unchanged) -> Option<Vec<Job>> {
        found.packs.insert(self.trees.pack_of(&job.tree)?);
        let json = self.trees.read(&job.tree)?;
        found.trees += 1;
        found.tree_bytes += json.len() as u64;
        let mut step = Step { nodes: Nodes::of(&json)?, found, below: Vec::new() };
        match &job.folder {
            Folder::Above { depth, from, to } => self.above(*depth, (*from, *to), &mut step)?,
            Folder::Captured { root, path } => self.captured(*root, path, &mut step)?,
        }
        step.nodes.is_at_end().then_some(step.below)
    }

    fn above(&self, depth: usize, (from, to): (usize, usize), step: &mut Step<'_>) -> Option<()> {
        for (name, from, to) in self.roots.below(depth, from, to) {
            let (path, names) = self.roots.0.get(from)?;
            if names.len() == depth + 1 {
                let meta = path.symlink_metadata().ok()?;
                self.entry(from, path.clone(), &meta, step)?;
            } else {
                // As the archiver makes them.
                let meta = NodeMetadata { mode: Some(0o755), ..NodeMetadata::default() };
                let tree = step.nodes.folder(&Node::new_node(name, NodeType::Dir, meta))?;
                step.below.push(Job { tree, folder: Folder::Above { depth: depth + 1, from, to } });
            }
        }
        Some(())
    }

    fn captured(&self, root: usize, folder: &Path, step: &mut Step<'_>) -> Option<()> {
        let (top, _) = self.roots.0.get(root)?;
        for name in names(folder).ok()? {
            if self.differs.load(Ordering::Relaxed) {
                return None;
            }
            if is_stage(&name) {
                continue;
            }
            let path = folder.join(&name);
            if self.excludes.matches(top, &path) {
                step.found.report.excluded += 1;
                continue;
            }
            let meta = path.symlink_metadata().ok()?;
            self.entry(root, path, &meta, step)?;
        }
        Some(())
    }

    /// Compares one entry with the next node.
    fn entry(&self, root: usize, path: PathBuf, meta: &Metadata, step: &mut Step<'_>) -> Option<()> {
        let Some(node) = node(&path, meta, &self.owners).ok()? else {
            step.found.report.sockets += 1;
            return Some(());
        };
        if node.is_dir() {
            step.found.report.folders += 1;
            let tree = step.nodes.folder(&node)?;
            step.below.push(Job { tree, folder: Folder::Captured { root, path } });
            return Some(());
        }
        step.found.report.files += 1;
        if !node.is_file() {
            return step.nodes.other(&node);
        }
        step.found.report.bytes += meta.len();
        for blob in step.nodes.file(&node)? {
            // The index may have lost it; the archiver would read the file again.
            step.found.packs.insert(self.trees.pack_of(&DataId::from(blob))?);
        }
        Some(())
    }
}

/// A folder being compared.
struct Step<'a> {
    nodes: Nodes<'a>,
    found: &'a mut Unchanged,
    below: Vec<Job>,
}

/// A tree's JSON, read node by node, each of which must be an expected one.
struct Nodes<'a> {
    left: &'a [u8],
    is_first: bool,
    buffer: Vec<u8>,
}

impl<'a> Nodes<'a> {
    fn of(json: &'a [u8]) -> Option<Self> {
        Some(Self { left: json.strip_prefix(b"{\"nodes\":[")?, is_first: true, buffer: Vec::new() })
    }

    fn is_at_end(&self) -> bool {
        self.left == b"]}\n"
    }

    fn skip(&mut self, text: &[u8]) -> Option<()> {
        self.left = self.left.strip_prefix(text)?;
        Some(())
    }

    fn id(&mut self) -> Option<Id> {
        self.skip(b"\"")?;
        let (digits, left) = self.left.split_at_checked(DIGITS)?;
        self.left = left;
        self.skip(b"\"")?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// Everything of a node up to its content.
    fn head(&mut self, node: &Node) -> Option<()> {
        if !std::mem::take(&mut self.is_first) {
            self.skip(b",")?;
        }
        self.buffer.clear();
        serde_json::to_writer(&mut self.buffer, node).ok()?;
        self.left = self.left.strip_prefix(self.buffer.strip_suffix(b"null}")?)?;
        Some(())
    }

    fn folder(&mut self, node: &Node) -> Option<TreeId> {
        self.head(node)?;
        self.skip(b"null,\"subtree\":")?;
        let id = self.id()?;
        self.skip(b"}")?;
        Some(id.into())
    }

    fn file(&mut self, node: &Node) -> Option<Vec<Id>> {
        self.head(node)?;
        self.skip(b"[")?;
        let mut blobs = Vec::new();
        while !self.left.starts_with(b"]") {
            if !blobs.is_empty() {
                self.skip(b",")?;
            }
            blobs.push(self.id()?);
        }
        self.skip(b"]}")?;
        Some(blobs)
    }

    fn other(&mut self, node: &Node) -> Option<()> {
        self.head(node)?;
        self.skip(b"null}")
    }
}
