//! `windlass undo`: back to what was there before a restore in place.

use jiff::Timestamp;
use serde::Serialize;
use windlass_core::evidence::Event;
use windlass_core::id::RestoreId;
use windlass_core::restore::{Old, Step};
use windlass_host::error::TaskError;
use windlass_host::in_place::journal::{Journal, Lock, State, digest_of};
use windlass_host::in_place::{UndoImpact, Work, forget, impact_of_undo, undo};
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
    undo_until: Option<Timestamp>,
    failure: Option<String>,
}

pub(crate) async fn run(context: &Context, arguments: &cli::Undo) -> Result {
    let Some(restore) = arguments.restore else { return list(context) };
    let found = Journal::all(&context.host.state, None)?.into_iter().find(|journal| journal.id == restore);
    let Some(mut journal) = found else {
        let why = "this machine knows no restore in place of that name".to_owned();
        return Err(TaskError::NoUndo { restore: restore.to_string(), why }.into());
    };
    let application = context.application(&journal.application)?;
    let lock = Lock::take(&context.host.state, &application.name)?;
    let watch = Watch::new(&context.printer);
    let work = Work { vault: None, manifests: &[], application, host: &context.host, progress: &watch };
    let printer = &context.printer;
    let digest = digest_of(if arguments.forget { "forget" } else { "undo" }, &journal);
    let impact = impact_of_undo(&work, &journal).await.unwrap_or_default();
    if !printer.is_json() && arguments.confirm.is_none() && (arguments.plan || !(printer.is_quiet() && arguments.yes)) {
        let text = if arguments.forget { describe_end(&journal) } else { describe(printer, &journal, &impact) };
        printer.result(&(), |_| format!("{text}Digest: {digest}"));
    }
    let mut report =
        Report { restore, digest: &digest, state: journal.state, impact: &impact, done: false, notes: Vec::new() };
    if arguments.plan {
        if printer.is_json() {
            printer.result(&report, |_| String::new());
        }
        return Ok(Status::Done);
    }
    let question = if arguments.forget { "Remove it?" } else { "Put back what was there?" };
    confirmed(&digest, arguments.confirm.as_deref(), arguments.yes, question)?;
    if arguments.forget {
        forget(&work, &mut journal, &lock).await?;
        printer.note(&format!("what was kept of the restore {restore} is removed"));
    } else {
        let started = Timestamp::now();
        let undone = undo(&work, &mut journal, &lock).await;
        let failure = undone.as_ref().err().map(failure_on_record);
        // The repository may be what is down; the undo needs none.
        match context.host.open_to_write(context.repository_of(application)?, &application.name).await {
            Ok(mut vault) => {
                let event = Event::Undo { restore, point: journal.plan.point, started, failure };
                put_on_record(printer, &context.host, &mut vault, event).await;
            }
            Err(error) => {
                printer.warning(&format!("this is not on record: {}", windlass_core::diagnose::chain(&error)));
            }
        }
        report.notes = undone?;
        for note in &report.notes {
            printer.warning(note);
        }
        printer.note(&format!("what was there before the restore {restore} is back"));
    }
    (report.done, report.state) = (true, journal.state);
    if printer.is_json() {
        printer.result(&report, |_| String::new());
    }
    Ok(Status::Done)
}

fn list(context: &Context) -> Result {
    let row = |journal: Journal| Row {
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
                row.state.word().to_owned(),
                until,
            ]
        });
        Printer::table(&["RESTORE", "APPLICATION", "BEGUN", "FROM", "STATE", "UNDO"], cells.collect())
    });
    Ok(Status::Done)
}

fn describe(printer: &Printer, journal: &Journal, impact: &UndoImpact) -> String {
    let mut text =
        format!("Undo of the restore {} of {}, which is {}\n", journal.id, journal.application, journal.state.word());
    if let Some(control) = journal.plan.steps.iter().find_map(|step| match step {
        Step::Stop(step) => Some(&step.program),
        _ => None,
    }) {
        text.push_str(&format!("  stop the application before and start it after: {control} …\n"));
    }
    for step in &journal.plan.steps {
        match step {
            Step::ReplaceDatabase(step) if step.old == Old::Deleted => {
                text.push_str(&format!("  NOT put back: {}, which the plan deleted\n", step.fill.database));
            }
            Step::ReplaceDatabase(step) => text.push_str(&format!("  put the database {} back\n", step.fill.database)),
            Step::ReplaceFiles(step) => {
                let paths: Vec<&str> = step.places.iter().map(|place| place.path.as_str()).collect();
                text.push_str(&format!("  put back what was in {}\n", paths.join(", ")));
            }
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
        for (database, rows) in &impact.rows_written {
            let rows = rows.map_or("not known".to_owned(), |rows| rows.to_string());
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
            _ => {}
        }
    }
    text
}
