//! Writes an archive of a base backup, as bytes that are compressed piece by piece.
//!
//! Entries go in one behind the other; out come pieces of [`FRAME`] bytes, in order, which are compressed side by side by as
//! many threads as there are and stored one behind the other ([`super::Compressor`]). Nothing is kept but the piece that is
//! not full yet.

use super::archive::{BLOCK, Entry, Kind};
use super::{FRAME, WalgError};

/// An archive on its way.
#[derive(Default)]
pub struct PartWriter {
    /// What was not handed out yet.
    plain: Vec<u8>,
    /// What is missing of the current file's body.
    body: u64,
    /// Its size, from which what fills it up is known.
    size: u64,
    written: u64,
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
        self.body =
            self.body.checked_sub(bytes.len() as u64).ok_or_else(|| failed("a file is larger than was said"))?;
        self.push(bytes);
        if self.body == 0 {
            self.fill_up();
        }
        Ok(())
    }

    /// What is missing of the current file's body: a file that became shorter while it was read is filled up with zeros, which
    /// the WAL puts right.
    pub fn missing(&self) -> u64 {
        self.body
    }

    /// Bytes so far, before compression: by them one decides to go on with another archive.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// A piece to compress, once there is a full one.
    pub fn piece(&mut self) -> Option<Vec<u8>> {
        if self.plain.len() < FRAME {
            return None;
        }
        let rest = self.plain.split_off(FRAME);
        Some(std::mem::replace(&mut self.plain, rest))
    }

    /// Ends the archive. The pieces that are left, the last of them not full.
    pub fn finish(mut self) -> Result<Vec<Vec<u8>>, WalgError> {
        self.must_be_whole()?;
        self.push(&[0; 2 * BLOCK]);
        let mut pieces: Vec<_> = std::iter::from_fn(|| self.piece()).collect();
        if !self.plain.is_empty() {
            pieces.push(self.plain);
        }
        Ok(pieces)
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

    fn fill_up(&mut self) {
        let missing = std::mem::take(&mut self.size).wrapping_neg() % BLOCK as u64;
        self.push(&[0; BLOCK][..usize::try_from(missing).unwrap_or_default()]);
    }

    fn push(&mut self, bytes: &[u8]) {
        self.plain.extend_from_slice(bytes);
        self.written += bytes.len() as u64;
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
        for piece in large.chunks(300_000) {
            part.body(piece).unwrap();
            while let Some(piece) = part.piece() {
                assert_eq!(piece.len(), FRAME);
                stored.extend(compressor.frame(&piece).unwrap());
            }
        }
        part.file("base/small", 0o640, 8, 3).unwrap();
        part.body(b"abc").unwrap();
        for piece in part.finish().unwrap() {
            stored.extend(compressor.frame(&piece).unwrap());
        }
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
        assert!(part.finish().is_ok());
    }
}
