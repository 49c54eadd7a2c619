//! Why a restore is not planned.

use crate::diagnose::{Diagnose, Outcome};
use crate::name::Name;
use crate::restore::Moment;
use crate::size;

/// A restore that would not do what was asked, or would harm something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing is meant.
    #[error("plan the restore: no component has a target; the point holds {}", list(known))]
    Nothing {
        /// The components of the point.
        known: Vec<Name>,
    },
    /// The point has no such component.
    #[error("plan the restore: the point has no component `{name}`; it holds {}", list(known))]
    NoComponent {
        /// The component asked for.
        name: Name,
        /// The components of the point.
        known: Vec<Name>,
    },
    /// It was selected, but goes nowhere.
    #[error("plan the restore: `{component}` has no target")]
    NoTarget {
        /// The component.
        component: Name,
    },
    /// It has a target, but was not selected.
    #[error("plan the restore: `{component}` has a target, but `--only` does not name it")]
    NotSelected {
        /// The component.
        component: Name,
    },
    /// It has no databases.
    #[error("plan the restore: `{component}` has no databases to choose from")]
    NoDatabases {
        /// The component.
        component: Name,
    },
    /// It has no such database.
    #[error("plan the restore: `{component}` has no database `{database}` in this point; it has {}", known.join(", "))]
    NoDatabase {
        /// The component.
        component: Name,
        /// The database asked for.
        database: String,
        /// The databases there are.
        known: Vec<String>,
    },
    /// The settings name no command that takes it back.
    #[error("plan the restore: the settings name no `restore` command for `{component}`")]
    NoRestoreCommand {
        /// The component.
        component: Name,
    },
    /// The target is a server of an older major version.
    #[error("plan the restore: {database} comes from PostgreSQL {ours}, and the target is PostgreSQL {theirs}")]
    OlderServer {
        /// The database.
        database: String,
        /// The target's major version.
        theirs: u32,
        /// The source's major version.
        ours: u32,
    },
    /// The target database holds tables.
    #[error(
        "plan the restore: the target database `{database}` is not empty: it holds {tables} tables, functions, schemas or other objects"
    )]
    DatabaseNotEmpty {
        /// The target.
        database: String,
        /// How many tables it has.
        tables: u64,
    },
    /// The target's server lacks extensions.
    #[error("plan the restore: the target's server does not have the extensions {} that {database} needs", extensions.join(", "))]
    MissingExtensions {
        /// The database.
        database: String,
        /// The extensions.
        extensions: Vec<String>,
    },
    /// The target's server lacks roles that policies or user mappings name.
    #[error("plan the restore: the target's server does not have the roles {} that policies or user mappings of {database} name", roles.join(", "))]
    MissingRoles {
        /// The database.
        database: String,
        /// The roles.
        roles: Vec<String>,
    },
    /// The target's server does not have the database's locale.
    #[error("plan the restore: the locale of {database} is not to be had on the target's server: {why}")]
    MissingLocale {
        /// The database.
        database: String,
        /// What its server says.
        why: String,
    },
    /// The target's server lacks collations that columns use.
    #[error("plan the restore: the target's server does not have the collations {} that columns of {database} use", collations.join(", "))]
    MissingCollations {
        /// The database.
        database: String,
        /// The collations.
        collations: Vec<String>,
    },
    /// The dump holds no such relation.
    #[error("plan the restore: {database} holds no {schema}.{table} in this point")]
    NoRelation {
        /// The database.
        database: String,
        /// The schema asked for.
        schema: String,
        /// The table asked for, or `*`.
        table: String,
    },
    /// An earlier restore did not end.
    #[error("plan the restore: the target database `{database}` was left by a restore that did not come to its end")]
    Unfinished {
        /// The target.
        database: String,
    },
    /// The target is no place for a restore.
    #[error("plan the restore: the target `{path}` {why}")]
    BadTarget {
        /// The target.
        path: String,
        /// Why not.
        why: &'static str,
    },
    /// The target folder holds something.
    #[error("plan the restore: the target folder `{path}` is not empty: it has {entries} entries")]
    FolderNotEmpty {
        /// The target.
        path: String,
        /// How many entries it has.
        entries: u64,
    },
    /// A table cannot be put back alone in place.
    #[error("plan the restore: single tables of {database} are not replaced in place, where others refer to them")]
    RelationInPlace {
        /// The database.
        database: String,
    },
    /// The settings do not have the component, so that nobody knows where it lives.
    #[error(
        "plan the restore: the settings do not have `{what}`, which the point holds, so that nobody knows where it lives"
    )]
    NotInSettings {
        /// The component, or a path of one.
        what: String,
    },
    /// Single databases of a server, which are not put in the place of those that are there.
    #[error("plan the restore: {component} is a server as a whole, and single databases of it are restored aside only")]
    OnlyAside {
        /// The component.
        component: Name,
    },
    /// Nobody knows how a server is stopped and started.
    #[error("plan the restore: the settings do not say how the server of {component} is stopped and started")]
    NoServerControl {
        /// The component.
        component: Name,
    },
    /// A server has databases of others.
    #[error("plan the restore: the server of {component} is restored as a whole, with the databases {} of others", others.join(", "))]
    SharedServer {
        /// The component.
        component: Name,
        /// The databases.
        others: Vec<String>,
    },
    /// A server cannot be brought to the moment.
    #[error("bring {component} to {moment}, from the base backup {backup}: {why}")]
    NoMoment {
        /// The component.
        component: Name,
        /// The moment.
        moment: Moment,
        /// The base backup it was tried from.
        backup: String,
        /// Why not.
        why: String,
        /// Whether an older base backup may do.
        older_may_do: bool,
    },
    /// There is no server here that could recover it.
    #[error("recover {component}: PostgreSQL {major} is not installed on this machine")]
    NoServer {
        /// The component.
        component: Name,
        /// The version that is needed.
        major: u32,
    },
    /// Single databases are to go somewhere that is no server.
    #[error("plan the restore: single databases of {component} go into a server, and `{target}` is no URL of one")]
    NotAServer {
        /// The component.
        component: Name,
        /// The target.
        target: String,
    },
    /// A server as a whole is to go into another one.
    #[error("plan the restore: {component} is a whole server, which goes into a folder, and `{target}` is a URL")]
    WholeServer {
        /// The component.
        component: Name,
        /// The target.
        target: String,
    },
    /// Another restore was begun there and killed.
    #[error(
        "plan the restore: in `{path}` another restore was begun and did not come to its end: it is of another moment, or another base backup"
    )]
    BegunThere {
        /// The target.
        path: String,
    },
    /// A standby is wanted of what is none.
    #[error("plan the restore: none of what is restored is a server as a whole, and only one becomes a standby")]
    NoStandby,
    /// One is to stay where it is brought to, of what is brought nowhere.
    #[error(
        "plan the restore: none of what is restored is a server that is recovered to a moment, and only one can be left paused"
    )]
    NonePaused,
    /// Something stands in the way of replacing it.
    #[error("plan the restore: {what} cannot be replaced in place: {why}")]
    NotReplaceable {
        /// What.
        what: String,
        /// Why not.
        why: String,
    },
    /// What is there could not be kept.
    #[error("plan the restore: there would be no undo for {what}: {why}")]
    NoUndo {
        /// The component.
        what: String,
        /// Why not.
        why: &'static str,
    },
    /// There is room for the new copy only once the old one is gone.
    #[error("plan the restore: {path} has {} free, and {} are needed beside what is there", size::display(*free), size::display(*needed))]
    NoRoomForTwo {
        /// Where.
        path: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// Several things stand in the way.
    #[error("plan the restore: {} things stand in the way: {}", all.len(), together(all))]
    Several {
        /// Each of them.
        all: Vec<Self>,
    },
    /// The target's file system is too small.
    #[error("plan the restore: `{path}` has {} free, and {} are needed", size::display(*free), size::display(*needed))]
    NoSpace {
        /// The target.
        path: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
}

fn together(all: &[Refusal]) -> String {
    let texts = all.iter().map(ToString::to_string);
    let texts: Vec<String> =
        texts.map(|text| text.strip_prefix("plan the restore: ").map_or(text.clone(), str::to_owned)).collect();
    texts.join("; ")
}

fn list(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

impl Diagnose for Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::Nothing { .. } => "WDL-0251",
            Self::NoComponent { .. } => "WDL-0252",
            Self::NoTarget { .. } => "WDL-0253",
            Self::NotSelected { .. } => "WDL-0254",
            Self::NoDatabases { .. } => "WDL-0255",
            Self::NoDatabase { .. } => "WDL-0256",
            Self::NoRestoreCommand { .. } => "WDL-0257",
            Self::OlderServer { .. } => "WDL-0258",
            Self::DatabaseNotEmpty { .. } => "WDL-0259",
            Self::MissingExtensions { .. } => "WDL-0260",
            Self::FolderNotEmpty { .. } => "WDL-0261",
            Self::NoSpace { .. } => "WDL-0262",
            Self::MissingRoles { .. } => "WDL-0263",
            Self::MissingLocale { .. } => "WDL-0264",
            Self::MissingCollations { .. } => "WDL-0265",
            Self::NoRelation { .. } => "WDL-0266",
            Self::Unfinished { .. } => "WDL-0267",
            Self::BadTarget { .. } => "WDL-0268",
            Self::RelationInPlace { .. } => "WDL-0269",
            Self::NotInSettings { .. } => "WDL-0270",
            Self::OnlyAside { .. } => "WDL-0285",
            Self::NoMoment { .. } => "WDL-0286",
            Self::NoServer { .. } => "WDL-0287",
            Self::NotAServer { .. } => "WDL-0288",
            Self::WholeServer { .. } => "WDL-0289",
            Self::NoServerControl { .. } => "WDL-0290",
            Self::SharedServer { .. } => "WDL-0291",
            Self::NoStandby => "WDL-0292",
            Self::NonePaused => "WDL-0294",
            Self::BegunThere { .. } => "WDL-0293",
            Self::NotReplaceable { .. } => "WDL-0271",
            Self::NoUndo { .. } => "WDL-0272",
            Self::NoRoomForTwo { .. } => "WDL-0273",
            Self::Several { .. } => "WDL-0274",
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Nothing { .. } => "NothingToRestore",
            Self::NoComponent { .. } => "NoSuchComponent",
            Self::NoTarget { .. } => "NoTarget",
            Self::NotSelected { .. } => "TargetNotSelected",
            Self::NoDatabases { .. } => "NoDatabases",
            Self::NoDatabase { .. } => "NoSuchDatabase",
            Self::NoRestoreCommand { .. } => "NoRestoreCommand",
            Self::OlderServer { .. } => "OlderServer",
            Self::DatabaseNotEmpty { .. } => "DatabaseNotEmpty",
            Self::MissingExtensions { .. } => "MissingExtensions",
            Self::FolderNotEmpty { .. } => "FolderNotEmpty",
            Self::NoSpace { .. } => "NoSpace",
            Self::MissingRoles { .. } => "MissingRoles",
            Self::MissingLocale { .. } => "MissingLocale",
            Self::MissingCollations { .. } => "MissingCollations",
            Self::NoRelation { .. } => "NoSuchRelation",
            Self::Unfinished { .. } => "UnfinishedRestore",
            Self::BadTarget { .. } => "BadTarget",
            Self::RelationInPlace { .. } => "RelationInPlace",
            Self::NotInSettings { .. } => "NotInSettings",
            Self::OnlyAside { .. } => "OnlyAside",
            Self::NoMoment { .. } => "NoSuchMoment",
            Self::NoServer { .. } => "NoServer",
            Self::NotAServer { .. } => "NotAServer",
            Self::WholeServer { .. } => "WholeServer",
            Self::NoServerControl { .. } => "NoServerControl",
            Self::SharedServer { .. } => "SharedServer",
            Self::NoStandby => "NoStandby",
            Self::NonePaused => "NonePaused",
            Self::BegunThere { .. } => "BegunThere",
            Self::NotReplaceable { .. } => "NotReplaceable",
            Self::NoUndo { .. } => "NoUndo",
            Self::NoRoomForTwo { .. } => "NoRoomForTwo",
            Self::Several { .. } => "SeveralFindings",
        }
    }

    fn outcome(&self) -> Outcome {
        Outcome::CouldNotRun
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Several { all } => {
                let mut hints = Vec::new();
                for hint in all.iter().flat_map(Diagnose::hints) {
                    if !hints.contains(&hint) {
                        hints.push(hint);
                    }
                }
                return hints;
            }
            Self::Nothing { .. } | Self::NoTarget { .. } => {
                "say where it goes: `--into COMPONENT=TARGET`, a database URL or a folder"
            }
            Self::NoComponent { .. } | Self::NoDatabase { .. } | Self::NoDatabases { .. } => {
                "run `windlass points APP` to see what the points hold"
            }
            Self::NotSelected { .. } => "name it in `--only` as well, or leave its `--into` out",
            Self::NoRestoreCommand { .. } => {
                "add `restore = [ … ]` to the component in the settings; without settings, step 5 of the repository's README.txt"
            }
            Self::OlderServer { .. } => "restore into a server of the same or a newer major version",
            Self::DatabaseNotEmpty { .. } => {
                "name a database that does not exist yet: it is created; nothing that is there is ever overwritten"
            }
            Self::MissingExtensions { .. } => "install the extensions' packages on the target's server",
            Self::FolderNotEmpty { .. } => {
                "name a folder that does not exist yet: it is created; nothing that is there is ever overwritten"
            }
            Self::MissingRoles { .. } => {
                "create the roles there: `create role NAME nologin` is enough; or restore the globals of the point first"
            }
            Self::MissingLocale { .. } => {
                "install the locale on the target's server; or create the database there yourself, with another, and restore into it while it is empty"
            }
            Self::MissingCollations { .. } => {
                "install the locales on the target's server, and run `select pg_import_system_collations('pg_catalog')` there"
            }
            Self::NoRelation { .. } => "check the name and its quoting; `SCHEMA.*` takes all of a schema",
            Self::Unfinished { .. } => {
                "Windlass made it and nothing else is in it: drop it (`dropdb NAME`), or name another"
            }
            Self::BadTarget { .. } => "name a folder of its own that does not exist yet",
            Self::RelationInPlace { .. } => {
                "restore them aside with `--into`, and carry the rows over by SQL; or replace the whole database"
            }
            Self::NotInSettings { .. } => {
                "add it to the settings, leave it out with `--only`, or restore it aside with `--into`"
            }
            Self::OnlyAside { .. } => {
                "restore it aside (`--into COMPONENT=postgresql://…`), and carry it over by SQL; or replace the whole server"
            }
            Self::NoServerControl { .. } => {
                "add `control = { stop = [ … ], start = [ … ] }` to the component; or restore it aside, `--into COMPONENT=/FOLDER`"
            }
            Self::SharedServer { .. } => {
                "say `--cluster` where all of them may go back to that moment; or restore single databases aside: `--only COMPONENT/DATABASE --into COMPONENT=postgresql://…`"
            }
            Self::NoMoment { .. } => {
                "name a moment that is there, `--at latest` for all there is, or a timeline by `--timeline`"
            }
            Self::NoServer { .. } => "install its server programs, or restore on a machine that has them",
            Self::NotAServer { .. } => {
                "write `--into COMPONENT=postgresql://HOST/DATABASE`; or name the component alone in `--only`, and a folder"
            }
            Self::WholeServer { .. } => {
                "name a folder; or single databases or tables of it: `--only COMPONENT/DATABASE`, `--only COMPONENT/DATABASE/SCHEMA.TABLE`"
            }
            Self::BegunThere { .. } => {
                "name that moment by `--at-lsn`, as its plan did, to go on with it; or remove the folder, or name another"
            }
            Self::NoStandby => "leave `--standby` out, or restore a component with `mode = \"physical\"` into a folder",
            Self::NonePaused => {
                "leave `--pause` out, or name a moment behind the base backup of a component with `wal = \"archive\"`, and a folder"
            }
            Self::NotReplaceable { .. } => {
                "mend that, or restore aside: `--into` a database or folder that may be made, then point the application there"
            }
            Self::NoUndo { .. } => "leave it out with `--only`, or say `--without-undo`: the rest keeps its undo",
            Self::NoRoomForTwo { .. } => {
                "make room; or say `--without-undo`: what is there is then deleted before the new copy is laid down"
            }
            Self::NoSpace { .. } => "name a folder on a larger file system, or restore less with `--only`",
        };
        vec![hint.to_owned()]
    }
}
