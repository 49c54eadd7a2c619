//! Fetches files of WAL, and those that will be asked for next before they are.
//!
//! A server that recovers asks for segments one after the other, and replays each before it asks for the next. While it does, the
//! next ones are on their way: one at first, twice as many with each that is asked for in order, up to a bound of memory. They
//! are kept as they are stored, and unpacked when they are asked for.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use windlass_core::diagnose::{Diagnose, Outcome, Retry};
use windlass_core::wal::{Segment, SegmentSize};
use windlass_repo::format::walg::{Backups, Codec, StoredWal, WalgError};

/// Bytes of segments that are fetched ahead, as they are before compression, and how many that may be.
const AHEAD: u64 = 128 << 20;
const MOST: u64 = 16;

/// How long a segment is waited for that others are there behind, and how often it is asked for.
const PATIENCE: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_secs(2);

/// Why a file could not be fetched.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// The archive.
    #[error(transparent)]
    Archive(Arc<WalgError>),
    /// It has a gap.
    #[error("fetch {name}: the archive has a gap there: later segments of its timeline are in it")]
    Gap {
        /// The segment.
        name: String,
    },
}

impl Diagnose for FetchError {
    fn code(&self) -> &'static str {
        match self {
            Self::Archive(error) => error.code(),
            Self::Gap { .. } => "WDL-2145",
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Archive(error) => error.reason(),
            Self::Gap { .. } => "WalGap",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Archive(error) => error.retry(),
            Self::Gap { .. } => Retry::Never,
        }
    }

    fn outcome(&self) -> Outcome {
        Outcome::Failed
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Archive(error) => error.hints(),
            Self::Gap { .. } => vec!["find the segment, or restore to a moment before it".to_owned()],
        }
    }
}

type Fetching = Shared<BoxFuture<'static, Result<Option<Arc<StoredWal>>, FetchError>>>;

#[derive(Default)]
struct Plan {
    /// On their way, or there.
    fetching: HashMap<Segment, Fetching>,
    /// How many are fetched ahead.
    window: u64,
    /// What the last one was compressed with.
    codec: Option<Codec>,
    /// Known once a segment was there.
    size: Option<SegmentSize>,
}

/// Fetches the WAL of a cluster.
pub struct Ahead {
    archive: Backups,
    cluster: u64,
    plan: Mutex<Plan>,
}

impl Ahead {
    /// Of an archive. Nothing is read before it is asked for.
    pub fn new(archive: Backups, cluster: u64) -> Self {
        Self { archive, cluster, plan: Mutex::default() }
    }

    /// Writes a file of the archive into an empty one; `false` where neither it nor anything behind it is there.
    pub async fn fetch(&self, name: &str, to: File) -> Result<bool, FetchError> {
        let archive = |error| FetchError::Archive(Arc::new(error));
        let Some(stored) = self.find(name).await? else { return Ok(false) };
        let cluster = self.cluster;
        let (codec, unpacking) =
            (stored.codec(), tokio::task::spawn_blocking(move || stored.unpack(Some(cluster), &to)));
        let unpacked = unpacking.await.map_err(|error| {
            archive(WalgError::Read { object: name.to_owned(), source: std::io::Error::other(error) })
        })?;
        let size = unpacked.map_err(archive)?;
        let mut plan = self.plan();
        plan.codec = Some(codec);
        plan.size = plan.size.or(size);
        Ok(true)
    }

    /// A file, or that the archive ends before it. Segments are stored side by side: one that others are there behind may be on its
    /// way, and is waited for before it is called a gap.
    async fn find(&self, name: &str) -> Result<Option<Arc<StoredWal>>, FetchError> {
        let began = std::time::Instant::now();
        loop {
            if let Some(stored) = self.next(name).await? {
                return Ok(Some(stored));
            }
            let goes_on = self.archive.goes_on_behind(name).await;
            if !goes_on.map_err(|error| FetchError::Archive(Arc::new(error)))? {
                return Ok(None);
            }
            if began.elapsed() > PATIENCE {
                return Err(FetchError::Gap { name: name.to_owned() });
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file that is asked for; has those behind it fetched.
    async fn next(&self, name: &str) -> Result<Option<Arc<StoredWal>>, FetchError> {
        let size = self.plan().size;
        let Some((size, segment)) = size.and_then(|size| Some((size, Segment::parse(name, size).ok()?))) else {
            let codec = self.plan().codec.unwrap_or(Codec::Zstd);
            return get(self.archive.clone(), name.to_owned(), codec).await;
        };
        let (asked, is_old) = {
            let mut plan = self.plan();
            let codec = plan.codec.unwrap_or(Codec::Zstd);
            let asked = plan.fetching.remove(&segment);
            let most = (AHEAD / size.bytes()).clamp(1, MOST);
            plan.window = if asked.is_some() { (plan.window * 2).clamp(1, most) } else { 1 };
            let end = segment.number + plan.window;
            // What is behind us, or far ahead, is of another recovery.
            let is_next =
                |other: &Segment| other.timeline == segment.timeline && (segment.number..=end).contains(&other.number);
            plan.fetching.retain(|other, _| is_next(other));
            let begin = |segment: Segment| -> Fetching {
                let task = tokio::spawn(get(self.archive.clone(), segment.name(size), codec));
                let ended = move |error: tokio::task::JoinError| {
                    let source = std::io::Error::other(error);
                    Err(FetchError::Archive(Arc::new(WalgError::Read { object: segment.name(size), source })))
                };
                task.map(move |done| done.unwrap_or_else(ended)).boxed().shared()
            };
            let is_old = asked.is_some();
            let asked = asked.unwrap_or_else(|| begin(segment));
            let mut next = segment.next();
            while next.number <= end {
                plan.fetching.entry(next).or_insert_with(|| begin(next));
                next = next.next();
            }
            (asked, is_old)
        };
        match asked.await {
            // It may have been stored since it was looked for.
            Ok(None) if is_old => get(self.archive.clone(), name.to_owned(), Codec::Zstd).await,
            Err(_) => get(self.archive.clone(), name.to_owned(), Codec::Zstd).await,
            answer => answer,
        }
    }
}

async fn get(archive: Backups, name: String, likely: Codec) -> Result<Option<Arc<StoredWal>>, FetchError> {
    let stored = archive.stored_wal(&name, likely).await;
    stored.map(|stored| stored.map(Arc::new)).map_err(|error| FetchError::Archive(Arc::new(error)))
}
