//! `windlass repo check`: what is missing, changed or foreign, and what it costs.

use windlass_core::name::Name;
use windlass_host::host::HostError;
use windlass_repo::check::{Finding, Kind, application, common, list, without_keyring};
use windlass_repo::error::RepositoryError;
use windlass_repo::keyring::KeyError;

use crate::context::Context;
use crate::failure::{Result, Status};
use crate::printer::Printer;

pub(crate) async fn run(context: &Context, name: Option<&Name>, read_data: bool) -> Result {
    let settings = context.repository(name)?;
    let repository = context.host.open_repository(settings).await?;
    let names = windlass_repo::catalog::applications(repository.store()).await?;
    let listing = list(repository.store()).await?;
    let mut findings = common(&repository, &listing, &names).await?;
    for name in &names {
        context.printer.note(&format!("check {name}"));
        let vault = match context.host.open_vault(settings, name).await {
            Err(HostError::Repository(RepositoryError::Key(KeyError::Missing { .. } | KeyError::Lost { .. }))) => {
                findings.push(without_keyring(name));
                continue;
            }
            vault => vault?,
        };
        findings.extend(application(&vault, &listing, read_data, &|_| {}).await?);
    }
    context.printer.result(&findings, |_| describe(&findings, listing.len(), read_data));
    let harmless = findings.iter().all(|finding| finding.kind == Kind::Leftover);
    Ok(if harmless { Status::Done } else { Status::Failed })
}

fn describe(findings: &[Finding], objects: usize, read_data: bool) -> String {
    let how = if read_data { "every byte read back" } else { "listed; --read-data reads every byte back" };
    if findings.is_empty() {
        return format!("{objects} objects, {how}: nothing is missing, changed or foreign");
    }
    let rows = findings.iter().map(|finding| {
        let kind = format!("{:?}", finding.kind).to_uppercase();
        let costs = if finding.costs.is_empty() { "nothing".to_owned() } else { finding.costs.join(", ") };
        vec![kind, finding.key.clone(), finding.why.replace('\n', " "), costs]
    });
    let table = Printer::table(&["", "OBJECT", "WHY", "COSTS"], rows.collect());
    format!("{table}\n{objects} objects, {how}: {} findings", findings.len())
}
