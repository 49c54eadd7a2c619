//! A repository of stock WAL-G is read: base backups, what changed since, and the WAL.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use windlass_core::wal::SegmentSize;
use windlass_repo::format::walg::{
    Archive, Backup, BackupName, FilesMetadata, Listing, Metadata, Sentinel, Step, Target, Unpacked,
};

const CHAIN: [&str; 3] = [
    "base_000000010000000000000002",
    "base_000000010000000000000004_D_000000010000000000000002",
    "base_000000010000000000000006_D_000000010000000000000004",
];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/walg")
}

/// Names of objects below the prefix.
fn names() -> Result<Vec<String>> {
    let (mut names, mut folders) = (Vec::new(), vec![fixtures()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                names.push(path.strip_prefix(fixtures())?.to_str().context("UTF-8")?.to_owned());
            }
        }
    }
    Ok(names)
}

fn listing() -> Result<Listing> {
    Ok(Listing::read(names()?.iter().map(String::as_str), SegmentSize::default()))
}

fn object(name: &str) -> Result<Vec<u8>> {
    std::fs::read(fixtures().join(name)).with_context(|| name.to_owned())
}

/// A base backup and those it stands on, found by their documents.
fn chain(newest: &str) -> Result<Vec<Backup>> {
    let (mut chain, mut next) = (Vec::new(), Some(newest.parse::<BackupName>()?));
    while let Some(name) = next {
        let sentinel = Sentinel::read(&name, &object(&name.sentinel())?)?;
        let files = Some(FilesMetadata::read(&name, &object(&name.files_metadata())?)?);
        next = sentinel.delta.as_ref().map(|delta| delta.from.clone());
        chain.push(Backup { name, sentinel, files });
    }
    Ok(chain)
}

/// Lays a base backup down as a restore does: each archive on a thread of its own.
fn restore(newest: &str, data: &Path, tablespace: &Path) -> Result<Unpacked> {
    let (chain, listing) = (chain(newest)?, listing()?);
    let spec = chain[0].sentinel.spec.clone();
    let target = Target::create(data, spec.as_ref(), &BTreeMap::from([(16384, tablespace.to_owned())]))?;
    let mut all = Unpacked::default();
    for step in Step::plan(&chain)? {
        let parts = &listing.backups[&step.backup].parts;
        let done: Vec<_> = std::thread::scope(|scope| {
            let one = |name| {
                let (target, step) = (&target, &step);
                scope.spawn(move || {
                    let stored = File::open(fixtures().join(step.backup.part(name)))?;
                    Ok(target.unpack(step, Archive { name, key: None, stored, again: false })?)
                })
            };
            let threads: Vec<_> = parts.iter().map(one).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Result<_>>()
        })?;
        step.is_whole()?;
        for Unpacked { files, bytes } in done {
            all.files += files;
            all.bytes += bytes;
        }
    }
    target.finish()?;
    Ok(all)
}

/// The files of a folder, links followed, by name and MD5, as `find -type f | md5sum` says.
fn sums(folder: &Path) -> Result<BTreeMap<String, String>> {
    let script = "find -L . -type f -print0 | xargs -0 md5sum";
    let output = std::process::Command::new("sh").args(["-c", script]).current_dir(folder).output()?;
    parse_sums(&String::from_utf8(output.stdout)?)
}

fn parse_sums(text: &str) -> Result<BTreeMap<String, String>> {
    let pair = |line: &str| line.split_once("  ").map(|(sum, name)| (name.to_owned(), sum.to_owned()));
    text.lines().map(|line| pair(line).context("a sum and a name")).collect()
}

#[test]
fn documents_of_wal_g_are_understood_and_written_back_byte_for_byte() -> Result<()> {
    for name in CHAIN {
        let name: BackupName = name.parse()?;
        let bytes = object(&name.sentinel())?;
        let sentinel = Sentinel::read(&name, &bytes)?;
        assert_eq!(String::from_utf8(sentinel.write()?)?, String::from_utf8(bytes)?);
        assert_eq!((sentinel.major(), sentinel.delta.is_some()), (15, name.is_delta()));
        assert_eq!(sentinel.spec.as_ref().context("tablespaces")?.locations()[&16384], Path::new("/srv/fixtures/ts"));

        let bytes = object(&name.metadata())?;
        let metadata = Metadata::read(&name, &bytes)?;
        assert_eq!(String::from_utf8(metadata.write()?)?, String::from_utf8(bytes)?);
        assert_eq!(sentinel.metadata(), metadata);

        let bytes = object(&name.files_metadata())?;
        let files = FilesMetadata::read(&name, &bytes)?;
        let (ours, theirs): (serde_json::Value, serde_json::Value) =
            (serde_json::from_slice(&files.write()?)?, serde_json::from_slice(&bytes)?);
        assert_eq!(ours, theirs);
        assert!(files.files.len() > 900);
    }
    Ok(())
}

#[test]
fn a_listing_tells_what_is_there() -> Result<()> {
    let listing = listing()?;
    assert_eq!(listing.backups.keys().map(BackupName::as_str).collect::<Vec<_>>(), CHAIN);
    assert!(listing.backups.values().all(|there| there.sentinel && there.metadata && there.files_metadata));
    assert!(listing.backups.values().all(|there| there.parts.len() == 3 && there.strange.is_empty()));
    assert_eq!(listing.wal.len(), 10);
    assert_eq!(listing.others.len(), 6, "{:?}", listing.others);
    Ok(())
}

#[test]
fn every_backup_of_the_chain_is_laid_down_as_wal_g_does() -> Result<()> {
    for name in CHAIN {
        let folder = tempfile::tempdir()?;
        let (data, tablespace) = (folder.path().join("data"), folder.path().join("ts"));
        restore(name, &data, &tablespace)?;
        let mut found = sums(&data)?;
        let mut meant = parse_sums(&String::from_utf8(object(&format!("{name}.md5"))?)?)?;
        // The server makes its links from it: it must name the folder that the tablespace is in now.
        assert_eq!(std::fs::read_to_string(data.join("tablespace_map"))?, format!("16384 {}\n", tablespace.display()));
        found.remove("./tablespace_map");
        meant.remove("./tablespace_map");
        assert_eq!(found, meant, "{name}");
    }
    Ok(())
}
