//! Reads many trees of a snapshot: a window of a pack at a time, where `rustic_core` would ask for each by itself.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use rustic_core::repofile::{BlobType, PackId};
use rustic_core::{IndexedFull, PackedId, Repository, TreeId};

use super::ahead;
use super::backend::Backend;

/// A window of a pack; one of our packs of trees is about as long.
const WINDOW: u32 = 4 << 20;

/// Windows kept.
const KEPT: usize = 8;

/// The trees of a repository. Any number of threads may read them at once.
pub(super) struct Trees<'a, S> {
    repository: &'a Repository<S>,
    backend: &'a Backend,
    /// The last one read comes last.
    windows: Mutex<VecDeque<Window>>,
}

#[derive(Clone)]
struct Window {
    pack: PackId,
    start: u32,
    bytes: Bytes,
}

impl Window {
    fn holds(&self, pack: PackId, from: u32, to: u32) -> bool {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.pack == pack && self.start <= from && to <= self.start.saturating_add(length)
    }
}

impl<'a, S: IndexedFull> Trees<'a, S> {
    pub(super) fn new(repository: &'a Repository<S>, backend: &'a Backend) -> Self {
        Self { repository, backend, windows: Mutex::default() }
    }

    /// The pack a blob lies in; `None` where the index has no such blob.
    pub(super) fn pack_of<T: PackedId>(&self, blob: &T) -> Option<PackId> {
        self.repository.get_index_entry(blob).ok().map(|entry| entry.pack)
    }

    /// A tree's JSON; `None` where it cannot be had.
    pub(super) fn read(&self, tree: &TreeId) -> Option<Bytes> {
        let entry = self.repository.get_index_entry(tree).ok()?;
        let (from, length) = (entry.location.offset, entry.location.length);
        let window = self.window(entry.pack, from, from.checked_add(length)?)?;
        let hex = tree.to_hex();
        ahead::reading(*window.pack, window.start, window.bytes, || {
            self.repository.cat_blob(BlobType::Tree, hex.as_str()).ok()
        })
    }

    fn window(&self, pack: PackId, from: u32, to: u32) -> Option<Window> {
        let kept = || self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(window) = kept().iter().rev().find(|window| window.holds(pack, from, to)) {
            return Some(window.clone());
        }
        let start = from - from % WINDOW;
        let end = to.max(start.saturating_add(WINDOW));
        let bytes = self.backend.read_at_most(&pack, start, end - start).ok()?;
        let window = Window { pack, start, bytes };
        let mut windows = kept();
        windows.push_back(window.clone());
        if windows.len() > KEPT {
            windows.pop_front();
        }
        drop(windows);
        window.holds(pack, from, to).then_some(window)
    }
}
