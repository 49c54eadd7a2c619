//! Stories of a server as a whole whose base backups and WAL are in a bucket, which is not at its best.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(dead_code, clippy::panic, reason = "each file of stories uses what it needs of the stage")]

mod story;

use std::time::Duration;

use anyhow::{Context, Result};
use story::archiving::Archive;
use story::wait_until;
use windlass_testkit::network::{Network, Proxy};
use windlass_testkit::postgres::PgCluster;
use windlass_testkit::s3::{Kind, S3Server};

/// More than one upload's part, of what does not compress.
const MUCH: &str = "insert into orders select n, gen_random_bytes(1024)::text from generate_series(100, 12000) n";

/// A server whose archive is in a bucket behind a network, a base backup of it, and rows since.
fn archive(kind: Kind, network: Network, more: &str) -> Result<(S3Server, Proxy, Archive)> {
    let store = S3Server::start(kind)?;
    let proxy = Proxy::before(&store.address())?;
    proxy.set(network);
    let archive = Archive::in_bucket(&proxy.endpoint(), more)?;
    archive.server.psql("shop", "create extension pgcrypto");
    archive.server.psql("shop", MUCH);
    archive.stage.take()?;
    archive.server.psql("shop", "insert into orders values (1, 'since')");
    let (_, last) = (archive.switch(), archive.switch());
    archive.wait_until_acknowledged(&last);
    Ok((store, proxy, archive))
}

/// Restored to all there is, it is what the server is.
fn comes_back(archive: &Archive) -> Result<()> {
    let rows = "select count(*), md5(string_agg(note, '' order by id)) from orders";
    let back = archive.stage.path("back");
    let into = format!("db={}", back.display());
    archive.stage.windlass(&["restore", "shop", "--at", "latest", "--into", &into, "--yes"])?.with(0);
    let server = PgCluster::start_from(|to| Ok(std::fs::rename(back.join("data"), to)?), &[])?;
    assert_eq!(server.psql("shop", rows), archive.server.psql("shop", rows));
    std::fs::remove_dir_all(back)?;
    Ok(())
}

#[test]
fn an_overloaded_bucket_takes_and_gives_everything() -> Result<()> {
    let (_store, proxy, archive) = archive(Kind::Minio, Network::Overloaded(30), "")?;
    archive.stage.windlass(&["verify", "shop", "--deep"])?.with(0);
    comes_back(&archive)?;
    archive.stage.windlass(&["status", "shop"])?.with(0);
    let (requests, hit) = proxy.counts();
    assert!(hit > 30, "{hit} of {requests}");
    Ok(())
}

#[test]
fn latency_and_resets_cost_time_and_no_data() -> Result<()> {
    let (_store, proxy, archive) =
        archive(Kind::Versitygw, Network::Slow(Duration::from_millis(50), 5), "compression = \"lz4\"")?;
    archive.stage.windlass(&["verify", "shop"])?.with(0);
    comes_back(&archive)?;
    let (requests, hit) = proxy.counts();
    assert!(hit > 2, "{hit} of {requests}");
    Ok(())
}

#[test]
fn bits_that_flip_on_the_way_are_found_and_are_no_end_of_the_archive() -> Result<()> {
    let (_store, proxy, archive) = archive(Kind::Minio, Network::Good, "")?;
    proxy.set(Network::FlipsBits(100_000));
    archive.stage.windlass(&["verify", "shop"])?.with(1);
    let into = format!("db={}", archive.stage.path("back").display());
    let refused = archive.stage.windlass(&["restore", "shop", "--at", "latest", "--into", &into, "--yes"])?;
    assert!(refused.code != 0 && !archive.stage.path("back").exists(), "{} {}", refused.out, refused.err);
    let last = archive.server.psql("postgres", "select last_archived_wal from pg_stat_archiver");
    let to = archive.server.socket().join("segment");
    let cluster = archive.server.psql("postgres", "select system_identifier from pg_control_system()");
    let fetch = |name: &str| {
        let (socket, to) = (archive.socket(), to.clone());
        let at = ["wal-fetch", "--component", "shop/db", "--cluster", &cluster, "--socket", socket.to_str().unwrap()];
        archive.stage.windlass(&[&at[..], &[name, to.to_str().unwrap()]].concat())
    };
    // One of those that are full.
    let full = archive.server.psql("postgres", "select pg_walfile_name('0/2000028')");
    let told = fetch(&full)?;
    assert!(told.code >= 126, "{}: {} {}", told.code, told.out, told.err);
    proxy.set(Network::Good);
    archive.stage.windlass(&["verify", "shop"])?.with(0);
    fetch(&last)?.with(0);
    comes_back(&archive)
}

#[test]
fn a_bucket_that_is_away_keeps_nobody_from_writing_and_gets_everything_when_it_is_back() -> Result<()> {
    let (mut store, _proxy, archive) = archive(Kind::Versitygw, Network::Good, "spool = \"1GiB\"")?;
    store.down();
    archive.server.psql("shop", "insert into orders values (2, 'while it was away')");
    let names = [archive.switch(), archive.switch()];
    archive.wait_until_acknowledged(&names[1]);
    assert!(archive.said().contains("waits on this machine"), "{}", archive.said());
    store.up()?;
    let waits = archive.stage.path("state/spool/shop.db");
    let count = || walk(&waits);
    wait_until("the spool to be empty", || count() == 0);
    comes_back(&archive)
}

fn walk(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { 1 }).sum()
}

#[test]
fn where_a_bucket_knows_no_conditions_one_host_archives_and_another_is_refused() -> Result<()> {
    let (_store, _proxy, archive) = archive(Kind::Minio, Network::NoConditions, "")?;
    comes_back(&archive)?;
    // The same settings on another machine: its `state` is its own.
    let settings = std::fs::read_to_string(archive.stage.path("windlass.toml"))?;
    let state = archive.stage.path("state").display().to_string();
    let others = archive.stage.path("others.toml");
    std::fs::write(&others, settings.replace(&state, &format!("{state}-of-another")))?;
    let name = archive.server.psql("postgres", "select pg_walfile_name(pg_current_wal_lsn())");
    let path = archive.server.data().join("pg_wal").join(name);
    let nowhere = archive.stage.path("nowhere.sock");
    let mut push = std::process::Command::new(story::archiving::binary());
    push.arg("--config").arg(&others).args(["wal-push", "--component", "shop/db", "--socket"]).arg(nowhere).arg(path);
    let told = push.output()?;
    let said = String::from_utf8(told.stderr).context("UTF-8")?;
    assert!(told.status.code() != Some(0) && said.contains("writes it already"), "{said}");
    Ok(())
}
