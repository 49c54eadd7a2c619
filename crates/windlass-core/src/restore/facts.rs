//! What was found in the world where something is to be restored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{CommandStep, Differences, Reach};
use crate::wal::Lsn;

/// What was found where a database is to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseFacts {
    /// The URL of the target database, without a password.
    pub url: String,
    /// The target database's name.
    pub database: String,
    /// `server_version_num` of the target.
    pub server_version: u32,
    /// Whether the database exists.
    pub exists: bool,
    /// How many tables, functions, schemas and other objects it holds.
    pub tables: u64,
    /// Whether a restore made it and did not come to its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfinished: bool,
    /// Roles that own something in the dump, or have a privilege, and that the target lacks.
    pub missing_roles: Vec<String>,
    /// Roles of policies and user mappings that the target lacks: without them those cannot be made.
    pub missing_required_roles: Vec<String>,
    /// Why the database's locale is not to be had there, where it would have to be created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing_locale: Option<String>,
    /// Collations that columns use and the target lacks.
    pub missing_collations: Vec<String>,
    /// Extensions the dump needs that the target's server does not offer.
    pub missing_extensions: Vec<String>,
}

/// What was found where files are to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderFacts {
    /// The folder, absolute.
    pub path: String,
    /// Whether it exists.
    pub exists: bool,
    /// How many entries it has.
    pub entries: u64,
    /// Bytes free on its file system.
    pub free_bytes: u64,
    /// The restore that was begun in it and killed, by its identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<String>,
}

/// What was found of a database that is to be replaced where it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveDatabase {
    /// What was found of its server; it is not said to hold anything, for another one takes its place.
    pub facts: DatabaseFacts,
    /// Its identifier in the server: another database of the same name has another one.
    pub oid: Option<u32>,
    /// What tells its server from all others, where that says so.
    pub server: Option<String>,
    /// Whether nobody is to connect to it, apart from our doing.
    pub closed: bool,
    /// Why it cannot be set aside, in words.
    pub obstacles: Vec<String>,
    /// What does not come along, in words.
    pub notes: Vec<String>,
    /// Bytes free on the server's file system, where they can be told from here.
    pub free_bytes: Option<u64>,
    /// Its own bytes on disk.
    pub bytes: u64,
    /// Bytes of WAL that its server may keep: filling a database writes as many as it has, and a server whose disk is
    /// full of them stops.
    pub wal_bytes: u64,
}

impl LiveDatabase {
    /// Bytes needed to lay down another one beside it.
    pub fn needed_bytes(&self, database_bytes: u64) -> u64 {
        database_bytes.saturating_add(database_bytes.min(self.wal_bytes))
    }
}

/// What was found of a folder or file that is to be replaced where it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivePlace {
    /// The folder or file, absolute, as it was captured.
    pub path: String,
    /// Whether the point holds it as a file.
    pub is_file: bool,
    /// Whether it is there.
    pub exists: bool,
    /// Folders below it that are mount points of their own.
    pub mounts: Vec<String>,
    /// Why its entries cannot be exchanged, in words.
    pub obstacles: Vec<String>,
    /// How it differs from what the point has of it: no part of the plan.
    pub differences: Differences,
    /// Bytes the point has of it.
    pub bytes: u64,
    /// The file system it is on.
    pub device: u64,
    /// Bytes free there.
    pub free_bytes: u64,
}

/// What was found of a server that is to be replaced as a whole where it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveServer {
    /// Its data folder.
    pub data: LivePlace,
    /// The folders of its tablespaces, and of those of the base backup, by their oid.
    pub tablespaces: BTreeMap<u32, LivePlace>,
    /// The folder that `pg_wal` is a link to, where it is one.
    pub wal: Option<LivePlace>,
    /// Its databases, where it answers.
    pub databases: Option<Vec<String>>,
    /// The database of the application: the one its URL names.
    pub own: Option<String>,
    /// How it is stopped and started.
    pub control: Option<(CommandStep, CommandStep)>,
    /// Where the moment is that was asked for.
    pub reach: Option<Reach>,
    /// Where the WAL of the archive ends, where it leads on from the base backup and no moment was asked for.
    pub goes_on: Option<Lsn>,
}

/// What was found at the target of one component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetFacts {
    /// By database of the point, as far as it is wanted.
    Databases(BTreeMap<String, DatabaseFacts>),
    /// A folder.
    Folder(FolderFacts),
    /// A folder for that of a server.
    DataFolder {
        /// The folder.
        folder: FolderFacts,
        /// Where the moment is that was asked for.
        reach: Option<Reach>,
        /// Where the WAL of the archive ends, where it leads on from the base backup and no moment was asked for.
        goes_on: Option<Lsn>,
    },
    /// By database that is taken out of a recovered server, with the folder it is recovered in.
    Extracted {
        /// Where they go, as far as that can be known before.
        databases: BTreeMap<String, DatabaseFacts>,
        /// The folder.
        place: FolderFacts,
        /// Where the moment is that was asked for.
        reach: Option<Reach>,
    },
    /// The databases that are to be replaced where they live, by database of the point.
    LiveDatabases(BTreeMap<String, LiveDatabase>),
    /// A server that is to be replaced as a whole where it lives.
    LiveServer(Box<LiveServer>),
    /// The folders and files that are to be replaced where they live.
    LivePlaces(Vec<LivePlace>),
    /// A command of the settings; whether there is one.
    Action {
        /// The command.
        command: Option<CommandStep>,
    },
}
