//! Stories of base backups of servers whose data folder is not at hand, and of standbys.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod postgres_stage;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::{SignedDuration, Timestamp};
use postgres_stage::base_backups::{COUNTED, Repository, filled, physical};
use postgres_stage::tools;
use windlass_engine::postgres::physical::base_backup::{BaseBackup, begin};
use windlass_engine::postgres::physical::{PhysicalError, Server};
use windlass_repo::format::walg::{FilesMetadata, KeyForm, SealKey};
use windlass_testkit::postgres::{self, PgCluster};

/// A standby that follows a server.
fn standby_of(server: &PgCluster) -> Result<PgCluster> {
    let program = postgres::bin()?.join("pg_basebackup");
    let url = server.url("postgres");
    let copy = |data: &Path| -> Result<()> {
        let mut command = Command::new(program);
        ensure!(command.args(["-R", "-X", "stream", "-c", "fast", "-d", &url, "-D"]).arg(data).status()?.success());
        Ok(())
    };
    PgCluster::start_from(copy, &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_started_from_what_it_sent_while_it_was_written_to() -> Result<()> {
    let (server, _elsewhere) = filled()?;
    let over = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (over, url) = (Arc::clone(&over), server.url("shop"));
        move || {
            while !over.load(Ordering::Relaxed) {
                for sql in ["update orders set note = note || 'x' where id % 97 = 0", "vacuum orders"] {
                    let mut psql = Command::new(postgres::bin().unwrap().join("psql"));
                    assert!(psql.args(["-qX", &url, "-c", sql]).status().unwrap().success());
                }
            }
        }
    });
    // Sealed, as a repository with a passphrase has it.
    let key = SealKey::parse("only for a test, and never elsewhere", KeyForm::Raw)?;
    let repository = Repository::new(Some(key))?;
    let began = Timestamp::now();
    let backup = repository.streams(&server).await;
    over.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    let backup = backup?;
    assert_eq!((&backup.corrupt, &backup.warnings), (&BTreeMap::new(), &Vec::new()));
    assert!(backup.window.from >= began && backup.window.from <= backup.window.to);
    assert!(backup.window.to.duration_since(backup.window.from) < SignedDuration::from_secs(10), "{:?}", backup.window);
    assert!(repository.parts(&backup) > 3, "several archives of one stream");
    let restored = repository.starts(&backup).await?;
    assert_eq!(restored.psql("shop", "select count(*) from orders"), "200000");
    restored.psql("shop", "create extension amcheck");
    restored.psql("shop", "select bt_index_check(oid, true) from pg_class where relname = 'orders_id_idx'");

    // At rest the files of both ways are the same.
    server.psql("shop", "checkpoint");
    let at_rest = repository.streams(&server).await?;
    let expected = server.psql("shop", COUNTED).replace("\n1000\n1000", "\n1000\n0");
    assert_eq!(repository.starts(&at_rest).await?.psql("shop", COUNTED), expected, "an unlogged table is empty");
    let read = repository.reads(&server).await?;
    let files = |backup: &BaseBackup| -> Result<Vec<String>> {
        let document = std::fs::read(repository.folder.path().join(backup.name.files_metadata()))?;
        Ok(FilesMetadata::read(&backup.name, &document)?.files.into_keys().collect())
    };
    assert_eq!(files(&at_rest)?, files(&read)?);
    assert_eq!(at_rest.sentinel.spec, read.sentinel.spec);
    assert_eq!(at_rest.sentinel.data_size, read.sentinel.data_size);
    assert_eq!(server.psql("postgres", "select count(*) from pg_replication_slots"), "0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_wrong_is_named_by_file_and_number() -> Result<()> {
    let (server, _elsewhere) = filled()?;
    let path = server.psql("shop", "select pg_relation_filepath('orders')");
    server.psql("shop", "checkpoint");
    let file = std::fs::OpenOptions::new().write(true).open(server.data().join(&path))?;
    file.write_all_at(b"bitrot", 3 * 8192 + 4000)?;
    let backup = Repository::new(None)?.streams(&server).await?;
    assert_eq!(backup.corrupt, BTreeMap::from([(format!("/{path}"), vec![3])]));
    assert!(backup.warnings.join("; ").contains(&path), "in the server's words: {:?}", backup.warnings);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_meanwhile_leaves_no_backup() -> Result<()> {
    let (server, _elsewhere) = filled()?;
    let repository = Repository::new(None)?;
    let asked = physical(&server.url("postgres"), None, false);
    let server = Arc::new(Mutex::new(server));
    let (dying, once) = (Arc::clone(&server), AtomicBool::new(true));
    let moved: Arc<dyn Fn(u64) + Send + Sync> = Arc::new(move |_| {
        if once.swap(false, Ordering::Relaxed) {
            dying.lock().unwrap().down();
        }
    });
    let failed = repository.streams_from(&asked, &repository.task(moved)).await.unwrap_err();
    assert!(matches!(failed, PhysicalError::Protocol { .. }), "{failed:?}");
    assert_eq!(repository.backups.look().await?.backups.len(), 0);
    server.lock().unwrap().up()?;
    let backup = repository.streams_from(&asked, &repository.task(Arc::new(|_| ()))).await?;
    assert_eq!(repository.backups.look().await?.backups.len(), 1, "{}", backup.name);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_replicate_is_told_what_to_do() -> Result<()> {
    let server = PgCluster::start()?;
    server.psql("postgres", "create role humble login");
    let asked = physical(&server.url_as("humble", "postgres"), None, false);
    let repository = Repository::new(None)?;
    let failed = repository.streams_from(&asked, &repository.task(Arc::new(|_| ()))).await.unwrap_err();
    let hints = windlass_core::diagnose::Diagnose::hints(&failed).join("; ");
    assert!(hints.contains("REPLICATION") && hints.contains("data_directory"), "{failed}: {hints}");
    Ok(())
}

/// Has the primary end its segment, again and again, until dropped.
struct Switching(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Switching {
    fn at(server: &PgCluster, mut each: impl FnMut() + Send + 'static) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (url, seen) = (server.url("shop"), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                let sql = "update orders set note = md5(note) where id % 5 = 0";
                for sql in [sql, "select pg_switch_wal()"] {
                    let mut psql = Command::new(postgres::bin().unwrap().join("psql"));
                    assert!(psql.args(["-qXo", "/dev/null", &url, "-c", sql]).status().unwrap().success());
                }
                each();
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        Self(over, Some(thread))
    }
}

impl Drop for Switching {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.1.take().map(std::thread::JoinHandle::join);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_backed_up_from_its_folder_and_what_is_there_leads_on() -> Result<()> {
    let (server, elsewhere) = filled()?;
    server.psql("shop", "drop table distant");
    server.psql("postgres", "drop tablespace far");
    drop(elsewhere);
    let standby = standby_of(&server)?;
    let repository = Repository::new(None)?;
    let switching = Switching::at(&server, || ());
    let backup = repository.reads(&standby).await?;
    drop(switching);
    assert_eq!(backup.warnings, Vec::<String>::new());
    assert!(backup.window.from < backup.window.to);
    let restored = repository.starts(&backup).await?;
    assert_eq!(restored.psql("shop", "select count(*) from orders"), "200000");
    restored.psql("shop", "create extension amcheck");
    restored.psql("shop", "select bt_index_check(oid, true) from pg_class where relname = 'orders_id_idx'");
    assert_eq!(standby.psql("postgres", "select count(*) from pg_replication_slots"), "0");
    // What the standby archived of the primary's WAL is what the primary has.
    for object in std::fs::read_dir(repository.folder.path().join("wal_005"))? {
        let name = object?.file_name().into_string().unwrap();
        repository.archives(&server, name.trim_end_matches(".zst")).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_far_away_is_backed_up_with_the_wal_its_primary_archives() -> Result<()> {
    let (server, elsewhere) = filled()?;
    server.psql("shop", "drop table distant");
    server.psql("postgres", "drop tablespace far");
    drop(elsewhere);
    let standby = standby_of(&server)?;
    let repository = Arc::new(Repository::new(None)?);
    let refused = repository.streams(&standby).await.unwrap_err();
    assert!(refused.to_string().contains("its WAL does not come into the repository"), "{refused}");
    let (archive, runtime) = (Arc::clone(&repository), tokio::runtime::Handle::current());
    let server = Arc::new(server);
    let primary = Arc::clone(&server);
    let switching = Switching::at(&server, move || {
        let current = primary.psql("postgres", "select pg_walfile_name(pg_current_wal_lsn())");
        let all = std::fs::read_dir(primary.data().join("pg_wal")).unwrap();
        let mut names: Vec<String> = all.map(|one| one.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.len() == 24 && *name < current);
        for name in names {
            runtime.block_on(archive.archives(&primary, &name)).unwrap();
        }
    });
    let asked = physical(&standby.url("postgres"), None, true);
    let backup = repository.streams_from(&asked, &repository.task(Arc::new(|_| ()))).await?;
    drop(switching);
    assert!(!backup.wal.is_empty());
    let restored = repository.starts(&backup).await?;
    assert_eq!(restored.psql("shop", "select count(*) from orders"), "200000");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_promoted_meanwhile_fails_the_backup() -> Result<()> {
    for by_protocol in [false, true] {
        let server = PgCluster::start()?;
        server.psql("postgres", "create table orders as select n, md5(n::text) from generate_series(1, 300000) n");
        let standby = standby_of(&server)?;
        let (url, data): (String, PathBuf) = (standby.url("postgres"), standby.data());
        let once = AtomicBool::new(true);
        let promoted = url.clone();
        let moved: Arc<dyn Fn(u64) + Send + Sync> = Arc::new(move |_| {
            if once.swap(false, Ordering::Relaxed) {
                let mut psql = Command::new(postgres::bin().unwrap().join("psql"));
                let done = psql.args(["-qXo", "/dev/null", &promoted, "-c", "select pg_promote()"]).status();
                assert!(done.unwrap().success());
            }
        });
        let repository = Repository::new(None)?;
        let task = repository.task(moved);
        let failed = if by_protocol {
            repository.streams_from(&physical(&url, None, true), &task).await
        } else {
            let tools = tools(&url).await?;
            begin(Server::open(&tools, Some(&data)).await?, &task).await?.take().await
        };
        let failed = failed.unwrap_err();
        let said = format!("{failed}: {:?}", std::error::Error::source(&failed).map(ToString::to_string));
        assert!(said.contains("promoted") || said.contains("timeline"), "{said}");
        assert_eq!(repository.backups.look().await?.backups.len(), 0);
        drop((standby, server));
    }
    Ok(())
}
