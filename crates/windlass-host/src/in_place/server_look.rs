//! Looks at a server that would be replaced as a whole. Nothing is written.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use windlass_core::application::{Control, Physical};
use windlass_core::point::PhysicalData;
use windlass_core::restore::{CommandStep, LivePlace, LiveServer, Reach, TargetFacts};
use windlass_core::wal::{Lsn, WalFile};
use windlass_engine::postgres::database_of;
use windlass_engine::postgres::physical::place::{identifier, tablespaces};
use windlass_engine::postgres::physical::{PhysicalError, Server};
use windlass_engine::postgres::tools::Tools;
use windlass_engine::restore::{RestoreError, free_bytes};
use windlass_repo::format::restic::is_stage;

use super::look::{mount_points, read_only};
use super::server::nobody_listens;
use crate::error::TaskError;

/// The folder of the WAL, which may be a link or a disk of its own.
const WAL: &str = "pg_wal";

/// What is found of it. Where it does not answer, by its data folder alone.
pub(super) async fn facts(
    data: &PhysicalData,
    physical: &Physical,
    (reach, goes_on): (Option<Reach>, Option<Lsn>),
) -> Result<TargetFacts, TaskError> {
    let folder_error = |error| TaskError::Restore(RestoreError::DataFolder(error));
    let (named, databases) = match Tools::find(&physical.server).await {
        Ok(tools) => {
            let server = Server::open(&tools, physical.data_directory.as_deref()).await.map_err(folder_error)?;
            (server.data().to_owned(), Some(server.databases().to_vec()))
        }
        Err(error) if nobody_listens(&error) => match &physical.data_directory {
            Some(folder) => (folder.clone(), None),
            None => return Err(TaskError::Postgres(error)),
        },
        Err(error) => return Err(TaskError::Postgres(error)),
    };
    // It may be a link, as to another disk.
    let folder = named.canonicalize().unwrap_or(named);
    let read = |path: &Path, source| folder_error(PhysicalError::Read { path: path.to_owned(), source });
    let mut live = place(&folder, &[WAL]);
    live.obstacles.extend(stranger(&folder, data));
    let mut homes: BTreeMap<u32, PathBuf> =
        data.tablespaces.iter().map(|(oid, folder)| (*oid, PathBuf::from(folder))).collect();
    // Only those of the base backup come back; where they are now goes before where they were.
    let now = tablespaces(&folder).map_err(|source| read(&folder, source))?;
    homes.extend(now.into_iter().filter(|(oid, _)| data.tablespaces.contains_key(oid)));
    let mut tablespaces = BTreeMap::new();
    for (oid, home) in homes {
        let mut found = place(&home, &[]);
        // The folder of another version is of another cluster.
        let version = format!("PG_{}_", data.server_version / 10_000);
        let is_ours = |name: &OsString| is_stage(name) || name.to_string_lossy().starts_with(&version);
        found.obstacles.extend(strangers(&home, is_ours));
        tablespaces.insert(oid, found);
    }
    let link = std::fs::read_link(folder.join(WAL)).ok();
    let wal = link.map(|to| {
        let home = folder.join(to);
        let mut found = place(&home, &[]);
        found.obstacles.extend(strangers(&home, |name| is_stage(name) || is_of_wal(&name.to_string_lossy(), data)));
        found
    });
    let own = database_of(&physical.server.url).map_err(TaskError::Postgres)?;
    let commands = |control: &Control| (CommandStep::of(&control.stop), CommandStep::of(&control.start));
    Ok(TargetFacts::LiveServer(Box::new(LiveServer {
        data: live,
        tablespaces,
        wal,
        databases,
        own,
        control: physical.control.as_ref().map(commands),
        reach,
        goes_on,
    })))
}

/// That a folder holds what is none of the server's: it would be set aside with the rest, and removed one day.
fn strangers(folder: &Path, is_ours: impl Fn(&OsString) -> bool) -> Option<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let others: Vec<String> =
        entries.filter(|name| !is_ours(name)).map(|name| name.to_string_lossy().into_owned()).collect();
    (!others.is_empty()).then(|| format!("it holds what is none of the server's: {}", others.join(", ")))
}

/// Whether a name is one that a server gives in its `pg_wal`.
fn is_of_wal(name: &str, data: &PhysicalData) -> bool {
    WalFile::parse(name, data.segment_size).is_ok()
        || ["archive_status", "summaries"].contains(&name)
        || name.starts_with("xlogtemp.")
}

/// A folder, and what keeps its entries from being exchanged. Mount points in it are none, where they may be there.
fn place(folder: &Path, may_be_mounted: &[&str]) -> LivePlace {
    let meta = folder.symlink_metadata().ok();
    let real = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mut obstacles = Vec::new();
    if meta.as_ref().is_some_and(|meta| !meta.is_dir()) {
        obstacles.push("it is no folder".to_owned());
    }
    let mut mounts = Vec::new();
    for mount in mount_points().iter().filter_map(|mount| mount.strip_prefix(&real).ok()) {
        if may_be_mounted.iter().any(|name| mount == Path::new(name)) {
            mounts.push(folder.join(mount).to_string_lossy().into_owned());
        } else if mount != Path::new("") {
            obstacles.push(format!("something is mounted in it, at `{}`", mount.display()));
        }
    }
    obstacles.extend(folder.ancestors().find(|there| there.exists()).and_then(read_only));
    let existing = folder.ancestors().find_map(|there| there.metadata().ok());
    LivePlace {
        path: folder.to_string_lossy().into_owned(),
        is_file: false,
        exists: meta.is_some(),
        mounts,
        obstacles,
        differences: windlass_core::restore::Differences::default(),
        bytes: 0,
        device: existing.map_or(0, |meta| meta.dev()),
        free_bytes: free_bytes(folder),
    }
}

/// Why what lies in the folder is not the server that was backed up: another one's is not replaced.
fn stranger(folder: &Path, data: &PhysicalData) -> Option<String> {
    let mut entries = std::fs::read_dir(folder).ok()?.flatten().filter(|entry| !is_stage(&entry.file_name()));
    match identifier(folder) {
        Some(found) if found.to_string() != data.system_identifier => Some(format!(
            "another server lives in it: its identifier is {found}, and that of the base backup {}",
            data.system_identifier
        )),
        None if entries.next().is_some() && !folder.join("PG_VERSION").exists() => {
            Some("what lies in it is no data folder of a server: it has no PG_VERSION".to_owned())
        }
        _ => None,
    }
}
