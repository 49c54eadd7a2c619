//! `windlass retention`: what is kept and what goes.

use jiff::Timestamp;
use serde::Serialize;
use windlass_core::id::PointId;
use windlass_core::name::Name;
use windlass_core::retention::{DoomedWal, Retention, RetentionPlan};
use windlass_host::retention::apply;
use windlass_repo::catalog::Catalog;
use windlass_repo::retention::{Applied, GRACE, decide_all};
use windlass_repo::vault::Vault;

use crate::cli;
use crate::commands::confirm::confirmed;
use crate::context::Context;
use crate::failure::{Failure, Result, Status};
use crate::printer::Printer;

#[derive(Serialize)]
struct Shown<'a> {
    application: &'a Name,
    digest: String,
    #[serde(flatten)]
    plan: &'a RetentionPlan,
    marked: Vec<PointId>,
}

pub(crate) async fn run(context: &Context, verb: &cli::Retention) -> Result {
    match verb {
        cli::Retention::Plan { application } => show(context, application).await,
        cli::Retention::Apply { application, confirm, yes, beyond_max_delete } => {
            carry_out(context, application, confirm.as_deref(), *yes, *beyond_max_delete).await
        }
        cli::Retention::Explain { application, point } => explain(context, application, *point).await,
        cli::Retention::Hold { application, point, reason } => hold(context, application, *point, reason).await,
        cli::Retention::Release { application, point } => release(context, application, *point).await,
    }
}

fn rules<'a>(context: &'a Context, application: &Name) -> Result<Option<&'a Retention>> {
    let policy = context.application(application)?.policy.as_ref().and_then(|name| context.settings.policies.get(name));
    Ok(policy.and_then(|policy| policy.retention.as_ref()))
}

async fn plan_now(context: &Context, vault: &Vault, catalog: &Catalog, application: &Name) -> Result<RetentionPlan> {
    let rules = rules(context, application)?;
    Ok(decide_all(vault, catalog, rules, Timestamp::now(), context.printer.zone()).await?)
}

async fn show(context: &Context, application: &Name) -> Result {
    let vault = context.open_vault(application).await?;
    let catalog = Catalog::load(&vault).await?;
    let plan = plan_now(context, &vault, &catalog, application).await?;
    print_plan(context, application, &catalog, &plan);
    Ok(Status::Done)
}

fn print_plan(context: &Context, application: &Name, catalog: &Catalog, plan: &RetentionPlan) {
    let marked = catalog.entries.iter().filter(|e| e.tombstone.is_some()).map(|e| e.point.id).collect();
    let shown = Shown { application, digest: plan.digest(), plan, marked };
    context.printer.result(&shown, |printer| describe(printer, &shown));
}

fn describe(printer: &Printer, shown: &Shown<'_>) -> String {
    let plan = shown.plan;
    let kept =
        plan.keep.iter().map(|k| vec!["keep".into(), k.id.to_string(), printer.time(k.at), k.reasons.join("; ")]);
    let doomed =
        plan.delete.iter().map(|d| vec!["DELETE".into(), d.id.to_string(), printer.time(d.at), d.reason.clone()]);
    let mut text = Printer::table(&["", "POINT", "AT", "WHY"], kept.chain(doomed).collect());
    let bytes: u64 = plan.delete.iter().map(|d| d.bytes).sum();
    text.push_str(&format!(
        "\n{} stay, {} go, which brought {} into the repository.\n",
        plan.keep.len(),
        plan.delete.len(),
        Printer::size(bytes)
    ));
    for DoomedWal { component, before, since, files, bytes, .. } in &plan.wal {
        text.push_str(&format!(
            "DELETE at once: {files} files of WAL of {component}, {}, before {before}: no base backup that is there needs them, and every moment since {} stays.\n",
            Printer::size(*bytes),
            printer.time(*since)
        ));
    }
    if !shown.marked.is_empty() {
        text.push_str(&format!("{} more are marked already and go when their grace is over.\n", shown.marked.len()));
    }
    if let Some(percent) = plan.exceeds {
        text.push_str(&format!(
            "More than the {percent}% that `max_delete` allows go: it takes --beyond-max-delete.\n"
        ));
    }
    text.push_str(&format!("What goes is marked now and deleted after {GRACE:#}; until then `windlass retention hold` saves it.\nDigest: {}\n", shown.digest));
    text
}

async fn carry_out(context: &Context, application: &Name, confirm: Option<&str>, yes: bool, beyond: bool) -> Result {
    let site = context.open(application).await?;
    let catalog = Catalog::load(&site.vault).await?;
    let plan = plan_now(context, &site.vault, &catalog, application).await?;
    if !plan.delete.is_empty() || !plan.wal.is_empty() {
        if confirm.is_none() && !context.printer.is_json() && !(yes && context.printer.is_quiet()) {
            print_plan(context, application, &catalog, &plan);
        }
        confirmed(&plan.digest(), confirm, yes, "Mark these points for deletion?")?;
    }
    let swept = apply(&context.host, &site, catalog, rules(context, application)?, &plan, beyond).await?;
    for key in &swept.swept.denied {
        context.printer.warning(&format!("the store refuses to delete `{key}`: it is still there, and still listed"));
    }
    let marked = plan.delete.len();
    context.printer.done(swept.swept.denied.is_empty(), &swept, |_| describe_sweep(&swept, marked));
    Ok(if swept.swept.denied.is_empty() { Status::Done } else { Status::Failed })
}

fn describe_sweep(applied: &Applied, marked: usize) -> String {
    let (swept, packs) = (&applied.swept, &applied.packs);
    format!(
        "{marked} points marked now; {} points and {} rests of dead runs deleted: {} objects, {}; {} wait for their grace, {} stay although marked (pinned, held or the newest).\n\
         Packs of folders: {} removed, {} marked. Files of WAL deleted: {}.",
        swept.points.len(),
        swept.orphans.len(),
        swept.objects,
        Printer::size(swept.bytes),
        swept.waiting.len(),
        swept.kept.len(),
        Printer::size(packs.removed_bytes),
        Printer::size(packs.marked_bytes),
        applied.wal
    )
}

#[derive(Serialize)]
struct Explained {
    point: PointId,
    kept: bool,
    reasons: Vec<String>,
}

async fn explain(context: &Context, application: &Name, point: PointId) -> Result {
    let vault = context.open_vault(application).await?;
    let catalog = Catalog::load(&vault).await?;
    let entry = catalog.get(application, point)?;
    let plan = plan_now(context, &vault, &catalog, application).await?;
    let kept = plan.keep.iter().find(|kept| kept.id == point);
    let reasons = match (kept, &entry.tombstone) {
        (_, Some(mark)) => {
            vec![format!("marked for deletion at {}", mark.since.map_or("?".into(), |at| at.to_string()))]
        }
        (Some(kept), None) => kept.reasons.clone(),
        (None, None) => plan.delete.iter().filter(|d| d.id == point).map(|d| d.reason.clone()).collect(),
    };
    let explained = Explained { point, kept: kept.is_some() && entry.tombstone.is_none(), reasons };
    context.printer.result(&explained, |_| {
        let verb = if explained.kept { "is kept" } else { "goes" };
        format!("{point} {verb}: {}", explained.reasons.join("; "))
    });
    Ok(Status::Done)
}

async fn hold(context: &Context, application: &Name, point: PointId, reason: &str) -> Result {
    let site = context.open(application).await?;
    let hold = windlass_host::retention::hold(&context.host, &site, point, reason).await?;
    context.printer.done(true, &hold, |_| format!("{point} is held: {reason}"));
    Ok(Status::Done)
}

async fn release(context: &Context, application: &Name, point: PointId) -> Result {
    let site = context.open(application).await?;
    let holds = windlass_host::retention::release(&context.host, &site, point).await?;
    if holds.is_empty() {
        return Err(Failure::usage(format!("{point} is not held"), "`windlass points` shows what is"));
    }
    context.printer.done(true, &holds, |_| format!("{point} is released from {} holds", holds.len()));
    Ok(Status::Done)
}
