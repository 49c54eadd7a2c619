//! A folder for scratch things.

use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use windlass_repo::random;

use super::PostgresError;

/// How the name of a scratch place begins; nothing else is ever torn down.
pub(super) const PREFIX: &str = "windlass-scratch-";

/// A folder for scratch things, owned by the user scratch servers run as.
#[derive(Debug)]
pub struct Place {
    /// The folder.
    pub path: PathBuf,
    pub(super) owner: Option<(u32, u32)>,
}

impl Place {
    /// Makes a folder below `/var/tmp`, where an unprivileged user can reach it and room is to be expected. Its path
    /// is short enough for a unix socket in it.
    pub fn make() -> Result<Self, PostgresError> {
        let failed = |place: &Path, why: String| PostgresError::Scratch { place: place.to_owned(), why };
        let base = if Path::new("/var/tmp").is_dir() { PathBuf::from("/var/tmp") } else { std::env::temp_dir() };
        let name = random::bytes::<6>().map_err(|e| failed(&base, e.to_string()))?;
        let path = base.join(format!("{PREFIX}{}", windlass_repo::hex::encode(&name)));
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(|e| failed(&path, e.to_string()))?;
        let owner = unprivileged();
        if let Some((user, group)) = owner {
            chown(&path, Some(user), Some(group)).map_err(|e| failed(&path, e.to_string()))?;
        }
        Ok(Self { path, owner })
    }
}

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
