//! Parts of uploads that died: invisible, but stored and paid for.
//!
//! `object_store` cannot list them, so for S3 the two calls are signed here (`ListMultipartUploads` and
//! `AbortMultipartUpload` of the S3 API). In a directory they are the files an upload writes to before it is
//! renamed: `<name>#<number>`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use jiff::Timestamp;
use object_store::ClientOptions;
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody};
use serde::Deserialize;

use super::wire::Wire;
use super::{Key, Store, StoreError};
use crate::random;

/// The folders anything is written into.
const FOLDERS: [&str; 10] =
    ["keys", "writers", "points", "runs", "verified", "holds", "dumps", "files", "live", "evidence"];

/// The first wait before a request is sent again; each is twice the one before.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// The last: together they take up to half a minute.
const LAST_WAIT: Duration = Duration::from_secs(16);

/// An upload that was begun and neither finished nor given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadUpload {
    /// What it was to become.
    pub key: String,
    /// When it was begun, by the store's clock; in a directory, when it was last written to.
    pub since: Timestamp,
    handle: String,
}

/// What signs requests of our own to a bucket.
pub(super) struct Bucket {
    client: HttpClient,
    credential: AwsCredential,
    region: String,
    /// `https://server/bucket` or `https://bucket.server`.
    address: String,
}

impl Bucket {
    pub(super) fn new(
        options: &ClientOptions,
        credential: AwsCredential,
        region: &str,
        address: String,
    ) -> object_store::Result<Arc<Self>> {
        let client = Wire.connect(options)?;
        Ok(Arc::new(Self { client, credential, region: region.to_owned(), address }))
    }

    /// Sends a request, again where the server is overloaded or does not answer: it changes nothing to ask twice.
    async fn send(&self, method: &str, path_and_query: &str) -> Result<String, object_store::Error> {
        let mut wait = FIRST_WAIT;
        loop {
            match self.send_once(method, path_and_query).await {
                Err(object_store::Error::Generic { .. }) if wait <= LAST_WAIT => {
                    // Half of it is jitter, so that those who were refused together do not come back together.
                    let jitter = u32::from_le_bytes(random::bytes().unwrap_or_default());
                    tokio::time::sleep(wait / 2 + wait.mul_f64(f64::from(jitter) / f64::from(u32::MAX) / 2.0)).await;
                    wait *= 2;
                }
                other => return other,
            }
        }
    }

    async fn send_once(&self, method: &str, path_and_query: &str) -> Result<String, object_store::Error> {
        let failed =
            |source: Box<dyn std::error::Error + Send + Sync>| object_store::Error::Generic { store: "S3", source };
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method.parse().map_err(|e| failed(Box::new(e)))?;
        let address = format!("{}{path_and_query}", self.address);
        *request.uri_mut() = address.parse().map_err(|e| failed(Box::new(e)))?;
        AwsAuthorizer::new(&self.credential, "s3", &self.region).try_authorize(&mut request, None)?;
        let response = self.client.execute(request).await.map_err(|e| failed(Box::new(e)))?;
        let status = response.status();
        let body: Vec<Bytes> =
            response.into_body().bytes_stream().try_collect().await.map_err(|e| failed(Box::new(e)))?;
        if status.is_success() {
            return String::from_utf8(body.concat()).map_err(|e| failed(Box::new(e)));
        }
        let source = format!("it answered {status}").into();
        let path = path_and_query.to_owned();
        Err(match status.as_u16() {
            403 => object_store::Error::PermissionDenied { path, source },
            404 => object_store::Error::NotFound { path, source },
            _ => object_store::Error::Generic { store: "S3", source },
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Uploads {
    #[serde(default)]
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_upload_id_marker: Option<String>,
    #[serde(default)]
    upload: Vec<Listed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    key: String,
    upload_id: String,
    initiated: Timestamp,
}

impl Store {
    /// Uploads below the root that were begun and neither finished nor given up. Some are still at work: their age tells.
    pub async fn dead_uploads(&self) -> Result<Vec<DeadUpload>, StoreError> {
        let failed = |source| StoreError::of("list the unfinished uploads of", &Key::root(), self.location(), source);
        if let Some(folder) = self.directory() {
            let mut found = Vec::new();
            walk(folder, folder, &mut found)
                .map_err(|e| failed(object_store::Error::Generic { store: "file", source: e.into() }))?;
            return Ok(found);
        }
        let Some(bucket) = &self.bucket else { return Ok(Vec::new()) };
        let prefix = if self.root.is_empty() { String::new() } else { format!("{}/", self.root) };
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let query = format!("?{after}prefix={}&uploads=", Key::encode(&prefix));
            let page = bucket.send("GET", &query).await.map_err(failed)?;
            let page: Uploads = quick_xml::de::from_str(&page)
                .map_err(|e| failed(object_store::Error::Generic { store: "S3", source: e.into() }))?;
            let ours = |upload: Listed| {
                let key = upload.key.strip_prefix(&prefix)?.to_owned();
                Some(DeadUpload { key, since: upload.initiated, handle: upload.upload_id })
            };
            found.extend(page.upload.into_iter().filter_map(ours));
            match (page.is_truncated, page.next_key_marker, page.next_upload_id_marker) {
                (true, Some(key), Some(id)) => {
                    after = format!("key-marker={}&upload-id-marker={}&", Key::encode(&key), Key::encode(&id));
                }
                _ => return Ok(found),
            }
        }
    }

    /// Removes the parts of an upload that died.
    pub async fn remove_dead_upload(&self, upload: &DeadUpload) -> Result<(), StoreError> {
        let key = Key::foreign(&upload.key);
        let failed = |source| StoreError::of("remove the unfinished upload of", &key, self.location(), source);
        if let Some(folder) = self.directory() {
            return match std::fs::remove_file(folder.join(&upload.handle)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(failed(object_store::Error::Generic { store: "file", source: error.into() }))
                }
                _ => Ok(()),
            };
        }
        let Some(bucket) = &self.bucket else { return Ok(()) };
        let root = if self.root.is_empty() { String::new() } else { format!("{}/", self.root) };
        let path: Vec<String> = format!("{root}{}", upload.key).split('/').map(Key::encode).collect();
        let request = format!("/{}?uploadId={}", path.join("/"), Key::encode(&upload.handle));
        match bucket.send("DELETE", &request).await {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Files that an upload writes to: their name ends in `#` and digits.
fn walk(root: &Path, folder: &Path, found: &mut Vec<DeadUpload>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(root, &entry.path(), found)?;
            continue;
        }
        let path: PathBuf = entry.path();
        let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        let Some((key, number)) = relative.rsplit_once('#') else { continue };
        // Only where we upload, and only names of ours: a file of someone else's stays.
        let ours = key.parse::<Key>().is_ok_and(|key| FOLDERS.contains(&key.segments().next().unwrap_or_default()));
        if ours && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) {
            // It was finished, or given up, since it was listed.
            let Ok(meta) = entry.metadata() else { continue };
            let since = meta.modified()?.try_into().unwrap_or(Timestamp::UNIX_EPOCH);
            found.push(DeadUpload { key: key.to_owned(), since, handle: relative.clone() });
        }
    }
    Ok(())
}
