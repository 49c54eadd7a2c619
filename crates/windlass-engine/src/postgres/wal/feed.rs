//! Gives a server that we have recover the WAL of the archive, as long as this is there.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::task::AbortOnDropHandle;
use windlass_core::diagnose::{Diagnose, Outcome};
use windlass_core::wal::{Lsn, Segment, SegmentSize};
use windlass_repo::format::walg::Backups;

use super::ahead::Ahead;
use super::socket::{Call, ListenError, Listener};
use super::wire::{Answer, Request};

/// Something else was asked for than what is given.
#[derive(Debug, thiserror::Error)]
#[error("give WAL to the server that recovers: it asked for something else")]
struct Unexpected;

impl Diagnose for Unexpected {
    fn code(&self) -> &'static str {
        "WDL-2146"
    }

    fn reason(&self) -> &'static str {
        "UnexpectedCall"
    }

    fn outcome(&self) -> Outcome {
        Outcome::Failed
    }

    fn hints(&self) -> Vec<String> {
        vec!["run the restore again; if it stays, report it".to_owned()]
    }
}

/// Gives WAL at a socket until it is dropped.
pub struct Feed {
    given: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

impl Feed {
    /// Makes the socket. The user is the one of the server, which is told that the WAL ends before the segment that begins at
    /// `until` or behind: it may look ahead of where it was told to end. `moved` is told of the bytes of every file that was given.
    pub fn start(
        socket: &Path,
        archive: Backups,
        cluster: u64,
        user: Option<u32>,
        until: (Lsn, SegmentSize),
        moved: Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Result<Self, ListenError> {
        let mut listener = Listener::open(socket)?;
        let ahead = Arc::new(Ahead::new(archive, cluster));
        let given = Arc::new(AtomicU64::default());
        let newest = Arc::clone(&given);
        let task = tokio::spawn(async move {
            while let Some(caller) = listener.next().await {
                let (ahead, moved, newest) = (Arc::clone(&ahead), Arc::clone(&moved), Arc::clone(&newest));
                tokio::spawn(async move {
                    match caller.hear().await {
                        Ok(Some(call)) => {
                            if let Some((name, bytes)) = answer(call, &ahead, user, until).await {
                                if let Ok(segment) = Segment::parse(&name, until.1) {
                                    newest.fetch_max(segment.start(until.1).0, Ordering::Relaxed);
                                }
                                moved(bytes);
                            }
                        }
                        Ok(None) => {}
                        Err(error) => tracing::warn!(%error, "a call at the socket could not be understood"),
                    }
                });
            }
        });
        Ok(Self { given, _task: AbortOnDropHandle::new(task) })
    }

    /// Where the newest segment begins that was given: a server asks for one when it has replayed those before.
    pub fn at(&self) -> Option<Lsn> {
        Some(self.given.load(Ordering::Relaxed)).filter(|given| *given > 0).map(Lsn)
    }
}

/// The file that was given, and its bytes.
async fn answer(
    mut call: Call,
    ahead: &Ahead,
    user: Option<u32>,
    (until, size): (Lsn, SegmentSize),
) -> Option<(String, u64)> {
    let mut given = None;
    let is_behind = |name: &str| Segment::parse(name, size).is_ok_and(|segment| segment.start(size) >= until);
    let us = rustix::process::geteuid().as_raw();
    let may_ask = call.user == us || Some(call.user) == user;
    let files = std::mem::take(&mut call.files);
    let answer = match (&call.request, <[_; 1]>::try_from(files)) {
        (Request::Fetch(fetch), _) if may_ask && is_behind(&fetch.name) => Answer::NotThere,
        (Request::Fetch(fetch), Ok([to])) if may_ask => {
            let to = std::fs::File::from(to);
            let size = to.try_clone();
            match ahead.fetch(&fetch.name, to).await {
                Ok(true) => {
                    let bytes = size.and_then(|file| file.metadata()).map_or(0, |is| is.len());
                    given = Some((fetch.name.clone(), bytes));
                    Answer::Done
                }
                Ok(false) => Answer::NotThere,
                Err(error) => Answer::failed(&error),
            }
        }
        _ => Answer::failed(&Unexpected),
    };
    call.answer(&answer);
    given
}
