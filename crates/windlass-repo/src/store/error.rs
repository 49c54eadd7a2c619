//! What can go wrong with a store, told apart by what a person would do about it.

use windlass_core::diagnose::{Diagnose, Outcome, Retry};

use super::Key;

/// An operation on a store that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("{doing} `{key}` in {store}: there is no such object")]
    NotFound {
        /// What was being done.
        doing: &'static str,
        /// To which object.
        key: Key,
        /// In which store.
        store: String,
    },
    /// The key holds other bytes than those to be written.
    #[error("write `{key}` in {store}: the key holds an object with other content, which is not overwritten")]
    Occupied {
        /// The key.
        key: Key,
        /// In which store.
        store: String,
    },
    /// The credentials are wrong, or lack the right.
    #[error("{doing} `{key}` in {store}: access denied")]
    Denied {
        /// What was being done.
        doing: &'static str,
        /// To which object.
        key: Key,
        /// In which store.
        store: String,
        /// What the store said.
        source: Box<object_store::Error>,
    },
    /// No answer, or an answer that says: not now.
    #[error("{doing} `{key}` in {store}")]
    Unreachable {
        /// What was being done.
        doing: &'static str,
        /// To which object.
        key: Key,
        /// In which store.
        store: String,
        /// What went wrong.
        source: Box<object_store::Error>,
    },
    /// The store cannot be opened with these settings.
    #[error("open the store {store}: {why}")]
    Open {
        /// Which store.
        store: String,
        /// What is wrong with the settings.
        why: String,
    },
    /// What arrived is not what was sent.
    #[error("write `{key}` in {store}: {sent} bytes were sent, the store has {stored}")]
    Mismatch {
        /// The key.
        key: Key,
        /// In which store.
        store: String,
        /// Bytes sent.
        sent: u64,
        /// Bytes the store has.
        stored: u64,
    },
}

impl StoreError {
    pub(super) fn of(doing: &'static str, key: &Key, store: &str, source: object_store::Error) -> Self {
        let (key, store) = (key.clone(), store.to_owned());
        match source {
            object_store::Error::NotFound { .. } => Self::NotFound { doing, key, store },
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                Self::Denied { doing, key, store, source: Box::new(source) }
            }
            _ => Self::Unreachable { doing, key, store, source: Box::new(source) },
        }
    }
}

impl Diagnose for StoreError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "WDL-1101",
            Self::Occupied { .. } => "WDL-1102",
            Self::Denied { .. } => "WDL-1103",
            Self::Unreachable { .. } => "WDL-1104",
            Self::Open { .. } => "WDL-1105",
            Self::Mismatch { .. } => "WDL-1106",
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "ObjectMissing",
            Self::Occupied { .. } => "KeyOccupied",
            Self::Denied { .. } => "StoreDenied",
            Self::Unreachable { .. } => "StoreUnreachable",
            Self::Open { .. } => "StoreSettings",
            Self::Mismatch { .. } => "StoreMismatch",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Unreachable { .. } | Self::Mismatch { .. } => Retry::Soon,
            _ => Retry::Never,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Denied { .. } | Self::Unreachable { .. } | Self::Open { .. } => Outcome::CouldNotRun,
            _ => Outcome::Failed,
        }
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::NotFound { .. } => "run `windlass repo check` to see what else is missing and what it costs",
            Self::Occupied { .. } => "another writer uses the same place: check which installations write here",
            Self::Denied { .. } => "check the access key, the secret key, the bucket's policy and the machine's clock",
            Self::Unreachable { .. } => {
                "check the endpoint, the network and the free space of the store; then run it again"
            }
            Self::Open { .. } => "correct the repository's settings; where it is to be made, run `windlass repo init`",
            Self::Mismatch { .. } => "run it again; if it repeats, the store loses data",
        };
        vec![hint.to_owned()]
    }
}
