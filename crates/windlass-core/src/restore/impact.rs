//! What a restore does to what is there, as far as it can be told before: shown beside the plan, and no part of it.

use serde::{Deserialize, Serialize};

use crate::name::Name;

/// The impact of a plan, as the world was a moment ago.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Impact {
    /// Seconds from the moment the point stands for until now: what was written since is lost where it is replaced.
    pub span_seconds: i64,
    /// Databases that are replaced.
    pub databases: Vec<DatabaseImpact>,
    /// Folders and files that are replaced.
    pub files: Vec<FilesImpact>,
    /// How long it should take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
}

/// What becomes of one database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseImpact {
    /// The component.
    pub component: Name,
    /// The database.
    pub database: String,
    /// Its bytes on disk now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Why nothing is known of what it holds; it is replaced nevertheless.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
    /// Tables whose rows differ, or that are there on one side only.
    pub tables: Vec<TableImpact>,
    /// Tables of that kind that are not named.
    #[serde(default)]
    pub more_tables: u64,
    /// Tables with as many rows as the point has.
    pub same_rows: u64,
    /// Sessions that will be ended.
    pub sessions: u64,
    /// Bytes needed beside what is there.
    pub needed_bytes: u64,
    /// Bytes free, where that can be told from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
}

/// What becomes of the rows of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableImpact {
    /// The schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// Rows now; absent where the table is not there.
    pub rows_now: Option<u64>,
    /// Rows in the point; absent where it is not in it.
    pub rows_then: Option<u64>,
    /// Whether both were counted, not estimated.
    pub exact: bool,
}

/// How what is there differs from what will be, as far as type, size, time, mode and owner tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differences {
    /// Entries that will be there and are not.
    pub created: u64,
    /// Entries that are there and will be others.
    pub changed: u64,
    /// Entries that are there and will not be; they are set aside.
    pub deleted: u64,
    /// Entries that are the same.
    pub unchanged: u64,
    /// Entries that are not touched, because they are not captured either.
    pub untouched: u64,
}

impl std::ops::AddAssign for Differences {
    fn add_assign(&mut self, other: Self) {
        self.created += other.created;
        self.changed += other.changed;
        self.deleted += other.deleted;
        self.unchanged += other.unchanged;
        self.untouched += other.untouched;
    }
}

/// What becomes of the files of a component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesImpact {
    /// The component.
    pub component: Name,
    /// How they differ.
    #[serde(flatten)]
    pub differences: Differences,
    /// Bytes needed beside what is there.
    pub needed_bytes: u64,
    /// Bytes free.
    pub free_bytes: u64,
    /// The list of all differences, which can be opened.
    pub diff: String,
}

/// What was measured before: bytes brought and the time that took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Bytes.
    pub bytes: u64,
    /// Milliseconds.
    pub ms: u64,
}

/// How many times as much as was measured can be told from it.
const COMPARABLE: u64 = 100;

/// How long a restore should take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// Seconds.
    pub seconds: u64,
    /// Components of which no restore was measured yet: they are not in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<Name>,
}

impl Estimate {
    /// From what is to be brought, by component, and what was measured of it.
    pub fn of(parts: impl IntoIterator<Item = (Name, u64, Option<Measured>)>) -> Self {
        let (mut ms, mut without) = (0u64, Vec::new());
        for (name, bytes, measured) in parts {
            match measured {
                // Of little, most of the time goes into what does not grow with it: that tells nothing of much.
                Some(Measured { bytes: before, ms: took }) if before > 0 && bytes / before <= COMPARABLE => {
                    let scaled = u128::from(bytes) * u128::from(took) / u128::from(before);
                    ms = ms.saturating_add(u64::try_from(scaled).unwrap_or(u64::MAX));
                }
                _ => without.push(name),
            }
        }
        Self { seconds: ms.div_ceil(1000), without }
    }
}
