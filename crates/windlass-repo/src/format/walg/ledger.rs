//! How far a base backup is laid down, written down beside it: what was begun and killed goes on where it was.
//!
//! ```text
//! {"of":"<digest of what is done>","boot":"<this boot of the machine>"}        first line
//! {"part":"part_001.tar.zst","names":["/base/1/1259", ...]}                    an archive, unpacked whole
//! {"overrides":"<hex>"}                                                        laid down; what it overrides of its settings
//! ```
//!
//! Promised: an archive is in it only when all it holds was given to the kernel. That is enough after a kill, and says nothing after a crash of the
//! machine: a ledger of another boot is worth nothing, and everything is begun anew. Archives that hold what begins recovery are never in
//! it: that is kept in memory until the end.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

/// What it is called, in the folder it is about.
pub(super) const LEDGER: &str = ".windlass-restore";

/// Tells one boot of a machine from another (<https://man7.org/linux/man-pages/man5/proc_sys_kernel.5.html>).
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// A ledger, open to be written on.
#[derive(Debug)]
pub struct Ledger {
    file: Mutex<File>,
    parts: HashMap<String, Vec<String>>,
    overrides: Option<Vec<u8>>,
    is_old: bool,
}

#[derive(Serialize, Deserialize)]
struct Head {
    of: String,
    boot: String,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Part { part: String, names: Vec<String> },
    LaidDown { overrides: String },
}

impl Ledger {
    /// Opens the one of a folder, or begins it. Whether what is in the folder may be gone on with is for the one to ask who calls.
    pub fn open(folder: &Path, of: &str) -> io::Result<Self> {
        let path = folder.join(LEDGER);
        if let Some(ledger) = Self::read(&path, of)? {
            return Ok(ledger);
        }
        let mut file = plain(OpenOptions::new().write(true).create_new(true)).open(&path)?;
        lock(&file)?;
        let boot = std::fs::read_to_string(BOOT).unwrap_or_default();
        write(&mut file, &Head { of: of.to_owned(), boot })?;
        Ok(Self { file: Mutex::new(file), parts: HashMap::new(), overrides: None, is_old: false })
    }

    /// Whether a folder has one of this boot, and of what.
    pub fn of(folder: &Path) -> Option<String> {
        let file = plain(OpenOptions::new().read(true)).open(folder.join(LEDGER)).ok()?;
        let mut first = String::new();
        BufReader::new(file).read_line(&mut first).ok()?;
        let head: Head = serde_json::from_str(&first).ok()?;
        let boot = std::fs::read_to_string(BOOT).ok()?;
        (head.boot == boot).then_some(head.of)
    }

    fn read(path: &Path, of: &str) -> io::Result<Option<Self>> {
        let file = match plain(OpenOptions::new().read(true).append(true)).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        lock(&file)?;
        let text = io::read_to_string(&file)?;
        let mut lines = text.split_inclusive('\n');
        let first = lines.next().unwrap_or_default();
        if serde_json::from_str::<Head>(first).map_or(true, |head| head.of != of) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is of another restore"));
        }
        let (mut parts, mut overrides, mut length) = (HashMap::new(), None, first.len());
        // The last one may have been cut off.
        for line in lines.take_while(|line| line.ends_with('\n')) {
            match serde_json::from_str(line)? {
                Line::Part { part, names } => drop(parts.insert(part, names)),
                Line::LaidDown { overrides: text } => overrides = crate::hex::decode(&text),
            }
            length += line.len();
        }
        file.set_len(length as u64)?;
        Ok(Some(Self { file: Mutex::new(file), parts, overrides, is_old: true }))
    }

    /// What an archive held that was unpacked before.
    pub(super) fn part(&self, name: &str) -> Option<&[String]> {
        self.parts.get(name).map(Vec::as_slice)
    }

    /// Whether it was there before: what is in its folder may be overwritten.
    pub fn is_begun(&self) -> bool {
        self.is_old
    }

    /// An archive was unpacked.
    pub(super) fn unpacked(&self, part: &str, names: Vec<String>) -> io::Result<()> {
        self.note(&Line::Part { part: part.to_owned(), names })
    }

    /// Everything is laid down, and this is what it overrides of its settings.
    pub fn laid_down(&self, overrides: &[u8]) -> io::Result<()> {
        self.note(&Line::LaidDown { overrides: crate::hex::encode(overrides) })
    }

    /// What it overrides of its settings, where everything was laid down before.
    pub fn overrides(&self) -> Option<&[u8]> {
        self.overrides.as_deref()
    }

    /// Everything is done: takes it away.
    pub fn end(self, folder: &Path) -> io::Result<()> {
        std::fs::remove_file(folder.join(LEDGER))
    }

    fn note(&self, line: &Line) -> io::Result<()> {
        write(&mut self.file.lock().unwrap_or_else(PoisonError::into_inner), line)
    }
}

/// Held as long as the file is open: two that lay the same down would write over each other.
fn lock(file: &File) -> io::Result<()> {
    match rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(io::Error::new(io::ErrorKind::ResourceBusy, "the same restore is at work there"))
        }
        other => other.map_err(Into::into),
    }
}

/// Nobody's link is followed.
fn plain(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
}

/// In one piece, so that one line is never mixed with another.
fn write(file: &mut File, line: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    file.write_all(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_known_again_and_a_line_that_was_cut_is_not() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Ledger::of(folder.path()), None);
        let ledger = Ledger::open(folder.path(), "one").unwrap();
        ledger.unpacked("part_001.tar.zst", vec!["/a".into(), "/b".into()]).unwrap();
        assert_eq!(Ledger::of(folder.path()).as_deref(), Some("one"));
        let path = folder.path().join(LEDGER);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], b"{\"part\":\"part_0"].concat()).unwrap();
        assert!(Ledger::open(folder.path(), "one").is_err(), "somebody is at work with it");
        drop(ledger);
        let again = Ledger::open(folder.path(), "one").unwrap();
        assert_eq!(again.part("part_001.tar.zst").unwrap(), ["/a", "/b"]);
        assert_eq!((again.part("part_002.tar.zst"), again.overrides()), (None, None));
        assert!(Ledger::open(folder.path(), "another").is_err());
        std::fs::write(&path, &whole).unwrap();
        drop(again);
        Ledger::open(folder.path(), "one").unwrap().laid_down(b"x = 1\n").unwrap();
        assert_eq!(Ledger::open(folder.path(), "one").unwrap().overrides(), Some(&b"x = 1\n"[..]));
    }
}
