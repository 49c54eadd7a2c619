//! What can go wrong with a restic repository.

use std::path::PathBuf;

use rustic_core::{ErrorKind, RusticError};
use windlass_core::diagnose::{Diagnose, Outcome, Retry};

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
        Self::Repository { doing, place, why: error.display_log() }
    }
}

/// An error of ours, in the terms of `rustic_core`.
pub(super) fn to_rustic(error: impl std::error::Error + Send + Sync + 'static) -> Box<RusticError> {
    let text = windlass_core::diagnose::chain(&error);
    RusticError::with_source(ErrorKind::Backend, text, error)
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
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Repository { .. } | Self::Unsettled { .. } | Self::Interrupted { .. } => Retry::Soon,
            _ => Retry::Never,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Missing { .. } | Self::WrongPassword { .. } | Self::NoSnapshot { .. } | Self::Pattern { .. } => {
                Outcome::CouldNotRun
            }
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
        };
        vec![hint.to_owned()]
    }
}
