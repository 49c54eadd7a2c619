//! Looks at what a restore in place would replace. Nothing is written but the list of differences.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use windlass_core::application::{Application, Databases, Disk, Postgres, Strategy};
use windlass_core::name::Name;
use windlass_core::point::{ComponentData, ComponentManifest, DiskData};
use windlass_core::restore::{
    CommandStep, Differences, Estimate, FilesImpact, Impact, LivePlace, Measured, Plan, Refusal, ReplaceFiles, Step,
    TargetFacts, Terms, Wanted,
};
use windlass_core::verification::{Level, Verdict};
use windlass_engine::backup::files;
use windlass_engine::postgres::database_of;
use windlass_engine::postgres::impact::impact as database_impact;
use windlass_engine::postgres::replace::look_live;
use windlass_engine::restore::{dump_of, free_bytes, roles_of, tools_for};
use windlass_repo::format::restic::{Compared, Excludes, FilesError, Place};
use windlass_repo::vault::Vault;

use super::journal::{Journal, list_of_differences};
use super::server_look;
use crate::error::TaskError;
use crate::host::Host;
use crate::moments;
use crate::restore::{Asked, source_of};

/// What the settings say of a restore in place.
pub(crate) fn terms(application: &Application) -> Terms {
    let exclude = |component: &windlass_core::application::Component| match &component.strategy {
        Strategy::Disk(disk) => Some((component.name.clone(), disk.exclude.clone())),
        Strategy::Postgres(_) | Strategy::Physical(_) | Strategy::Action(_) => None,
    };
    Terms {
        control: application
            .control
            .as_ref()
            .map(|control| (CommandStep::of(&control.stop), CommandStep::of(&control.start))),
        undo_seconds: application.undo.map(|undo| undo.as_secs()),
        exclude: application.components.iter().filter_map(exclude).collect(),
    }
}

/// What is found where a component lives.
pub(crate) async fn facts(
    vault: &Vault,
    part: &Wanted<'_>,
    asked: &Asked<'_>,
    host: &Host,
    application: &Application,
) -> Result<TargetFacts, TaskError> {
    let name = &part.manifest.component;
    let unknown = |what: String| TaskError::Refused(Refusal::NotInSettings { what });
    let component = application.components.iter().find(|component| component.name == *name);
    match (&part.manifest.data, component.map(|component| &component.strategy)) {
        (ComponentData::Postgres(_), Some(Strategy::Postgres(source))) => databases(vault, part, source).await,
        (ComponentData::Disk(data), Some(Strategy::Disk(disk))) => places(vault, name, data, disk, host).await,
        (ComponentData::Action(_), Some(Strategy::Action(action))) => {
            Ok(TargetFacts::Action { command: action.restore.as_deref().map(CommandStep::of) })
        }
        (ComponentData::Physical(_), _) if !part.extracted().is_empty() => {
            Err(TaskError::Refused(Refusal::OnlyAside { component: name.clone() }))
        }
        (ComponentData::Physical(data), Some(Strategy::Physical(physical))) => {
            let reached = asked.reach_or_more(vault, name, data).await?;
            moments::has_server(name, data.server_version / 10_000).await?;
            server_look::facts(data, physical, reached).await
        }
        (_, Some(_)) => Err(unknown(format!("{name}, as it was captured: it is of another kind now"))),
        (_, None) => Err(unknown(name.to_string())),
    }
}

async fn databases(vault: &Vault, part: &Wanted<'_>, source: &Postgres) -> Result<TargetFacts, TaskError> {
    let named = database_of(&source.url).map_err(TaskError::Postgres)?;
    let tools = tools_for(&source.url, Some(source)).await.map_err(TaskError::Postgres)?;
    let mut facts = BTreeMap::new();
    for dump in part.databases() {
        if source.databases == Databases::Named && named.as_deref().is_some_and(|named| named != dump.name) {
            let what = format!("{}/{}", part.manifest.component, dump.name);
            return Err(TaskError::Refused(Refusal::NotInSettings { what }));
        }
        let roles = roles_of(vault, dump, &[]).await.map_err(TaskError::Restore)?;
        let live = look_live(&tools, &dump.name, dump, &roles).await.map_err(TaskError::Postgres)?;
        facts.insert(dump.name.clone(), live);
    }
    Ok(TargetFacts::LiveDatabases(facts))
}

async fn places(
    vault: &Vault,
    component: &Name,
    data: &DiskData,
    disk: &Disk,
    host: &Host,
) -> Result<TargetFacts, TaskError> {
    if let Some(path) =
        data.paths.iter().find(|path| !disk.paths.iter().any(|known| known.as_path() == Path::new(path)))
    {
        return Err(TaskError::Refused(Refusal::NotInSettings { what: format!("`{path}` of {component}") }));
    }
    let compared = compare(vault, component, data, disk, host).await?;
    let mounts = mount_points();
    let excludes = Excludes::new(&disk.exclude).map_err(TaskError::Files)?;
    let mut found = Vec::new();
    for (path, compared) in data.paths.iter().map(Path::new).zip(compared) {
        let (mut folders, mut obstacles) = (Vec::new(), Vec::new());
        // What is left out of captures is not touched, and what is mounted in it neither.
        let is_left_out = |mount: &Path| {
            let below = mount.ancestors().take_while(|folder| *folder != path);
            below.into_iter().any(|folder| excludes.matches(path, folder))
        };
        // The system names mount points by their real paths.
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let below = mounts.iter().filter_map(|mount| mount.strip_prefix(&real).ok());
        let mounted: Vec<PathBuf> =
            below.map(|below| if below == Path::new("") { path.to_owned() } else { path.join(below) }).collect();
        for mount in mounted.iter().filter(|mount| !is_left_out(mount)) {
            let is_whole = mount == path;
            if mount.is_dir() {
                folders.extend((!is_whole).then(|| mount.to_string_lossy().into_owned()));
                obstacles.extend(read_only(mount));
            } else {
                obstacles.push(format!("`{}` is a file that is mounted there, and cannot be moved", mount.display()));
            }
        }
        obstacles.extend(path.ancestors().find(|there| there.exists()).and_then(read_only));
        let meta = path.symlink_metadata().ok();
        if let Some(meta) = &meta
            && meta.is_dir() == compared.is_file
        {
            obstacles.push("it is a folder on one side and a file on the other".into());
        }
        for (what, own) in
            [("the repository", vault.store().directory()), ("the `state` folder", Some(host.state.as_path()))]
        {
            if own.is_some_and(|own| own.canonicalize().is_ok_and(|own| own.starts_with(&real))) {
                obstacles.push(format!("{what} of Windlass lies in it"));
            }
        }
        let existing = path.ancestors().find_map(|there| there.metadata().ok());
        found.push(LivePlace {
            path: path.to_string_lossy().into_owned(),
            is_file: compared.is_file,
            exists: meta.is_some(),
            mounts: folders,
            obstacles,
            differences: compared.differences,
            bytes: compared.bytes,
            device: existing.map_or(0, |meta| meta.dev()),
            free_bytes: free_bytes(path),
        });
    }
    Ok(TargetFacts::LivePlaces(found))
}

/// Why nothing can be moved there, where nothing can.
pub(super) fn read_only(path: &Path) -> Option<String> {
    let found = rustix::fs::statvfs(path).ok()?;
    let is_read_only = found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    is_read_only.then(|| format!("`{}` is mounted read-only", path.display()))
}

async fn compare(
    vault: &Vault,
    component: &Name,
    data: &DiskData,
    disk: &Disk,
    host: &Host,
) -> Result<Vec<Compared>, TaskError> {
    let excludes = Excludes::new(&disk.exclude).map_err(TaskError::Files)?;
    let place = |path: &String| Place { path: PathBuf::from(path), excludes: excludes.clone() };
    let list = list_of_differences(&host.state, vault.application(), component)?;
    let files = files(vault).map_err(TaskError::Key)?;
    let places = data.paths.iter().map(place).collect();
    files.compare(&data.snapshot, places, list.clone()).await.map_err(|error| match error {
        FilesError::Target { path, source } if path == list => TaskError::State { path, source },
        error => TaskError::Files(error),
    })
}

/// Where something is mounted, as `/proc/self/mountinfo` says
/// (<https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html>).
pub(super) fn mount_points() -> Vec<PathBuf> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n');
    lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescaped).collect()
}

/// Blanks and the like stand there as a backslash and three octal digits.
fn unescaped(text: &[u8]) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some((first, more)) = rest.split_first() {
        let octal = more.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            rest = &more[3..];
        } else {
            bytes.push(*first);
            rest = more;
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// What a plan would do to what is there, as it is now.
pub async fn impact(
    vault: &Vault,
    plan: &Plan,
    manifests: &[ComponentManifest],
    facts: &BTreeMap<Name, TargetFacts>,
    host: &Host,
    application: &Application,
) -> Result<Impact, TaskError> {
    let since = |moment: Timestamp| Timestamp::now().duration_since(moment).as_secs();
    let mut impact = Impact { span_seconds: since(plan.moment()), ..Impact::default() };
    for step in &plan.steps {
        let manifest = manifests.iter().find(|manifest| Some(&manifest.component) == step.component());
        match (step, manifest) {
            (Step::ReplaceDatabase(step), Some(manifest)) => {
                let live = match facts.get(&step.fill.component) {
                    Some(TargetFacts::LiveDatabases(live)) => live.get(&step.fill.database),
                    _ => None,
                };
                let source = source_of(Some(application), &step.fill.component);
                let tools = match source {
                    Some(source) => Some(tools_for(&source.url, Some(source)).await.map_err(TaskError::Postgres)?),
                    None => None,
                };
                let dump = dump_of(manifest, &step.fill.database).map_err(TaskError::Restore)?;
                impact.databases.push(database_impact(tools.as_ref(), step, dump, live).await);
            }
            (Step::ReplaceFiles(step), _) => {
                if let Some(TargetFacts::LivePlaces(places)) = facts.get(&step.component) {
                    impact.files.push(files_impact(host, &application.name, step, places)?);
                }
            }
            _ => {}
        }
    }
    impact.estimate = Some(estimate(vault, plan, host).await?);
    Ok(impact)
}

fn files_impact(
    host: &Host,
    application: &Name,
    step: &ReplaceFiles,
    places: &[LivePlace],
) -> Result<FilesImpact, TaskError> {
    let list = list_of_differences(&host.state, application, &step.component)?;
    let mut differences = Differences::default();
    for place in places {
        differences += place.differences;
    }
    Ok(FilesImpact {
        component: step.component.clone(),
        differences,
        needed_bytes: places.iter().map(|place| place.bytes).sum(),
        free_bytes: places.iter().map(|place| place.free_bytes).min().unwrap_or(0),
        diff: list.to_string_lossy().into_owned(),
    })
}

/// How long it should take, by the newest restore of each component that was measured: in place on this machine, or into a
/// scratch place.
async fn estimate(vault: &Vault, plan: &Plan, host: &Host) -> Result<Estimate, TaskError> {
    let journals = Journal::all(&host.state, Some(&plan.application))?;
    let (mut verifications, _) = windlass_repo::verify::load(vault).await?;
    verifications.retain(|verification| verification.level == Level::Restored);
    verifications.sort_by_key(|verification| verification.finished);
    let catalog = windlass_repo::catalog::Catalog::load(vault).await?;
    let rehearsed = |component: &Name| {
        verifications.iter().rev().find_map(|verification| {
            let verdict = verification.components.iter().find(|verdict| verdict.name == *component)?;
            let ms = verdict.restore_ms.filter(|_| verdict.verdict == Verdict::Passed)?;
            let entry = catalog.live().find(|entry| entry.point.id == verification.point)?;
            let summary = entry.point.components.iter().find(|summary| summary.name == *component)?;
            Some(Measured { bytes: summary.data_bytes, ms })
        })
    };
    let mut parts: BTreeMap<&Name, u64> = BTreeMap::new();
    for step in &plan.steps {
        if let Some(component) = step.component() {
            *parts.entry(component).or_default() += step.bytes();
        }
    }
    Ok(Estimate::of(parts.into_iter().map(|(component, bytes)| {
        let measured = journals.iter().rev().find_map(|journal| journal.measured(component));
        (component.clone(), bytes, measured.or_else(|| rehearsed(component)))
    })))
}

#[cfg(test)]
mod tests {
    use super::unescaped;

    #[test]
    fn mount_points_are_read_as_they_are_named() {
        assert_eq!(unescaped(br"/srv/a\040b\134c").to_str(), Some(r"/srv/a b\c"));
        assert_eq!(unescaped(br"/srv\04").to_str(), Some(r"/srv\04"));
    }
}
