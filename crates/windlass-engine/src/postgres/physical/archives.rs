//! Reads the files of a data folder into archives: on threads, page by page, a piece at a time.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use windlass_core::wal::Lsn;
use windlass_repo::format::walg::{Compression, Compressor, CorruptBlocks, FileDescription, PartWriter, WalgError};
use windlass_repo::regular;

use super::error::PhysicalError;
use super::pages::{self, Condition, PAGE};
use super::survey::{Found, What, still_there};

/// Bytes of files in an archive, about: a larger file has one of its own. What is lost with an archive, and how evenly they
/// are spread over threads that restore, both go by it.
pub const PART: u64 = 256 << 20;

/// Of the last ones, which are smaller, so that all threads end at about the same time.
const LEAST: u64 = 32 << 20;

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// How often a page that is not right is read anew, and how long is waited in between: it may be written just then.
const LOOKS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// Wrong pages of a file after which no more are read anew.
const PATIENT: usize = 32;

/// Wrong pages of a file that are named in the backup's document; the rest are counted.
const NAMED: usize = 10;

/// How files are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// Where the backup began; `None` where the cluster has no checksums.
    pub(super) checked_from: Option<Lsn>,
    pub(super) compression: Compression,
}

/// What became of an archive.
#[derive(Debug, Default)]
pub(super) struct Packed {
    /// What is in it, by name.
    pub(super) held: Vec<(String, FileDescription)>,
    /// Bytes of its files.
    pub(super) file_bytes: u64,
}

/// Spreads what was found over archives of so many bytes, which so many threads take one after the other: the largest files first,
/// all folders in the first archive.
pub(super) fn spread(found: Vec<Found>, part: u64, threads: usize) -> Vec<Vec<Found>> {
    let size = |found: &Found| if let What::File { size, .. } = found.what { size } else { 0 };
    let (folders, mut files): (Vec<Found>, Vec<Found>) =
        found.into_iter().partition(|found| found.what == What::Folder);
    files.sort_by_key(|found| std::cmp::Reverse(size(found)));
    let mut left: u64 = files.iter().map(size).sum();
    let mut parts = vec![folders];
    let (mut filled, mut room) = (0, part);
    for file in files {
        let size = size(&file);
        if filled > 0 && filled + size > room {
            parts.push(Vec::new());
            (filled, room) = (0, (left / (2 * threads as u64)).clamp(LEAST.min(part), part));
        }
        (filled, left) = (filled + size, left - size);
        if let Some(part) = parts.last_mut() {
            part.push(file);
        }
    }
    parts
}

/// Reads an archive's files, and hands out its compressed frames in order.
pub(super) fn pack(
    part: &[Found],
    reading: Reading,
    compressor: &mut Compressor,
    mut out: impl FnMut(&[u8]) -> Result<(), PhysicalError>,
    moved: &dyn Fn(u64),
) -> Result<Packed, PhysicalError> {
    let walg = PhysicalError::Walg;
    let mut packed = Packed::default();
    let mut writer = PartWriter::new();
    let mut compressed = |piece: &[u8]| out(compressor.frame(piece).map_err(walg)?);
    for found in part {
        let failed = |source| PhysicalError::Read { path: found.path.clone(), source };
        match found.what {
            What::Folder => {
                writer.folder(&found.name, found.mode, found.modified).map_err(PhysicalError::Walg)?;
                packed.held.push((found.name.clone(), description(seconds(found.modified), Vec::new())));
            }
            What::File { first_page, .. } => {
                // It may have become unlogged since the folder was listed: recovery makes it anew.
                if found.init.as_ref().is_some_and(|init| init.exists()) {
                    continue;
                }
                let Some(file) = still_there(regular::open(&found.path)).map_err(failed)? else { continue };
                let is = file.metadata().map_err(failed)?;
                let modified = u64::try_from(is.mtime()).unwrap_or_default();
                writer.file(&found.name, found.mode, modified, is.size()).map_err(PhysicalError::Walg)?;
                let mut wrong = Vec::new();
                let size = is.size();
                let read = |bytes: &mut [u8], at: u64| {
                    // What became shorter meanwhile is filled up with zeros: the WAL puts it right.
                    fill(&file, bytes, at).map_err(failed)?;
                    if let (Some(start), Some(first)) = (reading.checked_from, first_page) {
                        check(&file, bytes, at, first, start, &mut wrong).map_err(failed)?;
                    }
                    moved(bytes.len() as u64);
                    Ok(())
                };
                body(&mut writer, size, read, &mut compressed)?;
                packed.file_bytes += size;
                let modified = is.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
                packed.held.push((found.name.clone(), description(modified.unwrap_or_default(), wrong)));
            }
        }
    }
    writer.end().map_err(walg)?;
    writer.hand_out(compressed)?;
    Ok(packed)
}

/// Reads a file's body into an archive, from its beginning to its end, and hands out the pieces that become full. `read` is given
/// whole pages, but at the end.
pub(super) fn body(
    writer: &mut PartWriter,
    size: u64,
    mut read: impl FnMut(&mut [u8], u64) -> Result<(), PhysicalError>,
    mut full: impl FnMut(&[u8]) -> Result<(), PhysicalError>,
) -> Result<(), PhysicalError> {
    let walg = PhysicalError::Walg;
    let (mut at, mut straddling) = (0, [0; PAGE]);
    while at < size {
        let wanted = usize::try_from(size - at).unwrap_or(CHUNK).min(CHUNK);
        // Into place, but for a page that goes on in the next piece.
        let fits = if wanted <= writer.room() { wanted } else { writer.room() / PAGE * PAGE };
        let length = if fits == 0 {
            let page = &mut straddling[..wanted.min(PAGE)];
            read(page, at)?;
            writer.body(page).map_err(walg)?;
            page.len()
        } else {
            read(writer.place(fits), at)?;
            writer.wrote(fits).map_err(walg)?;
            fits
        };
        writer.hand_out(&mut full)?;
        at += length as u64;
    }
    Ok(())
}

/// An archive of files that are in memory.
pub(super) fn pack_bytes(
    files: &[(&str, &[u8])],
    compressor: &mut Compressor,
    mut out: impl FnMut(&[u8]),
) -> Result<(), WalgError> {
    let mut writer = PartWriter::new();
    let now = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
    for (name, bytes) in files {
        writer.file(name, 0o600, now, bytes.len() as u64)?;
        if !bytes.is_empty() {
            writer.body(bytes)?;
        }
    }
    writer.end()?;
    writer.hand_out(|piece| compressor.frame(piece).map(&mut out))
}

pub(super) fn description(modified: Timestamp, wrong: Vec<u32>) -> FileDescription {
    let corrupt_blocks = (!wrong.is_empty()).then(|| CorruptBlocks {
        corrupt_blocks_count: wrong.len() as u64,
        some_corrupt_blocks: wrong.into_iter().take(NAMED).collect(),
    });
    FileDescription { is_incremented: false, is_skipped: false, modified, updates_count: 0, corrupt_blocks }
}

pub(super) fn seconds(since: u64) -> Timestamp {
    Timestamp::from_second(i64::try_from(since).unwrap_or_default()).unwrap_or_default()
}

/// Reads as much as there is, and zeros behind it.
fn fill(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], at + filled as u64) {
            Ok(0) => {
                bytes[filled..].fill(0);
                return Ok(());
            }
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Looks at every whole page of a chunk; notes those that stay wrong however often they are read, by their number in the file.
fn check(file: &File, bytes: &mut [u8], at: u64, first: u32, start: Lsn, wrong: &mut Vec<u32>) -> io::Result<()> {
    let before = u32::try_from(at / PAGE as u64).unwrap_or(u32::MAX);
    for (index, page) in bytes.as_chunks_mut::<PAGE>().0.iter_mut().enumerate() {
        let block = before.saturating_add(u32::try_from(index).unwrap_or(u32::MAX));
        let mut looks = 0;
        while pages::look(page, first.saturating_add(block), start) == Condition::Wrong {
            looks += 1;
            // A disk that loses pages loses many: they are not waited for one by one.
            if looks == LOOKS || wrong.len() >= PATIENT {
                wrong.push(block);
                break;
            }
            std::thread::sleep(PAUSE);
            fill(file, page, u64::from(block) * PAGE as u64)?;
        }
    }
    Ok(())
}

/// Reads `pg_control` until its checksum is right: the server may write it meanwhile.
pub(super) fn control(data: &Path) -> Result<Vec<u8>, PhysicalError> {
    let path = data.join("global/pg_control");
    let failed = |source| PhysicalError::Read { path: path.clone(), source };
    for _ in 0..LOOKS {
        let mut bytes = Vec::new();
        regular::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(failed)?;
        if is_whole(&bytes) {
            return Ok(bytes);
        }
        std::thread::sleep(PAUSE);
    }
    Err(failed(io::Error::other("its checksum is wrong, however often it is read")))
}

/// Whether the CRC-32C in `pg_control` is right. Where it is depends on the version, between 200 and 512 bytes in; that another
/// place would hold the checksum of what is before it by chance is one in fifty million.
pub(super) fn is_whole(control: &[u8]) -> bool {
    let digest = |bytes: &[u8]| crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    let at = |place: usize| control.get(place..place + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    (200..512).step_by(4).any(|place| at(place).is_some_and(|sum| u64::from(sum) == digest(&control[..place])))
}
