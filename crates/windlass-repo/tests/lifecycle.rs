//! A repository's life: made, written, read, held, swept.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics, and uses what it needs of the bench"
)]

mod bench;

use std::collections::BTreeMap;

use anyhow::Result;
use bench::{AT_ONCE, Bench, memory, shop};
use jiff::SignedDuration;
use windlass_core::id::PointId;
use windlass_core::name::Name;
use windlass_core::point::{
    ComponentData, ComponentFailure, ComponentManifest, ObjectRef, PhysicalData, RecoveryPoint,
};
use windlass_core::repository::Place;
use windlass_core::wal::{Lsn, SegmentSize, Timeline};
use windlass_repo::catalog::Catalog;
use windlass_repo::error::RepositoryError;
use windlass_repo::keyring::Unlock;
use windlass_repo::layout;
use windlass_repo::live::{Hold, Pin, Tombstone, Why};
use windlass_repo::object::ObjectError;
use windlass_repo::random::Fresh;
use windlass_repo::repository::Repository;
use windlass_repo::run::Attempt;
use windlass_repo::store::Key;
use windlass_repo::sweep::{Rules, SweepError, sweep};
use windlass_repo::vault::Vault;
use windlass_repo::writer::Writer;

#[tokio::test]
async fn what_was_written_is_read_back() -> Result<()> {
    let bench = Bench::new(memory()).await?;
    let content: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let point = bench.take(&content).await?;

    let catalog = Catalog::load(&bench.vault).await?;
    assert_eq!(catalog.entries.len(), 1);
    assert_eq!(catalog.entries[0].point, point);
    assert!(bench.content(&point).await? == content);
    Ok(())
}

#[tokio::test]
async fn a_changed_byte_is_found_wherever_it_is() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let bench = Bench::new(windlass_repo::store::open::open(&Place::Directory(folder.path().to_owned()))?).await?;
    let point = bench.take(&vec![7; 200_000]).await?;
    let manifest = bench.vault.component(&point, &point.components[0]).await?;
    let object = folder.path().join(&manifest.objects()[0].key);
    let good = std::fs::read(&object)?;

    for position in [0, 100, 300, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[position] ^= 1;
        std::fs::write(&object, &bad)?;
        let error = bench.content(&point).await.unwrap_err().downcast::<ObjectError>()?;
        assert!(matches!(error, ObjectError::Damaged { .. }), "byte {position}: {error}");
    }
    for length in [0, 50, good.len() - 1] {
        std::fs::write(&object, &good[..length])?;
        let error = bench.content(&point).await.unwrap_err().downcast::<ObjectError>()?;
        assert!(matches!(error, ObjectError::Damaged { .. }), "cut at {length}: {error}");
    }
    std::fs::write(&object, [good.as_slice(), b"x"].concat())?;
    assert!(bench.content(&point).await.is_err(), "an appended byte");
    std::fs::write(&object, &good)?;
    bench.content(&point).await?;
    Ok(())
}

#[tokio::test]
async fn a_wrong_passphrase_is_not_called_damage() -> Result<()> {
    let bench = Bench::new(memory()).await?;
    let wrong = Unlock::Passphrase("incorrect horse".into());
    let error = Vault::open(bench.vault.repository(), &shop(), &wrong).await.err().unwrap();
    assert!(error.to_string().contains("the passphrase does not open it"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_document_signed_by_a_stranger_is_not_believed() -> Result<()> {
    let bench = Bench::new(memory()).await?;
    let point = bench.take(b"ours").await?;
    let elsewhere = tempfile::tempdir()?;
    let stranger = Writer::load(elsewhere.path(), bench.vault.repository().id(), &shop())?;

    // Not introduced at all.
    bench.vault.commit(&stranger, &RecoveryPoint { id: PointId::fresh()?, ..point.clone() }).await?;
    let catalog = Catalog::load(&bench.vault).await?;
    assert_eq!((catalog.entries.len(), catalog.damaged.len()), (1, 1));

    // Introduced by itself, but nobody vouches for it.
    stranger.introduce(bench.vault.store(), &shop(), "evil", None).await?;
    bench.vault.commit(&stranger, &RecoveryPoint { id: PointId::fresh()?, ..point.clone() }).await?;
    let mut vault = Vault::open(bench.vault.repository(), &shop(), &Unlock::Passphrase("correct horse".into())).await?;
    vault.reload_writers().await?;
    let catalog = Catalog::load(&vault).await?;
    assert_eq!(catalog.entries.len(), 1);
    assert!(catalog.damaged.iter().all(|d| matches!(d.error, RepositoryError::NotEndorsed { .. })));
    Ok(())
}

#[tokio::test]
async fn a_writer_whose_key_was_exchanged_is_not_believed() -> Result<()> {
    let bench = Bench::new(memory()).await?;
    let point = bench.take(b"ours").await?;
    // Somebody with the bucket's credentials, but not the writer's key, puts a key of theirs under its name: the word
    // that was given for the writer was given for the other key.
    let state = tempfile::tempdir()?;
    let folder = state.path().join("writers").join(bench.vault.repository().id().to_string());
    std::fs::create_dir_all(&folder)?;
    let seed = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, [7; 32]);
    std::fs::write(folder.join("shop.json"), format!("{{\"writer\":\"{}\",\"seed\":\"{seed}\"}}", bench.writer.id))?;
    let forger = Writer::load(state.path(), bench.vault.repository().id(), &shop())?;
    bench.vault.store().delete(&layout::writer(bench.writer.id)).await?;
    forger.introduce(bench.vault.store(), &shop(), "host-1", None).await?;
    bench.vault.commit(&forger, &RecoveryPoint { id: PointId::fresh()?, ..point.clone() }).await?;

    let vault = Vault::open(bench.vault.repository(), &shop(), &Unlock::Passphrase("correct horse".into())).await?;
    let catalog = Catalog::load(&vault).await?;
    assert!(catalog.entries.is_empty(), "neither what was forged nor what cannot be told from it");
    assert_eq!(catalog.damaged.len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_trial_that_was_left_behind_does_not_keep_a_repository_from_being_made() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::create_dir_all(folder.path().join("live/probe"))?;
    std::fs::write(folder.path().join("live/probe/01M80EQ3XXQYJKRCP3K3J4JMDN"), "")?;
    let store = || windlass_repo::store::open::open(&Place::Directory(folder.path().to_owned()));
    Repository::init(store()?, "here").await?;
    Repository::open(store()?, None).await?;
    Ok(())
}

#[tokio::test]
async fn a_vanished_or_replaced_repository_is_refused() -> Result<()> {
    let store = memory();
    let repository = Repository::init(store.clone(), "host-1").await?;
    let known = Some(repository.id());
    store.delete(&layout::identity()).await?;
    let error = Repository::open(store.clone(), known).await.unwrap_err();
    assert!(matches!(error, RepositoryError::Vanished { .. }), "{error}");

    let error = Repository::init(store, "host-1").await.unwrap_err();
    assert!(matches!(error, RepositoryError::Foreign { .. }), "README.txt is still there: {error}");

    let other = memory();
    Repository::init(other.clone(), "host-2").await?;
    let error = Repository::open(other, known).await.unwrap_err();
    assert!(matches!(error, RepositoryError::Replaced { .. }), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_marked_point_goes_whole_and_nothing_else_does() -> Result<()> {
    let bench = Bench::new(memory()).await?;
    let old = bench.take(b"old").await?;
    let new = bench.take(b"new").await?;
    Tombstone::set(&bench.vault, &bench.writer, old.id, Why::Retention, Some("digest")).await?;

    let waits = Rules { grace: SignedDuration::from_hours(1), ..AT_ONCE };
    let swept = sweep(&bench.vault, &bench.writer, waits).await?;
    assert_eq!((swept.waiting.as_slice(), swept.points.len()), ([old.id].as_slice(), 0));
    assert_eq!(bench.content(&old).await?, b"old");

    let swept = sweep(&bench.vault, &bench.writer, AT_ONCE).await?;
    assert_eq!(swept.points, [old.id]);
    assert!(!bench.keys().await?.iter().any(|key| key.contains(&old.id.to_string())), "nothing of it stays");
    assert_eq!(bench.content(&new).await?, b"new");
    Ok(())
}

#[tokio::test]
async fn the_newest_complete_point_a_pinned_and_a_held_one_stay() -> Result<()> {
    let bench = Bench::new(memory()).await?;
    let held = bench.take(b"held").await?;
    let pinned = bench.take(b"pinned").await?;
    let newest = bench.take(b"newest").await?;
    let failure = ComponentFailure { name: "db".parse()?, code: "WDL-1".into(), message: "no".into() };
    let partial = bench.take_with(b"partial", vec![failure]).await?;
    let hold = Hold::set(&bench.vault, &bench.writer, held.id, "audit").await?;
    let pin = Pin::set(&bench.vault, pinned.id, "restore").await?;
    for point in [held.id, pinned.id, newest.id] {
        Tombstone::set(&bench.vault, &bench.writer, point, Why::Retention, None).await?;
    }

    let swept = sweep(&bench.vault, &bench.writer, AT_ONCE).await?;
    assert_eq!(swept.kept.len(), 3, "{swept:?}");
    let contents: [(&RecoveryPoint, &[u8]); 4] =
        [(&held, b"held"), (&pinned, b"pinned"), (&newest, b"newest"), (&partial, b"partial")];
    for (point, content) in contents {
        assert_eq!(bench.content(point).await?, content);
    }

    pin.lift().await;
    hold.lift(&bench.vault).await?;
    let swept = sweep(&bench.vault, &bench.writer, AT_ONCE).await?;
    assert_eq!(swept.points.len(), 2, "{swept:?}");
    assert_eq!(bench.content(&newest).await?, b"newest");
    Ok(())
}

#[tokio::test]
async fn a_sweep_stops_at_a_manifest_it_cannot_read() -> Result<()> {
    let bench = Bench::new(memory()).await?;
    let old = bench.take(b"old").await?;
    let damaged = bench.take(b"damaged").await?;
    bench.take(b"new").await?;
    Tombstone::set(&bench.vault, &bench.writer, old.id, Why::Retention, None).await?;
    let key = layout::component(&shop(), damaged.id, &"index".parse()?);
    bench.vault.store().delete(&key).await?;
    bench.vault.store().create(&key, b"{}\n{}\n".to_vec()).await?;

    let error = sweep(&bench.vault, &bench.writer, AT_ONCE).await.unwrap_err();
    assert!(matches!(error, SweepError::Unreadable { .. }), "{error}");
    assert_eq!(bench.content(&old).await?, b"old");
    Ok(())
}

#[tokio::test]
async fn what_a_dead_run_left_goes_after_two_looks() -> Result<()> {
    let bench = Bench::new(memory()).await?;
    let point = bench.take(b"point").await?;
    let dead = PointId::fresh()?;
    bench.dump(dead, b"dead").await?;

    let patient = Rules { longest_run: SignedDuration::from_hours(24), ..AT_ONCE };
    assert!(sweep(&bench.vault, &bench.writer, patient).await?.marked.is_empty(), "it may still be running");
    let first = sweep(&bench.vault, &bench.writer, AT_ONCE).await?;
    assert_eq!((first.marked.as_slice(), first.orphans.len()), ([dead].as_slice(), 0), "the first look only marks");
    let second = sweep(&bench.vault, &bench.writer, AT_ONCE).await?;
    assert_eq!(second.orphans, [dead]);
    assert!(!bench.keys().await?.iter().any(|key| key.contains(&dead.to_string())));
    assert_eq!(bench.content(&point).await?, b"point");
    Ok(())
}

/// Writes what a run writes of a base backup, and its WAL; what its manifest says of it.
async fn base_backup(bench: &Bench, id: PointId, segment: u8) -> Result<ComponentManifest> {
    let component: Name = "db".parse()?;
    let backup = format!("base_0000000100000000000000{segment:02X}");
    let place = layout::cluster(&shop(), &component, "77");
    Attempt::note(&bench.vault, &bench.writer, id, &layout::base_backup(&place, &backup)).await?;
    let archive = bench.vault.cluster(&component, "77", true)?;
    let put = async |object: &str| -> Result<ObjectRef> {
        let mut writer = archive.write(object)?;
        writer.write(object.as_bytes()).await?;
        let object = writer.finish().await?;
        Ok(ObjectRef { key: format!("{place}/{}", object.key), ..object })
    };
    let wal = put(&format!("wal_005/0000000100000000000000{segment:02X}.zst")).await?;
    let part = put(&format!("basebackups_005/{backup}/tar_partitions/part_001.tar.zst")).await?;
    let sentinel = put(&format!("basebackups_005/{backup}_backup_stop_sentinel.json")).await?;
    let lsn = Lsn(u64::from(segment) << 24);
    let data = PhysicalData {
        server_version: 150_018,
        system_identifier: "77".to_owned(),
        backup,
        timeline: Timeline(1),
        start: lsn,
        stop: lsn + 1,
        segment_size: SegmentSize::default(),
        superuser: "postgres".to_owned(),
        databases: vec!["postgres".to_owned()],
        sealed: true,
        objects: vec![part, sentinel],
        wal: vec![wal],
        data_bytes: 1,
        tablespaces: BTreeMap::new(),
        settings: Vec::new(),
        corrupt: BTreeMap::new(),
    };
    let dump = bench.dump(id, b"beside it").await?;
    Ok(ComponentManifest { component, data: ComponentData::Physical(data), ..dump })
}

#[tokio::test]
async fn of_base_backups_those_go_that_no_point_names_and_the_wal_stays() -> Result<()> {
    let bench = Bench::new(memory()).await?;
    let mut points = Vec::new();
    for segment in [1, 2] {
        let id = PointId::fresh()?;
        let manifest = base_backup(&bench, id, segment).await?;
        points.push(bench.commit(id, manifest, vec![]).await?);
    }
    let dead = PointId::fresh()?;
    base_backup(&bench, dead, 3).await?;
    // Whoever says of another's base backup that it was his does not take it along.
    let of_another =
        layout::base_backup(&layout::cluster(&shop(), &"db".parse()?, "77"), "base_000000010000000000000002");
    Attempt::note(&bench.vault, &bench.writer, dead, &of_another).await?;
    // Nor one of another application.
    let theirs = "postgres/other.db/77/basebackups_005/base_000000010000000000000009";
    bench.vault.store().create(&format!("{theirs}_backup_stop_sentinel.json").parse()?, b"{}".to_vec()).await?;
    Attempt::note(&bench.vault, &bench.writer, dead, &theirs.parse()?).await?;
    Tombstone::set(&bench.vault, &bench.writer, points[0].id, Why::Retention, None).await?;

    let swept = sweep(&bench.vault, &bench.writer, AT_ONCE).await?;
    assert_eq!((swept.points.as_slice(), swept.marked.as_slice()), ([points[0].id].as_slice(), [dead].as_slice()));
    let swept = sweep(&bench.vault, &bench.writer, AT_ONCE).await?;
    assert_eq!(swept.orphans, [dead]);
    let keys = bench.keys().await?;
    let left: Vec<&str> = keys.iter().filter_map(|key| key.strip_prefix("postgres/shop.db/77/")).collect();
    let expected = [
        "basebackups_005/base_000000010000000000000002/tar_partitions/part_001.tar.zst",
        "basebackups_005/base_000000010000000000000002_backup_stop_sentinel.json",
        "wal_005/000000010000000000000001.zst",
        "wal_005/000000010000000000000002.zst",
        "wal_005/000000010000000000000003.zst",
    ];
    assert_eq!(left, expected);
    assert!(keys.iter().any(|key| key.starts_with(theirs)), "another application's stays");
    Ok(())
}

#[tokio::test]
async fn a_run_that_commits_between_the_looks_is_kept() -> Result<()> {
    let bench = Bench::new(memory()).await?;
    let late = bench.take(b"late").await?;
    bench.take(b"newer").await?;
    Tombstone::set(&bench.vault, &bench.writer, late.id, Why::Orphan, None).await?;
    sweep(&bench.vault, &bench.writer, AT_ONCE).await?;
    assert_eq!(bench.content(&late).await?, b"late");
    Ok(())
}

#[tokio::test]
async fn an_occupied_key_is_never_overwritten() -> Result<()> {
    let store = memory();
    let key: Key = "a/b".parse()?;
    store.create(&key, b"one".to_vec()).await?;
    store.create(&key, b"one".to_vec()).await?;
    assert!(store.create(&key, b"two".to_vec()).await.is_err());
    assert_eq!(store.get(&key).await?, "one");
    Ok(())
}
