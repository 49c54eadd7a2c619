//! Identifiers: ULIDs, sortable by the time they were made.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// Text that is not an identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not an identifier: 26 characters of 0-9 and A-Z without I, L, O and U are expected, as `windlass points` prints them"
)]
pub struct InvalidId {
    text: String,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(Ulid);

        impl $name {
            /// Makes an identifier of a moment (to the millisecond) and 80 bits of randomness, both given.
            pub fn new(at: Timestamp, random: u128) -> Self {
                Self(Ulid::from_parts(u64::try_from(at.as_millisecond()).unwrap_or(0), random))
            }

            /// Its 80 bits of randomness.
            pub fn random(&self) -> u128 {
                self.0.random()
            }

            /// When it was made, by the clock of the machine that made it.
            pub fn made_at(&self) -> Timestamp {
                i64::try_from(self.0.timestamp_ms())
                    .ok()
                    .and_then(|ms| Timestamp::from_millisecond(ms).ok())
                    .unwrap_or(Timestamp::UNIX_EPOCH)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let invalid = || InvalidId { text: text.to_owned() };
                let id = Ulid::from_string(text).map_err(|_| invalid())?;
                // One spelling only: the text is also a key in the store.
                if id.to_string() == text { Ok(Self(id)) } else { Err(invalid()) }
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }
    };
}

identifier! {
    /// A recovery point, and the run that made it: both carry the same identifier.
    PointId
}
identifier! {
    /// A repository, given when it is created and kept for its life.
    RepositoryId
}
identifier! {
    /// A writer: one installation of Windlass that may write into a repository.
    WriterId
}
identifier! {
    /// A restore or a drill.
    RestoreId
}
identifier! {
    /// Anything short-lived in a repository: a pin, a tombstone, a verification.
    EntryId
}
