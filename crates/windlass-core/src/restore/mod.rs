//! Planning a restore: what is asked, what is there, and the plan that is shown and then run.
//!
//! [`plan`] is pure. What it needs to know of the world - does the target exist, is it empty, which roles and
//! extensions are there - is given to it as [`TargetFacts`], and becomes part of the plan: so a world that changed
//! between the preview and the run gives another digest, and a confirmed plan of the old one is refused.
//!
//! Only restores aside are planned here: into databases and folders that are empty or do not exist yet.

mod refusal;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{PointId, RepositoryId};
use crate::name::Name;
use crate::point::{ComponentData, ComponentManifest, DatabaseDump, RecoveryPoint};
use crate::selector::Selector;

pub use refusal::Refusal;

/// Where a component goes, as people wrote it: `--into COMPONENT=TARGET`.
pub type Targets = BTreeMap<Name, String>;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The parts wanted; empty for all components that have a target.
    pub only: Vec<Selector>,
    /// Where each component goes.
    pub into: Targets,
}

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
}

/// What was found at the target of one component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetFacts {
    /// By database of the point, as far as it is wanted.
    Databases(BTreeMap<String, DatabaseFacts>),
    /// A folder.
    Folder(FolderFacts),
    /// A command of the settings; whether there is one.
    Action {
        /// The command's program.
        program: Option<String>,
    },
}

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
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "lowercase")]
pub enum Step {
    /// Fill a database from a dump.
    Database(DatabaseStep),
    /// Lay down a folder.
    Folder(FolderStep),
    /// Give an object to a command.
    Action(ActionStep),
}

impl Step {
    /// The component it belongs to.
    pub fn component(&self) -> &Name {
        match self {
            Self::Database(step) => &step.component,
            Self::Folder(step) => &step.component,
            Self::Action(step) => &step.component,
        }
    }

    /// Bytes of data it brings.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Database(step) => step.bytes,
            Self::Folder(step) => step.bytes,
            Self::Action(step) => step.bytes,
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

/// Give an object to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionStep {
    /// The component.
    pub component: Name,
    /// The command's program.
    pub program: String,
    /// Bytes it gets on its standard input.
    pub bytes: u64,
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
}

/// A point with the manifests of its components.
#[derive(Clone, Debug)]
pub struct Source<'a> {
    /// The repository it lies in.
    pub repository: RepositoryId,
    /// The point.
    pub point: &'a RecoveryPoint,
    /// The manifests of its components.
    pub components: &'a [ComponentManifest],
}

/// Which components, and which databases of them, a request means.
///
/// Every selector must match something, every component meant needs a target, and a target without a component
/// is refused: nothing is passed over in silence.
pub fn wanted<'a>(source: &Source<'a>, request: &Request) -> Result<Vec<Wanted<'a>>, Refusal> {
    for selector in &request.only {
        check_selector(source, selector)?;
    }
    if let Some(name) = request.into.keys().find(|name| !source.components.iter().any(|c| c.component == **name)) {
        return Err(Refusal::NoComponent { name: name.clone(), known: names(source) });
    }
    let mut all = Vec::new();
    for manifest in source.components.iter().rev() {
        let selectors: Vec<&Selector> = request.only.iter().filter(|s| s.component == manifest.component).collect();
        let target = request.into.get(&manifest.component);
        match (request.only.is_empty(), selectors.is_empty(), target) {
            (true, _, Some(target)) | (false, false, Some(target)) => {
                all.push(Wanted {
                    manifest,
                    selectors: selectors.into_iter().cloned().collect(),
                    target: target.clone(),
                });
            }
            (false, false, None) => return Err(Refusal::NoTarget { component: manifest.component.clone() }),
            (false, true, Some(_)) => return Err(Refusal::NotSelected { component: manifest.component.clone() }),
            (_, _, None) => {}
        }
    }
    if all.is_empty() { Err(Refusal::Nothing { known: names(source) }) } else { Ok(all) }
}

/// A component that is meant, with its target.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Its manifest.
    pub manifest: &'a ComponentManifest,
    /// The parts of it that are meant; empty for all.
    pub selectors: Vec<Selector>,
    /// Where it goes, as people wrote it.
    pub target: String,
}

impl<'a> Wanted<'a> {
    /// The databases that are meant, of a `postgres` component.
    pub fn databases(&self) -> Vec<&'a DatabaseDump> {
        let ComponentData::Postgres(data) = &self.manifest.data else { return Vec::new() };
        let meant = |dump: &DatabaseDump| {
            self.selectors.is_empty()
                || self.selectors.iter().any(|s| s.database.as_deref().is_none_or(|name| name == dump.name))
        };
        data.databases.iter().filter(|dump| meant(dump)).collect()
    }

    /// The relations of one database that are meant; empty for all.
    pub fn relations(&self, database: &str) -> Vec<Relation> {
        let of_it = |s: &&Selector| s.database.as_deref().is_none_or(|name| name == database);
        let selectors: Vec<&Selector> = self.selectors.iter().filter(of_it).collect();
        if selectors.iter().any(|s| s.relation.is_none()) {
            return Vec::new();
        }
        let relation =
            |s: &Selector| s.relation.as_ref().map(|r| Relation { schema: r.schema.clone(), table: r.table.clone() });
        selectors.into_iter().filter_map(relation).collect()
    }
}

/// Plans a restore of what [`wanted`] found, with what was found at the targets.
pub fn plan(source: &Source<'_>, wanted: &[Wanted<'_>], facts: &BTreeMap<Name, TargetFacts>) -> Result<Plan, Refusal> {
    let mut steps = Vec::new();
    let mut warnings = Vec::new();
    for part in wanted {
        let name = &part.manifest.component;
        match (&part.manifest.data, facts.get(name)) {
            (ComponentData::Postgres(_), Some(TargetFacts::Databases(facts))) => {
                for dump in part.databases() {
                    steps.push(Step::Database(database_step(part, dump, facts, &mut warnings)?));
                }
            }
            (ComponentData::Disk(data), Some(TargetFacts::Folder(facts))) => {
                if facts.entries > 0 {
                    return Err(Refusal::FolderNotEmpty { path: facts.path.clone(), entries: facts.entries });
                }
                if facts.free_bytes < data.bytes {
                    return Err(Refusal::NoSpace {
                        path: facts.path.clone(),
                        needed: data.bytes,
                        free: facts.free_bytes,
                    });
                }
                steps.push(Step::Folder(FolderStep {
                    component: name.clone(),
                    snapshot: data.snapshot.clone(),
                    strip: if let [only] = data.paths.as_slice() { Some(only.clone()) } else { None },
                    target: facts.path.clone(),
                    create: !facts.exists,
                    files: data.files,
                    folders: data.folders,
                    bytes: data.bytes,
                }));
            }
            (ComponentData::Action(data), Some(TargetFacts::Action { program })) => {
                let program = program.clone().ok_or_else(|| Refusal::NoRestoreCommand { component: name.clone() })?;
                steps.push(Step::Action(ActionStep {
                    component: name.clone(),
                    program,
                    bytes: data.object.plain_size,
                }));
            }
            _ => return Err(Refusal::NoTarget { component: name.clone() }),
        }
    }
    if !source.point.is_complete() {
        let failed: Vec<&str> = source.point.failed.iter().map(|f| f.name.as_str()).collect();
        warnings.push(format!("the point is partial: it lacks {}", failed.join(", ")));
    }
    let left_out =
        source.components.iter().map(|c| &c.component).filter(|name| !steps.iter().any(|s| s.component() == *name));
    Ok(Plan {
        application: source.point.application.clone(),
        repository: source.repository,
        point: source.point.id,
        at: source.point.at,
        left_out: left_out.cloned().collect(),
        steps,
        warnings,
    })
}

fn database_step(
    part: &Wanted<'_>,
    dump: &DatabaseDump,
    facts: &BTreeMap<String, DatabaseFacts>,
    warnings: &mut Vec<String>,
) -> Result<DatabaseStep, Refusal> {
    let component = &part.manifest.component;
    let target = facts.get(&dump.name).ok_or_else(|| Refusal::NoTarget { component: component.clone() })?.clone();
    let ComponentData::Postgres(data) = &part.manifest.data else {
        return Err(Refusal::NoTarget { component: component.clone() });
    };
    let (theirs, ours) = (target.server_version / 10_000, data.server_version / 10_000);
    if theirs < ours {
        return Err(Refusal::OlderServer { database: dump.name.clone(), theirs, ours });
    }
    if target.exists && target.unfinished {
        return Err(Refusal::Unfinished { database: target.database });
    }
    if target.exists && target.tables > 0 {
        return Err(Refusal::DatabaseNotEmpty { database: target.database, tables: target.tables });
    }
    if !target.missing_extensions.is_empty() {
        return Err(Refusal::MissingExtensions { database: dump.name.clone(), extensions: target.missing_extensions });
    }
    if !target.missing_required_roles.is_empty() {
        return Err(Refusal::MissingRoles { database: dump.name.clone(), roles: target.missing_required_roles });
    }
    if let (false, Some(why)) = (target.exists, &target.missing_locale) {
        return Err(Refusal::MissingLocale { database: dump.name.clone(), why: why.clone() });
    }
    if !target.missing_collations.is_empty() {
        return Err(Refusal::MissingCollations { database: dump.name.clone(), collations: target.missing_collations });
    }
    if !target.missing_roles.is_empty() {
        warnings.push(format!(
            "{}: the target lacks the roles {}; everything will belong to the role that restores, without the dump's privileges",
            dump.name,
            target.missing_roles.join(", ")
        ));
    }
    let relations = part.relations(&dump.name);
    let meant = |schema: &str, table: &str| {
        relations.is_empty()
            || relations.iter().any(|r| r.schema == schema && r.table.as_deref().is_none_or(|name| name == table))
    };
    let tables: Vec<_> = dump.tables.iter().filter(|t| meant(&t.schema, &t.table)).collect();
    Ok(DatabaseStep {
        component: component.clone(),
        database: dump.name.clone(),
        create: !target.exists,
        owners: target.missing_roles.is_empty(),
        target,
        relations,
        tables: tables.len() as u64,
        rows: tables.iter().map(|t| t.rows).sum(),
        bytes: dump.database_bytes,
    })
}

fn check_selector(source: &Source<'_>, selector: &Selector) -> Result<(), Refusal> {
    let manifest = source.components.iter().find(|c| c.component == selector.component);
    let manifest =
        manifest.ok_or_else(|| Refusal::NoComponent { name: selector.component.clone(), known: names(source) })?;
    let Some(database) = &selector.database else { return Ok(()) };
    let ComponentData::Postgres(data) = &manifest.data else {
        return Err(Refusal::NoDatabases { component: selector.component.clone() });
    };
    if data.databases.iter().any(|dump| dump.name == *database) {
        return Ok(());
    }
    let known = data.databases.iter().map(|dump| dump.name.clone()).collect();
    Err(Refusal::NoDatabase { component: selector.component.clone(), database: database.clone(), known })
}

fn names(source: &Source<'_>) -> Vec<Name> {
    source.components.iter().map(|c| c.component.clone()).collect()
}
