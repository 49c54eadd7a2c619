//! `windlass restore --in-place`: what is there and what it would become, confirm, run.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use windlass_core::diagnose::{Diagnose, Outcome};
use windlass_core::duration;
use windlass_core::evidence::Event;
use windlass_core::id::RestoreId;
use windlass_core::name::Name;
use windlass_core::restore::{
    DatabaseImpact, FilesImpact, Impact, Old, Plan, ReplaceServer, Request, Step, TableImpact,
};
use windlass_core::wal::Timeline;
use windlass_host::error::TaskError;
use windlass_host::in_place::journal::{Journal, Lock, State, digest_of};
use windlass_host::in_place::look::impact;
use windlass_host::in_place::{Done, finish, run};
use windlass_host::restore::{Here, failure_on_record, find, find_and_prepare};
use windlass_repo::catalog::Catalog;
use windlass_repo::vault::Vault;

use crate::cli;
use crate::commands::confirm::confirmed;
use crate::commands::restore::{count, moment, more_wal, put_on_record, recovered, which};
use crate::failure::{Result, Status};
use crate::printer::Printer;
use crate::watch::Watch;

/// Tables named one by one; more are counted.
const NAMED: usize = 20;

/// What is printed as JSON.
#[derive(Serialize)]
struct Report<'a> {
    digest: &'a str,
    plan: &'a Plan,
    #[serde(skip_serializing_if = "Option::is_none")]
    impact: Option<&'a Impact>,
    /// The interrupted restore that goes on, or the one that was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    restore: Option<RestoreId>,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    undo_until: Option<Timestamp>,
    notes: Vec<String>,
}

pub(crate) async fn restore(printer: &Printer, mut vault: Vault, here: Here<'_>, arguments: &cli::Restore) -> Result {
    let only = cli::selectors(arguments.only.as_deref())?;
    let request = Request {
        only,
        in_place: true,
        without_undo: arguments.without_undo,
        cluster: arguments.cluster,
        moment: moment(printer, arguments)?,
        timeline: arguments.timeline.map(Timeline),
        ..Request::default()
    };
    let catalog = Catalog::load(&vault).await?;
    let wanted: Vec<&Name> = match request.only.as_slice() {
        [] => here.application.components.iter().map(|component| &component.name).collect(),
        only => only.iter().map(|selector| &selector.component).collect(),
    };
    let meant = which(printer, arguments)?;
    if Journal::unsettled(&here.host.state, &here.application.name)?.is_some() {
        // It is interrupted only if nobody is at work with it.
        drop(Lock::take(&here.host.state, &here.application.name)?);
        if let Some(journal) = Journal::unsettled(&here.host.state, &here.application.name)? {
            let is_same = journal.is_of(&request) && journal.state != State::Undoing;
            let named = arguments.point.is_some() || arguments.at.is_some();
            let is_another = || -> Result<bool> {
                Ok(find(&catalog, vault.application(), meant, &wanted)?.point.id != journal.plan.point)
            };
            // A server's moment says more than the point it is reached from, where that is not named.
            let is_asked = arguments.point.is_some() || named && !journal.plan.replaces_servers();
            if !is_same || (is_asked && is_another()?) {
                return Err(TaskError::unsettled(&journal).into());
            }
            return go_on(printer, &mut vault, &catalog, here, journal, arguments).await;
        }
    }
    let (entry, planned) = find_and_prepare(&vault, &catalog, meant, &wanted, &request, Some(here)).await?;
    let impact = impact(&vault, &planned.plan, &planned.manifests, &planned.facts, here.host, here.application).await?;
    let is_asked_for = arguments.plan || !(printer.is_quiet() && arguments.yes);
    if !printer.is_json() && arguments.confirm.is_none() && is_asked_for {
        printer.result(&(), |printer| {
            more_wal(&planned.facts) + &describe(printer, &planned.plan, &impact, &planned.digest)
        });
    }
    let report = Report {
        digest: &planned.digest,
        plan: &planned.plan,
        impact: Some(&impact),
        restore: None,
        done: false,
        undo_until: None,
        notes: Vec::new(),
    };
    if arguments.plan {
        say(printer, &report);
        return Ok(Status::Done);
    }
    confirmed(&planned.digest, arguments.confirm.as_deref(), arguments.yes, "Run this plan?")?;
    let (started, watch) = (Timestamp::now(), Watch::new(printer));
    let ran = run(&vault, &catalog, entry, &planned, here, arguments.stopped, &watch).await;
    drop(watch);
    tell(printer, here, &mut vault, &planned.plan, started, &ran).await;
    Ok(close(printer, report, ran?))
}

/// Goes on with a restore that was interrupted.
async fn go_on(
    printer: &Printer,
    vault: &mut Vault,
    catalog: &Catalog,
    here: Here<'_>,
    journal: Journal,
    arguments: &cli::Restore,
) -> Result {
    let plan = journal.plan.clone();
    let entry = catalog.get(vault.application(), plan.point).map_err(TaskError::from)?;
    let digest = journal.digest.clone();
    if !(printer.is_json() || printer.is_quiet() && arguments.yes) {
        let done = journal.tasks.iter().filter(|task| task.done.is_some()).count();
        let what = match journal.state {
            State::PuttingBack => "it failed, and what was there is going to be put back".to_owned(),
            _ => format!("{done} of its {} tasks are done, and it goes on from there", journal.tasks.len()),
        };
        let text = format!(
            "The restore {} of {} from {} was interrupted: {what}.\nTo put back what was there: windlass undo {}\nDigest: {digest}",
            journal.id,
            plan.application,
            printer.both_times(plan.at),
            journal.id,
        );
        printer.result(&(), |_| text);
    }
    let report = Report {
        digest: &digest,
        plan: &plan,
        impact: None,
        restore: Some(journal.id),
        done: false,
        undo_until: None,
        notes: Vec::new(),
    };
    if arguments.plan {
        say(printer, &report);
        return Ok(Status::Done);
    }
    confirmed(&digest, arguments.confirm.as_deref(), arguments.yes, "Go on with it?")?;
    let lock = Lock::take(&here.host.state, &here.application.name)?;
    let (before, journal) = (digest_of("restore", &journal, here.application), journal.again()?);
    let now = digest_of("restore", &journal, here.application);
    if now != before {
        return Err(TaskError::Changed { confirmed: before, now }.into());
    }
    let (started, watch) = (Timestamp::now(), Watch::new(printer));
    let ran = finish(vault, entry, journal, &lock, here, arguments.stopped, &watch).await;
    drop(watch);
    tell(printer, here, vault, &plan, started, &ran).await;
    Ok(close(printer, report, ran?))
}

/// Says what a person should know, and puts on record what was done; what was not begun is none.
async fn tell(
    printer: &Printer,
    here: Here<'_>,
    vault: &mut Vault,
    plan: &Plan,
    started: Timestamp,
    ran: &std::result::Result<Done, TaskError>,
) {
    let (restore, notes) = match ran {
        Ok(done) => (Some(done.journal.id), done.notes.as_slice()),
        Err(TaskError::PutBack { notes, .. }) => (None, notes.as_slice()),
        Err(
            TaskError::Unproven { restore, .. } | TaskError::Stuck { restore, .. } | TaskError::Halted { restore, .. },
        ) => (Some(*restore), [].as_slice()),
        Err(error) if error.outcome() == Outcome::CouldNotRun => return,
        Err(_) => (None, [].as_slice()),
    };
    for note in notes {
        printer.warning(note);
    }
    let failure = ran.as_ref().err().map(failure_on_record);
    let event = Event::Restore { point: plan.point, plan: plan.digest(), started, failure, restore };
    put_on_record(printer, here.host, vault, event).await;
}

fn close(printer: &Printer, mut report: Report<'_>, done: Done) -> Status {
    let Done { journal, notes } = done;
    (report.restore, report.done, report.undo_until) = (Some(journal.id), true, journal.until);
    report.notes = notes;
    say(printer, &report);
    printer.note(&closing(printer, &journal));
    Status::Done
}

fn say(printer: &Printer, report: &Report<'_>) {
    if printer.is_json() {
        printer.result(report, |_| String::new());
    }
}

fn closing(printer: &Printer, journal: &Journal) -> String {
    if !journal.plan.steps.iter().any(keeps) {
        return format!(
            "restored in place from {} ({}); nothing was kept",
            journal.plan.point,
            printer.both_times(journal.plan.at)
        );
    }
    let until = match journal.until {
        Some(until) => format!("until {}, when the next backup removes the old copy", printer.time(until)),
        None => format!("until `windlass undo {} --forget` removes the old copy", journal.id),
    };
    format!(
        "restored in place from {} ({}); undo: windlass undo {}, {until}",
        journal.plan.point,
        printer.both_times(journal.plan.at),
        journal.id
    )
}

pub(crate) fn describe(printer: &Printer, plan: &Plan, impact: &Impact, digest: &str) -> String {
    let mut text = format!(
        "Restore IN PLACE of {} from the point {}, which stands for {}\n",
        plan.application,
        plan.point,
        printer.both_times(plan.at)
    );
    for step in &plan.steps {
        text.push_str(&step_in_words(printer, step, impact));
    }
    let span = span_in_words(impact.span_seconds);
    text.push_str(&format!("  data lost: what was written in the last {span}, since the moment it goes back to\n"));
    if let Some(estimate) = &impact.estimate {
        let seconds = i64::try_from(estimate.seconds).unwrap_or(i64::MAX);
        let known = span_in_words(seconds);
        let without: Vec<&str> = estimate.without.iter().map(Name::as_str).collect();
        text.push_str(&match (estimate.seconds, without.as_slice()) {
            (_, []) => format!("  duration: about {known}, by the last restore that was measured\n"),
            (0, _) => {
                "  duration: not known, no restore of it was measured yet (`windlass drill` measures one)\n".into()
            }
            (_, without) => {
                format!("  duration: about {known}, without {}, of which no restore was measured\n", without.join(", "))
            }
        });
    }
    let left_out: Vec<&str> = plan.left_out.iter().map(Name::as_str).collect();
    if !left_out.is_empty() {
        text.push_str(&format!("  not touched: {}\n", left_out.join(", ")));
    }
    for warning in &plan.warnings {
        text.push_str(&format!("  warning: {warning}\n"));
    }
    text.push_str("Every byte is read back before anything is touched. ");
    text.push_str(&what_is_kept(plan));
    text.push_str(&format!("Digest: {digest}\n"));
    text
}

/// Whether a step keeps what was there, or had nothing to keep.
fn keeps(step: &Step) -> bool {
    match step {
        Step::ReplaceDatabase(step) => step.old != Old::Deleted,
        Step::ReplaceFiles(_) | Step::ReplaceServer(_) | Step::ReplaceVolume(_) => true,
        Step::Action(_)
        | Step::Database(_)
        | Step::Folder(_)
        | Step::DataFolder(_)
        | Step::Extract(_)
        | Step::Stop(_)
        | Step::Start(_) => false,
    }
}

fn what_is_kept(plan: &Plan) -> String {
    let replaces = |step: &&Step| keeps(step) || matches!(step, Step::ReplaceDatabase(_) | Step::Action(_));
    let kept = plan.steps.iter().filter(|step| keeps(step)).count();
    let all = plan.steps.iter().filter(replaces).count();
    let what = match (kept, all) {
        (0, _) => return "Nothing of what is there is kept: there is NO undo.\n".to_owned(),
        (kept, all) if kept < all => "What is neither deleted nor overwritten by a command is kept",
        _ => "What is replaced is kept",
    };
    match plan.undo_seconds {
        Some(seconds) => format!(
            "{what}, and `windlass undo` puts it back, for {}; after that the next backup removes it.\n",
            duration::display(SignedDuration::from_secs(seconds))
        ),
        None => {
            format!("{what}, and `windlass undo` puts it back, until you remove it (the settings name no `undo`).\n")
        }
    }
}

fn step_in_words(printer: &Printer, step: &Step, impact: &Impact) -> String {
    match step {
        Step::Stop(step) => format!("  stop the application: {} …\n", step.program),
        Step::Start(step) => format!("  start the application: {} …\n", step.program),
        Step::ReplaceDatabase(step) => {
            let fill = &step.fill;
            let (tables, rows) = (count(fill.tables, "table"), count(fill.rows, "row"));
            let what = match step.old {
                Old::None => format!("create the database {}", fill.database),
                Old::Kept => format!("replace the database {}", fill.database),
                Old::Deleted => format!("DELETE the database {}, and make it anew", fill.database),
            };
            let mut text = format!("  {what} at {}: {tables}, {rows}\n", fill.target.url);
            let of_it = |i: &&DatabaseImpact| i.component == fill.component && i.database == fill.target.database;
            if let Some(impact) = impact.databases.iter().find(of_it) {
                text.push_str(&database_in_words(impact));
            }
            text
        }
        Step::ReplaceFiles(step) => {
            let paths: Vec<&str> = step.places.iter().map(|place| place.path.as_str()).collect();
            let (files, folders) = (count(step.files, "file"), count(step.folders, "folder"));
            let mut text = format!(
                "  replace what is in {}: {files}, {folders}, {}\n",
                paths.join(", "),
                Printer::size(step.bytes)
            );
            for mount in step.places.iter().flat_map(|place| &place.mounts) {
                text.push_str(&format!("    {mount} is a mount point: it stays, and what is in it is replaced\n"));
            }
            if let Some(impact) = impact.files.iter().find(|impact| impact.component == step.component) {
                text.push_str(&files_in_words(impact));
            }
            text
        }
        Step::ReplaceServer(step) => server_in_words(printer, step),
        Step::ReplaceVolume(step) => {
            let old = step.old.as_deref().map_or_else(String::new, |old| format!(" in the place of {old}"));
            format!(
                "  give the application the volume {}{old}, made of the snapshot {} of {}\n",
                step.new, step.snapshot, step.taken
            )
        }
        Step::Action(step) => {
            format!("  run {} and give it {} on its standard input\n", step.command.program, Printer::size(step.bytes))
        }
        Step::Database(_) | Step::Folder(_) | Step::DataFolder(_) | Step::Extract(_) => String::new(),
    }
}

fn server_in_words(printer: &Printer, step: &ReplaceServer) -> String {
    let (size, until) = (Printer::size(step.bytes), recovered(printer, step.recover.as_ref(), step.until));
    let mut text = format!(
        "  replace the SERVER in {}, all of it: base backup {}, {size}, recovered {until}; PostgreSQL {}\n",
        step.data.path, step.backup, step.major
    );
    text.push_str(&format!("    its databases go back together: {}\n", step.databases.join(", ")));
    if !step.gone.is_empty() {
        text.push_str(&format!("    NOT there afterwards: the databases {}\n", step.gone.join(", ")));
    }
    for tablespace in &step.tablespaces {
        text.push_str(&format!("    and its tablespace in {}\n", tablespace.place.path));
    }
    if let Some(wal) = &step.wal {
        text.push_str(&format!("    and its WAL in {}\n", wal.path));
    }
    text.push_str(&format!(
        "    it runs on until the new one is recovered and checked beside it; then: {} …, exchange, {} …\n",
        step.stop.program, step.start.program
    ));
    text
}

fn database_in_words(impact: &DatabaseImpact) -> String {
    let mut text = String::new();
    if let Some(why) = &impact.unknown {
        text.push_str(&format!("    what it holds now is not known ({why}); it is replaced all the same\n"));
    } else if impact.bytes.is_some() {
        let rows = |rows: Option<u64>| rows.map_or("not there".to_owned(), |rows| rows.to_string());
        for TableImpact { schema, table, rows_now, rows_then, exact } in impact.tables.iter().take(NAMED) {
            let about = if *exact { "" } else { "about " };
            let (now, then) = (rows(*rows_now), rows(*rows_then));
            text.push_str(&format!("    {schema}.{table}: {about}{now} rows now, {then} then\n"));
        }
        let more = impact.tables.len().saturating_sub(NAMED) as u64 + impact.more_tables;
        if more > 0 {
            text.push_str(&format!("    and {} more with other rows\n", count(more, "table")));
        }
        text.push_str(&format!("    {} with as many rows as then\n", count(impact.same_rows, "table")));
        if impact.sessions > 0 {
            text.push_str(&format!("    {} now: ended\n", count(impact.sessions, "session")));
        }
    }
    text.push_str(&space(impact.needed_bytes, impact.free_bytes));
    text
}

fn files_in_words(impact: &FilesImpact) -> String {
    let d = &impact.differences;
    let mut text = format!(
        "    {} created, {} changed, {} deleted, {} alike by size and time, {} not touched; the list: {}\n",
        d.created, d.changed, d.deleted, d.unchanged, d.untouched, impact.diff
    );
    text.push_str(&space(impact.needed_bytes, Some(impact.free_bytes)));
    text
}

/// A span of whole seconds.
pub(crate) fn span_in_words(seconds: i64) -> String {
    match seconds {
        ..=0 => "second".to_owned(),
        1..60 => format!("{seconds}s"),
        seconds => duration::display(SignedDuration::from_secs(seconds)).to_string(),
    }
}

fn space(needed: u64, free: Option<u64>) -> String {
    let free =
        free.map_or("free space is not known from here".to_owned(), |free| format!("{} free", Printer::size(free)));
    format!("    space beside what is there: {} needed, {free}\n", Printer::size(needed))
}
