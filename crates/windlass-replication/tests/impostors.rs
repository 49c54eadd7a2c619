//! Servers that are not who they say: on the way between us and the real one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod server;

use std::sync::Arc;

use anyhow::Result;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use server::{Certificates, Pair, open};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use windlass_replication::ReplicationError;

/// A server with somebody's certificate and a key, which says this to the wish for TLS; its port. It tells whether it
/// was believed.
async fn impostor(
    shown: &Pair,
    key: &Pair,
    version: &'static SupportedProtocolVersion,
    answer: &'static [u8],
) -> Result<(u16, tokio::task::JoinHandle<bool>)> {
    let provider = Arc::new(ring::default_provider());
    let key = provider.key_provider.load_private_key(PrivateKeyDer::from_pem_file(&key.key)?)?;
    let shown = CertifiedKey::new(vec![CertificateDer::from_pem_file(&shown.certificate)?], key);
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let served = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut wish = [0; 8];
        socket.read_exact(&mut wish).await.unwrap();
        socket.write_all(answer).await.unwrap();
        let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(socket).await else { return false };
        // Somebody who believes it says who he is.
        stream.read_u8().await.is_ok()
    });
    Ok((port, served))
}

#[tokio::test]
async fn who_shows_a_certificate_has_its_key() -> Result<()> {
    let certificates = Certificates::new()?;
    let real = certificates.own("real", "/CN=x", "subjectAltName=DNS:db.test")?;
    let thief = certificates.authority("thief")?;
    let root = format!("sslrootcert={}", real.certificate.display());
    for version in [&TLS12, &TLS13] {
        for parameters in ["sslmode=require".to_owned(), format!("sslmode=verify-full&{root}")] {
            for (key, is_real) in [(&real, true), (&thief, false)] {
                let (port, served) = impostor(&real, key, version, b"S").await?;
                let url = format!("postgresql://u@db.test:{port}/?hostaddr=127.0.0.1&{parameters}");
                let error = open(&url, Some("s3cret")).await.unwrap_err();
                // The real one breaks off behind it, as it is no PostgreSQL.
                assert_eq!(matches!(error, ReplicationError::Tls { .. }), !is_real, "{version:?} {url}: {error}");
                assert_eq!(served.await?, is_real);
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_is_said_before_tls_is_not_heard() -> Result<()> {
    let certificates = Certificates::new()?;
    let real = certificates.authority("real")?;
    // AuthenticationOk, in the clear.
    let (port, served) = impostor(&real, &real, &TLS13, b"SR\0\0\0\x08\0\0\0\0").await?;
    let error = open(&format!("postgresql://u@127.0.0.1:{port}/?sslmode=require"), None).await.unwrap_err();
    assert!(matches!(error, ReplicationError::Tls { .. }), "{error}");
    assert!(!served.await?);
    for answer in [&b"E"[..], b"", b"X"] {
        let (port, _) = impostor(&real, &real, &TLS13, answer).await?;
        let url = format!("postgresql://u@127.0.0.1:{port}/?sslmode=require&connect_timeout=1");
        let error = open(&url, None).await.unwrap_err();
        assert!(matches!(error, ReplicationError::Tls { .. } | ReplicationError::Timeout { .. }), "{error}");
    }
    Ok(())
}
