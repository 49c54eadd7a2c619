//! What is kept and what goes: planned, marked, and swept after a grace.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use windlass_core::id::PointId;
use windlass_core::retention::{Retention, RetentionPlan, Subject, plan};
use windlass_engine::backup::LONGEST_RUN;
use windlass_repo::catalog::{Catalog, Damaged};
use windlass_repo::error::RepositoryError;
use windlass_repo::evidence::Event;
use windlass_repo::format::restic::Pruned;
use windlass_repo::live::{Hold, Tombstone, Why};
use windlass_repo::store::{Key, StoreError};
use windlass_repo::sweep::{Rules, SweepError, Swept, prune, sweep};
use windlass_repo::vault::Vault;

use crate::error::TaskError;
use crate::host::{Host, Site};
use crate::verify::is_going;

/// From the mark to the deletion: time enough to notice a mistake, and to lift it by `retention hold`.
pub const GRACE: SignedDuration = SignedDuration::from_hours(24);

/// From the mark of a pack to its removal: a run, which may take half of it, began before the mark or knows of it.
const PACK_GRACE: SignedDuration = SignedDuration::from_secs(2 * LONGEST_RUN.as_secs());

/// What was deleted.
#[derive(Debug, Serialize)]
pub struct Applied {
    /// Points and objects.
    #[serde(flatten)]
    pub swept: Swept,
    /// Packs of the application's folders.
    pub packs: Pruned,
}

/// Plans for the points that are not marked yet.
pub fn decide(catalog: &Catalog, rules: Option<&Retention>, now: Timestamp, zone: &TimeZone) -> RetentionPlan {
    let subjects: Vec<Subject> = catalog
        .live()
        .map(|entry| Subject {
            id: entry.point.id,
            at: entry.point.at,
            complete: entry.point.is_complete(),
            components: entry
                .point
                .components
                .iter()
                .map(|c| c.name.clone())
                .chain(entry.point.failed.iter().map(|f| f.name.clone()))
                .collect(),
            bytes: entry.point.stored_bytes(),
            holds: entry.holds.iter().map(|hold| hold.reason.clone()).collect(),
        })
        .collect();
    plan(&subjects, rules, now, zone)
}

/// Marks what the plan lets go, then sweeps what was marked a grace ago.
pub async fn apply(
    host: &Host,
    site: &Site,
    catalog: Catalog,
    plan: &RetentionPlan,
    beyond_cap: bool,
) -> Result<Applied, TaskError> {
    if let (Some(percent), false) = (plan.exceeds, beyond_cap) {
        let all = plan.keep.len() + plan.delete.len();
        return Err(TaskError::TooMany { going: plan.delete.len(), all, percent });
    }
    // What cannot be read may be anything, the newest point too.
    if let Some(Damaged { key, error, .. }) = catalog.damaged.into_iter().next() {
        let application = site.application.name.clone();
        return Err(TaskError::Sweep(Box::new(SweepError::Unreadable { application, key, source: error })));
    }
    let digest = plan.digest();
    if !plan.delete.is_empty() {
        // Before the first mark: a point that is gone is always one that a plan on record let go.
        let points = plan.delete.iter().map(|doomed| doomed.id).collect();
        site.record(host, Event::Retention { plan: digest.clone(), points }).await?;
    }
    for doomed in &plan.delete {
        Tombstone::set(&site.vault, &site.writer, doomed.id, Why::Retention, Some(&digest)).await?;
    }
    let rules = Rules { grace: GRACE, longest_run: LONGEST_RUN };
    let failed = |error| TaskError::Sweep(Box::new(error));
    let swept = sweep(&site.vault, &site.writer, rules).await.map_err(failed)?;
    if !swept.points.is_empty() {
        site.record(host, Event::Swept { points: swept.points.clone() }).await?;
    }
    let packs = prune(&site.vault, PACK_GRACE).await.map_err(failed)?;
    Ok(Applied { swept, packs })
}

/// Holds a point: no retention deletes it until the hold is lifted.
pub async fn hold(host: &Host, site: &Site, point: PointId, reason: &str) -> Result<Hold, TaskError> {
    let catalog = Catalog::load(&site.vault).await?;
    let record = &catalog.get(&site.application.name, point)?.key;
    let hold = Hold::set(&site.vault, &site.writer, point, reason).await?;
    // A sweep looks for holds right before it deletes, but it may be past that where the grace is over.
    if is_going(&site.vault, point).await? || is_gone(&site.vault, record).await? {
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
