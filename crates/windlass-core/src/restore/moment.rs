//! The moment a server is brought back to.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::wal::{Lsn, Timeline};

/// A moment in the life of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// All there is.
    Newest,
    /// Everything that was committed up to a time.
    Time(Timestamp),
    /// Everything that was written before a place in the log.
    Lsn(Lsn),
    /// Everything up to the end of a transaction, by its number.
    Transaction(u32),
    /// Everything up to a restore point, by its name.
    Named(String),
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => write!(f, "the end of the WAL"),
            Self::Time(time) => write!(f, "{time}"),
            Self::Lsn(lsn) => write!(f, "{lsn}"),
            Self::Transaction(number) => write!(f, "the end of transaction {number}"),
            Self::Named(name) => write!(f, "the restore point `{name}`"),
        }
    }
}

/// A moment as it was found in the WAL of an archive.
///
/// Recovery is told the last record that is replayed, and not the first that is not: that one may lie segments further on, or not be
/// written yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// The timeline that is replayed.
    pub timeline: Timeline,
    /// Where the last record begins that is replayed.
    pub record: Lsn,
    /// The first byte that is not replayed any more.
    pub end: Lsn,
    /// When the last transaction ended that is replayed behind the base backup; `None` where none did.
    pub last: Option<Timestamp>,
    /// The segment that is missing or ends too early, where all there is was asked for and others are there behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<String>,
}
