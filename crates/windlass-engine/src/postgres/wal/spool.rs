//! Files of WAL that wait on this machine for their store: as they are going to be stored, in a folder, and never more than a bound.
//!
//! A server whose WAL is not taken keeps it, until its disk is full and it stops. Where the settings allow a spool, a file that the
//! store cannot take now is put there and the server told that it is done: it is durable here, on the machine that would have kept it
//! anyway, and on a disk that may be another one. It does not count as archived, for nothing here says so: what can be restored is
//! asked of the repository alone.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::moment;

/// How the names of objects begin that the archive refused.
const REFUSED: &str = "refused-";

/// How the names begin of what is not written to its end.
const PART: &str = ".part-";

/// Folders that are made with that of a spool, and have to be durable as well.
const ABOVE: usize = 3;

/// A spool of one cluster's WAL.
#[derive(Clone, Debug)]
pub struct Spool {
    folder: PathBuf,
    bound: u64,
}

impl Spool {
    /// In a folder, of at most so many bytes.
    pub fn new(folder: PathBuf, bound: u64) -> Self {
        Self { folder, bound }
    }

    /// What the archive refused, as [`Spool::waiting`] tells it; it stays until somebody looks at it.
    pub fn refused(&self) -> io::Result<Vec<(String, u64)>> {
        self.held(true)
    }

    /// What waits: the names of objects with their bytes, in the order of their names.
    pub fn waiting(&self) -> io::Result<Vec<(String, u64)>> {
        self.held(false)
    }

    fn held(&self, is_refused: bool) -> io::Result<Vec<(String, u64)>> {
        let mut waiting = Vec::new();
        for entry in self.entries()? {
            let name = entry.file_name().to_string_lossy().into_owned();
            // One that was not written to its end was told to nobody.
            if !name.starts_with(PART) && name.starts_with(REFUSED) == is_refused {
                waiting.push((name, entry.metadata()?.len()));
            }
        }
        waiting.sort();
        Ok(waiting)
    }

    fn entries(&self) -> io::Result<Vec<fs::DirEntry>> {
        match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => entries?.collect(),
        }
    }

    /// Whether an object of this name waits.
    pub fn holds(&self, object: &str) -> bool {
        self.path(object).exists()
    }

    /// Puts an object there; when this returns it is durable. One of this name stays as it is, and is an error.
    pub fn put(&self, object: &str, pieces: &[impl AsRef<[u8]>]) -> io::Result<()> {
        let path = self.path(object);
        let needed: u64 = pieces.iter().map(|piece| piece.as_ref().len() as u64).sum();
        let held: u64 = self.waiting()?.iter().chain(&self.refused()?).map(|(_, bytes)| bytes).sum();
        if held + needed > self.bound {
            let (held, bound) = (windlass_core::size::display(held), windlass_core::size::display(self.bound));
            return Err(io::Error::other(format!("it holds {held}, and may hold {bound}")));
        }
        if !self.folder.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            for above in self.folder.ancestors().skip(1).take(ABOVE) {
                File::open(above)?.sync_all()?;
            }
        }
        let mut part = tempfile::Builder::new().prefix(PART).tempfile_in(&self.folder)?;
        pieces.iter().try_for_each(|piece| part.write_all(piece.as_ref()))?;
        part.as_file().sync_all()?;
        moment::pass();
        part.persist_noclobber(&path).map_err(|error| error.error)?;
        moment::pass();
        File::open(&self.folder)?.sync_all()
    }

    /// Removes what was begun by one that was killed: it was told to nobody.
    pub fn tidy(&self) -> io::Result<()> {
        for entry in self.entries()? {
            if entry.file_name().to_string_lossy().starts_with(PART) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Puts aside what the archive refuses, so that it holds up nothing else.
    pub fn refuse(&self, object: &str) -> io::Result<()> {
        let name = self.path(object).file_name().unwrap_or_default().to_string_lossy().into_owned();
        fs::rename(self.path(object), self.folder.join(format!("{REFUSED}{name}")))?;
        File::open(&self.folder)?.sync_all()
    }

    /// The bytes of an object that waits.
    pub fn get(&self, object: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path(object))
    }

    /// Takes an object out that is in the store now.
    pub fn remove(&self, object: &str) -> io::Result<()> {
        fs::remove_file(self.path(object))
    }

    fn path(&self, object: &str) -> PathBuf {
        self.folder.join(Path::new(object).file_name().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_no_more_than_its_bound_and_what_was_put_stays() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::new(folder.path().join("spool"), 10);
        assert!(spool.waiting().unwrap().is_empty());
        spool.put("wal_005/2.zst", &[b"1234"]).unwrap();
        spool.put("wal_005/1.zst", &[b"12", b"34"]).unwrap();
        assert!(spool.holds("1.zst") && spool.put("wal_005/1.zst", &[b"x"]).is_err());
        assert_eq!(spool.get("1.zst").unwrap(), b"1234");
        let full = spool.put("wal_005/3.zst", &[b"1234"]).unwrap_err().to_string();
        assert!(full.contains("may hold 10 B"), "{full}");
        assert_eq!(spool.waiting().unwrap(), [("1.zst".to_owned(), 4), ("2.zst".to_owned(), 4)]);
        spool.remove("1.zst").unwrap();
        spool.put("wal_005/3.zst", &[b"1234"]).unwrap();
        spool.refuse("2.zst").unwrap();
        assert_eq!(spool.waiting().unwrap(), [("3.zst".to_owned(), 4)]);
        assert_eq!(spool.refused().unwrap(), [("refused-2.zst".to_owned(), 4)]);
        assert!(spool.put("wal_005/4.zst", &[b"1234"]).is_err(), "what was refused takes room as well");
        fs::write(folder.path().join("spool/.part-killed"), "12").unwrap();
        assert_eq!(spool.waiting().unwrap().len(), 1);
        spool.tidy().unwrap();
        assert_eq!(fs::read_dir(folder.path().join("spool")).unwrap().count(), 2);
    }
}
