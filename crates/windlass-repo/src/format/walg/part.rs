//! Writes an archive of a base backup, as bytes that are compressed piece by piece.
//!
//! Entries go in one behind the other; out come pieces of [`FRAME`] bytes, in order, each to be compressed by itself
//! ([`super::Compressor`]) and stored behind the one before. Nothing is kept but the piece that is not full yet, and files can be
//! read right into it.

use super::archive::{BLOCK, Entry, Kind};
use super::{FRAME, WalgError};

/// An archive on its way.
pub struct PartWriter {
    /// The piece that is not full yet, and a header that goes on in the next one.
    plain: Vec<u8>,
    /// How much of it there is.
    filled: usize,
    /// What is missing of the current file's body.
    body: u64,
    /// Its size, from which what fills it up is known.
    size: u64,
    is_ended: bool,
}

impl Default for PartWriter {
    fn default() -> Self {
        Self { plain: vec![0; FRAME], filled: 0, body: 0, size: 0, is_ended: false }
    }
}

impl PartWriter {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// A folder: `/`, `/base/1`.
    pub fn folder(&mut self, name: &str, mode: u32, modified: u64) -> Result<(), WalgError> {
        self.entry(name, Kind::Folder, mode, modified, 0)
    }

    /// A file, whose body of this size must follow. `modified` are seconds since 1970.
    pub fn file(&mut self, name: &str, mode: u32, modified: u64, size: u64) -> Result<(), WalgError> {
        self.entry(name, Kind::File, mode, modified, size)
    }

    /// The next bytes of the current file's body. More than its size are an error: the header is gone by then.
    pub fn body(&mut self, bytes: &[u8]) -> Result<(), WalgError> {
        self.take_up(bytes.len())?;
        self.push(bytes);
        self.fill_up();
        Ok(())
    }

    /// Bytes of the body that fit into the current piece.
    pub fn room(&self) -> usize {
        FRAME.saturating_sub(self.filled)
    }

    /// The next bytes of the current file's body, to be written in place: as many as asked for, or as there is [room](Self::room)
    /// for. They count once they are [there](Self::wrote).
    pub fn place(&mut self, wanted: usize) -> &mut [u8] {
        let end = self.filled + wanted.min(self.room());
        &mut self.plain[self.filled..end]
    }

    /// So many bytes of the last [place](Self::place) are there.
    pub fn wrote(&mut self, bytes: usize) -> Result<(), WalgError> {
        self.take_up(bytes)?;
        self.filled += bytes;
        self.fill_up();
        Ok(())
    }

    /// What is missing of the current file's body: a file that became shorter while it was read is filled up with zeros, which
    /// the WAL puts right.
    pub fn missing(&self) -> u64 {
        self.body
    }

    /// Hands out the pieces that are full, and at the [end](Self::end) the rest. To be called often: what is not handed out stays
    /// in memory.
    pub fn hand_out<E>(&mut self, mut out: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        while self.filled >= FRAME || self.is_ended && self.filled > 0 {
            let length = self.filled.min(FRAME);
            out(&self.plain[..length])?;
            self.plain.copy_within(length..self.filled, 0);
            self.filled -= length;
        }
        Ok(())
    }

    /// Ends the archive.
    pub fn end(&mut self) -> Result<(), WalgError> {
        self.must_be_whole()?;
        self.push(&[0; 2 * BLOCK]);
        self.is_ended = true;
        Ok(())
    }

    fn entry(&mut self, name: &str, kind: Kind, mode: u32, modified: u64, size: u64) -> Result<(), WalgError> {
        self.must_be_whole()?;
        let header = Entry { name: name.into(), kind, mode, modified, size }.header();
        self.push(&header);
        (self.body, self.size) = (size, size);
        Ok(())
    }

    fn must_be_whole(&self) -> Result<(), WalgError> {
        if self.body == 0 { Ok(()) } else { Err(failed("a file is shorter than was said")) }
    }

    fn take_up(&mut self, bytes: usize) -> Result<(), WalgError> {
        self.body = self.body.checked_sub(bytes as u64).ok_or_else(|| failed("a file is larger than was said"))?;
        Ok(())
    }

    /// Behind the last byte of a body: an entry is as long as its blocks.
    fn fill_up(&mut self) {
        if self.body == 0 {
            let missing = std::mem::take(&mut self.size).wrapping_neg() % BLOCK as u64;
            self.push(&[0; BLOCK][..usize::try_from(missing).unwrap_or_default()]);
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let end = self.filled + bytes.len();
        if end > self.plain.len() {
            self.plain.resize(end, 0);
        }
        self.plain[self.filled..end].copy_from_slice(bytes);
        self.filled = end;
    }
}

fn failed(why: &str) -> WalgError {
    WalgError::Pack { why: why.to_owned() }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "the numbers of tests are small, or meant to be cut")]
mod tests {
    use std::process::Command;

    use super::PartWriter;
    use crate::format::walg::{Compression, Compressor, FRAME};

    #[test]
    fn gnu_tar_unpacks_what_was_packed_in_pieces() {
        let large: Vec<u8> = (0..10_000_000_u32).map(|index| (index / 7) as u8).collect();
        let mut part = PartWriter::new();
        let mut compressor = Compressor::new(Compression::default()).unwrap();
        let mut stored = Vec::new();
        part.folder("base", 0o700, 5).unwrap();
        part.file("base/empty", 0o600, 6, 0).unwrap();
        part.file("base/large", 0o600, 7, large.len() as u64).unwrap();
        let mut rest = &large[..];
        while !rest.is_empty() {
            // By turns handed over, and written in place.
            let (given, behind) = rest.split_at(rest.len().min(300_000));
            part.body(given).unwrap();
            let placed = part.place(behind.len().min(200_000));
            let (written, behind) = behind.split_at(placed.len());
            placed.copy_from_slice(written);
            part.wrote(written.len()).unwrap();
            rest = behind;
            part.hand_out(|piece| {
                assert_eq!(piece.len(), FRAME);
                compressor.frame(piece).map(|frame| stored.extend(frame))
            })
            .unwrap();
        }
        part.file("base/small", 0o640, 8, 3).unwrap();
        part.body(b"abc").unwrap();
        part.end().unwrap();
        part.hand_out(|piece| compressor.frame(piece).map(|frame| stored.extend(frame))).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("part_001.tar.zst"), stored).unwrap();
        let tar = Command::new("tar")
            .arg("-C")
            .arg(folder.path())
            .args(["--zstd", "-xf", "part_001.tar.zst"])
            .current_dir(folder.path())
            .status()
            .unwrap();
        assert!(tar.success());
        assert!(std::fs::read(folder.path().join("base/large")).unwrap() == large);
        assert_eq!(std::fs::read(folder.path().join("base/small")).unwrap(), b"abc");
        assert_eq!(std::fs::read(folder.path().join("base/empty")).unwrap(), b"");
    }

    #[test]
    fn a_body_that_is_not_as_long_as_was_said_is_an_error() {
        let mut part = PartWriter::new();
        part.file("a", 0o600, 0, 4).unwrap();
        part.body(b"abc").unwrap();
        assert_eq!(part.missing(), 1);
        assert!(part.file("b", 0o600, 0, 1).is_err());
        assert!(part.body(b"de").is_err());
        part.body(b"d").unwrap();
        assert!(part.end().is_ok());
    }
}
