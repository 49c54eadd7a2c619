//! The memory a base backup takes. It has a process of its own, as the peak of a process is measured.

mod server;

use anyhow::{Context, Result};
use server::{Server, open};
use windlass_replication::{BaseBackupOptions, Event};
use windlass_testkit::process::peak_memory;

#[tokio::test]
async fn the_size_of_a_server_is_no_matter() -> Result<()> {
    let server = Server::start("host replication all ADDRESS trust")?;
    server
        .cluster
        .psql("postgres", "create table large as select repeat('x', 1000) as x from generate_series(1, 60000)");
    let options =
        BaseBackupOptions { label: "x".to_owned(), fast: true, wal: true, verify_checksums: true, max_rate: None };
    let mut connection = open(&server.url("postgres", "sslmode=disable"), None).await?;
    let peak = || peak_memory(std::process::id()).context("read the peak of memory");
    let (before, mut sent) = (peak()?, 0);
    let mut backup = connection.base_backup(&options).await?;
    while let Some(event) = backup.next().await? {
        if let Event::Bytes(bytes) = event {
            sent += bytes.len() as u64;
        }
    }
    backup.finish().await?;
    let grown = peak()? - before;
    assert!(sent > 100 << 20, "{sent}");
    assert!(grown < 4 << 20, "{grown} bytes for {sent}");
    Ok(())
}
