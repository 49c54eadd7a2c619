//! The folder a base backup is laid down in, reached by handles: no name from an archive is ever resolved through a link.
//!
//! Each folder on the way is opened in the one above it, without following links; the only links there are lead to tablespaces,
//! and those are opened once, by the paths the caller gave. So nothing an archive says can lead elsewhere, whoever else writes
//! into the target meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags, fchmod, fsync, mkdirat, openat, renameat, symlinkat, syncfs, unlinkat};
use rustix::io::Errno;

use super::{Spec, Step, WalgError};

/// Folders that are kept open.
const OPEN: usize = 200;

/// What is kept of a mode: nobody else may write, and nothing runs as its owner.
const NOT_FOR_OTHERS: u32 = 0o755;

/// Where the links to tablespaces are.
const LINKS: &str = "pg_tblspc";

/// The files that begin recovery, which are written when everything else is on disk, the last of them last.
pub(super) const LABEL: &str = "backup_label";
pub(super) const MAP: &str = "tablespace_map";
pub(super) const CONTROL: &str = "global/pg_control";

/// A data folder on its way.
pub struct Target {
    path: PathBuf,
    root: Arc<OwnedFd>,
    tablespaces: BTreeMap<u32, Tablespace>,
    folders: Mutex<Folders>,
    /// What begins recovery, by name.
    last: Mutex<HashMap<&'static str, Vec<u8>>>,
    /// Whether some of it was there before, and may be overwritten.
    again: bool,
}

struct Tablespace {
    path: PathBuf,
    handle: Arc<OwnedFd>,
}

#[derive(Default)]
struct Folders {
    open: HashMap<PathBuf, Arc<OwnedFd>>,
    /// All that were written into, to be synced.
    all: BTreeSet<PathBuf>,
}

/// Names of folders, from the target down.
pub(super) type Below<'a> = [&'a OsStr];

impl Target {
    /// Begins in an empty folder, or one that is not there yet. Each tablespace of the backup goes into a folder of its own,
    /// empty or not there yet, which must be given by an absolute path: [`Spec::locations`] are those where they were.
    pub fn create(path: &Path, spec: Option<&Spec>, tablespaces: &BTreeMap<u32, PathBuf>) -> Result<Self, WalgError> {
        Self::open(path, spec, tablespaces, false)
    }

    /// The same, where it may have been begun before: what is there may be overwritten.
    pub fn go_on(path: &Path, spec: Option<&Spec>, tablespaces: &BTreeMap<u32, PathBuf>) -> Result<Self, WalgError> {
        Self::open(path, spec, tablespaces, true)
    }

    fn open(
        path: &Path,
        spec: Option<&Spec>,
        tablespaces: &BTreeMap<u32, PathBuf>,
        again: bool,
    ) -> Result<Self, WalgError> {
        let failed = |path: &Path, source: io::Error| WalgError::Target { path: path.to_owned(), source };
        let oids = spec.iter().flat_map(|spec| spec.tablespaces.keys());
        for oid in oids {
            match tablespaces.get(oid) {
                Some(path) if path.is_absolute() => {}
                Some(path) => return Err(failed(path, io::Error::other("the path of a tablespace must be absolute"))),
                None => {
                    let why = format!("it has a tablespace {oid}, and it was not said where that goes");
                    return Err(failed(path, io::Error::other(why)));
                }
            }
        }
        let root = Arc::new(own_folder(path, again).map_err(|source| failed(path, source))?);
        let mut opened = BTreeMap::new();
        let wanted = spec.iter().flat_map(|spec| spec.tablespaces.keys());
        for (oid, place) in wanted.filter_map(|oid| Some((*oid, tablespaces.get(oid)?))) {
            let handle = own_folder(place, again).map_err(|source| failed(place, source))?;
            opened.insert(oid, Tablespace { path: place.clone(), handle: Arc::new(handle) });
        }
        let (folders, last) = (Mutex::default(), Mutex::default());
        let target = Self { path: path.to_owned(), root, tablespaces: opened, folders, last, again };
        if !target.tablespaces.is_empty() {
            let links = target.folder(&[OsStr::new(LINKS)])?;
            for (oid, tablespace) in &target.tablespaces {
                match symlinkat(&tablespace.path, &links, oid.to_string()) {
                    // It leads where it led before: its name is of the same restore.
                    Err(Errno::EXIST) if again => {}
                    made => made.map_err(|error| failed(&path.join(LINKS).join(oid.to_string()), error.into()))?,
                }
            }
        }
        Ok(target)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn path_of(&self, below: &Below<'_>) -> PathBuf {
        self.path.join(below.iter().collect::<PathBuf>())
    }

    pub(super) fn failed(&self, below: &Below<'_>, source: impl Into<io::Error>) -> WalgError {
        WalgError::Target { path: self.path_of(below), source: source.into() }
    }

    /// Whether this is a link to a tablespace, which was made already.
    pub(super) fn is_link(&self, below: &Below<'_>) -> bool {
        self.tablespace(below).is_some_and(|(_, rest)| rest.is_empty())
    }

    fn tablespace<'a, 'b>(&'a self, below: &'b Below<'b>) -> Option<(&'a Tablespace, &'b Below<'b>)> {
        let ([links, oid], rest) = below.split_at_checked(2)? else { return None };
        let number: u32 = oid.to_str()?.parse().ok()?;
        let is_one = *links == LINKS && *oid == OsStr::new(&number.to_string());
        Some((self.tablespaces.get(&number).filter(|_| is_one)?, rest))
    }

    /// A folder, which is made where it is not there, as are those above it.
    pub(super) fn folder(&self, below: &Below<'_>) -> Result<Arc<OwnedFd>, WalgError> {
        let key: PathBuf = below.iter().collect();
        if let Some(open) = self.folders().open.get(&key) {
            return Ok(Arc::clone(open));
        }
        let (mut folder, rest) = match self.tablespace(below) {
            Some((tablespace, rest)) => (Arc::clone(&tablespace.handle), rest),
            None => (Arc::clone(&self.root), below),
        };
        for name in rest {
            folder = Arc::new(self.enter(&folder, name).map_err(|error| self.failed(below, error))?);
        }
        let mut folders = self.folders();
        if folders.open.len() >= OPEN {
            folders.open.clear();
        }
        for depth in 0..=below.len() {
            folders.all.insert(below.iter().take(depth).collect());
        }
        folders.open.insert(key, Arc::clone(&folder));
        Ok(folder)
    }

    fn folders(&self) -> std::sync::MutexGuard<'_, Folders> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[expect(clippy::unused_self, reason = "it is a step within a target")]
    fn enter(&self, folder: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        match openat(folder, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                match mkdirat(folder, name, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
                openat(folder, name, flags, Mode::empty())
            }
            opened => opened,
        }
    }

    /// Makes a folder, with this mode; ours it stays.
    pub(super) fn make_folder(&self, below: &Below<'_>, mode: u32) -> Result<(), WalgError> {
        let folder = self.folder(below)?;
        fchmod(folder, Mode::from_raw_mode(mode & NOT_FOR_OTHERS | 0o700)).map_err(|error| self.failed(below, error))
    }

    /// Makes a file, with this mode. It must not be there, unless it is unpacked again.
    pub(super) fn make_file(&self, below: &Below<'_>, mode: u32, again: bool) -> Result<File, WalgError> {
        let (folder, name) = self.place(below)?;
        let how = if again { OFlags::TRUNC } else { OFlags::EXCL };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | how;
        let failed = |error: Errno| self.failed(below, error);
        let file = openat(&folder, name, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        let mode = Mode::from_raw_mode(mode & NOT_FOR_OTHERS | 0o600);
        if mode != Mode::RUSR | Mode::WUSR {
            fchmod(&file, mode).map_err(failed)?;
        }
        Ok(file.into())
    }

    /// A file that was made before.
    pub(super) fn open_file(&self, below: &Below<'_>) -> Result<File, WalgError> {
        let (folder, name) = self.place(below)?;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&folder, name, flags, Mode::empty()).map(Into::into).map_err(|error| self.failed(below, error))
    }

    fn place<'a>(&self, below: &'a Below<'a>) -> Result<(Arc<OwnedFd>, &'a OsStr), WalgError> {
        let Some((name, above)) = below.split_last() else {
            return Err(self.failed(below, Errno::ISDIR));
        };
        Ok((self.folder(above)?, name))
    }

    /// Keeps what begins recovery until the end; `false` where something else was kept under this name.
    pub(super) fn keep_for_last(&self, name: &'static str, content: Vec<u8>) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.get(name).is_none_or(|kept| *kept == content) && {
            last.insert(name, content);
            true
        }
    }

    /// Ends it, if the archives of these steps held everything they should: what was written goes to disk, then what begins
    /// recovery, and `pg_control` as the last, by being renamed. A server does not start from a folder that is not whole.
    pub fn finish(self, steps: &[Step]) -> Result<(), WalgError> {
        steps.iter().try_for_each(Step::check)?;
        let mut last = std::mem::take(&mut *self.last.lock().unwrap_or_else(PoisonError::into_inner));
        let mut take = |name: &'static str| last.remove(name);
        let absent = |name: &str| self.failed(&[OsStr::new(name)], io::Error::other("it is in none of the archives"));
        let control = take(CONTROL).ok_or_else(|| absent(CONTROL))?;
        let label = take(LABEL).ok_or_else(|| absent(LABEL))?;
        let map = self.map(take(MAP).as_deref())?;
        for (name, content) in [(LABEL, Some(label)), (MAP, map)] {
            if let Some(content) = content {
                let below = [OsStr::new(name)];
                let mut file = self.make_file(&below, 0o600, self.again)?;
                io::Write::write_all(&mut file, &content).map_err(|error| self.failed(&below, error))?;
            }
        }
        self.sync()?;
        self.control(&control)
    }

    /// The map of tablespaces, which the server makes its links from: with the folders they are in now.
    fn map(&self, map: Option<&[u8]>) -> Result<Option<Vec<u8>>, WalgError> {
        let Some(map) = map else { return Ok(None) };
        let lines = map.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let mut known = lines.filter_map(|line| {
            let oid = line.split(|byte| *byte == b' ').next()?;
            Some(std::str::from_utf8(oid).ok().and_then(|oid| oid.parse::<u32>().ok()))
        });
        // A path with a line break goes on with a line that begins with none of the tablespaces; so it is only told apart by
        // what the sentinel says. Whatever it was, what is written names our folders alone.
        if self.tablespaces.is_empty() && known.any(|oid| oid.is_some()) {
            let why = "it names tablespaces of which the sentinel says nothing";
            return Err(self.failed(&[OsStr::new(MAP)], io::Error::other(why)));
        }
        let mut written = Vec::new();
        for (oid, Tablespace { path, .. }) in &self.tablespaces {
            written.extend(format!("{oid} ").into_bytes());
            for byte in path.as_os_str().as_encoded_bytes() {
                if matches!(byte, b'\n' | b'\r' | b'\\') {
                    written.push(b'\\');
                }
                written.push(*byte);
            }
            written.push(b'\n');
        }
        Ok(Some(written))
    }

    fn sync(&self) -> Result<(), WalgError> {
        let places = self.tablespaces.values().map(|tablespace| &tablespace.handle).chain([&self.root]);
        for place in places {
            syncfs(place).map_err(|error| self.failed(&[], error))?;
        }
        let all = self.folders().all.clone();
        for folder in &all {
            let below: Vec<&OsStr> = folder.iter().collect();
            fsync(self.folder(&below)?).map_err(|error| self.failed(&below, error))?;
        }
        Ok(())
    }

    fn control(&self, content: &[u8]) -> Result<(), WalgError> {
        const NEW: &str = "pg_control.new";
        let below = [OsStr::new("global"), OsStr::new(NEW)];
        let failed = |error: io::Error| self.failed(&below, error);
        let mut file = self.make_file(&below, 0o600, self.again)?;
        io::Write::write_all(&mut file, content).and_then(|()| file.sync_all()).map_err(failed)?;
        let folder = self.folder(&below[..1])?;
        renameat(&folder, NEW, &folder, "pg_control").map_err(|error| failed(error.into()))?;
        fsync(&folder).and_then(|()| fsync(&self.root)).map_err(|error| failed(error.into()))
    }

    /// Removes a file that was begun, so that nothing is left half-way.
    pub(super) fn remove(&self, below: &Below<'_>) {
        if let Ok((folder, name)) = self.place(below) {
            // Where it cannot be removed, unpacking again overwrites it.
            let _ = unlinkat(folder, name, AtFlags::empty());
        }
    }
}

/// Opens a folder of ours, which is made where it is not there; it must be empty, unless it may have been begun before.
fn own_folder(path: &Path, again: bool) -> io::Result<OwnedFd> {
    if std::fs::symlink_metadata(path).is_err() {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    }
    let flags = (OFlags::NOFOLLOW | OFlags::DIRECTORY).bits().cast_signed();
    let handle = File::options().read(true).custom_flags(flags).open(path)?;
    if handle.metadata()?.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to somebody else"));
    }
    // Of what was opened, whatever is called so by now.
    if !again && std::fs::read_dir(format!("/proc/self/fd/{}", handle.as_raw_fd()))?.next().is_some() {
        return Err(io::Error::other("it is not empty"));
    }
    handle.set_permissions(Permissions::from_mode(0o700))?;
    Ok(handle.into())
}

/// The names a name of an archive leads through: `/base/1/1259` and `base/1/1259` are the same.
pub(super) fn below(name: &[u8]) -> Result<Vec<OsString>, &'static str> {
    use std::os::unix::ffi::OsStrExt;
    let relative = name.strip_prefix(b"/").unwrap_or(name);
    let relative = relative.strip_suffix(b"/").unwrap_or(relative);
    if relative.is_empty() {
        return if name.is_empty() { Err("it has no name") } else { Ok(Vec::new()) };
    }
    let plain = |name: &[u8]| match name {
        b"" | b"." | b".." => Err("its name would lead out of the target"),
        name if name.len() > 255 => Err("its name is longer than any can be"),
        name if name.contains(&0) => Err("its name would lead out of the target"),
        name => Ok(OsStr::from_bytes(name).to_owned()),
    };
    relative.split(|byte| *byte == b'/').map(plain).collect()
}
