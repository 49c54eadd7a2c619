//! What is stored of a PostgreSQL server is read by a program that shares nothing with Windlass: `walg_reader.py`, which was written from
//! the layout of WAL-G alone.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(dead_code, clippy::panic, reason = "each file of stories uses what it needs of the stage")]

mod story;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use story::PASSPHRASE;
use story::archiving::Archive;
use windlass_testkit::postgres::PgCluster;

const READER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/walg_reader.py");

fn reader(key: &Path, arguments: &[&str]) -> Result<Output> {
    let mut reader = Command::new("python3");
    reader.arg(READER).arg("--key-hex-file").arg(key).args(arguments);
    reader.output().context("run python3")
}

/// The key that base backups and WAL are sealed with, as `README.txt` says it is got: `age` insists on a terminal for a passphrase.
fn key(archive: &Archive) -> Result<PathBuf> {
    let (repository, key) = (archive.stage.path("repository"), archive.stage.path("libsodium-key"));
    let steps = format!(
        "set -eu; cd '{}'
         printf '{PASSPHRASE}\\n' | script -qec \"age --decrypt --output '{key}.txt' $(ls keys/shop/*.age)\" /dev/null >/dev/null
         sed -n 's/^# walg-libsodium-key: //p' '{key}.txt' > '{key}'",
        repository.display(),
        key = key.display()
    );
    ensure!(Command::new("sh").arg("-c").arg(steps).status()?.success(), "the key could not be got");
    Ok(key)
}

#[test]
fn a_reader_that_knows_the_layout_alone_restores_what_is_stored() -> Result<()> {
    let archive = Archive::new()?;
    let server = &archive.server;
    let tablespace = server.socket().join("fast");
    std::fs::create_dir(&tablespace)?;
    if rustix::process::geteuid().is_root() {
        Command::new("chown").arg("postgres:").arg(&tablespace).status()?;
    }
    server.psql("postgres", &format!("create tablespace fast location '{}'", tablespace.display()));
    let oid = server.psql("postgres", "select oid from pg_tablespace where spcname = 'fast'");
    server.psql("shop", "create table swift tablespace fast as select n from generate_series(1, 1000) n");
    server.psql("shop", "insert into orders select n, md5(n::text) from generate_series(1, 50000) n");
    archive.stage.take()?;
    server.psql("shop", "insert into orders select n, 'since' from generate_series(50001, 50100) n");
    let last = server.psql("postgres", "select pg_walfile_name(pg_switch_wal())");
    archive.wait_for(&last);
    server.psql("shop", "insert into orders values (60000, 'not archived')");

    let identifier = server.psql("postgres", "select system_identifier from pg_control_system()");
    let prefix = archive.stage.path(&format!("repository/postgres/shop.db/{identifier}"));
    let (prefix, key) = (prefix.display().to_string(), key(&archive)?);
    let listed = String::from_utf8(reader(&key, &["list", &prefix])?.stdout)?;
    assert!(listed.starts_with("base_") && listed.contains(&identifier), "{listed}");

    let lay_down = |data: &Path| -> Result<()> {
        let beside = data.parent().context("a folder")?;
        let place = format!("{oid}={}", beside.join("fast").display());
        let data_folder = data.to_str().context("UTF-8")?;
        let restored = reader(&key, &["restore", &prefix, "LATEST", data_folder, "--tablespace", &place])?;
        ensure!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
        std::fs::write(data.join("recovery.signal"), "")?;
        // The server runs as somebody else, who may read neither the repository nor the key.
        std::fs::create_dir(beside.join("wal"))?;
        for file in archive.stage.objects().iter().filter(|file| file.to_string_lossy().contains("/wal_005/")) {
            let name = file.file_stem().context("a name")?.to_str().context("UTF-8")?;
            let to = beside.join("wal").join(name);
            let fetched = reader(&key, &["wal", &prefix, name, to.to_str().context("UTF-8")?])?;
            ensure!(fetched.status.success(), "{name}: {}", String::from_utf8_lossy(&fetched.stderr));
        }
        let command = format!("restore_command = 'cp {}/wal/%f %p'\narchive_mode = off\n", beside.display());
        Ok(std::fs::write(data.join("postgresql.auto.conf"), command)?)
    };
    let restored = PgCluster::start_from(lay_down, &["wal_level=replica"])?.recovered()?;
    assert_eq!(restored.psql("shop", "select count(*), sum(id) from orders"), "50100|1255030050");
    assert_eq!(restored.psql("shop", "select count(*) from swift"), "1000");
    let at = restored.psql("postgres", "select pg_tablespace_location(oid) from pg_tablespace where spcname = 'fast'");
    assert_eq!(PathBuf::from(at), restored.socket().join("fast"));
    assert_eq!(reader(&key, &["wal", &prefix, "0000000100000000000000FF", "/dev/null"])?.status.code(), Some(1));

    // It is no reader that takes everything: a byte of an archive, and it says so.
    let part = archive.stage.objects().into_iter().find(|file| file.to_string_lossy().contains("/part_001.tar"));
    let part = part.context("an archive")?;
    let mut bytes = std::fs::read(&part)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&part, bytes)?;
    let elsewhere = archive.stage.path("elsewhere");
    let place = format!("{oid}={}", archive.stage.path("elsewhere-fast").display());
    let asked = ["restore", &prefix, "LATEST", elsewhere.to_str().unwrap(), "--tablespace", &place];
    let damaged = reader(&key, &asked)?;
    assert_eq!(damaged.status.code(), Some(1));
    assert!(String::from_utf8(damaged.stderr)?.contains("cannot be unsealed"));
    Ok(())
}
