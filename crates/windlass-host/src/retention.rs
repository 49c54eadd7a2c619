//! What is kept and what goes: planned, marked, and swept after a grace.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use windlass_core::retention::{Retention, RetentionPlan, Subject, plan};
use windlass_engine::backup::LONGEST_RUN;
use windlass_repo::catalog::Catalog;
use windlass_repo::format::restic::Pruned;
use windlass_repo::live::{Tombstone, Why};
use windlass_repo::sweep::{Rules, SweepError, Swept, prune, sweep};

use crate::error::TaskError;
use crate::host::Site;

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
    site: &Site,
    catalog: &Catalog,
    plan: &RetentionPlan,
    beyond_cap: bool,
) -> Result<Applied, TaskError> {
    if let (Some(percent), false) = (plan.exceeds, beyond_cap) {
        let all = plan.keep.len() + plan.delete.len();
        return Err(TaskError::TooMany { going: plan.delete.len(), all, percent });
    }
    // What cannot be read may be anything, the newest point too.
    if let Some(damaged) = catalog.damaged.first() {
        let source = windlass_repo::error::RepositoryError::Misplaced { key: damaged.key.clone() };
        let application = site.application.name.clone();
        let error = SweepError::Unreadable { application, key: damaged.key.clone(), source };
        return Err(TaskError::Sweep(Box::new(error)));
    }
    let digest = plan.digest();
    for doomed in &plan.delete {
        Tombstone::set(&site.vault, &site.writer, doomed.id, Why::Retention, Some(&digest)).await?;
    }
    let rules = Rules { grace: GRACE, longest_run: LONGEST_RUN };
    let failed = |error| TaskError::Sweep(Box::new(error));
    let swept = sweep(&site.vault, &site.writer, rules).await.map_err(failed)?;
    let packs = prune(&site.vault, PACK_GRACE).await.map_err(failed)?;
    Ok(Applied { swept, packs })
}
