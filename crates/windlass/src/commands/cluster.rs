//! Restores, undos and drills of an application in a Kubernetes cluster: ordered from its operator, and watched.

use serde::Serialize;
use windlass_core::id::{EntryId, RestoreId};
use windlass_core::restore::{Impact, Plan};
use windlass_operator::api::drill::{DrillSpec, DrillStatus, DrillVerdict};
use windlass_operator::api::restore::{Application, Notes, Old, PLANNED, Phase, RestoreSpec, RestoreStatus};
use windlass_operator::client::Cluster;
use windlass_repo::random::Fresh;

use crate::cli;
use crate::commands::confirm::confirmed;
use crate::commands::in_place;
use crate::failure::{Failure, Result, Status};
use crate::printer::Printer;
use crate::time;

/// What is printed of a restore as JSON.
#[derive(Serialize)]
struct Report<'a> {
    namespace: &'a str,
    restore: &'a str,
    done: bool,
    status: &'a RestoreStatus,
}

/// What is printed of a drill as JSON.
#[derive(Serialize)]
struct Drilled<'a> {
    namespace: &'a str,
    drill: &'a str,
    status: &'a DrillStatus,
}

/// `windlass restore kryton/NAME`: plan, preview, confirm, run.
pub(crate) async fn restore(printer: &Printer, kryton: &str, arguments: &cli::Restore) -> Result {
    cli::without(&arguments.of_settings(), "a Kryton of a cluster")?;
    super::restore::one_of_both(arguments)?;
    if !arguments.in_place {
        let hint = "add --in-place: the plan is shown first, and what is there is kept; or order a drill, which restores into a copy";
        return Err(Failure::usage("a Kryton is restored in place", hint));
    }
    let cluster = Cluster::find(arguments.namespace.as_deref()).await?;
    let at = arguments.at.as_deref().map(|text| time::parse(text, printer.zone())).transpose()?;
    let spec = RestoreSpec {
        from: Application { kryton: kryton.to_owned() },
        into: None,
        point: arguments.point.clone(),
        at: at.map(|at| at.to_string()),
        notes: arguments.notes.clone().map(|volume_snapshot| Notes { volume_snapshot }),
        checks: None,
        undo: arguments.undo.map(|undo| format!("{}s", undo.as_secs())),
        confirm: None,
        old: None,
    };
    let name = fresh(kryton)?;
    cluster.restore(&name, spec).await?;
    let mut heard = |said: &str| printer.note(said);
    let planned = cluster.until(&name, &[Phase::Planned, Phase::Refused, Phase::Failed], &mut heard).await?;
    let status = planned.status.unwrap_or_default();
    let report = |status: &RestoreStatus, done: bool| {
        if printer.is_json() {
            let report = Report { namespace: &cluster.namespace, restore: &name, done, status };
            printer.result(&report, |_| String::new());
        }
    };
    let (Some(plan), Some(digest)) = (plan_of(&status), status.digest.clone()) else {
        let why = status.conditions.iter().find(|condition| condition.type_ == PLANNED);
        let why = why.map(|condition| condition.message.clone()).unwrap_or_default();
        cluster.drop_restore(&name).await?;
        return Err(Failure::usage(format!("there is no plan: {why}"), "nothing was touched"));
    };
    if !printer.is_json() && arguments.confirm.is_none() {
        printer.result(&(), |printer| in_place::describe(printer, &plan.0, &plan.1, &digest));
    }
    if arguments.plan {
        report(&status, false);
        cluster.drop_restore(&name).await?;
        return Ok(Status::Done);
    }
    if let Err(error) = confirmed(&digest, arguments.confirm.as_deref(), arguments.yes, "Run this plan?") {
        cluster.drop_restore(&name).await?;
        return Err(error);
    }
    cluster.confirm(&name, &digest).await?;
    printer.note(&format!("confirmed: the operator carries it out as Restore {name}, also when this command ends"));
    let done =
        cluster.until(&name, &[Phase::Restored, Phase::Final, Phase::Failed, Phase::PutBack], &mut heard).await?;
    let status = done.status.unwrap_or_default();
    for note in &status.notes {
        printer.warning(note);
    }
    let is_done = matches!(status.phase, Some(Phase::Restored | Phase::Final));
    report(&status, is_done);
    if !is_done {
        let why = status.failure.clone().unwrap_or_else(|| "it was put back".to_owned());
        printer.warning(&format!("failed, and what was there before is there again: {why}"));
        return Ok(Status::Failed);
    }
    let id = status.id.clone().unwrap_or_default();
    printer.note(&format!(
        "restored {kryton} from the point of {}; undo: windlass undo {id} --namespace {}",
        status.point_time.clone().unwrap_or_default(),
        cluster.namespace
    ));
    Ok(Status::Done)
}

/// `windlass undo ID --namespace NAMESPACE`: what was there before is put back, or removed.
pub(crate) async fn undo(printer: &Printer, namespace: &str, id: RestoreId, arguments: &cli::Undo) -> Result {
    let cluster = Cluster::find(Some(namespace)).await?;
    let found = cluster.find_restore(id).await?;
    let name = found.metadata.name.clone().unwrap_or_default();
    let status = found.status.unwrap_or_default();
    let (old, verb, wanted) = if arguments.abandon {
        (Old::GiveUp, "give up putting back", Phase::Failed)
    } else if arguments.forget {
        (Old::Remove, "remove what is kept of", Phase::Final)
    } else {
        (Old::PutBack, "put back what was there before", Phase::PutBack)
    };
    let is_for = match old {
        Old::GiveUp => status.phase == Some(Phase::PuttingBack),
        Old::Remove => status.phase == Some(Phase::Restored) || status.kept,
        Old::PutBack => matches!(status.phase, Some(Phase::Restored | Phase::Running)),
    };
    if !is_for {
        let phase = status.phase.map_or_else(|| "not begun".to_owned(), |phase| format!("{phase:?}"));
        return Err(Failure::usage(
            format!("Restore {name} is {phase}: there is nothing to be put back"),
            "list them: kubectl get restores",
        ));
    }
    if !printer.is_json() {
        printer.result(&(), |_| {
            format!(
                "{verb} Restore {name}, which restored the point of {}\nDigest: {}\n",
                status.point_time.clone().unwrap_or_default(),
                status.digest.clone().unwrap_or_default()
            )
        });
    }
    if arguments.plan {
        return Ok(Status::Done);
    }
    confirmed(&status.digest.unwrap_or_default(), arguments.confirm.as_deref(), arguments.yes, "Do it?")?;
    cluster.set_old(&name, old).await?;
    printer.note(&format!("the operator does it, also when this command ends: Restore {name}"));
    let ends = [Phase::PutBack, Phase::Final, Phase::Failed];
    let done = cluster.until(&name, &ends, &mut |said: &str| printer.note(said)).await?;
    let status = done.status.unwrap_or_default();
    for note in &status.notes {
        printer.warning(note);
    }
    let is_done = status.phase == Some(wanted) || (old == Old::Remove && !status.kept);
    if printer.is_json() {
        let report = Report { namespace: &cluster.namespace, restore: &name, done: is_done, status: &status };
        printer.result(&report, |_| String::new());
    }
    Ok(if is_done { Status::Done } else { Status::Failed })
}

/// `windlass drill kryton/NAME`: a copy is restored, checked, measured and removed.
pub(crate) async fn drill(printer: &Printer, kryton: &str, arguments: &cli::Drill) -> Result {
    let cluster = Cluster::find(arguments.namespace.as_deref()).await?;
    let name = fresh(kryton)?;
    let spec = DrillSpec {
        from: Application { kryton: kryton.to_owned() },
        point: arguments.point.map(|point| point.to_string()),
        notes: arguments.notes.clone().map(|volume_snapshot| Notes { volume_snapshot }),
        checks: None,
        deadline: None,
    };
    cluster.drill(&name, spec).await?;
    let done = cluster.drilled(&name, &mut |said: &str| printer.note(said)).await?;
    let status = done.status.unwrap_or_default();
    let passed = status.verdict == Some(DrillVerdict::Passed);
    let report = Drilled { namespace: &cluster.namespace, drill: &name, status: &status };
    printer.done(passed, &report, |_| in_words(&status));
    Ok(if passed { Status::Done } else { Status::Failed })
}

fn in_words(status: &DrillStatus) -> String {
    let verdict = status.verdict.map_or_else(String::new, |verdict| format!("{verdict:?}").to_lowercase());
    let mut text = format!("{verdict}: the point of {}\n", status.point_time.clone().unwrap_or_default());
    for (mark, lines) in [("held", &status.checked), ("note", &status.notes), ("found", &status.findings)] {
        for line in lines {
            text.push_str(&format!("  {mark}: {line}\n"));
        }
    }
    let told = |time: &Option<String>| time.clone().unwrap_or_else(|| "not measured".to_owned());
    text.push_str(&format!("RTO {} (from the word to begin until everything was up and checked)\n", told(&status.rto)));
    text.push_str(&format!("RPO {} (what would have been lost)\n", told(&status.rpo)));
    text
}

fn plan_of(status: &RestoreStatus) -> Option<(Plan, Impact)> {
    let plan = serde_json::from_value(status.plan.clone()?.into()).ok()?;
    let impact = serde_json::from_value(status.impact.clone()?.into()).ok()?;
    Some((plan, impact))
}

/// A name for an object of an application, which nobody has given yet.
fn fresh(kryton: &str) -> Result<String> {
    let id = EntryId::fresh().map_err(windlass_repo::error::RepositoryError::Randomness)?;
    let end = id.to_string().to_lowercase();
    let head: String = kryton.chars().take(28).collect();
    Ok(format!("{}-{}", head.trim_end_matches('-'), &end[end.len() - 10..]))
}
