//! Restores a point into a scratch place and checks it: deep verification, and the drill.
//!
//! Databases go into a scratch server, folders into a scratch folder, the output of an action to its `rehearse`
//! command. What comes up is compared with the manifest and asked the application's checks; then everything is torn
//! down, by a supervisor if this process dies.

use std::path::Path;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use windlass_core::application::{Action, Strategy};
use windlass_core::diagnose::chain;
use windlass_core::name::Name;
use windlass_core::point::{ComponentData, ComponentManifest, DiskData, PhysicalData, PostgresData};
use windlass_core::restore::{DatabaseFacts, DatabaseStep, FolderStep, Moment, Reach, RecoverStep};
use windlass_core::verification::{ComponentVerdict, DrillReport, Level, Verdict, Verification};
use windlass_core::wal::Lsn;
use windlass_engine::action;
use windlass_engine::postgres::restore::{Roles, look};
use windlass_engine::postgres::scratch::{Amcheck, Place, ScratchServer, stale, teardown};
use windlass_engine::postgres::{PostgresError, database_of};
use windlass_engine::progress::{Event, Progress};
use windlass_engine::restore::{self, dump_of};
use windlass_repo::catalog::Entry;

use crate::error::TaskError;
use crate::host::{Host, Site};
use crate::moments;
use crate::scratch::Scratch;
use crate::verify::{Behind, components, pin, put_on_record, record_of, unpin};
use windlass_engine::checks;

/// The longest a rehearsal may take before the supervisor tears it down.
const LONGEST: SignedDuration = SignedDuration::from_hours(24);

/// Restores a point into a scratch place, checks it, and records what came of it.
pub async fn deep(host: &Host, site: &Site, entry: &Entry, progress: &dyn Progress) -> Result<Verification, TaskError> {
    rehearse(host, site, entry, progress, false).await
}

/// The same, with the time it took and the data that would have been lost.
pub async fn drill(
    host: &Host,
    site: &Site,
    entry: &Entry,
    progress: &dyn Progress,
) -> Result<Verification, TaskError> {
    rehearse(host, site, entry, progress, true).await
}

async fn rehearse(
    host: &Host,
    site: &Site,
    entry: &Entry,
    progress: &dyn Progress,
    is_drill: bool,
) -> Result<Verification, TaskError> {
    let (vault, point) = (&site.vault, &entry.point);
    let (started, clock) = (Timestamp::now(), Instant::now());
    let pin = pin(vault, entry, if is_drill { "drill" } else { "verify --deep" }, progress).await?;
    let mut verdicts = components(vault, point, &[], &Behind::ItsOwn, progress).await?;
    for left in stale() {
        let said = match teardown(&left) {
            Ok(()) => "removed",
            Err(_) => "cannot be removed by this user",
        };
        let text = format!("{} was left by a drill that was killed with its supervisor: {said}", left.display());
        progress.event(Event::Warning { text: &text });
    }
    let scratch = Scratch::make(&host.program, LONGEST).await?;
    let mut moments = Vec::new();
    for verdict in verdicts.iter_mut().filter(|verdict| verdict.verdict == Verdict::Passed) {
        let Some(summary) = point.components.iter().find(|c| c.name == verdict.name) else { continue };
        let manifest = vault.component(point, summary).await?;
        let began = Instant::now();
        let here = Here { scratch: &scratch, is_drill };
        moments.push(bring_up(site, &manifest, here, verdict, progress).await.unwrap_or(point.at));
        verdict.restore_ms = Some(millis(began));
        let text = match verdict.verdict {
            Verdict::Passed => format!("restored and checked: {}", verdict.checked.join(", ")),
            other => format!("{other}: {}", verdict.findings.join("; ")),
        };
        progress.event(Event::Done { component: &verdict.name, text: &text });
    }
    let rto_ms = millis(clock);
    scratch.end(progress).await?;
    unpin(pin).await;
    let mut record = record_of(vault, &host.name, point, Level::Restored, started, verdicts)?;
    if is_drill {
        let oldest = moments.into_iter().min().unwrap_or(point.at);
        let rpo_ms = u64::try_from(started.duration_since(oldest).as_millis()).unwrap_or(0);
        record.drill = Some(DrillReport { rto_ms, rpo_ms });
    }
    put_on_record(vault, &site.writer, &record, progress).await?;
    Ok(record)
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Where and how a component is rehearsed.
#[derive(Clone, Copy)]
struct Here<'a> {
    scratch: &'a Scratch,
    is_drill: bool,
}

/// Brings one component up and checks it; what is found goes into its verdict. The moment it was brought to, where that is not the
/// point's.
async fn bring_up(
    site: &Site,
    manifest: &ComponentManifest,
    here: Here<'_>,
    verdict: &mut ComponentVerdict,
    progress: &dyn Progress,
) -> Option<Timestamp> {
    match &manifest.data {
        ComponentData::Postgres(data) => databases(site, manifest, data, &here.scratch.place, verdict, progress).await,
        ComponentData::Physical(data) => return cluster(site, manifest, data, here, verdict, progress).await,
        ComponentData::Disk(data) => folder(site, manifest, data, &here.scratch.place, verdict, progress).await,
        ComponentData::Action(_) => output(site, manifest, verdict, progress).await,
    }
    None
}

/// What an error says of the point: nothing, where the store could not be asked or this machine lacks something.
fn judge(error: &restore::RestoreError) -> Verdict {
    if error.is_outage() || error.is_of_this_machine() { Verdict::Inconclusive } else { Verdict::Failed }
}

fn worsen(verdict: &mut ComponentVerdict, to: Verdict, why: String) {
    verdict.verdict = verdict.verdict.max(to);
    verdict.findings.push(why);
}

async fn databases(
    site: &Site,
    manifest: &ComponentManifest,
    data: &PostgresData,
    place: &Place,
    verdict: &mut ComponentVerdict,
    progress: &dyn Progress,
) {
    let name = &manifest.component;
    progress.event(Event::Step { component: name, text: "start a scratch server", total: None });
    let server = match ScratchServer::start(place, data.server_version / 10_000).await {
        Ok(server) => server,
        Err(error) => return worsen(verdict, Verdict::Inconclusive, chain(&error)),
    };
    for dump in &data.databases {
        let facts = match look(&server.tools, &scratch_name(&dump.name), dump, &Roles::default()).await {
            Ok(facts) => facts,
            Err(error) => return worsen(verdict, Verdict::Inconclusive, chain(&error)),
        };
        if !facts.missing_extensions.is_empty() {
            let missing = facts.missing_extensions.join(", ");
            worsen(
                verdict,
                Verdict::Inconclusive,
                format!("{}: the extensions {missing} are not installed on this machine", dump.name),
            );
            continue;
        }
        if !facts.missing_collations.is_empty() {
            let missing = facts.missing_collations.join(", ");
            let why = format!("{}: the collations {missing} are not to be had on this machine", dump.name);
            worsen(verdict, Verdict::Inconclusive, why);
            continue;
        }
        let step = scratch_step(manifest, dump.name.clone(), facts);
        match restore::database(&site.vault, manifest, &step, &server.tools, progress).await {
            Ok(left_out) => verdict.left_out.extend(left_out.iter().map(|what| format!("{}: {what}", dump.name))),
            Err(error) => {
                worsen(verdict, judge(&error), chain(&error));
                continue;
            }
        }
        if let Err(error) = check_database(site, manifest, &step, &server, verdict).await {
            // No session could be had, or it went away: of what lies in the database nothing is known.
            worsen(verdict, Verdict::Inconclusive, chain(&error));
        }
    }
    // Torn down here so that the next component finds the place free; the supervisor would do it as well.
    if let Err(error) = server.halt() {
        progress.event(Event::Warning { text: &chain(&error) });
    }
}

/// `postgres` and the templates are there already.
fn scratch_name(database: &str) -> String {
    if database == "postgres" { "postgres_restored".to_owned() } else { database.to_owned() }
}

fn scratch_step(manifest: &ComponentManifest, database: String, target: DatabaseFacts) -> DatabaseStep {
    DatabaseStep {
        component: manifest.component.clone(),
        database,
        target,
        create: true,
        relations: Vec::new(),
        owners: false,
        tables: 0,
        rows: 0,
        bytes: 0,
    }
}

async fn check_database(
    site: &Site,
    manifest: &ComponentManifest,
    step: &DatabaseStep,
    server: &ScratchServer,
    verdict: &mut ComponentVerdict,
) -> Result<(), TaskError> {
    let dump = dump_of(manifest, &step.database).map_err(TaskError::Restore)?;
    let database = &step.target.database;
    let checked = checks::database(&site.application.checks, &manifest.component, dump, &server.tools, database);
    let found = checked.await.map_err(TaskError::Postgres)?;
    verdict.checked.extend(found.held);
    for failure in found.failed {
        worsen(verdict, Verdict::Failed, failure);
    }
    Ok(())
}

/// Lays a base backup down, has a server recover on it, and looks at everything in it. Where its WAL leads on from there, a drill
/// has it replay all there is, and a verification as far as a place in it that nobody chose. The moment it was brought to.
async fn cluster(
    site: &Site,
    manifest: &ComponentManifest,
    data: &PhysicalData,
    here: Here<'_>,
    verdict: &mut ComponentVerdict,
    progress: &dyn Progress,
) -> Option<Timestamp> {
    let up = async {
        let step = replayed(site, &manifest.component, data, here.is_drill).await?;
        let server = here.scratch.server(&site.vault, manifest, data, step.as_ref(), progress).await?;
        Ok((step, server))
    };
    let (step, server) = match up.await {
        Ok(up) => up,
        Err(error) => {
            let found = if let TaskError::Restore(error) = &error { judge(error) } else { Verdict::Inconclusive };
            worsen(verdict, found, chain(&error));
            return None;
        }
    };
    let end = step.as_ref().map_or(data.stop, |step| step.reach.end);
    verdict.checked.push(format!("recovered up to {end}"));
    if let Err(error) = look_at_all(site, manifest, data, &server, verdict, progress).await {
        worsen(verdict, Verdict::Inconclusive, chain(&error));
    }
    if let Err(error) = server.halt() {
        progress.event(Event::Warning { text: &chain(&error) });
    }
    step.and_then(|step| step.reach.last)
}

/// How far the WAL is replayed behind a base backup, where it leads on from there.
async fn replayed(
    site: &Site,
    component: &Name,
    data: &PhysicalData,
    is_drill: bool,
) -> Result<Option<RecoverStep>, TaskError> {
    let Some(end) = moments::goes_on(&site.vault, component, data).await? else { return Ok(None) };
    let moment = if is_drill {
        Moment::Newest
    } else {
        let chosen = u64::from_ne_bytes(windlass_repo::random::bytes().unwrap_or_default());
        Moment::Lsn(Lsn(data.stop.0 + chosen % (end.0 - data.stop.0)))
    };
    let reach = moments::reach(&site.vault, component, data, &moment, None).await;
    let reach = match (reach, is_drill) {
        // It lies in what fills a segment up.
        (Err(TaskError::Refused(_)), false) => {
            moments::reach(&site.vault, component, data, &Moment::Newest, None).await?
        }
        (other, _) => other?,
    };
    let step = |reach: Reach| RecoverStep {
        wal_bytes: reach.end.0.saturating_sub(data.start.0),
        asked: moment,
        reach,
        paused: false,
    };
    Ok(reach.map(step))
}

async fn look_at_all(
    site: &Site,
    manifest: &ComponentManifest,
    data: &PhysicalData,
    server: &ScratchServer,
    verdict: &mut ComponentVerdict,
    progress: &dyn Progress,
) -> Result<(), PostgresError> {
    let component = &manifest.component;
    progress.event(Event::Step { component, text: "check every table and index", total: None });
    match server.check_all().await? {
        Amcheck::Right => verdict.checked.push(format!("every table and index of {}", data.databases.join(", "))),
        Amcheck::Wrong(said) => worsen(verdict, Verdict::Failed, said),
        Amcheck::NotInstalled => {
            verdict.left_out.push("tables and indexes were not looked at: pg_amcheck is not installed".to_owned());
        }
    }
    let settings = site.application.components.iter().find(|other| other.name == *component);
    let url = settings.and_then(|settings| match &settings.strategy {
        Strategy::Physical(source) => Some(&source.server.url),
        _ => None,
    });
    let database = url.and_then(|url| database_of(url).ok().flatten()).unwrap_or_else(|| "postgres".to_owned());
    let found = checks::asked(&site.application.checks, component, &database, &server.tools, &database).await?;
    verdict.checked.extend(found.held);
    for failure in found.failed {
        worsen(verdict, Verdict::Failed, failure);
    }
    Ok(())
}

async fn folder(
    site: &Site,
    manifest: &ComponentManifest,
    data: &DiskData,
    place: &Place,
    verdict: &mut ComponentVerdict,
    progress: &dyn Progress,
) {
    let target = place.path.join(format!("files-{}", manifest.component));
    let free = restore::free_bytes(&place.path);
    if free < data.bytes {
        let (free, needed) = (windlass_core::size::display(free), windlass_core::size::display(data.bytes));
        return worsen(
            verdict,
            Verdict::Inconclusive,
            format!("{} has {free} free, and {needed} are needed", place.path.display()),
        );
    }
    let step = FolderStep {
        component: manifest.component.clone(),
        snapshot: data.snapshot.clone(),
        strip: None,
        target: target.to_string_lossy().into_owned(),
        create: true,
        files: data.files,
        folders: data.folders,
        bytes: data.bytes,
    };
    match restore::folder(&site.vault, &step, progress).await {
        Err(error) => worsen(verdict, judge(&error), chain(&error)),
        Ok(_) => match tally(&target) {
            Ok((files, bytes)) if (files, bytes) == (data.files, data.bytes) => {
                verdict.checked.push(format!("{files} files, {} as captured", windlass_core::size::display(bytes)));
            }
            Ok((files, bytes)) => worsen(
                verdict,
                Verdict::Failed,
                format!("{files} files of {bytes} bytes came back instead of {} of {}", data.files, data.bytes),
            ),
            Err(error) => worsen(verdict, Verdict::Failed, format!("look at what came back: {error}")),
        },
    }
}

/// Entries that are no folders, and the bytes of the files among them.
fn tally(folder: &Path) -> std::io::Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                open.push(entry.path());
            } else {
                files += 1;
                bytes += if meta.is_file() { meta.len() } else { 0 };
            }
        }
    }
    Ok((files, bytes))
}

async fn output(site: &Site, manifest: &ComponentManifest, verdict: &mut ComponentVerdict, progress: &dyn Progress) {
    let component = site.application.components.iter().find(|c| c.name == manifest.component);
    let settings = component.and_then(|c| match &c.strategy {
        Strategy::Action(action) => Some(action),
        _ => None,
    });
    let Some((settings, rehearse)) = settings.and_then(|s| Some((s, s.rehearse.clone()?))) else {
        let why = "the settings name no `rehearse` command for it, so that nobody can say whether it could be restored";
        return worsen(verdict, Verdict::Inconclusive, why.into());
    };
    let ComponentData::Action(data) = &manifest.data else { return };
    let rehearsal = Action { restore: Some(rehearse.clone()), ..settings.clone() };
    let reader = match site.vault.read(&data.object).await {
        Ok(reader) => reader,
        Err(error) => return worsen(verdict, Verdict::Failed, chain(&error)),
    };
    match action::restore(&manifest.component, &rehearsal, &data.object, reader, progress).await {
        Ok(()) => {
            // Its program only: arguments may hold a secret.
            let program = rehearse.first().map_or("", String::as_str);
            verdict.checked.push(format!("its rehearsal `{program}` ended well"));
        }
        Err(error) => worsen(verdict, Verdict::Failed, chain(&error)),
    }
}
