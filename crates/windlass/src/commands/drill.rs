//! `windlass drill`: rehearse a restore and measure it.

use jiff::SignedDuration;
use windlass_core::duration::display;
use windlass_core::name::Name;
use windlass_core::verification::Verdict;
use windlass_host::rehearse;
use windlass_host::restore::{Which, find};
use windlass_repo::catalog::Catalog;

use crate::cli;
use crate::commands::verify::describe;
use crate::context::Context;
use crate::failure::{Result, Status};
use crate::watch::Watch;

pub(crate) async fn run(context: &Context, arguments: &cli::Drill) -> Result {
    let (application, point) = (cli::named(&arguments.application)?, arguments.point);
    cli::without(&arguments.of_cluster(), "an application of the settings")?;
    let site = context.open(application).await?;
    let catalog = Catalog::load(&site.vault).await?;
    let wanted: Vec<&Name> = site.application.components.iter().map(|c| &c.name).collect();
    let entry = find(&catalog, application, point.map_or(Which::Newest, Which::Point), &wanted)?;
    let watch = Watch::new(&context.printer);
    let record = rehearse::drill(&context.host, &site, entry, &watch).await?;
    drop(watch);
    context.printer.done(record.verdict == Verdict::Passed, &record, |_| {
        let measured = record.drill.as_ref().map_or(String::new(), |drill| {
            let time = |ms: u64| display(SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX))).to_string();
            format!("RTO {} (from the word to begin until everything was up and checked)\nRPO {} (what would have been lost)\n", time(drill.rto_ms), time(drill.rpo_ms))
        });
        format!("{}{measured}", describe(&record))
    });
    Ok(if record.verdict == Verdict::Passed { Status::Done } else { Status::Failed })
}
