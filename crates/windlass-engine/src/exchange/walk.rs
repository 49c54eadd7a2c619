//! Walks two folders hand in hand, by handles: a link put in a folder's place meanwhile leads nowhere.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT, fchmod, fstat, futimens,
    linkat, mkdirat, openat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use windlass_repo::format::restic::{Excludes, is_stage};

use super::{ExchangeError, wrong};
use crate::moment;

/// Names that are tried for what has to be kept beside something of its name.
const NAMES: u32 = 100;

/// Which entries of a folder are meant.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    patterns: Option<(&'a Excludes, &'a Path, &'a Path)>,
    only: Option<&'a OsStr>,
    mounts: &'a [PathBuf],
}

impl<'a> Scope<'a> {
    /// Everything.
    pub(super) fn all() -> Self {
        Self { patterns: None, only: None, mounts: &[] }
    }

    /// What captures hold of a root below the folder the patterns are written for.
    pub(super) fn of(
        excludes: &'a Excludes,
        folder: &'a Path,
        root: &'a Path,
        only: Option<&'a OsStr>,
        mounts: &'a [PathBuf],
    ) -> Self {
        Self { patterns: Some((excludes, folder, root)), only, mounts }
    }

    /// Whether an entry is meant, by its path relative to the root.
    pub(super) fn holds(&self, relative: &Path) -> bool {
        let Some(name) = relative.file_name() else { return true };
        let is_first = relative.parent().is_none_or(|parent| parent.as_os_str().is_empty());
        match self.only {
            // What is named itself is captured, whatever it is called.
            Some(only) if is_first => return only == name,
            _ if is_stage(name) => return false,
            _ => {}
        }
        !self.patterns.is_some_and(|(excludes, folder, root)| excludes.matches(folder, &root.join(relative)))
    }

    /// Whether a folder is a mount point, whose entries are exchanged by themselves.
    pub(super) fn is_mount(&self, relative: &Path) -> bool {
        self.mounts.iter().any(|mount| mount == relative)
    }
}

/// An open folder.
pub(super) struct Folder {
    pub(super) handle: OwnedFd,
    /// Where it was when it was opened, for people.
    pub(super) path: PathBuf,
    /// Its path below the root.
    pub(super) relative: PathBuf,
}

/// An entry of a folder.
pub(super) struct Entry {
    pub(super) name: CString,
    pub(super) kind: FileType,
}

impl Entry {
    pub(super) fn name(&self) -> &OsStr {
        OsStr::from_bytes(self.name.as_bytes())
    }
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self, ExchangeError> {
        let handle = openat(CWD, path, FOLDER, Mode::empty()).map_err(|e| wrong("open the folder", path, e.into()))?;
        Ok(Self { handle, path: path.to_owned(), relative: PathBuf::new() })
    }

    /// A folder in it.
    pub(super) fn enter(&self, name: &OsStr) -> Result<Self, ExchangeError> {
        let path = self.path.join(name);
        let handle =
            openat(&self.handle, name, FOLDER, Mode::empty()).map_err(|e| wrong("open the folder", &path, e.into()))?;
        Ok(Self { handle, path, relative: self.relative.join(name) })
    }

    /// A folder in it, where it is there still.
    fn find(&self, name: &OsStr) -> Result<Option<Self>, ExchangeError> {
        match self.enter(name) {
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            folder => folder.map(Some),
        }
    }

    /// It is the root from here on: paths are told from it.
    pub(super) fn into_root(self) -> Self {
        Self { relative: PathBuf::new(), ..self }
    }

    /// Lets ourselves change what is in it, where we are its owner and it is closed to us: what the folder is was written
    /// down before, and is set again.
    pub(super) fn opened_to_us(self) -> Self {
        if let Ok(stat) = fstat(&self.handle)
            && stat.st_mode & Mode::RWXU.bits() != Mode::RWXU.bits()
            && !rustix::process::geteuid().is_root()
        {
            // Where this fails, moving an entry will fail, and says so.
            let _ = fchmod(&self.handle, Mode::from_raw_mode(stat.st_mode) | Mode::RWXU);
        }
        self
    }

    /// A folder in it, made where it is not there; under a name beside it where something else has the name.
    fn enter_or_make(&self, name: &OsStr) -> Result<Self, ExchangeError> {
        for name in names_beside(name) {
            match mkdirat(&self.handle, &*name, Mode::RWXU) {
                Ok(()) => return self.enter(&name).map(Self::opened_to_us),
                Err(Errno::EXIST) if self.kind_of(&name)? == Some(FileType::Directory) => {
                    return self.enter(&name).map(Self::opened_to_us);
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(self.failed("make the folder", &name, error)),
            }
        }
        Err(self.failed("make the folder", name, Errno::EXIST))
    }

    /// When something in it was made or removed last, where that can be told.
    pub(super) fn modified(&self) -> Option<Timespec> {
        let stat = fstat(&self.handle).ok()?;
        Some(Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).ok()? })
    }

    /// Sets that. Where it is somebody else's, its time is what it is.
    pub(super) fn set_modified(&self, time: Timespec) {
        let kept = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let _ = futimens(&self.handle, &Timestamps { last_access: kept, last_modification: time });
    }

    pub(super) fn entries(&self) -> Result<Vec<Entry>, ExchangeError> {
        let failed = |error: Errno| wrong("read the folder", &self.path, error.into());
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.handle).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            let name = entry.file_name().to_owned();
            let kind = match entry.file_type() {
                FileType::Unknown => self.kind_of(OsStr::from_bytes(name.as_bytes()))?.unwrap_or(FileType::Unknown),
                kind => kind,
            };
            entries.push(Entry { name, kind });
        }
        Ok(entries)
    }

    /// What kind an entry is; none where it is not there.
    fn kind_of(&self, name: &OsStr) -> Result<Option<FileType>, ExchangeError> {
        match statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failed("look at", name, error)),
        }
    }

    /// Moves an entry to another folder, if none of its name is there: whether it was moved.
    fn give(&self, name: &OsStr, to: &Self) -> Result<bool, ExchangeError> {
        match self.move_as(name, to, name) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(self.failed("move", name, error)),
        }
    }

    /// Moves an entry to another folder; where its name is in use there, under one beside it, which is returned. One that
    /// is gone meanwhile is nowhere to be moved.
    fn give_beside(&self, name: &OsStr, to: &Self) -> Result<Option<OsString>, ExchangeError> {
        for (tries, beside) in names_beside(name).enumerate() {
            match self.move_as(name, to, &beside) {
                Ok(()) => return Ok((tries > 0).then_some(beside)),
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(self.failed("move", name, error)),
            }
        }
        Err(self.failed("move", name, Errno::EXIST))
    }

    fn move_as(&self, name: &OsStr, to: &Self, new: &OsStr) -> Result<(), Errno> {
        let done = match self.rename(name, to, new) {
            // Who moves a folder writes into it: where its parent is.
            Err(Errno::ACCESS) if self.kind_of(name).is_ok_and(|kind| kind == Some(FileType::Directory)) => {
                // Where it cannot be opened to us, it cannot be moved, and that is said.
                let _ = self.enter(name).map(Self::opened_to_us);
                self.rename(name, to, new)
            }
            done => done,
        };
        moment::pass();
        done
    }

    fn rename(&self, name: &OsStr, to: &Self, new: &OsStr) -> Result<(), Errno> {
        match renameat_with(&self.handle, name, &to.handle, new, RenameFlags::NOREPLACE) {
            // The file system cannot say it in one: a second name, and then the first away. A folder can have but one.
            Err(Errno::INVAL | Errno::NOSYS) => match linkat(&self.handle, name, &to.handle, new, AtFlags::empty()) {
                Ok(()) => unlinkat(&self.handle, name, AtFlags::empty()),
                Err(Errno::PERM) => match statat(&to.handle, new, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => rustix::fs::renameat(&self.handle, name, &to.handle, new),
                    Err(error) => Err(error),
                    Ok(_) => Err(Errno::EXIST),
                },
                Err(error) => Err(error),
            },
            done => done,
        }
    }

    fn remove_empty(&self, name: &OsStr) -> Result<(), ExchangeError> {
        match unlinkat(&self.handle, name, AtFlags::REMOVEDIR) {
            // Something that is left out of captures is in it, or something is mounted there.
            Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY | Errno::NOENT) => Ok(()),
            Err(error) => Err(self.failed("remove the folder", name, error)),
        }
    }

    pub(super) fn failed(&self, doing: &'static str, name: &OsStr, error: Errno) -> ExchangeError {
        wrong(doing, &self.path.join(name), error.into())
    }
}

/// Removes folders of which nothing is left and that `keep` does not have.
pub(super) fn prune(live: &Folder, keep: Option<&Folder>, scope: &Scope<'_>) -> Result<(), ExchangeError> {
    for entry in live.entries()? {
        let (name, relative) = (entry.name(), live.relative.join(entry.name()));
        if entry.kind != FileType::Directory || !scope.holds(&relative) || scope.is_mount(&relative) {
            continue;
        }
        let kept = match keep {
            Some(keep) if keep.kind_of(name)? == Some(FileType::Directory) => Some(keep.enter(name)?),
            _ => None,
        };
        let Some(folder) = live.find(name)? else { continue };
        prune(&folder.opened_to_us(), kept.as_ref(), scope)?;
        if kept.is_none() {
            live.remove_empty(name)?;
        }
    }
    Ok(())
}

/// A name, and names beside it.
fn names_beside(name: &OsStr) -> impl Iterator<Item = OsString> {
    let beside = |number: u32| match number {
        0 => name.to_owned(),
        number => {
            let mut beside = name.to_owned();
            beside.push(format!("~{number}"));
            beside
        }
    };
    (0..NAMES).map(beside)
}

/// Moves entries, and remembers what a person should know of it.
#[derive(Default)]
pub(super) struct Walk {
    pub(super) notes: Vec<String>,
    /// Whether a folder that still holds something - what is left out of captures - is in the way, and not moved out of it.
    pub(super) keeps_folders: bool,
    /// The entry of the root that goes first and comes last.
    pub(super) keystone: Option<OsString>,
}

impl Walk {
    /// Moves everything that is meant from one folder to another; folders stay, and are made there.
    pub(super) fn take_out(&mut self, live: &Folder, to: &Folder, scope: &Scope<'_>) -> Result<(), ExchangeError> {
        let mut entries = live.entries()?;
        entries.sort_by_key(|entry| !self.is_keystone(live, entry));
        for entry in entries {
            let (name, relative) = (entry.name(), live.relative.join(entry.name()));
            if !scope.holds(&relative) || scope.is_mount(&relative) || entry.kind == FileType::Socket {
                continue;
            }
            if entry.kind == FileType::Directory {
                let Some(folder) = live.find(name)? else { continue };
                self.take_out(&folder.opened_to_us(), &to.enter_or_make(name)?, scope)?;
            } else {
                self.set_aside(live, name, to)?;
            }
        }
        Ok(())
    }

    /// Moves everything from one folder into another; folders that are there stay.
    pub(super) fn put_in(&mut self, from: &Folder, live: &Folder, aside: &Folder) -> Result<(), ExchangeError> {
        for entry in from.entries()? {
            let name = entry.name();
            if self.is_keystone(from, &entry) {
                continue;
            }
            let mut is_in = false;
            // Somebody may make one of its name again and again.
            for _ in 0..NAMES {
                match (entry.kind, live.kind_of(name)?) {
                    (FileType::Directory, Some(FileType::Directory)) => {
                        let (from_it, live_one) = (from.enter(name)?.opened_to_us(), live.enter(name)?.opened_to_us());
                        self.put_in(&from_it, &live_one, &aside.enter_or_make(name)?)?;
                        from.remove_empty(name)?;
                        is_in = true;
                    }
                    (_, None) => is_in = from.give(name, live)?,
                    (_, Some(FileType::Directory)) if self.keeps_folders => {
                        live.remove_empty(name)?;
                        if live.kind_of(name)? == Some(FileType::Directory) {
                            return Err(live.failed("put a file in the place of the folder", name, Errno::NOTEMPTY));
                        }
                    }
                    (_, Some(_)) => self.set_aside(live, name, aside)?,
                }
                if is_in {
                    break;
                }
            }
            if !is_in {
                return Err(live.failed("put in", name, Errno::EXIST));
            }
        }
        Ok(())
    }

    /// Moves the entry that comes last, where there is one.
    pub(super) fn put_keystone(&mut self, from: &Folder, live: &Folder, aside: &Folder) -> Result<(), ExchangeError> {
        let Some(name) = self.keystone.clone() else { return Ok(()) };
        if from.kind_of(&name)?.is_none() {
            return Ok(());
        }
        if live.kind_of(&name)?.is_some() {
            self.set_aside(live, &name, aside)?;
        }
        if from.give(&name, live)? { Ok(()) } else { Err(live.failed("put in", &name, Errno::EXIST)) }
    }

    fn is_keystone(&self, folder: &Folder, entry: &Entry) -> bool {
        folder.relative.as_os_str().is_empty() && self.keystone.as_deref() == Some(entry.name())
    }

    /// Moves an entry out of the way, whatever is there already.
    fn set_aside(&mut self, live: &Folder, name: &OsStr, to: &Folder) -> Result<(), ExchangeError> {
        if let Some(beside) = live.give_beside(name, to)? {
            let (path, beside) = (live.path.join(name), beside.to_string_lossy().into_owned());
            self.notes.push(format!("`{}` was made anew meanwhile, and is kept as `{beside}`", path.display()));
        }
        Ok(())
    }
}
