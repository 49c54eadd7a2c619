//! What objects are called, and what a listing says is there.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use windlass_core::wal::{InvalidWalName, Segment, SegmentSize, WalFile};

use super::{Codec, WalgError};

/// The folder of the base backups, below the prefix.
pub const BASE_BACKUPS: &str = "basebackups_005";

/// The folder of the WAL, below the prefix.
pub const WAL: &str = "wal_005";

const SENTINEL: &str = "_backup_stop_sentinel.json";
const METADATA: &str = "metadata.json";
const SETTINGS: &str = "settings.tar";
const FILES_METADATA: &str = "files_metadata.json";
const PARTS: &str = "tar_partitions";

/// The name of a base backup: `base_` and the segment it starts in; one that holds changes only goes on with `_D_` and the
/// segment of the backup before. Names sort by timeline and segment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupName(String);

impl BackupName {
    /// Of a backup that needs no other.
    pub fn full(start: Segment, size: SegmentSize) -> Self {
        Self(format!("base_{}", start.name(size)))
    }

    /// Of a backup of what changed since another.
    pub fn delta(start: Segment, since: Segment, size: SegmentSize) -> Self {
        Self(format!("base_{}_D_{}", start.name(size), since.name(size)))
    }

    /// As it is in the store.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it holds only what changed since another.
    pub fn is_delta(&self) -> bool {
        self.0.get(29..32) == Some("_D_")
    }

    /// The segment it starts in.
    pub fn segment(&self, size: SegmentSize) -> Result<Segment, InvalidWalName> {
        Segment::parse(self.0.get(5..29).unwrap_or_default(), size)
    }

    /// The object that is written last: while it is not there, there is no such backup.
    pub fn sentinel(&self) -> String {
        format!("{BASE_BACKUPS}/{self}{SENTINEL}")
    }

    /// What it says of itself to lists.
    pub fn metadata(&self) -> String {
        format!("{BASE_BACKUPS}/{self}/{METADATA}")
    }

    /// The list of its files.
    pub fn files_metadata(&self) -> String {
        format!("{BASE_BACKUPS}/{self}/{FILES_METADATA}")
    }

    /// The archive of settings that lay outside of the data folder: of ours alone, and passed over by others.
    pub fn settings(&self, codec: Codec) -> String {
        let extension = codec.extension().map_or(String::new(), |extension| format!(".{extension}"));
        format!("{BASE_BACKUPS}/{self}/{SETTINGS}{extension}")
    }

    /// One of its archives.
    pub fn part(&self, part: &PartName) -> String {
        format!("{BASE_BACKUPS}/{self}/{PARTS}/{part}")
    }
}

impl fmt::Display for BackupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for BackupName {
    type Err = WalgError;

    fn from_str(name: &str) -> Result<Self, WalgError> {
        let parse = || {
            let rest = segment_digits(name.strip_prefix("base_")?)?;
            let rest = rest.strip_prefix("_D_").map_or(Some(rest), segment_digits)?;
            let rest = rest.strip_prefix('_').map_or(Some(rest), |rest| digits(rest, 8))?;
            rest.is_empty().then(|| Self(name.to_owned()))
        };
        parse().ok_or_else(|| WalgError::BackupName { name: name.to_owned() })
    }
}

/// What follows this many digits.
fn digits(text: &str, count: usize) -> Option<&str> {
    let (digits, rest) = text.split_at_checked(count)?;
    digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)).then_some(rest)
}

fn segment_digits(text: &str) -> Option<&str> {
    digits(text, 24)
}

/// What an archive of a base backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartKind {
    /// Files of the cluster.
    Files,
    /// `global/pg_control` alone.
    Control,
    /// `backup_label` and `tablespace_map`.
    Label,
}

/// The name of an archive of a base backup: `part_001.tar.lz4`, `pg_control.tar.lz4`, `backup_label.tar.lz4`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartName {
    stem: String,
    codec: Codec,
}

impl PartName {
    /// Of the archive of files with this number; the first is 1.
    pub fn numbered(number: u32, codec: Codec) -> Self {
        Self { stem: format!("part_{number:03}.tar"), codec }
    }

    /// Of the archive of `pg_control`.
    pub fn control(codec: Codec) -> Self {
        Self { stem: "pg_control.tar".to_owned(), codec }
    }

    /// Of the archive of `backup_label`.
    pub fn label(codec: Codec) -> Self {
        Self { stem: "backup_label.tar".to_owned(), codec }
    }

    /// From a name without a folder; `None` where it is no archive that can be read.
    pub fn parse(name: &str) -> Option<Self> {
        let (stem, codec) = Codec::split(name);
        (stem.ends_with(".tar") && !stem.contains('/')).then(|| Self { stem: stem.to_owned(), codec })
    }

    /// What is in it.
    pub fn kind(&self) -> PartKind {
        match self.stem.as_str() {
            "pg_control.tar" => PartKind::Control,
            "backup_label.tar" => PartKind::Label,
            _ => PartKind::Files,
        }
    }

    /// How it is compressed.
    pub fn codec(&self) -> Codec {
        self.codec
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.stem)?;
        self.codec.extension().map_or(Ok(()), |extension| write!(f, ".{extension}"))
    }
}

/// The object of a WAL file.
pub fn wal_object(file: WalFile, size: SegmentSize, codec: Codec) -> String {
    codec.extension().map_or_else(
        || format!("{WAL}/{}", file.name(size)),
        |extension| format!("{WAL}/{}.{extension}", file.name(size)),
    )
}

/// What is there of a base backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Its sentinel: without it, it is unfinished or was deleted.
    pub sentinel: bool,
    /// What it says of itself to lists.
    pub metadata: bool,
    /// The list of its files.
    pub files_metadata: bool,
    /// Its archives, by name.
    pub parts: Vec<PartName>,
    /// What lies among its archives and is none: stock `wal-g` does not restore it because of that.
    pub strange: Vec<String>,
}

/// What a prefix holds, from the names of its objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Base backups and what is there of them.
    pub backups: BTreeMap<BackupName, Present>,
    /// WAL files and the ways they are compressed; more than one where the way was changed and a file stored again.
    pub wal: BTreeMap<WalFile, Vec<Codec>>,
    /// Names that say nothing to us. Nothing is wrong with them.
    pub others: Vec<String>,
}

impl Listing {
    /// From names below the prefix, such as `wal_005/000000010000000000000002.lz4`, in any order.
    pub fn read<'a>(names: impl IntoIterator<Item = &'a str>, size: SegmentSize) -> Self {
        let mut listing = Self::default();
        for name in names {
            if listing.add(name, size).is_none() {
                listing.others.push(name.to_owned());
            }
        }
        for present in listing.backups.values_mut() {
            present.parts.sort();
        }
        listing
    }

    fn add(&mut self, name: &str, size: SegmentSize) -> Option<()> {
        let (folder, below) = name.split_once('/')?;
        if folder == WAL {
            let (file, codec) = Codec::split(below);
            self.wal.entry(WalFile::parse(file, size).ok()?).or_default().push(codec);
            return Some(());
        }
        if folder != BASE_BACKUPS {
            return None;
        }
        let Some((backup, object)) = below.split_once('/') else {
            let backup = below.strip_suffix(SENTINEL)?.parse().ok()?;
            self.backups.entry(backup).or_default().sentinel = true;
            return Some(());
        };
        let backup = backup.parse().ok()?;
        match object.split_once('/') {
            None if object == METADATA => self.backups.entry(backup).or_default().metadata = true,
            None if object == FILES_METADATA => self.backups.entry(backup).or_default().files_metadata = true,
            Some((PARTS, part)) => {
                let present = self.backups.entry(backup).or_default();
                match PartName::parse(part) {
                    Some(part) => present.parts.push(part),
                    None => present.strange.push(part.to_owned()),
                }
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use windlass_core::wal::{Segment, SegmentSize, Timeline, WalFile};

    use super::{BackupName, Listing, PartKind, PartName, wal_object};
    use crate::format::walg::Codec;

    const FULL: &str = "base_000000010000000000000002";
    const DELTA: &str = "base_000000010000000000000004_D_000000010000000000000002";

    #[test]
    fn the_names_are_those_of_wal_g() {
        let size = SegmentSize::default();
        let segment = |number| Segment { timeline: Timeline(1), number };
        let (full, delta) = (BackupName::full(segment(2), size), BackupName::delta(segment(4), segment(2), size));
        assert_eq!((full.as_str(), full.is_delta()), (FULL, false));
        assert_eq!((delta.as_str(), delta.is_delta()), (DELTA, true));
        assert_eq!(delta.segment(size), Ok(segment(4)));
        assert_eq!(full.sentinel(), format!("basebackups_005/{FULL}_backup_stop_sentinel.json"));
        let part = PartName::numbered(1, Codec::Lz4);
        assert_eq!(full.part(&part), format!("basebackups_005/{FULL}/tar_partitions/part_001.tar.lz4"));
        assert_eq!(PartName::numbered(1000, Codec::None).to_string(), "part_1000.tar");
        assert_eq!(PartName::parse("pg_control.tar.zst").map(|part| part.kind()), Some(PartKind::Control));
        let history = WalFile::History(Timeline(2));
        assert_eq!(wal_object(history, size, Codec::Zstd), "wal_005/00000002.history.zst");
        assert!(format!("{FULL}_00000028").parse::<BackupName>().is_ok());
        for name in ["base_", "base_00000001000000000000000g", "base_000000010000000000000002_D_", &format!("{FULL}/x")]
        {
            assert!(name.parse::<BackupName>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_listing_says_what_is_there_and_keeps_the_rest_apart() {
        let names = [
            format!("basebackups_005/{FULL}_backup_stop_sentinel.json"),
            format!("basebackups_005/{FULL}/metadata.json"),
            format!("basebackups_005/{FULL}/tar_partitions/part_002.tar.lz4"),
            format!("basebackups_005/{FULL}/tar_partitions/part_001.tar.lz4"),
            format!("basebackups_005/{FULL}/tar_partitions/manifest.json"),
            format!("basebackups_005/{FULL}/index.zst"),
            format!("basebackups_005/{DELTA}/files_metadata.json"),
            "wal_005/000000010000000000000001.lz4".to_owned(),
            "wal_005/000000010000000000000001.zst".to_owned(),
            "wal_005/000000010000000000000001.json".to_owned(),
            "wal_005/000000010000000000000000_delta.lz4".to_owned(),
            "elsewhere".to_owned(),
        ];
        let listing = Listing::read(names.iter().map(String::as_str), SegmentSize::default());
        let full = &listing.backups[&FULL.parse().unwrap()];
        assert!(full.sentinel && full.metadata && !full.files_metadata);
        assert_eq!(
            full.parts.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["part_001.tar.lz4", "part_002.tar.lz4"]
        );
        assert_eq!(full.strange, ["manifest.json"]);
        let delta = &listing.backups[&DELTA.parse().unwrap()];
        assert!(!delta.sentinel && delta.files_metadata);
        assert_eq!(listing.wal.values().collect::<Vec<_>>(), [&vec![Codec::Lz4, Codec::Zstd]]);
        assert_eq!(listing.others.len(), 4);
    }

    proptest! {
        #[test]
        fn no_name_makes_it_panic(name: String) {
            let below = ["wal_005/", "basebackups_005/", "basebackups_005/base_"].map(|folder| format!("{folder}{name}"));
            let listing = Listing::read(below.iter().map(String::as_str).chain([name.as_str()]), SegmentSize::default());
            prop_assert!(listing.backups.len() + listing.wal.len() + listing.others.len() <= 4);
        }
    }
}
