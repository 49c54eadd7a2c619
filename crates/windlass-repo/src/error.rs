//! What can go wrong with a repository as a whole.

use std::path::PathBuf;

use windlass_core::diagnose::{Diagnose, Outcome, Retry};
use windlass_core::id::{PointId, RepositoryId, WriterId};
use windlass_core::name::Name;

use crate::keyring::KeyError;
use crate::random::NoRandomness;
use crate::sign::DocumentError;
use crate::store::{Key, StoreError};

/// An operation on a repository that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// Nothing is there.
    #[error("open the repository in {store}: there is none")]
    Missing {
        /// Where.
        store: String,
    },
    /// A repository was there, and is not any more.
    #[error("open the repository in {store}: it was {known} when last seen, and now there is none")]
    Vanished {
        /// Where.
        store: String,
        /// The repository this host knows.
        known: RepositoryId,
    },
    /// Another repository is there.
    #[error("open the repository in {store}: it is {found}, but this host knows {known} there")]
    Replaced {
        /// Where.
        store: String,
        /// The repository this host knows.
        known: RepositoryId,
        /// The one that is there.
        found: RepositoryId,
    },
    /// Something else is there.
    #[error("make a repository in {store}: other objects are there, `{example}` for one")]
    Foreign {
        /// Where.
        store: String,
        /// One of the objects.
        example: Key,
    },
    /// One is there already.
    #[error("make a repository in {store}: {found} is there already")]
    Exists {
        /// Where.
        store: String,
        /// The one that is there.
        found: RepositoryId,
    },
    /// A document cannot be accepted.
    #[error("read `{key}`")]
    Document {
        /// The document.
        key: Key,
        /// Why not.
        source: DocumentError,
    },
    /// A document is not the one another names.
    #[error("read `{key}`: its SHA-256 is not the one its recovery point names")]
    Digest {
        /// The document.
        key: Key,
    },
    /// A document says it belongs elsewhere.
    #[error("read `{key}`: what it says is about something else than its key")]
    Misplaced {
        /// The document.
        key: Key,
    },
    /// A document could not be written.
    #[error("write a document")]
    Write(#[source] DocumentError),
    /// Nobody vouches for a writer.
    #[error("trust `{key}`: nobody who holds the keyring of {application} has vouched for its writer {writer}")]
    NotEndorsed {
        /// The document.
        key: Key,
        /// Its writer.
        writer: WriterId,
        /// The application.
        application: Name,
    },
    /// A second writer, where the store cannot keep two apart.
    #[error(
        "write for {application}: {first} on {host} writes it already, and this store has no create-only writes to keep two apart"
    )]
    SecondWriter {
        /// The application.
        application: Name,
        /// The writer that was there first.
        first: WriterId,
        /// Its host.
        host: String,
    },
    /// Another keyring has appeared, which this host cannot open to see whose it is.
    #[error("seal to the keyring of {application}: the newest is for {found} now, and this host has sealed to {known}")]
    OtherRecipient {
        /// The application.
        application: Name,
        /// The recipient this host knows.
        known: String,
        /// The one that is there.
        found: String,
    },
    /// This host's writer was retired.
    #[error("write for {application}: this host's writer {writer} was retired")]
    Retired {
        /// The application.
        application: Name,
        /// The writer.
        writer: WriterId,
    },
    /// There is no such point.
    #[error("find the recovery point {point} of {application}: there is none")]
    NoPoint {
        /// The point.
        point: PointId,
        /// The application.
        application: Name,
    },
    /// The writer's key on this host cannot be read or made.
    #[error("use the signing key `{}`", path.display())]
    WriterKey {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What this host remembers cannot be read or written.
    #[error("use the file `{}`", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A keyring.
    #[error(transparent)]
    Key(KeyError),
    /// No randomness.
    #[error(transparent)]
    Randomness(NoRandomness),
    /// The store.
    #[error(transparent)]
    Store(StoreError),
}

impl Diagnose for RepositoryError {
    fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "WDL-1210",
            Self::Vanished { .. } => "WDL-1211",
            Self::Replaced { .. } => "WDL-1212",
            Self::Foreign { .. } => "WDL-1213",
            Self::Exists { .. } => "WDL-1214",
            Self::Document { .. } => "WDL-1215",
            Self::Digest { .. } => "WDL-1216",
            Self::Misplaced { .. } => "WDL-1217",
            Self::Write(_) => "WDL-1218",
            Self::NotEndorsed { .. } => "WDL-1219",
            Self::NoPoint { .. } => "WDL-1220",
            Self::WriterKey { .. } => "WDL-1221",
            Self::State { .. } => "WDL-1222",
            Self::SecondWriter { .. } => "WDL-1223",
            Self::Retired { .. } => "WDL-1224",
            Self::OtherRecipient { .. } => "WDL-1225",
            Self::Randomness(_) => "WDL-1509",
            Self::Key(error) => error.code(),
            Self::Store(error) => error.code(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "RepositoryMissing",
            Self::Vanished { .. } => "RepositoryVanished",
            Self::Replaced { .. } => "RepositoryReplaced",
            Self::Foreign { .. } => "ForeignObjects",
            Self::Exists { .. } => "RepositoryExists",
            Self::Document { .. } => "DocumentDamaged",
            Self::Digest { .. } => "DocumentReplaced",
            Self::Misplaced { .. } => "DocumentMisplaced",
            Self::Write(_) => "WriteDocument",
            Self::NotEndorsed { .. } => "WriterNotEndorsed",
            Self::NoPoint { .. } => "NoSuchPoint",
            Self::WriterKey { .. } => "WriterKey",
            Self::State { .. } => "HostState",
            Self::SecondWriter { .. } => "SecondWriter",
            Self::Retired { .. } => "WriterRetired",
            Self::OtherRecipient { .. } => "RecipientChanged",
            Self::Randomness(_) => "NoRandomness",
            Self::Key(error) => error.reason(),
            Self::Store(error) => error.reason(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Store(error) => error.retry(),
            Self::Key(error) => error.retry(),
            _ => Retry::Never,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Document { .. }
            | Self::Digest { .. }
            | Self::Misplaced { .. }
            | Self::NotEndorsed { .. }
            | Self::Write(_) => Outcome::Failed,
            Self::Store(error) => error.outcome(),
            Self::Key(error) => error.outcome(),
            _ => Outcome::CouldNotRun,
        }
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Missing { .. } => "run `windlass repo init` to make one, or correct the repository's url".to_owned(),
            Self::Vanished { .. } => "look at the store: its disk may not be mounted, the bucket may be another one, or someone emptied it. Windlass never makes a repository anew by itself".into(),
            Self::Replaced { .. } => "point the settings at the right place; if the change was meant, give the repository another name in the settings".into(),
            Self::Foreign { .. } => "choose an empty place or another prefix".into(),
            Self::Exists { .. } => "nothing needs to be done to use it".into(),
            Self::Document { source: DocumentError::TooNew(_), .. } => "use a newer Windlass".into(),
            Self::Document { .. } | Self::Digest { .. } | Self::Misplaced { .. } => {
                "run `windlass repo check` to see what this costs, and restore from another point".into()
            }
            Self::NotEndorsed { .. } => "if the writer is yours, run `windlass repo keys enroll` where the keyring can be opened".into(),
            Self::NoPoint { .. } => "run `windlass points` to see those there are".into(),
            Self::WriterKey { .. } | Self::State { .. } => "check that the user Windlass runs as may read and write the state folder".into(),
            Self::SecondWriter { first, .. } => format!("use a store with conditional writes; or, if that host is gone for good, run `windlass repo keys retire {first}`"),
            Self::OtherRecipient { .. } => "if you sealed it anew, or made another, remove this application's file in `recipients/` of the state folder; if you did not, someone else writes to the store".into(),
            Self::Retired { .. } => "to begin as a new writer, remove this application's file in `writers/` of the state folder".into(),
            Self::Write(_) | Self::Randomness(_) => "run it again".into(),
            Self::Key(error) => return error.hints(),
            Self::Store(error) => return error.hints(),
        };
        vec![hint]
    }
}
