//! How a command ends: an exit status, and for a failure one clear error.

use std::process::ExitCode;

use windlass_core::diagnose::{Diagnose, Outcome};

/// How a command ended well, or ran to its end with a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Done, and as verified as the verb promises.
    Done,
    /// It ran, and what it found or made is not what it should be; it has said so.
    Failed,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        match status {
            Status::Done => Self::SUCCESS,
            Status::Failed => Self::from(1),
        }
    }
}

/// An error on its way to the screen.
#[derive(Debug)]
pub(crate) struct Failure(pub Box<dyn Diagnose + Send + Sync>);

/// What every command returns.
pub(crate) type Result<T = Status> = std::result::Result<T, Failure>;

impl<E: Diagnose + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl Failure {
    /// Wrong use of the command line.
    pub(crate) fn usage(why: impl Into<String>, hint: impl Into<String>) -> Self {
        Usage { why: why.into(), hint: hint.into() }.into()
    }

    /// The exit code it gives.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self.0.outcome() {
            Outcome::Failed => ExitCode::from(1),
            Outcome::CouldNotRun => ExitCode::from(2),
        }
    }
}

/// Wrong use of the command line, beyond what the parser sees.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
struct Usage {
    why: String,
    hint: String,
}

impl Diagnose for Usage {
    fn code(&self) -> &'static str {
        "WDL-0001"
    }

    fn reason(&self) -> &'static str {
        "Usage"
    }

    fn outcome(&self) -> Outcome {
        Outcome::CouldNotRun
    }

    fn hints(&self) -> Vec<String> {
        vec![self.hint.clone()]
    }
}
