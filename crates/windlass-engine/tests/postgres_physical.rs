//! Stories of base backups: what is taken of a running server is what a server is started from.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod postgres_stage;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use postgres_stage::base_backups::{COUNTED, Repository, filled};
use postgres_stage::tools;
use windlass_engine::postgres::physical::base_backup::{Task, begin};
use windlass_engine::postgres::physical::{PhysicalError, Server};
use windlass_repo::format::walg::{Compression, FilesMetadata};
use windlass_testkit::postgres::PgCluster;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_started_from_what_was_taken_while_another_was_written_to() -> Result<()> {
    let (server, _elsewhere) = filled()?;
    let repository = Repository::new(None)?;
    // Somebody writes all the time: pages are torn, tables come and go.
    let (over, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let url = server.url("shop");
    let writer = std::thread::spawn({
        let (over, rounds) = (Arc::clone(&over), Arc::clone(&rounds));
        move || {
            while !over.load(Ordering::Relaxed) {
                let sql = "update orders set note = note || 'x' where id % 7 = 0; create table passing as select 1; drop table passing; vacuum orders";
                for sql in sql.split("; ") {
                    let mut psql = std::process::Command::new(windlass_testkit::postgres::bin().unwrap().join("psql"));
                    assert!(psql.args(["-qX", &url, "-c", sql]).status().unwrap().success());
                }
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let backup = repository.reads(&server).await;
    over.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    let backup = backup?;
    assert!(rounds.load(Ordering::Relaxed) > 0);
    assert_eq!(backup.corrupt, BTreeMap::new(), "of pages that are written just then none is wrong");
    assert_eq!(backup.warnings, Vec::<String>::new());
    // A second one, at rest: what the server holds is what is restored.
    server.psql("shop", "checkpoint");
    let at_rest = repository.reads(&server).await?;
    assert!(repository.parts(&at_rest) > 3, "several archives, by several threads");
    let restored = repository.starts(&at_rest).await?;
    let expected = server.psql("shop", COUNTED).replace("\n1000\n1000", "\n1000\n0");
    assert_eq!(restored.psql("shop", COUNTED), expected, "an unlogged table is empty");
    // The first is brought to the same end by the WAL, as far as it is archived.
    let restored = repository.starts(&backup).await?;
    assert_eq!(restored.psql("shop", "select count(*) from orders"), "200000");
    restored.psql("shop", "create extension amcheck");
    restored.psql("shop", "select bt_index_check(oid, true) from pg_class where relname = 'orders_id_idx'");
    // Nothing of ours is left at the server.
    assert_eq!(server.psql("postgres", "select count(*) from pg_replication_slots"), "0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_read_by_stock_tools_alone() -> Result<()> {
    let (server, _elsewhere) = filled()?;
    let repository = Repository::new(None)?;
    let backup = repository.reads(&server).await?;
    server.psql("postgres", "checkpoint");
    let base = repository.folder.path().join("basebackups_005");
    let parts = base.join(backup.name.as_str()).join("tar_partitions");
    let mut names = Vec::new();
    for part in std::fs::read_dir(&parts)? {
        let mut plain = Vec::new();
        std::process::Command::new("zstd")
            .arg("-dc")
            .arg(part?.path())
            .output()?
            .stdout
            .as_slice()
            .read_to_end(&mut plain)?;
        let mut listing = std::process::Command::new("tar");
        let listed = listing.args(["--list", "--absolute-names", "--file", "-"]).stdin(std::process::Stdio::piped());
        let mut listed = listed.stdout(std::process::Stdio::piped()).spawn()?;
        let mut stdin = listed.stdin.take().context("stdin")?;
        let fed = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &plain));
        let mut said = String::new();
        listed.stdout.take().context("stdout")?.read_to_string(&mut said)?;
        fed.join().unwrap()?;
        ensure!(listed.wait()?.success());
        names.extend(said.lines().map(|name| if name == "/" { name } else { name.trim_end_matches('/') }.to_owned()));
    }
    names.sort();
    let document = std::fs::read(base.join(backup.name.as_str()).join("files_metadata.json"))?;
    let described = FilesMetadata::read(&backup.name, &document)?;
    let mut expected: Vec<String> = described.files.into_keys().collect();
    expected.extend(["/global/pg_control", "backup_label", "tablespace_map"].map(str::to_owned));
    expected.sort();
    assert_eq!(names, expected);
    assert!(names.iter().any(|name| name.ends_with("_init")), "of the unlogged table");
    // By the size the store confirmed, every object is there.
    for object in &backup.objects {
        assert_eq!(std::fs::metadata(repository.folder.path().join(&object.key))?.len(), object.size, "{}", object.key);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_wrong_is_named_by_file_and_number() -> Result<()> {
    let (server, _elsewhere) = filled()?;
    let path = server.psql("shop", "select pg_relation_filepath('orders')");
    server.psql("shop", "checkpoint");
    let file = std::fs::OpenOptions::new().write(true).open(server.data().join(&path))?;
    file.write_all_at(b"bitrot", 3 * 8192 + 4000)?;
    let repository = Repository::new(None)?;
    let backup = repository.reads(&server).await?;
    assert_eq!(backup.corrupt, BTreeMap::from([(format!("/{path}"), vec![3])]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_the_servers_is_refused() -> Result<()> {
    let (server, other) = (PgCluster::start()?, PgCluster::start()?);
    let repository = Repository::new(None)?;
    let refused = repository.reads_from(&server.url("postgres"), &other.data()).await.unwrap_err().to_string();
    assert!(refused.contains("it is of another cluster"), "{refused}");
    let copy = tempfile::tempdir()?;
    ensure!(
        std::process::Command::new("cp").arg("-a").arg(server.data()).arg(copy.path().join("data")).status()?.success()
    );
    server.psql("postgres", "checkpoint");
    let refused =
        repository.reads_from(&server.url("postgres"), &copy.path().join("data")).await.unwrap_err().to_string();
    assert!(refused.contains("it is a copy"), "{refused}");
    assert_eq!(repository.backups.look().await?.backups.len(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_no_more_than_it_needs_is_told_what_that_costs() -> Result<()> {
    let (server, _elsewhere) = filled()?;
    server.psql(
        "postgres",
        "create role humble login; \
         grant execute on function pg_backup_start, pg_backup_stop to humble; \
         create role nobody login",
    );
    let repository = Repository::new(None)?;
    let backup = repository.reads_from(&server.url_as("humble", "postgres"), &server.data()).await?;
    let told = backup.warnings.join("; ");
    assert!(told.contains("nothing holds the WAL") && told.contains("replication"), "{told}");
    let restored = repository.starts(&backup).await?;
    assert_eq!(restored.psql("shop", "select count(*) from orders"), "200000");
    let refused = repository.reads_from(&server.url_as("nobody", "postgres"), &server.data()).await.unwrap_err();
    assert!(refused.to_string().contains("permission denied for function pg_backup_start"), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_archived_under_a_name_stays_what_it_is() -> Result<()> {
    let (server, other) = (PgCluster::start()?, PgCluster::start()?);
    let repository = Repository::new(None)?;
    let segment = "000000010000000000000001";
    let push = async |from: &PgCluster, cluster: &PgCluster, compression| {
        let identifier = cluster.psql("postgres", "select system_identifier from pg_control_system()").parse().unwrap();
        let path = from.data().join("pg_wal").join(segment);
        let file = Arc::new(std::fs::File::open(path).unwrap());
        repository.backups.archived(segment, &file, identifier, compression).await
    };
    for server in [&server, &other] {
        server.psql("postgres", "select pg_switch_wal()");
    }
    let first = push(&server, &server, Compression::Lz4).await?;
    assert!(first.is_new);
    // By its content, however it is compressed.
    let again = push(&server, &server, Compression::Zstd(3)).await?;
    assert_eq!((again.is_new, again.object), (false, first.object));
    let refused = push(&other, &server, Compression::Lz4).await.unwrap_err().to_string();
    assert!(refused.contains("it belongs to the cluster"), "{refused}");
    let refused = push(&other, &other, Compression::Lz4).await.unwrap_err().to_string();
    assert!(refused.contains("is there already, with other content"), "{refused}");
    assert_eq!(std::fs::read_dir(repository.folder.path().join("wal_005"))?.count(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_meanwhile_leaves_no_backup() -> Result<()> {
    let (server, _elsewhere) = filled()?;
    let repository = Repository::new(None)?;
    let (url, data) = (server.url("postgres"), server.data());
    let tools = tools(&url).await?;
    let server = Arc::new(Mutex::new(server));
    let (dying, once) = (Arc::clone(&server), AtomicBool::new(true));
    let moved: Arc<dyn Fn(u64) + Send + Sync> = Arc::new(move |_| {
        if once.swap(false, Ordering::Relaxed) {
            dying.lock().unwrap().down();
        }
    });
    let task =
        Task { archive: &repository.backups, compression: Compression::Lz4, part: 1 << 20, host: String::new(), moved };
    let failed = begin(Server::open(&tools, Some(&data)).await?, &task).await?.take().await.unwrap_err();
    assert!(matches!(failed, PhysicalError::Server(_)), "{failed:?}");
    let held = repository.backups.look().await?;
    assert_eq!((held.backups.len(), held.unfinished.len()), (0, 1));
    // What it left is not mixed with the next, which begins in the same segment.
    server.lock().unwrap().up()?;
    let backup = repository.reads_from(&url, &data).await?;
    assert_ne!(backup.name, held.unfinished[0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn links_out_of_the_data_folder_lead_nowhere() -> Result<()> {
    let (server, elsewhere) = filled()?;
    let secret = tempfile::tempdir()?;
    std::fs::write(secret.path().join("shadow"), "a secret of root's")?;
    std::os::unix::fs::symlink(secret.path().join("shadow"), server.data().join("log"))?;
    std::os::unix::fs::symlink(secret.path().join("shadow"), server.data().join("base/1/99999"))?;
    std::os::unix::fs::symlink(secret.path(), server.data().join("pg_tblspc/99999"))?;
    std::fs::create_dir(elsewhere.path().join("lost+found"))?;
    let repository = Repository::new(None)?;
    let backup = repository.reads(&server).await?;
    let document = repository.folder.path().join(backup.name.files_metadata());
    let described = FilesMetadata::read(&backup.name, &std::fs::read(document)?)?;
    let outside = |name: &String| ["shadow", "99999/", "lost+found", "/log/"].iter().any(|part| name.contains(part));
    assert_eq!(described.files.keys().find(|name| outside(name)), None);
    assert!(!described.files.contains_key("/log") && !described.files.contains_key("/base/1/99999"));
    assert!(backup.warnings.join("; ").contains("99999"), "{:?}", backup.warnings);
    Ok(())
}
