//! Why WAL could not be taken or given.

use windlass_core::diagnose::{Diagnose, Outcome, Retry};
use windlass_engine::postgres::PostgresError;
use windlass_engine::postgres::wal::{FetchError, Owner, PushError};
use windlass_repo::format::walg::WalgError;
use windlass_repo::keyring::KeyError;

use crate::host::HostError;

/// Why WAL could not be taken or given.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// No such component is served here.
    #[error("serve the WAL of {owner}: the settings have no such component with `wal = \"archive\"`")]
    NotServed {
        /// The component.
        owner: Owner,
    },
    /// Who asks may not.
    #[error("serve the WAL of {owner}: the user {user} is not the one of its server")]
    NotAllowed {
        /// The component.
        owner: Owner,
        /// The user.
        user: u32,
    },
    /// WAL of another cluster.
    #[error(
        "archive the WAL of {owner}: it is of the cluster {theirs}, and the server of {owner} is of the cluster {ours}"
    )]
    OtherCluster {
        /// The component.
        owner: Owner,
        /// The cluster that wrote it.
        theirs: u64,
        /// The component's cluster.
        ours: u64,
    },
    /// The files that came are not those that were named.
    #[error("serve the WAL of {owner}: the files that came are not those that are named")]
    Files {
        /// The component.
        owner: Owner,
    },
    /// The repository.
    #[error(transparent)]
    Host(HostError),
    /// The key.
    #[error(transparent)]
    Key(KeyError),
    /// The server could not be asked which cluster it is.
    #[error("find the server of {owner}")]
    Server {
        /// The component.
        owner: Owner,
        /// Why not.
        source: Box<PostgresError>,
    },
    /// The archive.
    #[error(transparent)]
    Archive(WalgError),
    /// A file was not stored.
    #[error(transparent)]
    Push(PushError),
    /// A file was not fetched.
    #[error(transparent)]
    Fetch(FetchError),
    /// The spool.
    #[error("put WAL of {owner} into the spool")]
    Spool {
        /// The component.
        owner: Owner,
        /// Why not.
        source: std::io::Error,
    },
}

impl WalError {
    fn inner(&self) -> Option<&dyn Diagnose> {
        Some(match self {
            Self::Host(error) => error,
            Self::Key(error) => error,
            Self::Server { source, .. } => &**source,
            Self::Archive(error) => error,
            Self::Push(error) => error,
            Self::Fetch(error) => error,
            Self::NotServed { .. }
            | Self::NotAllowed { .. }
            | Self::OtherCluster { .. }
            | Self::Files { .. }
            | Self::Spool { .. } => return None,
        })
    }

    /// Whether the store could not be asked, or is not there.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Push(error) => error.is_outage(),
            Self::Archive(error) => matches!(error, WalgError::Read { .. }),
            Self::Host(_) => true,
            _ => false,
        }
    }

    /// Whether another try with the repository opened anew may do better.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            // One that is not confirmed yet goes on.
            Self::Push(PushError::Archive(error)) => matches!(**error, WalgError::Read { .. }),
            Self::Fetch(FetchError::Archive(error)) => matches!(**error, WalgError::Read { .. }),
            Self::Archive(_) | Self::Host(_) => true,
            _ => false,
        }
    }
}

impl Diagnose for WalError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotServed { .. } => "WDL-3401",
            Self::NotAllowed { .. } => "WDL-3402",
            Self::OtherCluster { .. } => "WDL-3403",
            Self::Files { .. } => "WDL-3404",
            Self::Spool { .. } => "WDL-3405",
            _ => self.inner().map_or("WDL-3404", Diagnose::code),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotServed { .. } => "NotServed",
            Self::NotAllowed { .. } => "NotAllowed",
            Self::OtherCluster { .. } => "OtherCluster",
            Self::Files { .. } => "OtherFiles",
            Self::Spool { .. } => "SpoolNotWritten",
            _ => self.inner().map_or("OtherFiles", Diagnose::reason),
        }
    }

    fn retry(&self) -> Retry {
        self.inner().map_or(Retry::Never, Diagnose::retry)
    }

    fn outcome(&self) -> Outcome {
        self.inner().map_or(Outcome::CouldNotRun, Diagnose::outcome)
    }

    fn hints(&self) -> Vec<String> {
        vec![match self {
            Self::NotServed { owner } => {
                format!("give the component of {owner} `wal = \"archive\"`, and start `windlass serve` again")
            }
            Self::NotAllowed { .. } => "run it as the server's user".to_owned(),
            Self::OtherCluster { .. } => {
                "look whether this server's `archive_command` names the right component; a copy of a server archives as a component of its own"
                    .to_owned()
            }
            Self::Files { .. } => "use the `windlass` of the same version on both sides".to_owned(),
            Self::Spool { .. } => {
                "the server keeps it, and asks again: bring the store back, give the spool more room, or make some on the disk of `state`"
                    .to_owned()
            }
            _ => return self.inner().map(Diagnose::hints).unwrap_or_default(),
        }]
    }
}
