//! Which patterns of a disk component leave nothing out: a slip in one shows nowhere else.

use std::fs;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use windlass_core::application::Disk;

/// As many files and folders are looked at; where there are more, no pattern is said to match nothing.
const LIMIT: usize = 100_000;

/// The indices of the patterns that match no file or folder.
///
/// A pattern counts as matching if it matches a name, or a path from any folder on: in doubt nothing is said.
pub(super) fn unmatched(disk: &Disk) -> Vec<usize> {
    if disk.exclude.is_empty() {
        return Vec::new();
    }
    let Some(patterns) = compile(&disk.exclude) else { return Vec::new() };
    let mut matched = vec![false; disk.exclude.len()];
    let mut folders: Vec<PathBuf> = disk.paths.clone();
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        mark(&patterns, &folder, &mut matched);
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            seen += 1;
            if seen > LIMIT || matched.iter().all(|matched| *matched) {
                return Vec::new();
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            } else {
                mark(&patterns, &entry.path(), &mut matched);
            }
        }
    }
    matched.iter().enumerate().filter(|(_, matched)| !**matched).map(|(index, _)| index).collect()
}

fn compile(patterns: &[String]) -> Option<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let anywhere = format!("**/{}", pattern.trim_matches('/'));
        set.add(GlobBuilder::new(&anywhere).literal_separator(true).build().ok()?);
    }
    set.build().ok()
}

fn mark(patterns: &GlobSet, path: &Path, matched: &mut [bool]) {
    for index in patterns.matches(path) {
        if let Some(matched) = matched.get_mut(index) {
            *matched = true;
        }
    }
}
