//! What is protected: an application and its components, as the settings describe them.

use std::path::PathBuf;

use jiff::SignedDuration;

use crate::name::Name;
use crate::secret::SecretRef;
use crate::wal::Compression;

/// An application: what is backed up, restored and judged as one.
#[derive(Clone, Debug, PartialEq)]
pub struct Application {
    /// Its name, unique in the settings and in its repository.
    pub name: Name,
    /// The repository that holds its recovery points.
    pub repository: Name,
    /// The policy that says how often and how long; without one nothing is scheduled and everything is kept.
    pub policy: Option<Name>,
    /// How it is stopped and started around a restore in place.
    pub control: Option<Control>,
    /// Hooks around the capture of all components.
    pub hooks: Hooks,
    /// What must hold after a restore.
    pub checks: Vec<Check>,
    /// How long the old copy stays after a restore in place.
    pub undo: Option<SignedDuration>,
    /// Its components, in the order of capture: every component stands behind those named in its `after`.
    pub components: Vec<Component>,
}

impl Application {
    /// The components whose WAL is archived, with their servers.
    pub fn archiving(&self) -> impl Iterator<Item = (&Name, &Physical)> {
        self.components.iter().filter_map(|component| match &component.strategy {
            Strategy::Physical(source) if source.archives => Some((&component.name, source)),
            _ => None,
        })
    }
}

/// Commands that stop and start something; each an argument vector, run without a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Ends it.
    pub stop: Vec<String>,
    /// Starts it again.
    pub start: Vec<String>,
}

/// Commands before and after a capture. `after` runs whatever happened, also when Windlass was killed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Run in order before the capture; the first that fails ends the run.
    pub before: Vec<Hook>,
    /// Run in order after the capture, every one of them, even if an earlier one fails.
    pub after: Vec<Hook>,
}

impl Hooks {
    /// Whether there is nothing to run.
    pub fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }
}

/// One command and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The argument vector, run without a shell.
    pub run: Vec<String>,
    /// After this it is ended and counts as failed.
    pub timeout: SignedDuration,
}

/// Something that must be true of a restored application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A query against a `postgres` component; its first column of its first row must be true.
    Sql {
        /// The component it is asked of.
        component: Name,
        /// The query.
        sql: String,
    },
    /// A query against a `postgres` component whose first column names files of a `disk` component: those that are
    /// missing are reported, and no failure. Only asked after a restore in place.
    Files {
        /// The component it is asked of.
        component: Name,
        /// The query.
        sql: String,
        /// The component that has the files.
        files: Name,
    },
    /// A GET that must answer with a 2xx status, tried until a minute has passed.
    /// Only asked where the application itself runs: after a restore in place.
    Http {
        /// The address, `http` or `https`.
        url: String,
    },
}

/// One part of an application.
#[derive(Clone, Debug, PartialEq)]
pub struct Component {
    /// Its name, unique in the application.
    pub name: Name,
    /// Components captured before this one; restored after it.
    pub after: Vec<Name>,
    /// Its own policy, where it differs from the application's.
    pub policy: Option<Name>,
    /// Hooks around the capture of this component alone.
    pub hooks: Hooks,
    /// How its data are captured and restored.
    pub strategy: Strategy,
}

/// How a component's data are captured and restored.
#[derive(Clone, Debug, PartialEq)]
pub enum Strategy {
    /// Databases of a PostgreSQL server, dumped by `pg_dump`.
    Postgres(Postgres),
    /// A PostgreSQL server, all of it, by base backups.
    Physical(Physical),
    /// Directories and files.
    Disk(Disk),
    /// Commands of the user's own.
    Action(Action),
}

impl Strategy {
    /// The word for it in settings, manifests and on the screen.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Postgres(_) | Self::Physical(_) => "postgres",
            Self::Disk(_) => "disk",
            Self::Action(_) => "action",
        }
    }
}

/// A PostgreSQL server and which of its databases are wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Postgres {
    /// A libpq connection URI without a password.
    pub url: String,
    /// The password, where one is needed.
    pub password: Option<SecretRef>,
    /// Which databases.
    pub databases: Databases,
    /// Whether owners, privileges and the roles of the server are captured with the data.
    pub owners: bool,
    /// A command the client tools are run through, such as `docker compose exec -T postgres`. Empty: run directly.
    pub via: Vec<String>,
}

/// A PostgreSQL server whose data folder is at hand.
#[derive(Clone, Debug, PartialEq)]
pub struct Physical {
    /// How it is reached: all its databases are meant.
    pub server: Postgres,
    /// Its data folder, as it is mounted on this machine, absolute; where the server says it is, where there is none.
    pub data_directory: Option<PathBuf>,
    /// Whether its `archive_command` brings all its WAL into the repository; otherwise each base backup has its own alone.
    pub archives: bool,
    /// Bytes of WAL that may wait on this machine where its store is away; none where there is none.
    pub spool: u64,
    /// How base backups and WAL are compressed.
    pub compression: Compression,
    /// How it is stopped and started.
    pub control: Option<Control>,
}

/// Which databases of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Databases {
    /// The one named in the URL.
    Named,
    /// Every one that allows connections and is no template.
    All,
}

/// Directories and files on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Absolute paths; at least one.
    pub paths: Vec<PathBuf>,
    /// Patterns of gitignore's kind; what they match is left out.
    pub exclude: Vec<String>,
}

/// Commands of the user's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Its standard output is the backup.
    pub backup: Vec<String>,
    /// Gets the backup on its standard input.
    pub restore: Option<Vec<String>>,
    /// Gets the backup on its standard input and says by how it ends whether it could be restored; acts on nothing.
    pub rehearse: Option<Vec<String>>,
    /// After this it is ended and counts as failed.
    pub timeout: SignedDuration,
}
