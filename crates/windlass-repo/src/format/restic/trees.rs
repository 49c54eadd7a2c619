//! Reads many trees of a snapshot: a window of a pack at a time, where `rustic_core` would ask for each by itself.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use rustic_core::repofile::{BlobType, PackId};
use rustic_core::{IndexedFull, PackedId, Repository, TreeId};

use super::ahead;
use super::backend::Backend;

/// A window of a pack; one of our packs of trees is about as long, and most are shorter.
const WINDOW: u32 = 4 << 20;

/// Bytes of windows kept. Trees of one folder lie side by side but for those that changed at different times.
const KEPT: usize = 32 << 20;

/// The trees of a repository. Any number of threads may read them at once.
pub(super) struct Trees<'a, S> {
    repository: &'a Repository<S>,
    backend: &'a Backend,
    kept: Mutex<Kept>,
}

/// Windows by their pack and first byte there.
#[derive(Default)]
struct Kept {
    windows: HashMap<(PackId, u32), Bytes>,
    /// The last one read comes last.
    order: VecDeque<(PackId, u32)>,
    bytes: usize,
}

impl Kept {
    fn keep(&mut self, at: (PackId, u32), window: Bytes) {
        self.bytes += window.len();
        match self.windows.insert(at, window) {
            Some(before) => self.bytes -= before.len(),
            None => self.order.push_back(at),
        }
        while self.bytes > KEPT {
            let Some(oldest) = self.order.pop_front() else { break };
            self.bytes -= self.windows.remove(&oldest).map_or(0, |window| window.len());
        }
    }
}

impl<'a, S: IndexedFull> Trees<'a, S> {
    pub(super) fn new(repository: &'a Repository<S>, backend: &'a Backend) -> Self {
        Self { repository, backend, kept: Mutex::default() }
    }

    /// The pack a blob lies in; `None` where the index has no such blob.
    pub(super) fn pack_of<T: PackedId>(&self, blob: &T) -> Option<PackId> {
        self.repository.get_index_entry(blob).ok().map(|entry| entry.pack)
    }

    /// A tree's JSON; `None` where it cannot be had.
    pub(super) fn read(&self, tree: &TreeId) -> Option<Bytes> {
        let entry = self.repository.get_index_entry(tree).ok()?;
        let end = entry.location.offset.checked_add(entry.location.length)?;
        let start = entry.location.offset - entry.location.offset % WINDOW;
        let window = self.window(entry.pack, start, end)?;
        let hex = tree.to_hex();
        ahead::reading(*entry.pack, start, window, || self.repository.cat_blob(BlobType::Tree, hex.as_str()).ok())
    }

    /// A pack's bytes from a window's start to at least an end, if the pack is as long.
    fn window(&self, pack: PackId, start: u32, end: u32) -> Option<Bytes> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let length = usize::try_from(end - start).ok()?;
        if let Some(window) = kept().windows.get(&(pack, start)).filter(|window| window.len() >= length) {
            return Some(window.clone());
        }
        let wanted = WINDOW.max(end - start);
        let window = self.backend.read_at_most(&pack, start, wanted)?;
        kept().keep((pack, start), window.clone());
        (window.len() >= length).then_some(window)
    }
}
