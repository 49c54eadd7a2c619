//! The JSON documents of a base backup. They are stored as they are: neither compressed nor sealed.
//!
//! Read: fields that may be null or missing are options, fields that nobody knows are passed over. Written: what stock
//! `wal-g` writes, in its order, so that it restores, lists, marks and deletes what was written here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use windlass_core::wal::Lsn;

use super::{BackupName, WalgError};

/// How `wal-g` says its times are to be read.
const DATE_FORMAT: &str = "%Y-%m-%dT%H:%M:%S.%fZ";

/// What a base backup of changes stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The backup before it, which may be one of changes too.
    pub from: BackupName,
    /// The full backup at the chain's end.
    pub full: BackupName,
    /// Where the backup before it starts.
    pub start: Lsn,
    /// How many backups of changes there are up to this one.
    pub count: u32,
}

/// Where a tablespace lay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its folder, an absolute path on the cluster's machine.
    #[serde(rename = "loc")]
    pub location: String,
    /// The link to it, below the data folder: `pg_tblspc/16384`.
    pub link: String,
}

/// The tablespaces of a cluster that has some beside its data folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct Spec {
    /// The data folder.
    pub base_prefix: String,
    /// By their oid.
    pub tablespaces: BTreeMap<u32, Tablespace>,
}

impl Spec {
    /// The folders the tablespaces lay in, by their oid.
    pub fn locations(&self) -> BTreeMap<u32, PathBuf> {
        self.tablespaces.iter().map(|(oid, tablespace)| (*oid, PathBuf::from(&tablespace.location))).collect()
    }
}

impl Serialize for Spec {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Field<'a> {
            Place(&'a Tablespace),
            Text(&'a str),
            List(Vec<String>),
        }
        // In the order of Go's maps: by name.
        let mut fields: BTreeMap<String, Field<'_>> = BTreeMap::new();
        fields.extend(self.tablespaces.iter().map(|(oid, place)| (oid.to_string(), Field::Place(place))));
        fields.insert("base_prefix".to_owned(), Field::Text(&self.base_prefix));
        let oids = self.tablespaces.keys().map(ToString::to_string).collect();
        fields.insert("tablespaces".to_owned(), Field::List(oids));
        fields.serialize(to)
    }
}

impl TryFrom<Map<String, Value>> for Spec {
    type Error = serde_json::Error;

    fn try_from(mut map: Map<String, Value>) -> Result<Self, serde_json::Error> {
        let text = |value: Option<Value>| value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default();
        let base_prefix = text(map.remove("base_prefix"));
        let places = map.into_iter().filter_map(|(oid, place)| Some((oid.parse().ok()?, place)));
        let tablespaces =
            places.map(|(oid, place)| Ok((oid, serde_json::from_value(place)?))).collect::<Result<_, _>>()?;
        Ok(Self { base_prefix, tablespaces })
    }
}

/// The sentinel: what restoring a base backup needs. Its presence is what makes the backup one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "RawSentinel", try_from = "RawSentinel")]
pub struct Sentinel {
    /// Where it starts: replay begins there. Absent, no backup of changes can be taken on top.
    pub start: Option<Lsn>,
    /// Where it is consistent: replay must get there.
    pub finish: Option<Lsn>,
    /// What it stands on; `None` for a full one.
    pub delta: Option<Delta>,
    /// The server's `server_version_num`, such as 150018.
    pub pg_version: u32,
    /// The cluster's identifier.
    pub system_identifier: Option<u64>,
    /// Bytes of its archives before compression.
    pub uncompressed_size: i64,
    /// Bytes as stored.
    pub compressed_size: i64,
    /// Bytes of the data folder.
    pub data_size: i64,
    /// Its tablespaces, where the cluster has any.
    pub spec: Option<Spec>,
    /// What whoever took it attached.
    pub user_data: Option<Value>,
    /// Whether there is no [`FilesMetadata`].
    pub without_files_metadata: bool,
    /// When it began.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// The machine it was taken on.
    pub hostname: String,
    /// The data folder there.
    pub data_dir: String,
    /// Whether retention leaves it alone.
    pub is_permanent: bool,
}

impl Sentinel {
    /// From the object's bytes.
    pub fn read(backup: &BackupName, bytes: &[u8]) -> Result<Self, WalgError> {
        read(&backup.sentinel(), bytes)
    }

    /// The object's bytes.
    pub fn write(&self) -> Result<Vec<u8>, WalgError> {
        write(self)
    }

    /// The major version of the server.
    pub fn major(&self) -> u32 {
        self.pg_version / 10_000
    }

    /// What lists read.
    pub fn metadata(&self) -> Metadata {
        Metadata {
            started: self.started.unwrap_or_default(),
            finished: self.finished.unwrap_or_default(),
            date_format: DATE_FORMAT.to_owned(),
            hostname: self.hostname.clone(),
            data_dir: self.data_dir.clone(),
            pg_version: self.pg_version,
            start: self.start,
            finish: self.finish,
            is_permanent: self.is_permanent,
            system_identifier: self.system_identifier,
            uncompressed_size: self.uncompressed_size,
            compressed_size: self.compressed_size,
            user_data: self.user_data.clone(),
        }
    }
}

/// The sentinel as it is in the store: a field less strict than it is.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawSentinel {
    #[serde(rename = "LSN", default, with = "number")]
    start: Option<Lsn>,
    #[serde(rename = "DeltaLSN", default, with = "number", skip_serializing_if = "Option::is_none")]
    delta_start: Option<Lsn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delta_from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delta_full_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delta_count: Option<u32>,
    pg_version: u32,
    #[serde(rename = "FinishLSN", default, with = "number")]
    finish: Option<Lsn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    system_identifier: Option<u64>,
    #[serde(default)]
    uncompressed_size: Option<i64>,
    #[serde(default)]
    compressed_size: Option<i64>,
    #[serde(default)]
    data_catalog_size: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spec: Option<Spec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user_data: Option<Value>,
    #[serde(default, skip_serializing_if = "is_not")]
    files_metadata_disabled: Option<bool>,
    /// Of a storage engine that is not looked after here; `wal-g` writes it always.
    #[serde(default)]
    chkp_num: Option<u32>,
    #[serde(default)]
    version: Option<u32>,
    #[serde(default)]
    start_time: Option<Timestamp>,
    #[serde(default)]
    finish_time: Option<Timestamp>,
    #[serde(default)]
    date_fmt: Option<String>,
    #[serde(default)]
    hostname: Option<String>,
    #[serde(default)]
    data_dir: Option<String>,
    #[serde(default)]
    is_permanent: Option<bool>,
}

#[expect(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_not(value: &Option<bool>) -> bool {
    *value != Some(true)
}

impl From<Sentinel> for RawSentinel {
    fn from(sentinel: Sentinel) -> Self {
        let delta = sentinel.delta.as_ref();
        Self {
            start: sentinel.start,
            delta_start: delta.map(|delta| delta.start),
            delta_from: delta.map(|delta| delta.from.to_string()),
            delta_full_name: delta.map(|delta| delta.full.to_string()),
            delta_count: delta.map(|delta| delta.count),
            pg_version: sentinel.pg_version,
            finish: sentinel.finish,
            system_identifier: sentinel.system_identifier,
            uncompressed_size: Some(sentinel.uncompressed_size),
            compressed_size: Some(sentinel.compressed_size),
            data_catalog_size: Some(sentinel.data_size),
            spec: sentinel.spec,
            user_data: sentinel.user_data,
            files_metadata_disabled: Some(sentinel.without_files_metadata),
            chkp_num: None,
            version: Some(2),
            start_time: Some(sentinel.started.unwrap_or_default()),
            finish_time: Some(sentinel.finished.unwrap_or_default()),
            date_fmt: Some(DATE_FORMAT.to_owned()),
            hostname: Some(sentinel.hostname),
            data_dir: Some(sentinel.data_dir),
            is_permanent: Some(sentinel.is_permanent),
        }
    }
}

impl TryFrom<RawSentinel> for Sentinel {
    type Error = String;

    fn try_from(raw: RawSentinel) -> Result<Self, String> {
        let name = |name: String| name.parse::<BackupName>().map_err(|error| error.to_string());
        let delta = match (raw.delta_start, raw.delta_from, raw.delta_full_name, raw.delta_count) {
            (None, None, None, None) => None,
            (Some(start), Some(from), Some(full), Some(count)) => {
                Some(Delta { from: name(from)?, full: name(full)?, start, count })
            }
            _ => return Err("it says only in part which backup it stands on".to_owned()),
        };
        Ok(Self {
            start: raw.start,
            finish: raw.finish,
            delta,
            pg_version: raw.pg_version,
            system_identifier: raw.system_identifier,
            uncompressed_size: raw.uncompressed_size.unwrap_or_default(),
            compressed_size: raw.compressed_size.unwrap_or_default(),
            data_size: raw.data_catalog_size.unwrap_or_default(),
            spec: raw.spec,
            user_data: raw.user_data,
            without_files_metadata: raw.files_metadata_disabled.unwrap_or_default(),
            started: raw.start_time,
            finished: raw.finish_time,
            hostname: raw.hostname.unwrap_or_default(),
            data_dir: raw.data_dir.unwrap_or_default(),
            is_permanent: raw.is_permanent.unwrap_or_default(),
        })
    }
}

/// What `wal-g backup-list --detail`, `backup-mark` and `delete` read of a base backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// When it began.
    #[serde(rename = "start_time")]
    pub started: Timestamp,
    /// When it ended.
    #[serde(rename = "finish_time")]
    pub finished: Timestamp,
    /// How its times are to be read.
    #[serde(rename = "date_fmt", default)]
    pub date_format: String,
    /// The machine it was taken on.
    #[serde(default)]
    pub hostname: String,
    /// The data folder there.
    #[serde(default)]
    pub data_dir: String,
    /// The server's `server_version_num`.
    pub pg_version: u32,
    /// Where it starts.
    #[serde(rename = "start_lsn", default, with = "number")]
    pub start: Option<Lsn>,
    /// Where it is consistent.
    #[serde(rename = "finish_lsn", default, with = "number")]
    pub finish: Option<Lsn>,
    /// Whether retention leaves it alone.
    #[serde(default)]
    pub is_permanent: bool,
    /// The cluster's identifier.
    #[serde(default)]
    pub system_identifier: Option<u64>,
    /// Bytes of its archives before compression.
    #[serde(default)]
    pub uncompressed_size: i64,
    /// Bytes as stored.
    #[serde(default)]
    pub compressed_size: i64,
    /// What whoever took it attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<Value>,
}

impl Metadata {
    /// From the object's bytes.
    pub fn read(backup: &BackupName, bytes: &[u8]) -> Result<Self, WalgError> {
        read(&backup.metadata(), bytes)
    }

    /// The object's bytes.
    pub fn write(&self) -> Result<Vec<u8>, WalgError> {
        write(self)
    }
}

/// The files of a base backup, by their names in its archives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FilesMetadata {
    /// Files and folders. Where there are any, nothing else is unpacked. `pg_control` is not among them.
    #[serde(default, deserialize_with = "or_default")]
    pub files: BTreeMap<String, FileDescription>,
    /// What is in which archive.
    #[serde(default, deserialize_with = "or_default")]
    pub tar_file_sets: BTreeMap<String, Vec<String>>,
    /// The databases and their relations, for restores of some of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub databases_by_names: Option<Value>,
}

impl FilesMetadata {
    /// From the object's bytes.
    pub fn read(backup: &BackupName, bytes: &[u8]) -> Result<Self, WalgError> {
        read(&backup.files_metadata(), bytes)
    }

    /// The object's bytes.
    pub fn write(&self) -> Result<Vec<u8>, WalgError> {
        write(self)
    }
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FileDescription {
    /// Whether only the pages that changed are there.
    #[serde(default)]
    pub is_incremented: bool,
    /// Whether nothing of it is there, as it did not change.
    #[serde(default)]
    pub is_skipped: bool,
    /// When it was last changed: the next backup of changes compares it, to the nanosecond.
    #[serde(rename = "MTime")]
    pub modified: Timestamp,
    /// Not used by `wal-g` any more.
    #[serde(default)]
    pub updates_count: u64,
    /// Pages whose checksum was wrong when it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrupt_blocks: Option<CorruptBlocks>,
}

/// Pages whose checksum was wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CorruptBlocks {
    /// How many.
    #[serde(default)]
    pub corrupt_blocks_count: u64,
    /// The first of them.
    #[serde(default, deserialize_with = "or_default")]
    pub some_corrupt_blocks: Vec<u32>,
}

fn read<'a, T: Deserialize<'a>>(object: &str, bytes: &'a [u8]) -> Result<T, WalgError> {
    serde_json::from_slice(bytes)
        .map_err(|error| WalgError::Document { object: object.to_owned(), why: error.to_string() })
}

fn write<T: Serialize>(document: &T) -> Result<Vec<u8>, WalgError> {
    serde_json::to_vec(document).map_err(|error| WalgError::Pack { why: error.to_string() })
}

/// Go writes null for what is empty.
fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// LSNs are numbers here.
mod number {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use windlass_core::wal::Lsn;

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(lsn: &Option<Lsn>, to: S) -> Result<S::Ok, S::Error> {
        lsn.map(|lsn| lsn.0).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Lsn>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(Lsn))
    }
}
