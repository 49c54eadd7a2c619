//! Plans a restore with what is found in the world, and runs exactly the plan that was confirmed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use windlass_core::application::{Action, Application, Postgres, Strategy};
use windlass_core::diagnose::Diagnose;
use windlass_core::id::PointId;
use windlass_core::name::Name;
use windlass_core::point::{ComponentData, ComponentManifest, PhysicalData};
use windlass_core::restore::{
    CommandStep, Destination, FolderFacts, Plan, Reach, Refusal, Request, Source, Step, TargetFacts, Wanted, plan,
    wanted,
};
use windlass_core::verification::Verdict;
use windlass_core::wal::Lsn;
use windlass_engine::postgres::restore::look;
use windlass_engine::postgres::{PostgresError, database_of};
use windlass_engine::progress::{Event, Progress, Silent};
use windlass_engine::restore::{self as engine, free_bytes, roles_of, tools_for};
use windlass_repo::catalog::{Catalog, Entry};
use windlass_repo::error::RepositoryError;
use windlass_repo::evidence;
use windlass_repo::format::walg::Ledger;
use windlass_repo::vault::Vault;

use crate::error::TaskError;
use crate::host::{Host, HostError};
use crate::in_place::look;
use crate::moments;
use crate::verify::{Behind, components, pin, unpin};

/// Which point is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    /// The newest complete one.
    Newest,
    /// This one.
    Point(PointId),
    /// The newest complete one at or before a time.
    At(jiff::Timestamp),
}

fn no_point(catalog: &Catalog, application: &Name, which: Which) -> TaskError {
    let complete = catalog.live().filter(|entry| entry.point.is_complete());
    let earliest = complete.map(|entry| entry.point.at).min();
    TaskError::NoPoint { application: application.clone(), before: matches!(which, Which::At(_)), earliest }
}

/// Finds the point that is asked for. Where none is named, one that holds all of `wanted` goes before a newer one that
/// does not: a point of one component alone is complete, too.
pub fn find<'a>(
    catalog: &'a Catalog,
    application: &Name,
    which: Which,
    wanted: &[&Name],
) -> Result<&'a Entry, TaskError> {
    let all = find_all(catalog, application, which, wanted)?;
    all.first().copied().ok_or_else(|| no_point(catalog, application, which))
}

/// The same with all that may do as well, the best first.
fn find_all<'a>(
    catalog: &'a Catalog,
    application: &Name,
    which: Which,
    wanted: &[&Name],
) -> Result<Vec<&'a Entry>, TaskError> {
    let in_time = |entry: &&Entry| match which {
        Which::At(at) => entry.point.at <= at,
        Which::Newest | Which::Point(_) => true,
    };
    if let Which::Point(point) = which {
        return Ok(vec![catalog.get(application, point)?]);
    }
    let complete = catalog.live().rev().filter(|entry| entry.point.is_complete()).filter(in_time);
    let (whole, others): (Vec<_>, Vec<_>) = complete.partition(|entry| entry.holds_all(wanted.iter().copied()));
    Ok(whole.into_iter().chain(others).collect())
}

/// Finds the point, and plans a restore of it: where it has a base backup that is too young for the moment that is asked for, of
/// one before it.
pub async fn find_and_prepare<'a>(
    vault: &Vault,
    catalog: &'a Catalog,
    which: Which,
    wanted: &[&Name],
    request: &Request,
    here: Option<Here<'_>>,
) -> Result<(&'a Entry, Planned), TaskError> {
    let mut refused = None;
    for entry in find_all(catalog, vault.application(), which, wanted)? {
        match prepare(vault, catalog, entry, request, here).await {
            Err(error @ TaskError::Refused(Refusal::NoMoment { older_may_do: true, .. })) => refused = Some(error),
            other => return other.map(|planned| (entry, planned)),
        }
    }
    Err(refused.unwrap_or_else(|| no_point(catalog, vault.application(), which)))
}

/// A plan, with all that is needed to run it.
#[derive(Debug)]
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// Its digest.
    pub digest: String,
    /// The manifests of the point.
    pub manifests: Vec<ComponentManifest>,
    /// What was found.
    pub facts: BTreeMap<Name, TargetFacts>,
    pub(crate) request: Request,
}

/// This machine, and the application as its settings describe it.
#[derive(Clone, Copy)]
pub struct Here<'a> {
    /// This machine.
    pub host: &'a Host,
    /// The application.
    pub application: &'a Application,
}

/// Plans a restore. Nothing is written.
pub async fn prepare(
    vault: &Vault,
    catalog: &Catalog,
    entry: &Entry,
    request: &Request,
    here: Option<Here<'_>>,
) -> Result<Planned, TaskError> {
    look_at(vault, catalog, entry, request, None, here).await
}

/// The same; where moments are was `known` a moment ago.
async fn look_at(
    vault: &Vault,
    catalog: &Catalog,
    entry: &Entry,
    request: &Request,
    known: Option<&BTreeMap<Name, TargetFacts>>,
    here: Option<Here<'_>>,
) -> Result<Planned, TaskError> {
    let mut manifests = Vec::new();
    for summary in &entry.point.components {
        match vault.component(&entry.point, summary).await {
            Ok(manifest) => manifests.push(manifest),
            Err(RepositoryError::Store(error)) if error.is_outage() => return Err(RepositoryError::Store(error).into()),
            Err(error) => {
                // It says what is damaged, and names the newest point that is not.
                prove(vault, catalog, entry, (std::slice::from_ref(&summary.name), &BTreeMap::new()), &Silent).await?;
                return Err(error.into());
            }
        }
    }
    let source = Source { repository: vault.repository().id(), point: &entry.point, components: &manifests };
    let parts = wanted(&source, request).map_err(TaskError::Refused)?;
    let mut facts = BTreeMap::new();
    moments::is_of_one(&parts, request)?;
    for part in &parts {
        let component = &part.manifest.component;
        let found = facts_of(vault, part, request, known.and_then(|known| known.get(component)), here).await?;
        facts.insert(component.clone(), found);
    }
    let terms = here.map(|here| look::terms(here.application)).unwrap_or_default();
    let plan = plan(&source, &parts, &facts, request, &terms).map_err(TaskError::Refused)?;
    let digest = plan.digest();
    Ok(Planned { plan, digest, manifests, facts, request: request.clone() })
}

/// The moment that servers are brought to, and what is known of it.
pub(crate) struct Asked<'a> {
    request: &'a Request,
    /// What was found a moment ago.
    known: Option<&'a TargetFacts>,
}

impl Asked<'_> {
    /// Where the moment is behind a base backup; where none was asked for, how far its WAL goes on.
    pub(crate) async fn reach_or_more(
        &self,
        vault: &Vault,
        component: &Name,
        data: &PhysicalData,
    ) -> Result<(Option<Reach>, Option<Lsn>), TaskError> {
        let known = match self.known {
            Some(TargetFacts::DataFolder { reach, .. } | TargetFacts::Extracted { reach, .. }) => Some(reach),
            Some(TargetFacts::LiveServer(live)) => Some(&live.reach),
            _ => None,
        };
        Ok(match (known, &self.request.moment) {
            (Some(reach), _) => (reach.clone(), None),
            (None, Some(moment)) => {
                (moments::reach(vault, component, data, moment, self.request.timeline).await?, None)
            }
            (None, None) => (None, moments::goes_on(vault, component, data).await?),
        })
    }
}

async fn facts_of(
    vault: &Vault,
    part: &Wanted<'_>,
    request: &Request,
    known: Option<&TargetFacts>,
    here: Option<Here<'_>>,
) -> Result<TargetFacts, TaskError> {
    let settings = here.map(|here| here.application);
    let asked = Asked { request, known };
    let target = match (&part.destination, here) {
        (Destination::Aside(target), _) => target,
        (Destination::InPlace, Some(here)) => {
            return look::facts(vault, part, &asked, here.host, here.application).await;
        }
        (Destination::InPlace, None) => {
            let what = part.manifest.component.to_string();
            return Err(TaskError::Refused(Refusal::NotInSettings { what }));
        }
    };
    match &part.manifest.data {
        ComponentData::Postgres(_) => database_facts(vault, part, target, settings).await,
        ComponentData::Disk(_) => folder_facts(vault, target).map(TargetFacts::Folder),
        ComponentData::Physical(data) => {
            let component = &part.manifest.component;
            let is_whole = part.extracted().is_empty();
            if is_whole && moments::is_url(target) {
                let (component, target) = (component.clone(), target.clone());
                return Err(TaskError::Refused(Refusal::WholeServer { component, target }));
            }
            let (reach, goes_on) = asked.reach_or_more(vault, component, data).await?;
            if !is_whole {
                return moments::extracted_facts(part, data, target, (reach, here)).await;
            }
            if request.standby && asked.known.is_none() {
                moments::may_be_followed(vault, component, data).await?;
            }
            Ok(TargetFacts::DataFolder { folder: folder_facts(vault, target)?, reach, goes_on })
        }
        ComponentData::Action(_) => {
            let action = settings.and_then(|application| action_of(application, &part.manifest.component));
            let command = action.and_then(|action| action.restore.as_deref()).map(CommandStep::of);
            Ok(TargetFacts::Action { command })
        }
    }
}

/// The database a dump goes to: the one the URL names, or one of the same name where it names none.
async fn database_facts(
    vault: &Vault,
    part: &Wanted<'_>,
    target: &str,
    settings: Option<&Application>,
) -> Result<TargetFacts, TaskError> {
    let dumps = part.databases();
    let named = database_of(target).map_err(TaskError::Postgres)?;
    if named.is_some() && dumps.len() > 1 {
        let why = "several databases are restored, so it must name the server only, without a database";
        return Err(TaskError::Postgres(PostgresError::Url { url: target.to_owned(), why }));
    }
    let source = source_of(settings, &part.manifest.component);
    let tools = tools_for(target, source).await.map_err(TaskError::Postgres)?;
    let mut facts = BTreeMap::new();
    for dump in dumps {
        let target = named.clone().unwrap_or_else(|| dump.name.clone());
        let roles = roles_of(vault, dump, &part.relations(&dump.name)).await.map_err(TaskError::Restore)?;
        let found = look(&tools, &target, dump, &roles).await.map_err(TaskError::Postgres)?;
        facts.insert(dump.name.clone(), found);
    }
    Ok(TargetFacts::Databases(facts))
}

fn folder_facts(vault: &Vault, target: &str) -> Result<FolderFacts, TaskError> {
    let path = PathBuf::from(target.strip_prefix("file://").unwrap_or(target));
    let path = std::path::absolute(&path).unwrap_or(path);
    let unreadable = |source| TaskError::Postgres(PostgresError::File { path: path.clone(), source });
    let bad = |why| TaskError::Refused(Refusal::BadTarget { path: path.to_string_lossy().into_owned(), why });
    let real = path.ancestors().find_map(|there| there.canonicalize().ok());
    if let (Some(repository), Some(real)) = (vault.store().directory().and_then(|r| r.canonicalize().ok()), real)
        && real.starts_with(&repository)
    {
        return Err(bad("lies in the repository"));
    }
    let entries = match std::fs::read_dir(&path) {
        Ok(entries) => Some(entries.count() as u64),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => return Err(bad("is no folder")),
        Err(error) => return Err(unreadable(error)),
    };
    Ok(FolderFacts {
        path: path.to_string_lossy().into_owned(),
        exists: entries.is_some(),
        entries: entries.unwrap_or(0),
        free_bytes: free_bytes(&path),
        begun: Ledger::of(&path),
    })
}

/// The server of a component.
pub(crate) fn source_of<'a>(settings: Option<&'a Application>, component: &Name) -> Option<&'a Postgres> {
    let component = settings?.components.iter().find(|c| c.name == *component)?;
    match &component.strategy {
        Strategy::Postgres(source) => Some(source),
        Strategy::Physical(_) | Strategy::Disk(_) | Strategy::Action(_) => None,
    }
}

fn action_of<'a>(application: &'a Application, component: &Name) -> Option<&'a Action> {
    let component = application.components.iter().find(|c| c.name == *component)?;
    match &component.strategy {
        Strategy::Action(action) => Some(action),
        Strategy::Postgres(_) | Strategy::Physical(_) | Strategy::Disk(_) => None,
    }
}

/// Runs a plan: first every byte it needs is read back; only then the first is written. Returns what a person
/// should know.
pub async fn run(
    vault: &Vault,
    catalog: &Catalog,
    entry: &Entry,
    planned: &Planned,
    here: Option<Here<'_>>,
    progress: &dyn Progress,
) -> Result<Vec<String>, TaskError> {
    let pin = pin(vault, entry, "restore", progress).await?;
    look_again(vault, catalog, entry, planned, here, progress).await?;
    let settings = here.map(|here| here.application);
    let mut notes = Vec::new();
    for step in &planned.plan.steps {
        let manifest = planned.manifests.iter().find(|m| Some(&m.component) == step.component());
        let Some(manifest) = manifest else { continue };
        match step {
            Step::Database(step) => {
                let source = source_of(settings, &step.component);
                let tools = tools_for(&step.target.url, source).await.map_err(TaskError::Postgres)?;
                let said = engine::database(vault, manifest, step, &tools, progress).await;
                notes.extend(said.map_err(TaskError::Restore)?);
            }
            Step::Folder(step) => {
                notes.extend(engine::folder(vault, step, progress).await.map_err(TaskError::Restore)?);
            }
            Step::DataFolder(step) => notes.extend(moments::lay_down(vault, manifest, step, here, progress).await?),
            Step::Extract(step) => notes.extend(moments::extract(vault, manifest, step, here, progress).await?),
            Step::Action(step) => {
                if let Some(action) = settings.and_then(|application| action_of(application, &step.component)) {
                    engine::action(vault, manifest, step, action, progress).await.map_err(TaskError::Restore)?;
                }
            }
            // Steps of restores in place, which are carried out elsewhere.
            Step::Stop(_)
            | Step::ReplaceDatabase(_)
            | Step::ReplaceFiles(_)
            | Step::ReplaceServer(_)
            | Step::ReplaceVolume(_)
            | Step::Start(_) => {}
        }
    }
    unpin(pin).await;
    Ok(notes)
}

/// Reads everything back that a plan needs, and looks at its targets again: reading takes its time, and so does a person.
pub(crate) async fn look_again(
    vault: &Vault,
    catalog: &Catalog,
    entry: &Entry,
    planned: &Planned,
    here: Option<Here<'_>>,
    progress: &dyn Progress,
) -> Result<(), TaskError> {
    let names: Vec<Name> = planned.plan.steps.iter().filter_map(Step::component).cloned().collect();
    let reaches =
        planned.plan.steps.iter().filter_map(|step| Some((step.component()?.clone(), step.recover()?.reach.clone())));
    prove(vault, catalog, entry, (&names, &reaches.collect()), progress).await?;
    let now = look_at(vault, catalog, entry, &planned.request, Some(&planned.facts), here).await?.digest;
    if now == planned.digest { Ok(()) } else { Err(TaskError::Changed { confirmed: planned.digest.clone(), now }) }
}

/// Points read back in search of one that is whole.
const LOOKED_AT: usize = 5;

/// Reads everything back that is going to be restored; if it is damaged, looks for the newest point that is not.
async fn prove(
    vault: &Vault,
    catalog: &Catalog,
    entry: &Entry,
    (names, reaches): (&[Name], &BTreeMap<Name, Reach>),
    progress: &dyn Progress,
) -> Result<(), TaskError> {
    let damage = damage_of(vault, entry, (names, reaches), progress).await?;
    if damage.is_empty() {
        return Ok(());
    }
    for damage in &damage {
        progress.event(Event::Warning { text: damage });
    }
    let holds_all = |other: &&Entry| other.holds_all(names);
    let others = catalog.live().rev().filter(|other| other.point.is_complete() && other.point.id != entry.point.id);
    let mut intact = None;
    for other in others.filter(holds_all).take(LOOKED_AT) {
        // What cannot be looked at now is not known to be whole; the damage is what must be told.
        if damage_of(vault, other, (names, reaches), progress).await.is_ok_and(|damage| damage.is_empty()) {
            intact = Some(other.point.id);
            break;
        }
    }
    Err(TaskError::Damaged { point: entry.point.id, damage, intact })
}

async fn damage_of(
    vault: &Vault,
    entry: &Entry,
    (names, reaches): (&[Name], &BTreeMap<Name, Reach>),
    progress: &dyn Progress,
) -> Result<Vec<String>, TaskError> {
    let verdicts = components(vault, &entry.point, names, &Behind::Planned(reaches), progress).await?;
    Ok(verdicts.into_iter().filter(|v| v.verdict == Verdict::Failed).flat_map(|v| v.findings).collect())
}

/// Puts a restore or an undo on record, as far as these credentials can write: neither must depend on it.
pub async fn record(host: &Host, vault: &mut Vault, event: evidence::Event) -> Result<(), HostError> {
    let writer = host.introduce(vault).await?.writer;
    let recorded = evidence::append(vault, &writer, &host.name, event).await;
    recorded.map(drop).map_err(HostError::Repository)
}

/// What is said of a failure in evidence: its code and its words, without what commands printed.
pub fn failure_on_record(error: &TaskError) -> String {
    format!("[{}] {}", error.code(), error.without_output())
}
