//! `windlass backup`: take a recovery point now.

use serde::Serialize;
use windlass_core::name::Name;
use windlass_core::point::RecoveryPoint;
use windlass_engine::postgres::tools::look_ahead;
use windlass_host::error::TaskError;
use windlass_host::in_place::journal::{Journal, Lock};

use crate::cli;
use crate::context::Context;
use crate::failure::{Failure, Result, Status};
use crate::printer::Printer;
use crate::watch::Watch;

/// What is printed as JSON.
#[derive(Serialize)]
struct Report<'a> {
    complete: bool,
    #[serde(flatten)]
    point: &'a RecoveryPoint,
    stored_bytes: u64,
    hook_failures: &'a [String],
    recorded: bool,
}

pub(crate) async fn run(context: &Context, arguments: &cli::Backup) -> Result {
    let application = context.application(&arguments.application)?;
    if let Some(unknown) = arguments.only.iter().find(|name| !application.components.iter().any(|c| c.name == **name)) {
        let known: Vec<&str> = application.components.iter().map(|c| c.name.as_str()).collect();
        let why = format!("{} has no component `{unknown}`", application.name);
        return Err(Failure::usage(why, format!("it has: {}", known.join(", "))));
    }
    // What lies there while a restore is at work, or interrupted, is neither the old nor the new.
    let lock = Lock::share(&context.host.state, &application.name)?;
    if let Some(journal) = Journal::unsettled(&context.host.state, &application.name)? {
        return Err(TaskError::unsettled(&journal).into());
    }
    context.check_world(&application.name)?;
    // While the passphrase opens the keyring.
    look_ahead(application);
    let site = context.open(&arguments.application).await?;
    let watch = Watch::new(&context.printer);
    let taken = windlass_host::backup::take(&context.host, &site, &arguments.only, &watch).await;
    drop((watch, lock));
    let taken = match taken {
        Err(windlass_engine::backup::BackupError::AllFailed { failed }) => {
            for failure in &failed {
                say_failed(&context.printer, &failure.name, &failure.code, &failure.message);
            }
            return Err(windlass_engine::backup::BackupError::AllFailed { failed }.into());
        }
        other => other?,
    };
    let point = &taken.point;
    for failure in &taken.failed {
        say_failed(&context.printer, &failure.name, &failure.code, &failure.message);
    }
    for warning in &point.warnings {
        context.printer.warning(warning);
    }
    if let Some(error) = &taken.unrecorded {
        let why = windlass_core::diagnose::chain(error);
        context.printer.warning(&format!("the point is there, but no record of evidence could be written: {why}"));
    }
    if taken.is_success() {
        remove_what_is_over(context, application, point).await;
    }
    let report = Report {
        complete: point.is_complete(),
        point,
        stored_bytes: point.stored_bytes(),
        hook_failures: &taken.hook_failures,
        recorded: taken.unrecorded.is_none(),
    };
    context.printer.done(taken.is_success(), &report, |_| describe(point));
    Ok(if taken.is_success() { Status::Done } else { Status::Failed })
}

/// Removes what restores in place keep, once the grace their plans named has ended and a new point is there.
async fn remove_what_is_over(
    context: &Context,
    application: &windlass_core::application::Application,
    point: &RecoveryPoint,
) {
    let watch = Watch::new(&context.printer);
    let held: Vec<Name> = point.components.iter().map(|component| component.name.clone()).collect();
    let expired = windlass_host::in_place::expire(&context.host, application, &held, &watch).await;
    drop(watch);
    match expired {
        Ok(over) => {
            for journal in over {
                let text = format!("the old copy of the restore {} is removed: its grace has ended", journal.id);
                context.printer.note(&text);
            }
        }
        Err(error) => {
            let why = windlass_core::diagnose::chain(&error);
            context.printer.warning(&format!("the old copy of a restore in place could not be removed: {why}"));
        }
    }
}

pub(super) fn say_failed(printer: &Printer, component: &Name, code: &str, message: &str) {
    printer.warning(&format!("{component} could not be captured [{code}]: {message}"));
}

fn describe(point: &RecoveryPoint) -> String {
    let took = point.finished.duration_since(point.started);
    let kind = if point.is_complete() { "recovery point" } else { "PARTIAL recovery point" };
    format!(
        "{kind} {} of {}: {} components, {} of data, {} new in the repository, {} consistency, skew {:#}, took {:#}\n\
         verified: stored. Run `windlass verify {}` to read it back, `--deep` to restore it aside and check it.",
        point.id,
        point.application,
        point.components.len(),
        Printer::size(point.data_bytes()),
        Printer::size(point.stored_bytes()),
        point.consistency,
        round(point.skew()),
        round(took),
        point.application,
    )
}

fn round(duration: jiff::SignedDuration) -> jiff::SignedDuration {
    jiff::SignedDuration::from_millis(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}
