//! Where a data folder may be laid down.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use windlass_core::diagnose::{Diagnose, Outcome};

/// What could not be done with a data folder that was laid down.
#[derive(Debug, thiserror::Error)]
#[error("make `{}` ready for its server", folder.display())]
pub struct FolderError {
    /// The folder.
    pub folder: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl Diagnose for FolderError {
    fn code(&self) -> &'static str {
        "WDL-2130"
    }

    fn reason(&self) -> &'static str {
        "DataFolderNotReady"
    }

    fn outcome(&self) -> Outcome {
        Outcome::Failed
    }

    fn hints(&self) -> Vec<String> {
        vec!["check the space and the rights there, remove the folder, and run it again".to_owned()]
    }
}

/// The identifier of the cluster whose data folder it is, where it has a `pg_control`.
pub fn identifier(data: &Path) -> Option<u64> {
    let control = fs::read(data.join("global/pg_control")).ok()?;
    control.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Where the tablespaces of a data folder are that lie elsewhere, by their oid; none where it is not there.
pub fn tablespaces(data: &Path) -> io::Result<BTreeMap<u32, PathBuf>> {
    let mut found = BTreeMap::new();
    let entries = match fs::read_dir(data.join("pg_tblspc")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let oid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let (Some(oid), true) = (oid, entry.file_type()?.is_symlink()) {
            found.insert(oid, fs::read_link(entry.path())?);
        }
    }
    Ok(found)
}

/// Bits of a mode: writable for a group or for all; and with it, names belong to who made them.
const OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// As root: the folder above a place whose owner could put another in its stead while we write. `None` where there is none, or
/// we are not root and can do nothing that our user could not.
pub fn not_ours_above(place: &Path) -> io::Result<Option<PathBuf>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let there = place.ancestors().skip(1).find(|above| above.exists()).unwrap_or(Path::new("/"));
    for above in fs::canonicalize(there)?.ancestors() {
        let found = fs::metadata(above)?;
        let is_open = found.mode() & OTHERS != 0 && found.mode() & STICKY == 0;
        if found.uid() != 0 || is_open {
            return Ok(Some(above.to_owned()));
        }
    }
    Ok(None)
}
