//! What is kept and what goes: decided, marked, and swept after a grace.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use windlass_core::point::{LONGEST_RUN, RecoveryPoint};
use windlass_core::retention::{DoomedWal, Retention, RetentionPlan, Subject, plan};

use crate::catalog::{Catalog, Damaged};
use crate::evidence::{self, Event};
use crate::format::restic::Pruned;
use crate::live::{self, Tombstone, Why};
use crate::sweep::{Rules, SweepError, Swept, delete, prune, sweep};
use crate::vault::Vault;
use crate::wal_retention;
use crate::writer::Writer;

/// From the mark to the deletion: time enough to notice a mistake, and to lift it by a hold.
pub const GRACE: SignedDuration = SignedDuration::from_hours(24);

/// What was deleted.
#[derive(Debug, Serialize)]
pub struct Applied {
    /// Points and objects.
    #[serde(flatten)]
    pub swept: Swept,
    /// Packs of the application's folders.
    pub packs: Pruned,
    /// Files of WAL that were deleted.
    pub wal: u64,
}

/// Whether a point holds a base backup.
fn is_base(point: &RecoveryPoint) -> bool {
    point.components.iter().any(|component| component.kind == "physical")
}

/// Plans for the points that are not marked yet, and for the WAL that none of them needs.
pub async fn decide_all(
    vault: &Vault,
    catalog: &Catalog,
    rules: Option<&Retention>,
    now: Timestamp,
    zone: &TimeZone,
) -> Result<RetentionPlan, SweepError> {
    let plan = decide(catalog, rules, now, zone);
    let Some(rules) = rules else { return Ok(plan) };
    // Every manifest is read for that.
    if !catalog.entries.iter().any(|entry| is_base(&entry.point)) {
        return Ok(plan);
    }
    Ok(RetentionPlan { wal: wal_retention::plan(vault, rules.pitr, now).await?, ..plan })
}

/// Plans for the points that are not marked yet.
pub fn decide(catalog: &Catalog, rules: Option<&Retention>, now: Timestamp, zone: &TimeZone) -> RetentionPlan {
    let subjects: Vec<Subject> = catalog
        .live()
        .map(|entry| Subject {
            id: entry.point.id,
            at: entry.point.at,
            complete: entry.point.is_complete(),
            sound: entry.point.is_sound(),
            components: entry
                .point
                .components
                .iter()
                .map(|c| c.name.clone())
                .chain(entry.point.failed.iter().map(|f| f.name.clone()))
                .collect(),
            is_base: is_base(&entry.point),
            bytes: entry.point.stored_bytes(),
            holds: entry.holds.iter().map(|hold| hold.reason.clone()).collect(),
        })
        .collect();
    plan(&subjects, rules, now, zone)
}

/// Marks what a plan lets go, then sweeps what was marked a grace ago.
pub async fn apply(
    vault: &Vault,
    writer: &Writer,
    host: &str,
    catalog: Catalog,
    rules: Option<&Retention>,
    plan: &RetentionPlan,
) -> Result<Applied, SweepError> {
    // What cannot be read may be anything, the newest point too.
    if let Some(Damaged { key, error, .. }) = catalog.damaged.into_iter().next() {
        return Err(SweepError::Unreadable { application: vault.application().clone(), key, source: error });
    }
    let digest = plan.digest();
    let failed = SweepError::Repository;
    if !plan.delete.is_empty() || !plan.wal.is_empty() {
        // Before the first mark: a point that is gone is always one that a plan on record let go.
        let points = plan.delete.iter().map(|doomed| doomed.id).collect();
        let event = Event::Retention { plan: digest.clone(), points };
        evidence::append(vault, writer, host, event).await.map_err(failed)?;
    }
    for doomed in &plan.delete {
        Tombstone::set(vault, writer, doomed.id, Why::Retention, Some(&digest)).await.map_err(failed)?;
    }
    let mut swept = sweep(vault, writer, Rules { grace: GRACE, longest_run: LONGEST_RUN }).await?;
    if !swept.points.is_empty() {
        let event = Event::Swept { points: swept.points.clone() };
        evidence::append(vault, writer, host, event).await.map_err(failed)?;
    }
    let wal = sweep_wal(vault, plan, rules, &mut swept).await?;
    // From the mark of a pack to its removal: a run, which may take half of it, began before the mark or knows of it.
    let packs = prune(vault, LONGEST_RUN * 2).await?;
    Ok(Applied { swept, packs, wal })
}

/// Deletes WAL that a plan let go and that is still not needed; returns how many files.
async fn sweep_wal(
    vault: &Vault,
    plan: &RetentionPlan,
    rules: Option<&Retention>,
    swept: &mut Swept,
) -> Result<u64, SweepError> {
    let Some(rules) = rules.filter(|_| !plan.wal.is_empty()) else { return Ok(0) };
    let now = live::now_of(vault.store()).await.map_err(SweepError::Repository)?;
    let mut files = 0;
    for going in wal_retention::going(vault, rules.pitr, now).await? {
        let of_it =
            |planned: &&DoomedWal| planned.component == going.told.component && planned.cluster == going.told.cluster;
        let Some(planned) = plan.wal.iter().find(of_it) else { continue };
        for (key, size) in going.objects {
            // By their names, which begin with the timeline: what was planned of each goes no further.
            if key.file_name().get(8..24) < planned.before.get(8..24) {
                delete(vault, &key, size, swept).await.map_err(SweepError::Repository)?;
                files += 1;
            }
        }
    }
    Ok(files)
}
