//! `windlass restore`: plan, preview, confirm, run.

use std::collections::BTreeMap;

use serde::Serialize;
use windlass_core::evidence::Event;
use windlass_core::id::{InvalidId, PointId};
use windlass_core::name::Name;
use windlass_core::repository::{Place, S3};
use windlass_core::restore::{ExtractStep, Moment, Plan, RecoverStep, Relation, Request, Step, TargetFacts};
use windlass_core::secret::SecretRef;
use windlass_core::wal::{Lsn, Timeline};
use windlass_engine::postgres::tools::look_ahead;
use windlass_host::host::Host;
use windlass_host::restore::{Here, Planned, Which, failure_on_record, find_and_prepare, record, run as run_plan};
use windlass_repo::catalog::Catalog;
use windlass_repo::repository::Repository;
use windlass_repo::store::open::open;
use windlass_repo::vault::Vault;

use crate::cli;
use crate::commands::confirm::confirmed;
use crate::commands::foreign;
use crate::commands::in_place;
use crate::commands::keys::read_kit;
use crate::context::Context;
use crate::failure::{Failure, Result, Status};
use crate::printer::Printer;
use crate::watch::Watch;

/// What `--at` says for all there is.
const LATEST: &str = "latest";

/// What is printed as JSON.
#[derive(Serialize)]
struct Report<'a> {
    digest: &'a str,
    plan: &'a Plan,
    done: bool,
    notes: Vec<String>,
}

/// With settings.
pub(crate) async fn run(context: &Context, arguments: &cli::Restore) -> Result {
    let Some(name) = &arguments.application else {
        return Err(Failure::usage("no application was named", "name one: windlass restore APPLICATION --into …"));
    };
    let name = cli::named(name)?;
    cli::without(&arguments.of_cluster(), "an application of the settings")?;
    if let Some(repository) = context.foreign(name) {
        return foreign::restore(context, repository, arguments).await;
    }
    let application = context.application(name)?;
    // While the passphrase opens the keyring.
    look_ahead(application);
    let vault = context.host.open_to_write(context.repository_of(application)?, name).await?;
    let here = Here { host: &context.host, application };
    if arguments.in_place {
        return Box::pin(in_place::restore(&context.printer, vault, here, arguments)).await;
    }
    carry_out(&context.printer, vault, Some(here), arguments).await
}

/// Without settings: with the repository and its recovery kit alone.
pub(crate) async fn from_kit(printer: &Printer, arguments: &cli::Restore) -> Result {
    let (Some(url), Some(file)) = (&arguments.from, &arguments.kit) else {
        return Err(Failure::usage("--from and --kit belong together", "give both"));
    };
    let store = open(&place(url, arguments)?)?;
    let repository = Repository::open(store, None).await?.probed().await?;
    let mut keyrings = read_kit(file, &repository)?;
    let found = match arguments.application.as_ref().map(cli::named).transpose()? {
        Some(name) => keyrings.iter().position(|keyring| keyring.application == *name),
        None if keyrings.len() == 1 => Some(0),
        None => None,
    };
    let Some(index) = found else {
        let known: Vec<&str> = keyrings.iter().map(|k| k.application.as_str()).collect();
        return Err(Failure::usage(
            "the application is not said, or not in the kit",
            format!("name one of: {}", known.join(", ")),
        ));
    };
    let vault = Vault::open_with_kit(&repository, keyrings.swap_remove(index)).await?;
    carry_out(printer, vault, None, arguments).await
}

fn place(url: &str, arguments: &cli::Restore) -> Result<Place> {
    if let Some(path) = url.strip_prefix("file://") {
        return Ok(Place::Directory(path.into()));
    }
    let Some(rest) = url.strip_prefix("s3://") else {
        return Err(Failure::usage(
            format!("`{url}` is not a repository"),
            "write file:///FOLDER or s3://BUCKET/PREFIX",
        ));
    };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    Ok(Place::S3(S3 {
        bucket: bucket.to_owned(),
        prefix: prefix.trim_matches('/').to_owned(),
        endpoint: arguments.endpoint.clone(),
        region: arguments.region.clone(),
        path_style: arguments.endpoint.is_some(),
        ca: arguments.ca.clone(),
        access_key: SecretRef::Env("S3_ACCESS_KEY".into()),
        secret_key: SecretRef::Env("S3_SECRET_KEY".into()),
    }))
}

async fn carry_out(printer: &Printer, mut vault: Vault, here: Option<Here<'_>>, arguments: &cli::Restore) -> Result {
    let into = targets(&arguments.into)?;
    let request = Request {
        only: cli::selectors(arguments.only.as_deref())?,
        into,
        moment: moment(printer, arguments)?,
        timeline: arguments.timeline.map(Timeline),
        standby: arguments.standby,
        paused: arguments.pause,
        ..Request::default()
    };
    let catalog = Catalog::load(&vault).await?;
    let wanted: Vec<&Name> = request.into.keys().collect();
    let found = find_and_prepare(&vault, &catalog, which(printer, arguments)?, &wanted, &request, here).await;
    let (entry, planned) = found?;
    let is_asked_for = arguments.plan || !(printer.is_quiet() && arguments.yes);
    if !printer.is_json() && arguments.confirm.is_none() && is_asked_for {
        printer.result(&(), |printer| describe(printer, &planned));
    }
    if arguments.plan {
        report_json(printer, &planned, false, Vec::new());
        return Ok(Status::Done);
    }
    confirmed(&planned.digest, arguments.confirm.as_deref(), arguments.yes, "Run this plan?")?;
    let watch = Watch::new(printer);
    let started = jiff::Timestamp::now();
    let ran = run_plan(&vault, &catalog, entry, &planned, here, &watch).await;
    drop(watch);
    if let Some(Here { host, .. }) = here {
        let failure = ran.as_ref().err().map(failure_on_record);
        let (point, plan) = (planned.plan.point, planned.digest.clone());
        put_on_record(printer, host, &mut vault, Event::Restore { point, plan, started, failure, restore: None }).await;
    }
    let notes = ran?;
    for note in &notes {
        printer.warning(note);
    }
    report_json(printer, &planned, true, notes);
    printer.note(&format!("restored from {} ({})", planned.plan.point, printer.both_times(planned.plan.at)));
    Ok(Status::Done)
}

/// Puts something on record; where that cannot be done, it is said, and is no failure.
pub(crate) async fn put_on_record(printer: &Printer, host: &Host, vault: &mut Vault, event: Event) {
    if let Err(error) = record(host, vault, event).await {
        printer.warning(&format!("this is not on record: {}", windlass_core::diagnose::chain(&error)));
    }
}

fn report_json(printer: &Printer, planned: &Planned, done: bool, notes: Vec<String>) {
    if printer.is_json() {
        printer.result(&Report { digest: &planned.digest, plan: &planned.plan, done, notes }, |_| String::new());
    }
}

/// Refuses a point together with a time, where each says which point is meant.
pub(crate) fn one_of_both(arguments: &cli::Restore) -> Result<()> {
    if arguments.point.is_some() && arguments.at.as_ref().is_some_and(|at| at != LATEST) {
        return Err(Failure::usage("--point and --at say two things", "give one of them"));
    }
    Ok(())
}

pub(crate) fn which(printer: &Printer, arguments: &cli::Restore) -> Result<Which> {
    one_of_both(arguments)?;
    match (moment(printer, arguments)?, &arguments.point) {
        (Some(Moment::Time(time)), _) => Ok(Which::At(time)),
        (_, Some(text)) => Ok(Which::Point(point(text)?)),
        (_, None) => Ok(Which::Newest),
    }
}

/// The moment that is asked for.
pub(crate) fn moment(printer: &Printer, arguments: &cli::Restore) -> Result<Option<Moment>> {
    Ok(match arguments {
        cli::Restore { at: Some(text), .. } if text == LATEST => Some(Moment::Newest),
        cli::Restore { at: Some(text), .. } => Some(Moment::Time(crate::time::parse(text, printer.zone())?)),
        cli::Restore { at_lsn: Some(lsn), .. } => Some(Moment::Lsn(*lsn)),
        cli::Restore { at_xid: Some(number), .. } => Some(Moment::Transaction(*number)),
        cli::Restore { at_name: Some(name), .. } => Some(Moment::Named(name.clone())),
        _ => None,
    })
}

/// A point's identifier, as people copy it.
pub(crate) fn point(text: &str) -> Result<PointId> {
    text.parse().map_err(|e: InvalidId| Failure::usage(e.to_string(), "copy it from `windlass points`"))
}

fn targets(into: &[String]) -> Result<BTreeMap<Name, String>> {
    let mut targets = BTreeMap::new();
    for text in into {
        let wrong = || {
            Failure::usage(
                format!("`{text}` is not COMPONENT=TARGET"),
                "write for example --into db=postgresql://localhost/copy",
            )
        };
        let (component, target) = text.split_once('=').ok_or_else(wrong)?;
        let component: Name = component.parse().map_err(|_| wrong())?;
        if targets.insert(component, target.to_owned()).is_some() {
            return Err(Failure::usage(
                format!("`{text}` gives a component a second target"),
                "give each component one",
            ));
        }
    }
    Ok(targets)
}

fn describe(printer: &Printer, planned: &Planned) -> String {
    let plan = &planned.plan;
    let mut text = format!(
        "Restore of {} from the point {}, which stands for {}\n",
        plan.application,
        plan.point,
        printer.both_times(plan.at)
    );
    for step in &plan.steps {
        text.push_str("  ");
        text.push_str(&match step {
            Step::Database(step) => {
                let verb = if step.create { "create and fill the database" } else { "fill the empty database" };
                let whole = step.relations.is_empty();
                let space =
                    if whole { format!(", about {} on disk", Printer::size(step.bytes)) } else { String::new() };
                let (tables, rows) = (count(step.tables, "table"), count(step.rows, "row"));
                format!("{verb} {} at {}: {tables}, {rows}{space}", step.target.database, step.target.url)
            }
            Step::Folder(step) => {
                let verb = if step.create { "create the folder" } else { "fill the empty folder" };
                let (files, folders) = (count(step.files, "file"), count(step.folders, "folder"));
                format!("{verb} {}: {files}, {folders}, {}", step.target, Printer::size(step.bytes))
            }
            Step::DataFolder(step) => {
                let verb = if step.goes_on { "go on laying down" } else { "lay down" };
                let databases = step.databases.join(", ");
                let size = Printer::size(step.bytes);
                let until = if step.standby {
                    format!("up to {}, and then a standby of what is archived", step.until)
                } else {
                    recovered(printer, step.recover.as_ref(), step.until)
                };
                let settings = match step.settings.len() {
                    0 => String::new(),
                    some => format!(", and {} in {}/settings", count(some as u64, "settings file"), step.target),
                };
                format!(
                    "{verb} base backup {} in {}: {size}, the databases {databases}{settings}, recovered {until}; for PostgreSQL {}",
                    step.backup, step.target, step.major
                )
            }
            Step::Extract(step) => extracted(printer, step),
            Step::Action(step) => {
                format!("run {} and give it {} on its standard input", step.command.program, Printer::size(step.bytes))
            }
            Step::Stop(_)
            | Step::ReplaceDatabase(_)
            | Step::ReplaceFiles(_)
            | Step::ReplaceServer(_)
            | Step::ReplaceVolume(_)
            | Step::Start(_) => String::new(),
        });
        text.push('\n');
    }
    let left_out: Vec<&str> = plan.left_out.iter().map(Name::as_str).collect();
    if !left_out.is_empty() {
        text.push_str(&format!("  not touched: {}\n", left_out.join(", ")));
    }
    for warning in &plan.warnings {
        text.push_str(&format!("  warning: {warning}\n"));
    }
    text.push_str(&more_wal(&planned.facts));
    text.push_str(
        "Every byte is read back before the first is written. Nothing that exists is overwritten or deleted.\n",
    );
    text.push_str(&format!("Digest: {}\n", planned.digest));
    text
}

/// What more there is of servers than what was asked for.
pub(crate) fn more_wal(facts: &BTreeMap<Name, TargetFacts>) -> String {
    let mut text = String::new();
    for (component, facts) in facts {
        let end = match facts {
            TargetFacts::DataFolder { goes_on, .. } => *goes_on,
            TargetFacts::LiveServer(live) => live.goes_on,
            _ => None,
        };
        if let Some(end) = end {
            text.push_str(&format!(
                "  {component}: its WAL is there up to {end}; `--at latest` has it recovered up to there\n"
            ));
        }
    }
    text
}

/// What is taken out of a server that is recovered aside.
fn extracted(printer: &Printer, step: &ExtractStep) -> String {
    let (size, until) = (Printer::size(step.bytes), recovered(printer, step.recover.as_ref(), step.until));
    let mut text = format!(
        "recover base backup {} in a scratch place below {}: {size}, {until}, with PostgreSQL {}",
        step.backup, step.place, step.major
    );
    for database in &step.databases {
        let verb = if database.create { "create and fill the database" } else { "fill the empty database" };
        let relation =
            |relation: &Relation| format!("{}.{}", relation.schema, relation.table.as_deref().unwrap_or("*"));
        let what = match database.relations.as_slice() {
            [] => "all of it".to_owned(),
            some => format!("{}, and what they need", some.iter().map(relation).collect::<Vec<_>>().join(", ")),
        };
        let target = &database.target;
        text.push_str(&format!(
            "\n  {verb} {} at {} from its database {}: {what}",
            target.database, target.url, database.database
        ));
    }
    text
}

/// How far a server recovers: up to a place, or by a step that goes further.
pub(crate) fn recovered(printer: &Printer, step: Option<&RecoverStep>, until: Lsn) -> String {
    let Some(step) = step else { return format!("up to {until}") };
    let asked = match &step.asked {
        Moment::Time(time) => printer.both_times(*time),
        other => other.to_string(),
    };
    let last = match step.reach.last {
        Some(last) => format!("the last transaction of which ended at {}", printer.both_times(last)),
        None => "in which no transaction ended".to_owned(),
    };
    format!(
        "to {asked}, which is {} on timeline {}, by {} of WAL, {last}{}",
        step.reach.end,
        step.reach.timeline,
        Printer::size(step.wal_bytes),
        if step.paused { ", where it stays paused" } else { "" }
    )
}

/// `1 table`, `2 tables`.
pub(crate) fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
