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
//! is followed; no entry is overwritten; what the settings leave out of captures, and sockets, stay where they are. Each
//! step does what is still to be done, so that it can be run again after it was killed anywhere: [`Exchange::take_out`] only
//! takes away, and only then [`Exchange::put_in`] only puts in, so a name alone tells how far they came.
//! Not promised: that an application which was not stopped sees one state or the other.

mod folders;
mod walk;

use std::ffi::{OsStr, OsString};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use windlass_core::id::RestoreId;
use windlass_core::restore::FilesPlace;
use windlass_repo::format::restic::{Excludes, STAGE};

use self::walk::{Folder, Scope};

/// A folder whose entries are exchanged, or the folder of one file that is.
pub struct Exchange {
    /// Its roots: the folder itself, and mount points below it.
    roots: Vec<Root>,
    excludes: Excludes,
}

struct Root {
    live: PathBuf,
    stage: PathBuf,
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
        let stage_of = |root: &Path| match &only {
            None => root.join(&stage),
            Some(_) => root.join(format!("{stage}-{number}")),
        };
        let all: Vec<&Path> = std::iter::once(folder).chain(mounts.iter().map(PathBuf::as_path)).collect();
        let below = |root: &Path| {
            let others = all.iter().filter(|other| **other != root);
            others.filter_map(|other| other.strip_prefix(root).ok()).map(Path::to_owned).collect()
        };
        let root = |live: &&Path| Root {
            live: (*live).to_owned(),
            stage: stage_of(live),
            only: only.clone(),
            mounts: below(live),
        };
        Self { roots: all.iter().map(root).collect(), excludes }
    }

    /// Makes the folders beside what is there; the folder itself, too, where it is gone. Begins anew what was restored.
    pub fn begin(&self) -> Result<(), ExchangeError> {
        for root in &self.roots {
            std::fs::create_dir_all(&root.live).map_err(|e| wrong("make the folder", &root.live, e))?;
            keeping_time(&root.live, || make(&root.stage))?;
            remove(&root.stage.join(Side::In.name()))?;
            for side in [Side::In, Side::Out] {
                make(&root.stage.join(side.name()))?;
            }
            let text = "Windlass made this folder for a restore in place. `out` holds what was there before it.\n\
                        `windlass undo` puts that back, or removes it; do not move anything by hand while a restore runs.\n";
            let path = root.stage.join("README.txt");
            std::fs::write(&path, text).map_err(|e| wrong("write", &path, e))?;
        }
        Ok(())
    }

    /// Where the folder is restored to.
    pub fn staging(&self) -> PathBuf {
        self.roots.first().map(|root| root.stage.join(Side::In.name())).unwrap_or_default()
    }

    /// Where what belongs into mount points is restored to instead, by its path relative to the folder.
    pub fn elsewhere(&self) -> Vec<(PathBuf, PathBuf)> {
        let Some((main, mounts)) = self.roots.split_first() else { return Vec::new() };
        let relative =
            |root: &Root| Some((root.live.strip_prefix(&main.live).ok()?.to_owned(), root.stage.join(Side::In.name())));
        mounts.iter().filter_map(relative).collect()
    }

    /// Writes down what the folders of both sides are, before anything is moved: their modes, owners, times, attributes.
    pub fn record(&self) -> Result<(), ExchangeError> {
        for root in &self.roots {
            let scope = self.scope(root);
            folders::record(&Folder::open(&root.live)?, &scope, &root.stage.join("out.folders"))?;
            let staged = Folder::open(&root.stage.join(Side::In.name()))?;
            folders::record(&staged, &Scope::all(), &root.stage.join("in.folders"))?;
        }
        self.sync()
    }

    /// Takes away everything that is meant.
    pub fn take_out(&self, to: Side) -> Result<(), ExchangeError> {
        for root in &self.roots {
            make(&root.stage.join(to.name()))?;
            let target = Folder::open(&root.stage.join(to.name()))?;
            walk::take_out(&Folder::open(&root.live)?.opened_to_us(), &target, &self.scope(root))?;
        }
        self.sync()
    }

    /// Removes the empty folders that are not in what is going to be put in.
    pub fn prune(&self, from: Side) -> Result<(), ExchangeError> {
        for root in &self.roots {
            let source = Folder::open(&root.stage.join(from.name()))?;
            walk::prune(&Folder::open(&root.live)?.opened_to_us(), Some(&source), &self.scope(root))?;
        }
        self.sync()
    }

    /// Puts everything in, and gives the folders the modes, owners, times and attributes that belong to it. What stands in
    /// the way because it is left out of captures goes to `aside`. Returns what could not be set, in words.
    pub fn put_in(&self, from: Side, aside: Side) -> Result<Vec<String>, ExchangeError> {
        let mut warnings = Vec::new();
        for root in &self.roots {
            make(&root.stage.join(aside.name()))?;
            let source = Folder::open(&root.stage.join(from.name()))?.opened_to_us();
            let aside = Folder::open(&root.stage.join(aside.name()))?;
            let live = Folder::open(&root.live)?.opened_to_us();
            walk::put_in(&source, &live, &aside)?;
            let list = root.stage.join(format!("{}.folders", from.name()));
            warnings.extend(folders::dress(&live, &list, root.only.is_some())?);
        }
        self.sync()?;
        Ok(warnings)
    }

    /// Removes the folders beside what is there, with all that is in them: the undo is over.
    pub fn clear(&self) -> Result<(), ExchangeError> {
        for root in &self.roots {
            if root.live.exists() {
                keeping_time(&root.live, || remove(&root.stage))?;
            }
        }
        Ok(())
    }

    fn scope<'a>(&'a self, root: &'a Root) -> Scope<'a> {
        Scope::of(&self.excludes, &self.roots[0].live, root.live.as_path(), root.only.as_deref(), &root.mounts)
    }

    /// What was moved is on disk, whatever happens next.
    fn sync(&self) -> Result<(), ExchangeError> {
        for root in &self.roots {
            let synced = std::fs::File::open(&root.live).and_then(|f| rustix::fs::syncfs(f).map_err(Into::into));
            synced.map_err(|e| wrong("write to disk", &root.live, e))?;
        }
        Ok(())
    }
}

/// Does something in a folder whose time stays what it was: our own folder in it is no change of it.
fn keeping_time(folder: &Path, work: impl FnOnce() -> Result<(), ExchangeError>) -> Result<(), ExchangeError> {
    let failed = |error| wrong("look at the folder", folder, error);
    let file = std::fs::File::open(folder).map_err(failed)?;
    let time = file.metadata().and_then(|meta| meta.modified()).map_err(failed)?;
    let done = work();
    // Where it is somebody else's, its time is what it is.
    let _ = file.set_modified(time);
    done
}

fn make(path: &Path) -> Result<(), ExchangeError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !path.is_symlink() && path.is_dir() => Ok(()),
        made => made.map_err(|e| wrong("make the folder", path, e)),
    }
}

fn remove(path: &Path) -> Result<(), ExchangeError> {
    let removed = match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_to_us(path);
            std::fs::remove_dir_all(path)
        }
        removed => removed,
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|e| wrong("remove the folder", path, e)),
    }
}

/// Opens the folders below one of ours to us: restored ones may be closed to their owner.
fn open_to_us(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    // What cannot be opened cannot be removed, and that is said then.
    let _ = std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700));
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_to_us(&entry.path());
        }
    }
}

fn wrong(doing: &'static str, path: &Path, source: io::Error) -> ExchangeError {
    ExchangeError { doing, path: path.to_owned(), source }
}
