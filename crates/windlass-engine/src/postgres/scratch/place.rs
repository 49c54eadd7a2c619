//! A folder for scratch things.

use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use windlass_repo::random;

use super::PostgresError;

/// How the name of a scratch place begins; nothing else is ever torn down.
pub(super) const PREFIX: &str = "windlass-scratch-";

/// A folder for scratch things, owned by the user scratch servers run as.
#[derive(Debug)]
pub struct Place {
    /// The folder.
    pub path: PathBuf,
    pub(in crate::postgres) owner: Option<(u32, u32)>,
}

impl Place {
    /// The folder that places are made in.
    pub fn base() -> PathBuf {
        if Path::new("/var/tmp").is_dir() { PathBuf::from("/var/tmp") } else { std::env::temp_dir() }
    }

    /// Makes a folder below `/var/tmp`, where an unprivileged user can reach it and room is to be expected. Its path
    /// is short enough for a unix socket in it.
    pub fn make() -> Result<Self, PostgresError> {
        Self::make_for(None)
    }

    /// The same for servers that run as a certain user, where we are root and can choose.
    pub fn make_for(owner: Option<(u32, u32)>) -> Result<Self, PostgresError> {
        let failed = |place: &Path, why: String| PostgresError::Scratch { place: place.to_owned(), why };
        let base = Self::base();
        let name = random::bytes::<6>().map_err(|e| failed(&base, e.to_string()))?;
        let path = base.join(format!("{PREFIX}{}", windlass_repo::hex::encode(&name)));
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(|e| failed(&path, e.to_string()))?;
        let owner = owner.filter(|_| rustix::process::geteuid().is_root()).or_else(unprivileged);
        if let Some((user, group)) = owner {
            chown(&path, Some(user), Some(group)).map_err(|e| failed(&path, e.to_string()))?;
        }
        std::fs::write(path.join(OWNER), this_process()).map_err(|e| failed(&path, e.to_string()))?;
        Ok(Self { path, owner })
    }
}

/// Who made a place: a process by its number and the moment it began, since numbers are given again.
const OWNER: &str = "owner";

fn this_process() -> String {
    let id = std::process::id();
    format!("{id} {} {}", began(id).unwrap_or_default(), namespace())
}

/// The namespace our process numbers mean something in: a container has one of its own.
fn namespace() -> String {
    std::fs::read_link("/proc/self/ns/pid").map(|link| link.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The moment a process began, in ticks since the machine did: the 22nd field of `/proc/<id>/stat`, the 20th behind the
/// name, which may hold anything.
fn began(id: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}

/// Scratch places nobody looks after: who made them is gone, and their supervisor had its time.
pub fn stale() -> Vec<PathBuf> {
    let places = std::fs::read_dir("/var/tmp").into_iter().flatten().flatten();
    let ours = places.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)).map(|entry| entry.path());
    ours.filter(|place| is_stale(place)).collect()
}

fn is_stale(place: &Path) -> bool {
    let Ok(owner) = std::fs::read_to_string(place.join(OWNER)) else { return false };
    let mut words = owner.split_whitespace();
    let (Some(Ok(id)), Some(since), Some(there)) = (words.next().map(str::parse::<u32>), words.next(), words.next())
    else {
        return false;
    };
    if there != namespace() {
        return false;
    }
    let age = place.join(OWNER).metadata().and_then(|meta| meta.modified()).ok().and_then(|at| at.elapsed().ok());
    began(id).as_deref() != Some(since) && age.is_some_and(|age| age > GRACE)
}

/// A supervisor tears a place down within this of its master's end.
const GRACE: Duration = Duration::from_mins(2);

/// The user servers run as where we are root, which they refuse to be: `postgres`, else `nobody`.
fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    find("postgres").or_else(|| find("nobody"))
}
