//! What can go wrong with a store, told apart by what a person would do about it.

use std::error::Error;
use std::io::ErrorKind;

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
    #[error("{doing} `{key}` in {store}: access denied: {why}")]
    Denied {
        /// What was being done.
        doing: &'static str,
        /// To which object.
        key: Key,
        /// In which store.
        store: String,
        /// What the store said.
        why: String,
    },
    /// The bucket is not there.
    #[error("open {store}: there is no such bucket")]
    NoBucket {
        /// Which store.
        store: String,
    },
    /// No answer, or an answer that says: not now.
    #[error("{doing} `{key}` in {store}: {why}")]
    Unreachable {
        /// What was being done.
        doing: &'static str,
        /// To which object.
        key: Key,
        /// In which store.
        store: String,
        /// What went wrong.
        why: String,
        /// Whether the store does not know what it was asked.
        unknown: bool,
    },
    /// The store cannot be opened with these settings.
    #[error("open the store {store}: {why}")]
    Open {
        /// Which store.
        store: String,
        /// What is wrong with the settings.
        why: String,
    },
    /// It is larger than an object can be, or a document ever is.
    #[error("use `{key}` in {store}: it has more than {size} bytes")]
    TooLarge {
        /// The key.
        key: Key,
        /// In which store.
        store: String,
        /// Bytes written so far.
        size: u64,
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
    #[expect(clippy::needless_pass_by_value, reason = "it takes an error's place, in `map_err`")]
    pub(super) fn of(doing: &'static str, key: &Key, store: &str, source: object_store::Error) -> Self {
        let (key, store, said) = (key.clone(), store.to_owned(), Said::of(&source));
        let why = said.words;
        match source {
            _ if said.code.as_deref() == Some("NoSuchBucket") => Self::NoBucket { store },
            // Whatever the status is they come with: some servers answer an unknown key with 404.
            _ if said.code.as_deref().is_some_and(|code| REFUSALS.contains(&code)) => {
                Self::Denied { doing, key, store, why }
            }
            object_store::Error::NotFound { .. } => Self::NotFound { doing, key, store },
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                Self::Denied { doing, key, store, why }
            }
            _ if said.refused => Self::Denied { doing, key, store, why },
            _ => Self::Unreachable { doing, key, store, why, unknown: said.unknown },
        }
    }

    /// Whether it says nothing of what lies in the store: it could not be asked.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::Unreachable { .. } | Self::NoBucket { .. } | Self::Open { .. })
    }
}

/// S3's words for credentials that are not accepted.
const REFUSALS: [&str; 7] = [
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "UnknownAccessKeyId",
];

/// What an answer says to a person.
struct Said {
    /// S3's own word for it.
    code: Option<String>,
    words: String,
    unknown: bool,
    /// Whether a file system refuses: no right, or only to read.
    refused: bool,
}

impl Said {
    /// S3 answers an error with a document (`<Code>`, `<Message>`, and much that is of no use here); where there is
    /// none, the innermost cause is what happened, and what stands around it is how it was noticed.
    fn of(error: &object_store::Error) -> Self {
        let all = windlass_core::diagnose::chain(error);
        let between = |from: &str, to: &str| Some(all.split_once(from)?.1.split_once(to)?.0.trim().to_owned());
        let code = between("<Code>", "</Code>");
        let mut words = match (&code, between("<Message>", "</Message>")) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => code.clone(),
            (None, _) => innermost(error),
        };
        if let Some(tries) = between(", after ", " retries") {
            words.push_str(&format!(" (tried {tries} times again)"));
        }
        let unknown =
            matches!(error, object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. })
                || code.as_deref() == Some("NotImplemented")
                || all.contains("501 Not Implemented");
        Self { code, words, unknown, refused: is_refused(error) }
    }
}

fn innermost(error: &object_store::Error) -> String {
    causes(error).last().map_or_else(String::new, ToString::to_string)
}

fn is_refused(error: &object_store::Error) -> bool {
    let kinds = causes(error).filter_map(|cause| Some(cause.downcast_ref::<std::io::Error>()?.kind()));
    kinds.into_iter().any(|kind| matches!(kind, ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem))
}

/// The error and what lies behind it.
fn causes(error: &object_store::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first: &(dyn Error + 'static) = error;
    std::iter::successors(Some(first), |cause| (*cause).source())
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
            Self::NoBucket { .. } => "WDL-1107",
            Self::TooLarge { .. } => "WDL-1108",
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
            Self::NoBucket { .. } => "NoSuchBucket",
            Self::TooLarge { .. } => "ObjectTooLarge",
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
            error if error.is_outage() => Outcome::CouldNotRun,
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
            Self::Open { .. } => {
                "correct the repository's url, or mount its disk; only where no repository was made yet, run `windlass repo init`"
            }
            Self::TooLarge { .. } => {
                "an object of S3 holds 531 GiB: capture less in one database or action; a document is never that large: someone else put it there"
            }
            Self::NoBucket { .. } => {
                "make the bucket first, or correct the repository's url; Windlass makes no buckets"
            }
            Self::Mismatch { .. } => "run it again; if it repeats, the store loses data",
        };
        vec![hint.to_owned()]
    }
}
