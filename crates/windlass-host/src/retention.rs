//! What is kept and what goes: planned, marked, and swept after a grace.

use windlass_core::id::PointId;
use windlass_core::retention::{Retention, RetentionPlan};
use windlass_repo::catalog::Catalog;
use windlass_repo::error::RepositoryError;
use windlass_repo::evidence::Event;
use windlass_repo::live::{self, Hold, Tombstone};
use windlass_repo::retention::{self, Applied};
use windlass_repo::store::{Key, StoreError};
use windlass_repo::vault::Vault;

use crate::error::TaskError;
use crate::host::{Host, Site};

/// Marks what the plan lets go, then sweeps what was marked a grace ago.
pub async fn apply(
    host: &Host,
    site: &Site,
    catalog: Catalog,
    rules: Option<&Retention>,
    plan: &RetentionPlan,
    beyond_cap: bool,
) -> Result<Applied, TaskError> {
    if let (Some(percent), false) = (plan.exceeds, beyond_cap) {
        let all = plan.keep.len() + plan.delete.len();
        return Err(TaskError::TooMany { going: plan.delete.len(), all, percent });
    }
    let applied = retention::apply(&site.vault, &site.writer, &host.name, catalog, rules, plan).await;
    applied.map_err(|error| TaskError::Sweep(Box::new(error)))
}

/// Holds a point: no retention deletes it until the hold is lifted.
pub async fn hold(host: &Host, site: &Site, point: PointId, reason: &str) -> Result<Hold, TaskError> {
    let catalog = Catalog::load(&site.vault).await?;
    let record = &catalog.get(&site.application.name, point)?.key;
    let hold = Hold::set(&site.vault, &site.writer, point, reason).await?;
    // A sweep looks for holds right before it deletes, but it may be past that where the grace is over.
    if live::is_going(&site.vault, point).await? || is_gone(&site.vault, record).await? {
        hold.lift(&site.vault).await?;
        return Err(TaskError::Going { point });
    }
    // Only once the hold is there: a sweep at this moment sees one or the other.
    Tombstone::lift(&site.vault, point).await?;
    site.record(host, Event::Hold { point, entry: hold.entry, reason: reason.to_owned() }).await?;
    Ok(hold)
}

/// Lifts every hold of a point, and returns them.
pub async fn release(host: &Host, site: &Site, point: PointId) -> Result<Vec<Hold>, TaskError> {
    let catalog = Catalog::load(&site.vault).await?;
    let holds = catalog.get(&site.application.name, point)?.holds.clone();
    if !holds.is_empty() {
        // Before the first is lifted: a hold that is gone is always one that a release on record lifted.
        let entries = holds.iter().map(|hold| hold.entry).collect();
        site.record(host, Event::Release { point, entries }).await?;
    }
    for hold in &holds {
        hold.lift(&site.vault).await?;
    }
    Ok(holds)
}

/// Whether a sweep has deleted a point's commit record since it was listed.
async fn is_gone(vault: &Vault, record: &Key) -> Result<bool, TaskError> {
    match vault.store().head(record).await {
        Ok(_) => Ok(false),
        Err(StoreError::NotFound { .. }) => Ok(true),
        Err(error) => Err(RepositoryError::Store(error).into()),
    }
}
