//! Recovery points: what the repository says of one moment of an application.
//!
//! A [`RecoveryPoint`] is the commit record, written last; it names the [`ComponentManifest`] of each of its
//! components by digest, and those name every object they need. Their JSON is part of the repository's format
//! (`docs/reference/repository-format.md`): a field may be added, never renamed or given another meaning.

use std::collections::BTreeMap;
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::evidence::Head;
use crate::id::{PointId, WriterId};
use crate::name::Name;
use crate::wal::{Lsn, SegmentSize, Timeline};

/// The version of the documents below. A reader refuses a greater one.
pub const FORMAT: u32 = 1;

/// The longest a run may take. What is older and named by no commit record is left over from a run that died.
pub const LONGEST_RUN: SignedDuration = SignedDuration::from_hours(24);

/// How the data of a point belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// As after a power cut: files were read while they could change.
    Crash,
    /// Every component is consistent in itself; between them lies the skew.
    Component,
    /// Hooks held the application still while all components were captured.
    Quiesced,
    /// All components stand at one common moment.
    Coordinated,
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Crash => "crash",
            Self::Component => "component",
            Self::Quiesced => "quiesced",
            Self::Coordinated => "coordinated",
        })
    }
}

/// The span of time in which data were captured; an instant where both ends are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The data hold nothing older than this.
    pub from: Timestamp,
    /// The data hold nothing newer than this.
    pub to: Timestamp,
}

impl Window {
    /// From its beginning to its end, in milliseconds.
    pub fn skew_ms(&self) -> i64 {
        i64::try_from(self.to.duration_since(self.from).as_millis()).unwrap_or(i64::MAX)
    }
}

/// From the earliest to the latest of components' windows; `None` where there are no components.
pub fn span(components: &[ComponentSummary]) -> Option<Window> {
    let windows = || components.iter().map(|component| component.window);
    Some(Window { from: windows().map(|w| w.from).min()?, to: windows().map(|w| w.to).max()? })
}

/// The commit record of a recovery point: `points/<application>/<id>.json`, or `<id>.partial.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPoint {
    /// [`FORMAT`].
    pub format: u32,
    /// Its identifier.
    pub id: PointId,
    /// The application it belongs to.
    pub application: Name,
    /// The moment it stands for: the earliest of its components' windows.
    pub at: Timestamp,
    /// When the run began.
    pub started: Timestamp,
    /// When the last component was stored.
    pub finished: Timestamp,
    /// How the components belong together.
    pub consistency: Consistency,
    /// From the earliest to the latest end of the components' windows, in milliseconds.
    pub skew_ms: i64,
    /// Its components, in the order of capture.
    pub components: Vec<ComponentSummary>,
    /// The components that could not be captured; empty in a complete point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<ComponentFailure>,
    /// What a reader should know: hooks that failed after the capture, things left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The newest record of evidence of each of the application's writers when the point was written, so that a chain
    /// that was cut is seen.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub evidence: BTreeMap<WriterId, Head>,
}

impl RecoveryPoint {
    /// Whether every component is there.
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty()
    }

    /// Whether nothing of it was damaged already when it was captured.
    pub fn is_sound(&self) -> bool {
        !self.components.iter().any(|component| component.source_corrupt)
    }

    /// The sum of what its components brought into the repository, in bytes as stored.
    pub fn stored_bytes(&self) -> u64 {
        self.components.iter().map(|c| c.stored_bytes).sum()
    }

    /// The sum of its components' data, in bytes as they would be restored.
    pub fn data_bytes(&self) -> u64 {
        self.components.iter().map(|c| c.data_bytes).sum()
    }

    /// From the earliest to the latest of the components' windows.
    pub fn skew(&self) -> SignedDuration {
        SignedDuration::from_millis(self.skew_ms)
    }
}

/// One component within a recovery point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentSummary {
    /// Its name.
    pub name: Name,
    /// `postgres`, `physical`, `disk` or `action`.
    pub kind: String,
    /// The span in which it was captured.
    pub window: Window,
    /// Bytes this point added to the repository.
    pub stored_bytes: u64,
    /// Bytes of the data themselves.
    pub data_bytes: u64,
    /// SHA-256 of its manifest, `runs/<application>/<point>/component.<component>.json`, in hex.
    pub manifest_sha256: String,
    /// Whether some of it was damaged already when it was captured: pages that are not what their checksums say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub source_corrupt: bool,
}

impl ComponentSummary {
    /// What the point says of a component, whose manifest has this SHA-256, in hex.
    pub fn of(manifest: &ComponentManifest, manifest_sha256: String) -> Self {
        Self {
            name: manifest.component.clone(),
            kind: manifest.data.kind().to_owned(),
            window: manifest.window,
            stored_bytes: manifest.stored_bytes(),
            data_bytes: manifest.data_bytes(),
            manifest_sha256,
            source_corrupt: matches!(&manifest.data, ComponentData::Physical(data) if !data.corrupt.is_empty()),
        }
    }
}

/// A component that could not be captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentFailure {
    /// Its name.
    pub name: Name,
    /// The error's code.
    pub code: String,
    /// What happened and why.
    pub message: String,
}

/// What one component of one point consists of: `runs/<application>/<point>/component.<component>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentManifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The point, and the run that made it.
    pub point: PointId,
    /// The application.
    pub application: Name,
    /// The component.
    pub component: Name,
    /// The span in which it was captured.
    pub window: Window,
    /// How consistent the component is in itself.
    pub consistency: Consistency,
    /// When its capture began and ended.
    pub started: Timestamp,
    /// When its last object was confirmed by the store.
    pub finished: Timestamp,
    /// When all its objects were read back from the store and hashed, where that was done before it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_back: Option<Timestamp>,
    /// The tools that captured it, `pg_dump 15.4` for one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// What a reader should know: what was left out, and why that is no failure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What was captured.
    #[serde(flatten)]
    pub data: ComponentData,
}

impl ComponentManifest {
    /// The objects this component alone needs; a restic repository's objects are shared and not named here.
    pub fn objects(&self) -> Vec<&ObjectRef> {
        match &self.data {
            ComponentData::Postgres(data) => {
                data.databases.iter().map(|d| &d.object).chain(data.globals.as_ref().map(|g| &g.object)).collect()
            }
            ComponentData::Physical(data) => data.objects.iter().chain(&data.wal).collect(),
            ComponentData::Disk(_) => Vec::new(),
            ComponentData::Action(data) => vec![&data.object],
        }
    }

    /// The restic snapshot it needs, in hex, where it has one.
    pub fn snapshot(&self) -> Option<&str> {
        match &self.data {
            ComponentData::Disk(data) => Some(&data.snapshot),
            ComponentData::Postgres(_) | ComponentData::Physical(_) | ComponentData::Action(_) => None,
        }
    }

    /// Bytes the capture added to the repository.
    pub fn stored_bytes(&self) -> u64 {
        match &self.data {
            ComponentData::Disk(data) => data.added_bytes,
            _ => self.objects().iter().map(|o| o.size).sum(),
        }
    }

    /// Bytes of the data as they would be restored.
    pub fn data_bytes(&self) -> u64 {
        match &self.data {
            ComponentData::Disk(data) => data.bytes,
            ComponentData::Physical(data) => data.data_bytes,
            _ => self.objects().iter().map(|o| o.plain_size).sum(),
        }
    }
}

/// One object of the repository: where it is, and what reading it must give. The default stands for what is in none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Its key below the repository's root.
    pub key: String,
    /// Its size in bytes as stored.
    pub size: u64,
    /// SHA-256 of the bytes as stored, in hex.
    pub sha256: String,
    /// Its size in bytes once opened; the same as `size` where it is not sealed.
    pub plain_size: u64,
    /// SHA-256 of the bytes once opened, in hex.
    pub plain_sha256: String,
    /// The age recipient it is sealed to; absent where it is not sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_to: Option<String>,
}

/// What was captured, by strategy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ComponentData {
    /// Databases, by `pg_dump`.
    Postgres(PostgresData),
    /// A server, by a base backup in the layout of WAL-G.
    Physical(PhysicalData),
    /// Directories and files, in a restic snapshot.
    Disk(DiskData),
    /// The output of a command.
    Action(ActionData),
}

impl ComponentData {
    /// The word for it in settings, manifests and on the screen.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Physical(_) => "physical",
            Self::Disk(_) => "disk",
            Self::Action(_) => "action",
        }
    }
}

/// Databases of one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresData {
    /// `server_version_num`, such as `150018`.
    pub server_version: u32,
    /// The databases, each a dump of its own.
    pub databases: Vec<DatabaseDump>,
    /// Roles and settings, by `pg_dumpall --globals-only`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub globals: Option<Globals>,
}

/// A base backup of a server, in `postgres/<application>.<component>/<system identifier>/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhysicalData {
    /// `server_version_num`, such as `150018`.
    pub server_version: u32,
    /// The cluster's identifier: as text, for many a reader of JSON knows no numbers of 64 bits.
    pub system_identifier: String,
    /// Its name: `base_000000010000000000000002`.
    pub backup: String,
    /// The timeline it was taken on.
    pub timeline: Timeline,
    /// Where replay begins.
    pub start: Lsn,
    /// Where it is consistent.
    pub stop: Lsn,
    /// The size of the cluster's WAL segments.
    pub segment_size: SegmentSize,
    /// The role that the cluster was made with, which may do everything.
    pub superuser: String,
    /// Its databases, but templates and those nobody may connect to.
    pub databases: Vec<String>,
    /// Whether archives and WAL are sealed with the keyring's libsodium key.
    pub sealed: bool,
    /// Its objects, the sentinel last.
    pub objects: Vec<ObjectRef>,
    /// The WAL from start to stop, and how its timeline came to be: others may need that too.
    pub wal: Vec<ObjectRef>,
    /// Bytes of its files.
    pub data_bytes: u64,
    /// Where its tablespaces were that are not in the data folder, by their oid.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "by_number")]
    pub tablespaces: BTreeMap<u32, String>,
    /// Settings that lie outside of the data folder, by their paths, in an archive of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<String>,
    /// Pages whose checksums were wrong when they were read, by file and by number in it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub corrupt: BTreeMap<String, Vec<u32>>,
}

/// Reads a map whose keys are numbers. JSON has them as text, which serde takes for a number in all places but those it has to hold back
/// until it knows of which kind a component is.
fn by_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<u32, String>, D::Error> {
    let text = BTreeMap::<String, String>::deserialize(deserializer)?;
    let number = |(key, value): (String, String)| key.parse().map(|key| (key, value)).map_err(Error::custom);
    text.into_iter().map(number).collect()
}

/// The dump of one database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseDump {
    /// The database's name.
    pub name: String,
    /// The dump.
    pub object: ObjectRef,
    /// The moment of the dump's own snapshot, by the server's clock.
    pub snapshot_at: Timestamp,
    /// Encoding, as `pg_encoding_to_char` gives it.
    pub encoding: String,
    /// Locale provider: `libc`, `icu` or `builtin`.
    pub locale_provider: String,
    /// `LC_COLLATE`.
    pub collate: String,
    /// `LC_CTYPE`.
    pub ctype: String,
    /// The ICU or builtin locale, where the provider has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_locale: Option<String>,
    /// The owner.
    pub owner: String,
    /// Extensions and their versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, String>,
    /// Collations of the server's own that columns use, but `default`, `C` and `POSIX`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub collations: Vec<String>,
    /// Rows by table, counted in the dump's own snapshot.
    pub tables: Vec<TableCount>,
    /// Its size on the server's disk, in bytes, as `pg_database_size` gives it.
    pub database_bytes: u64,
}

/// The rows of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableCount {
    /// The schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// Its rows.
    pub rows: u64,
    /// Whether they were counted; otherwise the server's estimate.
    pub exact: bool,
    /// Its bytes on disk, without indexes; 0 where they are not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape serde asks for")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Roles and settings of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Globals {
    /// The SQL script.
    pub object: ObjectRef,
    /// Whether the roles' passwords are in it; reading them takes a superuser.
    pub passwords: bool,
}

/// Directories and files in a restic snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskData {
    /// The snapshot's identifier in the application's restic repository, in hex.
    pub snapshot: String,
    /// The paths captured.
    pub paths: Vec<String>,
    /// Files, links and other entries that are no folders.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Bytes that were new to the repository, as stored.
    pub added_bytes: u64,
}

/// The output of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionData {
    /// What it printed.
    pub object: ObjectRef,
}
