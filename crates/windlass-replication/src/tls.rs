//! TLS as libpq means it: `sslmode`, `sslrootcert`, `sslcert` and `sslkey`.
//!
//! | sslmode | chain | name |
//! |---|---|---|
//! | disable, allow, prefer, require | where there is a file of roots | no |
//! | verify-ca | yes | no |
//! | verify-full | yes | yes |
//!
//! Whatever is not looked at, the server's signature of the handshake is: it holds the key of the certificate it shows.
//! So a login that is bound to the certificate is bound to the server.
//!
//! What differs from libpq: names are looked for in `subjectAltName` only; certificates of X.509 version 1 cannot be
//! verified (they can be used without); lists of revoked certificates are not read.

use std::fmt::Display;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::ReplicationError;
use crate::address::{Roots, SslMode, TlsChoice};
use crate::certificate::Certificate;

/// Reads what the choice names and makes a configuration of it.
pub(crate) fn configure(choice: &TlsChoice) -> Result<Arc<ClientConfig>, ReplicationError> {
    let provider = Arc::new(ring::default_provider());
    let trusted = trusted(choice)?;
    let has_name = choice.mode == SslMode::VerifyFull;
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Arc::new(Verifier { trusted, has_name, algorithms });
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| ReplicationError::TlsFile { path: PathBuf::new(), why: error.to_string() })?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match own_certificate(choice, &provider)? {
        None => builder.with_no_client_auth(),
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
    };
    // Since 17 the server answers to this name of its protocol, and so a server of another protocol cannot.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(Arc::new(config))
}

/// A file in libpq's folder.
fn usual(name: &str) -> Option<PathBuf> {
    std::env::home_dir().map(|home| home.join(".postgresql").join(name)).filter(|path| path.exists())
}

fn unusable(path: &Path, why: impl Display) -> ReplicationError {
    ReplicationError::TlsFile { path: path.to_owned(), why: why.to_string() }
}

/// Whose certificates are believed.
#[derive(Debug)]
struct Trusted {
    roots: RootCertStore,
    /// The same, as they are: a server's own certificate may be among them.
    given: Vec<CertificateDer<'static>>,
}

/// `None` where nothing is verified.
fn trusted(choice: &TlsChoice) -> Result<Option<Trusted>, ReplicationError> {
    let mut roots = RootCertStore::empty();
    let file = match &choice.roots {
        Roots::System => {
            // Some that cannot be read are no reason to have none.
            let found = rustls_native_certs::load_native_certs();
            if roots.add_parsable_certificates(found.certs).0 == 0 {
                return Err(unusable("system".as_ref(), "the system has no certificates that it trusts"));
            }
            return Ok(Some(Trusted { roots, given: Vec::new() }));
        }
        Roots::File(file) => Some(file.clone()),
        Roots::Usual => usual("root.crt"),
    };
    let Some(file) = file else {
        if matches!(choice.mode, SslMode::VerifyCa | SslMode::VerifyFull) {
            let why = "it is not there, and sslmode asks for the server's certificate to be verified; name another \
                       file, or `system`, as sslrootcert";
            return Err(unusable("~/.postgresql/root.crt".as_ref(), why));
        }
        return Ok(None);
    };
    let given = certificates(&file)?;
    for certificate in &given {
        roots.add(certificate.clone()).map_err(|error| unusable(&file, error))?;
    }
    Ok(Some(Trusted { roots, given }))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, ReplicationError> {
    let all = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|error| unusable(file, plain(&error)))?;
    if all.is_empty() {
        return Err(unusable(file, "it holds no certificate"));
    }
    Ok(all)
}

fn plain(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// What we show of ourselves, where the URL or libpq's folder has something.
fn own_certificate(choice: &TlsChoice, provider: &CryptoProvider) -> Result<Option<CertifiedKey>, ReplicationError> {
    let Some(cert) = choice.cert.clone().or_else(|| usual("postgresql.crt")) else { return Ok(None) };
    let Some(key) = choice.key.clone().or_else(|| usual("postgresql.key")) else {
        return Err(unusable(&cert, "there is no key for it; name it as sslkey"));
    };
    let about = std::fs::metadata(&key).map_err(|error| unusable(&key, error))?;
    // The rule of libpq: nobody else, or root's and read by a group.
    let others = if about.uid() == 0 { 0o027 } else { 0o077 };
    if about.mode() & others != 0 {
        return Err(unusable(&key, "others may read it; its permissions should be 0600"));
    }
    let chain = certificates(&cert)?;
    let der = PrivateKeyDer::from_pem_file(&key).map_err(|error| match error {
        pem::Error::NoItemsFound => unusable(&key, "it holds no key, or one that is encrypted"),
        error => unusable(&key, plain(&error)),
    })?;
    let signing = provider.key_provider.load_private_key(der).map_err(|error| unusable(&key, error))?;
    Ok(Some(CertifiedKey::new(chain, signing)))
}

/// Looks at a server's certificate as far as `sslmode` says.
#[derive(Debug)]
struct Verifier {
    trusted: Option<Trusted>,
    has_name: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(trusted) = &self.trusted else { return Ok(ServerCertVerified::assertion()) };
        if trusted.given.iter().any(|given| given == certificate) {
            // A server that signed for itself, and is trusted by that very certificate: there is no chain to look at.
            is_valid(certificate, now)?;
        } else {
            let (roots, all) = (&trusted.roots, self.algorithms.all);
            let parsed = ParsedCertificate::try_from(certificate)?;
            verify_server_cert_signed_by_trust_anchor(&parsed, roots, between, now, all)?;
        }
        if self.has_name {
            verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    /// As rustls does it, for certificates of any version.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let certificate = Certificate::read(certificate).ok_or(CertificateError::BadEncoding)?;
        let (_, candidates) =
            self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme).ok_or_else(bad)?;
        let mut fitting = candidates.iter().filter(|one| one.public_key_alg_id().as_ref() == certificate.key_algorithm);
        if fitting.any(|one| one.verify_signature(certificate.key, message, signed.signature()).is_ok()) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        Err(bad())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let certificate = Certificate::read(certificate).ok_or(CertificateError::BadEncoding)?;
        let key = SubjectPublicKeyInfoDer::from(certificate.key_info);
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn bad() -> Error {
    CertificateError::BadSignature.into()
}

fn is_valid(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let (first, last) = Certificate::read(certificate).ok_or(CertificateError::BadEncoding)?.valid;
    let now = i64::try_from(now.as_secs()).ok().and_then(|now| jiff::Timestamp::from_second(now).ok());
    let now = now.ok_or(Error::FailedToGetCurrentTime)?.strftime("%Y%m%d%H%M%S").to_string();
    if now < first {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > last {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// The certificate's hint for SNI and verification: a name, or the address.
pub(crate) fn server_name(name: &str, choice: &TlsChoice) -> io::Result<ServerName<'static>> {
    match ServerName::try_from(name.to_owned()) {
        Ok(name) => Ok(name),
        Err(_) if choice.mode == SslMode::VerifyFull => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "the host's name is none that a certificate can have"))
        }
        // Whatever name it is, it is not looked at.
        Err(_) => ServerName::try_from("postgresql.invalid").map_err(io::Error::other),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::{CertificateDer, UnixTime};
    use rustls::{CertificateError, Error};

    use super::{is_valid, server_name};
    use crate::Address;
    use crate::certificate::tests::certificate;

    #[test]
    fn a_certificate_that_is_trusted_by_itself_ends_like_others() {
        let der = CertificateDer::from(certificate(&["-newkey", "rsa:2048", "-days", "2"]));
        let now = UnixTime::now().as_secs();
        let at = |seconds| is_valid(&der, UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
        assert_eq!(at(now + 10), Ok(()));
        assert_eq!(at(now + 3 * 86400), Err(Error::InvalidCertificate(CertificateError::Expired)));
        assert_eq!(at(now - 86400), Err(Error::InvalidCertificate(CertificateError::NotValidYet)));
    }

    #[test]
    fn a_name_no_certificate_can_have_is_only_refused_where_it_is_looked_at() {
        let choice = |mode| Address::parse(&format!("postgresql://u@h?sslmode={mode}")).unwrap().tls;
        for name in ["db.test", "10.0.0.1", "::1"] {
            assert_eq!(server_name(name, &choice("verify-full")).unwrap().to_str(), name);
        }
        assert!(server_name("a b", &choice("verify-full")).is_err());
        assert!(server_name("a b", &choice("verify-ca")).is_ok());
    }
}
