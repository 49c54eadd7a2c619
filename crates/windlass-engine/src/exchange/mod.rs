//! Exchanges the entries of a folder for others, and back again.
//!
//! ```text
//! <folder>/.windlass-<restore>/in        restored here, beside what is there
//! <folder>/.windlass-<restore>/out       what was there: the undo
//! <folder>/.windlass-<restore>/undone    what was restored, once what was there is back
//! ```
//!
//! Promised: neither the folder, nor any folder that is there before and after, nor a mount point is ever renamed or made
//! anew, so that whoever holds them open - a bind mount of a container, a shell - goes on seeing what is in them; no link
//! is followed, and what somebody else put in the place of a folder of ours is not used; no entry is overwritten; what the
//! settings leave out of captures, and sockets, stay where they are. Each
//! step does what is still to be done, so that it can be run again after it was killed anywhere: [`Exchange::take_out`] only
//! takes away, and only then [`Exchange::put_in`] only puts in, so a name alone tells how far they came.
//! Not promised: that an application which was not stopped sees one state or the other; what it makes under a name that
//! is in use is kept under a name beside it. Trusted are the folders above the one that is restored.

mod folders;
mod stage;
mod walk;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{Mode, mkdirat};
use rustix::io::Errno;
use windlass_core::id::RestoreId;
use windlass_core::restore::FilesPlace;
use windlass_repo::format::restic::{Excludes, STAGE};
use windlass_repo::regular;

use self::stage::Stage;
use self::walk::{Folder, Scope, Walk};

/// A folder whose entries are exchanged, or the folder of one file that is.
pub struct Exchange {
    /// Its roots: the folder itself, and mount points below it.
    roots: Vec<Root>,
    excludes: Excludes,
    /// Whether the folder was there before the restore.
    existed: bool,
    /// The entry that goes first and comes last.
    keystone: Option<OsString>,
}

struct Root {
    live: PathBuf,
    /// The name of the folder in it that is ours.
    stage: String,
    /// The one entry that is meant, where it is not the whole folder.
    only: Option<OsString>,
    /// Folders below it that are roots of their own, relative to it.
    mounts: Vec<PathBuf>,
}

/// What could not be done, and to what.
#[derive(Debug, thiserror::Error)]
#[error("{doing} `{}`", path.display())]
pub struct ExchangeError {
    /// What was being done.
    pub doing: &'static str,
    /// To what.
    pub path: PathBuf,
    /// Why it could not be done.
    pub source: io::Error,
}

/// One of the folders beside what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What is restored.
    In,
    /// What was there.
    Out,
    /// What was restored and is not wanted any more.
    Undone,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Undone => "undone",
        }
    }
}

impl Exchange {
    /// The exchange of one folder, or of one file, by a restore; the number is its own among those of the restore.
    pub fn new(restore: RestoreId, number: &str, place: &FilesPlace, excludes: Excludes) -> Self {
        let stage = format!("{STAGE}{}", restore.to_string().to_lowercase());
        let (path, is_file) = (Path::new(&place.path), place.is_file);
        let mounts: Vec<PathBuf> = place.mounts.iter().map(PathBuf::from).collect();
        let (folder, only) = match (is_file, path.parent()) {
            (true, Some(parent)) => (parent, path.file_name().map(OsStr::to_owned)),
            _ => (path, None),
        };
        // A file has a folder of its own beside it, for its neighbour may be another file of the same restore.
        let stage = if only.is_some() { format!("{stage}-{number}") } else { stage };
        let all: Vec<&Path> = std::iter::once(folder).chain(mounts.iter().map(PathBuf::as_path)).collect();
        let below = |root: &Path| {
            let others = all.iter().filter(|other| **other != root);
            others.filter_map(|other| other.strip_prefix(root).ok()).map(Path::to_owned).collect()
        };
        let root = |live: &&Path| Root {
            live: (*live).to_owned(),
            stage: stage.clone(),
            only: only.clone(),
            mounts: below(live),
        };
        Self { roots: all.iter().map(root).collect(), excludes, existed: place.exists || is_file, keystone: None }
    }

    /// The same, where one entry of the folder tells whether it is whole: it is the first that is taken out and the last that is put in.
    #[must_use]
    pub fn with_keystone(self, name: &str) -> Self {
        Self { keystone: Some(name.into()), ..self }
    }

    /// Makes the folders beside what is there; the folder itself, too, where it is gone. Begins anew what was restored.
    pub fn begin(&self) -> Result<Staging, ExchangeError> {
        let mut stages = Vec::new();
        if let Some(main) = self.roots.first() {
            std::fs::create_dir_all(&main.live).map_err(|e| wrong("make the folder", &main.live, e))?;
        }
        for root in &self.roots {
            let live = self.open(root)?;
            let stage = keeping_time(&live, true, || Stage::make(&live, &root.stage))?;
            stage.remove(Side::In.name())?;
            for side in [Side::In, Side::Out] {
                stage.side(side)?;
            }
            stage.explain()?;
            stages.push(stage);
        }
        let mut staging = Staging { folder: PathBuf::new(), elsewhere: HashMap::new(), stages };
        let mut restored_to =
            self.roots.iter().zip(&staging.stages).map(|(root, stage)| (root, stage.path(Side::In.name())));
        if let Some((main, folder)) = restored_to.next() {
            let below = |root: &Root| root.live.strip_prefix(&main.live).ok().map(Path::to_owned);
            staging.elsewhere = restored_to.filter_map(|(root, path)| Some((below(root)?, path))).collect();
            staging.folder = folder;
        }
        Ok(staging)
    }

    /// A folder of our own in the first of the folders, closed to all others until it is given away, and made where it is not there. What
    /// is made there is brought in by [`Exchange::adopt`].
    pub fn nursery(&self) -> Result<PathBuf, ExchangeError> {
        let path = self.nursery_path();
        let Some(root) = self.roots.first() else { return Err(wrong("make", &path, io::ErrorKind::NotFound.into())) };
        let live = self.open(root)?;
        keeping_time(&live, true, || match mkdirat(&live.handle, nursery_of(&root.stage).as_str(), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(wrong("make the folder", &path, error.into())),
        })?;
        // One that was there may be the server's already; one of anybody else, or a link, is none of ours.
        let made = live.enter(OsStr::new(&nursery_of(&root.stage)))?;
        let of = |folder: &Folder| rustix::fs::fstat(&folder.handle).map(|stat| stat.st_uid);
        let failed = |error: Errno| wrong("look at", &path, error.into());
        let (owner, theirs) = (of(&made).map_err(failed)?, of(&live).map_err(failed)?);
        if owner != rustix::process::geteuid().as_raw() && owner != theirs {
            return Err(wrong("use", &path, io::Error::other("somebody else put it in the place of ours")));
        }
        Ok(path)
    }

    /// Where that folder is, or would be.
    pub fn nursery_path(&self) -> PathBuf {
        self.roots.first().map_or_else(PathBuf::new, |root| root.live.join(nursery_of(&root.stage)))
    }

    /// Removes that folder, with all that is in it.
    pub fn drop_nursery(&self) -> Result<(), ExchangeError> {
        let Some(root) = self.roots.first() else { return Ok(()) };
        let Some(live) = self.find(root)? else { return Ok(()) };
        let path = self.nursery_path();
        keeping_time(&live, true, || match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(wrong("remove the folder", &path, error)),
            _ => Ok(()),
        })
    }

    /// Takes what lies in a folder for what is restored, with its owner and mode: all but what belongs below a mount point, which goes
    /// there. The folder is gone then.
    pub fn adopt(&self, staging: &Staging, from: &Path) -> Result<(), ExchangeError> {
        for (below, to) in &staging.elsewhere {
            carry(&from.join(below), to)?;
        }
        carry(from, &staging.folder)
    }

    /// Writes down what the folders of both sides are, before anything is moved: their modes, owners, times, attributes.
    /// What is not in the point - a mount point, where the folder was none then - stays what it is.
    pub fn record(&self, staging: &Staging, in_the_point: &[PathBuf]) -> Result<(), ExchangeError> {
        for (root, stage) in self.roots.iter().zip(&staging.stages) {
            folders::record(&self.open(root)?, &self.scope(root), &stage.path("out.folders"), true)?;
            let restored = stage.path(Side::In.name());
            let with_root = restored == staging.folder || in_the_point.contains(&restored);
            folders::record(&stage.filled(Side::In)?, &Scope::all(), &stage.path("in.folders"), with_root)?;
            stage.list(Side::In.name())?;
        }
        self.sync()
    }

    /// Takes away everything that is meant. Returns what a person should know.
    pub fn take_out(&self, to: Side) -> Result<Vec<String>, ExchangeError> {
        let mut walk = Walk { keystone: self.keystone.clone(), ..Walk::default() };
        for root in &self.roots {
            let live = self.open(root)?.opened_to_us();
            let stage = Stage::open(&live, &root.stage)?;
            let target = stage.side(to)?;
            keeping_time(&live, root.only.is_some(), || walk.take_out(&live, &target, &self.scope(root)))?;
            if to == Side::Out {
                stage.list(to.name())?;
            }
        }
        self.sync()?;
        Ok(walk.notes)
    }

    /// Removes the empty folders that are not in what is going to be put in.
    pub fn prune(&self, from: Side) -> Result<(), ExchangeError> {
        for root in &self.roots {
            let live = self.open(root)?.opened_to_us();
            let source = Stage::open(&live, &root.stage)?.filled(from)?;
            keeping_time(&live, root.only.is_some(), || walk::prune(&live, Some(&source), &self.scope(root)))?;
        }
        self.sync()
    }

    /// Puts everything in, and gives the folders the modes, owners, times and attributes that belong to it. What stands in
    /// the way goes to `aside`. Returns what a person should know.
    pub fn put_in(&self, from: Side, aside: Side) -> Result<Vec<String>, ExchangeError> {
        let (keeps_folders, keystone) = (from == Side::In, self.keystone.clone());
        let mut walk = Walk { keeps_folders, keystone, ..Walk::default() };
        for root in &self.roots {
            let live = self.open(root)?.opened_to_us();
            let stage = Stage::open(&live, &root.stage)?;
            let (source, aside) = (stage.filled(from)?.opened_to_us(), stage.side(aside)?);
            let list = stage.path(&format!("{}.folders", from.name()));
            keeping_time(&live, root.only.is_some(), || {
                walk.put_in(&source, &live, &aside)?;
                walk.notes.extend(folders::dress(&live, &list, root.only.is_some())?);
                Ok(())
            })?;
        }
        self.sync()?;
        if let Some(root) = self.roots.first().filter(|_| self.keystone.is_some()) {
            let live = self.open(root)?;
            let stage = Stage::open(&live, &root.stage)?;
            let (source, aside) = (stage.filled(from)?, stage.side(aside)?);
            keeping_time(&live, true, || walk.put_keystone(&source, &live, &aside))?;
            self.sync()?;
        }
        Ok(walk.notes)
    }

    /// Entries of what was taken away again that a restore did not bring, or that were changed at a moment or later.
    pub fn strangers(&self, moment: Timestamp) -> Result<u64, ExchangeError> {
        let mut count = 0;
        for root in &self.roots {
            if let Some(live) = self.find(root)?
                && let Some(stage) = Stage::find(&live, &root.stage)?
            {
                count += stage.strangers(Side::Undone.name(), Side::In.name(), moment);
            }
        }
        Ok(count)
    }

    /// Whether everything that was taken away is still there to be put back, and nothing was put back yet.
    pub fn can_go_back(&self) -> Result<(), ExchangeError> {
        for root in &self.roots {
            let stage = Stage::open(&self.open(root)?, &root.stage)?;
            let out = stage.filled(Side::Out)?;
            let missing = stage.missing(Side::Out.name());
            if missing > 0 {
                let why = format!("{missing} of the entries that were set aside are not there");
                return Err(wrong("use", &out.path, io::Error::other(why)));
            }
            if stage.holds_any(Side::Undone.name()) {
                let why = io::Error::other("there is something in its `undone` already, as after an undo");
                return Err(wrong("use", &out.path, why));
            }
        }
        Ok(())
    }

    /// Removes the folders beside what is there, with all that is in them: the undo is over.
    pub fn clear(&self) -> Result<(), ExchangeError> {
        for root in &self.roots {
            let Some(live) = self.find(root)? else { continue };
            keeping_time(&live, true, || match Stage::find(&live, &root.stage)? {
                Some(stage) => stage.clear(&live, &root.stage),
                None => Ok(()),
            })?;
        }
        Ok(())
    }

    /// Removes the folder itself, where a restore made it and nothing is in it any more.
    pub fn leave_nothing(&self) -> Result<(), ExchangeError> {
        let Some(root) = self.roots.first().filter(|_| !self.existed) else { return Ok(()) };
        match std::fs::remove_dir(&root.live) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                Err(wrong("remove the folder", &root.live, error))
            }
            _ => Ok(()),
        }
    }

    /// The folders of ours that hold what is kept, as they are named to people.
    pub fn stages(&self) -> Vec<PathBuf> {
        self.roots.iter().map(|root| root.live.join(&root.stage)).collect()
    }

    /// Opens a root. What lies in the folder is reached from that, name by name: no link leads anywhere else.
    fn open(&self, root: &Root) -> Result<Folder, ExchangeError> {
        let Some(main) = self.roots.first().filter(|main| main.live != root.live) else {
            return Folder::open(&root.live);
        };
        let mut folder = Folder::open(&main.live)?;
        for name in root.live.strip_prefix(&main.live).unwrap_or(Path::new("")) {
            folder = folder.enter(name)?;
        }
        Ok(folder.into_root())
    }

    /// Opens a root, where it is there.
    fn find(&self, root: &Root) -> Result<Option<Folder>, ExchangeError> {
        match self.open(root) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(None),
            folder => folder.map(Some),
        }
    }

    fn scope<'a>(&'a self, root: &'a Root) -> Scope<'a> {
        Scope::of(&self.excludes, &self.roots[0].live, root.live.as_path(), root.only.as_deref(), &root.mounts)
    }

    /// What was moved is on disk, whatever happens next.
    fn sync(&self) -> Result<(), ExchangeError> {
        for root in &self.roots {
            let synced = rustix::fs::syncfs(&self.open(root)?.handle);
            synced.map_err(|e| wrong("write to disk", &root.live, e.into()))?;
        }
        Ok(())
    }
}

/// Where files are restored to, before they are exchanged. The paths are those of open folders, which nobody can put
/// something else in the place of; they end with this.
pub struct Staging {
    /// Where the folder is restored to.
    pub folder: PathBuf,
    /// Where what belongs into mount points is restored to instead, by its path relative to the folder.
    pub elsewhere: HashMap<PathBuf, PathBuf>,
    stages: Vec<Stage>,
}

/// Does something in a folder whose time stays what it was: our own folder in it is no change of it, and one file in it
/// that comes back is none either.
fn keeping_time<T>(
    folder: &Folder,
    keeping: bool,
    work: impl FnOnce() -> Result<T, ExchangeError>,
) -> Result<T, ExchangeError> {
    let time = folder.modified().filter(|_| keeping);
    let done = work();
    if let Some(time) = time {
        folder.set_modified(time);
    }
    done
}

/// The name of a folder in which something is made before it is taken for what is restored.
fn nursery_of(stage: &str) -> String {
    format!("{stage}-new")
}

/// Moves what is in a folder into another, with its owner and mode; across file systems it is copied. An emptied folder stays.
///
/// The folder is opened once, and must be no link; what is in it is reached through that.
pub fn carry(from: &Path, to: &Path) -> Result<(), ExchangeError> {
    let open = Folder::open(from)?;
    let own = PathBuf::from(format!("/proc/self/fd/{}", open.handle.as_raw_fd()));
    let meta = std::fs::metadata(&own).map_err(|e| wrong("look at", from, e))?;
    for entry in std::fs::read_dir(&own).map_err(|e| wrong("read the folder", from, e))? {
        let entry = entry.map_err(|e| wrong("read the folder", from, e))?;
        let (old, new) = (entry.path(), to.join(entry.file_name()));
        match std::fs::rename(&old, &new) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => copy(&old, &new)?,
            moved => moved.map_err(|e| wrong("move", &old, e))?,
        }
    }
    dress_as(to, &meta)
}

fn copy(from: &Path, to: &Path) -> Result<(), ExchangeError> {
    let meta = std::fs::symlink_metadata(from).map_err(|e| wrong("look at", from, e))?;
    if meta.is_dir() {
        std::fs::create_dir(to).map_err(|e| wrong("make the folder", to, e))?;
        carry(from, to)?;
        return std::fs::remove_dir(from).map_err(|e| wrong("remove the folder", from, e));
    }
    if !meta.is_file() {
        return Err(wrong(
            "move",
            from,
            io::Error::other("it is neither a file nor a folder, and goes to another file system"),
        ));
    }
    let failed = |e| wrong("copy", from, e);
    let mut source = regular::open(from).map_err(failed)?;
    let mut target = std::fs::File::options().write(true).create_new(true).open(to).map_err(failed)?;
    io::copy(&mut source, &mut target).map_err(failed)?;
    dress_as(to, &meta)?;
    std::fs::remove_file(from).map_err(|e| wrong("remove", from, e))
}

fn dress_as(path: &Path, meta: &std::fs::Metadata) -> Result<(), ExchangeError> {
    let failed = |e| wrong("set the owner of", path, e);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(meta.uid()), Some(meta.gid())).map_err(failed)?;
    }
    std::fs::set_permissions(path, meta.permissions()).map_err(failed)
}

fn wrong(doing: &'static str, path: &Path, source: io::Error) -> ExchangeError {
    ExchangeError { doing, path: path.to_owned(), source }
}
