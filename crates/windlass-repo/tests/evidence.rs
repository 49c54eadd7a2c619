//! Chains of evidence: whoever changes, takes out or cuts off a record, or a point behind one, is found out.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics, and uses what it needs of the bench"
)]

mod bench;

use std::collections::BTreeSet;

use anyhow::Result;
use bench::{Bench, memory, shop};
use windlass_core::id::PointId;
use windlass_repo::catalog::Catalog;
use windlass_repo::error::RepositoryError;
use windlass_repo::evidence::{self, Event, Flaw, Head};
use windlass_repo::layout;
use windlass_repo::random::Fresh;
use windlass_repo::store::Key;
use windlass_repo::writer::Writer;

/// Appends a record about a point that was let go.
async fn append(bench: &Bench) -> Result<Head, RepositoryError> {
    let event = Event::Swept { points: vec![PointId::fresh().unwrap()] };
    evidence::append(&bench.vault, &bench.writer, "host-1", event).await
}

async fn flaws(bench: &Bench) -> Result<Vec<Flaw>> {
    Ok(evidence::check(&bench.vault, &Catalog::load(&bench.vault).await?).await?)
}

/// Puts other bytes under a key, as somebody with the credentials could.
async fn replace(bench: &Bench, key: &Key, change: impl FnOnce(String) -> String) -> Result<()> {
    let store = bench.vault.store();
    let text = String::from_utf8(store.get(key).await?.to_vec())?;
    let changed = change(text.clone());
    assert_ne!(text, changed, "the change changes nothing");
    store.delete(key).await?;
    store.create(key, changed.into_bytes()).await?;
    Ok(())
}

async fn chain_of(records: u64) -> Result<Bench> {
    let bench = Bench::new(memory()).await?;
    for number in 1..=records {
        assert_eq!(append(&bench).await?.number, number);
    }
    assert_eq!(flaws(&bench).await?, []);
    Ok(bench)
}

#[tokio::test]
async fn a_record_that_was_changed_or_taken_out_is_found() -> Result<()> {
    for number in 1..=4 {
        let bench = chain_of(5).await?;
        let key = layout::evidence_record(bench.writer.id, number);
        replace(&bench, &key, |text| text.replacen("host-1", "host-2", 1)).await?;
        let found = flaws(&bench).await?;
        assert!(found.iter().any(|flaw| flaw.key == key && flaw.why.contains("signature")), "{found:?}");

        let bench = chain_of(5).await?;
        let key = layout::evidence_record(bench.writer.id, number);
        bench.vault.store().delete(&key).await?;
        let found = flaws(&bench).await?;
        assert!(found.iter().any(|flaw| flaw.key == key && flaw.missing), "{found:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_record_that_was_signed_anew_does_not_fit_the_chain() -> Result<()> {
    let bench = chain_of(3).await?;
    // The owner of the key itself rewrites the second record: the third names another.
    let key = layout::evidence_record(bench.writer.id, 2);
    let bytes = bench.vault.store().get(&key).await?;
    let mut record: windlass_core::evidence::Record = bench.vault.accept(&key, &bytes)?;
    record.host = "another host".into();
    bench.vault.store().delete(&key).await?;
    bench.vault.store().create(&key, bench.writer.sign(&record)?).await?;
    let found = flaws(&bench).await?;
    let third = layout::evidence_record(bench.writer.id, 3);
    assert!(found.iter().any(|flaw| flaw.key == third && flaw.why.contains("not the one it names")), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn a_chain_that_was_cut_is_seen_by_points_and_by_other_writers() -> Result<()> {
    let bench = chain_of(2).await?;
    let point = bench.take(b"content").await?;
    assert_eq!(point.evidence[&bench.writer.id].number, 2);
    assert_eq!(flaws(&bench).await?, []);
    let second = layout::evidence_record(bench.writer.id, 2);
    bench.vault.store().delete(&layout::evidence_record(bench.writer.id, 3)).await?;
    bench.vault.store().delete(&second).await?;
    let found = flaws(&bench).await?;
    let cut = |flaw: &Flaw| flaw.key == second && flaw.missing && flaw.why.contains("the chain was cut");
    assert!(found.iter().any(cut), "{found:?}");
    // The record of the point itself was the last of the chain: the point is its witness.
    assert!(found.iter().any(|flaw| flaw.why.contains(&format!("no record tells of the point {}", point.id))));

    let mut bench = chain_of(2).await?;
    let state = tempfile::tempdir()?;
    let other = Writer::load(state.path(), bench.vault.repository().id(), &shop())?;
    other.introduce(bench.vault.store(), &shop(), "host-2", Some(bench.vault.keyring()?)).await?;
    bench.vault.reload_writers().await?;
    evidence::append(&bench.vault, &other, "host-2", Event::Swept { points: vec![] }).await?;
    assert_eq!(flaws(&bench).await?, []);
    let second = layout::evidence_record(bench.writer.id, 2);
    bench.vault.store().delete(&second).await?;
    let found = flaws(&bench).await?;
    let other = other.id.to_string();
    assert!(matches!(found.as_slice(), [flaw] if flaw.key == second && flaw.why.contains(&other)), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn a_point_that_vanished_or_was_replaced_is_found_unless_a_plan_let_it_go() -> Result<()> {
    let bench = Bench::new(memory()).await?;
    let point = bench.take(b"content").await?;
    let key = layout::point(&shop(), point.id, true);
    assert_eq!(flaws(&bench).await?, []);

    bench.vault.store().delete(&key).await?;
    let found = flaws(&bench).await?;
    assert!(matches!(found.as_slice(), [flaw] if flaw.key == key && flaw.missing), "{found:?}");

    let mut other = point.clone();
    other.skew_ms = 7;
    bench.vault.store().create(&key, bench.writer.sign(&other)?).await?;
    let found = flaws(&bench).await?;
    assert!(matches!(found.as_slice(), [flaw] if flaw.key == key && !flaw.missing), "{found:?}");

    bench.vault.store().delete(&key).await?;
    let event = Event::Retention { plan: "digest".into(), points: vec![point.id] };
    evidence::append(&bench.vault, &bench.writer, "host-1", event).await?;
    assert_eq!(flaws(&bench).await?, []);
    Ok(())
}

#[tokio::test]
async fn several_processes_of_a_host_append_to_one_chain_at_once() -> Result<()> {
    let bench = Bench::new(memory()).await?;
    let heads: Vec<Head> =
        futures::future::try_join_all((0..20).map(|_| append(&bench))).await.map_err(anyhow::Error::from)?;
    let numbers: BTreeSet<u64> = heads.iter().map(|head| head.number).collect();
    assert_eq!(numbers, (1..=20).collect());
    assert_eq!(flaws(&bench).await?, []);
    Ok(())
}

#[tokio::test]
async fn a_point_whose_run_died_after_the_commit_is_put_on_record_by_the_next_backup() -> Result<()> {
    let bench = chain_of(2).await?;
    let point = bench.take(b"content").await?;
    bench.vault.store().delete(&layout::evidence_record(bench.writer.id, 3)).await?;
    assert!(flaws(&bench).await?[0].why.contains(&point.id.to_string()));

    evidence::catch_up(&bench.vault, &bench.writer, "host-1").await?;
    assert_eq!(flaws(&bench).await?, []);
    // And it is told once.
    evidence::catch_up(&bench.vault, &bench.writer, "host-1").await?;
    assert_eq!(evidence::heads(&bench.vault).await?[&bench.writer.id].number, 3);
    Ok(())
}
