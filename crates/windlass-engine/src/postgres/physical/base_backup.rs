//! Takes a full base backup from a data folder that is at hand, while its server runs.
//!
//! ```text
//! session: pg_backup_start ──────────────────────────── pg_backup_stop ─ ended
//! threads:      survey → archives … → pg_control             ┊
//! store:        part_001 … part_nnn, pg_control   backup_label, WAL from start to stop, documents, sentinel
//! ```
//!
//! Promised: the sentinel, which makes the backup one, is written when everything else is in the store, the WAL from its start
//! to its stop among it, whether the server archives WAL or not. Backup mode and the slot that holds the WAL end with the session,
//! however that ends. At any moment there are in memory some 50 MiB for each of at most four threads - pieces, and parts of archives on
//! their way - and the names of all files.
//!
//! Of a standby, `pg_control` comes last as well, and the WAL is waited for (`stop_segment`). That it is promoted meanwhile
//! fails the backup: the server says so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use windlass_core::point::{ObjectRef, Window};
use windlass_core::wal::{Lsn, Segment, SegmentSize, Timeline, WalFile};
use windlass_repo::format::walg::{BackupName, Backups, Compression, Compressor, PartName, Sentinel};
use windlass_repo::object::ObjectWriter;
use windlass_repo::regular;

pub use super::archives::PART;
use super::archives::{self, Packed, Reading};
use super::ending::{Archived, Ending, now};
use super::error::PhysicalError;
use super::outside::outside;
use super::server::{Server, Stopped, recovers_to, redo};
use super::stop_segment::wal_of_standby;
use super::survey::{Found, still_there, survey};
use crate::moment;

/// Frames that may wait for the store, for each thread.
const AHEAD: usize = 2;

/// Bytes of an archive that are written while the one before it is waited for.
const AT_ONCE: u64 = 16 << 20;

/// Threads that read, at most: the machine is the server's.
const LANES: usize = 4;

/// Parts on their way to the store at once, of 16 MiB each, over all threads.
const UPLOADS: usize = 4;

/// How a base backup is taken, and where it goes.
pub struct Task<'a> {
    /// Where it goes.
    pub archive: &'a Backups,
    /// How archives and WAL are compressed.
    pub compression: Compression,
    /// Bytes of files in an archive, about: [`PART`], but for tests.
    pub part: u64,
    /// What this machine calls itself.
    pub host: String,
    /// Told of bytes that were read, as they are.
    pub moved: Arc<dyn Fn(u64) + Send + Sync>,
}

/// A base backup that was taken.
#[derive(Debug)]
pub struct BaseBackup {
    /// Its name.
    pub name: BackupName,
    /// The timeline it was taken on.
    pub timeline: Timeline,
    /// The size of the cluster's WAL segments.
    pub segment_size: SegmentSize,
    /// The moment it is brought to: that of its stop.
    pub window: Window,
    /// The role the cluster was made with.
    pub superuser: String,
    /// Its databases, but templates and those nobody may connect to.
    pub databases: Vec<String>,
    /// What its sentinel says.
    pub sentinel: Sentinel,
    /// Its objects, the sentinel last.
    pub objects: Vec<ObjectRef>,
    /// The WAL from its start to its stop, and how its timeline came to be.
    pub wal: Vec<ObjectRef>,
    /// Pages whose checksums are wrong, by file and by number in it: what was read of them is in the backup.
    pub corrupt: BTreeMap<String, Vec<u32>>,
    /// Settings that lie outside of the data folder, by their paths: they are beside the archives.
    pub settings: Vec<String>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// How often backup mode is begun where the name is taken: with its end comes another segment on a primary, and with that another
/// name.
const TRIES: u32 = 3;

/// A server in backup mode. Dropped, it leaves backup mode.
pub struct Begun<'a> {
    task: &'a Task<'a>,
    server: Server,
    started: Timestamp,
    start: Lsn,
    timeline: Timeline,
    name: BackupName,
    /// How its timeline came to be, in the archive.
    history: Option<ObjectRef>,
    warnings: Vec<String>,
}

/// Begins backup mode. Nothing is written yet.
pub async fn begin<'a>(mut server: Server, task: &'a Task<'a>) -> Result<Begun<'a>, PhysicalError> {
    let started = now();
    let mut warnings = Vec::new();
    if let Err(why) = server.hold_wal().await? {
        warnings.push(format!("nothing holds the WAL of the backup while it is taken: {why}"));
    }
    for _ in 0..TRIES {
        let (start, timeline) = server.begin().await?;
        let size = server.facts.segment_size;
        let name = BackupName::full(Segment::of(start, timeline, size), size);
        if task.archive.objects(&name).await.map_err(PhysicalError::Walg)?.is_empty() {
            // Another life of this timeline is found out before anything is read.
            let history = push_history(task, &server, timeline).await?;
            return Ok(Begun { task, server, started, start, timeline, name, history, warnings });
        }
        server.end().await?;
        if server.facts.is_standby {
            return Err(taken(&name, true));
        }
    }
    let why = "others take base backups of it to the same place, all the time".to_owned();
    Err(PhysicalError::Changed { why })
}

/// There is a base backup of this name, or what is left of one.
pub(super) fn taken(name: &BackupName, is_standby: bool) -> PhysicalError {
    let newer =
        if is_standby { ": a standby has nothing newer to begin with until its primary's next checkpoint" } else { "" };
    PhysicalError::Taken { name: name.to_string(), why: newer }
}

impl Begun<'_> {
    /// What the base backup is called: whoever sweeps up after one that is never finished has to know.
    pub fn name(&self) -> &BackupName {
        &self.name
    }

    /// Takes it.
    pub async fn take(self) -> Result<BaseBackup, PhysicalError> {
        let Self { task, mut server, started, start, timeline, name, history, mut warnings } = self;
        let (begun, at_least) = (server.replayed().await?, server.checkpoint_at().await?);
        let tablespaces = server.tablespaces().await?;
        let data = server.data.clone();
        let place = data.clone();
        let looked =
            blocking(move || survey(&place).map_err(|source| PhysicalError::Read { path: place, source })).await?;
        warnings.extend(looked.warnings);
        let checked_from = server.facts.checksums.then_some(start);
        let reading = Reading { checked_from, compression: task.compression };
        let mut archived = archive(task, &name, archives::spread(looked.found, task.part, threads()), reading).await?;
        let control = archives::control(&data)?;
        if redo(&control).is_none_or(|redo| redo < start) {
            return Err(PhysicalError::Changed {
                why: "its data folder is not that of the server any more".to_owned(),
            });
        }
        let codec = task.compression.codec();
        archived.add(task, &name, PartName::control(codec), &[("/global/pg_control", &control)]).await?;
        if server.tablespaces().await? != tablespaces {
            return Err(PhysicalError::Changed { why: "a tablespace was made or dropped meanwhile".to_owned() });
        }
        let (now, seen) = (Timestamp::now(), server.replayed().await?);
        moment::pass();
        let Stopped { lsn: stop, label, map } = server.end().await?;
        let from = if server.facts.is_standby {
            // It is as old as what it has replayed, and ends where that was on disk: earlier, it may be.
            server.stays_on(timeline).await?;
            recovers_to(&control, stop, timeline)?;
            let all = [begun, seen].into_iter().filter(|seen| seen.lsn.is_some_and(|lsn| lsn <= stop));
            all.filter_map(|seen| seen.at).max().unwrap_or(at_least).max(at_least)
        } else {
            now
        };
        let window = Window { from, to: Timestamp::now() };
        archived.add_label(task, &name, &label, map.as_deref()).await?;
        let mut wal = Vec::from_iter(history);
        if server.facts.is_standby {
            let size = server.facts.segment_size;
            let segments = (Segment::of(start, timeline, size), Segment::before(stop, timeline, size));
            let (session, facts) = server.session();
            wal.extend(wal_of_standby(task, session, facts, Some(&data), segments).await?);
        } else {
            wal.extend(push_wal(task, &server, (start, stop), timeline).await?);
        }
        let outside = outside(server.session().0).await;
        // Only now: its slot holds the WAL.
        let facts = server.close().await;
        let data_dir = facts.data_directory.clone().unwrap_or_else(|| data.to_string_lossy().into_owned());
        let ending = Ending {
            name,
            timeline,
            start,
            stop,
            started,
            window,
            facts,
            data_dir,
            tablespaces: looked.tablespaces,
            wal,
            outside,
            warnings,
        };
        ending.write(task, archived).await
    }
}

/// The archives that nobody reads yet.
type Queue = Mutex<VecDeque<(PartName, Vec<Found>)>>;

/// What a thread that reads sends to the store.
enum Frame {
    Begin(PartName),
    Bytes(Bytes),
    End(Packed),
}

/// Reads and stores all archives of files: as many at once as there are cores.
async fn archive(
    task: &Task<'_>,
    name: &BackupName,
    parts: Vec<Vec<Found>>,
    reading: Reading,
) -> Result<Archived, PhysicalError> {
    let codec = task.compression.codec();
    let numbered = (1..).zip(parts).map(|(number, part)| (PartName::numbered(number, codec), part));
    let queue: Arc<Queue> = Arc::new(Mutex::new(numbered.collect()));
    let mut lanes = Vec::new();
    for _ in 0..threads() {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (queue, archive, moved) = (Arc::clone(&queue), task.archive.clone(), Arc::clone(&task.moved));
        let reads = tokio::task::spawn_blocking(move || read(&queue, &archive, reading, &sender, &*moved));
        // A task of its own, as what is stored is hashed by it; it ends with us.
        let stores = AbortOnDropHandle::new(tokio::spawn(store(task.archive.clone(), name.clone(), receiver)));
        lanes.push(async move {
            let stored = stores.await;
            // One that reads is told by the channel that nobody takes what it reads; its own error says more than that.
            match reads.await.unwrap_or_else(|error| Err(panicked(&error))) {
                Ok(()) | Err(PhysicalError::BrokenOff) => stored.unwrap_or_else(|error| Err(panicked(&error))),
                Err(error) => Err(error),
            }
        });
    }
    let mut archived = Archived::default();
    for (part, packed, object) in futures::future::try_join_all(lanes).await?.into_iter().flatten() {
        archived.take_up(&part, packed, object);
    }
    Ok(archived)
}

/// Threads that read.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).min(LANES)
}

/// Reads archives one after the other, until there are no more.
fn read(
    queue: &Queue,
    archive: &Backups,
    reading: Reading,
    to: &mpsc::Sender<Frame>,
    moved: &dyn Fn(u64),
) -> Result<(), PhysicalError> {
    let mut compressor = Compressor::new(reading.compression).map_err(PhysicalError::Walg)?;
    let send = |frame| to.blocking_send(frame).map_err(|_| PhysicalError::BrokenOff);
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some((name, part)) = next else { return Ok(()) };
        send(Frame::Begin(name))?;
        let mut sealing = archive.sealing().map_err(PhysicalError::Walg)?;
        let out = |frame: &[u8]| match &mut sealing {
            None => send(Frame::Bytes(Bytes::copy_from_slice(frame))),
            Some(sealing) => send(Frame::Bytes(sealing.seal(frame).map_err(PhysicalError::Walg)?.into())),
        };
        let packed = archives::pack(&part, reading, &mut compressor, out, moved)?;
        if let Some(sealing) = sealing {
            send(Frame::Bytes(sealing.finish().map_err(PhysicalError::Walg)?.into()))?;
        }
        send(Frame::End(packed))?;
    }
}

/// Stores what a thread reads. An archive whose end does not come is given up. That an archive is on disk is waited for while
/// the next one is written.
async fn store(
    archive: Backups,
    name: BackupName,
    mut frames: mpsc::Receiver<Frame>,
) -> Result<Vec<(PartName, Packed, ObjectRef)>, PhysicalError> {
    let object = PhysicalError::Object;
    let mut stored = Vec::new();
    let mut current: Option<(PartName, ObjectWriter)> = None;
    let mut last = None;
    while let Some(frame) = frames.recv().await {
        match (frame, &mut current) {
            (Frame::Begin(part), _) => {
                let mut writer = archive.write(&name.part(&part)).map_err(object)?;
                writer.send_at_once(UPLOADS / threads());
                current = Some((part, writer));
            }
            (Frame::Bytes(bytes), Some((_, writer))) => {
                // Two uploads take twice the memory: where the store is slow, one is ended first.
                if writer.size() > AT_ONCE {
                    stored.extend(ended(last.take()).await?);
                }
                writer.write_whole(bytes).await.map_err(object)?;
            }
            (Frame::End(packed), _) => {
                let Some((part, writer)) = current.take() else { return Err(PhysicalError::BrokenOff) };
                stored.extend(ended(last.take()).await?);
                moment::pass();
                let ending = async move { Ok((part, packed, writer.finish().await.map_err(object)?)) };
                last = Some(AbortOnDropHandle::new(tokio::spawn(ending)));
            }
            (Frame::Bytes(_), None) => return Err(PhysicalError::BrokenOff),
        }
    }
    if let Some((_, writer)) = current {
        writer.abort().await;
        return Err(PhysicalError::BrokenOff);
    }
    stored.extend(ended(last).await?);
    Ok(stored)
}

/// The archive that was waited for, where there was one.
async fn ended<T>(last: Option<AbortOnDropHandle<Result<T, PhysicalError>>>) -> Result<Option<T>, PhysicalError> {
    let Some(last) = last else { return Ok(None) };
    last.await.unwrap_or_else(|error| Err(panicked(&error))).map(Some)
}

/// Has the archive hold the WAL from start to stop, which the server has in `pg_wal`: its own archiving may be late, or not be.
async fn push_wal(
    task: &Task<'_>,
    server: &Server,
    (start, stop): (Lsn, Lsn),
    timeline: Timeline,
) -> Result<Vec<ObjectRef>, PhysicalError> {
    let archive = task.archive;
    let (size, cluster) = (server.facts.segment_size, server.facts.system_identifier);
    let (mut segment, last) = (Segment::of(start, timeline, size), Segment::before(stop, timeline, size));
    let mut objects = Vec::new();
    while segment <= last {
        let name = segment.name(size);
        let path = server.data.join("pg_wal").join(&name);
        match still_there(regular::open(&path)).map_err(|source| PhysicalError::Read { path, source })? {
            Some(file) => {
                let pushed = archive.archived(&name, &Arc::new(file), cluster, task.compression).await;
                objects.push(pushed.map_err(PhysicalError::Walg)?.object);
                moment::pass();
            }
            None => match archive.find_stored(&name).await.map_err(PhysicalError::Walg)? {
                Some(object) => objects.push(object),
                None => return Err(PhysicalError::WalGone { segment: name }),
            },
        }
        segment = segment.next();
    }
    Ok(objects)
}

/// Has the archive hold how the timeline came to be.
async fn push_history(
    task: &Task<'_>,
    server: &Server,
    timeline: Timeline,
) -> Result<Option<ObjectRef>, PhysicalError> {
    if timeline == Timeline(1) {
        return Ok(None);
    }
    let (size, cluster) = (server.facts.segment_size, server.facts.system_identifier);
    let name = WalFile::History(timeline).name(size);
    let path = server.data.join("pg_wal").join(&name);
    let file = still_there(regular::open(&path)).map_err(|source| PhysicalError::Read { path, source })?;
    // A standby that was made anew may not have it.
    let Some(file) = file else { return archived_history(task, timeline, size).await.map(Some) };
    let pushed = task.archive.archived(&name, &Arc::new(file), cluster, task.compression).await;
    Ok(Some(pushed.map_err(PhysicalError::Walg)?.object))
}

/// How a timeline came to be, as the archive has it already.
pub(super) async fn archived_history(
    task: &Task<'_>,
    timeline: Timeline,
    size: SegmentSize,
) -> Result<ObjectRef, PhysicalError> {
    let name = WalFile::History(timeline).name(size);
    let object = task.archive.find_stored(&name).await.map_err(PhysicalError::Walg)?;
    object.ok_or(PhysicalError::WalGone { segment: name })
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PhysicalError> + Send + 'static,
) -> Result<T, PhysicalError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(panicked(&error)))
}

pub(super) fn panicked(error: &tokio::task::JoinError) -> PhysicalError {
    PhysicalError::Changed { why: format!("a thread of ours ended: {error}") }
}
