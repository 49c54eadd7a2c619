//! Commits and sweeps that are killed at every step, and stores that misbehave.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics, and uses what it needs of the bench"
)]

mod bench;

use std::sync::Arc;

use anyhow::Result;
use bench::{AT_ONCE, Bench};
use object_store::memory::InMemory;
use windlass_core::point::RecoveryPoint;
use windlass_repo::catalog::Catalog;
use windlass_repo::evidence;
use windlass_repo::live::{Tombstone, Why};
use windlass_repo::store::Store;
use windlass_repo::sweep::sweep;
use windlass_testkit::fault::{Fault, FaultStore};

async fn faulty() -> Result<(FaultStore, Bench)> {
    let faults = FaultStore::before(Arc::new(InMemory::new()));
    let bench = Bench::new(Store::over(Arc::new(faults.clone()), "r", "memory://faulty")).await?;
    Ok((faults, bench))
}

/// Every point the catalog lists can be read whole.
async fn all_points_are_whole(bench: &Bench) -> Result<Vec<RecoveryPoint>> {
    let catalog = Catalog::load(&bench.vault).await?;
    assert!(catalog.damaged.is_empty(), "{:?}", catalog.damaged);
    let points: Vec<RecoveryPoint> = catalog.live().map(|entry| entry.point.clone()).collect();
    for point in &points {
        bench.content(point).await?;
    }
    Ok(points)
}

#[tokio::test]
async fn a_run_killed_at_any_step_commits_all_or_nothing() -> Result<()> {
    for lost_answer in [false, true] {
        for step in 0.. {
            let (faults, bench) = faulty().await?;
            bench.take(b"before").await?;
            faults.set(if lost_answer { Fault::DiesAfter(step) } else { Fault::DiesAt(step) });
            let died = bench.take(&vec![7; 20 << 20]).await;
            let writes = faults.writes();
            let committed = faults.log().iter().position(|write| write.contains("/points/"));
            faults.set(Fault::None);
            let points = all_points_are_whole(&bench).await?.len();
            // The point is there if and only if its commit record reached the store, whatever became of the answer.
            let reached = committed.is_some_and(|at| step > at as u64 || (lost_answer && step == at as u64));
            assert_eq!(points, if reached { 2 } else { 1 }, "step {step}");
            assert!(died.is_err() || reached, "step {step}");
            // One that died before its point was on record is put on record by the next.
            evidence::catch_up(&bench.vault, &bench.writer, "host-1").await?;
            assert_eq!(evidence::check(&bench.vault, &Catalog::load(&bench.vault).await?).await?, [], "step {step}");
            // What it left is swept in two looks, and nothing else is.
            sweep(&bench.vault, &bench.writer, AT_ONCE).await?;
            sweep(&bench.vault, &bench.writer, AT_ONCE).await?;
            assert_eq!(all_points_are_whole(&bench).await?.len(), points);
            let keys = bench.keys().await?;
            let runs: Vec<_> =
                keys.iter().filter(|key| key.starts_with("runs/") || key.starts_with("dumps/")).collect();
            assert_eq!(runs.len(), 2 * points, "step {step}: {runs:?}");
            if writes <= step {
                assert!(died.is_ok() && step >= 4, "step {step}");
                break;
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_sweep_killed_at_any_step_is_finished_by_the_next() -> Result<()> {
    for lost_answer in [false, true] {
        for step in 0.. {
            let (faults, bench) = faulty().await?;
            let doomed = [bench.take(b"one").await?, bench.take(b"two").await?];
            let kept = bench.take(b"kept").await?;
            for point in &doomed {
                Tombstone::set(&bench.vault, &bench.writer, point.id, Why::Retention, None).await?;
            }
            faults.set(if lost_answer { Fault::DiesAfter(step) } else { Fault::DiesAt(step) });
            let died = sweep(&bench.vault, &bench.writer, AT_ONCE).await;
            let writes = faults.writes();
            faults.set(Fault::None);
            // A point that is still listed is still whole, or is going and said to be.
            all_points_are_whole(&bench).await?;
            sweep(&bench.vault, &bench.writer, AT_ONCE).await?;
            let points = all_points_are_whole(&bench).await?;
            assert_eq!(points, std::slice::from_ref(&kept), "step {step}");
            let keys = bench.keys().await?;
            for point in &doomed {
                assert!(!keys.iter().any(|key| key.contains(&point.id.to_string())), "step {step}: {keys:?}");
            }
            assert_eq!(bench.content(&kept).await?, b"kept");
            if writes <= step {
                assert!(died.is_ok() && step > 8, "step {step}");
                break;
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_store_that_refuses_to_delete_is_said_and_nothing_is_forgotten() -> Result<()> {
    let (faults, bench) = faulty().await?;
    let old = bench.take(b"old").await?;
    bench.take(b"new").await?;
    Tombstone::set(&bench.vault, &bench.writer, old.id, Why::Retention, None).await?;
    faults.set(Fault::DeletesDenied);
    let swept = sweep(&bench.vault, &bench.writer, AT_ONCE).await?;
    assert!(swept.points.is_empty() && swept.bytes == 0, "nothing is called deleted: {swept:?}");
    assert!(swept.denied.iter().any(|key| key.contains(&old.id.to_string())));
    assert_eq!(bench.content(&old).await?, b"old");
    faults.set(Fault::None);
    assert_eq!(sweep(&bench.vault, &bench.writer, AT_ONCE).await?.points, [old.id]);
    Ok(())
}

#[tokio::test]
async fn listings_that_are_backwards_and_double_change_nothing() -> Result<()> {
    let (faults, bench) = faulty().await?;
    let (old, new) = (bench.take(b"old").await?, bench.take(b"new").await?);
    faults.set(Fault::ListsTwice);
    assert_eq!(all_points_are_whole(&bench).await?, [old.clone(), new.clone()]);
    Tombstone::set(&bench.vault, &bench.writer, old.id, Why::Retention, None).await?;
    assert_eq!(sweep(&bench.vault, &bench.writer, AT_ONCE).await?.points, [old.id]);
    assert_eq!(all_points_are_whole(&bench).await?, [new]);
    Ok(())
}
