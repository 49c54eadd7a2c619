//! A server, its tools, and a dump held in memory: what stories of PostgreSQL are played with.

#![allow(dead_code, reason = "each file of stories uses what it needs")]

pub(crate) mod base_backups;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bytes::Bytes;
use windlass_core::application::{Databases, Postgres};
use windlass_core::point::{DatabaseDump, ObjectRef};
use windlass_core::restore::Relation;
use windlass_engine::postgres::PostgresError;
use windlass_engine::postgres::capture;
use windlass_engine::postgres::restore::{LeftOut, Restore};
use windlass_engine::postgres::tools::Tools;

pub(crate) fn source(url: &str) -> Postgres {
    Postgres { url: url.to_owned(), password: None, databases: Databases::Named, owners: true, via: Vec::new() }
}

pub(crate) async fn tools(url: &str) -> Result<Tools, PostgresError> {
    Tools::find(&source(url)).await
}

/// A dump in memory, and what a manifest would say of it.
pub(crate) struct Captured {
    pub(crate) bytes: Vec<u8>,
    pub(crate) dump: DatabaseDump,
    pub(crate) said: String,
}

impl Captured {
    pub(crate) fn rows_of(&self, table: &str) -> Option<u64> {
        self.dump.tables.iter().find(|count| count.table == table).map(|count| count.rows)
    }
}

pub(crate) async fn capture(tools: &Tools, database: &str) -> Result<Captured, PostgresError> {
    finish(capture::begin(tools, database, true).await?, database).await
}

/// Reads a capture to its end.
pub(crate) async fn finish(mut capture: capture::DatabaseCapture, name: &str) -> Result<Captured, PostgresError> {
    let bytes = read(&mut capture.dump).await?;
    let (database, snapshot_at) = (capture.database.clone(), capture.snapshot_at);
    let (said, tables) = capture.finish().await?;
    let object = ObjectRef {
        key: "dump".into(),
        size: bytes.len() as u64,
        sha256: String::new(),
        plain_size: bytes.len() as u64,
        plain_sha256: String::new(),
        sealed_to: None,
    };
    let dump = database.into_dump(name, object, snapshot_at, tables);
    Ok(Captured { bytes, dump, said })
}

pub(crate) async fn read(stream: &mut capture::Stream) -> Result<Vec<u8>, PostgresError> {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(bytes),
            read => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}

/// How a dump is restored.
pub(crate) struct Into<'a> {
    pub(crate) database: &'a str,
    pub(crate) create: bool,
    pub(crate) owners: bool,
    pub(crate) relations: &'a [Relation],
}

/// A database made for it, with owners and all.
pub(crate) fn new(database: &str) -> Into<'_> {
    Into { database, create: true, owners: true, relations: &[] }
}

pub(crate) async fn restore(tools: &Tools, captured: &Captured, into: Into<'_>) -> Result<LeftOut, PostgresError> {
    let pieces = captured.bytes.chunks(64 << 10).map(|piece| Ok(Bytes::copy_from_slice(piece)));
    let pieces: Vec<std::io::Result<Bytes>> = pieces.collect();
    restore_from(tools, captured, into, pieces).await
}

pub(crate) async fn restore_from(
    tools: &Tools,
    captured: &Captured,
    into: Into<'_>,
    pieces: impl IntoIterator<Item = std::io::Result<Bytes>, IntoIter: Send + Unpin>,
) -> Result<LeftOut, PostgresError> {
    let spool = tempfile::tempdir().unwrap();
    let restore = Restore {
        again: None,
        tools,
        database: into.database,
        dump: &captured.dump,
        create: into.create,
        owners: into.owners,
        relations: into.relations,
        spool: spool.path(),
        moved: &|_| {},
    };
    restore.run(futures::stream::iter(pieces)).await
}

/// Waits for something to become true.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > Duration::from_secs(30) {
            bail!("waited in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The processes whose arguments hold a text, with all of their arguments.
pub(crate) fn processes_with(text: &str) -> Vec<(i32, String)> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let numbered = entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())));
    let told = numbered.map(|(pid, path): (i32, PathBuf)| {
        let arguments = std::fs::read(path.join("cmdline")).unwrap_or_default();
        (pid, String::from_utf8_lossy(&arguments).replace('\0', " "))
    });
    told.filter(|(_, arguments)| arguments.contains(text)).collect()
}

/// An executable script.
pub(crate) fn script(path: &std::path::Path, body: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, format!("#!/bin/sh\n{body}\n"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}
