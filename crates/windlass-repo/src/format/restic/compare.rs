//! What a restore in place would create, change and delete, entry by entry.
//!
//! Entries are compared by kind, size, time, mode, owner, and where a link leads: contents are not read. What the two
//! have in common is replaced all the same, so that a file which only looks alike comes back, too.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::Metadata;
use std::io::{BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustic_core::repofile::{Node, NodeType};
use rustic_core::{IndexedFull, Repository, TreeId};
use windlass_core::restore::Differences;

use super::restore::unix_mode;
use super::source::{Excludes, is_stage};
use super::{Files, FilesError};

/// A folder or file that is compared with what a snapshot has of it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its path, in the snapshot and here.
    pub path: PathBuf,
    /// What is left out of captures, and so not touched.
    pub excludes: Excludes,
}

/// How they differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Whether the snapshot holds it as something else than a folder.
    pub is_file: bool,
    /// Entry by entry.
    pub differences: Differences,
    /// Bytes the snapshot has of it.
    pub bytes: u64,
}

impl Files {
    /// Compares places with a snapshot; each difference becomes a line of the list: `+` for what is created, `~` for what
    /// is changed, `-` for what is deleted.
    pub async fn compare(
        &self,
        snapshot: &str,
        places: Vec<Place>,
        list: PathBuf,
    ) -> Result<Vec<Compared>, FilesError> {
        let id = snapshot.to_owned();
        self.opened("compare", move |repository| {
            let repository = repository.to_indexed()?;
            let snapshot = repository.get_snapshot_from_str(&id, |_| true)?;
            let mut nodes = Vec::new();
            for place in &places {
                nodes.push(repository.node_from_path(snapshot.tree, &place.path)?);
            }
            Ok(write_list(&repository, &places, nodes, &list))
        })
        .await?
    }
}

fn write_list<S: IndexedFull>(
    repository: &Repository<S>,
    places: &[Place],
    nodes: Vec<Node>,
    list: &Path,
) -> Result<Vec<Compared>, FilesError> {
    let failed = |source| FilesError::Target { path: list.to_owned(), source };
    let mut out = BufWriter::new(std::fs::File::create(list).map_err(failed)?);
    let mut all = Vec::new();
    for (place, node) in places.iter().zip(nodes) {
        let mut done = Compared { is_file: !node.is_dir(), ..Compared::default() };
        let mut walk = Walk { repository, place, done: &mut done, out: &mut out };
        walk.entry(&place.path, Some(&node), place.path.symlink_metadata().ok().as_ref())?;
        all.push(done);
    }
    out.flush().map_err(failed)?;
    Ok(all)
}

struct Walk<'a, S> {
    repository: &'a Repository<S>,
    place: &'a Place,
    done: &'a mut Compared,
    out: &'a mut dyn Write,
}

impl<S: IndexedFull> Walk<'_, S> {
    /// Compares what the snapshot has of a path with what is here of it.
    fn entry(&mut self, path: &Path, then: Option<&Node>, now: Option<&Metadata>) -> Result<(), FilesError> {
        let is_folder = now.is_some_and(Metadata::is_dir);
        match (then, now) {
            (Some(then), Some(now)) => {
                let alike = alike(path, then, now);
                self.tell(path, if alike { ' ' } else { '~' })?;
            }
            (Some(_), None) => self.tell(path, '+')?,
            (None, Some(_)) => self.tell(path, '-')?,
            (None, None) => {}
        }
        self.done.bytes += then.filter(|node| node.is_file()).map_or(0, |node| node.meta.size);
        let tree = then.filter(|node| node.is_dir()).and_then(|node| node.subtree);
        if tree.is_some() || is_folder { self.content(path, tree, is_folder) } else { Ok(()) }
    }

    fn content(&mut self, path: &Path, tree: Option<TreeId>, is_folder: bool) -> Result<(), FilesError> {
        let mut pairs: BTreeMap<OsString, (Option<Node>, Option<Metadata>)> = BTreeMap::new();
        let is_left_out = |path: &Path| self.place.excludes.matches(&self.place.path, path);
        if let Some(tree) = tree {
            let tree = self.repository.get_tree(&tree).map_err(|e| FilesError::of("compare", "it", &e))?;
            let nodes = tree.nodes.into_iter().map(|node| (node.name().into_owned(), (Some(node), None)));
            pairs.extend(nodes.filter(|(name, _)| !is_left_out(&path.join(name))));
        }
        if is_folder {
            let unreadable = |source| FilesError::Target { path: path.to_owned(), source };
            for entry in std::fs::read_dir(path).map_err(unreadable)? {
                let entry = entry.map_err(unreadable)?;
                // It went between the listing and the look.
                let Ok(meta) = entry.metadata() else { continue };
                if is_stage(&entry.file_name()) || meta.file_type().is_socket() {
                    continue;
                }
                if is_left_out(&entry.path()) {
                    self.done.differences.untouched += 1;
                    continue;
                }
                pairs.entry(entry.file_name()).or_default().1 = Some(meta);
            }
        }
        for (name, (then, now)) in pairs {
            self.entry(&path.join(name), then.as_ref(), now.as_ref())?;
        }
        Ok(())
    }

    fn tell(&mut self, path: &Path, how: char) -> Result<(), FilesError> {
        match how {
            '+' => self.done.differences.created += 1,
            '~' => self.done.differences.changed += 1,
            '-' => self.done.differences.deleted += 1,
            _ => {
                self.done.differences.unchanged += 1;
                return Ok(());
            }
        }
        // A name may hold a line break, and then would be two lines.
        let shown = path.to_string_lossy().replace('\\', "\\\\").replace('\n', "\\n");
        let written = writeln!(self.out, "{how} {shown}");
        written.map_err(|source| FilesError::Target { path: "the list of differences".into(), source })
    }
}

fn alike(path: &Path, then: &Node, now: &Metadata) -> bool {
    let kind = now.file_type();
    let same_kind = match &then.node_type {
        NodeType::File => kind.is_file() && then.meta.size == now.len(),
        NodeType::Dir => kind.is_dir(),
        NodeType::Symlink { .. } => {
            kind.is_symlink() && std::fs::read_link(path).is_ok_and(|to| to == then.node_type.to_link())
        }
        NodeType::Dev { device } => kind.is_block_device() && now.rdev() == *device,
        NodeType::Chardev { device } => kind.is_char_device() && now.rdev() == *device,
        NodeType::Fifo => kind.is_fifo(),
        NodeType::Socket => kind.is_socket(),
    };
    let time = then
        .meta
        .mtime
        .is_none_or(|at| at.as_nanosecond() == i128::from(now.mtime()) * 1_000_000_000 + i128::from(now.mtime_nsec()));
    let owner = then.meta.uid.is_none_or(|uid| uid == now.uid()) && then.meta.gid.is_none_or(|gid| gid == now.gid());
    let mode = kind.is_symlink() || then.meta.mode.is_none_or(|mode| unix_mode(mode) == now.mode() & 0o7777);
    // A folder's time changes with what is in it, which is told by itself.
    same_kind && owner && mode && (kind.is_dir() || time)
}
