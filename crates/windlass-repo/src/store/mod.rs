//! A store of objects: a directory or a prefix of a bucket, behind the few operations the repository needs.
//!
//! Promised: nothing is ever overwritten ([`Store::create`] is create-only and settles a lost answer by
//! reading and comparing); an upload that dies leaves nothing visible; every request is retried with jitter
//! for as long as [`open`] says. Where a store has no conditional writes ([`Store::probed`] finds out), create-only is a
//! look before the write: enough for one process at a time. Not promised: that a listing is complete at the moment it is made, or that a
//! store enforces create-only for keys written in parts - those keys are unique by their run's identifier.

mod dead_upload;
mod error;
mod file;
mod key;
pub mod open;
mod upload;
mod wire;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use jiff::Timestamp;
use object_store::{GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

pub use dead_upload::DeadUpload;
pub use error::StoreError;
pub use key::{BESIDE, InvalidKey, Key};
pub use upload::{Stored, Upload};

/// The most that is read as one piece, in bytes: documents, and restic's index files.
const WHOLE: u64 = 128 << 20;

/// What a listing or a look at one object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key, relative to the repository's root.
    pub key: Key,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: Timestamp,
}

/// Whether [`Store::create`] wrote the object or found the same bytes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It was written.
    Now,
    /// An object with the same bytes was there: an earlier attempt whose answer was lost.
    Before,
}

/// A store, opened. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    root: String,
    location: String,
    local: Option<std::path::PathBuf>,
    bucket: Option<Arc<dead_upload::Bucket>>,
    looks_first: bool,
    /// The same, but less patient.
    at_first: Option<Arc<dyn ObjectStore>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("location", &self.location).finish_non_exhaustive()
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.location)
    }
}

impl Store {
    /// A store over any object store; `root` is a prefix without slashes at its ends and may be empty,
    /// `location` is what people are shown.
    pub fn over(objects: Arc<dyn ObjectStore>, root: &str, location: &str) -> Self {
        Self {
            objects,
            root: root.to_owned(),
            location: location.to_owned(),
            local: None,
            bucket: None,
            looks_first: false,
            at_first: None,
        }
    }

    /// What lies below a key, as a store of its own.
    #[must_use]
    pub fn below(&self, key: &Key) -> Self {
        let root = if self.root.is_empty() { key.to_string() } else { format!("{}/{key}", self.root) };
        Self {
            root,
            location: format!("{}/{key}", self.location),
            local: self.local.as_ref().map(|folder| folder.join(key.as_str())),
            ..self.clone()
        }
    }

    /// Whether the store itself has no create-only writes, so that each write looks first.
    pub fn looks_first(&self) -> bool {
        self.looks_first
    }

    /// Where it is, as a URL people would write.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// The directory, where it is one.
    pub fn directory(&self) -> Option<&std::path::Path> {
        self.local.as_deref()
    }

    /// Writes an object that must not be there yet.
    ///
    /// An object with other bytes under the key is [`StoreError::Occupied`]; with the same bytes it is
    /// [`Created::Before`], so that a retry after a lost answer succeeds.
    pub async fn create(&self, key: &Key, body: impl Into<Bytes> + Send) -> Result<Created, StoreError> {
        self.create_from(key, vec![body.into()]).await
    }

    /// The same, of pieces that lie apart.
    pub async fn create_from(&self, key: &Key, pieces: Vec<Bytes>) -> Result<Created, StoreError> {
        if self.looks_first {
            match self.find(key).await? {
                None => {}
                Some(found) if found == pieces.concat() => return Ok(Created::Before),
                Some(_) => return Err(StoreError::Occupied { key: key.clone(), store: self.location.clone() }),
            }
        }
        let mode = if self.looks_first { PutMode::Overwrite } else { PutMode::Create };
        let options = PutOptions { mode, ..PutOptions::default() };
        let payload: PutPayload = pieces.iter().cloned().collect();
        match self.objects.put_opts(&self.path(key), payload, options).await {
            Ok(_) => Ok(Created::Now),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                if self.get(key).await? == pieces.concat() {
                    Ok(Created::Before)
                } else {
                    Err(StoreError::Occupied { key: key.clone(), store: self.location.clone() })
                }
            }
            Err(source) => Err(self.failed("write", key, source)),
        }
    }

    /// Reads a whole object; for objects whose size is known to be small.
    pub async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        let failed = |source| self.failed("read", key, source);
        let found = self.objects.get(&self.path(key)).await.map_err(failed)?;
        // Told before a byte of it is read: what is that large is nothing that is read whole.
        let size = found.meta.size;
        if size > WHOLE {
            return Err(StoreError::TooLarge { key: key.clone(), store: self.location.clone(), size: WHOLE });
        }
        found.bytes().await.map_err(failed)
    }

    /// Reads a whole object, or `None` where there is none.
    pub async fn find(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        match self.get(key).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The same, giving up soon where there is no answer: for the first question of all, when someone may be waiting.
    pub async fn find_at_first(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        match &self.at_first {
            Some(objects) => Self { objects: objects.clone(), ..self.clone() }.find(key).await,
            None => self.find(key).await,
        }
    }

    /// Reads a range of an object's bytes; shorter than asked only where the object ends.
    pub async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.objects.get_range(&self.path(key), range).await.map_err(|source| self.failed("read", key, source))
    }

    /// Reads an object piece by piece.
    pub async fn read(&self, key: &Key) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let result = self.objects.get(&self.path(key)).await.map_err(|source| self.failed("read", key, source))?;
        let (this, key) = (self.clone(), key.clone());
        let pieces = match result.payload {
            GetResultPayload::File(file, _) => file::pieces(file, result.range),
            GetResultPayload::Stream(stream) => stream,
        };
        Ok(pieces.map_err(move |source| this.failed("read", &key, source)).boxed())
    }

    /// Looks at an object without reading it.
    pub async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        let meta = self.objects.head(&self.path(key)).await.map_err(|source| self.failed("look at", key, source))?;
        Ok(ObjectInfo { key: key.clone(), size: meta.size, modified: timestamp(&meta) })
    }

    /// Lists all objects below a folder (`None`: all there are), in no promised order, each key once.
    pub fn list(&self, below: Option<&Key>) -> BoxStream<'static, Result<ObjectInfo, StoreError>> {
        let prefix = match below {
            Some(key) => Some(self.path(key)),
            None if self.root.is_empty() => None,
            None => Some(object_store::path::Path::from(self.root.as_str())),
        };
        let what = below.cloned().unwrap_or_else(Key::root);
        let this = self.clone();
        self.objects
            .list(prefix.as_ref())
            .map(move |item| match item {
                Ok(meta) => Ok(this.info(&meta)),
                Err(source) => Err(this.failed("list", &what, source)),
            })
            .try_filter_map(|info| async move { Ok(info) })
            .boxed()
    }

    /// The whole listing at once, sorted by key, without the duplicates some stores give.
    pub async fn list_all(&self, below: Option<&Key>) -> Result<Vec<ObjectInfo>, StoreError> {
        let mut all: Vec<ObjectInfo> = self.list(below).try_collect().await?;
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all.dedup_by(|a, b| a.key == b.key);
        Ok(all)
    }

    /// Removes an object; one that is not there is no error.
    pub async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        match self.objects.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.failed("delete", key, source)),
        }
    }

    /// Tries whether the store refuses to overwrite, by a trial object that is removed again; from then on it is used
    /// as it is. With credentials that cannot write it does not matter, and nothing is tried.
    pub async fn probed(self, trial: &Key) -> Result<Self, StoreError> {
        let refuses = self.refuses_to_overwrite(trial).await;
        // Credentials that cannot delete leave it to the sweep.
        let _ = self.delete(trial).await;
        match refuses {
            Ok(true) | Err(StoreError::Denied { .. }) => Ok(self),
            Ok(false) => Ok(Self { looks_first: true, ..self }),
            // A store that does not know conditions may refuse them instead of passing over them.
            Err(StoreError::Unreachable { unknown: true, .. }) if !self.looks_first => {
                let looking = Self { looks_first: true, ..self };
                looking.refuses_to_overwrite(trial).await?;
                let _ = looking.delete(trial).await;
                Ok(looking)
            }
            Err(error) => Err(error),
        }
    }

    async fn refuses_to_overwrite(&self, trial: &Key) -> Result<bool, StoreError> {
        self.create(trial, Bytes::from_static(b"one")).await?;
        match self.create(trial, Bytes::from_static(b"two")).await {
            Err(StoreError::Occupied { .. }) => Ok(true),
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Begins to write an object of unknown size; it becomes visible when [`Upload::finish`] returns.
    pub fn upload(&self, key: &Key) -> Upload {
        Upload::new(self.clone(), key.clone())
    }

    fn path(&self, key: &Key) -> object_store::path::Path {
        let full = match (key.name_above(), self.above()) {
            (Some(name), Some("")) => name.to_owned(),
            (Some(name), Some(above)) => format!("{above}/{name}"),
            _ if self.root.is_empty() => key.to_string(),
            _ => format!("{}/{key}", self.root),
        };
        // A key holds only characters that need no encoding, so this changes nothing.
        object_store::path::Path::parse(&full).unwrap_or_else(|_| object_store::path::Path::from(full))
    }

    /// What the root lies in, where it is a folder for what lies beside it.
    fn above(&self) -> Option<&str> {
        let above = self.root.strip_suffix(BESIDE)?;
        if above.is_empty() { Some(above) } else { above.strip_suffix('/') }
    }

    /// `None` for an object that cannot be one of ours by its very name; `repo check` lists it from the store itself.
    fn info(&self, meta: &ObjectMeta) -> Option<ObjectInfo> {
        let full = meta.location.as_ref();
        let relative =
            if self.root.is_empty() { full } else { full.strip_prefix(self.root.as_str())?.strip_prefix('/')? };
        Some(ObjectInfo { key: Key::foreign(relative), size: meta.size, modified: timestamp(meta) })
    }

    fn failed(&self, doing: &'static str, key: &Key, source: object_store::Error) -> StoreError {
        StoreError::of(doing, key, &self.location, source)
    }
}

fn timestamp(meta: &ObjectMeta) -> Timestamp {
    let (seconds, nanos) = (meta.last_modified.timestamp(), meta.last_modified.timestamp_subsec_nanos());
    Timestamp::new(seconds, i32::try_from(nanos).unwrap_or(0)).unwrap_or(Timestamp::UNIX_EPOCH)
}
