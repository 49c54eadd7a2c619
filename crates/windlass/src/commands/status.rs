//! `windlass status`: protected or not, and why not.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use windlass_core::application::Application;
use windlass_core::coverage::Reached;
use windlass_core::diagnose::chain;
use windlass_core::duration;
use windlass_core::id::RestoreId;
use windlass_core::name::Name;
use windlass_core::protection::{Goals, Protection};
use windlass_core::schedule::Schedule;
use windlass_core::wal::Lsn;
use windlass_engine::postgres::wal::Written;
use windlass_host::in_place::journal::Journal;
use windlass_repo::standing::Known;

use crate::context::Context;
use crate::failure::{Result, Status};
use crate::printer::Printer;

#[derive(Serialize)]
struct Row {
    application: Name,
    #[serde(flatten)]
    protection: Protection,
    why: Vec<String>,
    next: Option<Timestamp>,
    /// A restore in place that is at work, or was interrupted and is neither finished nor undone.
    #[serde(skip_serializing_if = "Option::is_none")]
    unsettled_restore: Option<RestoreId>,
}

pub(crate) async fn run(context: &Context, only: Option<&Name>) -> Result {
    let applications: Vec<&Application> = match only {
        Some(name) => vec![context.application(name)?],
        None => context.settings.applications.values().collect(),
    };
    let mut unsettled = BTreeMap::new();
    for application in &applications {
        // Said first: also where the repository is away, and nothing more can be said.
        if let Some(journal) = Journal::unsettled(&context.host.state, &application.name)? {
            context.printer.warning(&in_words(context, &journal));
            unsettled.insert(application.name.clone(), journal.id);
        }
    }
    let mut rows = Vec::new();
    for application in applications {
        let vault = context.open_vault(&application.name).await?;
        let names: Vec<Name> = application.archiving().map(|(name, _)| name.clone()).collect();
        let mut known = Known::load(&vault, &names).await?;
        for (component, source) in application.archiving() {
            let Some(reached) = known.reached.get_mut(component) else { continue };
            // What is committed after the server was asked is not known to be there.
            let now = Timestamp::now();
            match Written::ask(source).await {
                Ok(written) => {
                    let timeline = written.timeline().unwrap_or(reached.timeline);
                    let lsn = if written.means_no_more_than(reached.end) { reached.end } else { Lsn(u64::MAX) };
                    reached.beside(&written.cluster.to_string(), timeline, lsn, now);
                    reached.beside_tablespaces(&written.tablespaces);
                }
                Err(error) => context.printer.warning(&format!(
                    "{}/{component}: its server was not asked how far it has written: {}",
                    application.name,
                    chain(&error)
                )),
            }
        }
        let protection = known.assess(&goals(context, application));
        let seed = format!("{}/{}", vault.repository().id(), application.name);
        rows.push(Row {
            application: application.name.clone(),
            why: protection.reasons.iter().map(ToString::to_string).collect(),
            next: next_run(context, application, &seed),
            unsettled_restore: unsettled.get(&application.name).copied(),
            protection,
        });
    }
    // What is neither the old nor the new is not protected, and cannot be backed up.
    let all = !rows.is_empty() && unsettled.is_empty() && rows.iter().all(|row| row.protection.protected);
    context
        .printer
        .result(&rows, |printer| rows.iter().map(|row| describe(printer, row)).collect::<Vec<_>>().join("\n"));
    Ok(if all { Status::Done } else { Status::Failed })
}

fn in_words(context: &Context, journal: &Journal) -> String {
    let (restore, application) = (journal.id, &journal.application);
    if journal.is_at_work(&context.host.state) {
        return format!("{application}: the restore {restore} in place is at work");
    }
    format!(
        "{application}: the restore {restore} in place was interrupted, and no backup is taken until it is settled: \
         `{}` goes on with it, `windlass undo {restore}` puts back what was there",
        journal.command()
    )
}

/// What must hold of each component, by its policy or the application's.
fn goals(context: &Context, application: &Application) -> BTreeMap<Name, Goals> {
    let by_default = Goals::default();
    let goals_of = |policy: Option<&Name>| {
        let policy = policy.and_then(|name| context.settings.policies.get(name));
        policy.map_or(by_default, |policy| Goals {
            rpo: policy.rpo.unwrap_or(by_default.rpo),
            every: policy.verify.every.unwrap_or(by_default.every),
            deep: policy.verify.deep.unwrap_or(by_default.deep),
        })
    };
    let component = |c: &windlass_core::application::Component| {
        (c.name.clone(), goals_of(c.policy.as_ref().or(application.policy.as_ref())))
    };
    application.components.iter().map(component).collect()
}

/// When the schedule is due next; Windlass itself runs no schedules yet.
fn next_run(context: &Context, application: &Application, seed: &str) -> Option<Timestamp> {
    let policy = context.settings.policies.get(application.policy.as_ref()?)?;
    Schedule::parse(policy.schedule.as_ref()?, seed).ok()?.next_after(Timestamp::now())
}

fn describe(printer: &Printer, row: &Row) -> String {
    let word = if row.protection.protected { "yes" } else { "NO" };
    let next = row.next.map_or(String::new(), |at| {
        format!("   due next {} (by your own timer: Windlass runs no schedules yet)", printer.time(at))
    });
    let mut text = format!("{}   PROTECTED {word}{next}\n", row.application);
    for why in &row.why {
        text.push_str(&format!("  {why}\n"));
    }
    let components = row.protection.components.iter().map(|c| {
        vec![
            format!("  {}", c.name),
            c.newest.map_or("never".into(), |at| printer.time(at)),
            c.rpo_seconds.map_or("-".into(), |s| duration::display(SignedDuration::from_secs(s)).to_string()),
            c.point.map_or("-".into(), |point| point.to_string()),
            c.verified.map_or("-".into(), |level| level.to_string()),
            c.restored.map_or("never".into(), |at| printer.time(at)),
        ]
    });
    for standing in &row.protection.components {
        if let Some(Reached { end, timeline, .. }) = &standing.reached {
            text.push_str(&format!("  {}: WAL is archived up to {end} on timeline {timeline}\n", standing.name));
        }
    }
    let head = ["  COMPONENT", "NEWEST MOMENT", "RPO NOW", "POINT", "VERIFIED", "RESTORED AND CHECKED"];
    text + &Printer::table(&head, components.collect())
}
