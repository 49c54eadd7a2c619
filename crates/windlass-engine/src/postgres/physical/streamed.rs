//! Takes a full base backup of a server whose data folder is not at hand, by the replication protocol.
//!
//! ```text
//! connection: slot, BASE_BACKUP ─── data folder, pg_control ─── WAL from start to stop ─── end
//! thread:          entries of tar → archives of ours, a piece at a time
//! threads:                           pieces → frames, side by side
//! store:                              part_001 … part_nnn       pg_control, backup_label, WAL, documents, sentinel
//! ```
//!
//! What is stored is as [`super::base_backup`] stores it. Promised as there: the sentinel comes last, and the slot goes with the
//! connection. The server looks at the checksums of pages and reads again what may be torn; which pages are wrong is seen here, and
//! believed where the server says that there are any. In memory are some pieces for each thread, and the names of all files; a
//! segment of WAL lies in a temporary file until it is archived.
//!
//! Of a standby the WAL does not come with it: it is waited for in the archive (`stop_segment`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use windlass_core::application::Physical;
use windlass_core::point::{ObjectRef, Window};
use windlass_core::wal::{Lsn, Segment, Timeline};
use windlass_replication::{Address, BaseBackup as Sent, BaseBackupOptions, Connection, Event, ReplicationError};
use windlass_repo::format::walg::{BackupName, PartName};
use windlass_repo::{random, secret};

use super::archives;
use super::base_backup::{BaseBackup, Task, archived_history, blocking, panicked, taken};
use super::ending::{Archived, Ending, now};
use super::error::PhysicalError;
use super::outside::outside;
use super::server::{Facts, Reached, checkpoint_at, recovers_to, redo};
use super::stop_segment::wal_of_standby;
use super::unpacking::{self, Feed, Lone, Of, Packing, Stored};
use crate::postgres::PostgresError;
use crate::postgres::session::Session;
use crate::postgres::tools::Tools;

/// What connections call themselves.
const CALLED: &str = "windlass";

/// Messages of the server that may wait to be unpacked: 32 KiB each.
const AHEAD: usize = 64;

/// The SQLSTATE of a file that is not there.
const NO_FILE: &str = "58P01";

/// How often the server is asked where it is.
const ASKED_EVERY: Duration = Duration::from_secs(1);

/// A server that is reached by the network alone.
pub struct Remote {
    session: Session,
    facts: Facts,
    address: Address,
    password: Option<SecretString>,
    /// Why its data folder is not read.
    why: String,
}

impl Remote {
    /// Opens a session. `why` tells, in errors, why the data folder is not read.
    pub async fn open(tools: &Tools, source: &Physical, why: String) -> Result<Self, PhysicalError> {
        let mut session = Session::open_any(tools).await.map_err(PhysicalError::Server)?;
        let facts = Facts::ask(&mut session).await?;
        if !source.server.via.is_empty() {
            let why = format!(
                "its data folder is not at hand ({why}), and what `via` leads to is not reached by the replication protocol"
            );
            return Err(PhysicalError::Unsupported { why });
        }
        if facts.is_standby && !source.archives {
            let why = format!(
                "the server is a standby whose data folder is not at hand ({why}), and its WAL does not come into the repository (`wal = \"archive\"`)"
            );
            return Err(PhysicalError::Unsupported { why });
        }
        let password = source.server.password.as_ref().map(secret::resolve).transpose();
        let password = password.map_err(|error| PhysicalError::Server(PostgresError::Secret(error)))?;
        let address = Address::parse(&source.server.url);
        let address = address.map_err(|error| protocol(&why, ReplicationError::Address(error)))?;
        Ok(Self { session, facts, address, password, why })
    }

    /// The identifier of its cluster.
    pub fn system_identifier(&self) -> u64 {
        self.facts.system_identifier
    }

    /// Why its data folder is not read.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// Opens a connection, and looks whether it leads to the same server.
    pub async fn connect(&self) -> Result<Connection, PhysicalError> {
        let failed = |error| protocol(&self.why, error);
        let connection = Connection::open(&self.address, self.password.clone(), CALLED).await;
        let mut connection = connection.map_err(failed)?;
        let found = connection.identify().await.map_err(failed)?;
        if found.system_identifier != self.facts.system_identifier {
            let why = "what answers the replication protocol is of another cluster than the session".to_owned();
            return Err(PhysicalError::Stream { why });
        }
        Ok(connection)
    }
}

/// A base backup that the server has begun to send. Dropped, it is given up.
pub struct Begun<'a> {
    task: &'a Task<'a>,
    remote: Remote,
    sent: Sent<'a>,
    started: Timestamp,
    name: BackupName,
    history: Option<ObjectRef>,
    warnings: Vec<String>,
}

/// Has the server begin. Nothing is written yet, but how its timeline came to be.
pub async fn begin<'a>(
    remote: Remote,
    connection: &'a mut Connection,
    task: &'a Task<'a>,
) -> Result<Begun<'a>, PhysicalError> {
    let (started, mut warnings) = (now(), Vec::new());
    let failed = |error| protocol(&remote.why, error);
    let name = random::bytes::<8>().map_err(|error| PhysicalError::Stream { why: error.to_string() })?;
    let slot = format!("windlass_{}", windlass_core::hex::encode(&name));
    match connection.create_temporary_slot(&slot).await {
        Ok(()) => {}
        Err(ReplicationError::Server { message, .. }) => {
            warnings.push(format!("nothing holds the WAL of the backup while it is taken: {message}"));
        }
        Err(error) => return Err(failed(error)),
    }
    let size = remote.facts.segment_size;
    let on = connection.identify().await.map_err(failed)?.timeline;
    let mut history = None;
    if on > Timeline(1) {
        history = Some(match connection.timeline_history(on).await {
            Ok(found) => {
                let file = blocking(move || kept(&found.content)).await?;
                let cluster = remote.facts.system_identifier;
                let pushed = task.archive.archived(&found.name, &Arc::new(file), cluster, task.compression).await;
                pushed.map_err(PhysicalError::Walg)?.object
            }
            // A standby that was made anew may not have it.
            Err(error) if error.sqlstate() == Some(NO_FILE) => archived_history(task, on, size).await?,
            Err(error) => return Err(failed(error)),
        });
    }
    let options = BaseBackupOptions {
        label: CALLED.to_owned(),
        fast: true,
        wal: !remote.facts.is_standby,
        verify_checksums: true,
        max_rate: None,
    };
    let sent = connection.base_backup(&options).await.map_err(failed)?;
    let (start, timeline) = sent.start();
    if timeline != on {
        return Err(PhysicalError::Changed { why: format!("it went on to timeline {timeline}") });
    }
    let name = BackupName::full(Segment::of(start, timeline, size), size);
    if !task.archive.objects(&name).await.map_err(PhysicalError::Walg)?.is_empty() {
        return Err(taken(&name, remote.facts.is_standby));
    }
    Ok(Begun { task, remote, sent, started, name, history, warnings })
}

impl Begun<'_> {
    /// What the base backup is called.
    pub fn name(&self) -> &BackupName {
        &self.name
    }

    /// Takes it.
    pub async fn take(self) -> Result<BaseBackup, PhysicalError> {
        let Self { task, remote, mut sent, started, name, history, mut warnings } = self;
        let Remote { mut session, facts, why, .. } = remote;
        let (start, timeline) = sent.start();
        let tablespaces: BTreeMap<u32, _> =
            sent.tablespaces().iter().map(|one| (one.oid, one.location.clone())).collect();
        // What the checkpoint holds that it begins with, it holds: of a standby nothing else may be known.
        let at_least = if facts.is_standby { checkpoint_at(&mut session).await? } else { started };
        let clock = Clock::start(session, facts.is_standby);
        let (feed, fed) = mpsc::channel(AHEAD);
        let (frames, stored) = unpacking::lanes(task, &name, facts.system_identifier);
        let packing = Packing::new(facts.is_standby, facts.checksums.then_some(start), task, frames);
        let packs = tokio::task::spawn_blocking(move || packing.run(fed));
        let streams = async {
            while let Some(event) = sent.next().await.map_err(|error| protocol(&why, error))? {
                let event = match event {
                    Event::Archive { tablespace: None } => Feed::Archive(Of::DataFolder),
                    Event::Archive { tablespace: Some(oid) } => Feed::Archive(Of::Tablespace(oid)),
                    Event::Bytes(bytes) => Feed::Bytes(bytes),
                };
                if feed.send(event).await.is_err() {
                    return Err(PhysicalError::BrokenOff);
                }
            }
            drop(feed);
            let warned = sent.notices().first.clone();
            let end = sent.finish().await.map_err(|error| protocol(&why, error))?;
            Ok((end, warned))
        };
        // What ends first may be broken off by the others: of their errors those that say more are told.
        let (streamed, packed, stored) = tokio::join!(streams, packs, stored);
        let packed = packed.unwrap_or_else(|error| Err(panicked(&error)));
        let ((end, warned), lone, stored) = match (streamed, packed, stored) {
            (Ok(streamed), Ok(lone), Ok(stored)) => (streamed, lone, stored),
            (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) if !matches!(error, PhysicalError::BrokenOff) => {
                return Err(error);
            }
            (.., Err(error)) | (_, Err(error), _) | (Err(error), ..) => return Err(error),
        };
        if end.timeline != timeline {
            return Err(PhysicalError::Changed { why: format!("it went on to timeline {}", end.timeline) });
        }
        let Stored { parts, wal: mut segments } = stored;
        let mut archived = Archived::default();
        for (part, mut packed, object) in parts {
            if !end.is_corrupt {
                packed.held.iter_mut().for_each(|(_, described)| described.corrupt_blocks = None);
            }
            archived.take_up(&part, packed, object);
        }
        if end.is_corrupt && archived.corrupt.is_empty() {
            archived.corrupt.insert("named in the warnings".to_owned(), Vec::new());
        }
        warnings.extend(warned.into_iter().filter(|one| one.severity == "WARNING").map(|one| one.message));
        let Lone { control, label, map } = lone;
        let missing = |what: &str| PhysicalError::Stream { why: format!("`{what}` did not come") };
        let control = control.ok_or_else(|| missing("global/pg_control"))?;
        let label = label.ok_or_else(|| missing("backup_label"))?;
        if !archives::is_whole(&control) || redo(&control).is_none_or(|redo| redo < start) {
            return Err(PhysicalError::Stream { why: "its `pg_control` is not whole, or of another time".to_owned() });
        }
        if facts.is_standby {
            recovers_to(&control, end.lsn, timeline)?;
        }
        let control_part = PartName::control(task.compression.codec());
        archived.add(task, &name, control_part, &[("/global/pg_control", &control)]).await?;
        archived.add_label(task, &name, &label, map.as_deref()).await?;
        let (mut session, known) = clock.stop().await?;
        let (from, to) = known.around(end.lsn);
        let window = Window { from: from.unwrap_or(at_least).max(at_least), to: to.unwrap_or_else(Timestamp::now) };
        let size = facts.segment_size;
        let (first, last) = (Segment::of(start, timeline, size), Segment::before(end.lsn, timeline, size));
        let mut wal = Vec::from_iter(history);
        if facts.is_standby {
            wal.extend(wal_of_standby(task, &mut session, &facts, None, (first, last)).await?);
        } else {
            let mut segment = first;
            while segment <= last {
                let own = segment.name(size);
                let object = segments.remove(&own).ok_or(PhysicalError::WalGone { segment: own })?;
                wal.push(object);
                segment = segment.next();
            }
        }
        let outside = outside(&mut session).await;
        session.close().await;
        let data_dir = facts.data_directory.clone().unwrap_or_default();
        let stop = end.lsn;
        let ending = Ending {
            name,
            timeline,
            start,
            stop,
            started,
            window,
            facts,
            data_dir,
            tablespaces,
            wal,
            outside,
            warnings,
        };
        ending.write(task, archived).await
    }
}

/// Asks the server again and again where it is: by that one knows, at the end, what time the end stands for.
struct Clock {
    known: Arc<Mutex<Known>>,
    over: tokio::sync::oneshot::Sender<()>,
    asks: AbortOnDropHandle<Result<Session, PhysicalError>>,
}

/// Places in the log that were seen, and times between which the server was there; of a standby the first is when what it had
/// replayed was committed.
#[derive(Default)]
struct Known(Vec<(Lsn, Timestamp, Timestamp)>);

impl Known {
    /// The times between which the server came to a place, as far as that is known.
    fn around(&self, place: Lsn) -> (Option<Timestamp>, Option<Timestamp>) {
        let before = self.0.iter().rev().find(|(lsn, ..)| *lsn <= place).map(|(_, from, _)| *from);
        (before, self.0.iter().find(|(lsn, ..)| *lsn >= place).map(|(.., to)| *to))
    }
}

impl Clock {
    fn start(mut session: Session, is_standby: bool) -> Self {
        let known: Arc<Mutex<Known>> = Arc::default();
        let (over, mut is_over) = tokio::sync::oneshot::channel();
        let notes = Arc::clone(&known);
        let asks = tokio::spawn(async move {
            loop {
                let before = Timestamp::now();
                let (lsn, at) = if is_standby {
                    let Reached { lsn, at, .. } = Reached::ask(&mut session).await?;
                    (lsn, at)
                } else {
                    (Some(written(&mut session).await?), Some(before))
                };
                if let (Some(lsn), Some(at)) = (lsn, at) {
                    let seen = (lsn, at, Timestamp::now());
                    notes.lock().unwrap_or_else(PoisonError::into_inner).0.push(seen);
                }
                tokio::select! {
                    _ = &mut is_over => return Ok(session),
                    () = tokio::time::sleep(ASKED_EVERY) => {}
                }
            }
        });
        Self { known, over, asks: AbortOnDropHandle::new(asks) }
    }

    async fn stop(self) -> Result<(Session, Known), PhysicalError> {
        let _ = self.over.send(());
        let session = self.asks.await.unwrap_or_else(|error| Err(panicked(&error)))?;
        let known = std::mem::take(&mut *self.known.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((session, known))
    }
}

/// Where the server writes next.
async fn written(session: &mut Session) -> Result<Lsn, PhysicalError> {
    #[derive(serde::Deserialize)]
    struct At {
        lsn: Lsn,
    }
    let At { lsn } = session
        .row("select pg_catalog.pg_current_wal_insert_lsn()::text as lsn")
        .await
        .map_err(PhysicalError::Server)?;
    Ok(lsn)
}

/// A temporary file with some content.
fn kept(content: &[u8]) -> Result<File, PhysicalError> {
    let written = tempfile::tempfile().and_then(|mut file| {
        file.write_all(content)?;
        file.rewind()?;
        Ok(file)
    });
    written.map_err(unpacking::no_room)
}

fn protocol(why: &str, source: ReplicationError) -> PhysicalError {
    PhysicalError::Protocol { why: why.to_owned(), source: Box::new(source) }
}
