//! What can go wrong with a restic repository.

use std::path::PathBuf;

use rustic_core::RusticError;
use windlass_core::diagnose::{Diagnose, Outcome, Retry};

use crate::store::StoreError;

/// An operation on a restic repository that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// There is none.
    #[error("open the restic repository `{place}`: there is none")]
    Missing {
        /// Where.
        place: String,
    },
    /// The password is wrong.
    #[error("open the restic repository `{place}`: the password is wrong")]
    WrongPassword {
        /// Where.
        place: String,
    },
    /// There is no such snapshot.
    #[error("find the snapshot `{snapshot}` in `{place}`: there is none")]
    NoSnapshot {
        /// The snapshot.
        snapshot: String,
        /// Where.
        place: String,
    },
    /// Something in it is damaged or missing, or the store failed.
    #[error("{doing} in the restic repository `{place}`: {why}")]
    Repository {
        /// What was being done.
        doing: &'static str,
        /// Where.
        place: String,
        /// Why it did not work.
        why: String,
    },
    /// The store could not be asked.
    #[error(transparent)]
    Store(StoreError),
    /// Packs went missing between two tries, every time.
    #[error("capture into `{place}`: packs it relies on were removed meanwhile, {tries} times over")]
    Unsettled {
        /// Where.
        place: String,
        /// How often it was tried.
        tries: u32,
    },
    /// A file of the target cannot be written.
    #[error("write `{}`", path.display())]
    Target {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A name in the snapshot would lead out of the target.
    #[error("restore from `{place}`: the snapshot holds the name `{name}`, which would lead out of the target")]
    Hostile {
        /// Where.
        place: String,
        /// The name.
        name: String,
    },
    /// The pattern is none.
    #[error("use the pattern `{pattern}`: {why}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// The task was ended from outside.
    #[error("{doing} in the restic repository: it was interrupted")]
    Interrupted {
        /// What was being done.
        doing: &'static str,
    },
}

impl FilesError {
    pub(super) fn of(doing: &'static str, place: &str, error: &RusticError) -> Self {
        let place = place.to_owned();
        if error.is_incorrect_password() {
            return Self::WrongPassword { place };
        }
        Self::Repository { doing, place, why: words(error) }
    }
}

/// What `rustic_core` says, without what it says for its own maintainers: the first line, and the message of the error
/// behind it where there is one.
fn words(error: &RusticError) -> String {
    let all = error.display_log();
    let first = all.lines().next().unwrap_or_default();
    let first = first.strip_prefix("Error: ").unwrap_or(first);
    let first = first.split(" (kind: related to").next().unwrap_or(first);
    match all.split_once("\nMessage:\n").and_then(|(_, behind)| behind.lines().next()) {
        Some(message) => format!("{first}: {message}"),
        None => first.to_owned(),
    }
}

impl Diagnose for FilesError {
    fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "WDL-1401",
            Self::WrongPassword { .. } => "WDL-1402",
            Self::NoSnapshot { .. } => "WDL-1403",
            Self::Repository { .. } => "WDL-1404",
            Self::Unsettled { .. } => "WDL-1405",
            Self::Target { .. } => "WDL-1406",
            Self::Hostile { .. } => "WDL-1407",
            Self::Pattern { .. } => "WDL-1408",
            Self::Interrupted { .. } => "WDL-1409",
            Self::Store(error) => error.code(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "ResticMissing",
            Self::WrongPassword { .. } => "WrongPassword",
            Self::NoSnapshot { .. } => "NoSuchSnapshot",
            Self::Repository { .. } => "ResticError",
            Self::Unsettled { .. } => "PacksRemoved",
            Self::Target { .. } => "WriteTarget",
            Self::Hostile { .. } => "HostileName",
            Self::Pattern { .. } => "InvalidPattern",
            Self::Interrupted { .. } => "Interrupted",
            Self::Store(error) => error.reason(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Store(error) => error.retry(),
            Self::Repository { .. } | Self::Unsettled { .. } | Self::Interrupted { .. } => Retry::Soon,
            _ => Retry::Never,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Missing { .. } | Self::WrongPassword { .. } | Self::NoSnapshot { .. } | Self::Pattern { .. } => {
                Outcome::CouldNotRun
            }
            Self::Store(error) => error.outcome(),
            _ => Outcome::Failed,
        }
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Missing { .. } => "check the repository's url; ours lie in files/APPLICATION below its root",
            Self::WrongPassword { .. } => "give the password it was made with; the data themselves are not damaged",
            Self::NoSnapshot { .. } => "run `windlass points` to see those there are",
            Self::Repository { .. } => "run `windlass repo check` to see what is missing or damaged, and what it costs",
            Self::Unsettled { .. } => "do not run `restic prune` or `restic forget` there; run it again",
            Self::Target { .. } => "check the space and the rights there",
            Self::Hostile { .. } => "someone tampered with the snapshot, or it was made elsewhere: do not trust it",
            Self::Pattern { .. } => "write it as in a .gitignore file",
            Self::Interrupted { .. } => "run it again",
            Self::Store(error) => return error.hints(),
        };
        vec![hint.to_owned()]
    }
}
