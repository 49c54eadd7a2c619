//! Stores files of WAL as a server hands them over: several at once, each once, and each acknowledged when it is stored.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::Semaphore;
use windlass_core::diagnose::{Diagnose, Outcome, Retry};
use windlass_core::wal::{Segment, SegmentSize, Timeline, WalFile};
use windlass_repo::format::walg::{Backups, Before, Compression, WalgError};

use crate::moment;

/// MiB of files that are being stored at once: what they are compressed to is in memory. A larger file is stored alone.
const AT_ONCE: u32 = 64;

/// Files that are remembered as stored.
const REMEMBERED: usize = 1024;

/// How long it is waited for the store before it is said that it has not confirmed yet. It goes on all the same.
const PATIENCE: Duration = Duration::from_mins(1);

/// Why a file was not acknowledged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PushError {
    /// The archive.
    #[error(transparent)]
    Archive(Arc<WalgError>),
    /// The store has not confirmed yet.
    #[error("store {name}: the store has not confirmed it within {} s", PATIENCE.as_secs())]
    NotYet {
        /// The file.
        name: String,
    },
    /// A thread of ours ended.
    #[error("store {name}: a thread of ours ended: {why}")]
    Ended {
        /// The file.
        name: String,
        /// How.
        why: String,
    },
}

impl PushError {
    /// Whether it is the store that could not take it.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Archive(error) => matches!(**error, WalgError::Read { .. }),
            Self::NotYet { .. } => true,
            Self::Ended { .. } => false,
        }
    }
}

impl Diagnose for PushError {
    fn code(&self) -> &'static str {
        match self {
            Self::Archive(error) => error.code(),
            Self::NotYet { .. } => "WDL-2143",
            Self::Ended { .. } => "WDL-2144",
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Archive(error) => error.reason(),
            Self::NotYet { .. } => "NotConfirmed",
            Self::Ended { .. } => "ThreadEnded",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Archive(error) => error.retry(),
            Self::NotYet { .. } | Self::Ended { .. } => Retry::Soon,
        }
    }

    fn outcome(&self) -> Outcome {
        Outcome::Failed
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Archive(error) => error.hints(),
            Self::NotYet { .. } => vec!["it is still being stored; PostgreSQL asks again by itself".to_owned()],
            Self::Ended { .. } => vec!["PostgreSQL asks again by itself; if it stays, report it".to_owned()],
        }
    }
}

/// A file as it was handed over: another of that name is another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Identity {
    fn of(file: &File) -> std::io::Result<Self> {
        let is = file.metadata()?;
        Ok(Self { device: is.dev(), inode: is.ino(), size: is.size(), modified: (is.mtime(), is.mtime_nsec()) })
    }
}

type Storing = Shared<BoxFuture<'static, Result<(), PushError>>>;

#[derive(Default)]
struct Work {
    running: HashMap<String, (Identity, Storing)>,
    stored: VecDeque<(String, Identity)>,
    /// The newest segment of each timeline that the archive held, or that was stored since.
    newest: BTreeMap<Timeline, Segment>,
}

/// Stores the WAL of a cluster.
pub struct Archiver {
    archive: Backups,
    cluster: u64,
    compression: Compression,
    room: Arc<Semaphore>,
    work: Arc<Mutex<Work>>,
}

impl Archiver {
    /// Looks at what the archive holds.
    pub async fn open(archive: Backups, cluster: u64, compression: Compression) -> Result<Self, WalgError> {
        let newest = archive.newest_segments().await?;
        Ok(Self {
            archive,
            cluster,
            compression,
            room: Arc::new(Semaphore::new(AT_ONCE as usize)),
            work: Arc::new(Mutex::new(Work { newest, ..Work::default() })),
        })
    }

    /// Stores files, and returns when the first of them is stored, and with it what tells how its timeline came to be. The others
    /// go on, and are there when they are asked for.
    pub async fn push(&self, files: Vec<(String, Arc<File>)>) -> Result<(), PushError> {
        let mut awaited = Vec::new();
        let name = files.first().map(|(name, _)| name.clone()).unwrap_or_default();
        for (index, (name, file)) in files.into_iter().enumerate() {
            let storing = self.begin(&name, file);
            if index == 0 || matches!(WalFile::parse(&name, SegmentSize::LEAST), Ok(WalFile::History(_))) {
                awaited.push(storing);
            }
        }
        let all = futures::future::try_join_all(awaited);
        tokio::time::timeout(PATIENCE, all).await.unwrap_or(Err(PushError::NotYet { name })).map(drop)
    }

    /// Has a file stored, unless that was done or is under way.
    fn begin(&self, name: &str, file: Arc<File>) -> Storing {
        let source = |error| Err(PushError::Archive(Arc::new(WalgError::Source { path: name.into(), source: error })));
        let identity = match Identity::of(&file) {
            Ok(identity) => identity,
            Err(error) => return futures::future::ready(source(error)).boxed().shared(),
        };
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if work.stored.iter().rev().any(|(other, was)| other == name && *was == identity) {
            return futures::future::ready(Ok(())).boxed().shared();
        }
        if let Some((_, storing)) = work.running.get(name).filter(|(was, _)| *was == identity) {
            return storing.clone();
        }
        let segment = match WalFile::parse(name, SegmentSize::LEAST) {
            Ok(WalFile::Segment(segment)) => Some(segment),
            _ => None,
        };
        let newest = segment.and_then(|segment| work.newest.get(&segment.timeline));
        // Behind all that was there nothing can be, unless another writes, too: creating it tells.
        let before = match (segment, newest) {
            (Some(segment), Some(newest)) if segment > *newest => Before::NotThere,
            _ => Before::MayBeThere,
        };
        let (archive, room, all) = (self.archive.clone(), Arc::clone(&self.room), Arc::clone(&self.work));
        let (cluster, compression, title) = (self.cluster, self.compression, name.to_owned());
        let task = tokio::spawn(async move {
            let mib = u32::try_from(identity.size >> 20).unwrap_or(AT_ONCE).clamp(1, AT_ONCE);
            let _room = room.acquire_many(mib).await;
            moment::pass();
            let pushed = archive.push(&title, &file, cluster, compression, before).await;
            moment::pass();
            let mut work = all.lock().unwrap_or_else(PoisonError::into_inner);
            work.running.remove(&title);
            match pushed {
                Ok(_) => {
                    if let Some(segment) = segment {
                        let newest = work.newest.entry(segment.timeline).or_insert(segment);
                        *newest = segment.max(*newest);
                    }
                    work.stored.push_back((title, identity));
                    if work.stored.len() > REMEMBERED {
                        work.stored.pop_front();
                    }
                    Ok(())
                }
                Err(error) => Err(PushError::Archive(Arc::new(error))),
            }
        });
        let (work_of, title) = (Arc::clone(&self.work), name.to_owned());
        let storing = async move {
            task.await.unwrap_or_else(|error| {
                work_of.lock().unwrap_or_else(PoisonError::into_inner).running.remove(&title);
                Err(PushError::Ended { name: title, why: error.to_string() })
            })
        };
        let storing = storing.boxed().shared();
        work.running.insert(name.to_owned(), (identity, storing.clone()));
        storing
    }
}
