//! Why a stream is not a whole dump.

use windlass_core::diagnose::Diagnose;

/// A dump that is not what it should be. Offsets are bytes from its beginning.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DumpError {
    /// It does not begin as a dump in custom format does.
    #[error("read the dump: {why} at byte {offset}")]
    Malformed {
        /// Where.
        offset: u64,
        /// What is wrong there.
        why: &'static str,
    },
    /// It has a version we do not know.
    #[error("read the dump: its format is version {major}.{minor}, and 1.12 to 1.16 are known (PostgreSQL 12 to 18)")]
    Version {
        /// Its major version.
        major: u8,
        /// Its minor version.
        minor: u8,
    },
    /// It ends too early.
    #[error("read the dump: it ends at byte {offset}, {wanted}")]
    Cut {
        /// Its length.
        offset: u64,
        /// What is missing.
        wanted: String,
    },
    /// A block belongs to no entry, or to one that was there already.
    #[error("read the dump: the data of entry {id} at byte {offset} {why}")]
    Block {
        /// Where the block begins.
        offset: u64,
        /// The entry it names.
        id: i64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// What it holds of a table or a large object cannot be unpacked.
    #[error("read the dump: the data of a table or a large object cannot be unpacked: {why}")]
    Unpack {
        /// Why not.
        why: &'static str,
    },
    /// It asks for more memory than any dump should.
    #[error("read the dump: {what} at byte {offset} is larger than {limit} bytes")]
    TooLarge {
        /// Where.
        offset: u64,
        /// What is too large.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

impl Diagnose for DumpError {
    fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "WDL-1301",
            Self::Version { .. } => "WDL-1302",
            Self::Cut { .. } => "WDL-1303",
            Self::Block { .. } => "WDL-1304",
            Self::TooLarge { .. } => "WDL-1305",
            Self::Unpack { .. } => "WDL-1306",
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "DumpMalformed",
            Self::Version { .. } => "DumpVersion",
            Self::Cut { .. } => "DumpCut",
            Self::Block { .. } => "DumpBlock",
            Self::TooLarge { .. } => "DumpTooLarge",
            Self::Unpack { .. } => "DumpNotUnpacked",
        }
    }

    fn hints(&self) -> Vec<String> {
        vec![match self {
            Self::Version { .. } => "use a newer Windlass, or an older pg_dump".to_owned(),
            _ => "take a new recovery point; if this one was read back from the store, restore from another".to_owned(),
        }]
    }
}
