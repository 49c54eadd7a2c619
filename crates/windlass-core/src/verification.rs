//! What was proven about a point, and when: `verified/<application>/<point>/<entry>.json`.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{EntryId, PointId};
use crate::name::Name;

/// How far something was verified. Each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The store confirmed size and checksum.
    Stored,
    /// All bytes were read back and hashed.
    Read,
    /// It was brought up and checked.
    Restored,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stored => "stored",
            Self::Read => "read",
            Self::Restored => "restored",
        })
    }
}

/// What came of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is what it should be.
    Passed,
    /// It could not be said: something that is needed for the proof is not to be had here.
    Inconclusive,
    /// It is not what it should be.
    Failed,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Passed => "passed",
            Self::Inconclusive => "inconclusive",
            Self::Failed => "failed",
        })
    }
}

/// One verification of one point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// The version of this document.
    pub format: u32,
    /// Its identifier.
    pub id: EntryId,
    /// The application.
    pub application: Name,
    /// The point.
    pub point: PointId,
    /// How far it went.
    pub level: Level,
    /// The worst of its components' verdicts.
    pub verdict: Verdict,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// The host it ran on.
    pub host: String,
    /// Each component's verdict.
    pub components: Vec<ComponentVerdict>,
    /// What a drill measured, where it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<DrillReport>,
}

/// What came of the verification of one component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentVerdict {
    /// The component.
    pub name: Name,
    /// What came of it.
    pub verdict: Verdict,
    /// What was found, in words: what is wrong, or what could not be said and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
    /// Bytes read back, as stored.
    pub bytes_read: u64,
    /// How long it took to bring it up and check it, in milliseconds; at the level `restored` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_ms: Option<u64>,
    /// What a restore into a scratch place leaves out, and why that is no failure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// What held: checks that were asked and answered as they should be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checked: Vec<String>,
}

/// What a drill measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillReport {
    /// From the word to begin until everything was up and checked, in milliseconds.
    pub rto_ms: u64,
    /// From the moment the point stands for until the drill began, in milliseconds: what would have been lost.
    pub rpo_ms: u64,
}

impl Verification {
    /// The worst of the verdicts.
    pub fn worst(components: &[ComponentVerdict]) -> Verdict {
        components.iter().map(|c| c.verdict).max().unwrap_or(Verdict::Failed)
    }
}
