//! A plan and its steps.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{DatabaseFacts, Moment, Reach};
use crate::id::{PointId, RepositoryId};
use crate::name::Name;
use crate::wal::Lsn;

/// The plan of a restore: the preview, and what is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The application.
    pub application: Name,
    /// The repository it comes from.
    pub repository: RepositoryId,
    /// The point it comes from.
    pub point: PointId,
    /// The moment the point stands for.
    pub at: Timestamp,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// Components of the point that are not touched.
    pub left_out: Vec<Name>,
    /// What a person should know before confirming.
    pub warnings: Vec<String>,
    /// Of a restore in place: how long the old copies stay, in seconds; until they are removed by hand where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_seconds: Option<i64>,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "lowercase")]
pub enum Step {
    /// Fill a database from a dump.
    Database(DatabaseStep),
    /// Lay down a folder.
    Folder(FolderStep),
    /// Lay down the data folder of a server.
    #[serde(rename = "data-folder")]
    DataFolder(DataFolderStep),
    /// Fill databases from those of a server that is recovered in a scratch place.
    Extract(ExtractStep),
    /// Give an object to a command.
    Action(ActionStep),
    /// Stop the application.
    Stop(CommandStep),
    /// Put a database restored from a dump in the place of one that is there.
    #[serde(rename = "replace-database")]
    ReplaceDatabase(ReplaceDatabase),
    /// Put restored entries in the place of those that are there.
    #[serde(rename = "replace-files")]
    ReplaceFiles(ReplaceFiles),
    /// Put a recovered server in the place of the one that is there.
    #[serde(rename = "replace-server")]
    ReplaceServer(ReplaceServer),
    /// Give the application a volume made of a snapshot in the place of the one it has.
    #[serde(rename = "replace-volume")]
    ReplaceVolume(ReplaceVolume),
    /// Start the application.
    Start(CommandStep),
}

impl Step {
    /// The component it belongs to; none where it belongs to the application.
    pub fn component(&self) -> Option<&Name> {
        match self {
            Self::Database(step) => Some(&step.component),
            Self::Folder(step) => Some(&step.component),
            Self::DataFolder(step) => Some(&step.component),
            Self::Extract(step) => Some(&step.component),
            Self::Action(step) => Some(&step.component),
            Self::ReplaceDatabase(step) => Some(&step.fill.component),
            Self::ReplaceFiles(step) => Some(&step.component),
            Self::ReplaceServer(step) => Some(&step.component),
            Self::ReplaceVolume(step) => Some(&step.component),
            Self::Stop(_) | Self::Start(_) => None,
        }
    }

    /// The moment a server is brought to, where it is one that is.
    pub fn recover(&self) -> Option<&RecoverStep> {
        match self {
            Self::DataFolder(step) => step.recover.as_ref(),
            Self::Extract(step) => step.recover.as_ref(),
            Self::ReplaceServer(step) => step.recover.as_ref(),
            _ => None,
        }
    }

    /// Bytes of data it brings.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Database(step) => step.bytes,
            Self::Folder(step) => step.bytes,
            Self::DataFolder(step) => step.bytes,
            Self::Extract(step) => step.bytes,
            Self::Action(step) => step.bytes,
            Self::ReplaceDatabase(step) => step.fill.bytes,
            Self::ReplaceFiles(step) => step.bytes,
            Self::ReplaceServer(step) => step.bytes,
            Self::ReplaceVolume(step) => step.bytes,
            Self::Stop(_) | Self::Start(_) => 0,
        }
    }
}

/// Fill a database from a dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseStep {
    /// The component.
    pub component: Name,
    /// The database in the point.
    pub database: String,
    /// Its target.
    pub target: DatabaseFacts,
    /// Whether the target is created first; otherwise it is there and empty.
    pub create: bool,
    /// The relations wanted, as `schema.table` or `schema.*`; empty for all.
    pub relations: Vec<Relation>,
    /// Whether owners and privileges are set as in the dump.
    pub owners: bool,
    /// Tables that will be there, as far as known before the dump is read.
    pub tables: u64,
    /// Rows that will be there; at least, where some were only estimated.
    pub rows: u64,
    /// Bytes of the database on its server's disk when it was captured: about the space needed.
    pub bytes: u64,
}

/// A relation, or all of a schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relation {
    /// The schema.
    pub schema: String,
    /// The table; all of the schema where absent.
    pub table: Option<String>,
}

/// Lay down a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderStep {
    /// The component.
    pub component: Name,
    /// The restic snapshot.
    pub snapshot: String,
    /// The folder of the snapshot whose content goes directly into the target; where absent, whole paths go below it.
    pub strip: Option<String>,
    /// Its target.
    pub target: String,
    /// Whether the target is created first; otherwise it is there and empty.
    pub create: bool,
    /// Files that will be there.
    pub files: u64,
    /// Folders that will be there.
    pub folders: u64,
    /// Bytes that will be there.
    pub bytes: u64,
}

/// Lay down a base backup, and the WAL that makes it consistent: `data` and `tablespace-<oid>` in the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFolderStep {
    /// The component.
    pub component: Name,
    /// The base backup.
    pub backup: String,
    /// The identifier of its cluster.
    pub server: String,
    /// Its target.
    pub target: String,
    /// Whether the target is created first; otherwise it is there and empty.
    pub create: bool,
    /// Whether it was begun before, and killed: it goes on where it was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub goes_on: bool,
    /// The major version of the server that can be started on it.
    pub major: u32,
    /// Up to where it is replayed by the WAL that came with it.
    pub until: Lsn,
    /// The moment it is then brought to, by the WAL of the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recover: Option<RecoverStep>,
    /// Whether it becomes a standby, which follows the archive for as long as it runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub standby: bool,
    /// The tablespaces that have a folder of their own, by their oid.
    pub tablespaces: Vec<u32>,
    /// Settings that lay outside of the data folder, by their paths: they will be in `settings`, and nothing uses them there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<String>,
    /// The databases that will be there.
    pub databases: Vec<String>,
    /// Bytes that will be there, but for those of the WAL.
    pub bytes: u64,
}

impl DataFolderStep {
    /// What tells it from all others, however far it came and by whatever name its moment was asked for: SHA-256, in hex.
    pub fn identity(&self) -> String {
        let recover = self.recover.clone().map(|step| RecoverStep { asked: Moment::Newest, ..step });
        let same = Self { create: true, goes_on: false, recover, ..self.clone() };
        crate::hex::sha256(&serde_json::to_vec(&same).unwrap_or_default())
    }
}

/// Recover a server in a scratch place, and fill databases of another from databases of it. What they hold is known only then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtractStep {
    /// The component.
    pub component: Name,
    /// The base backup.
    pub backup: String,
    /// The major version of the server that recovers.
    pub major: u32,
    /// Up to where it is replayed by the WAL that came with it.
    pub until: Lsn,
    /// The moment it is then brought to, by the WAL of the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recover: Option<RecoverStep>,
    /// What is taken out of it.
    pub databases: Vec<ExtractedDatabase>,
    /// The folder the scratch place is made in.
    pub place: String,
    /// Bytes that are laid down there, but for those of the WAL.
    pub bytes: u64,
}

/// A database that is filled from one of a recovered server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtractedDatabase {
    /// What it is called in that server.
    pub database: String,
    /// Where it goes, as far as that can be known before.
    pub target: DatabaseFacts,
    /// Whether the target is created first; otherwise it is there and empty.
    pub create: bool,
    /// The relations wanted, as `schema.table` or `schema.*`; empty for all.
    pub relations: Vec<Relation>,
}

/// Recover a server on a data folder that was laid down, up to a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoverStep {
    /// The moment that was asked for.
    pub asked: Moment,
    /// Where that is.
    pub reach: Reach,
    /// Bytes of WAL that are replayed.
    pub wal_bytes: u64,
    /// Whether it stays there, to be read, until somebody has it go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

/// Give an object to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionStep {
    /// The component.
    pub component: Name,
    /// The command.
    #[serde(flatten)]
    pub command: CommandStep,
    /// Bytes it gets on its standard input.
    pub bytes: u64,
}

/// A command of the settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandStep {
    /// The command's program.
    pub program: String,
    /// SHA-256 of the whole command, in hex: another command is another plan.
    pub command: String,
}

impl CommandStep {
    /// The command of a program and its arguments. They are not shown: they may hold what is not to be seen.
    pub fn of(argv: &[String]) -> Self {
        let program = argv.first().cloned().unwrap_or_default();
        Self { program, command: crate::hex::sha256(argv.join("\0").as_bytes()) }
    }
}

/// What becomes of what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Old {
    /// Nothing is there.
    None,
    /// It is set aside and stays until the grace ends: the undo.
    Kept,
    /// It is deleted before the new one is laid down, for there is no room for both.
    Deleted,
}

/// Put a database restored from a dump in the place of one that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaceDatabase {
    /// How the new one is filled; its target is the database that is replaced.
    #[serde(flatten)]
    pub fill: DatabaseStep,
    /// The identifier of the one that is there.
    pub oid: Option<u32>,
    /// What tells its server from all others, where that says so: its system identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Whether nobody is to connect to the one that is there: then so it is when it is put back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
    /// What becomes of it.
    pub old: Old,
}

/// Put restored entries in the place of those that are there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaceFiles {
    /// The component.
    pub component: Name,
    /// The restic snapshot.
    pub snapshot: String,
    /// The folders and files.
    pub places: Vec<FilesPlace>,
    /// What matches these patterns is not touched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Files that will be there.
    pub files: u64,
    /// Folders that will be there.
    pub folders: u64,
    /// Bytes that will be there.
    pub bytes: u64,
    /// What becomes of what is there.
    pub old: Old,
}

/// Put a server that was recovered beside it in the place of one that is there: its data folder, its tablespaces, its WAL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaceServer {
    /// The component.
    pub component: Name,
    /// The base backup.
    pub backup: String,
    /// The identifier of its cluster.
    pub server: String,
    /// The major version of the server.
    pub major: u32,
    /// Up to where it is replayed by the WAL that came with it.
    pub until: Lsn,
    /// The moment it is then brought to, by the WAL of the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recover: Option<RecoverStep>,
    /// How the one that is there is stopped.
    pub stop: CommandStep,
    /// How the new one is started.
    pub start: CommandStep,
    /// The data folder.
    pub data: FilesPlace,
    /// The folders of tablespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tablespaces: Vec<TablespacePlace>,
    /// The folder that `pg_wal` is a link to, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal: Option<FilesPlace>,
    /// The databases that will be there.
    pub databases: Vec<String>,
    /// Those that are there and will not be.
    pub gone: Vec<String>,
    /// Bytes that will be there, but for those of the WAL.
    pub bytes: u64,
    /// What becomes of what is there.
    pub old: Old,
}

/// The folder of a tablespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablespacePlace {
    /// The tablespace.
    pub oid: u32,
    /// Its folder.
    pub place: FilesPlace,
}

impl ReplaceServer {
    /// All its folders, that of its data first.
    pub fn places(&self) -> impl Iterator<Item = &FilesPlace> {
        let tablespaces = self.tablespaces.iter().map(|tablespace| &tablespace.place);
        std::iter::once(&self.data).chain(tablespaces).chain(&self.wal)
    }
}

/// Give the application a volume made of a snapshot in the place of the one it has, which stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaceVolume {
    /// The component.
    pub component: Name,
    /// The snapshot.
    pub snapshot: String,
    /// When it was taken.
    pub taken: Timestamp,
    /// The claim that the application has now, where it has one.
    pub old: Option<String>,
    /// The claim that is made.
    pub new: String,
    /// Bytes of the new volume.
    pub bytes: u64,
}

/// A folder whose entries are replaced, or a file that is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesPlace {
    /// The folder or file, absolute.
    pub path: String,
    /// Whether it is a file.
    pub is_file: bool,
    /// Whether it is there.
    pub exists: bool,
    /// Folders below it that are mount points of their own: they stay, and their entries are replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<String>,
}

impl Plan {
    /// The plan's digest: SHA-256 of its JSON, in hex.
    pub fn digest(&self) -> String {
        // Plain data with text keys: this cannot fail, and an empty text would never be confirmed by accident.
        crate::hex::sha256(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// Bytes of data it brings.
    pub fn bytes(&self) -> u64 {
        self.steps.iter().map(Step::bytes).sum()
    }

    /// The moment it goes back to: that of the point, where no server is brought to a later one, and the earliest where parts of it go
    /// back to several.
    pub fn moment(&self) -> Timestamp {
        let of = |step: &Step| match step {
            Step::ReplaceServer(ReplaceServer { recover: Some(step), .. }) => step.reach.last.unwrap_or(self.at),
            _ => self.at,
        };
        self.steps.iter().filter(|step| step.component().is_some()).map(of).min().unwrap_or(self.at)
    }

    /// Whether it replaces servers as a whole.
    pub fn replaces_servers(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::ReplaceServer(_)))
    }

    /// Whether it replaces what is there.
    pub fn is_in_place(&self) -> bool {
        let replaces = |step: &Step| match step {
            Step::ReplaceDatabase(_) | Step::ReplaceFiles(_) | Step::ReplaceServer(_) | Step::ReplaceVolume(_) => true,
            Step::Database(_) | Step::Folder(_) | Step::DataFolder(_) | Step::Extract(_) => false,
            Step::Action(_) | Step::Stop(_) | Step::Start(_) => false,
        };
        self.steps.iter().any(replaces)
    }
}
