//! The steps of a restore beside what is there.

use std::collections::BTreeMap;

use super::extract::extract_step;
use super::{
    ActionStep, CommandStep, DataFolderStep, DatabaseFacts, DatabaseStep, FolderFacts, FolderStep, Moment, Reach,
    RecoverStep, Refusal, Relation, Request, Step, TargetFacts, Wanted,
};
use crate::name::Name;
use crate::point::{ActionData, ComponentData, DatabaseDump, PhysicalData};

/// Into databases and folders that are empty or not there, nothing else is touched.
pub(super) fn aside(
    wanted: &[Wanted<'_>],
    facts: &BTreeMap<Name, TargetFacts>,
    request: &Request,
    warnings: &mut Vec<String>,
) -> Result<Vec<Step>, Refusal> {
    let (mut steps, moment) = (Vec::new(), request.moment.as_ref());
    for part in wanted {
        let name = &part.manifest.component;
        match (&part.manifest.data, facts.get(name)) {
            (ComponentData::Postgres(_), Some(TargetFacts::Databases(facts))) => {
                for dump in part.databases() {
                    let target = facts.get(&dump.name).ok_or_else(|| Refusal::NoTarget { component: name.clone() })?;
                    is_free(target)?;
                    steps.push(Step::Database(database_step(part, dump, target.clone(), warnings)?));
                }
            }
            (ComponentData::Physical(data), Some(TargetFacts::DataFolder { folder, reach, .. })) => {
                let recover = recover_step(name, data, reach.as_ref().zip(moment), warnings);
                let mut step = DataFolderStep {
                    recover: recover.map(|step| RecoverStep { paused: request.paused, ..step }),
                    standby: request.standby,
                    ..data_folder_step(name, data, folder, warnings)
                };
                step.goes_on = folder.begun.as_ref() == Some(&step.identity());
                // Of one that goes on, some is there already.
                if !step.goes_on {
                    if folder.begun.is_some() {
                        return Err(Refusal::BegunThere { path: folder.path.clone() });
                    }
                    is_empty(folder)?;
                    has_room(folder, laid_down(data, reach.as_ref()))?;
                }
                steps.push(Step::DataFolder(step));
            }
            (ComponentData::Physical(data), Some(TargetFacts::Extracted { databases, place, reach })) => {
                has_room(place, laid_down(data, reach.as_ref()))?;
                let recover = recover_step(name, data, reach.as_ref().zip(moment), warnings);
                steps.push(Step::Extract(extract_step(part, data, databases, (place, recover), warnings)?));
            }
            (ComponentData::Disk(data), Some(TargetFacts::Folder(facts))) => {
                is_empty(facts)?;
                has_room(facts, data.bytes)?;
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
            (ComponentData::Action(data), Some(TargetFacts::Action { command })) => {
                steps.push(action_step(name, data, command.as_ref())?);
            }
            _ => return Err(Refusal::NoTarget { component: name.clone() }),
        }
    }
    if request.standby && !steps.iter().any(|step| matches!(step, Step::DataFolder(_))) {
        return Err(Refusal::NoStandby);
    }
    let stays = |step: &Step| matches!(step, Step::DataFolder(DataFolderStep { recover: Some(_), .. }));
    if request.paused && !steps.iter().any(stays) {
        return Err(Refusal::NonePaused);
    }
    Ok(steps)
}

/// Whether a database may be filled: it is not there, or holds nothing.
pub fn is_free(target: &DatabaseFacts) -> Result<(), Refusal> {
    let database = || target.database.clone();
    match target {
        DatabaseFacts { exists: true, unfinished: true, .. } => Err(Refusal::Unfinished { database: database() }),
        DatabaseFacts { exists: true, tables: 1.., .. } => {
            Err(Refusal::DatabaseNotEmpty { database: database(), tables: target.tables })
        }
        _ => Ok(()),
    }
}

/// Whether a folder is empty.
fn is_empty(facts: &FolderFacts) -> Result<(), Refusal> {
    match facts.entries {
        0 => Ok(()),
        entries => Err(Refusal::FolderNotEmpty { path: facts.path.clone(), entries }),
    }
}

/// Whether a folder has room for so many bytes.
fn has_room(facts: &FolderFacts, needed: u64) -> Result<(), Refusal> {
    if facts.free_bytes < needed {
        return Err(Refusal::NoSpace { path: facts.path.clone(), needed, free: facts.free_bytes });
    }
    Ok(())
}

/// Bytes of a data folder that is recovered: its own, and the WAL that is fetched.
pub(super) fn laid_down(data: &PhysicalData, reach: Option<&Reach>) -> u64 {
    let size = data.segment_size.bytes();
    let end = reach.map_or(data.stop, |reach| reach.end.max(data.stop));
    let wal = (end.0 / size + 1 - data.start.0 / size).saturating_mul(size);
    data.data_bytes.saturating_add(wal)
}

/// Brings a server to the moment that was asked for.
pub(super) fn recover_step(
    name: &Name,
    data: &PhysicalData,
    reached: Option<(&Reach, &Moment)>,
    warnings: &mut Vec<String>,
) -> Option<RecoverStep> {
    let (reach, asked) = reached?;
    if let Some(gap) = &reach.gap {
        warnings.push(format!(
            "{name}: the WAL segment {gap} is missing or ends too early, and what is behind it cannot be restored"
        ));
    }
    let wal_bytes = reach.end.max(data.stop).0 - data.start.0;
    Some(RecoverStep { asked: asked.clone(), reach: reach.clone(), wal_bytes, paused: false })
}

/// What a person should know of a base backup whose pages were damaged when it was taken.
pub(super) fn warn_of_damage(name: &Name, data: &PhysicalData, warnings: &mut Vec<String>) {
    if !data.corrupt.is_empty() {
        let files = data.corrupt.len();
        warnings.push(format!(
            "{name}: {files} files have pages that were damaged when it was taken: `windlass points` names them"
        ));
    }
}

/// Lays down a base backup.
fn data_folder_step(
    name: &Name,
    data: &PhysicalData,
    facts: &FolderFacts,
    warnings: &mut Vec<String>,
) -> DataFolderStep {
    warn_of_damage(name, data, warnings);
    DataFolderStep {
        component: name.clone(),
        backup: data.backup.clone(),
        server: data.system_identifier.clone(),
        target: facts.path.clone(),
        create: !facts.exists,
        goes_on: false,
        major: data.server_version / 10_000,
        until: data.stop,
        recover: None,
        standby: false,
        tablespaces: data.tablespaces.keys().copied().collect(),
        settings: data.settings.clone(),
        databases: data.databases.clone(),
        bytes: data.data_bytes,
    }
}

/// Gives an object to the restore command, where there is one.
pub(super) fn action_step(name: &Name, data: &ActionData, command: Option<&CommandStep>) -> Result<Step, Refusal> {
    let command = command.cloned().ok_or_else(|| Refusal::NoRestoreCommand { component: name.clone() })?;
    Ok(Step::Action(ActionStep { component: name.clone(), command, bytes: data.object.plain_size }))
}

/// Fills a database from a dump of the point, if its server has what the dump needs.
pub(super) fn database_step(
    part: &Wanted<'_>,
    dump: &DatabaseDump,
    target: DatabaseFacts,
    warnings: &mut Vec<String>,
) -> Result<DatabaseStep, Refusal> {
    let component = &part.manifest.component;
    let ComponentData::Postgres(data) = &part.manifest.data else {
        return Err(Refusal::NoTarget { component: component.clone() });
    };
    fill(component, (dump, data.server_version), part.relations(&dump.name), target, warnings)
}

/// Fills a database from a dump that was taken of a server of a version (as `server_version_num`), if its server has what the
/// dump needs.
pub fn fill(
    component: &Name,
    (dump, version): (&DatabaseDump, u32),
    relations: Vec<Relation>,
    target: DatabaseFacts,
    warnings: &mut Vec<String>,
) -> Result<DatabaseStep, Refusal> {
    let (theirs, ours) = (target.server_version / 10_000, version / 10_000);
    if theirs < ours {
        return Err(Refusal::OlderServer { database: dump.name.clone(), theirs, ours });
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
