//! What a server tells of itself, compared with what SQL tells.

mod server;

use anyhow::Result;
use server::{Server, open};
use windlass_core::wal::{History, Lsn, Timeline};
use windlass_replication::ReplicationError;

#[tokio::test]
async fn a_server_says_which_it_is() -> Result<()> {
    let server = Server::start("")?;
    let sql = |query: &str| server.cluster.psql("postgres", query);
    let mut connection = open(&server.socket("postgres"), None).await?;
    let before: Lsn = sql("select pg_current_wal_flush_lsn()").parse()?;
    let identity = connection.identify().await?;
    let after: Lsn = sql("select pg_current_wal_flush_lsn()").parse()?;
    assert_eq!(identity.system_identifier.to_string(), sql("select system_identifier from pg_control_system()"));
    assert_eq!(identity.timeline, Timeline(1));
    assert!((before..=after).contains(&identity.xlogpos));
    assert_eq!(connection.server_version().to_string(), sql("show server_version_num"));
    for name in ["wal_segment_size", "data_directory", "server_version_num", "TimeZone"] {
        assert_eq!(connection.show(name).await?, sql(&format!("show {name}")));
    }
    // What is refused leaves the connection as it was.
    let unknown = connection.show("no_such.setting").await.unwrap_err();
    assert_eq!(unknown.sqlstate(), Some("42704"), "{unknown}");
    let first = connection.timeline_history(Timeline(1)).await.unwrap_err();
    assert_eq!(first.sqlstate(), Some("58P01"), "{first}");
    assert_eq!(connection.identify().await?.system_identifier, identity.system_identifier);
    Ok(())
}

#[tokio::test]
async fn a_slot_is_there_as_long_as_the_connection() -> Result<()> {
    let server = Server::start_with("", &["max_replication_slots=1"])?;
    let slots = || {
        server.cluster.psql(
            "postgres",
            "select slot_name, slot_type, temporary, restart_lsn is not null from pg_replication_slots",
        )
    };
    let mut connection = open(&server.socket("postgres"), None).await?;
    connection.create_temporary_slot("windlass_1").await?;
    assert_eq!(slots(), "windlass_1|physical|t|t");
    let mut other = open(&server.socket("postgres"), None).await?;
    let error = other.create_temporary_slot("windlass_2").await.unwrap_err();
    assert!(error.hints().join("").contains("max_replication_slots"), "{error}");
    drop(connection);
    for _ in 0..200 {
        if slots().is_empty() {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the slot is still there: {}", slots());
}

#[tokio::test]
async fn a_promoted_server_tells_where_its_timeline_began() -> Result<()> {
    let mut server = Server::start("")?;
    server.cluster.psql("postgres", "alter system set restore_command = 'false'");
    server.cluster.psql("postgres", "create table t ()");
    let before: Lsn = server.cluster.psql("postgres", "select pg_current_wal_flush_lsn()").parse()?;
    server.cluster.psql("postgres", "checkpoint");
    server.cluster.down();
    std::fs::write(server.cluster.data().join("recovery.signal"), "")?;
    server.cluster.up()?;
    server.cluster = server.cluster.recovered()?;

    let mut connection = open(&server.socket("postgres"), None).await?;
    assert_eq!(connection.identify().await?.timeline, Timeline(2));
    let history = connection.timeline_history(Timeline(2)).await?;
    assert_eq!(history.name, "00000002.history");
    let file = std::fs::read(server.cluster.data().join("pg_wal/00000002.history"))?;
    assert_eq!(history.content, file);
    let text = String::from_utf8(history.content)?;
    let history = History::parse(Timeline(2), &text)?;
    assert_ne!(history, History::first(Timeline(2)), "{text}");
    let at: Lsn = text.split('\t').nth(1).unwrap_or_default().parse()?;
    assert!(at >= before, "{text}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_goes_away_is_noticed() -> Result<()> {
    let mut server = Server::start("")?;
    let mut connection = open(&server.socket("postgres"), None).await?;
    server.cluster.down();
    let error = connection.identify().await.unwrap_err();
    assert!(matches!(error, ReplicationError::Closed { .. }), "{error}");
    let error = connection.identify().await.unwrap_err();
    assert!(matches!(error, ReplicationError::Busy { .. }), "{error}");
    Ok(())
}
