//! Base backups of a real server: brought back by GNU tar and started, broken off, and of damaged data.

#![expect(clippy::expect_used, reason = "a test that cannot go on panics")]

mod server;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use server::{Server, open};
use windlass_replication::{BaseBackup, BaseBackupOptions, End, Event, ReplicationError};
use windlass_testkit::postgres::PgCluster;
use windlass_testkit::process::run;

fn options() -> BaseBackupOptions {
    let label = "it's a test".to_owned();
    BaseBackupOptions { label, fast: true, wal: true, verify_checksums: true, max_rate: None }
}

/// Writes each archive into a file: `main.tar`, `16385.tar`.
async fn write(mut backup: BaseBackup<'_>, folder: &Path) -> Result<End, ReplicationError> {
    let mut file = None;
    while let Some(event) = backup.next().await? {
        match event {
            Event::Archive { tablespace } => {
                let name = tablespace.map_or_else(|| "main".to_owned(), |oid| oid.to_string());
                file = Some(File::create_new(folder.join(format!("{name}.tar"))).expect("each comes once"));
            }
            Event::Bytes(bytes) => {
                assert!(!bytes.is_empty());
                file.as_mut().expect("an archive has begun").write_all(&bytes).expect("there is room");
            }
        }
    }
    backup.finish().await
}

fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o700))?;
    run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(folder))?;
    Ok(())
}

#[tokio::test]
async fn a_server_comes_back_from_what_was_sent() -> Result<()> {
    let server = Server::start("")?;
    let sql = |query: &str| server.cluster.psql("postgres", query);
    let there = tempfile::Builder::new().prefix("wl repl-").tempdir_in("/tmp")?;
    let owner = std::fs::metadata(server.cluster.data())?;
    chown(there.path(), Some(owner.uid()), Some(owner.gid()))?;
    sql(&format!("create tablespace elsewhere location '{}'", there.path().display()));
    sql("create table kept (n) as select generate_series(1, 100000)");
    sql("create table far (n) tablespace elsewhere as select generate_series(1, 5000)");

    let folder = tempfile::tempdir()?;
    let mut connection = open(&server.socket("postgres"), None).await?;
    let backup = connection.base_backup(&options()).await?;
    let oid: u32 = sql("select oid from pg_tablespace where spcname = 'elsewhere'").parse()?;
    let [tablespace] = backup.tablespaces() else { panic!("{:?}", backup.tablespaces()) };
    assert_eq!((tablespace.oid, tablespace.location.as_path()), (oid, there.path()));
    assert!(tablespace.size_kib > Some(100) && backup.main_size_kib() > Some(10_000));
    let (start, timeline) = backup.start();
    // What is written meanwhile comes with the WAL.
    sql("insert into far select generate_series(5001, 6000)");
    let end = write(backup, folder.path()).await?;
    assert!(end.lsn > start && end.timeline == timeline);
    assert_eq!(connection.notices().first, []);
    sql("insert into kept values (0)");
    connection.identify().await?;

    // Every archive is a whole one, with the two blocks of zeros that end it, and no more.
    for name in ["main.tar".to_owned(), format!("{oid}.tar")] {
        let mut file = File::open(folder.path().join(&name))?;
        let length = file.seek(SeekFrom::End(-1536))? + 1536;
        let mut end = Vec::new();
        file.read_to_end(&mut end)?;
        assert_eq!(length % 512, 0);
        assert_eq!(end[512..], [0; 1024], "{name}");
    }

    let copy = tempfile::Builder::new().prefix("wl-repl-").tempdir_in("/tmp")?;
    chown(copy.path(), Some(owner.uid()), Some(owner.gid()))?;
    unpack(&folder.path().join(format!("{oid}.tar")), copy.path())?;
    let owners = format!("{}:{}", owner.uid(), owner.gid());
    run(Command::new("chown").args(["-R", &owners]).arg(copy.path()))?;
    let restored = PgCluster::start_from(
        |data| {
            unpack(&folder.path().join("main.tar"), data)?;
            let label = std::fs::read_to_string(data.join("backup_label"))?;
            ensure!(
                label.contains(&format!("START WAL LOCATION: {start} ")) && label.contains("it's a test"),
                "{label}"
            );
            let map = std::fs::read_to_string(data.join("tablespace_map"))?;
            ensure!(map.trim_end() == format!("{oid} {}", there.path().display()), "{map}");
            Ok(std::fs::write(data.join("tablespace_map"), format!("{oid} {}\n", copy.path().display()))?)
        },
        &[],
    )?;
    let count = |table: &str| restored.psql("postgres", &format!("select count(*), sum(n) from {table}"));
    assert_eq!(count("kept"), "100000|5000050000");
    assert_eq!(count("far"), "6000|18003000");
    assert_eq!(restored.psql("postgres", "show data_checksums"), "on");
    Ok(())
}

#[tokio::test]
async fn without_its_wal_there_is_none_in_it() -> Result<()> {
    let server = Server::start("")?;
    let mut connection = open(&server.socket("postgres"), None).await?;
    let mut sizes = BTreeMap::new();
    for wal in [true, false] {
        let folder = tempfile::tempdir()?;
        write(connection.base_backup(&BaseBackupOptions { wal, ..options() }).await?, folder.path()).await?;
        let names = run(Command::new("tar").arg("-tf").arg(folder.path().join("main.tar")))?;
        let segments = names.lines().filter(|name| name.starts_with("pg_wal/0000")).count();
        sizes.insert(wal, segments);
        assert!(names.lines().any(|name| name == "global/pg_control"), "{names}");
    }
    assert!(sizes[&true] >= 1 && sizes[&false] == 0, "{sizes:?}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_killed_on_the_way_is_no_success() -> Result<()> {
    let mut server = Server::start("host replication all ADDRESS trust")?;
    for network in [false, true] {
        let url = if network { server.url("postgres", "sslmode=disable") } else { server.socket("postgres") };
        let mut connection = open(&url, None).await?;
        // At this rate it would take ten seconds.
        let slow = BaseBackupOptions { max_rate: Some(2048), ..options() };
        let mut backup = connection.base_backup(&slow).await?;
        let mut bytes = 0;
        while bytes < 300_000 {
            match backup.next().await?.context("it has not ended")? {
                Event::Bytes(more) => bytes += more.len(),
                Event::Archive { .. } => {}
            }
        }
        server.cluster.down();
        let error = loop {
            match backup.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it was taken for the end"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ReplicationError::Closed { .. }), "{error}");
        assert!(matches!(backup.finish().await, Err(ReplicationError::Busy { .. })));
        server.cluster.up()?;
    }
    Ok(())
}

#[tokio::test]
async fn a_backup_that_is_given_up_is_ended_by_the_server() -> Result<()> {
    let server = Server::start("")?;
    let senders =
        || server.cluster.psql("postgres", "select count(*) from pg_stat_activity where backend_type = 'walsender'");
    let mut connection = open(&server.socket("postgres"), None).await?;
    let slow = BaseBackupOptions { max_rate: Some(1024), ..options() };
    let mut backup = connection.base_backup(&slow).await?;
    backup.next().await?;
    drop(backup);
    assert!(matches!(connection.identify().await, Err(ReplicationError::Busy { .. })));
    assert_eq!(senders(), "1");
    drop(connection);
    for _ in 0..500 {
        if senders() == "0" {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the server goes on sending");
}

#[tokio::test]
async fn damaged_pages_are_told_at_the_end() -> Result<()> {
    let mut server = Server::start("")?;
    server.cluster.psql("postgres", "create table hurt (n) as select generate_series(1, 10000)");
    let path = server.cluster.psql("postgres", "select pg_relation_filepath('hurt')");
    server.cluster.psql("postgres", "checkpoint");
    server.cluster.down();
    let mut file = File::options().write(true).open(server.cluster.data().join(&path))?;
    file.seek(SeekFrom::Start(2 * 8192 + 1000))?;
    file.write_all(b"not what was here")?;
    drop(file);
    server.cluster.up()?;

    let mut connection = open(&server.socket("postgres"), None).await?;
    let folder = tempfile::tempdir()?;
    assert!(write(connection.base_backup(&options()).await?, folder.path()).await?.is_corrupt);
    let warned = &connection.notices().first;
    assert!(warned.iter().any(|notice| notice.severity == "WARNING" && notice.message.contains(&path)), "{warned:?}");
    // The connection is as it was, and who does not ask is not told.
    let folder = tempfile::tempdir()?;
    let unasked = BaseBackupOptions { verify_checksums: false, ..options() };
    assert!(!write(connection.base_backup(&unasked).await?, folder.path()).await?.is_corrupt);
    Ok(())
}

#[tokio::test]
async fn what_the_server_does_not_take_is_refused_before_it_begins() -> Result<()> {
    let server = Server::start("")?;
    let mut connection = open(&server.socket("postgres"), None).await?;
    let error = connection.base_backup(&BaseBackupOptions { max_rate: Some(1), ..options() }).await.map(|_| ());
    assert!(matches!(error, Err(ReplicationError::Server { .. })), "{error:?}");
    let long = BaseBackupOptions { label: "x".repeat(5000), ..options() };
    assert!(connection.base_backup(&long).await.is_err());
    connection.identify().await?;
    Ok(())
}
