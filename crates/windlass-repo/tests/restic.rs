//! Folders in a restic repository, side by side with stock restic.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::Result;
use secrecy::{ExposeSecret, SecretString};
use windlass_core::repository::Place;
use windlass_repo::format::restic::{Captured, Files, FilesError, Source, Target};
use windlass_repo::store::{Key, open};
use windlass_testkit::process::run;
use windlass_testkit::tree;

struct Bench {
    root: tempfile::TempDir,
    files: Files,
    password: SecretString,
}

impl Bench {
    async fn new() -> Result<Self> {
        let root = tempfile::tempdir()?;
        std::fs::create_dir(root.path().join("store"))?;
        let store = open::open(&Place::Directory(root.path().join("store")))?;
        let password = SecretString::from("a password");
        let files = Files::ours(&store, &"files/shop".parse::<Key>()?, &password);
        files.create().await?;
        Ok(Self { root, files, password })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    async fn capture(&self, folder: &Path, exclude: &[&str]) -> Result<Captured, FilesError> {
        let source = Source {
            paths: vec![folder.to_owned()],
            exclude: exclude.iter().map(ToString::to_string).collect(),
            host: "host-1".into(),
            tags: vec!["windlass".into()],
            moved: Arc::new(|_| {}),
        };
        self.files.capture(source).await
    }

    async fn restore(&self, snapshot: &str, strip: &Path, name: &str) -> Result<PathBuf, FilesError> {
        let folder = self.path(name);
        let target = Target::new(folder.clone(), Some(strip.to_owned()));
        self.files.restore(snapshot, target).await?;
        Ok(folder)
    }

    fn restic(&self, arguments: &[&str]) -> Result<String> {
        let repository = self.path("store/files/shop");
        let mut command = Command::new("restic");
        command.env("RESTIC_PASSWORD", self.password.expose_secret()).arg("--repo").arg(repository).arg("--no-cache");
        run(command.args(arguments))
    }

    /// The packs, the largest first.
    fn packs(&self) -> Vec<PathBuf> {
        let mut packs = Vec::new();
        for folder in std::fs::read_dir(self.path("store/files/shop/data")).unwrap().flatten() {
            packs.extend(std::fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.path()));
        }
        packs.sort_by_key(|path| std::cmp::Reverse(path.metadata().unwrap().len()));
        packs
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_folder_comes_back_as_it_was_from_us_and_from_restic() -> Result<()> {
    let bench = Bench::new().await?;
    let source = bench.path("source");
    tree::make_hard(&source)?;
    let before = tree::describe(&source)?;

    let captured = bench.capture(&source, &[]).await?;
    assert_eq!((captured.report.unreadable_count, captured.lost, captured.report.sockets), (0, 0, 1), "{captured:?}");
    assert!(captured.report.changed.is_empty());

    let ours = bench.restore(&captured.snapshot, &source, "ours").await?;
    tree::assert_same(&tree::describe(&ours)?, &before);
    let sparse = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(ours.join("sparse"))?);
    assert!(sparse * 512 < 1 << 20, "50 MiB of holes take {sparse} blocks");

    bench.restic(&["check", "--read-data"])?;
    let theirs = bench.path("theirs");
    bench.restic(&["restore", &captured.snapshot, "--target", theirs.to_str().unwrap()])?;
    let theirs = theirs.join(source.strip_prefix("/")?);
    // restic before 0.16 does not know link targets that are not UTF-8.
    let without = |text: &str| {
        text.lines().filter(|l| !l.contains("link to bytes")).map(|l| format!("{l}\n")).collect::<String>()
    };
    tree::assert_same(&without(&tree::describe(&theirs)?), &without(&before));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_folder_adds_next_to_nothing_and_restic_can_add_to_it() -> Result<()> {
    let bench = Bench::new().await?;
    let source = bench.path("source");
    tree::make_hard(&source)?;
    bench.capture(&source, &[]).await?;
    let again = bench.capture(&source, &[]).await?;
    assert!(again.added_bytes < 10_000, "{} bytes", again.added_bytes);

    std::fs::write(source.join("new"), "new")?;
    std::fs::remove_file(source.join("link to bytes"))?;
    bench.restic(&["backup", source.to_str().unwrap()])?;
    let snapshots = bench.files.snapshots().await?;
    assert_eq!(snapshots.len(), 3);
    let theirs = snapshots.last().unwrap();
    let restored = bench.restore(&theirs.id, &source, "restored").await?;
    tree::assert_same(&tree::describe(&restored)?, &tree::describe(&source)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_leave_out_what_they_name_and_nothing_else() -> Result<()> {
    let bench = Bench::new().await?;
    let source = bench.path("source");
    for name in ["keep.txt", "drop.tmp", "cache/x", "deep/cache/x", "deep/a.tmp", "deep/keep"] {
        std::fs::create_dir_all(source.join(name).parent().unwrap())?;
        std::fs::write(source.join(name), name)?;
    }
    let captured = bench.capture(&source, &["*.tmp", "/cache"]).await?;
    assert_eq!((captured.report.files, captured.report.excluded), (3, 3));
    let restored = bench.restore(&captured.snapshot, &source, "restored").await?;
    for (name, there) in
        [("keep.txt", true), ("drop.tmp", false), ("cache", false), ("deep/cache/x", true), ("deep/a.tmp", false)]
    {
        assert_eq!(restored.join(name).exists(), there, "{name}");
    }
    let error = bench.capture(&source, &["a[b"]).await.unwrap_err();
    assert!(matches!(error, FilesError::Pattern { .. }), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_missing_packs_are_found_and_named() -> Result<()> {
    let bench = Bench::new().await?;
    let source = bench.path("source");
    tree::make_hard(&source)?;
    let captured = bench.capture(&source, &[]).await?;
    let clean = bench.files.verify(&captured.snapshot, &|_| {}).await?;
    assert!(clean.damage.is_empty() && clean.packs > 0 && clean.bytes > 1000, "{clean:?}");

    for pack in bench.packs() {
        let good = std::fs::read(&pack)?;
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        let name = pack.file_name().unwrap().to_str().unwrap();
        for bad in [Some(flipped), Some(good[..good.len() - 1].to_vec()), Some(Vec::new()), None] {
            match &bad {
                Some(bytes) => std::fs::write(&pack, bytes)?,
                None => std::fs::remove_file(&pack)?,
            }
            let verified = bench.files.verify(&captured.snapshot, &|_| {}).await?;
            assert!(!verified.damage.is_empty(), "{name}");
            if bad.is_none_or(|bytes| bytes.is_empty()) {
                let restored = bench.restore(&captured.snapshot, &source, "must fail").await;
                assert!(restored.is_err(), "{name}");
                let _ = std::fs::remove_dir_all(bench.path("must fail"));
            }
        }
        std::fs::write(&pack, &good)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_said() -> Result<()> {
    let bench = Bench::new().await?;
    let source = bench.path("source");
    std::fs::create_dir(&source)?;
    std::fs::write(source.join("good"), "good")?;
    // A file that cannot be read, for root too: the kernel refuses to read another process's memory at 0.
    std::os::unix::fs::symlink("/proc/self/mem", source.join("link"))?;
    let captured = bench.capture(&source, &[]).await?;
    assert_eq!(captured.report.unreadable_count, 0, "a link is not followed");

    let captured = bench.capture(Path::new("/proc/self/mem"), &[]).await?;
    assert_eq!(captured.report.unreadable_count, 1, "{captured:?}");
    assert!(captured.lost > 0 || captured.report.unreadable[0].contains("/proc/self/mem"));
    let captured = bench.capture(&bench.path("nowhere"), &[]).await?;
    assert_eq!(captured.report.unreadable_count, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_a_missing_repository_are_told_apart() -> Result<()> {
    let bench = Bench::new().await?;
    let store = open::open(&Place::Directory(bench.path("store")))?;
    let wrong = Files::ours(&store, &"files/shop".parse()?, &SecretString::from("wrong"));
    assert!(matches!(wrong.snapshots().await.unwrap_err(), FilesError::WrongPassword { .. }));
    let missing = Files::ours(&store, &"files/other".parse()?, &bench.password);
    assert!(matches!(missing.snapshots().await.unwrap_err(), FilesError::Missing { .. }));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_grows_while_it_is_read_is_flagged_and_counted_as_it_was_read() -> Result<()> {
    let bench = Bench::new().await?;
    let folder = bench.path("log");
    std::fs::create_dir(&folder)?;
    std::fs::write(folder.join("growing"), vec![7; 3_000_000])?;
    let growing = folder.join("growing");
    let once = std::sync::Once::new();
    // At the first bytes read, more are written.
    let moved = move |_| {
        once.call_once(|| {
            let file = std::fs::File::options().append(true).open(&growing);
            file.and_then(|mut file| std::io::Write::write_all(&mut file, &[8; 1000])).unwrap();
        });
    };
    let source = Source {
        paths: vec![folder.clone()],
        exclude: vec![],
        host: "host-1".into(),
        tags: vec![],
        moved: Arc::new(moved),
    };
    let captured = bench.files.capture(source).await?;
    assert_eq!(captured.report.changed, [folder.join("growing")]);
    let back = bench.restore(&captured.snapshot, &folder, "back").await?;
    assert_eq!(std::fs::metadata(back.join("growing"))?.len(), captured.report.bytes);
    assert_eq!(captured.report.bytes, 3_001_000);
    Ok(())
}
