//! `windlass undo`: back to what was there before a restore in place.

use jiff::Timestamp;
use serde::Serialize;
use windlass_core::application::Application;
use windlass_core::evidence::Event;
use windlass_core::id::RestoreId;
use windlass_core::restore::Step;
use windlass_host::error::TaskError;
use windlass_host::in_place::journal::{Journal, Lock, State, digest_of};
use windlass_host::in_place::{
    DatabaseLoss, UndoImpact, Undone, Work, abandon, forget, impact_of_undo, look_before, may_abandon, may_forget, undo,
};
use windlass_host::restore::failure_on_record;

use crate::cli;
use crate::commands::confirm::confirmed;
use crate::commands::in_place::span_in_words;
use crate::commands::restore::put_on_record;
use crate::context::Context;
use crate::failure::{Result, Status};
use crate::printer::Printer;
use crate::watch::Watch;

/// What is printed as JSON.
#[derive(Serialize)]
struct Report<'a> {
    restore: RestoreId,
    digest: &'a str,
    state: State,
    impact: &'a UndoImpact,
    done: bool,
    /// What could not be put back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gone: Vec<String>,
    notes: Vec<String>,
}

/// A restore in the list.
#[derive(Serialize)]
struct Row {
    restore: RestoreId,
    application: windlass_core::name::Name,
    point: windlass_core::id::PointId,
    at: Timestamp,
    started: Timestamp,
    finished: Option<Timestamp>,
    state: State,
    can_be_undone: bool,
    /// Whether a restore, an undo or a backup of the application is at work right now.
    at_work: bool,
    undo_until: Option<Timestamp>,
    failure: Option<String>,
}

pub(crate) async fn run(context: &Context, arguments: &cli::Undo) -> Result {
    let Some(restore) = arguments.restore else { return list(context) };
    let found = Journal::all(&context.host.state, None)?.into_iter().find(|journal| journal.id == restore);
    let Some(found) = found else {
        let why = "this machine knows no restore in place of that name".to_owned();
        return Err(TaskError::NoUndo { restore: restore.to_string(), why }.into());
    };
    let application = context.application(&found.application)?;
    // At work, it is nothing to be decided upon; while somebody decides, nobody is kept from working.
    drop(Lock::take(&context.host.state, &application.name)?);
    let mut journal = found.again()?;
    let watch = Watch::new(&context.printer);
    let stopped = arguments.stopped;
    let work = Work { vault: None, manifests: &[], application, host: &context.host, stopped, progress: &watch };
    let printer = &context.printer;
    let verb = Verb::of(arguments);
    match verb {
        Verb::Undo => look_before(&work, &journal).await?,
        Verb::Forget => may_forget(&journal)?,
        Verb::Abandon => may_abandon(&journal)?,
    }
    let digest = digest_of(verb.name(), &journal, application);
    let impact = impact_of_undo(&work, &journal).await?;
    if !printer.is_json() && arguments.confirm.is_none() && (arguments.plan || !(printer.is_quiet() && arguments.yes)) {
        let text = match verb {
            Verb::Undo => describe(printer, application, stopped, &journal, &impact),
            Verb::Forget => describe_end(&journal),
            Verb::Abandon => describe_giving_up(&journal),
        };
        printer.result(&(), |_| format!("{text}Digest: {digest}"));
    }
    let report = Report {
        restore,
        digest: &digest,
        state: journal.state,
        impact: &impact,
        done: false,
        gone: Vec::new(),
        notes: Vec::new(),
    };
    if arguments.plan {
        if printer.is_json() {
            printer.result(&report, |_| String::new());
        }
        return Ok(Status::Done);
    }
    confirmed(&digest, arguments.confirm.as_deref(), arguments.yes, verb.question())?;
    let lock = Lock::take(&context.host.state, &application.name)?;
    journal = journal.again()?;
    let now = digest_of(verb.name(), &journal, application);
    if now != digest {
        return Err(TaskError::Changed { confirmed: digest, now }.into());
    }
    let (undone, said) = match verb {
        Verb::Forget => {
            let notes = forget(&work, &mut journal, &lock).await?;
            let said = format!("what was kept of the restore {restore} is removed");
            (Undone { notes, gone: Vec::new(), unproven: None }, said)
        }
        Verb::Abandon => {
            let notes = abandon(&mut journal, &lock)?;
            let said = format!("the restore {restore} is given up: nothing was moved, and the next can be begun");
            (Undone { notes, gone: Vec::new(), unproven: None }, said)
        }
        Verb::Undo => {
            let started = Timestamp::now();
            let undone = undo(&work, &mut journal, &lock).await;
            put_undo_on_record(context, application, &journal, started, &undone).await;
            let undone = undone?;
            let but = if undone.gone.is_empty() { "" } else { ", as far as it could be put back" };
            (undone, format!("what was there before the restore {restore} is back{but}"))
        }
    };
    drop(watch);
    Ok(close(printer, report, &journal, undone, &said))
}

/// What is asked for.
#[derive(Clone, Copy)]
enum Verb {
    Undo,
    Forget,
    Abandon,
}

impl Verb {
    fn of(arguments: &cli::Undo) -> Self {
        match (arguments.forget, arguments.abandon) {
            (true, _) => Self::Forget,
            (_, true) => Self::Abandon,
            (false, false) => Self::Undo,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Undo => "undo",
            Self::Forget => "forget",
            Self::Abandon => "abandon",
        }
    }

    fn question(self) -> &'static str {
        match self {
            Self::Undo => "Put back what was there?",
            Self::Forget => "Remove it?",
            Self::Abandon => "Give it up?",
        }
    }
}

/// The repository may be what is down; the undo needs none.
async fn put_undo_on_record(
    context: &Context,
    application: &Application,
    journal: &Journal,
    started: Timestamp,
    undone: &std::result::Result<Undone, TaskError>,
) {
    let failure = match undone {
        Ok(undone) if !undone.gone.is_empty() => Some(format!("not put back: {}", undone.gone.join(", "))),
        Ok(undone) => undone.unproven.as_deref().map(failure_on_record),
        Err(error) => Some(failure_on_record(error)),
    };
    let opened = match context.repository_of(application) {
        Ok(repository) => context.host.open_to_write(repository, &application.name).await,
        // Its settings were read with the application's.
        Err(_) => return,
    };
    match opened {
        Ok(mut vault) => {
            let event = Event::Undo { restore: journal.id, point: journal.plan.point, started, failure };
            put_on_record(&context.printer, &context.host, &mut vault, event).await;
        }
        Err(error) => {
            context.printer.warning(&format!("this is not on record: {}", windlass_core::diagnose::chain(&error)));
        }
    }
}

fn close(printer: &Printer, mut report: Report<'_>, journal: &Journal, undone: Undone, said: &str) -> Status {
    let Undone { notes, gone, unproven } = undone;
    for note in &notes {
        printer.warning(note);
    }
    for gone in &gone {
        printer.warning(&format!("not put back: {gone}"));
    }
    printer.note(said);
    if let Some(error) = &unproven {
        let why = windlass_core::diagnose::chain(&**error);
        printer.warning(&format!("the application is not proven to work: {why}"));
    }
    let is_whole = gone.is_empty() && unproven.is_none();
    (report.done, report.state, report.notes, report.gone) = (true, journal.state, notes, gone);
    if printer.is_json() {
        printer.done(is_whole, &report, |_| String::new());
    }
    if is_whole { Status::Done } else { Status::Failed }
}

fn list(context: &Context) -> Result {
    let row = |journal: Journal| Row {
        at_work: journal.is_at_work(&context.host.state),
        restore: journal.id,
        application: journal.application.clone(),
        point: journal.plan.point,
        at: journal.plan.at,
        started: journal.started,
        finished: journal.finished,
        can_be_undone: journal.state.can_be_undone(),
        state: journal.state,
        undo_until: journal.until,
        failure: journal.failure,
    };
    let rows: Vec<Row> = Journal::all(&context.host.state, None)?.into_iter().map(row).collect();
    context.printer.result(&rows, |printer| {
        if rows.is_empty() {
            return "no restore in place was made on this machine".into();
        }
        let cells = rows.iter().rev().map(|row| {
            let until = match (row.can_be_undone, row.undo_until) {
                (false, _) => "-".to_owned(),
                (true, Some(until)) => format!("until {}", printer.time(until)),
                (true, None) => "yes".to_owned(),
            };
            vec![
                row.restore.to_string(),
                row.application.to_string(),
                printer.time(row.started),
                printer.time(row.at),
                if row.at_work { "at work" } else { row.state.word() }.to_owned(),
                until,
            ]
        });
        Printer::table(&["RESTORE", "APPLICATION", "BEGUN", "FROM", "STATE", "UNDO"], cells.collect())
    });
    Ok(Status::Done)
}

fn describe(
    printer: &Printer,
    application: &Application,
    stopped: bool,
    journal: &Journal,
    impact: &UndoImpact,
) -> String {
    let mut text =
        format!("Undo of the restore {} of {}, which is {}\n", journal.id, journal.application, journal.state.word());
    let program = |argv: &[String]| argv.first().cloned().unwrap_or_default();
    match &application.control {
        Some(control) if stopped => {
            text.push_str(&format!("  start the application afterwards: {} …\n", program(&control.start)));
        }
        Some(control) => {
            let (stop, start) = (program(&control.stop), program(&control.start));
            text.push_str(&format!("  stop the application before: {stop} …, and start it after: {start} …\n"));
        }
        None => text.push_str("  warning: the settings name no `control`: nothing stops the application\n"),
    }
    for (index, step) in journal.plan.steps.iter().enumerate() {
        match step {
            Step::ReplaceDatabase(step) if journal.has_deleted(index) => {
                text.push_str(&format!("  NOT put back: {}, which the plan deleted\n", step.fill.database));
            }
            Step::ReplaceDatabase(step) => text.push_str(&format!("  put the database {} back\n", step.fill.database)),
            Step::ReplaceFiles(step) => {
                let paths: Vec<&str> = step.places.iter().map(|place| place.path.as_str()).collect();
                text.push_str(&format!("  put back what was in {}\n", paths.join(", ")));
            }
            Step::ReplaceServer(step) => text.push_str(&format!(
                "  put the server in {} back, which is stopped by {} … before, and started by {} … after\n",
                step.data.path, step.stop.program, step.start.program
            )),
            Step::Action(step) => {
                text.push_str(&format!("  NOT put back: {}, which was given to its command\n", step.component));
            }
            _ => {}
        }
    }
    if let Some(finished) = journal.finished {
        let span = span_in_words(impact.span_seconds);
        text.push_str(&format!(
            "  data lost: what was written in the last {span}, since {}\n",
            printer.both_times(finished)
        ));
        for DatabaseLoss { database, rows_written, unknown } in &impact.databases {
            let rows = match (rows_written, unknown) {
                (Some(rows), _) => rows.to_string(),
                (None, Some(why)) => format!("not known: {why}"),
                (None, None) => "not known".to_owned(),
            };
            text.push_str(&format!("    {database}: rows inserted, changed and deleted since: {rows}\n"));
        }
        if journal.plan.steps.iter().any(|step| matches!(step, Step::ReplaceFiles(_))) {
            text.push_str(&format!("    files, links and folders made or changed since: {}\n", impact.entries_changed));
        }
        text.push_str("  it is kept aside until the grace ends\n");
    }
    text
}

fn describe_end(journal: &Journal) -> String {
    let kept = if journal.state == State::Undone { "what was restored" } else { "what was there before" };
    let mut text = format!("Remove what is kept of the restore {} of {}: {kept}\n", journal.id, journal.application);
    for step in &journal.plan.steps {
        match step {
            Step::ReplaceDatabase(step) => {
                text.push_str(&format!("  DELETE the old copy of the database {}\n", step.fill.database));
            }
            Step::ReplaceFiles(step) => {
                let paths: Vec<&str> = step.places.iter().map(|place| place.path.as_str()).collect();
                text.push_str(&format!("  DELETE the old copies in {}\n", paths.join(", ")));
            }
            Step::ReplaceServer(step) => {
                let paths: Vec<&str> = step.places().map(|place| place.path.as_str()).collect();
                text.push_str(&format!("  DELETE the old copy of the server in {}\n", paths.join(", ")));
            }
            _ => {}
        }
    }
    text
}

fn describe_giving_up(journal: &Journal) -> String {
    format!(
        "Give up the restore {} of {}, which is {}: nothing is moved or removed, and it cannot be undone any more\n",
        journal.id,
        journal.application,
        journal.state.word()
    )
}
