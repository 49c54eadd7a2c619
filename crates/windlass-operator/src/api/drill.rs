//! `Drill`: a rehearsal. A recovery point is restored into a throw-away copy of the application, which is started, checked
//! and removed; what came of it, with the time it took, is on record in the repository.

#![expect(unreachable_pub, reason = "the derives repeat the visibility out of place")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use windlass_core::verification::Verdict;

use super::restore::{Application, Checks, Notes};

/// The condition that holds once a drill is over.
pub const COMPLETE: &str = "Complete";

/// What is to be rehearsed.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "windlass.dev",
    version = "v1alpha1",
    kind = "Drill",
    plural = "drills",
    singular = "drill",
    namespaced,
    status = "DrillStatus",
    derive = "PartialEq",
    doc = "A rehearsal: a recovery point restored into a throw-away copy of the application, checked, measured, and removed.",
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && self.metadata.name.size() <= 60").message("metadata.name is the beginning of other names: at most 60 characters of a-z, 0-9 and `-`, the first a letter, the last not `-`"),
    validation = Rule::new("self.spec == oldSelf.spec").message("a drill is what it was when it was made; another one is another Drill"),
    printcolumn(name = "From", type_ = "string", json_path = ".spec.from.kryton"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Verdict", type_ = "string", json_path = ".status.verdict"),
    printcolumn(name = "RTO", type_ = "string", json_path = ".status.rto"),
    printcolumn(name = "RPO", type_ = "string", json_path = ".status.rpo"),
    printcolumn(name = "Point-Time", type_ = "date", json_path = ".status.pointTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DrillSpec {
    /// The application.
    pub from: Application,
    /// The recovery point, by its identifier; the newest complete one where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9A-HJKMNP-TV-Z]{26}$"))]
    pub point: Option<String>,
    /// The notes: a snapshot of their volume. The copy has none where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<Notes>,
    /// What must hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checks: Option<Checks>,
    /// How long it may take until it is broken off: `1h` where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+(y|w|d|h|m|s|ms))+$')").message("a duration is expected, such as `1h`"))]
    #[schemars(length(max = 32))]
    pub deadline: Option<String>,
}

/// How a drill stands.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrillStatus {
    /// How it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<DrillPhase>,
    /// The throw-away copy, by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<String>,
    /// The recovery point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<String>,
    /// The moment it stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point_time: Option<String>,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// From the beginning until everything was up and checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto: Option<String>,
    /// From the moment the point stands for until the beginning: what would have been lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo: Option<String>,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<DrillVerdict>,
    /// What did not hold, or why nothing could be said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
    /// What held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checked: Vec<String>,
    /// What a person should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The record in the repository, by its identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
    /// What holds and what does not, by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// How a drill stands.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DrillPhase {
    /// The copy is being set up.
    Preparing,
    /// The point is being restored into it.
    Restoring,
    /// The copy is being removed; then it is put on record.
    TearingDown,
    /// It is over.
    Complete,
}

/// What came of a drill.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DrillVerdict {
    /// Everything held.
    Passed,
    /// Something did not.
    Failed,
    /// It could not be said: what the proof needs was not to be had.
    Inconclusive,
}

impl From<Verdict> for DrillVerdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Passed => Self::Passed,
            Verdict::Failed => Self::Failed,
            Verdict::Inconclusive => Self::Inconclusive,
        }
    }
}

impl From<DrillVerdict> for Verdict {
    fn from(verdict: DrillVerdict) -> Self {
        match verdict {
            DrillVerdict::Passed => Self::Passed,
            DrillVerdict::Failed => Self::Failed,
            DrillVerdict::Inconclusive => Self::Inconclusive,
        }
    }
}
