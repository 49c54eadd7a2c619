//! A store that misbehaves: a double, standing before a real store, for faults that cannot be had from one on demand.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// The process dies before its n-th write or deletion (counted from 0): that and everything after it fails.
    DiesAt(u64),
    /// The same, but the write itself still reaches the store: its answer is lost.
    DiesAfter(u64),
    /// Deletions are denied.
    DeletesDenied,
    /// Every n-th operation fails once, as an overloaded store's would.
    EveryNth(u64),
    /// Create-only is not known: what is there is overwritten.
    Overwrites,
    /// Create-only is not known: it is refused with 501.
    NoConditions,
    /// Listings come backwards, every entry twice.
    ListsTwice,
}

/// A store that misbehaves as it is told. Cheap to clone; clones share the fault and the count.
#[derive(Clone, Debug)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    fault: Mutex<Fault>,
    writes: AtomicU64,
    operations: AtomicU64,
    log: Mutex<Vec<String>>,
}

impl FaultStore {
    /// Stands before a store, behaving well.
    pub fn before(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, shared: Arc::default() }
    }

    /// From now on misbehaves like this, counting anew.
    pub fn set(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        self.shared.writes.store(0, Ordering::SeqCst);
        self.shared.operations.store(0, Ordering::SeqCst);
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Writes and deletions since the fault was set, as tried.
    pub fn writes(&self) -> u64 {
        self.shared.writes.load(Ordering::SeqCst)
    }

    /// The same, in words.
    pub fn log(&self) -> Vec<String> {
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fault(&self) -> Fault {
        *self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn died(&self) -> bool {
        let writes = self.writes();
        match self.fault() {
            Fault::DiesAt(n) => writes > n,
            Fault::DiesAfter(n) => writes > n,
            _ => false,
        }
    }

    /// Before a read: fails where the process has died, or the store is overloaded.
    fn reading(&self) -> Result<()> {
        let count = self.shared.operations.fetch_add(1, Ordering::SeqCst);
        match self.fault() {
            _ if self.died() => Err(broken("the process has died")),
            Fault::EveryNth(n) if count % n == n - 1 => Err(broken("503 SlowDown")),
            _ => Ok(()),
        }
    }

    /// Before a write or deletion: whether it reaches the store, and whether its answer comes back.
    fn writing(&self, what: &str, key: &Path) -> Result<Reaches> {
        let count = self.shared.operations.fetch_add(1, Ordering::SeqCst);
        let before = self.shared.writes.fetch_add(1, Ordering::SeqCst);
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{what} {key}"));
        match self.fault() {
            Fault::DiesAt(n) if before >= n => Err(broken("the process has died")),
            Fault::DiesAfter(n) if before > n => Err(broken("the process has died")),
            Fault::DiesAfter(n) if before == n => Ok(Reaches::WithoutAnswer),
            Fault::EveryNth(n) if count % n == n - 1 => Err(broken("503 SlowDown")),
            Fault::DeletesDenied if what == "delete" => {
                Err(Error::PermissionDenied { path: key.to_string(), source: "403 Forbidden".into() })
            }
            _ => Ok(Reaches::WithAnswer),
        }
    }
}

enum Reaches {
    WithAnswer,
    WithoutAnswer,
}

impl Reaches {
    fn answer<T>(self, value: T) -> Result<T> {
        match self {
            Self::WithAnswer => Ok(value),
            Self::WithoutAnswer => Err(broken("the answer was lost")),
        }
    }
}

fn broken(why: &str) -> Error {
    Error::Generic { store: "fault", source: why.into() }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

#[derive(Debug)]
struct FaultUpload {
    inner: Box<dyn MultipartUpload>,
    store: FaultStore,
    key: Path,
}

#[async_trait::async_trait]
impl MultipartUpload for FaultUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match self.store.writing("part", &self.key) {
            Ok(_) => self.inner.put_part(data),
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let reaches = self.store.writing("complete", &self.key)?;
        reaches.answer(self.inner.complete().await?)
    }

    async fn abort(&mut self) -> Result<()> {
        self.store.reading()?;
        self.inner.abort().await
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let reaches = self.writing("put", key)?;
        let conditional = matches!(options.mode, PutMode::Create);
        let options = match self.fault() {
            Fault::NoConditions if conditional => return Err(broken("501 Not Implemented")),
            Fault::Overwrites if conditional => PutOptions { mode: PutMode::Overwrite, ..options },
            _ => options,
        };
        reaches.answer(self.inner.put_opts(key, payload, options).await?)
    }

    async fn put_multipart_opts(&self, key: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.reading()?;
        let inner = self.inner.put_multipart_opts(key, options).await?;
        Ok(Box::new(FaultUpload { inner, store: self.clone(), key: key.clone() }))
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        self.reading()?;
        self.inner.get_opts(key, options).await
    }

    async fn get_ranges(&self, key: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.reading()?;
        self.inner.get_ranges(key, ranges).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        keys.then(move |key| {
            let this = this.clone();
            async move {
                let key = key?;
                let reaches = this.writing("delete", &key)?;
                let mut done = this.inner.delete_stream(stream::once(async move { Ok(key) }).boxed());
                match done.next().await {
                    Some(result) => reaches.answer(result?),
                    None => Err(broken("nothing was deleted")),
                }
            }
        })
        .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if let Err(error) = self.reading() {
            return stream::once(async move { Err(error) }).boxed();
        }
        let listing = self.inner.list(prefix);
        if self.fault() != Fault::ListsTwice {
            return listing;
        }
        stream::once(async move {
            let mut all: Vec<Result<ObjectMeta>> = listing.collect().await;
            all.reverse();
            let twice = all.iter().filter_map(|item| item.as_ref().ok().cloned().map(Ok)).collect::<Vec<_>>();
            stream::iter(twice.into_iter().chain(all))
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.reading()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let reaches = self.writing("copy", to)?;
        self.inner.copy_opts(from, to, options).await?;
        reaches.answer(())
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let reaches = self.writing("rename", to)?;
        self.inner.rename_opts(from, to, options).await?;
        reaches.answer(())
    }
}
