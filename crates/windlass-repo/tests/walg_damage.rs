//! Archives that were damaged or tampered with: a clear error, and nothing outside the target.

#![expect(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test that cannot go on panics")]

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use proptest::prelude::*;
use tempfile::TempDir;
use windlass_core::diagnose::Diagnose;
use windlass_core::wal::Lsn;
use windlass_repo::format::walg::{
    Archive, Backup, Codec, CommitWalk, Compression, Compressor, FileDescription, FilesMetadata, KeyForm, PartName,
    PartWriter, SealKey, Sealer, SegmentHeader, Sentinel, Spec, Step, Tablespace, Target, Unpacked, WalgError, open,
};

const NAME: &str = "base_000000010000000000000002";

fn part() -> PartName {
    PartName::numbered(1, Codec::None)
}

/// A place for a target, with a file beside it that must not change.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("beside"), "untouched").unwrap();
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn target(&self) -> Target {
        Target::create(&self.path(), None, &BTreeMap::new()).unwrap()
    }

    fn is_untouched(&self) -> bool {
        let names = std::fs::read_dir(self.folder.path()).unwrap().count();
        names <= 2 && std::fs::read(self.folder.path().join("beside")).unwrap() == b"untouched"
    }
}

/// A full backup whose files are not listed, or these.
fn step(files: Option<&[&str]>) -> Step {
    let describe = |name: &&str| {
        let modified = jiff::Timestamp::UNIX_EPOCH;
        let description = FileDescription {
            is_incremented: false,
            is_skipped: false,
            modified,
            updates_count: 0,
            corrupt_blocks: None,
        };
        ((*name).to_owned(), description)
    };
    let files =
        files.map(|files| FilesMetadata { files: files.iter().map(describe).collect(), ..FilesMetadata::default() });
    let backup = Backup { name: NAME.parse().unwrap(), sentinel: Sentinel::default(), files };
    Step::plan(&[backup]).unwrap().remove(0)
}

fn unpack(target: &Target, step: &Step, name: &PartName, stored: &[u8]) -> Result<Unpacked, WalgError> {
    target.unpack(step, Archive { name, key: None, stored, again: false })
}

/// An archive with one entry as no honest writer makes it.
fn strange(name: &str, kind: tar::EntryType, link: &str, body: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(body.len() as u64);
    header.set_mode(0o600);
    header.set_cksum();
    builder.append(&header, body).unwrap();
    builder.into_inner().unwrap()
}

fn whole(mut part: PartWriter) -> Vec<u8> {
    let mut archive = Vec::new();
    part.end().unwrap();
    part.hand_out(|piece| {
        archive.extend(piece);
        Ok::<(), WalgError>(())
    })
    .unwrap();
    archive
}

fn packed(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut part = PartWriter::new();
    for (name, body) in files {
        part.file(name, 0o600, 0, body.len() as u64).unwrap();
        part.body(body).unwrap();
    }
    whole(part)
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    use tar::EntryType::Regular;
    let names = ["../beside", "/../beside", "base/../../beside", "/base/./1", "base//1", "//etc/passwd", "base/..", ""];
    for name in names {
        let place = Place::new();
        let error = unpack(&place.target(), &step(None), &part(), &strange(name, Regular, "", b"evil")).unwrap_err();
        assert!(matches!(error, WalgError::Hostile { .. }), "{name}: {error}");
        assert_eq!(error.code(), "WDL-1608");
        assert!(place.is_untouched(), "{name}");
    }
    // Where files are listed, too: whoever can write archives can write lists.
    let place = Place::new();
    let listed = step(Some(&["/../beside"]));
    let archive = strange("/../beside", Regular, "", b"evil");
    assert!(matches!(unpack(&place.target(), &listed, &part(), &archive), Err(WalgError::Hostile { .. })));
    assert!(place.is_untouched());
}

#[test]
fn what_is_neither_file_nor_folder_is_refused() {
    use tar::EntryType as Kind;
    for kind in [Kind::Symlink, Kind::Link, Kind::Char, Kind::Block, Kind::Fifo] {
        let place = Place::new();
        let archive = strange("base/1/1259", kind, "../beside", b"");
        let error = unpack(&place.target(), &step(None), &part(), &archive).unwrap_err();
        assert!(matches!(error, WalgError::Hostile { .. }), "{kind:?}: {error}");
        assert!(!place.path().join("base/1/1259").exists());
        assert!(place.is_untouched());
    }
}

#[test]
fn absurd_sizes_are_refused_and_modes_are_tamed() {
    for (name, size) in [("base/1/1", 2 << 40), ("backup_label", 2 << 20)] {
        let place = Place::new();
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_size(size);
        header.set_cksum();
        let error = unpack(&place.target(), &step(None), &part(), header.as_bytes()).unwrap_err();
        assert!(matches!(error, WalgError::Hostile { .. }), "{name}: {error}");
    }
    let place = Place::new();
    let mut archive = PartWriter::new();
    archive.folder("/base", 0o777, 0).unwrap();
    for (name, mode) in [("/base/open", 0o6777), ("/base/usual", 0o600), ("/base/shut", 0)] {
        archive.file(name, mode, 0, 0).unwrap();
    }
    unpack(&place.target(), &step(None), &part(), &whole(archive)).unwrap();
    for (name, mode) in [("base", 0o755), ("base/open", 0o755), ("base/usual", 0o600), ("base/shut", 0o600)] {
        let found = std::fs::metadata(place.path().join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(found, mode, "{name}");
    }
}

#[test]
fn a_link_that_someone_else_made_is_not_followed() {
    let place = Place::new();
    let target = place.target();
    std::os::unix::fs::symlink("..", place.path().join("base")).unwrap();
    std::os::unix::fs::symlink("../beside", place.path().join("PG_VERSION")).unwrap();
    assert!(unpack(&target, &step(None), &part(), &packed(&[("/base/new", b"evil")])).is_err());
    assert!(unpack(&target, &step(None), &part(), &packed(&[("/PG_VERSION", b"evil")])).is_err());
    let archive = packed(&[("/PG_VERSION", b"evil")]);
    let again = Archive { name: &part(), key: None, stored: &archive[..], again: true };
    assert!(target.unpack(&step(None), again).is_err());
    assert!(place.is_untouched());
}

#[test]
fn a_file_that_is_there_twice_is_refused_unless_it_is_unpacked_again() {
    let place = Place::new();
    let target = place.target();
    for step in [step(None), step(Some(&["/PG_VERSION"]))] {
        let place = Place::new();
        let twice = packed(&[("/PG_VERSION", b"15\n"), ("/PG_VERSION", b"16\n")]);
        assert!(matches!(unpack(&place.target(), &step, &part(), &twice), Err(WalgError::Hostile { .. })));
    }
    let once = packed(&[("PG_VERSION", b"15\n")]);
    unpack(&target, &step(None), &part(), &once).unwrap();
    assert!(unpack(&target, &step(None), &part(), &once).is_err());
    let again = Archive { name: &part(), key: None, stored: &once[..], again: true };
    assert_eq!(target.unpack(&step(None), again).unwrap(), Unpacked { files: 1, bytes: 3 });

    unpack(&target, &step(None), &part(), &packed(&[("/global/pg_control", b"one")])).unwrap();
    unpack(&target, &step(None), &part(), &packed(&[("global/pg_control", b"one")])).unwrap();
    let other = packed(&[("/global/pg_control", b"two")]);
    assert!(matches!(unpack(&target, &step(None), &part(), &other), Err(WalgError::Hostile { .. })));
}

#[test]
fn what_is_not_listed_is_left_out_and_what_is_missing_is_named() {
    let place = Place::new();
    let (target, step) = (place.target(), step(Some(&["/PG_VERSION", "/base/1/1"])));
    unpack(&target, &step, &part(), &packed(&[("/PG_VERSION", b"15\n"), ("/more", b"x")])).unwrap();
    assert!(!place.path().join("more").exists());
    let begins: [(&str, &[u8]); 2] = [("/global/pg_control", b"control"), ("backup_label", b"label")];
    unpack(&target, &step, &part(), &packed(&begins)).unwrap();
    let error = target.finish(&[step]).unwrap_err();
    assert!(!place.path().join("global/pg_control").exists());
    assert_eq!(
        error.to_string(),
        format!("unpack the base backup `{NAME}`: 1 files are in none of its archives, `/base/1/1` for one")
    );
}

#[test]
fn nothing_starts_without_what_begins_recovery_and_pg_control_is_last() {
    let files: [(&str, &[u8]); 3] =
        [("/PG_VERSION", b"15\n"), ("/global/pg_control", b"control"), ("backup_label", b"l")];
    for without in 1..3 {
        let place = Place::new();
        let target = place.target();
        let some: Vec<_> =
            files.iter().enumerate().filter(|(index, _)| *index != without).map(|(_, file)| *file).collect();
        unpack(&target, &step(None), &part(), &packed(&some)).unwrap();
        assert!(!place.path().join("global/pg_control").exists());
        assert!(target.finish(&[]).is_err());
        assert!(!place.path().join("global/pg_control").exists());
    }
    let place = Place::new();
    let target = place.target();
    unpack(&target, &step(None), &part(), &packed(&files)).unwrap();
    target.finish(&[]).unwrap();
    assert_eq!(std::fs::read(place.path().join("global/pg_control")).unwrap(), b"control");
    assert!(Target::create(&place.path(), None, &BTreeMap::new()).is_err(), "it is not empty");
}

#[test]
fn tablespaces_go_where_they_are_told_and_nowhere_else() {
    let place = Place::new();
    let tablespace = Tablespace { location: "/srv/ts".to_owned(), link: "pg_tblspc/16384".to_owned() };
    let spec = Spec { base_prefix: "/srv/pg".to_owned(), tablespaces: BTreeMap::from([(16384, tablespace)]) };
    assert!(Target::create(&place.path(), Some(&spec), &BTreeMap::new()).is_err(), "nobody said where");
    let odd = place.folder.path().join("ts\\with\nodd name");
    let target = Target::create(&place.path(), Some(&spec), &BTreeMap::from([(16384, odd.clone())])).unwrap();
    let link = strange("pg_tblspc/16384", tar::EntryType::Symlink, "/srv/ts", b"");
    unpack(&target, &step(None), &part(), &link).unwrap();
    let elsewhere = strange("pg_tblspc/16385", tar::EntryType::Symlink, "/srv/ts", b"");
    assert!(unpack(&target, &step(None), &part(), &elsewhere).is_err());
    let files: [(&str, &[u8]); 4] = [
        ("/pg_tblspc/16384/PG_15/5/1", b"1"),
        ("global/pg_control", b"control"),
        ("backup_label", b"label"),
        ("tablespace_map", b"16384 /srv/ts\n"),
    ];
    unpack(&target, &step(None), &part(), &packed(&files)).unwrap();
    target.finish(&[]).unwrap();
    assert_eq!(std::fs::read(odd.join("PG_15/5/1")).unwrap(), b"1");
    let map = std::fs::read_to_string(place.path().join("tablespace_map")).unwrap();
    assert_eq!(map, format!("16384 {}\n", odd.to_str().unwrap().replace('\\', "\\\\").replace('\n', "\\\n")));

    // A map that the sentinel does not know of would have the server link to wherever it says.
    let place = Place::new();
    let target = place.target();
    unpack(&target, &step(None), &part(), &packed(&files[1..])).unwrap();
    assert!(target.finish(&[]).is_err());
}

#[test]
fn a_sealed_archive_opens_with_its_key_only() {
    let key = |text: &str| SealKey::parse(text, KeyForm::Raw).unwrap();
    let (right, wrong) = (key("the right key, long enough"), key("another key, as long as that"));
    let large = vec![7; 300_000];
    let plain = packed(&[("/PG_VERSION", b"15\n"), ("/base/1/1", &large)]);
    let frame = Compressor::new(Compression::default()).unwrap().frame(&plain).unwrap().to_vec();
    let mut sealer = Sealer::new(&right, Vec::new()).unwrap();
    std::io::copy(&mut Cursor::new(frame), &mut sealer).unwrap();
    let stored = sealer.finish().unwrap();
    let name = PartName::numbered(1, Codec::Zstd);
    let with = |key: Option<&SealKey>, stored: &[u8]| {
        Place::new().target().unpack(&step(None), Archive { name: &name, key, stored, again: false })
    };
    assert_eq!(with(Some(&right), &stored).unwrap(), Unpacked { files: 2, bytes: 300_003 });
    assert!(matches!(with(Some(&wrong), &stored), Err(WalgError::WrongKey { .. })));
    assert!(matches!(with(None, &stored), Err(WalgError::Damaged { .. })));
    assert!(matches!(with(Some(&right), &stored[..10]), Err(WalgError::Cut { .. })));
}

#[test]
fn an_outage_of_the_store_is_not_taken_for_damage() {
    struct Outage<'a>(&'a [u8]);
    impl Read for Outage<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let length = self.0.len().min(into.len()).min(1000);
            if length == 0 {
                return Err(std::io::Error::new(std::io::ErrorKind::ConnectionReset, "reset"));
            }
            into[..length].copy_from_slice(&self.0[..length]);
            self.0 = &self.0[length..];
            Ok(length)
        }
    }
    let noise: Vec<u8> = (0..500_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let plain = packed(&[("/base/1/1", &noise)]);
    let key = SealKey::parse("the right key, long enough", KeyForm::Raw).unwrap();
    for (compression, sealed) in
        [(Compression::Lz4, false), (Compression::Zstd(1), false), (Compression::Zstd(1), true)]
    {
        let place = Place::new();
        let target = place.target();
        let mut stored = Compressor::new(compression).unwrap().frame(&plain).unwrap().to_vec();
        if sealed {
            let mut sealer = Sealer::new(&key, Vec::new()).unwrap();
            std::io::copy(&mut Cursor::new(stored), &mut sealer).unwrap();
            stored = sealer.finish().unwrap();
        }
        let (name, key) = (PartName::numbered(1, compression.codec()), sealed.then_some(&key));
        let archive = Archive { name: &name, key, stored: Outage(&stored[..stored.len() - 100]), again: false };
        let error = target.unpack(&step(None), archive).unwrap_err();
        assert!(matches!(error, WalgError::Read { .. }), "{compression:?} {error}");
        assert!(!place.path().join("base/1/1").exists(), "what was begun is taken away");
        let again = Archive { name: &name, key, stored: &stored[..], again: true };
        assert_eq!(target.unpack(&step(None), again).unwrap().bytes, 500_000);
    }
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/walg").join(name)).unwrap()
}

#[test]
fn a_backup_of_wal_g_that_was_cut_or_changed_is_an_error() {
    let part = PartName::numbered(1, Codec::Lz4);
    let stored = fixture(&format!("basebackups_005/{NAME}/tar_partitions/{part}"));
    for cut in [0, 3, 20, 100_000, stored.len() / 2, stored.len() - 1] {
        let place = Place::new();
        let error = unpack(&place.target(), &step(None), &part, &stored[..cut]).unwrap_err();
        assert!(matches!(error, WalgError::Cut { .. } | WalgError::Damaged { .. }), "{cut}: {error}");
        assert!(place.is_untouched());
    }
    for at in [0, 5, 1000, 1_000_000, 3_000_000, stored.len() - 2] {
        let mut changed = stored.clone();
        changed[at] ^= 4;
        let place = Place::new();
        assert!(unpack(&place.target(), &step(None), &part, &changed).is_err(), "{at}");
        assert!(place.is_untouched());
    }
}

fn segment(name: &str) -> Vec<u8> {
    let stored = fixture(&format!("wal_005/{name}.lz4"));
    let mut content = Vec::new();
    open(name, Codec::Lz4, None, &stored[..]).unwrap().read_to_end(&mut content).unwrap();
    content
}

fn walk(bytes: &[u8]) -> Option<(Lsn, u64)> {
    let header = SegmentHeader::read("segment", bytes).ok()?;
    let found = CommitWalk::new().segment(&header, bytes);
    Some((found.end, found.count))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_segment_is_walked_up_to_where_it_was_changed(
        changes in proptest::collection::vec((0_usize..1 << 19, any::<u8>()), 1..4), cut in 0_usize..1 << 20
    ) {
        use std::sync::OnceLock;
        static SEGMENT: OnceLock<Vec<u8>> = OnceLock::new();
        let original = SEGMENT.get_or_init(|| segment("000000010000000000000003"));
        let (end, count) = walk(original).unwrap();
        let mut changed = original[..1 << 20].to_vec();
        for (at, value) in &changes {
            changed[*at] = *value;
        }
        if let Some(found) = walk(&changed) {
            let first = changes.iter().filter(|(at, value)| original[*at] != *value).map(|(at, _)| *at).min();
            prop_assert!(found <= (end, count));
            // Every record that ends before the first change is found.
            if let Some(before) = first.and_then(|first| walk(&original[..first])) {
                prop_assert!(found >= before, "{found:?} {before:?}");
            }
        }
        let _ = walk(&changed[..cut]);
    }

    #[test]
    fn no_bytes_make_the_walk_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000), at in 0_usize..20_000) {
        let mut content = segment_head();
        let at = at % content.len();
        content.splice(at.., bytes.iter().copied());
        let _ = walk(&content);
        let _ = walk(&bytes);
    }
}

/// The first pages of a segment.
fn segment_head() -> Vec<u8> {
    use std::sync::OnceLock;
    static HEAD: OnceLock<Vec<u8>> = OnceLock::new();
    HEAD.get_or_init(|| segment("000000010000000000000005")[..64 << 10].to_vec()).clone()
}
