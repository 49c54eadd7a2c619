//! `Kryton`: one installation of the Kryton application, with its backups, snapshots and plugins.
//!
//! Names and meaning of the fields are those of `kryton.azrtydxb.io/v1alpha1` as it was first published; what was added is
//! optional, and its absence means what it meant before.

#![expect(unreachable_pub, reason = "the derives repeat the visibility out of place")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a Kryton is to be.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "kryton.azrtydxb.io",
    version = "v1alpha1",
    kind = "Kryton",
    plural = "krytons",
    singular = "kryton",
    namespaced,
    status = "KrytonStatus",
    derive = "PartialEq",
    doc = "One installation of the Kryton application, with its backups, snapshots and plugins.",
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && self.metadata.name.size() <= 40").message("metadata.name is the name of a Helm release and the beginning of others: at most 40 characters of a-z, 0-9 and `-`, the first a letter, the last not `-`"),
    printcolumn(name = "Version", type_ = "string", json_path = ".spec.version"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Protected", type_ = "string", json_path = ".status.conditions[?(@.type=='Protected')].status"),
    printcolumn(name = "Last-Backup", type_ = "date", json_path = ".status.backup.lastPointTime"),
    printcolumn(name = "Last-Verified", type_ = "date", json_path = ".status.backup.lastVerifiedTime"),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.backup.nextTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct KrytonSpec {
    /// The version of the Kryton server: the tag of its image.
    #[schemars(regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"))]
    pub version: String,
    /// Values for the Helm chart. The names of the release and `image.tag` are set by the operator and win.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub values: Option<Map<String, Value>>,
    /// Backups of the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<Backup>,
    /// Plugins fetched before the server starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub plugins: Vec<Plugin>,
    /// Snapshots of the volume of the notes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
    /// What becomes of the data when the object is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
}

/// Backups of the database.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backup {
    /// When, as a cron expression of five fields, in UTC.
    #[x_kube(validation = Rule::new("self.matches('^ *[-0-9A-Za-z*/,]+( +[-0-9A-Za-z*/,]+){4} *$')").message("a cron expression of five fields is expected, such as `0 3 * * *`; it is in UTC"))]
    #[schemars(length(max = 128))]
    pub schedule: String,
    /// How long dumps are kept: `30d`, `12h`. Without it everything is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == '' || self.matches('^([0-9]+(y|w|d|h|m|s|ms))+$')").message("a duration is expected, such as `30d` or `12h`; without it everything is kept"))]
    #[schemars(length(max = 32))]
    pub retention: Option<String>,
    /// Where dumps are put.
    pub object_store: ObjectStore,
    /// How the database is reached; found in the Secret `<name>-postgresql` where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Connection>,
    /// The image whose `pg_dump` is used; it must be at least as new as the server. `postgres:16` where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
}

/// A place in an S3-compatible object store.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStore {
    /// The bucket. It must be there.
    #[schemars(length(min = 3, max = 255), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"))]
    pub bucket: String,
    /// The server, with its scheme: `https://minio.example.com`.
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/ ]+/?$')").message("the URL of the server is expected, such as `https://minio.example.com`, without a path"))]
    #[schemars(length(max = 1024))]
    pub endpoint: String,
    /// The region; `us-east-1` where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub region: Option<String>,
    /// What the names of objects begin with; `<name>/` where nothing is said. A `/` is added at its end where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == '' || (self.matches('^[A-Za-z0-9_=~-][A-Za-z0-9._=~-]*(/[A-Za-z0-9_=~-][A-Za-z0-9._=~-]*)*/?$'))").message("a prefix is names of A-Z, a-z, 0-9 and `.-_=~` joined by `/`, none of which begins with `.`"))]
    #[schemars(length(max = 512))]
    pub prefix: Option<String>,
    /// The Secret with the keys `OBJECT_STORE_ACCESS_KEY` and `OBJECT_STORE_SECRET_KEY`.
    pub credentials_secret_ref: SecretName,
    /// The Secret with the certificate that the server's is checked against, where it is none of the well-known ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKey>,
    /// Whether the bucket stands in the path rather than in the server's name. True where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
}

/// A Secret of the same namespace.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretName {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A key of a Secret of the same namespace.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretKey {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key; `ca.crt` where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub key: Option<String>,
}

/// How the database is reached. What is given here wins over what the Secret holds.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// The Secret; `<name>-postgresql` where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretName>,
    /// Who wrote the Secret, and so which keys it has; recognised by them where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// The server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub host: Option<String>,
    /// Its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// The role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub user: Option<String>,
    /// The database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub database: Option<String>,
}

/// Who wrote a Secret of a database.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Preset {
    /// Keys named as libpq's variables: `PGHOST`, `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGDATABASE`.
    Variables,
    /// Bitnami's chart: `password` of a role of the application, or `postgres-password`.
    Bitnami,
    /// CloudNativePG: `host`, `port`, `username`, `password`, `dbname`.
    CloudNativePG,
    /// Zalando's operator: `username`, `password`.
    Zalando,
    /// Crunchy's operator: `host`, `port`, `user`, `password`, `dbname`.
    Crunchy,
}

/// A plugin.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plugin {
    /// The name of its file.
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9._-]*$')").message("the name of a file is expected: A-Z, a-z, 0-9 and `._-`, the first a letter or digit"))]
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Where it is fetched from.
    #[x_kube(validation = Rule::new("self.matches('^https?://[^ ]+$')").message("a URL is expected that begins with https:// or http://"))]
    #[schemars(length(max = 2048))]
    pub url: String,
    /// The SHA-256 its bytes must have, in hex.
    #[schemars(regex(pattern = r"^[a-fA-F0-9]{64}$"))]
    pub sha256: String,
}

/// Snapshots of the volume of the notes.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// When, as a cron expression of five fields, in UTC.
    #[x_kube(validation = Rule::new("self.matches('^ *[-0-9A-Za-z*/,]+( +[-0-9A-Za-z*/,]+){4} *$')").message("a cron expression of five fields is expected, such as `0 4 * * *`; it is in UTC"))]
    #[schemars(length(max = 128))]
    pub schedule: String,
    /// How long snapshots are kept: `7d`. Without it all are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == '' || self.matches('^([0-9]+(y|w|d|h|m|s|ms))+$')").message("a duration is expected, such as `7d`; without it everything is kept"))]
    #[schemars(length(max = 32))]
    pub retention: Option<String>,
    /// The class of the snapshots; the cluster's default where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub volume_snapshot_class_name: Option<String>,
}

/// What becomes of the data when the object is deleted.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeletionPolicy {
    /// Volumes, snapshots and dumps stay.
    #[default]
    Retain,
    /// Volumes and snapshots go with it. Dumps stay all the same: they are what is left when everything else is gone.
    Delete,
}

/// What a Kryton was found to be. Fields of others are kept.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct KrytonStatus {
    /// The revision of the Helm release that was applied last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helm_revision: Option<i64>,
    /// The version that was applied last with success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_version: Option<String>,
    /// The backups, as the repository has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupStatus>,
    /// The last look at the database that went well, by what it depended on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight: Option<String>,
    /// What holds and what does not, by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The backups, as the repository has them.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupStatus {
    /// The repository's identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Where it is: `s3://bucket/prefix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Recovery points that are not about to be deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<i64>,
    /// The newest recovery point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_point: Option<String>,
    /// The moment it stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_point_time: Option<String>,
    /// Its dump, as the name of an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_object: Option<String>,
    /// When a point was last verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_verified_time: Option<String>,
    /// How: `stored`, `read` or `restored`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_verified_level: Option<String>,
    /// When the next backup is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_time: Option<String>,
}

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "description": "Values for the Helm chart. The names of the release and `image.tag` are set by the operator and win.",
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
    })
}
