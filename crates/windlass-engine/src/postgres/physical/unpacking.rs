//! Takes apart the archives that a server sends, and puts ours together: on a thread, with others that compress.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;
use windlass_core::point::ObjectRef;
use windlass_core::wal::{Lsn, SegmentSize, WalFile};
use windlass_repo::format::walg::{
    BackupName, Backups, Compression, Compressor, Entries, Entry, Kind, PartName, PartWriter, Sealing,
};
use windlass_repo::object::ObjectWriter;

use super::archives::{self, Packed};
use super::base_backup::{Task, panicked, threads};
use super::error::PhysicalError;
use super::pages::{self, Condition, PAGE};
use super::survey::{first_page, is_left_out};
use crate::moment;

/// The longest file that is held in memory, but for the archives: `pg_control`, `backup_label`, `tablespace_map`.
const LONE: u64 = 16 << 20;

/// What the server sends.
pub(super) enum Feed {
    /// An archive begins.
    Archive(Of),
    Bytes(Bytes),
}

/// What an archive is of.
#[derive(Clone, Copy)]
pub(super) enum Of {
    DataFolder,
    Tablespace(u32),
}

/// What is kept of the stream beside the archives.
#[derive(Default)]
pub(super) struct Lone {
    pub(super) control: Option<Vec<u8>>,
    pub(super) label: Option<String>,
    pub(super) map: Option<String>,
}

/// What goes to the store, in order.
pub(super) enum Frame {
    Begin(PartName),
    /// A piece that is being compressed.
    Piece(JoinHandle<Result<Bytes, PhysicalError>>),
    End(Packed),
    Wal(String, File),
}

/// What was stored: archives, and WAL by its names.
#[derive(Default)]
pub(super) struct Stored {
    pub(super) parts: Vec<(PartName, Packed, ObjectRef)>,
    pub(super) wal: BTreeMap<String, ObjectRef>,
}

/// A thread that takes apart and puts together.
pub(super) struct Packing {
    checked_from: Option<Lsn>,
    is_standby: bool,
    moved: Arc<dyn Fn(u64) + Send + Sync>,
    compressors: Arc<Compressors>,
    compression: Compression,
    frames: mpsc::Sender<Frame>,
    runtime: Handle,
    writer: PartWriter,
    packed: Packed,
    /// The number of the archive.
    part: u32,
    /// Bytes of files in one, about.
    largest: u64,
    lone: Lone,
}

impl Packing {
    /// Of a standby, or not. Pages are looked at where there is a place the backup starts at. To be made where the runtime is.
    pub(super) fn new(
        is_standby: bool,
        checked_from: Option<Lsn>,
        task: &Task<'_>,
        frames: mpsc::Sender<Frame>,
    ) -> Self {
        Self {
            checked_from,
            is_standby,
            moved: Arc::clone(&task.moved),
            compressors: Arc::default(),
            compression: task.compression,
            frames,
            runtime: Handle::current(),
            writer: PartWriter::new(),
            packed: Packed::default(),
            part: 0,
            largest: task.part,
            lone: Lone::default(),
        }
    }

    /// Takes apart everything. That it ends does not mean that all of it came: that the connection says.
    pub(super) fn run(mut self, from: mpsc::Receiver<Feed>) -> Result<Lone, PhysicalError> {
        let mut stream = Stream { from, current: Bytes::new(), next: None };
        self.begin()?;
        self.folder("/", 0o700, Timestamp::now().as_second().unsigned_abs())?;
        while let Some(of) = stream.next_archive()? {
            let mut entries = Entries::new(&mut stream);
            while let Some(entry) = entries.next().map_err(failed)? {
                self.entry(of, entry, &mut entries)?;
            }
        }
        self.end()?;
        Ok(self.lone)
    }

    fn entry(&mut self, of: Of, entry: Entry, body: &mut impl Read) -> Result<(), PhysicalError> {
        let Entry { name, kind, mode, modified, size } = entry;
        let own = String::from_utf8(name).map_err(|_| wrong("a name is no text"))?;
        let own = own.trim_start_matches("./").trim_end_matches('/');
        if own.is_empty() {
            return Ok(());
        }
        if own.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(wrong(&format!("the name `{own}` leads elsewhere")));
        }
        let name = match of {
            Of::DataFolder => format!("/{own}"),
            Of::Tablespace(oid) => format!("/pg_tblspc/{oid}/{own}"),
        };
        match (kind, name.as_str()) {
            (Kind::File, "/global/pg_control") => self.lone.control = Some(whole(body)?),
            (Kind::File, "/backup_label") => {
                let label = text(body)?;
                // It comes first: a URL may lead to one server now, and to another then.
                if label.contains("BACKUP FROM: standby") != self.is_standby {
                    let why =
                        "what sends it is a standby and what was asked is none, or the other way round".to_owned();
                    return Err(PhysicalError::Stream { why });
                }
                self.lone.label = Some(label);
            }
            (Kind::File, "/tablespace_map") => self.lone.map = Some(text(body)?),
            (Kind::File, _) if name.starts_with("/pg_wal/") => self.wal(&name["/pg_wal/".len()..], body)?,
            (Kind::File | Kind::Folder, _) if is_left_out(&name) => {}
            (Kind::Folder, _) => self.folder(&name, mode, modified)?,
            (Kind::File, _) => self.file(name, mode, modified, size, body)?,
            // Links to tablespaces are told apart from the data, and `pg_wal` comes as a folder.
            (Kind::SymbolicLink | Kind::Other, _) => {
                return Err(wrong(&format!("`{name}` is neither a file nor a folder")));
            }
        }
        Ok(())
    }

    fn folder(&mut self, name: &str, mode: u32, modified: u64) -> Result<(), PhysicalError> {
        self.writer.folder(name, mode, modified).map_err(PhysicalError::Walg)?;
        let described = archives::description(archives::seconds(modified), Vec::new());
        self.packed.held.push((name.to_owned(), described));
        Ok(())
    }

    fn file(
        &mut self,
        name: String,
        mode: u32,
        modified: u64,
        size: u64,
        from: &mut impl Read,
    ) -> Result<(), PhysicalError> {
        if self.packed.file_bytes > 0 && self.packed.file_bytes.saturating_add(size) > self.largest {
            self.end()?;
            self.begin()?;
        }
        let first = first_page(&name);
        let (checked_from, moved) = (self.checked_from, Arc::clone(&self.moved));
        let mut wrong = Vec::new();
        let read = |bytes: &mut [u8], at: u64| {
            from.read_exact(bytes).map_err(failed)?;
            if let (Some(start), Some(first)) = (checked_from, first) {
                let before = u32::try_from(at / PAGE as u64).unwrap_or(u32::MAX);
                for (block, page) in (before..).zip(bytes.as_chunks::<PAGE>().0) {
                    if pages::look(page, first.saturating_add(block), start) == Condition::Wrong {
                        wrong.push(block);
                    }
                }
            }
            moved(bytes.len() as u64);
            Ok(())
        };
        self.writer.file(&name, mode & 0o7777, modified, size).map_err(PhysicalError::Walg)?;
        let (compressors, compression) = (&self.compressors, self.compression);
        let (frames, runtime) = (&self.frames, &self.runtime);
        archives::body(&mut self.writer, size, read, |piece| {
            send(frames, compressed(runtime, compressors, compression, piece))
        })?;
        self.packed.file_bytes = self.packed.file_bytes.saturating_add(size);
        self.packed.held.push((name, archives::description(archives::seconds(modified), wrong)));
        Ok(())
    }

    /// A file of WAL goes to the archive; what else lies there is no concern of ours.
    fn wal(&mut self, name: &str, from: &mut impl Read) -> Result<(), PhysicalError> {
        let is_wanted =
            matches!(WalFile::parse(name, SegmentSize::LEAST), Ok(WalFile::Segment(_) | WalFile::History(_)));
        if !is_wanted {
            return Ok(());
        }
        let mut file = tempfile::tempfile().map_err(no_room)?;
        io::copy(from, &mut file).and_then(|_| file.rewind()).map_err(no_room)?;
        send(&self.frames, Frame::Wal(name.to_owned(), file))
    }

    fn begin(&mut self) -> Result<(), PhysicalError> {
        self.part += 1;
        send(&self.frames, Frame::Begin(PartName::numbered(self.part, self.compression.codec())))
    }

    fn end(&mut self) -> Result<(), PhysicalError> {
        let mut writer = std::mem::take(&mut self.writer);
        writer.end().map_err(PhysicalError::Walg)?;
        writer.hand_out(|piece| {
            send(&self.frames, compressed(&self.runtime, &self.compressors, self.compression, piece))
        })?;
        send(&self.frames, Frame::End(std::mem::take(&mut self.packed)))
    }
}

/// Has a piece compressed by another thread.
fn compressed(runtime: &Handle, compressors: &Arc<Compressors>, compression: Compression, piece: &[u8]) -> Frame {
    let (compressors, piece) = (Arc::clone(compressors), piece.to_vec());
    Frame::Piece(runtime.spawn_blocking(move || {
        let mut compressor = compressors.take(compression)?;
        let frame = Bytes::copy_from_slice(compressor.frame(&piece).map_err(PhysicalError::Walg)?);
        compressors.put_back(compressor);
        Ok(frame)
    }))
}

/// Compressors that nobody uses just now.
#[derive(Default)]
struct Compressors(Mutex<Vec<Compressor>>);

impl Compressors {
    fn take(&self, compression: Compression) -> Result<Compressor, PhysicalError> {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.map_or_else(|| Compressor::new(compression).map_err(PhysicalError::Walg), Ok)
    }

    fn put_back(&self, compressor: Compressor) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(compressor);
    }
}

/// Where frames go, and what becomes of them. A frame waits for the one before: so many pieces are compressed at once.
pub(super) fn lanes(
    task: &Task<'_>,
    name: &BackupName,
    cluster: u64,
) -> (mpsc::Sender<Frame>, impl Future<Output = Result<Stored, PhysicalError>> + use<>) {
    let (sender, receiver) = mpsc::channel(threads());
    let stores = store(task.archive.clone(), name.clone(), cluster, task.compression, receiver);
    let stores = AbortOnDropHandle::new(tokio::spawn(stores));
    let stored = async move { stores.await.unwrap_or_else(|error| Err(panicked(&error))) };
    (sender, stored)
}

async fn store(
    archive: Backups,
    name: BackupName,
    cluster: u64,
    compression: Compression,
    mut frames: mpsc::Receiver<Frame>,
) -> Result<Stored, PhysicalError> {
    let (walg, object) = (PhysicalError::Walg, PhysicalError::Object);
    let mut stored = Stored::default();
    let mut current: Option<(PartName, ObjectWriter, Option<Sealing>)> = None;
    while let Some(frame) = frames.recv().await {
        match (frame, &mut current) {
            (Frame::Begin(part), _) => {
                let writer = archive.write(&name.part(&part)).map_err(object)?;
                current = Some((part, writer, archive.sealing().map_err(walg)?));
            }
            (Frame::Piece(piece), Some((_, writer, sealing))) => {
                let mut piece = piece.await.unwrap_or_else(|error| Err(panicked(&error)))?;
                if let Some(sealing) = sealing {
                    piece = sealing.seal(&piece).map_err(walg)?.into();
                }
                writer.write_whole(piece).await.map_err(object)?;
            }
            (Frame::End(packed), _) => {
                let Some((part, mut writer, sealing)) = current.take() else { return Err(PhysicalError::BrokenOff) };
                if let Some(sealing) = sealing {
                    writer.write_whole(sealing.finish().map_err(walg)?.into()).await.map_err(object)?;
                }
                moment::pass();
                stored.parts.push((part, packed, writer.finish().await.map_err(object)?));
            }
            (Frame::Wal(file, content), _) => {
                let archived = archive.archived(&file, &Arc::new(content), cluster, compression).await;
                stored.wal.insert(file, archived.map_err(walg)?.object);
            }
            (Frame::Piece(_), None) => return Err(PhysicalError::BrokenOff),
        }
    }
    match current {
        None => Ok(stored),
        Some((_, writer, _)) => {
            writer.abort().await;
            Err(PhysicalError::BrokenOff)
        }
    }
}

/// The bytes of an archive, which ends where the next one begins.
struct Stream {
    from: mpsc::Receiver<Feed>,
    current: Bytes,
    next: Option<Of>,
}

impl Stream {
    /// Goes on to the next archive, behind what is left of this one.
    fn next_archive(&mut self) -> Result<Option<Of>, PhysicalError> {
        io::copy(self, &mut io::sink()).map_err(failed)?;
        Ok(self.next.take())
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            if self.next.is_some() {
                return Ok(0);
            }
            match self.from.blocking_recv() {
                None => return Ok(0),
                Some(Feed::Archive(of)) => self.next = Some(of),
                Some(Feed::Bytes(bytes)) => self.current = bytes,
            }
        }
        let length = self.current.len().min(into.len());
        self.current.copy_to_slice(&mut into[..length]);
        Ok(length)
    }
}

fn whole(body: &mut impl Read) -> Result<Vec<u8>, PhysicalError> {
    let mut content = Vec::new();
    body.take(LONE).read_to_end(&mut content).map_err(failed)?;
    Ok(content)
}

fn text(body: &mut impl Read) -> Result<String, PhysicalError> {
    String::from_utf8(whole(body)?).map_err(|_| wrong("its label is no text"))
}

fn send(frames: &mpsc::Sender<Frame>, frame: Frame) -> Result<(), PhysicalError> {
    frames.blocking_send(frame).map_err(|_| PhysicalError::BrokenOff)
}

#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn failed(error: io::Error) -> PhysicalError {
    wrong(&error.to_string())
}

/// The folder for temporary files is full, or is not there.
pub(super) fn no_room(source: io::Error) -> PhysicalError {
    PhysicalError::Write { path: std::env::temp_dir(), source }
}

fn wrong(why: &str) -> PhysicalError {
    PhysicalError::Stream { why: format!("what it sent is no archive: {why}") }
}
