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

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use postgres_stage::{source, tools};
use windlass_core::application::Physical;
use windlass_core::repository::Place;
use windlass_core::wal::Timeline;
use windlass_engine::postgres::physical::base_backup::{BaseBackup, Task, begin};
use windlass_engine::postgres::physical::recovery::{Recovery, Until};
use windlass_engine::postgres::physical::{PhysicalError, Server, streamed};
use windlass_repo::format::walg::{Backups, Compression, FilesMetadata, KeyForm, SealKey, Target};
use windlass_repo::store::open::open;
use windlass_testkit::postgres::{self, PgCluster};

/// A folder that is a store in the layout of WAL-G, sealed where there is a key.
struct Repository {
    folder: tempfile::TempDir,
    backups: Backups,
}

fn physical(url: &str, data: Option<&Path>, archives: bool) -> Physical {
    let data_directory = data.map(Path::to_owned);
    Physical { server: source(url), data_directory, archives, spool: 0, control: None }
}

impl Repository {
    fn new(key: Option<SealKey>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let store = open(&Place::Directory(folder.path().to_owned())).map_err(|e| anyhow::anyhow!("{e}"))?;
        Ok(Self { backups: Backups::foreign(&store, key), folder })
    }

    fn task(&self, moved: Arc<dyn Fn(u64) + Send + Sync>) -> Task<'_> {
        Task { archive: &self.backups, compression: Compression::default(), host: "here".to_owned(), moved }
    }

    /// By the replication protocol, whether the data folder is at hand or not.
    async fn streams_from(&self, server: &Physical, task: &Task<'_>) -> Result<BaseBackup, PhysicalError> {
        let tools = tools(&server.server.url).await.unwrap();
        let remote = streamed::Remote::open(&tools, server, "a test".to_owned()).await?;
        let mut connection = remote.connect().await?;
        streamed::begin(remote, &mut connection, task).await?.take().await
    }

    async fn streams(&self, server: &PgCluster) -> Result<BaseBackup, PhysicalError> {
        let server = physical(&server.url("postgres"), None, false);
        self.streams_from(&server, &self.task(Arc::new(|_| ()))).await
    }

    async fn reads(&self, server: &PgCluster) -> Result<BaseBackup, PhysicalError> {
        let tools = tools(&server.url("postgres")).await.unwrap();
        let task = self.task(Arc::new(|_| ()));
        begin(Server::open(&tools, Some(&server.data())).await?, &task).await?.take().await
    }

    /// Puts a segment of a server into the archive, as its `archive_command` would.
    async fn archives(&self, server: &PgCluster, segment: &str) -> Result<()> {
        let cluster = server.psql("postgres", "select system_identifier from pg_control_system()").parse()?;
        let file = Arc::new(std::fs::File::open(server.data().join("pg_wal").join(segment))?);
        self.backups.archived(segment, &file, cluster, Compression::default()).await?;
        Ok(())
    }

    /// Starts a server from a base backup and the archive, and waits until it has recovered.
    async fn starts(&self, backup: &BaseBackup) -> Result<PgCluster> {
        let folder = tempfile::tempdir()?;
        let (data, tablespace) = (folder.path().join("data"), folder.path().join("ts"));
        let held = self.backups.look().await?;
        let chain = self.backups.chain(&held, &backup.name).await?;
        let oids = backup.sentinel.spec.iter().flat_map(|spec| spec.tablespaces.keys());
        let places: BTreeMap<_, _> = oids.map(|oid| (*oid, tablespace.clone())).collect();
        let target = Target::create(&data, backup.sentinel.spec.as_ref(), &places)?;
        self.backups.lay_down(&held, &chain, target, None, &|_| ()).await?;
        // The WAL of it lies beside it, as opened.
        let wal = tempfile::Builder::new().prefix("wl-wal-").tempdir_in("/tmp")?;
        std::fs::set_permissions(wal.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        for object in std::fs::read_dir(self.folder.path().join("wal_005"))? {
            let name = object?.file_name().into_string().unwrap();
            let name = name.trim_end_matches(".zst");
            ensure!(self.backups.fetch(name, None, &wal.path().join(name)).await?);
            std::fs::set_permissions(wal.path().join(name), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        }
        let restore_command = format!("cp {}/%f %p", wal.path().display());
        Recovery { restore_command, timeline: Timeline(1), until: Until::EndOfWal }.write(&data)?;
        let moved = |to: &Path| -> Result<()> {
            std::fs::rename(&data, to)?;
            if tablespace.exists() {
                let beside = to.parent().context("a folder")?.join("ts");
                std::fs::rename(&tablespace, &beside)?;
                for oid in places.keys() {
                    let link = to.join(format!("pg_tblspc/{oid}"));
                    std::fs::remove_file(&link)?;
                    std::os::unix::fs::symlink(&beside, &link)?;
                    std::fs::write(to.join("tablespace_map"), format!("{oid} {}\n", beside.display()))?;
                }
            }
            Ok(())
        };
        PgCluster::start_from(moved, &[])?.recovered()
    }
}

/// A server with a bit of everything, and with more in its tables than fits into a piece.
fn filled() -> Result<(PgCluster, tempfile::TempDir)> {
    let server = PgCluster::start()?;
    let elsewhere = tempfile::Builder::new().prefix("wl-ts-").tempdir_in("/tmp")?;
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(server.data())?);
    std::os::unix::fs::chown(elsewhere.path(), Some(owner), Some(owner))?;
    server.psql("postgres", "create database shop");
    server.psql("postgres", &format!("create tablespace far location '{}'", elsewhere.path().display()));
    server.psql(
        "shop",
        "create table orders as select n as id, md5(n::text) as note from generate_series(1, 200000) n; \
         create table distant tablespace far as select n from generate_series(1, 1000) n; \
         create unlogged table fleeting as select n from generate_series(1, 1000) n; \
         create index on orders (id)",
    );
    Ok((server, elsewhere))
}

const COUNTED: &str =
    "select count(*), sum(hashtext(note)) from orders; select count(*) from distant; select count(*) from fleeting";

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
