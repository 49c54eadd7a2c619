//! A repository of stock WAL-G is read: base backups, what changed since, and the WAL.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use jiff::Timestamp;
use windlass_core::wal::{Lsn, Segment, SegmentSize, Timeline, WalFile};
use windlass_repo::format::walg::{
    Archive, Backup, BackupName, CommitWalk, Compression, Compressor, FileDescription, FilesMetadata, KeyForm, Listing,
    Metadata, PartName, PartWriter, SealKey, Sealer, SegmentHeader, Sentinel, Step, Target, Unpacked, open, wal_object,
};
use windlass_testkit::postgres::{self, PgCluster};

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
    let steps = Step::plan(&chain)?;
    for step in &steps {
        let parts = &listing.backups[&step.backup].parts;
        let done: Vec<_> = std::thread::scope(|scope| {
            let one = |name| {
                let target = &target;
                scope.spawn(move || {
                    let stored = File::open(fixtures().join(step.backup.part(name)))?;
                    Ok(target.unpack(step, Archive { name, key: None, stored, again: false })?)
                })
            };
            let threads: Vec<_> = parts.iter().map(one).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Result<_>>()
        })?;
        step.check()?;
        for Unpacked { files, bytes } in done {
            all.files += files;
            all.bytes += bytes;
        }
    }
    target.finish(&steps)?;
    Ok(all)
}

/// The files of a folder, links followed, by name and MD5, as `find -type f | md5sum` says.
fn sums(folder: &Path) -> Result<BTreeMap<String, String>> {
    let script = "find -L . -type f -print0 | xargs -0 md5sum";
    let output = Command::new("sh").args(["-c", script]).current_dir(folder).output()?;
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
fn a_sentinel_may_say_little_but_nothing_that_does_not_fit_together() -> Result<()> {
    let name: BackupName = CHAIN[0].parse()?;
    let least = br#"{"LSN":1,"PgVersion":160004,"FinishLSN":2,"FilesMetadataDisabled":true,"Tomorrow":[]}"#;
    let sentinel = Sentinel::read(&name, least)?;
    assert_eq!((sentinel.start, sentinel.major(), sentinel.without_files_metadata), (Some(Lsn(1)), 16, true));
    let again = Sentinel::read(&name, &sentinel.write()?)?;
    assert_eq!((again.start, again.finish, again.without_files_metadata), (Some(Lsn(1)), Some(Lsn(2)), true));
    let nulls =
        br#"{"LSN":null,"PgVersion":150018,"FinishLSN":null,"Spec":null,"SystemIdentifier":null,"UserData":null}"#;
    assert_eq!(Sentinel::read(&name, nulls)?.start, None);
    for wrong in ["", "{", "[]", r#"{"LSN":"0/1"}"#, r#"{"DeltaLSN":1}"#, r#"{"DeltaFrom":"base_0","DeltaCount":1}"#] {
        assert!(Sentinel::read(&name, wrong.as_bytes()).is_err(), "{wrong}");
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

/// What the archive holds of the WAL, by file.
fn wal() -> Result<BTreeMap<WalFile, Vec<u8>>> {
    let size = SegmentSize::default();
    let read = |(file, codecs): (WalFile, Vec<_>)| {
        let name = wal_object(file, size, codecs[0]);
        let mut content = Vec::new();
        open(&name, codecs[0], None, File::open(fixtures().join(&name))?)?.read_to_end(&mut content)?;
        Ok((file, content))
    };
    listing()?.wal.into_iter().map(read).collect()
}

fn segments() -> Result<Vec<(Segment, Vec<u8>)>> {
    let one = |(file, content)| if let WalFile::Segment(segment) = file { Some((segment, content)) } else { None };
    Ok(wal()?.into_iter().filter_map(one).collect())
}

/// What `pg_waldump` says of the ends of transactions from one segment to another: how many, and the first and last time.
fn dumped(first: &Path, last: &Path) -> Result<(u64, Option<(Timestamp, Timestamp)>)> {
    let name = last.file_name().context("a name")?;
    let output = Command::new(postgres::bin()?.join("pg_waldump")).arg(first).arg(name).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let ends = |line: &&str| {
        let said = line.split_once("rmgr: Transaction").and_then(|(_, line)| line.split_once("desc: "));
        said.is_some_and(|(_, said)| said.starts_with("COMMIT") || said.starts_with("ABORT"))
    };
    let time = |line: &str| -> Result<Timestamp> {
        let said = line.split_once("desc: ").context("a description")?.1;
        let at = said.split_once(" UTC").context("a time in UTC")?.0;
        let at = at.get(at.len().saturating_sub(26)..).context("a time")?;
        Ok((at.replace(' ', "T") + "Z").parse()?)
    };
    let times: Vec<Timestamp> = text.lines().filter(ends).map(time).collect::<Result<_>>()?;
    let span = times.iter().min().zip(times.iter().max()).map(|(first, last)| (*first, *last));
    Ok((times.len() as u64, span))
}

#[test]
fn commits_are_found_in_records_that_go_on_over_pages_and_segments() -> Result<()> {
    let cluster = PgCluster::start_with(&["max_prepared_transactions=5", "wal_keep_size=1GB", "full_page_writes=off"])?;
    cluster.psql("postgres", "create table t (x text)");
    // Records of all lengths; then the log is filled up to shortly before a segment's end, and short transactions follow, so
    // that some of their ends lie on both sides of it.
    let work = "do $$ begin for i in 1 .. 1000 loop \
                perform pg_logical_emit_message(true, 'p', repeat('x', (i * 7919) % 20000)); \
                insert into t values (i); if i % 7 = 0 then rollback; else commit; end if; end loop; end $$";
    cluster.psql("postgres", work);
    let ends = "do $$ declare room int; begin for segment in 1 .. 4 loop \
                room := 16777216 - (pg_current_wal_insert_lsn() - '0/0') % 16777216; \
                if room > 100000 then perform pg_logical_emit_message(false, 'l', repeat('y', room - 60000)); end if; \
                for i in 1 .. 600 loop insert into t values (i); commit; end loop; end loop; end $$";
    cluster.psql("postgres", ends);
    for end in ["commit", "rollback"] {
        cluster.psql("postgres", "begin; insert into t values ('p'); prepare transaction 'p'");
        cluster.psql("postgres", &format!("{end} prepared 'p'"));
    }
    cluster.psql("postgres", "select pg_switch_wal()");
    let folder = PathBuf::from(cluster.psql("postgres", "show data_directory")).join("pg_wal");
    let size = SegmentSize::default();
    let last: Segment =
        Segment::parse(&cluster.psql("postgres", "select pg_walfile_name(pg_current_wal_lsn() - 1)"), size)?;
    let first = Segment { number: 1, ..last };
    let (mut walk, mut count, mut span) = (CommitWalk::new(), 0, None);
    let mut segment = first;
    let mut alone = 0;
    while segment <= last {
        let content = std::fs::read(folder.join(segment.name(size)))?;
        let header = SegmentHeader::read("segment", &content)?;
        let found = walk.segment(&header, &content);
        alone += CommitWalk::new().segment(&header, &content).count;
        count += found.count;
        if let Some((earliest, latest)) = found.earliest.zip(found.latest) {
            let (from, to) = span.unwrap_or((earliest, latest));
            span = Some((earliest.min(from), latest.max(to)));
        }
        segment = segment.next();
    }
    let (meant, between) = dumped(&folder.join(first.name(size)), &folder.join(last.name(size)))?;
    println!("{count} commits in {} segments, {alone} of them without what goes on", last.number);
    assert_eq!((count, span), (meant, between));
    assert!(last.number > 4 && count > 3000 && alone <= count);
    Ok(())
}

#[test]
fn the_segments_are_those_of_the_cluster_and_their_commits_are_found() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (mut walk, size) = (CommitWalk::new(), SegmentSize::default());
    let segments = segments()?;
    assert_eq!(segments.len(), 7);
    let mut all = 0;
    for (segment, content) in &segments {
        let name = segment.name(size);
        let header = SegmentHeader::read(&name, content)?;
        assert_eq!((header.major, header.size), (15, size));
        header.check(&name, *segment, 7_710_178_415_038_358_034, content.len() as u64)?;
        assert!(header.check(&name, segment.next(), 7_710_178_415_038_358_034, content.len() as u64).is_err());
        assert!(header.check(&name, *segment, 1, content.len() as u64).is_err());
        assert!(header.check(&name, *segment, 7_710_178_415_038_358_034, 100).is_err());

        let found = walk.segment(&header, content);
        let path = folder.path().join(&name);
        std::fs::write(&path, content)?;
        let (count, span) = dumped(&path, &path)?;
        assert_eq!((found.count, found.earliest.zip(found.latest)), (count, span), "{name}");
        all += count;
        // The server had written up to 0/70A9C60 when it made the fixture: there a switch of 24 bytes ends, behind which
        // nothing comes in this segment.
        if segment.number == 7 {
            let last = found.last.context("a record")?;
            assert_eq!((last.to_string(), found.end.to_string()), ("0/70A9C48".to_owned(), "0/8000000".to_owned()));
            assert!(found.goes_on);
        }
    }
    assert!(all > 700);
    Ok(())
}

#[test]
fn postgresql_starts_from_what_was_laid_down_and_replays_the_archive() -> Result<()> {
    for name in CHAIN {
        let lay_down = |data: &Path| -> Result<()> {
            let beside = data.parent().context("a folder")?;
            restore(name, data, &beside.join("ts"))?;
            std::fs::create_dir(beside.join("wal"))?;
            for (file, content) in wal()? {
                std::fs::write(beside.join("wal").join(file.name(SegmentSize::default())), content)?;
            }
            std::fs::write(data.join("recovery.signal"), "")?;
            let command = format!("restore_command = 'cp {}/wal/%f %p'\n", beside.display());
            std::fs::write(data.join("postgresql.auto.conf"), command)?;
            Ok(())
        };
        let cluster =
            PgCluster::start_from(lay_down, &["archive_mode=off", "max_connections=100", "port=5432"])?.recovered()?;
        let expected = String::from_utf8(object("expect.txt")?)?;
        let counted = "select count(*), sum(hashtext(t)) from a; select count(*) from b; select count(*) from c";
        assert!(expected.starts_with(&cluster.psql("postgres", counted)), "{name}");
        // An unlogged table is empty after a restore, and its files are made anew.
        assert_eq!(cluster.psql("postgres", "select count(*) from u"), "0");
    }
    Ok(())
}

/// Takes a full base backup of a data folder: what a capture does, without a server.
fn store(data: &Path, repository: &Path, compression: Compression, key: Option<&SealKey>) -> Result<Backup> {
    let (size, codec) = (SegmentSize::default(), compression.codec());
    let name = BackupName::full(Segment { timeline: Timeline(1), number: 6 }, size);
    let mut files = FilesMetadata::default();
    let mut compressor = Compressor::new(compression)?;
    let mut put = |part: &PartName, mut archive: PartWriter| -> Result<()> {
        let mut stored = Vec::new();
        archive.end()?;
        archive.hand_out(|piece| compressor.frame(piece).map(|frame| stored.extend(frame)))?;
        if let Some(key) = key {
            let mut sealer = Sealer::new(key, Vec::new())?;
            sealer.write_all(&stored)?;
            stored = sealer.finish()?;
        }
        write(repository, &name.part(part), &stored)
    };
    let mut folders = vec![data.to_owned()];
    let (mut archive, mut number, mut held) = (PartWriter::new(), 1, 0);
    while let Some(folder) = folders.pop() {
        let own = format!("/{}", folder.strip_prefix(data)?.display());
        archive.folder(&own, 0o700, 0)?;
        describe(&mut files, &own);
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = format!("/{}", path.strip_prefix(data)?.display());
            if path.is_dir() {
                folders.push(path);
            } else if !["/backup_label", "/tablespace_map", "/global/pg_control"].contains(&name.as_str()) {
                let body = std::fs::read(&path)?;
                archive.file(&name, 0o600, 1_700_000_000, body.len() as u64)?;
                archive.body(&body)?;
                held += body.len();
                describe(&mut files, &name);
            }
        }
        if held > 5_000_000 {
            held = 0;
            put(&PartName::numbered(number, codec), std::mem::take(&mut archive))?;
            number += 1;
        }
    }
    put(&PartName::numbered(number, codec), archive)?;
    for (part, name, path) in [
        (PartName::control(codec), "/global/pg_control", "global/pg_control"),
        (PartName::label(codec), "backup_label", "backup_label"),
    ] {
        let (mut archive, body) = (PartWriter::new(), std::fs::read(data.join(path))?);
        archive.file(name, 0o600, 0, body.len() as u64)?;
        archive.body(&body)?;
        put(&part, archive)?;
    }
    let sentinel = Sentinel {
        start: Some(Lsn(0x0600_0028)),
        finish: Some(Lsn(0x0600_0100)),
        pg_version: 150_018,
        ..Sentinel::default()
    };
    write(repository, &name.files_metadata(), &files.write()?)?;
    write(repository, &name.metadata(), &sentinel.metadata().write()?)?;
    write(repository, &name.sentinel(), &sentinel.write()?)?;
    Ok(Backup { name, sentinel, files: Some(files) })
}

fn describe(files: &mut FilesMetadata, name: &str) {
    let (is_incremented, is_skipped, modified) = (false, false, Timestamp::UNIX_EPOCH);
    let description = FileDescription { is_incremented, is_skipped, modified, updates_count: 0, corrupt_blocks: None };
    files.files.insert(name.to_owned(), description);
}

fn write(repository: &Path, name: &str, content: &[u8]) -> Result<()> {
    let path = repository.join(name);
    std::fs::create_dir_all(path.parent().context("a folder")?)?;
    Ok(std::fs::write(path, content)?)
}

#[test]
fn a_backup_that_was_written_here_is_read_back_and_its_archives_by_tar() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("source");
    restore(CHAIN[2], &source, &folder.path().join("ts"))?;
    // One cluster without tablespaces is enough here; what was in this one becomes a folder.
    std::fs::remove_file(source.join("pg_tblspc/16384"))?;
    std::fs::remove_file(source.join("tablespace_map"))?;
    std::fs::rename(folder.path().join("ts"), source.join("pg_tblspc/in_place"))?;
    let before = sums(&source)?;
    let key = SealKey::parse(&"5a".repeat(32), KeyForm::Hex)?;
    for (compression, key) in
        [(Compression::Zstd(1), None), (Compression::Lz4, None), (Compression::Zstd(3), Some(&key))]
    {
        let place = tempfile::tempdir()?;
        let (repository, data) = (place.path().join("repository"), place.path().join("data"));
        let backup = store(&source, &repository, compression, key)?;
        let read = Sentinel::read(&backup.name, &std::fs::read(repository.join(backup.name.sentinel()))?)?;
        assert_eq!(read.start, backup.sentinel.start);

        let target = Target::create(&data, None, &BTreeMap::new())?;
        let steps = Step::plan(std::slice::from_ref(&backup))?;
        let folder = repository.join(backup.name.part(&PartName::numbered(1, compression.codec())));
        for entry in std::fs::read_dir(folder.parent().context("a folder")?)? {
            let path = entry?.path();
            let name = PartName::parse(&path.file_name().context("a name")?.to_string_lossy()).context("an archive")?;
            target.unpack(&steps[0], Archive { name: &name, key, stored: File::open(&path)?, again: false })?;
            if key.is_none() {
                let program = if compression == Compression::Lz4 { "lz4" } else { "zstd" };
                let by_tar = place.path().join("by-tar");
                std::fs::create_dir_all(&by_tar)?;
                let mut unpacked = Command::new("sh");
                unpacked.args(["-c", "\"$0\" -dc \"$1\" | tar -x -f - -C \"$2\" 2>/dev/null", program]);
                assert!(unpacked.arg(&path).arg(&by_tar).status()?.success());
            }
        }
        target.finish(&steps)?;
        assert_eq!(sums(&data)?, before);
        if key.is_none() {
            assert_eq!(sums(&place.path().join("by-tar"))?, before);
        }
    }
    Ok(())
}
