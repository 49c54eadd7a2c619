//! The folder a restore keeps beside what is there.
//!
//! It lies in a folder that may belong to anybody, who may rename or replace what is in it. So it is opened by its handle
//! and used only if it is ours and closed to all others; what is in it is then nobody else's to change, and is reached by
//! the handle's path below `/proc/self/fd`.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{File, Metadata, Permissions};
use std::io::{BufWriter, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rustix::fs::{AtFlags, Mode, fremovexattr, fstat, mkdirat, unlinkat};
use rustix::io::Errno;

use super::walk::Folder;
use super::{ExchangeError, Side, wrong};

const README: &str = "Windlass made this folder for a restore in place. `out` holds what was there before it, `undone`\n\
                      what was restored and is not wanted any more.\n\
                      `windlass undo` puts that back, or removes it; do not move anything by hand while a restore runs.\n";

/// The clock that files are dated by runs behind the one that is asked, by up to a tick.
const TICK: Duration = Duration::from_millis(10);

/// Our folder beside what is there, open.
pub(super) struct Stage(Folder);

impl Stage {
    /// Makes it, where it is not there.
    pub(super) fn make(live: &Folder, name: &str) -> Result<Self, ExchangeError> {
        match mkdirat(&live.handle, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Self::open(live, name).map(Self::without_inherited),
            Err(error) => Err(live.failed("make the folder", OsStr::new(name), error)),
        }
    }

    /// Without the access list that the folder it lies in gives to all that is made in it: what is restored has its own.
    fn without_inherited(self) -> Self {
        for name in ["system.posix_acl_default", "system.posix_acl_access"] {
            // There is mostly none.
            let _ = fremovexattr(&self.0.handle, name);
        }
        self
    }

    /// Opens it, if it is ours.
    pub(super) fn open(live: &Folder, name: &str) -> Result<Self, ExchangeError> {
        let folder = live.enter(OsStr::new(name))?;
        let failed = |error: Errno| wrong("look at the folder", &folder.path, error.into());
        let stat = fstat(&folder.handle).map_err(failed)?;
        let is_closed = Mode::from_raw_mode(stat.st_mode).intersection(Mode::RWXG | Mode::RWXO).is_empty();
        let is_ours = is_closed && stat.st_uid == rustix::process::geteuid().as_raw();
        if is_ours {
            Ok(Self(folder))
        } else {
            let why = "somebody else put it in the place of ours: look at what it is";
            Err(wrong("use the folder", &folder.path, std::io::Error::other(why)))
        }
    }

    /// Opens it, where it is there.
    pub(super) fn find(live: &Folder, name: &str) -> Result<Option<Self>, ExchangeError> {
        match Self::open(live, name) {
            Ok(stage) => Ok(Some(stage)),
            Err(error) if error.source.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The path of something in it, as long as it is open.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.handle.as_raw_fd()))
    }

    /// One of the folders in it, which must be there: what is not there cannot be put anywhere.
    pub(super) fn filled(&self, side: Side) -> Result<Folder, ExchangeError> {
        self.0.enter(OsStr::new(side.name())).map(Folder::into_root)
    }

    /// One of the folders in it, made where it is not there.
    pub(super) fn side(&self, side: Side) -> Result<Folder, ExchangeError> {
        let name = OsStr::new(side.name());
        match mkdirat(&self.0.handle, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => self.0.enter(name).map(Folder::into_root),
            Err(error) => Err(self.0.failed("make the folder", name, error)),
        }
    }

    /// Tells who looks into it what it is.
    pub(super) fn explain(&self) -> Result<(), ExchangeError> {
        std::fs::write(self.path("README.txt"), README)
            .map_err(|error| wrong("write", &self.0.path.join("README.txt"), error))
    }

    /// Removes something in it, with all that is in that.
    pub(super) fn remove(&self, name: &str) -> Result<(), ExchangeError> {
        let path = self.path(name);
        let remove = || match path.symlink_metadata() {
            Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(&path),
            Ok(_) => std::fs::remove_file(&path),
            Err(error) => Err(error),
        };
        let removed = match remove() {
            // Who is root is not refused for the mode of a folder.
            Err(error) if error.kind() == ErrorKind::PermissionDenied && !rustix::process::geteuid().is_root() => {
                open_to_us(&path);
                remove()
            }
            removed => removed,
        };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(wrong("remove the folder", &self.0.path.join(name), error))
            }
            _ => Ok(()),
        }
    }

    /// Removes it, with all that is in it.
    pub(super) fn clear(&self, live: &Folder, name: &str) -> Result<(), ExchangeError> {
        for entry in self.0.entries()? {
            self.remove(&entry.name().to_string_lossy())?;
        }
        match unlinkat(&live.handle, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(live.failed("remove the folder", OsStr::new(name), error)),
        }
    }

    /// Writes down which entries a folder in it has that are no folders.
    pub(super) fn list(&self, name: &str) -> Result<(), ExchangeError> {
        let path = self.path(&format!("{name}.entries"));
        let failed = |error| wrong("write", &self.0.path.join(format!("{name}.entries")), error);
        let mut out = BufWriter::new(File::create(&path).map_err(failed)?);
        let mut done = Ok(());
        visit(&self.path(name), &mut |meta| {
            if let (Some(meta), Ok(())) = (meta, &done) {
                done = out.write_all(&meta.ino().to_le_bytes());
            }
        });
        done.and_then(|()| out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()).map_err(failed)
    }

    /// Entries that a folder in it had when they were written down, and that are not there.
    pub(super) fn missing(&self, name: &str) -> usize {
        let known = std::fs::read(self.path(&format!("{name}.entries"))).unwrap_or_default();
        let mut known: HashSet<&[u8]> = known.chunks_exact(8).collect();
        visit(&self.path(name), &mut |meta| {
            if let Some(meta) = meta {
                known.remove(meta.ino().to_le_bytes().as_slice());
            }
        });
        known.len()
    }

    /// Whether anything but folders is in a folder in it.
    pub(super) fn holds_any(&self, name: &str) -> bool {
        let mut any = false;
        visit(&self.path(name), &mut |_| any = true);
        any
    }

    /// Entries of a folder in it that are no folders and were made elsewhere than in `of`, or changed at a moment or later;
    /// those that cannot be looked at are among them.
    pub(super) fn strangers(&self, name: &str, of: &str, moment: Timestamp) -> u64 {
        let known = std::fs::read(self.path(&format!("{of}.entries"))).unwrap_or_default();
        let known: HashSet<&[u8]> = known.chunks_exact(8).collect();
        let moment = SystemTime::from(moment).checked_sub(TICK).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut count = 0;
        visit(&self.path(name), &mut |meta| {
            let is_ours = meta.is_some_and(|meta| {
                known.contains(meta.ino().to_le_bytes().as_slice()) && meta.modified().is_ok_and(|time| time < moment)
            });
            count += u64::from(!is_ours);
        });
        count
    }
}

/// Visits all entries below a folder that are no folders; without metadata what cannot be looked at, folders too.
fn visit(folder: &Path, see: &mut impl FnMut(Option<&Metadata>)) {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(_) => return see(None),
    };
    for entry in entries {
        match entry.and_then(|entry| Ok((entry.metadata()?, entry.path()))) {
            Ok((meta, path)) if meta.is_dir() => visit(&path, see),
            Ok((meta, _)) => see(Some(&meta)),
            Err(_) => see(None),
        }
    }
}

/// Opens the folders below one of ours to us: restored ones may be closed to their owner.
fn open_to_us(folder: &Path) {
    // What cannot be opened cannot be removed, and that is said then.
    let _ = std::fs::set_permissions(folder, Permissions::from_mode(0o700));
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_to_us(&entry.path());
        }
    }
}
