//! Who is let in, and by whom: every way of authentication, against a real server.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod server;

use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use anyhow::Result;
use server::{Server, open};
use windlass_replication::ReplicationError;

/// The SQLSTATE of a refusal, and what is hinted at.
async fn refusal(url: &str, password: Option<&str>) -> (String, String) {
    let error = open(url, password).await.unwrap_err();
    (error.sqlstate().unwrap_or_default().to_owned(), error.hints().join("\n"))
}

#[tokio::test]
async fn over_a_socket_who_is_trusted_is_let_in() -> Result<()> {
    let server = Server::start("")?;
    let mut connection = open(&server.socket("postgres"), None).await?;
    assert!(connection.identify().await?.system_identifier > 0);
    let name = "select application_name from pg_stat_activity where backend_type = 'walsender'";
    assert_eq!(server.cluster.psql("postgres", name), "windlass-test");
    // What the URL says of TLS is not meant for sockets.
    open(&format!("{}&sslmode=verify-ca&sslrootcert=/nonexistent", server.socket("postgres")), None).await?;
    let named = open(&format!("{}&application_name=mine", server.socket("postgres")), None).await?;
    assert!(server.cluster.psql("postgres", name).contains("mine"));
    named.close().await;
    Ok(())
}

#[tokio::test]
async fn by_scram_over_the_network() -> Result<()> {
    let server = Server::start("host replication backup ADDRESS scram-sha-256")?;
    server.role("backup", "s3crét", "scram-sha-256");
    let url = server.url("backup", "sslmode=disable");
    open(&url, Some("s3crét")).await?.identify().await?;

    let (state, hints) = refusal(&url, Some("wrong")).await;
    assert_eq!(state, "28P01");
    assert!(hints.contains("password is the role's"), "{hints}");
    // Both ways are tried, and what both say is said once.
    assert_eq!(refusal(&server.url("backup", "sslmode=prefer"), Some("wrong")).await.0, "28P01");
    for none in [None, Some("")] {
        let error = open(&url, none).await.unwrap_err();
        assert!(matches!(error, ReplicationError::NoPassword { .. }), "{error}");
    }
    let bound = open(&server.url("backup", "sslmode=disable&channel_binding=require"), Some("s3crét")).await;
    assert!(bound.unwrap_err().to_string().contains("no TLS"));
    Ok(())
}

#[tokio::test]
async fn with_a_password_from_the_file() -> Result<()> {
    let server = Server::start("host replication backup ADDRESS scram-sha-256")?;
    server.role("backup", "s3cret", "scram-sha-256");
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), "db.test:5432:replication:backup:s3cret\n")?;
    let url = server.url("backup", &format!("sslmode=disable&passfile={}", file.path().display()));
    open(&url, None).await?;
    std::fs::set_permissions(file.path(), PermissionsExt::from_mode(0o644))?;
    let error = open(&url, None).await.unwrap_err().to_string();
    assert!(error.contains("0600") && !error.contains("s3cret"), "{error}");
    Ok(())
}

#[tokio::test]
async fn by_md5_where_it_is_still_in_use() -> Result<()> {
    let server = Server::start("host replication old ADDRESS md5")?;
    server.role("old", "s3cret", "md5");
    let url = server.url("old", "sslmode=disable");
    open(&url, Some("s3cret")).await?.identify().await?;
    assert_eq!(refusal(&url, Some("wrong")).await.0, "28P01");
    Ok(())
}

#[tokio::test]
async fn a_password_in_the_clear_is_not_sent_over_an_open_network() -> Result<()> {
    let server = Server::start("host replication backup ADDRESS password\nlocal replication backup password")?;
    server.role("backup", "s3cret", "scram-sha-256");
    let error = open(&server.url("backup", "sslmode=disable"), Some("s3cret")).await.unwrap_err().to_string();
    assert!(error.contains("in the clear") && !error.contains("s3cret"), "{error}");
    open(&server.socket("backup"), Some("s3cret")).await?;
    assert_eq!(refusal(&server.socket("backup"), Some("wrong")).await.0, "28P01");
    Ok(())
}

#[tokio::test]
async fn a_refusal_says_what_to_do() -> Result<()> {
    let server = Server::start_with("host all all ADDRESS trust", &["max_wal_senders=1"])?;
    // `all` does not mean replication.
    let (state, hints) = refusal(&server.url("postgres", "sslmode=prefer"), None).await;
    assert_eq!(state, "28000");
    assert!(hints.contains("pg_hba.conf"), "{hints}");

    server.cluster.psql("postgres", "create role plain login");
    let (state, hints) = refusal(&server.socket("plain"), None).await;
    assert_eq!(state, "42501");
    assert!(hints.contains("REPLICATION"), "{hints}");

    let mut only = open(&server.socket("postgres"), None).await?;
    let (state, hints) = refusal(&server.socket("postgres"), None).await;
    assert_eq!(state, "53300");
    assert!(hints.contains("max_wal_senders"), "{hints}");
    only.identify().await?;
    Ok(())
}

#[tokio::test]
async fn hosts_are_tried_until_one_answers() -> Result<()> {
    let server = Server::start("host replication all ADDRESS trust")?;
    let nobody = "127.0.0.1,/nonexistent";
    let both = format!("postgresql://postgres@/?host={nobody},{}&port=1,5432,5432", server.address);
    open(&both, None).await?.identify().await?;

    let error = open(&format!("postgresql://postgres@/?host={nobody}&port=1"), None).await.unwrap_err();
    let shown = error.to_string();
    assert!(shown.contains("127.0.0.1:1") && shown.contains("/nonexistent/.s.PGSQL.1"), "{shown}");
    assert_eq!(error.hints().len(), 1, "both have the same");

    // Where one answers, and says no, the others are not asked.
    server.role("backup", "s3cret", "scram-sha-256");
    server.admit("host replication backup ADDRESS scram-sha-256")?;
    let url = format!("postgresql://backup@/?host={},{}", server.address, server.cluster.socket().display());
    assert_eq!(refusal(&url, Some("wrong")).await.0, "28P01");
    Ok(())
}

#[tokio::test]
async fn who_never_answers_is_not_waited_for() -> Result<()> {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let port = silent.local_addr()?.port();
    for mode in ["disable", "prefer"] {
        let began = Instant::now();
        let url = format!("postgresql://u@127.0.0.1:{port}/?connect_timeout=1&sslmode={mode}");
        let error = open(&url, None).await.unwrap_err();
        assert!(matches!(error, ReplicationError::Timeout { seconds: 1, .. }), "{error}");
        assert!(began.elapsed().as_secs() < 5);
    }
    Ok(())
}
