//! Captures and prunes that are killed at every step, and that run at the same time: stock restic must be content.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jiff::SignedDuration;
use object_store::local::LocalFileSystem;
use secrecy::SecretString;
use windlass_repo::format::restic::{Captured, Files, FilesError, Source, Target};
use windlass_repo::store::{Key, Store};
use windlass_testkit::fault::{Fault, FaultStore};
use windlass_testkit::process::run;
use windlass_testkit::tree;

struct Bench {
    root: tempfile::TempDir,
    faults: FaultStore,
    files: Files,
}

impl Bench {
    async fn new() -> Result<Self> {
        let bench = Self::empty()?;
        bench.files.create().await?;
        Ok(bench)
    }

    /// Where no repository has been made yet.
    fn empty() -> Result<Self> {
        let root = tempfile::tempdir()?;
        std::fs::create_dir(root.path().join("store"))?;
        let inner = LocalFileSystem::new_with_prefix(root.path().join("store"))?;
        let faults = FaultStore::before(Arc::new(inner));
        let store = Store::over(Arc::new(faults.clone()), "", "file:///faulty");
        let files = Files::ours(&store, &"files/shop".parse::<Key>()?, &SecretString::from("a password"));
        Ok(Self { root, faults, files })
    }

    fn source(&self, name: &str, seed: u8) -> Result<PathBuf> {
        let folder = self.root.path().join(name);
        std::fs::create_dir_all(folder.join("sub"))?;
        let mut state = u64::from(seed) + 1;
        let mut random = || {
            // xorshift: nothing that compression would find anything in.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for number in 0..3u8 {
            let bytes: Vec<u8> = (0..50_000).flat_map(|_| random().to_le_bytes()).collect();
            std::fs::write(folder.join(format!("sub/{number}")), bytes)?;
        }
        Ok(folder)
    }

    async fn capture(&self, folder: &Path, tag: &str) -> Result<Captured, FilesError> {
        let source = Source {
            paths: vec![folder.to_owned()],
            exclude: vec![],
            host: "host-1".into(),
            tags: vec![tag.into()],
            moved: Arc::new(|_| {}),
        };
        self.files.capture(source).await
    }

    async fn comes_back(&self, snapshot: &str, folder: &Path) -> Result<()> {
        let target = tempfile::tempdir_in(self.root.path())?;
        let target = Target::new(target.path().join("x"), Some(folder.to_owned()));
        let back = target.folder.clone();
        self.files.restore(snapshot, target).await?;
        tree::assert_same(&tree::describe(&back)?, &tree::describe(folder)?);
        Ok(())
    }

    fn restic_is_content(&self) -> Result<()> {
        let mut command = Command::new("restic");
        command.env("RESTIC_PASSWORD", "a password").args(["--no-cache", "--repo"]);
        run(command.arg(self.root.path().join("store/files/shop")).args(["check", "--read-data"]))?;
        Ok(())
    }

    /// Forgets what carries the tag, and prunes until nothing more goes.
    async fn remove(&self, tag: &str, needed: &BTreeSet<String>) -> Result<(), FilesError> {
        self.files.forget(&BTreeSet::from([tag.to_owned()])).await?;
        self.files.prune(needed, SignedDuration::ZERO).await?;
        self.files.prune(needed, SignedDuration::ZERO).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_needs_is_marked_and_then_removed() -> Result<()> {
    let bench = Bench::new().await?;
    let (old, new) = (bench.source("old", 1)?, bench.source("new", 99)?);
    bench.capture(&old, "old").await?;
    let kept = bench.capture(&new, "new").await?;
    let needed = BTreeSet::from([kept.snapshot.clone()]);
    let day = SignedDuration::from_hours(48);

    bench.files.forget(&BTreeSet::from(["old".to_owned()])).await?;
    let young = bench.files.prune(&needed, day).await?;
    assert_eq!((young.removed_packs, young.marked_bytes), (0, 0), "a pack that young may be a running capture's");
    let marked = bench.files.prune(&needed, SignedDuration::ZERO).await?;
    assert!(marked.marked_bytes > 500_000, "{marked:?}");
    bench.files.prune(&needed, SignedDuration::ZERO).await?;
    bench.restic_is_content()?;
    bench.comes_back(&kept.snapshot, &new).await?;
    let bytes: u64 = walk(&bench.root.path().join("store/files/shop/data"));
    assert!(bytes < 1_500_000, "{bytes} bytes are left");

    // A live point names a snapshot that is not there: nothing is touched.
    let missing = BTreeSet::from(["00".repeat(32)]);
    assert!(matches!(bench.files.prune(&missing, day).await, Err(FilesError::NoSnapshot { .. })));
    Ok(())
}

fn walk(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    entries.map(|e| if e.path().is_dir() { walk(&e.path()) } else { e.metadata().unwrap().len() }).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_was_marked_is_stored_again_when_it_is_needed_again() -> Result<()> {
    let bench = Bench::new().await?;
    let (a, b) = (bench.source("a", 1)?, bench.source("b", 99)?);
    let first = bench.capture(&a, "a").await?;
    let other = bench.capture(&b, "b").await?;
    bench.files.forget(&BTreeSet::from(["a".to_owned()])).await?;
    bench.files.prune(&BTreeSet::from([other.snapshot.clone()]), SignedDuration::ZERO).await?;
    // The packs of `a` are marked now; a capture must not rely on them.
    let again = bench.capture(&a, "again").await?;
    assert_ne!(again.snapshot, first.snapshot);
    let needed = BTreeSet::from([again.snapshot.clone(), other.snapshot.clone()]);
    bench.files.prune(&needed, SignedDuration::ZERO).await?;
    bench.files.prune(&needed, SignedDuration::ZERO).await?;
    bench.restic_is_content()?;
    bench.comes_back(&again.snapshot, &a).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_killed_at_any_step_harms_nothing() -> Result<()> {
    for lost_answer in [false, true] {
        for step in 0.. {
            let bench = Bench::new().await?;
            let (old, new) = (bench.source("old", 1)?, bench.source("new", 99)?);
            let kept = bench.capture(&old, "old").await?;
            bench.faults.set(if lost_answer { Fault::DiesAfter(step) } else { Fault::DiesAt(step) });
            let died = bench.capture(&new, "new").await;
            let writes = bench.faults.writes();
            bench.faults.set(Fault::None);
            bench.restic_is_content()?;
            bench.comes_back(&kept.snapshot, &old).await?;
            let again = bench.capture(&new, "again").await?;
            bench.comes_back(&again.snapshot, &new).await?;
            if writes <= step {
                assert!(died.is_ok());
                assert!(step > 3, "a capture writes packs, an index and a snapshot");
                break;
            }
            assert!(died.is_err(), "step {step}: a capture that died is no success");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_killed_at_any_step_harms_nothing() -> Result<()> {
    for lost_answer in [false, true] {
        for step in 0.. {
            let bench = Bench::new().await?;
            let (old, new) = (bench.source("old", 1)?, bench.source("new", 99)?);
            bench.capture(&old, "old").await?;
            let kept = bench.capture(&new, "new").await?;
            let needed = BTreeSet::from([kept.snapshot.clone()]);
            bench.faults.set(if lost_answer { Fault::DiesAfter(step) } else { Fault::DiesAt(step) });
            let died = bench.remove("old", &needed).await;
            let writes = bench.faults.writes();
            bench.faults.set(Fault::None);
            bench.restic_is_content()?;
            bench.comes_back(&kept.snapshot, &new).await?;
            bench.remove("old", &needed).await?;
            bench.restic_is_content()?;
            bench.comes_back(&kept.snapshot, &new).await?;
            if writes <= step {
                assert!(died.is_ok() && step > 5, "step {step}: {died:?}");
                break;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn captures_prunes_verifications_and_restores_at_once() -> Result<()> {
    let bench = Arc::new(Bench::new().await?);
    let folders: Vec<PathBuf> = (0..3u8).map(|n| bench.source(&format!("s{n}"), n * 50)).collect::<Result<_>>()?;
    let stable = bench.capture(&folders[0], "stable").await?;
    let day = SignedDuration::from_hours(48);
    let mut tasks = tokio::task::JoinSet::new();
    for (number, folder) in folders.iter().enumerate() {
        let (bench, folder) = (Arc::clone(&bench), folder.clone());
        tasks.spawn(async move {
            for round in 0..4 {
                bench.capture(&folder, &format!("{number}-{round}")).await?;
            }
            anyhow::Ok(())
        });
    }
    let (pruning, needed) = (Arc::clone(&bench), BTreeSet::from([stable.snapshot.clone()]));
    tasks.spawn(async move {
        for round in 0..4 {
            pruning.files.forget(&BTreeSet::from([format!("1-{round}")])).await?;
            pruning.files.prune(&needed, day).await?;
        }
        anyhow::Ok(())
    });
    let (reading, snapshot, folder) = (Arc::clone(&bench), stable.snapshot.clone(), folders[0].clone());
    tasks.spawn(async move {
        for _ in 0..4 {
            assert!(reading.files.verify(&snapshot, &|_| {}).await?.damage.is_empty());
            reading.comes_back(&snapshot, &folder).await?;
        }
        anyhow::Ok(())
    });
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    bench.restic_is_content()?;
    for snapshot in bench.files.snapshots().await? {
        assert!(bench.files.verify(&snapshot.id, &|_| {}).await?.damage.is_empty());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_whose_making_died_at_any_step_is_made_by_the_next() -> Result<()> {
    for lost_answer in [false, true] {
        for step in 0.. {
            let bench = Bench::empty()?;
            bench.faults.set(if lost_answer { Fault::DiesAfter(step) } else { Fault::DiesAt(step) });
            let died = bench.files.create_after(Duration::ZERO).await;
            let writes = bench.faults.writes();
            bench.faults.set(Fault::None);
            bench.files.create_after(Duration::ZERO).await?;
            let folder = bench.source("data", 1)?;
            // Opened anew each time: whichever key is found first, it is the right one.
            bench.capture(&folder, "one").await?;
            assert_eq!(bench.files.snapshots().await?.len(), 1, "step {step}");
            if writes <= step {
                assert!(died.is_ok() && step >= 2, "step {step}");
                break;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn several_that_make_it_at_once_agree_on_one() -> Result<()> {
    for _ in 0..10 {
        let bench = Bench::empty()?;
        futures::future::try_join_all((0..4).map(|_| bench.files.create())).await?;
        let folder = bench.source("data", 1)?;
        bench.capture(&folder, "one").await?;
        bench.files.snapshots().await?;
        assert_eq!(std::fs::read_dir(bench.root.path().join("store/files/shop/keys"))?.count(), 1);
    }
    Ok(())
}
