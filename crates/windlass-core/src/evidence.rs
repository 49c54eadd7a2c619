//! Evidence: what was done and what came of it, one record after another: `evidence/<writer>/<number>.json`.
//!
//! Each record names the one before it by its digest, so that none can be changed, taken out or put in without
//! breaking the chain. A chain that is cut at its end still hangs together; the cut is seen because the heads of
//! chains are also told elsewhere: in recovery points ([`crate::point::RecoveryPoint::evidence`]) and in the records
//! of the application's other writers.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{EntryId, PointId, RestoreId, WriterId};
use crate::name::Name;
use crate::verification::{DrillReport, Level, Verdict};

/// The newest record of a chain, as somebody saw it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Head {
    /// Its number, from 1.
    pub number: u64,
    /// SHA-256 of the whole object, in hex.
    pub sha256: String,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version of this document, [`crate::point::FORMAT`].
    pub format: u32,
    /// Whose chain it belongs to.
    pub writer: WriterId,
    /// Its place in the chain, from 1, without gaps.
    pub number: u64,
    /// SHA-256 of the whole record before it, in hex; absent in the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// When it was written, by the host's clock.
    pub at: Timestamp,
    /// The host.
    pub host: String,
    /// The application.
    pub application: Name,
    /// What was done.
    #[serde(flatten)]
    pub event: Event,
    /// The newest records of the application's other writers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub others: BTreeMap<WriterId, Head>,
}

/// What was done, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// A point was committed.
    Backup {
        /// The point.
        point: PointId,
        /// Whether every component is in it.
        complete: bool,
        /// SHA-256 of its commit record as stored, in hex.
        sha256: String,
    },
    /// A point was read back, or restored into a scratch place and checked; a drill where `drill` is there.
    Verification {
        /// The point.
        point: PointId,
        /// Its document in `verified/`.
        entry: EntryId,
        /// SHA-256 of that document as stored, in hex.
        sha256: String,
        /// How far it went.
        level: Level,
        /// What came of it.
        verdict: Verdict,
        /// What a drill measured.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        drill: Option<DrillReport>,
    },
    /// A restore was begun and ended.
    Restore {
        /// The point.
        point: PointId,
        /// The digest of the plan that was confirmed.
        plan: String,
        /// When it began.
        started: Timestamp,
        /// Why it failed; absent where it did not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<String>,
        /// The restore, where it was in place.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restore: Option<RestoreId>,
    },
    /// A restore in place was undone, or what an interrupted one had changed was put back.
    Undo {
        /// The restore.
        restore: RestoreId,
        /// The point it had restored.
        point: PointId,
        /// When the undo began.
        started: Timestamp,
        /// Why it failed; absent where it did not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<String>,
    },
    /// Points were marked for deletion by a plan that was confirmed.
    Retention {
        /// The digest of that plan.
        plan: String,
        /// The points.
        points: Vec<PointId>,
    },
    /// Points were deleted, their grace being over.
    Swept {
        /// The points.
        points: Vec<PointId>,
    },
    /// A point was held.
    Hold {
        /// The point.
        point: PointId,
        /// The hold.
        entry: EntryId,
        /// Why.
        reason: String,
    },
    /// A point's holds were lifted.
    Release {
        /// The point.
        point: PointId,
        /// The holds.
        entries: Vec<EntryId>,
    },
}

/// Whether a record may follow what stands before it; why not, in words.
pub fn follows(record: &Record, writer: WriterId, number: u64, previous: Option<&str>) -> Result<(), String> {
    if record.writer != writer {
        return Err(format!("it belongs to the chain of {}", record.writer));
    }
    if record.number != number {
        return Err(format!("it says it is number {}", record.number));
    }
    match (record.previous.as_deref(), previous) {
        (said, found) if said == found => Ok(()),
        (None, Some(_)) => Err("it says it is the first of its chain, and there are records before it".into()),
        (Some(_), None) => Err("it names a record before it, and there is none".into()),
        _ => Err("the record before it is not the one it names".into()),
    }
}
