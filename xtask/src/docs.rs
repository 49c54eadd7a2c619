//! References that are written from the code, so that they cannot drift from it.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::root;

fn documents() -> Result<Vec<(PathBuf, String)>> {
    let folder = root()?.join("docs/reference");
    Ok(vec![(folder.join("settings.md"), windlass::settings::reference())])
}

/// Writes the references.
pub(crate) fn write() -> Result<bool> {
    for (path, text) in documents()? {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(true)
}

/// Compares the references with the code; `false` where one has drifted.
pub(crate) fn check() -> Result<bool> {
    let mut good = true;
    for (path, text) in documents()? {
        if std::fs::read_to_string(&path).unwrap_or_default() != text {
            eprintln!("{} is not what the code says: run `make docs`", path.display());
            good = false;
        }
    }
    Ok(good)
}
