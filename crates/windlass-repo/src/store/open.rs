//! Opens the store the settings describe.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AwsCredential, Checksum, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, Certificate, ClientOptions, RetryConfig};
use secrecy::{ExposeSecret, SecretString};
use windlass_core::repository::{Place, S3};

use super::dead_upload::Bucket;
use super::wire::Wire;
use super::{Store, StoreError};
use crate::secret::{self, SecretError};

/// A store that could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A credential is not to be had.
    #[error(transparent)]
    Secret(SecretError),
    /// The settings or the place are wrong.
    #[error(transparent)]
    Store(StoreError),
}

impl windlass_core::diagnose::Diagnose for OpenError {
    fn code(&self) -> &'static str {
        self.inner().code()
    }

    fn reason(&self) -> &'static str {
        self.inner().reason()
    }

    fn outcome(&self) -> windlass_core::diagnose::Outcome {
        windlass_core::diagnose::Outcome::CouldNotRun
    }

    fn hints(&self) -> Vec<String> {
        self.inner().hints()
    }
}

impl OpenError {
    fn inner(&self) -> &dyn windlass_core::diagnose::Diagnose {
        match self {
            Self::Secret(error) => error,
            Self::Store(error) => error,
        }
    }
}

/// Where a place is, as a URL people would write: [`Store::location`] once it is open.
pub fn location_of(place: &Place) -> String {
    match place {
        Place::Directory(path) => format!("file://{}", path.display()),
        Place::S3(s3) => location_of_bucket(s3),
    }
}

fn location_of_bucket(s3: &S3) -> String {
    if s3.prefix.is_empty() { format!("s3://{}", s3.bucket) } else { format!("s3://{}/{}", s3.bucket, s3.prefix) }
}

/// Opens a store; no request is sent yet. A directory must be there already.
pub fn open(place: &Place) -> Result<Store, OpenError> {
    match place {
        Place::Directory(path) => {
            let location = location_of(place);
            let wrong = |why: String| OpenError::Store(StoreError::Open { store: location.clone(), why });
            if !path.is_dir() {
                return Err(wrong("there is no such folder".into()));
            }
            let files = LocalFileSystem::new_with_prefix(path)
                .map_err(|e| wrong(windlass_core::diagnose::chain(&e)))?
                .with_fsync(true);
            Ok(Store { local: Some(path.clone()), ..Store::over(Arc::new(files), "", &location) })
        }
        Place::S3(s3) => open_bucket(s3),
    }
}

/// Opens a place in a bucket; no request is sent yet.
pub fn open_bucket(s3: &S3) -> Result<Store, OpenError> {
    let access_key = secret::resolve(&s3.access_key).map_err(OpenError::Secret)?;
    let secret_key = secret::resolve(&s3.secret_key).map_err(OpenError::Secret)?;
    open_bucket_with(s3, &Credentials { access_key, secret_key }).map_err(OpenError::Store)
}

/// What opens a bucket.
pub struct Credentials {
    /// The access key.
    pub access_key: SecretString,
    /// The secret key.
    pub secret_key: SecretString,
}

/// Opens a place in a bucket with credentials that were fetched elsewhere; where the settings say they are is not asked.
pub fn open_bucket_with(s3: &S3, credentials: &Credentials) -> Result<Store, StoreError> {
    let location = location_of_bucket(s3);
    let wrong = |why: String| StoreError::Open { store: location.clone(), why };
    let Credentials { access_key, secret_key } = credentials;
    let region = s3.region.as_deref().unwrap_or("us-east-1");
    let options = client(s3).map_err(wrong)?;
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&s3.bucket)
        .with_region(region)
        .with_virtual_hosted_style_request(!s3.path_style)
        .with_access_key_id(access_key.expose_secret())
        .with_secret_access_key(secret_key.expose_secret())
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_checksum_algorithm(Checksum::SHA256)
        // One by one, a refusal is told from an outage.
        .with_disable_bulk_delete(true)
        .with_http_connector(Wire)
        .with_retry(retry(PATIENCE))
        .with_client_options(options.clone());
    if let Some(endpoint) = &s3.endpoint {
        // With the bucket in the host, object_store takes the endpoint as it stands.
        let endpoint_of_it = if s3.path_style { endpoint.clone() } else { address(s3, region) };
        builder = builder.with_endpoint(endpoint_of_it).with_allow_http(endpoint.starts_with("http://"));
    }
    let failed = |e: object_store::Error| wrong(windlass_core::diagnose::chain(&e));
    let at_first = builder.clone().with_retry(retry(PATIENCE_AT_FIRST)).build().map_err(failed)?;
    let objects = builder.build().map_err(failed)?;
    let credential = AwsCredential {
        key_id: access_key.expose_secret().to_owned(),
        secret_key: secret_key.expose_secret().to_owned(),
        token: None,
    };
    let allow_http = s3.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let bucket =
        Bucket::new(&options.with_allow_http(allow_http), credential, region, address(s3, region)).map_err(failed)?;
    Ok(Store {
        bucket: Some(bucket),
        at_first: Some(Arc::new(at_first)),
        ..Store::over(Arc::new(objects), &s3.prefix, &location)
    })
}

/// Where the bucket answers.
fn address(s3: &S3, region: &str) -> String {
    let endpoint = s3.endpoint.clone().unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
    let endpoint = endpoint.trim_end_matches('/');
    match endpoint.split_once("://") {
        Some((scheme, host)) if !s3.path_style => format!("{scheme}://{}.{host}", s3.bucket),
        _ => format!("{endpoint}/{}", s3.bucket),
    }
}

/// Half a minute to connect; two minutes without a byte is a dead connection; a whole request may take long.
fn client(s3: &S3) -> Result<ClientOptions, String> {
    let mut options = ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(30))
        .with_timeout(Duration::from_mins(10))
        .with_read_timeout(Duration::from_mins(2));
    if let Some(path) = &s3.ca {
        let pem = std::fs::read(path).map_err(|e| format!("read the CA file `{}`: {e}", path.display()))?;
        let bundle = Certificate::from_pem_bundle(&pem)
            .map_err(|e| format!("read the CA file `{}`: {}", path.display(), windlass_core::diagnose::chain(&e)))?;
        for certificate in bundle {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

/// How long a request is sent again: long enough for a store's restart, short enough for a person.
const PATIENCE: Duration = Duration::from_mins(1);

/// The same for the first request, when nothing is under way and an address may be wrong.
const PATIENCE_AT_FIRST: Duration = Duration::from_secs(10);

/// Exponential, with jitter.
fn retry(patience: Duration) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(15),
            base: 2.0,
        },
        max_retries: 1000,
        retry_timeout: patience,
    }
}
