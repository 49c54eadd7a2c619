//! Writes the bodies of files: small ones through the page cache in small writes, large ones past it.
//!
//! A large write through the page cache costs several times what the disk takes for it, and pushes out what a database beside
//! this one has cached. Where a file system does not take direct writes, everything goes through the cache.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::error::Fault;
use super::open::fill;

/// Files from this size on are written past the page cache.
const LARGE: u64 = 1 << 20;

/// Bytes written at once past the page cache, and through it.
const DIRECT: usize = 1 << 20;
const CACHED: usize = 128 << 10;

/// What direct writes must begin at and be multiples of, in memory and in the file; no disk asks for more.
const ALIGNMENT: usize = 4096;

/// Memory to write from, which one thread uses for one file after the other.
pub(super) struct Room {
    bytes: Vec<u8>,
    start: usize,
}

impl Room {
    pub(super) fn new() -> Self {
        let bytes = vec![0; DIRECT + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { bytes, start }
    }

    /// Writes a body into a new file, to its end. Returns its bytes.
    pub(super) fn copy(&mut self, from: &mut impl Read, size: u64, file: &File) -> io::Result<u64> {
        let mut direct = size >= LARGE && set_direct(file, true).is_ok();
        let mut at = 0;
        loop {
            let room = &mut self.bytes[self.start..][..if direct { DIRECT } else { CACHED }];
            let read = fill(from, room)?;
            if read == 0 {
                return Ok(at);
            }
            let mut rest = &room[..read];
            if direct {
                let (aligned, tail) = rest.split_at(read - read % ALIGNMENT);
                match file.write_all_at(aligned, at) {
                    Ok(()) => (rest, at) = (tail, at + aligned.len() as u64),
                    // It is only found here that the file system does not take them: all of it is written again.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                    Err(error) => return Err(Fault::Target(error).into()),
                }
                if !rest.is_empty() {
                    set_direct(file, false).map_err(Fault::Target)?;
                    direct = false;
                }
            }
            for piece in rest.chunks(CACHED) {
                file.write_all_at(piece, at).map_err(Fault::Target)?;
                at += piece.len() as u64;
            }
        }
    }
}

fn set_direct(file: &File, direct: bool) -> io::Result<()> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, direct);
    Ok(fcntl_setfl(file, flags)?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{ALIGNMENT, Room};

    #[test]
    fn every_size_arrives_wherever_it_is_written() {
        let mut room = Room::new();
        assert_eq!(room.bytes[room.start..].as_ptr().align_offset(ALIGNMENT), 0);
        let content: Vec<u8> = (0..3_500_000_u32).flat_map(u32::to_le_bytes).take(3_500_000).collect();
        // A disk, and memory, where direct writes are not always taken.
        for place in ["/var/tmp", "/dev/shm"].map(Path::new) {
            let folder = tempfile::tempdir_in(place).unwrap();
            for size in [0, 1, 8192, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (2 << 20) + 8192, 3_500_000] {
                let path = folder.path().join("file");
                let file = std::fs::File::create(&path).unwrap();
                let copied = room.copy(&mut &content[..size], size as u64, &file).unwrap();
                assert_eq!(copied, size as u64);
                assert!(std::fs::read(&path).unwrap() == content[..size], "{} {size}", place.display());
            }
        }
    }
}
