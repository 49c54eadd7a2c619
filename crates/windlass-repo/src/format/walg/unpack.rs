//! Unpacks the archives of base backups into a [`Target`].
//!
//! Archives of one backup may be unpacked in any order and side by side, each by a thread of its own; those of the next in the
//! chain only when all of one are ([`Step::check`]). Memory is that of a codec and a piece of a file. What an archive holds
//! beside what the backup's list names is left out; what no base backup holds at all is refused, and so is the archive.

use std::io::Read;
use std::sync::atomic::Ordering;

use super::archive::{Entries, Entry, Kind};
use super::body::Room;
use super::open::open;
use super::target::{self, Below, CONTROL, LABEL, MAP, Target};
use super::{PartName, SealKey, Step, WalgError, increment};

/// The largest file there may be.
const LARGEST: u64 = 1 << 40;

/// The largest of the files that begin recovery; they are kept in memory.
const LARGEST_LAST: u64 = 1 << 20;

/// What was unpacked of an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, or changed pages of them.
    pub files: u64,
    /// Bytes written into them.
    pub bytes: u64,
}

/// One of a backup's archives, as it is in the store.
pub struct Archive<'a, R> {
    /// Its name, by which it is opened.
    pub name: &'a PartName,
    /// The key it is sealed with.
    pub key: Option<&'a SealKey>,
    /// Its bytes.
    pub stored: R,
    /// Whether it was begun before, and what is there of it may be overwritten.
    pub again: bool,
}

impl Target {
    /// Unpacks an archive.
    pub fn unpack<R: Read + Send>(&self, step: &Step, archive: Archive<'_, R>) -> Result<Unpacked, WalgError> {
        self.unpack_noting(step, archive).map(|(unpacked, _)| unpacked)
    }

    /// The same, with the entries that the backup's list names; none where something of it is kept for the end.
    pub(super) fn unpack_noting<R: Read + Send>(
        &self,
        step: &Step,
        archive: Archive<'_, R>,
    ) -> Result<(Unpacked, Option<Vec<String>>), WalgError> {
        let object = step.backup.part(archive.name);
        let reader = open(&object, archive.name.codec(), archive.key, archive.stored)?;
        let entries = Entries::new(reader);
        let (names, is_for_last, again) = (Vec::new(), false, archive.again);
        let unpacking = Unpacking { target: self, step, object: &object, again, entries, names, is_for_last };
        unpacking.run()
    }
}

struct Unpacking<'a, R> {
    target: &'a Target,
    step: &'a Step,
    object: &'a str,
    again: bool,
    entries: Entries<R>,
    names: Vec<String>,
    is_for_last: bool,
}

impl<R: Read> Unpacking<'_, R> {
    fn run(mut self) -> Result<(Unpacked, Option<Vec<String>>), WalgError> {
        let mut done = Unpacked::default();
        let mut room = Room::new();
        while let Some(entry) = self.entries.next().map_err(|error| WalgError::of_read(self.object, error))? {
            let below = target::below(&entry.name).map_err(|why| self.hostile(&entry, why))?;
            let below: Vec<_> = below.iter().map(AsRef::as_ref).collect();
            if let Some(bytes) = self.entry(&entry, &below, &mut room)? {
                done.files += 1;
                done.bytes += bytes;
            }
        }
        Ok((done, (!self.is_for_last).then_some(self.names)))
    }

    fn hostile(&self, entry: &Entry, why: &'static str) -> WalgError {
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        WalgError::Hostile { object: self.object.to_owned(), name, why }
    }

    /// Bytes written, where it is a file that was meant.
    fn entry(&mut self, entry: &Entry, below: &Below<'_>, room: &mut Room) -> Result<Option<u64>, WalgError> {
        match entry.kind {
            Kind::File | Kind::Folder => {}
            // A stream of `pg_basebackup` holds the links that were made from what the sentinel says.
            Kind::SymbolicLink if self.target.is_link(below) => return Ok(None),
            Kind::SymbolicLink | Kind::Other => {
                return Err(self.hostile(entry, "it is neither a file nor a folder"));
            }
        }
        let path: std::path::PathBuf = below.iter().collect();
        if let Some(last) = [LABEL, MAP, CONTROL].into_iter().find(|last| path.as_os_str() == *last) {
            self.is_for_last = true;
            return self.keep_for_last(last, entry);
        }
        let name = String::from_utf8_lossy(&entry.name);
        let wanted = match &self.step.wanted {
            None => None,
            Some(wanted) => match wanted.get(&*name) {
                Some(wanted) => Some(wanted),
                None => return Ok(None),
            },
        };
        if wanted.is_some() {
            self.names.push(name.clone().into_owned());
        }
        if entry.kind == Kind::Folder {
            self.target.make_folder(below, entry.mode)?;
            if let Some(wanted) = wanted {
                wanted.is_there.store(true, Ordering::Relaxed);
            }
            return Ok(None);
        }
        if below.is_empty() {
            return Err(self.hostile(entry, "it is a file where the data folder is"));
        }
        if entry.size > LARGEST {
            return Err(self.hostile(entry, "it is larger than any file should be"));
        }
        if !self.again && wanted.is_some_and(|wanted| wanted.is_there.load(Ordering::Relaxed)) {
            return Err(self.hostile(entry, "it is there twice"));
        }
        let bytes = if wanted.is_some_and(|wanted| wanted.is_increment) {
            self.pages(entry, below)
        } else {
            self.file(entry, below, room)
        }?;
        if let Some(wanted) = wanted {
            wanted.is_there.store(true, Ordering::Relaxed);
        }
        Ok(Some(bytes))
    }

    fn file(&mut self, entry: &Entry, below: &Below<'_>, room: &mut Room) -> Result<u64, WalgError> {
        let file = match self.target.make_file(below, entry.mode, self.again) {
            Err(WalgError::Target { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(self.hostile(entry, "it is there twice"));
            }
            made => made?,
        };
        let copied = room.copy(&mut self.entries, entry.size, &file);
        copied.map_err(|error| {
            self.target.remove(below);
            WalgError::of_copy(self.object, &self.target.path_of(below), error)
        })
    }

    fn pages(&mut self, entry: &Entry, below: &Below<'_>) -> Result<u64, WalgError> {
        let file = self.target.open_file(below)?;
        increment::apply(&mut self.entries, entry.size, &file)
            .map_err(|error| WalgError::of_copy(self.object, &self.target.path_of(below), error))
    }

    /// Of the newest backup they are kept; those of the others describe moments that are past.
    fn keep_for_last(&mut self, name: &'static str, entry: &Entry) -> Result<Option<u64>, WalgError> {
        if entry.kind != Kind::File || entry.size > LARGEST_LAST {
            return Err(self.hostile(entry, "it is not the small file it should be"));
        }
        if !self.step.is_newest {
            return Ok(None);
        }
        let mut content = Vec::new();
        self.entries.read_to_end(&mut content).map_err(|error| WalgError::of_read(self.object, error))?;
        let bytes = content.len() as u64;
        if self.target.keep_for_last(name, content) {
            Ok(Some(bytes))
        } else {
            Err(self.hostile(entry, "it is there twice, and not the same"))
        }
    }
}
