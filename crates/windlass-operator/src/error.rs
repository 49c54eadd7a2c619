//! What can go wrong in the operator.

use windlass_core::diagnose::{Diagnose, Retry};
use windlass_repo::error::RepositoryError;

/// A step of a reconciliation that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The API server did not give an object.
    #[error("read {kind} {namespace}/{name}")]
    Read {
        /// Its kind.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The API server did not take an object.
    #[error("write {kind} {namespace}/{name}")]
    Write {
        /// Its kind.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The cluster is not to be reached at all, or what the operator needs of it is not there.
    #[error("start: {what}")]
    Start {
        /// What was tried.
        what: &'static str,
        /// Why it did not work.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The repository.
    #[error(transparent)]
    Repository(Box<RepositoryError>),
    /// Helm.
    #[error("helm {verb} in {namespace}: {why}")]
    Helm {
        /// What it was told to do.
        verb: String,
        /// Where.
        namespace: String,
        /// What it said.
        why: String,
    },
    /// A turn came to no end of its own.
    #[error("reconcile {kind} {name}: it panicked; the log says where")]
    Panicked {
        /// The kind of the object.
        kind: &'static str,
        /// Its name.
        name: String,
    },
}

impl OperatorError {
    pub(crate) fn read(kind: &'static str, namespace: &str, name: &str, source: kube::Error) -> Self {
        Self::Read { kind, namespace: namespace.to_owned(), name: name.to_owned(), source: Box::new(source) }
    }

    pub(crate) fn write(kind: &'static str, namespace: &str, name: &str, source: kube::Error) -> Self {
        Self::Write { kind, namespace: namespace.to_owned(), name: name.to_owned(), source: Box::new(source) }
    }
}

impl From<RepositoryError> for OperatorError {
    fn from(error: RepositoryError) -> Self {
        Self::Repository(Box::new(error))
    }
}

impl Diagnose for OperatorError {
    fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "WDL-4001",
            Self::Write { .. } => "WDL-4002",
            Self::Start { .. } => "WDL-4003",
            Self::Helm { .. } => "WDL-4005",
            Self::Panicked { .. } => "WDL-4006",
            Self::Repository(error) => error.code(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Read { .. } => "ReadFailed",
            Self::Write { .. } => "WriteFailed",
            Self::Start { .. } => "NotStarted",
            Self::Helm { .. } => "HelmFailed",
            Self::Panicked { .. } => "Panicked",
            Self::Repository(error) => error.reason(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Read { .. } | Self::Write { .. } | Self::Helm { .. } | Self::Panicked { .. } => Retry::Soon,
            Self::Start { .. } => Retry::Never,
            Self::Repository(error) => error.retry(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Read { .. } | Self::Write { .. } => {
                vec![
                    "it is tried again; where it stays, compare the operator's ClusterRole with that of its version"
                        .into(),
                ]
            }
            Self::Helm { .. } => vec!["compare spec.values with the chart's values; it is tried again".into()],
            Self::Start { .. } => {
                vec!["look whether the API server answers, and whether the definitions are installed".into()]
            }
            Self::Panicked { .. } => vec!["report it: this is a defect of the operator".into()],
            Self::Repository(error) => error.hints(),
        }
    }
}
