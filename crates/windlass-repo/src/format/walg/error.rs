//! What can be wrong with a base backup or an archive of WAL, and with what is made of it.

use std::io;
use std::path::{Path, PathBuf};

use windlass_core::diagnose::{Diagnose, Outcome, Retry};

/// Something in the layout of WAL-G that cannot be read, or not be laid down. `object` is what was being read, by name.
#[derive(Debug, thiserror::Error)]
pub enum WalgError {
    /// A name that no base backup has.
    #[error("`{name}` is not the name of a base backup: `base_000000010000000000000002` is one")]
    BackupName {
        /// The name.
        name: String,
    },
    /// A document that says nothing usable of a base backup.
    #[error("read `{object}`: {why}")]
    Document {
        /// The document.
        object: String,
        /// What is wrong with it.
        why: String,
    },
    /// The bytes of an object could not be had.
    #[error("read `{object}`")]
    Read {
        /// The object.
        object: String,
        /// Why.
        source: io::Error,
    },
    /// An object ends before what it holds does.
    #[error("read `{object}`: it ends too early")]
    Cut {
        /// The object.
        object: String,
    },
    /// An object that is not what was written.
    #[error("read `{object}`: it is damaged: {why}")]
    Damaged {
        /// The object.
        object: String,
        /// What is wrong with it.
        why: String,
    },
    /// An object is sealed with another key.
    #[error("open `{object}`: the libsodium key is not the one it was sealed with, or its first bytes are damaged")]
    WrongKey {
        /// The object.
        object: String,
    },
    /// Text that is no libsodium key.
    #[error("use the libsodium key: {why}")]
    InvalidKey {
        /// What is wrong with it, without any part of it.
        why: &'static str,
    },
    /// An archive holds an entry that no base backup has, or that would lead out of the target.
    #[error("unpack `{object}`: it holds `{name}`: {why}")]
    Hostile {
        /// The archive.
        object: String,
        /// The entry.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Base backups that do not belong together.
    #[error("read the base backup `{backup}`: {why}")]
    Chain {
        /// The newest of them.
        backup: String,
        /// Why not.
        why: String,
    },
    /// Something that the base backup should hold was in none of its archives.
    #[error("unpack the base backup `{backup}`: {count} files are in none of its archives, `{example}` for one")]
    Incomplete {
        /// The base backup.
        backup: String,
        /// How many.
        count: usize,
        /// One of them.
        example: String,
    },
    /// A file of the target cannot be written.
    #[error("write `{}`", path.display())]
    Target {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is no segment of this cluster's WAL.
    #[error("read the WAL segment `{object}`: {why}")]
    Segment {
        /// The segment.
        object: String,
        /// Why not.
        why: String,
    },
    /// Bytes could not be compressed or sealed.
    #[error("pack what is to be stored: {why}")]
    Pack {
        /// Why not.
        why: String,
    },
    /// A file that is to be archived cannot be read.
    #[error("read `{}`", path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The archive holds something else under the name of a file.
    #[error("archive WAL: `{object}` is there already, with other content")]
    OtherContent {
        /// The object.
        object: String,
    },
}

impl WalgError {
    /// What an error of [`super::open`]'s reader means: what reads objects says itself what it found, the
    /// rest comes from a codec.
    pub fn of_read(object: &str, error: io::Error) -> Self {
        Self::of_copy(object, Path::new(""), error)
    }

    /// The same, where what is read is written into a file.
    pub(super) fn of_copy(object: &str, path: &Path, error: io::Error) -> Self {
        let object = object.to_owned();
        match error.downcast::<Fault>() {
            Ok(Fault::Source(source)) => Self::Read { object, source },
            Ok(Fault::WrongKey) => Self::WrongKey { object },
            Ok(Fault::Cut) => Self::Cut { object },
            Ok(Fault::Damaged(why)) => Self::Damaged { object, why: why.to_owned() },
            Ok(Fault::Target(source)) => Self::Target { path: path.to_owned(), source },
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Self::Cut { object },
            Err(error) => Self::Damaged { object, why: error.to_string() },
        }
    }
}

/// What went wrong in one of a stack of readers, on its way through [`io::Error`].
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The bytes could not be had: that is not the object's fault.
    #[error("{0}")]
    Source(io::Error),
    /// The first chunk cannot be opened.
    #[error("the key is another")]
    WrongKey,
    /// It ends too early.
    #[error("it ends too early")]
    Cut,
    /// Its bytes are others.
    #[error("{0}")]
    Damaged(&'static str),
    /// What was read could not be written.
    #[error("{0}")]
    Target(io::Error),
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        let kind = match fault {
            Fault::Cut => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, fault)
    }
}

impl WalgError {
    /// Whether it says something of the bytes that were to be read or stored, and would again; anything else is of the way to them.
    pub fn is_of_content(&self) -> bool {
        use WalgError::{Cut, Damaged, Hostile, OtherContent, Segment};
        matches!(self, OtherContent { .. } | Segment { .. } | Damaged { .. } | Cut { .. } | Hostile { .. })
    }
}

impl Diagnose for WalgError {
    fn code(&self) -> &'static str {
        match self {
            Self::BackupName { .. } => "WDL-1601",
            Self::Document { .. } => "WDL-1602",
            Self::Read { .. } => "WDL-1603",
            Self::Cut { .. } => "WDL-1604",
            Self::Damaged { .. } => "WDL-1605",
            Self::WrongKey { .. } => "WDL-1606",
            Self::InvalidKey { .. } => "WDL-1607",
            Self::Hostile { .. } => "WDL-1608",
            Self::Chain { .. } => "WDL-1609",
            Self::Incomplete { .. } => "WDL-1610",
            Self::Target { .. } => "WDL-1611",
            Self::Segment { .. } => "WDL-1612",
            Self::Pack { .. } => "WDL-1613",
            Self::Source { .. } => "WDL-1614",
            Self::OtherContent { .. } => "WDL-1615",
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::BackupName { .. } => "NoBackupName",
            Self::Document { .. } => "BackupDocument",
            Self::Read { .. } => "ReadBackup",
            Self::Cut { .. } => "BackupCut",
            Self::Damaged { .. } => "BackupDamaged",
            Self::WrongKey { .. } => "WrongBackupKey",
            Self::InvalidKey { .. } => "InvalidBackupKey",
            Self::Hostile { .. } => "HostileEntry",
            Self::Chain { .. } => "BrokenChain",
            Self::Incomplete { .. } => "BackupIncomplete",
            Self::Target { .. } => "WriteTarget",
            Self::Segment { .. } => "BadSegment",
            Self::Pack { .. } => "PackFailed",
            Self::Source { .. } => "ReadSource",
            Self::OtherContent { .. } => "OtherContent",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Read { .. } => Retry::Soon,
            _ => Retry::Never,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::BackupName { .. } | Self::InvalidKey { .. } => Outcome::CouldNotRun,
            _ => Outcome::Failed,
        }
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::BackupName { .. } => "`wal-g backup-list` prints the names there are",
            Self::Document { .. } | Self::Cut { .. } | Self::Damaged { .. } | Self::Incomplete { .. } => {
                "restore from another base backup, and take a new one"
            }
            Self::Read { .. } => "check that the store is reachable, and run it again",
            Self::WrongKey { .. } => "give the key that WALG_LIBSODIUM_KEY held when it was taken",
            Self::InvalidKey { .. } => "give it as WALG_LIBSODIUM_KEY and WALG_LIBSODIUM_KEY_TRANSFORM would hold it",
            Self::Hostile { .. } => {
                "someone tampered with the base backup, or it was made by other means: do not trust it"
            }
            Self::Chain { .. } => "restore from a full base backup, or from one whose predecessors are all there",
            Self::Target { .. } => "check the space and the rights there",
            Self::Segment { .. } => {
                "compare the archive's cluster and PostgreSQL version with those of the base backup"
            }
            Self::Pack { .. } => "run it again; if it stays, report it",
            Self::Source { .. } => "let the user Windlass runs as read it: it is that of the server's user",
            Self::OtherContent { .. } => {
                "another server archives to the same place, or this one was set back; nothing was overwritten"
            }
        };
        vec![hint.to_owned()]
    }
}
