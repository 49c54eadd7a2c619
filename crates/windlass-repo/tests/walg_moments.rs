//! Moments are found by what segments say of themselves, without reading them, just as they are found in the WAL itself.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use object_store::local::LocalFileSystem;
use windlass_core::restore::Moment;
use windlass_core::wal::{Lsn, Segment, SegmentSize, Timeline};
use windlass_repo::format::walg::{
    BackupName, Backups, Before, CommitWalk, Compression, Compressor, KeyForm, Mark, Marked, PartName, SealKey,
    SegmentHeader, Sentinel,
};
use windlass_repo::store::Store;
use windlass_testkit::postgres::PgCluster;

const LZ4: Compression = Compression::Lz4;
const ZSTD: Compression = Compression::Zstd(1);

/// A server's WAL, and every record in it at which recovery can end.
struct Written {
    cluster: u64,
    segments: Vec<(Segment, PathBuf)>,
    marks: Vec<Mark>,
    _folder: tempfile::TempDir,
}

/// Transactions of all lengths, ends of some that go over into the next segment, and restore points. A logical message takes 55
/// bytes more than its text, and the end of a transaction more than the 24 that are left for it.
fn written() -> Result<Written> {
    let server = PgCluster::start_with(&["wal_keep_size=1GB", "full_page_writes=off", "archive_mode=off"])?;
    server.psql("postgres", "create table t (x text)");
    let work = "do $$ declare room int; begin for segment in 1 .. 5 loop \
                for i in 1 .. 60 loop \
                perform pg_logical_emit_message(true, 'p', repeat('x', (i * 7919) % 20000)); \
                insert into t values (i); if i % 7 = 0 then rollback; else commit; end if; end loop; \
                perform pg_create_restore_point('point ' || segment); \
                perform pg_current_xact_id(); loop \
                room := 16777216 - (pg_current_wal_insert_lsn() - '0/0') % 16777216; \
                exit when room < 7000; \
                perform pg_logical_emit_message(false, 'l', repeat('y', greatest(1000, room - room / 8192 * 24 - 6500))); end loop; \
                perform pg_logical_emit_message(false, 'l', repeat('y', (room - case segment when 2 then 24 else 500 end - 55)::int)); commit; \
                for i in 1 .. 300 loop insert into t values (i); commit; end loop; end loop; end $$";
    server.psql("postgres", work);
    // Segments in which no transaction ends, and one record over three of them.
    for _ in 0..2 {
        server.psql("postgres", "select pg_logical_emit_message(false, 'l', 'x'), pg_switch_wal()");
    }
    server.psql("postgres", "select pg_logical_emit_message(false, 'l', repeat('z', 40000000))");
    server.psql("postgres", "insert into t values ('last'); select pg_switch_wal()");
    let folder = PathBuf::from(server.psql("postgres", "show data_directory")).join("pg_wal");
    let size = SegmentSize::default();
    let last = server.psql("postgres", "select pg_walfile_name(pg_current_wal_lsn() - 1)");
    let last = Segment::parse(&last, size)?;
    let kept = tempfile::tempdir()?;
    let (mut segments, mut marks, mut walk) = (Vec::new(), Vec::new(), CommitWalk::new());
    let mut segment = Segment { number: 1, ..last };
    while segment <= last {
        let path = kept.path().join(segment.name(size));
        let content = std::fs::read(folder.join(segment.name(size)))?;
        std::fs::write(&path, &content)?;
        let header = SegmentHeader::read("segment", &content)?;
        walk.marks(&header, &content, None, &mut |mark| marks.push(mark));
        segments.push((segment, path));
        segment = segment.next();
    }
    let cluster = server.psql("postgres", "select system_identifier from pg_control_system()").parse()?;
    Ok(Written { cluster, segments, marks, _folder: kept })
}

/// An archive with the documents of a base backup that was consistent at the beginning of the second segment.
fn archive(folder: &Path, key: Option<&SealKey>, written: &Written) -> Result<(Backups, BackupName)> {
    let size = SegmentSize::default();
    let (first, _) = written.segments.first().context("a segment")?;
    let name = BackupName::full(*first, size);
    let sentinel = Sentinel {
        start: Some(first.start(size) + 40),
        finish: Some(first.end(size)),
        pg_version: 150_018,
        system_identifier: Some(written.cluster),
        without_files_metadata: true,
        ..Sentinel::default()
    };
    for (object, content) in [
        (name.sentinel(), sentinel.write()?),
        (name.metadata(), sentinel.metadata().write()?),
        (name.part(&PartName::numbered(1, ZSTD.codec())), Vec::new()),
        (name.part(&PartName::control(ZSTD.codec())), Vec::new()),
        (name.part(&PartName::label(ZSTD.codec())), Vec::new()),
    ] {
        let path = folder.join(object);
        std::fs::create_dir_all(path.parent().context("a folder")?)?;
        std::fs::write(path, content)?;
    }
    let store = Store::over(Arc::new(LocalFileSystem::new_with_prefix(folder)?), "", "file:///archive");
    Ok((Backups::foreign(&store, key.cloned()), name))
}

/// Whether a record goes over into the next segment.
fn straddles(mark: &Mark) -> bool {
    let of = |place: u64| place / SegmentSize::default().bytes();
    of(mark.start.0) != of(mark.end.0 - 1)
}

/// The moments around every so manieth record, and some that are not there.
fn moments(marks: &[Mark]) -> Vec<Moment> {
    let mut moments = vec![
        Moment::Newest,
        Moment::Time(Timestamp::now() + SignedDuration::from_hours(1)),
        Moment::Time(Timestamp::UNIX_EPOCH),
        Moment::Transaction(4_000_000_000),
        Moment::Named("nowhere".to_owned()),
        Moment::Lsn(Lsn(u64::MAX / 2)),
    ];
    let size = SegmentSize::default().bytes();
    for (index, mark) in marks.iter().enumerate() {
        let is_near_an_end = mark.end.0 % size < 30_000 || mark.start.0 % size > size - 2_000;
        match &mark.what {
            Marked::RestorePoint(name) => moments.push(Moment::Named(name.clone())),
            Marked::Ended { transaction, .. }
                if straddles(mark) || is_near_an_end && index % 251 == 0 || index % 797 == 0 =>
            {
                moments.extend([
                    Moment::Time(mark.at),
                    Moment::Time(mark.at - SignedDuration::from_micros(1)),
                    Moment::Lsn(mark.start),
                    Moment::Lsn(mark.end),
                    Moment::Transaction(*transaction),
                ]);
            }
            _ => {}
        }
    }
    moments
}

#[tokio::test(flavor = "multi_thread")]
async fn moments_are_found_by_what_segments_say_as_they_are_found_in_the_wal() -> Result<()> {
    let written = written()?;
    let size = SegmentSize::default();
    let key = SealKey::parse("only for a test, and never elsewhere", KeyForm::Raw)?;
    let folders = tempfile::tempdir()?;
    let silent = folders.path().join("silent");
    let (reads_all, backup) = archive(&silent, None, &written)?;
    std::fs::create_dir(silent.join("wal_005"))?;
    for (segment, path) in &written.segments {
        let frame = Compressor::new(ZSTD)?.frame(&std::fs::read(path)?)?.to_vec();
        std::fs::write(silent.join(format!("wal_005/{}.zst", segment.name(size))), frame)?;
    }
    let moments = moments(&written.marks);
    println!("{} moments in {} segments", moments.len(), written.segments.len());
    assert!(moments.len() > 30);
    assert!(written.marks.iter().any(straddles), "no end of a transaction goes over into the next segment");
    let held = reads_all.look().await?;
    let (mut found, all) = (Vec::new(), AtomicU64::new(0));
    for moment in &moments {
        let count = |bytes| {
            all.fetch_add(bytes, Ordering::Relaxed);
        };
        found.push(reads_all.locate(&held, &backup, moment, None, &count).await.map_err(|error| error.to_string()));
    }
    for (name, compression, key) in [("lz4", LZ4, None), ("sealed", ZSTD, Some(&key))] {
        let (archive, backup) = archive(&folders.path().join(name), key, &written)?;
        for (segment, path) in &written.segments {
            let file = Arc::new(File::open(path)?);
            let pushed =
                archive.push(&segment.name(size), &file, written.cluster, compression, Before::NotThere).await?;
            assert!(pushed.is_some());
        }
        let (held, read) = (archive.look().await?, AtomicU64::new(0));
        for (moment, meant) in moments.iter().zip(&found) {
            let count = |bytes| {
                read.fetch_add(bytes, Ordering::Relaxed);
            };
            let told = archive.locate(&held, &backup, moment, None, &count).await.map_err(|error| error.to_string());
            assert_eq!(told, *meant, "{name}: {moment}");
        }
        let (read, all) = (read.into_inner(), all.load(Ordering::Relaxed));
        println!("{name}: {} of {} MiB read", read >> 20, all >> 20);
        assert!(read * 3 < all * 2, "{name}: {read} of {all} bytes were read");
    }
    let ended = found.iter().filter(|found| found.is_ok()).count();
    assert!(ended > 20, "{ended} moments are there at all");
    assert_eq!(Timeline(1), found.into_iter().find_map(Result::ok).context("a moment")?.timeline);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_says_something_is_read_by_stock_tools() -> Result<()> {
    let written = written()?;
    let folder = tempfile::tempdir()?;
    let (archive, _) = archive(folder.path(), None, &written)?;
    let (segment, path) = written.segments.get(1).context("a segment")?;
    let file = Arc::new(File::open(path)?);
    for (compression, program, extension) in [(ZSTD, "zstd", "zst"), (LZ4, "lz4", "lz4")] {
        let name = segment.name(SegmentSize::default());
        let (_, pieces) = archive.packed(&name, &file, written.cluster, compression).await?;
        assert_eq!(pieces.first().map(|piece| &piece[8..16]), Some(&b"windlass"[..]));
        let packed = folder.path().join(format!("{name}.{extension}"));
        std::fs::write(&packed, pieces.concat())?;
        let output = std::process::Command::new(program).args(["-dc"]).arg(&packed).output()?;
        assert!(output.status.success(), "{program}");
        assert!(output.stdout == std::fs::read(path)?, "{program}");
    }
    Ok(())
}
