//! Where a base backup is laid down: the data folder, and the folders of its tablespaces.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};

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

    /// Gives all of it to a user, and links in it are not followed.
    pub fn give_to(&self, (user, group): (u32, u32)) -> io::Result<()> {
        for top in &self.tops {
            let (mut open, mut all) = (vec![top.clone()], vec![top.clone()]);
            while let Some(path) = open.pop() {
                for entry in std::fs::read_dir(path)? {
                    let entry = entry?;
                    if entry.file_type()?.is_dir() {
                        open.push(entry.path());
                    }
                    all.push(entry.path());
                }
            }
            // What is above is given away last: as long as it is ours, nobody puts another in the place of what is below.
            all.iter().rev().try_for_each(|path| lchown(path, Some(user), Some(group)))?;
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
