//! The steps of a restore beside what is there.

use std::collections::BTreeMap;

use super::{
    ActionStep, CommandStep, DataFolderStep, DatabaseFacts, DatabaseStep, FolderFacts, FolderStep, Moment, RecoverStep,
    Refusal, Step, TargetFacts, Wanted,
};
use crate::name::Name;
use crate::point::{ActionData, ComponentData, DatabaseDump, PhysicalData};

/// Into databases and folders that are empty or not there, nothing else is touched.
pub(super) fn aside(
    wanted: &[Wanted<'_>],
    facts: &BTreeMap<Name, TargetFacts>,
    moment: Option<&Moment>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Step>, Refusal> {
    let mut steps = Vec::new();
    for part in wanted {
        let name = &part.manifest.component;
        match (&part.manifest.data, facts.get(name)) {
            (ComponentData::Postgres(_), Some(TargetFacts::Databases(facts))) => {
                for dump in part.databases() {
                    let target = facts.get(&dump.name).ok_or_else(|| Refusal::NoTarget { component: name.clone() })?;
                    if target.exists && target.unfinished {
                        return Err(Refusal::Unfinished { database: target.database.clone() });
                    }
                    if target.exists && target.tables > 0 {
                        let (database, tables) = (target.database.clone(), target.tables);
                        return Err(Refusal::DatabaseNotEmpty { database, tables });
                    }
                    steps.push(Step::Database(database_step(part, dump, target.clone(), warnings)?));
                }
            }
            (ComponentData::Physical(data), Some(TargetFacts::DataFolder { folder, reach, .. })) => {
                let size = data.segment_size.bytes();
                let end = reach.as_ref().map_or(data.stop, |reach| reach.end.max(data.stop));
                let wal = (end.0 / size + 1 - data.start.0 / size).saturating_mul(size);
                has_room(folder, data.data_bytes.saturating_add(wal))?;
                if let Some(gap) = reach.as_ref().and_then(|reach| reach.gap.as_ref()) {
                    warnings.push(format!(
                        "{name}: the WAL segment {gap} is missing or ends too early, and what is behind it cannot be restored"
                    ));
                }
                let recover = reach.as_ref().zip(moment).map(|(reach, asked)| RecoverStep {
                    asked: asked.clone(),
                    reach: reach.clone(),
                    wal_bytes: end.0 - data.start.0,
                });
                steps.push(Step::DataFolder(DataFolderStep {
                    recover,
                    ..data_folder_step(name, data, folder, warnings)
                }));
            }
            (ComponentData::Disk(data), Some(TargetFacts::Folder(facts))) => {
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
    Ok(steps)
}

/// Whether a folder is empty, and has room for so many bytes.
fn has_room(facts: &FolderFacts, needed: u64) -> Result<(), Refusal> {
    if facts.entries > 0 {
        return Err(Refusal::FolderNotEmpty { path: facts.path.clone(), entries: facts.entries });
    }
    if facts.free_bytes < needed {
        return Err(Refusal::NoSpace { path: facts.path.clone(), needed, free: facts.free_bytes });
    }
    Ok(())
}

/// Lays down a base backup.
fn data_folder_step(
    name: &Name,
    data: &PhysicalData,
    facts: &FolderFacts,
    warnings: &mut Vec<String>,
) -> DataFolderStep {
    if !data.corrupt.is_empty() {
        let files = data.corrupt.len();
        warnings.push(format!(
            "{name}: {files} files have pages that were damaged when it was taken: `windlass points` names them"
        ));
    }
    DataFolderStep {
        component: name.clone(),
        backup: data.backup.clone(),
        target: facts.path.clone(),
        create: !facts.exists,
        major: data.server_version / 10_000,
        until: data.stop,
        recover: None,
        tablespaces: data.tablespaces.keys().copied().collect(),
        databases: data.databases.clone(),
        bytes: data.data_bytes,
    }
}

/// Gives an object to the restore command, where there is one.
pub(super) fn action_step(name: &Name, data: &ActionData, command: Option<&CommandStep>) -> Result<Step, Refusal> {
    let command = command.cloned().ok_or_else(|| Refusal::NoRestoreCommand { component: name.clone() })?;
    Ok(Step::Action(ActionStep { component: name.clone(), command, bytes: data.object.plain_size }))
}

/// Fills a database from a dump, if its server has what the dump needs.
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
    let (theirs, ours) = (target.server_version / 10_000, data.server_version / 10_000);
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
