//! `windlass verify`: read points back; `--deep` restores them into a scratch place and checks them.

use windlass_core::name::Name;
use windlass_core::verification::{Verdict, Verification};
use windlass_host::restore::{Which, find};
use windlass_host::{rehearse, verify};
use windlass_repo::catalog::{Catalog, Entry};

use crate::cli;
use crate::commands::foreign;
use crate::commands::restore::point;
use crate::context::Context;
use crate::failure::{Result, Status};
use crate::printer::Printer;
use crate::watch::Watch;

pub(crate) async fn run(context: &Context, arguments: &cli::Verify) -> Result {
    if let Some(repository) = context.foreign(&arguments.application) {
        return foreign::verify(context, repository, arguments).await;
    }
    let site = context.open(&arguments.application).await?;
    let catalog = Catalog::load(&site.vault).await?;
    let application = &site.application.name;
    let wanted: Vec<&Name> = site.application.components.iter().map(|c| &c.name).collect();
    let entries: Vec<&Entry> = match &arguments.point {
        _ if arguments.all => catalog.live().collect(),
        Some(text) => {
            vec![find(&catalog, application, Which::Point(point(text)?), &wanted)?]
        }
        None => vec![find(&catalog, application, Which::Newest, &wanted)?],
    };
    let watch = Watch::new(&context.printer);
    let mut records = Vec::new();
    for entry in entries {
        records.push(if arguments.deep {
            rehearse::deep(&context.host, &site, entry, &watch).await?
        } else {
            verify::read(&site.vault, &site.writer, &context.host.name, entry, &watch).await?
        });
    }
    drop(watch);
    for damaged in &catalog.damaged {
        let why = windlass_core::diagnose::chain(&damaged.error);
        context.printer.warning(&format!("`{}` could not be looked at: {why}", damaged.key));
    }
    let good = catalog.damaged.is_empty() && records.iter().all(|record| record.verdict == Verdict::Passed);
    context.printer.done(good, &records, |_| records.iter().map(describe).collect::<Vec<_>>().join("\n"));
    Ok(if good { Status::Done } else { Status::Failed })
}

/// A verification in words.
pub(crate) fn describe(record: &Verification) -> String {
    let mut text = format!("point {}: {} - {}\n", record.point, record.level, record.verdict);
    let rows = record.components.iter().map(|component| {
        let said =
            if component.findings.is_empty() { component.checked.join("; ") } else { component.findings.join("; ") };
        vec![
            format!("  {}", component.name),
            component.verdict.to_string(),
            Printer::size(component.bytes_read),
            said.replace('\n', " "),
        ]
    });
    text.push_str(&Printer::table(&["  COMPONENT", "VERDICT", "READ", "FOUND"], rows.collect()));
    text
}
