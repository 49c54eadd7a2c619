//! `Restore`: one recovery point of an application brought back, as a plan that is shown and then confirmed.
//!
//! It is planned as soon as it is there, and nothing is touched before `spec.confirm` holds the digest of that plan. What is
//! asked for cannot be changed afterwards: another wish is another object.

#![expect(unreachable_pub, reason = "the derives repeat the visibility out of place")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The condition that holds once there is a plan.
pub const PLANNED: &str = "Planned";

/// The condition that holds once a restore is done.
pub const RESTORED: &str = "Restored";

/// What is to be restored, and where.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "windlass.dev",
    version = "v1alpha1",
    kind = "Restore",
    plural = "restores",
    singular = "restore",
    namespaced,
    status = "RestoreStatus",
    derive = "PartialEq",
    doc = "One recovery point of an application brought back: planned when it is made, run when its plan is confirmed.",
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && self.metadata.name.size() <= 50").message("metadata.name is the beginning of other names: at most 50 characters of a-z, 0-9 and `-`, the first a letter, the last not `-`"),
    validation = Rule::new("!(has(self.spec.point) && has(self.spec.at))").message("spec.point and spec.at exclude each other"),
    validation = Rule::new("self.spec.from == oldSelf.spec.from && has(self.spec.into) == has(oldSelf.spec.into) && (!has(self.spec.into) || self.spec.into == oldSelf.spec.into) && has(self.spec.point) == has(oldSelf.spec.point) && (!has(self.spec.point) || self.spec.point == oldSelf.spec.point) && has(self.spec.at) == has(oldSelf.spec.at) && (!has(self.spec.at) || self.spec.at == oldSelf.spec.at) && has(self.spec.notes) == has(oldSelf.spec.notes) && (!has(self.spec.notes) || self.spec.notes == oldSelf.spec.notes) && has(self.spec.checks) == has(oldSelf.spec.checks) && (!has(self.spec.checks) || self.spec.checks == oldSelf.spec.checks) && has(self.spec.undo) == has(oldSelf.spec.undo) && (!has(self.spec.undo) || self.spec.undo == oldSelf.spec.undo)").message("what is asked for stands: only spec.confirm and spec.old can be set later; another wish is another Restore"),
    validation = Rule::new("!has(oldSelf.spec.confirm) || (has(self.spec.confirm) && self.spec.confirm == oldSelf.spec.confirm) || !has(oldSelf.status) || !has(oldSelf.status.digest) || oldSelf.spec.confirm != oldSelf.status.digest").message("the plan was confirmed, and is carried out: spec.old puts back what was there"),
    printcolumn(name = "From", type_ = "string", json_path = ".spec.from.kryton"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.step"),
    printcolumn(name = "Point-Time", type_ = "date", json_path = ".status.pointTime"),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.digest", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct RestoreSpec {
    /// The application whose recovery point is restored.
    pub from: Application,
    /// The application it is restored into, in the place of what it has: the same one where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub into: Option<Application>,
    /// The recovery point, by its identifier. Where neither it nor `at` is given, the newest complete one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9A-HJKMNP-TV-Z]{26}$"))]
    pub point: Option<String>,
    /// The newest complete recovery point at or before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub at: Option<String>,
    /// What becomes of the notes. They stay as they are where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<Notes>,
    /// What must hold afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checks: Option<Checks>,
    /// How long what was there before stays, so that it can be put back: `72h`. It is removed then. Without it, it stays
    /// until `old` says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+(y|w|d|h|m|s|ms))+$')").message("a duration is expected, such as `72h`; without it the old copy stays"))]
    #[schemars(length(max = 32))]
    pub undo: Option<String>,
    /// The digest of the plan, as `status.digest` tells it: that very plan is then carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9a-f]{64}$"))]
    pub confirm: Option<String>,
    /// What is to become of what was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Old>,
}

/// An application of the same namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Application {
    /// A `Kryton`, by its name.
    #[schemars(length(min = 1, max = 40))]
    pub kryton: String,
}

/// What becomes of the notes.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notes {
    /// The VolumeSnapshot from which a new volume is made. The volume that is there stays.
    #[schemars(length(min = 1, max = 253))]
    pub volume_snapshot: String,
}

/// What must hold of what was restored.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checks {
    /// Queries to the database, before anybody uses it; the first column of the first row must be true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 4096)))]
    pub sql: Vec<String>,
    /// A query that names files of the notes in its first column, the newest first. Those that are missing are told, and are
    /// no failure. `select path from notes order by updated_at desc` where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub files: Option<String>,
    /// Paths the server must answer with a 2xx status, within a minute after its start. `/api/version` where nothing is said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 1024), regex(pattern = r"^/[^ ]*$")))]
    pub http: Vec<String>,
}

/// What is to become of what was there before a restore.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Old {
    /// It is put back; a restore that is under way is broken off.
    PutBack,
    /// It is deleted, and can no longer be put back. Of a restore that was put back, what had been restored is deleted.
    Remove,
    /// Putting back is given up, where it is tried again and again and cannot succeed.
    GiveUp,
}

/// How a restore stands.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreStatus {
    /// Its identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// How it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// What is being done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_started: Option<String>,
    /// The recovery point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<String>,
    /// The moment it stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point_time: Option<String>,
    /// The plan's digest: what `spec.confirm` takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The plan: exactly what is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub plan: Option<Map<String, Value>>,
    /// What it does to what is there, as that was when it was planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub impact: Option<Map<String, Value>>,
    /// When it was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// Why what was there before is put back, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Whether the application was stopped, or was about to be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// Whether the application has run with what was restored: then it is kept when it is put back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub used: bool,
    /// Whether what had been restored is kept, after it was put back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// Whether putting back what was there before was given up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub given_up: bool,
    /// The restored database, by its identifier in the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<i64>,
    /// The claim of the notes that had been set by an earlier restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_before: Option<String>,
    /// Until when what was there before can be put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_until: Option<String>,
    /// What held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checked: Vec<String>,
    /// What a person should know: files that are missing, what was left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What holds and what does not, by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// How a restore stands.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It is being planned.
    Planning,
    /// Its plan waits to be confirmed.
    Planned,
    /// It cannot be done: nothing was touched.
    Refused,
    /// The confirmed plan is being carried out.
    Running,
    /// It is done, and what was there before can be put back.
    Restored,
    /// What was there before is being put back.
    PuttingBack,
    /// It failed, and what was there before is there again.
    Failed,
    /// What was there before is there again, as it was asked for.
    PutBack,
    /// It is done, and what was there before is gone.
    Final,
}

/// What is being done.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// The plan is made once more, and has to be the same.
    Look,
    /// The volume of the notes is made of its snapshot.
    Volume,
    /// The application is stopped.
    Stop,
    /// The database that is there is set aside, and that of the point is laid down beside it and checked.
    LayDown,
    /// The restored database gets the name.
    Switch,
    /// The application is started.
    Start,
    /// The application is asked whether it works.
    Check,
    /// On the way back: the application is stopped.
    StopAgain,
    /// On the way back: the database that was set aside gets its name again.
    PutBack,
    /// On the way back: the application is started, with the volume it had.
    StartAgain,
    /// What was set aside is deleted.
    Remove,
}

fn anything(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}
