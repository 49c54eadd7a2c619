//! A repository of base backups, and a server that has a bit of everything.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use windlass_core::application::Physical;
use windlass_core::repository::Place;
use windlass_core::wal::Timeline;
use windlass_engine::postgres::physical::base_backup::{BaseBackup, Task, begin};
use windlass_engine::postgres::physical::recovery::{Recovery, Until};
use windlass_engine::postgres::physical::{PhysicalError, Server, streamed};
use windlass_repo::format::walg::{Backups, Compression, SealKey, Target};
use windlass_repo::store::open::open;
use windlass_testkit::postgres::PgCluster;

/// A folder that is a store in the layout of WAL-G, sealed where there is a key.
pub(crate) struct Repository {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) backups: Backups,
}

pub(crate) fn physical(url: &str, data: Option<&Path>, archives: bool) -> Physical {
    let data_directory = data.map(Path::to_owned);
    Physical {
        server: super::source(url),
        data_directory,
        archives,
        spool: 0,
        compression: Compression::default(),
        control: None,
    }
}

impl Repository {
    pub(crate) fn new(key: Option<SealKey>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let store = open(&Place::Directory(folder.path().to_owned())).map_err(|e| anyhow::anyhow!("{e}"))?;
        Ok(Self { backups: Backups::foreign(&store, key), folder })
    }

    pub(crate) fn task(&self, moved: Arc<dyn Fn(u64) + Send + Sync>) -> Task<'_> {
        // As small as to make several of what there is.
        let (compression, host) = (Compression::default(), "here".to_owned());
        Task { archive: &self.backups, compression, part: 1 << 20, host, moved }
    }

    /// By the replication protocol, whether the data folder is at hand or not.
    pub(crate) async fn streams_from(&self, server: &Physical, task: &Task<'_>) -> Result<BaseBackup, PhysicalError> {
        let tools = super::tools(&server.server.url).await.unwrap();
        let remote = streamed::Remote::open(&tools, server, "a test".to_owned()).await?;
        let mut connection = remote.connect().await?;
        streamed::begin(remote, &mut connection, task).await?.take().await
    }

    pub(crate) async fn streams(&self, server: &PgCluster) -> Result<BaseBackup, PhysicalError> {
        let server = physical(&server.url("postgres"), None, false);
        self.streams_from(&server, &self.task(Arc::new(|_| ()))).await
    }

    /// From its data folder.
    pub(crate) async fn reads(&self, server: &PgCluster) -> Result<BaseBackup, PhysicalError> {
        self.reads_from(&server.url("postgres"), &server.data()).await
    }

    pub(crate) async fn reads_from(&self, url: &str, data: &Path) -> Result<BaseBackup, PhysicalError> {
        let tools = super::tools(url).await.unwrap();
        let task = self.task(Arc::new(|_| ()));
        begin(Server::open(&tools, Some(data)).await?, &task).await?.take().await
    }

    /// Puts a segment of a server into the archive, as its `archive_command` would.
    pub(crate) async fn archives(&self, server: &PgCluster, segment: &str) -> Result<()> {
        let cluster = server.psql("postgres", "select system_identifier from pg_control_system()").parse()?;
        let file = Arc::new(std::fs::File::open(server.data().join("pg_wal").join(segment))?);
        self.backups.archived(segment, &file, cluster, Compression::default()).await?;
        Ok(())
    }

    /// Archives of files of a base backup.
    pub(crate) fn parts(&self, backup: &BaseBackup) -> usize {
        let folder = self.folder.path().join("basebackups_005").join(backup.name.as_str()).join("tar_partitions");
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("part_")).count()
    }

    /// Starts a server from a base backup and the archive, and waits until it has recovered.
    pub(crate) async fn starts(&self, backup: &BaseBackup) -> Result<PgCluster> {
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
        Recovery { restore_command, timeline: Timeline(1), until: Until::EndOfWal, paused: false }.write(&data)?;
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
pub(crate) fn filled() -> Result<(PgCluster, tempfile::TempDir)> {
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

pub(crate) const COUNTED: &str =
    "select count(*), sum(hashtext(note)) from orders; select count(*) from distant; select count(*) from fleeting";
