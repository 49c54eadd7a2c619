//! Why a base backup could not be taken.

use std::io;
use std::path::PathBuf;

use windlass_core::diagnose::{Diagnose, Outcome, Retry};
use windlass_replication::ReplicationError;
use windlass_repo::format::walg::WalgError;
use windlass_repo::keyring::KeyError;
use windlass_repo::object::ObjectError;

use crate::postgres::PostgresError;
use crate::postgres::wal::ListenError;

/// Why a base backup could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum PhysicalError {
    /// The server.
    #[error(transparent)]
    Server(PostgresError),
    /// The data folder at hand is not the server's.
    #[error("take a base backup of `{}`: {why}", folder.display())]
    OtherFolder {
        /// The folder.
        folder: PathBuf,
        /// How that is known.
        why: String,
    },
    /// A file cannot be read.
    #[error("read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An archive or a document cannot be made, or the archive of WAL be read.
    #[error(transparent)]
    Walg(WalgError),
    /// The store.
    #[error(transparent)]
    Object(ObjectError),
    /// The socket at which WAL is given.
    #[error(transparent)]
    Listen(ListenError),
    /// The key it is sealed with.
    #[error(transparent)]
    Key(KeyError),
    /// A file or a folder cannot be written.
    #[error("write `{}`", path.display())]
    Write {
        /// It.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another user could lead what root writes elsewhere.
    #[error("lay down a data folder in `{}`: `{}` is not root's alone", folder.display(), above.display())]
    NotOurs {
        /// The folder.
        folder: PathBuf,
        /// What is above it.
        above: PathBuf,
    },
    /// WAL that the base backup needs is gone.
    #[error("have the WAL of the base backup: segment {segment} is neither in the archive nor in `pg_wal`")]
    WalGone {
        /// The segment.
        segment: String,
    },
    /// The replication protocol, by which a server is read whose data folder is not at hand.
    #[error("read the server by the replication protocol, as its data folder is not at hand here ({why})")]
    Protocol {
        /// Why its folder is not read.
        why: String,
        /// What went wrong.
        source: Box<ReplicationError>,
    },
    /// The stream of the replication protocol is not what it should be.
    #[error("read the server by the replication protocol: {why}")]
    Stream {
        /// What is wrong.
        why: String,
    },
    /// The server cannot be read in any way that is known.
    #[error("take a base backup: {why}")]
    Unsupported {
        /// Why.
        why: String,
    },
    /// The WAL that a standby's backup needs did not come.
    #[error("have the WAL of the standby's base backup: segment {segment} was not there within {minutes} minutes")]
    NotClosed {
        /// The segment.
        segment: String,
        /// How long it was waited for.
        minutes: u64,
    },
    /// There is a base backup of the same name.
    #[error("take a base backup: `{name}` is there already, whole or what is left of one that failed{why}")]
    Taken {
        /// Its name.
        name: String,
        /// What else is known.
        why: &'static str,
    },
    /// The server became another one meanwhile.
    #[error("take a base backup: {why}")]
    Changed {
        /// What changed.
        why: String,
    },
    /// Another thread ended first, and tells why.
    #[error("take a base backup: it was broken off")]
    BrokenOff,
}

impl Diagnose for PhysicalError {
    fn code(&self) -> &'static str {
        match self {
            Self::Server(error) => error.code(),
            Self::OtherFolder { .. } => "WDL-2131",
            Self::Read { .. } => "WDL-2132",
            Self::Walg(error) => error.code(),
            Self::Object(error) => error.code(),
            Self::Key(error) => error.code(),
            Self::Listen(error) => error.code(),
            Self::Write { .. } => "WDL-2136",
            Self::NotOurs { .. } => "WDL-2137",
            Self::WalGone { .. } => "WDL-2133",
            Self::Changed { .. } => "WDL-2134",
            Self::BrokenOff => "WDL-2135",
            Self::Protocol { .. } => "WDL-2138",
            Self::Stream { .. } => "WDL-2139",
            Self::NotClosed { .. } => "WDL-2150",
            Self::Taken { .. } => "WDL-2152",
            Self::Unsupported { .. } => "WDL-2151",
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Server(error) => error.reason(),
            Self::OtherFolder { .. } => "OtherDataFolder",
            Self::Read { .. } => "DataFolderUnreadable",
            Self::Walg(error) => error.reason(),
            Self::Object(error) => error.reason(),
            Self::Key(error) => error.reason(),
            Self::Listen(error) => error.reason(),
            Self::Write { .. } => "WriteDataFolder",
            Self::NotOurs { .. } => "FolderOfOthers",
            Self::WalGone { .. } => "WalGone",
            Self::Changed { .. } => "ServerChanged",
            Self::BrokenOff => "BrokenOff",
            Self::Protocol { .. } => "ReplicationProtocol",
            Self::Stream { .. } => "ReplicationStream",
            Self::NotClosed { .. } => "WalNotClosed",
            Self::Taken { .. } => "BaseBackupThere",
            Self::Unsupported { .. } => "ServerUnsupported",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Server(error) => error.retry(),
            Self::Walg(error) => error.retry(),
            Self::Object(error) => error.retry(),
            Self::Key(error) => error.retry(),
            _ => Retry::Never,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Server(error) => error.outcome(),
            Self::Walg(error) => error.outcome(),
            Self::Object(error) => error.outcome(),
            Self::Key(error) => error.outcome(),
            Self::Listen(error) => error.outcome(),
            Self::OtherFolder { .. } | Self::NotOurs { .. } | Self::Unsupported { .. } => Outcome::CouldNotRun,
            _ => Outcome::Failed,
        }
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Server(error) => return error.hints(),
            Self::Walg(error) => return error.hints(),
            Self::Object(error) => return error.hints(),
            Self::Key(error) => return error.hints(),
            Self::Listen(error) => return error.hints(),
            Self::Protocol { source, .. } => {
                let mut hints = source.hints();
                hints.push(
                    "or run Windlass where the server's data folder is, and name that as `data_directory`".to_owned(),
                );
                return hints;
            }
            Self::Stream { .. } => "run it again; where it stays, a proxy before the server may be what is at fault",
            Self::Unsupported { .. } => "see `docs/guide/physical.md` for the servers that can be backed up so",
            Self::Taken { .. } => {
                "run it again when something was written: `checkpoint` at the primary begins anew; `windlass retention apply` takes away what failed backups left"
            }
            Self::NotClosed { .. } => {
                "have the primary end its segment: `select pg_switch_wal()` there, or `archive_timeout` in its settings; where its WAL comes into the repository, see that it does"
            }
            Self::OtherFolder { .. } => {
                "give the folder that `SHOW data_directory` names, as it is mounted here, as `data_directory`"
            }
            Self::Read { .. } => "let the user Windlass runs as read the data folder: it is that of the server's user",
            Self::Write { .. } => "check the space and the rights there",
            Self::NotOurs { .. } => "run it as the server's user, such as `runuser -u postgres -- windlass restore …`",
            Self::WalGone { .. } => {
                "set `wal_keep_size` so that the WAL of a backup stays, or give the role the right to make a replication slot"
            }
            Self::Changed { .. } => "run it again when the server runs undisturbed",
            Self::BrokenOff => "see the error that came with it",
        };
        vec![hint.to_owned()]
    }
}
