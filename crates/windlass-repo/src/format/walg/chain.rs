//! What is unpacked of which base backup, from a full one to the newest that stands on it.
//!
//! A backup of changes holds folders and changed files whole (new ones, and what is no relation), the changed pages of
//! relations, and the names of what did not change. So each file is looked for from the newest backup back: it is in the first
//! that holds it whole, and in those on the way that hold pages of it. Files that the newest does not name are gone, and are
//! not unpacked from any.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{BackupName, FilesMetadata, Sentinel, WalgError};

/// A base backup, by its documents.
#[derive(Clone, Debug)]
pub struct Backup {
    /// Its name.
    pub name: BackupName,
    /// Its sentinel.
    pub sentinel: Sentinel,
    /// The list of its files; `None` where there is none, as with [`Sentinel::without_files_metadata`].
    pub files: Option<FilesMetadata>,
}

/// What is unpacked of one base backup: all its archives, before the next step.
#[derive(Debug)]
pub struct Step {
    /// The base backup.
    pub backup: BackupName,
    /// Whether it is the newest, of which the files are taken that begin recovery.
    pub(super) is_newest: bool,
    /// By name in the archives; `None` where everything is taken.
    pub(super) wanted: Option<HashMap<String, Wanted>>,
}

/// What is unpacked of an entry.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Whether it holds changed pages only.
    pub(super) is_increment: bool,
    /// Whether it was.
    pub(super) is_there: AtomicBool,
}

impl Step {
    /// The steps that lead to the newest of these backups, the full one first. Given are the newest first and then those it
    /// stands on, each where [`Sentinel::delta`] of the one before says.
    pub fn plan(newest_first: &[Backup]) -> Result<Vec<Self>, WalgError> {
        let Some(newest) = newest_first.first() else { return Ok(Vec::new()) };
        let broken = |why: String| WalgError::Chain { backup: newest.name.to_string(), why };
        let mut steps = Vec::new();
        // The files that must be in this backup or before it; `None` before the newest was looked at.
        let mut open: Option<Vec<&str>> = None;
        for (index, backup) in newest_first.iter().enumerate() {
            let before = newest_first.get(index + 1);
            stands_on(backup, before).map_err(broken)?;
            let is_newest = index == 0;
            let files = backup.files.as_ref().map(|files| &files.files).filter(|files| !files.is_empty());
            let Some(files) = files else {
                if before.is_some() || !is_newest {
                    return Err(broken(format!("`{}` has no list of its files", backup.name)));
                }
                steps.push(Self { backup: backup.name.clone(), is_newest, wanted: None });
                break;
            };
            let names = open.take().unwrap_or_else(|| files.keys().map(String::as_str).collect());
            let (mut wanted, mut earlier) = (HashMap::new(), Vec::new());
            for name in names {
                let file = files.get(name).ok_or_else(|| {
                    broken(format!("`{name}` did not change since `{}`, which does not have it", backup.name))
                })?;
                if file.is_skipped || file.is_incremented {
                    earlier.push(name);
                }
                if !file.is_skipped {
                    let is_there = AtomicBool::new(false);
                    wanted.insert(name.to_owned(), Wanted { is_increment: file.is_incremented, is_there });
                }
            }
            if before.is_none()
                && let Some(name) = earlier.first()
            {
                return Err(broken(format!("`{name}` is not whole in the full backup `{}`", backup.name)));
            }
            open = Some(earlier);
            steps.push(Self { backup: backup.name.clone(), is_newest, wanted: Some(wanted) });
        }
        steps.reverse();
        Ok(steps)
    }

    /// These entries were unpacked before.
    pub(super) fn have(&self, names: &[String]) {
        for wanted in names.iter().filter_map(|name| self.wanted.as_ref()?.get(name)) {
            wanted.is_there.store(true, Ordering::Relaxed);
        }
    }

    /// Refuses where its archives, as far as they were unpacked, did not hold everything they should.
    pub fn check(&self) -> Result<(), WalgError> {
        let missing = || {
            let wanted = self.wanted.iter().flatten();
            wanted.filter(|(_, wanted)| !wanted.is_there.load(Ordering::Relaxed)).map(|(name, _)| name)
        };
        let count = missing().count();
        let Some(example) = missing().min() else { return Ok(()) };
        Err(WalgError::Incomplete { backup: self.backup.to_string(), count, example: example.clone() })
    }
}

/// Whether a backup stands on the one that is given as the one before it.
fn stands_on(backup: &Backup, before: Option<&Backup>) -> Result<(), String> {
    let name = &backup.name;
    match (&backup.sentinel.delta, before) {
        (None, None) => Ok(()),
        (None, Some(other)) => Err(format!("`{name}` is full and does not stand on `{}`", other.name)),
        (Some(delta), None) => Err(format!("`{name}` stands on `{}`, which is not there", delta.from)),
        (Some(delta), Some(other)) if delta.from != other.name => {
            Err(format!("`{name}` stands on `{}`, and not on `{}`", delta.from, other.name))
        }
        (Some(delta), Some(other)) if other.sentinel.start != Some(delta.start) => {
            Err(format!("`{name}` stands on a `{}` that begins at {}: there is another", other.name, delta.start))
        }
        (Some(_), Some(other)) => match (backup.sentinel.system_identifier, other.sentinel.system_identifier) {
            (Some(one), Some(two)) if one != two => Err(format!("`{name}` and `{}` are of two clusters", other.name)),
            _ => Ok(()),
        },
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "the numbers of tests are small, or meant to be cut")]
mod tests {
    use super::{Backup, Step};
    use crate::format::walg::{Delta, FileDescription, FilesMetadata, Sentinel};
    use windlass_core::wal::Lsn;

    const NAMES: [&str; 3] = [
        "base_000000010000000000000002",
        "base_000000010000000000000004_D_000000010000000000000002",
        "base_000000010000000000000006_D_000000010000000000000004",
    ];

    /// Files as `whole`, `~changed`, `=unchanged`.
    fn backup(index: usize, files: &[&str]) -> Backup {
        let describe = |file: &&str| {
            let (is_incremented, is_skipped) = (file.starts_with('~'), file.starts_with('='));
            let modified = jiff::Timestamp::UNIX_EPOCH;
            let description =
                FileDescription { is_incremented, is_skipped, modified, updates_count: 0, corrupt_blocks: None };
            (file.trim_start_matches(['~', '=']).to_owned(), description)
        };
        let delta = index.checked_sub(1).map(|before| Delta {
            from: NAMES[before].parse().unwrap(),
            full: NAMES[0].parse().unwrap(),
            start: Lsn(before as u64),
            count: index as u32,
        });
        Backup {
            name: NAMES[index].parse().unwrap(),
            sentinel: Sentinel { start: Some(Lsn(index as u64)), delta, ..Sentinel::default() },
            files: Some(FilesMetadata { files: files.iter().map(describe).collect(), ..FilesMetadata::default() }),
        }
    }

    fn planned(newest_first: &[Backup]) -> Vec<Vec<String>> {
        let named = |step: Step| {
            let mut names: Vec<String> = (step.wanted.into_iter().flatten())
                .map(|(name, wanted)| if wanted.is_increment { format!("~{name}") } else { name })
                .collect();
            names.sort();
            names
        };
        Step::plan(newest_first).unwrap().into_iter().map(named).collect()
    }

    #[test]
    fn each_file_is_taken_from_where_it_is_whole_and_from_the_changes_behind() {
        let full = backup(0, &["/a", "/b", "/c", "/gone", "/rewritten"]);
        let first = backup(1, &["~/a", "=/b", "=/c", "/d", "/rewritten"]);
        let second = backup(2, &["~/a", "=/b", "~/c", "=/d", "=/rewritten"]);
        assert_eq!(
            planned(&[second, first, full.clone()]),
            [vec!["/a", "/b", "/c"], vec!["/d", "/rewritten", "~/a"], vec!["~/a", "~/c"],]
        );
        assert_eq!(planned(&[full]), [["/a", "/b", "/c", "/gone", "/rewritten"]]);
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let (full, first, second) = (backup(0, &["/a"]), backup(1, &["=/a"]), backup(2, &["=/a", "=/b"]));
        let mut other = full.clone();
        other.sentinel.start = Some(Lsn(99));
        let mut bare = full.clone();
        bare.files = None;
        for chain in [
            vec![first.clone()],
            vec![second.clone(), full.clone()],
            vec![second, first.clone(), full.clone()],
            vec![full.clone(), first.clone()],
            vec![first.clone(), other],
            vec![first, bare.clone()],
            vec![backup(0, &["=/a"])],
        ] {
            assert!(Step::plan(&chain).is_err());
        }
        assert!(Step::plan(&[bare]).unwrap()[0].wanted.is_none());
    }
}
