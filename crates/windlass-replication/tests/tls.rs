//! Connections that nobody else can read, or play the server of.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod server;

use std::os::unix::fs::PermissionsExt;

use anyhow::Result;
use server::{Certificates, NAME, Server, open};
use windlass_replication::ReplicationError;

const SCRAM: &str = "hostssl replication backup ADDRESS scram-sha-256\nhostnossl replication plain ADDRESS trust";

/// How the walsenders there are were let in.
fn encrypted(server: &Server) -> String {
    server.cluster.psql(
        "postgres",
        "select string_agg(ssl::text, ',') from pg_stat_activity join pg_stat_ssl using (pid) where backend_type = 'walsender'",
    )
}

/// Why TLS was not agreed on.
async fn distrust(url: &str) -> (String, String) {
    let error = open(url, Some("s3cret")).await.unwrap_err();
    assert!(matches!(error, ReplicationError::Tls { .. }), "{url}: {error}");
    (error.to_string(), error.hints().join("\n"))
}

#[tokio::test]
async fn a_login_is_bound_to_the_certificate() -> Result<()> {
    let (server, certificates) = (Server::start(SCRAM)?, Certificates::new()?);
    server.role("backup", "s3cret", "scram-sha-256");
    let authority = certificates.authority("authority")?;
    server.encrypt(&certificates.signed("server", &authority, "/CN=x", Some("subjectAltName=DNS:db.test"))?, None)?;
    for binding in ["require", "prefer", "disable"] {
        let url = server.url("backup", &format!("sslmode=require&channel_binding={binding}"));
        let connection = open(&url, Some("s3cret")).await?;
        assert_eq!(encrypted(&server), "true", "{binding}");
        connection.close().await;
    }
    // Who is let in without a password has not proved anything.
    server.admit("hostssl replication backup ADDRESS trust")?;
    let error = open(&server.url("backup", "sslmode=require&channel_binding=require"), Some("s3cret")).await;
    assert!(error.unwrap_err().to_string().contains("lets us in without"));
    // Over TLS a password may go in the clear.
    server.admit("hostssl replication backup ADDRESS password")?;
    open(&server.url("backup", "sslmode=require"), Some("s3cret")).await?;
    Ok(())
}

#[tokio::test]
async fn a_certificate_is_looked_at_as_far_as_the_mode_says() -> Result<()> {
    let (server, certificates) = (Server::start(SCRAM)?, Certificates::new()?);
    server.role("backup", "s3cret", "scram-sha-256");
    let authority = certificates.authority("authority")?;
    let other = certificates.authority("other")?;
    server.encrypt(&certificates.signed("server", &authority, "/CN=x", Some("subjectAltName=DNS:db.test"))?, None)?;
    let root = format!("sslrootcert={}", authority.certificate.display());
    let unknown = format!("sslrootcert={}", other.certificate.display());
    let url = |name: &str, mode: &str, root: &str| server.url_by(name, "backup", &format!("sslmode={mode}&{root}"));

    open(&url(NAME, "verify-full", &root), Some("s3cret")).await?.identify().await?;
    let (error, hints) = distrust(&url("other.test", "verify-full", &root)).await;
    assert!(error.contains("not valid for name"), "{error}");
    assert!(hints.contains("subjectAltName"), "{hints}");
    open(&url("other.test", "verify-ca", &root), Some("s3cret")).await?;

    for mode in ["verify-full", "verify-ca", "require"] {
        let (error, hints) = distrust(&url(NAME, mode, &unknown)).await;
        assert!(error.contains("UnknownIssuer"), "{mode}: {error}");
        assert!(hints.contains("sslrootcert"), "{hints}");
    }
    // With nothing to verify by, only the two that ask for it do.
    open(&url(NAME, "require", ""), Some("s3cret")).await?;
    for mode in ["verify-full", "verify-ca"] {
        let error = open(&url(NAME, mode, ""), Some("s3cret")).await.unwrap_err();
        assert!(matches!(error, ReplicationError::TlsFile { .. }), "{error}");
    }
    let (error, _) = distrust(&url(NAME, "verify-full", "sslrootcert=system")).await;
    assert!(error.contains("UnknownIssuer"), "{error}");
    for file in ["/nonexistent", "/etc/hostname"] {
        let error = open(&url(NAME, "require", &format!("sslrootcert={file}")), Some("s3cret")).await.unwrap_err();
        assert!(matches!(&error, ReplicationError::TlsFile { .. }) && error.to_string().contains(file), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn certificates_that_are_not_of_an_authority_of_the_web() -> Result<()> {
    let (server, certificates) = (Server::start(SCRAM)?, Certificates::new()?);
    server.role("backup", "s3cret", "scram-sha-256");
    // One that signed for itself, as `openssl req -x509` makes it, is believed where it is the root itself.
    let own = certificates.own("own", "/CN=x", "subjectAltName=DNS:db.test")?;
    server.encrypt(&own, None)?;
    let root = format!("sslrootcert={}", own.certificate.display());
    let full = format!("sslmode=verify-full&{root}");
    open(&server.url("backup", &full), Some("s3cret")).await?;
    let (error, _) = distrust(&server.url_by("other.test", "backup", &full)).await;
    assert!(error.contains("not valid for name"), "{error}");
    let another = certificates.own("another", "/CN=x", "subjectAltName=DNS:db.test")?;
    let root = format!("sslrootcert={}", another.certificate.display());
    distrust(&server.url("backup", &format!("sslmode=verify-ca&{root}"))).await;

    // One of version 1 proves that the server has its key, and no more.
    let authority = certificates.authority("authority")?;
    server.encrypt(&certificates.signed("first", &authority, "/CN=db.test", None)?, None)?;
    open(&server.url("backup", "sslmode=require&channel_binding=require"), Some("s3cret")).await?;
    let root = format!("sslrootcert={}", authority.certificate.display());
    let (_, hints) = distrust(&server.url("backup", &format!("sslmode=verify-ca&{root}"))).await;
    assert!(hints.contains("version 1"), "{hints}");
    Ok(())
}

#[tokio::test]
async fn an_older_tls_is_spoken_too() -> Result<()> {
    let (server, certificates) =
        (Server::start_with(SCRAM, &["ssl_max_protocol_version=TLSv1.2"])?, Certificates::new()?);
    server.role("backup", "s3cret", "scram-sha-256");
    let authority = certificates.authority("authority")?;
    for extension in [Some("subjectAltName=DNS:db.test"), None] {
        server.encrypt(&certificates.signed("server", &authority, "/CN=x", extension)?, None)?;
        let connection = open(&server.url("backup", "sslmode=require&channel_binding=require"), Some("s3cret")).await?;
        let version = server.cluster.psql(
            "postgres",
            "select max(version) from pg_stat_activity join pg_stat_ssl using (pid) where backend_type = 'walsender'",
        );
        assert_eq!(version, "TLSv1.2");
        connection.close().await;
    }
    Ok(())
}

#[tokio::test]
async fn with_tls_or_without_as_both_sides_can() -> Result<()> {
    let (server, certificates) = (Server::start(SCRAM)?, Certificates::new()?);
    server.role("backup", "s3cret", "scram-sha-256");
    server.cluster.psql("postgres", "create role plain login replication");
    let error = open(&server.url("backup", "sslmode=require"), Some("s3cret")).await.unwrap_err();
    assert!(matches!(error, ReplicationError::TlsRefused { .. }) && !error.hints().is_empty(), "{error}");
    for mode in ["prefer", "allow", "disable"] {
        open(&server.url("plain", &format!("sslmode={mode}")), None).await?.close().await;
    }

    server.encrypt(&certificates.authority("server")?, None)?;
    // Each of these is let in by one of the two ways alone.
    for (role, mode, password) in [
        ("backup", "prefer", Some("s3cret")),
        ("backup", "allow", Some("s3cret")),
        ("plain", "prefer", None),
        ("plain", "allow", None),
    ] {
        let connection = open(&server.url(role, &format!("sslmode={mode}")), password).await?;
        assert_eq!(encrypted(&server), (role == "backup").to_string(), "{role} {mode}");
        connection.close().await;
    }
    assert!(open(&server.url("backup", "sslmode=disable"), Some("s3cret")).await.is_err());
    assert!(open(&server.url("plain", "sslmode=require"), None).await.is_err());
    Ok(())
}

#[tokio::test]
async fn by_a_certificate_of_our_own() -> Result<()> {
    let certificates = Certificates::new()?;
    let server = Server::start("hostssl replication backup ADDRESS cert")?;
    server.role("backup", "s3cret", "scram-sha-256");
    let authority = certificates.authority("authority")?;
    server.encrypt(&certificates.signed("server", &authority, "/CN=x", None)?, Some(&authority))?;
    // With an extension and without: of version 3 and of version 1.
    for extension in [Some("extendedKeyUsage=clientAuth"), None] {
        let ours = certificates.signed("ours", &authority, "/CN=backup", extension)?;
        std::fs::set_permissions(&ours.key, PermissionsExt::from_mode(0o600))?;
        let files = format!("sslcert={}&sslkey={}", ours.certificate.display(), ours.key.display());
        let url = server.url("backup", &format!("sslmode=require&{files}"));
        open(&url, None).await?.identify().await?;
        std::fs::set_permissions(&ours.key, PermissionsExt::from_mode(0o644))?;
        let error = open(&url, None).await.unwrap_err().to_string();
        assert!(error.contains("0600"), "{error}");
    }
    assert!(open(&server.url("backup", "sslmode=require"), None).await.is_err(), "without one");
    Ok(())
}
