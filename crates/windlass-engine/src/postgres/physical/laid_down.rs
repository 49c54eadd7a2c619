//! Where a base backup is laid down: the data folder, and the folders of its tablespaces.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Uid, chownat, fchown, openat, statat};

/// The part of a target that is the data folder.
const DATA: &str = "data";

/// A data folder, and what belongs to it.
#[derive(Clone, Debug)]
pub struct LaidDown {
    /// The data folder.
    pub data: PathBuf,
    /// The folders of tablespaces, by their oid.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    /// The folders all of it lies in, and nothing else.
    tops: Vec<PathBuf>,
}

impl LaidDown {
    /// All of it in one folder: `data`, and `tablespace-OID` for each of these.
    pub fn below<'a>(target: &Path, tablespaces: impl IntoIterator<Item = &'a u32>) -> Self {
        let folder = |oid: &u32| (*oid, target.join(format!("tablespace-{oid}")));
        let tablespaces = tablespaces.into_iter().map(folder).collect();
        Self { data: target.join(DATA), tablespaces, tops: vec![target.to_owned()] }
    }

    /// The data folder in one folder, and each tablespace in another.
    pub fn apart(data: &Path, tablespaces: &BTreeMap<u32, PathBuf>) -> Self {
        let below = |top: &PathBuf| top.join(DATA);
        Self {
            data: data.join(DATA),
            tablespaces: tablespaces.iter().map(|(oid, top)| (*oid, below(top))).collect(),
            tops: std::iter::once(data.to_owned()).chain(tablespaces.values().cloned()).collect(),
        }
    }

    /// Gives all of it to a user. Every folder is opened in the one above it: no link is followed, whoever puts one there meanwhile.
    pub fn give_to(&self, owner: (u32, u32)) -> io::Result<()> {
        for top in &self.tops {
            give(&openat(CWD, top, FOLDER, Mode::empty())?, owner)?;
        }
        Ok(())
    }

    /// Has the file systems it lies on write everything.
    pub fn sync(&self) -> io::Result<()> {
        for top in &self.tops {
            rustix::fs::syncfs(std::fs::File::open(top)?)?;
        }
        Ok(())
    }
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Gives away what is in a folder, and then itself: as long as it is ours, nobody puts another in the place of what is below.
fn give(folder: &OwnedFd, (user, group): (u32, u32)) -> io::Result<()> {
    let (to, with) = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            give(&openat(folder, name, FOLDER, Mode::empty())?, (user, group))?;
        } else {
            chownat(folder, name, to, with, AtFlags::SYMLINK_NOFOLLOW)?;
        }
    }
    Ok(fchown(folder, to, with)?)
}
