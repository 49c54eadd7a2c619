//! restic's files in our store.
//!
//! ```text
//! <prefix>/config  keys/<id>  snapshots/<id>  index/<id>  data/<first two digits>/<id>
//! ```
//!
//! Every file but the configuration is named by the SHA-256 of its bytes, so the same file written twice is the
//! same object; a whole file that is read is checked against its name. restic's locks are neither written nor read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use ring::digest::{SHA256, digest};
use rustic_core::{BytesList, ErrorKind, FileType, Id, ReadBackend, RusticError, RusticResult, WriteBackend};
use tokio::runtime::Handle;

use super::ahead;
use crate::hex;
use crate::store::{Created, Key, Store, StoreError};

/// A restic repository's files below a prefix of a store.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    store: Store,
    prefix: Key,
    runtime: Handle,
    writable: bool,
    vanished: Arc<AtomicBool>,
    outage: Arc<Mutex<Option<StoreError>>>,
    /// Key files and snapshots written through this.
    written: Arc<Mutex<Vec<(FileType, Id)>>>,
}

impl Backend {
    /// Must be made on a thread that belongs to a runtime, and used on one that does not run its tasks.
    pub(super) fn new(store: Store, prefix: Key, writable: bool) -> Self {
        Self {
            store,
            prefix,
            runtime: Handle::current(),
            writable,
            vanished: Arc::default(),
            outage: Arc::default(),
            written: Arc::default(),
        }
    }

    /// Whether an index or snapshot was gone when it was read: someone pruned or forgot between a listing and a read.
    pub(super) fn saw_one_vanish(&self) -> bool {
        self.vanished.load(Ordering::Relaxed)
    }

    /// The key files or snapshots that were written through this.
    pub(super) fn written(&self, kind: FileType) -> Vec<Id> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.iter().filter(|(of, _)| *of == kind).map(|(_, id)| *id).collect()
    }

    /// Reads a range of a pack; shorter than asked only where the pack ends. Why it cannot be read is left for whoever
    /// asks for a blob in it to find out.
    pub(super) fn read_at_most(&self, pack: &Id, offset: u32, length: u32) -> Option<Bytes> {
        let range = u64::from(offset)..u64::from(offset) + u64::from(length);
        self.runtime.block_on(self.store.get_range(&self.key(FileType::Pack, pack), range)).ok()
    }

    /// What the store said, where it could not be asked: nothing is known then of what lies there.
    pub(super) fn take_outage(&self) -> Option<StoreError> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// An error of the store in the terms of `rustic_core`, which keep its words only.
    fn failed(&self, error: StoreError) -> Box<RusticError> {
        let text = windlass_core::diagnose::chain(&error);
        if !matches!(error, StoreError::NotFound { .. } | StoreError::Occupied { .. }) {
            *self.outage.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
        RusticError::new(ErrorKind::Backend, text)
    }

    /// The key of a file.
    pub(super) fn key(&self, kind: FileType, id: &Id) -> Key {
        let hex = id.to_hex();
        let hex = hex.as_str();
        let path = match kind {
            FileType::Config => "config".to_owned(),
            FileType::Pack => format!("data/{}/{hex}", hex.get(..2).unwrap_or_default()),
            other => format!("{}/{hex}", other.dirname()),
        };
        self.below(&path)
    }

    fn is_shorter(&self, key: &Key, end: u64) -> bool {
        self.runtime.block_on(self.store.head(key)).is_ok_and(|info| info.size < end)
    }

    pub(super) fn below(&self, path: &str) -> Key {
        if self.prefix.as_str().is_empty() {
            Key::foreign(path)
        } else {
            Key::foreign(&format!("{}/{path}", self.prefix))
        }
    }
}

impl ReadBackend for Backend {
    fn location(&self) -> String {
        format!("{}/{}", self.store.location(), self.prefix)
    }

    fn list_with_size(&self, kind: FileType) -> RusticResult<Vec<(Id, u32)>> {
        if kind == FileType::Config {
            return match self.runtime.block_on(self.store.head(&self.below("config"))) {
                Ok(info) => Ok(vec![(Id::default(), u32::try_from(info.size).unwrap_or(u32::MAX))]),
                Err(StoreError::NotFound { .. }) => Ok(Vec::new()),
                Err(error) => Err(self.failed(error)),
            };
        }
        let listed = self
            .runtime
            .block_on(self.store.list_all(Some(&self.below(kind.dirname()))))
            .map_err(|error| self.failed(error))?;
        // What is not named as restic names its files is none of its files.
        let ids = listed.iter().filter_map(|info| {
            let id = info.key.file_name().parse::<Id>().ok()?;
            (self.key(kind, &id) == info.key).then(|| (id, u32::try_from(info.size).unwrap_or(u32::MAX)))
        });
        Ok(ids.collect())
    }

    fn read_full(&self, kind: FileType, id: &Id) -> RusticResult<Bytes> {
        let key = self.key(kind, id);
        let bytes = self.runtime.block_on(self.store.get(&key)).map_err(|error| {
            if matches!((&error, kind), (StoreError::NotFound { .. }, FileType::Index | FileType::Snapshot)) {
                self.vanished.store(true, Ordering::Relaxed);
            }
            self.failed(error)
        })?;
        if kind != FileType::Config && hex::encode(digest(&SHA256, &bytes).as_ref()) != id.to_hex().as_str() {
            return Err(RusticError::new(
                ErrorKind::Verification,
                format!("`{key}` is not what its name says: it is damaged"),
            ));
        }
        Ok(bytes)
    }

    fn read_partial(&self, kind: FileType, id: &Id, _cacheable: bool, offset: u32, length: u32) -> RusticResult<Bytes> {
        if let Some(bytes) = ahead::find(id, offset, length) {
            return Ok(bytes);
        }
        let key = self.key(kind, id);
        let range = u64::from(offset)..u64::from(offset) + u64::from(length);
        let bytes = match self.runtime.block_on(self.store.get_range(&key, range.clone())) {
            // A store answers a range beyond the end with an error that says little.
            Err(StoreError::Unreachable { .. }) if self.is_shorter(&key, range.end) => Bytes::new(),
            bytes => bytes.map_err(|error| self.failed(error))?,
        };
        if bytes.len() as u64 != u64::from(length) {
            return Err(RusticError::new(
                ErrorKind::Verification,
                format!("`{key}` is shorter than the index says: it is damaged"),
            ));
        }
        Ok(bytes)
    }

    fn warmup_path(&self, kind: FileType, id: &Id) -> String {
        self.key(kind, id).to_string()
    }
}

impl WriteBackend for Backend {
    fn write_bytes(&self, kind: FileType, id: &Id, _cacheable: bool, content: BytesList) -> RusticResult<()> {
        let key = self.key(kind, id);
        if !self.writable {
            return Err(RusticError::new(
                ErrorKind::AppendOnly,
                format!("`{key}` is in someone else's repository, where nothing is written"),
            ));
        }
        if matches!(kind, FileType::Key | FileType::Snapshot) {
            self.written.lock().unwrap_or_else(PoisonError::into_inner).push((kind, *id));
        }
        match self.runtime.block_on(self.store.create_from(&key, content.into_vec())) {
            Ok(Created::Now | Created::Before) => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn remove(&self, kind: FileType, id: &Id, _cacheable: bool) -> RusticResult<()> {
        let key = self.key(kind, id);
        if !self.writable {
            return Err(RusticError::new(
                ErrorKind::AppendOnly,
                format!("`{key}` is in someone else's repository, where nothing is deleted"),
            ));
        }
        self.runtime.block_on(self.store.delete(&key)).map_err(|error| self.failed(error))
    }
}
