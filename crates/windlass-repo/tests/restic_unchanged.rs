//! Folders captured again: what has not changed is taken from the snapshot before, and every change is seen.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::Result;
use object_store::local::LocalFileSystem;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use secrecy::SecretString;
use serde_json::Value;
use windlass_repo::format::restic::{Captured, Files, Source, Target};
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
        let root = tempfile::tempdir()?;
        fs::create_dir(root.path().join("store"))?;
        let faults = FaultStore::before(Arc::new(LocalFileSystem::new_with_prefix(root.path().join("store"))?));
        let store = Store::over(Arc::new(faults.clone()), "", "file:///store");
        let files = Files::ours(&store, &"files/shop".parse::<Key>()?, &SecretString::from("a password"));
        files.create().await?;
        Ok(Self { root, faults, files })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    async fn capture(&self, paths: &[&Path], exclude: &[&str]) -> Result<Captured> {
        let source = Source {
            paths: paths.iter().map(|path| path.to_path_buf()).collect(),
            exclude: exclude.iter().map(ToString::to_string).collect(),
            host: "host-1".into(),
            tags: vec!["windlass".into()],
            moved: Arc::new(|_| {}),
        };
        Ok(self.files.capture(source).await?)
    }

    /// What a snapshot brings back of a folder, described.
    async fn brings_back(&self, snapshot: &str, folder: &Path) -> Result<String> {
        let target = tempfile::tempdir_in(self.root.path())?;
        let target = Target::new(target.path().join("x"), Some(folder.to_owned()));
        let back = target.folder.clone();
        self.files.restore(snapshot, target).await?;
        tree::describe(&back)
    }

    fn restic(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("restic");
        command.env("RESTIC_PASSWORD", "a password").args(["--no-cache", "--repo"]);
        run(command.arg(self.path("store/files/shop")).args(arguments))
    }

    fn snapshot(&self, id: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.restic(&["cat", "snapshot", id])?)?)
    }

    fn packs(&self) -> Vec<PathBuf> {
        let folders = fs::read_dir(self.path("store/files/shop/data")).unwrap().flatten();
        folders.flat_map(|folder| fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.path())).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_changed_is_the_snapshot_before_under_a_new_name() -> Result<()> {
    let bench = Bench::new().await?;
    let (hard, deep, file) = (bench.path("hard"), bench.path("one/two/three"), bench.path("one/file, and comma"));
    tree::make_hard(&hard)?;
    fs::create_dir_all(deep.join("empty"))?;
    fs::write(deep.join("x"), "x")?;
    fs::write(&file, "file")?;
    let paths: [&Path; 3] = [&hard, &deep, &file];
    let exclude = ["small-01*", "/a/b"];
    let first = bench.capture(&paths, &exclude).await?;
    let second = bench.capture(&paths, &exclude).await?;
    let third = bench.capture(&paths, &exclude).await?;
    assert_eq!((first.unchanged, second.unchanged, third.unchanged), (false, true, true));
    assert_eq!((second.added_bytes, second.lost), (0, 0));
    assert!(second.report.excluded > 10 && second.report.sockets == 1, "{second:?}");
    assert_eq!(format!("{:?}", first.report), format!("{:?}", third.report));

    let (before, after) = (bench.snapshot(&first.snapshot)?, bench.snapshot(&third.snapshot)?);
    for field in ["tree", "paths", "hostname", "username", "tags", "program_version", "uid", "gid"] {
        assert_eq!(before.get(field), after.get(field), "{field}");
    }
    assert_eq!(after["parent"], second.snapshot.as_str());
    let said = bench.files.snapshots().await?;
    let said: Vec<_> = said.iter().map(|snapshot| (snapshot.files, snapshot.bytes, &snapshot.paths)).collect();
    assert!(said.len() == 3 && said[0] == said[2] && said[0].0 == Some(first.report.files), "{said:?}");
    let listed = |id: &str| anyhow::Ok(bench.restic(&["ls", "--long", id])?.lines().skip(1).collect::<String>());
    assert_eq!(listed(&first.snapshot)?, listed(&third.snapshot)?);
    bench.restic(&["check", "--read-data"])?;
    assert_eq!(bench.brings_back(&first.snapshot, &deep).await?, bench.brings_back(&third.snapshot, &deep).await?);
    Ok(())
}

/// A folder in which everything can change.
fn fill(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder.join("full/deeper"))?;
    fs::create_dir_all(folder.join("empty"))?;
    for name in ["a", "b", "full/c", "full/deeper/d"] {
        fs::write(folder.join(name), name.repeat(1000))?;
    }
    fs::hard_link(folder.join("a"), folder.join("full/also a"))?;
    symlink("a", folder.join("link"))?;
    xattr::set(folder.join("b"), "user.comment", b"one")?;
    fs::write(folder.join(OsStr::from_bytes(b"\xff\n\"\\")), "odd")?;
    Ok(())
}

/// Sets the time of last change back to what it was.
fn keep_time(path: &Path, change: impl FnOnce() -> Result<()>) -> Result<()> {
    let meta = fs::symlink_metadata(path)?;
    change()?;
    let time = Timespec { tv_sec: meta.mtime(), tv_nsec: meta.mtime_nsec() };
    Ok(utimensat(CWD, path, &Timestamps { last_access: time, last_modification: time }, AtFlags::SYMLINK_NOFOLLOW)?)
}

type Change = fn(&Path) -> Result<()>;

/// Changes, one after the other. Where only an entry itself changes, its folder keeps its times.
const CHANGES: &[(&str, Change)] = &[
    ("content", |f| Ok(fs::write(f.join("full/c"), "other")?)),
    ("content of the same size", |f| Ok(fs::write(f.join("full/c"), "OTHER")?)),
    ("content of the same size and time", |f| {
        keep_time(&f.join("full/c"), || Ok(fs::write(f.join("full/c"), "third")?))
    }),
    ("time", |f| {
        let file = fs::File::options().append(true).open(f.join("full/deeper/d"))?;
        Ok(file.set_modified(std::time::UNIX_EPOCH)?)
    }),
    ("mode", |f| Ok(fs::set_permissions(f.join("b"), Permissions::from_mode(0o4711))?)),
    ("mode of a folder", |f| Ok(fs::set_permissions(f.join("full/deeper"), Permissions::from_mode(0o1700))?)),
    ("owner", |f| Ok(chown(f.join("b"), Some(1234), None)?)),
    ("group of a folder", |f| Ok(chown(f.join("empty"), None, Some(4321))?)),
    ("owner of a link", |f| Ok(lchown(f.join("link"), Some(1234), None)?)),
    ("mode of the top", |f| Ok(fs::set_permissions(f, Permissions::from_mode(0o700))?)),
    ("attribute", |f| Ok(xattr::set(f.join("b"), "user.comment", b"two")?)),
    ("new attribute", |f| Ok(xattr::set(f.join("full"), "user.other", b"")?)),
    ("attribute gone", |f| Ok(xattr::remove(f.join("b"), "user.comment")?)),
    ("new file", |f| Ok(fs::write(f.join("full/new"), "new")?)),
    ("new empty file, the last one", |f| Ok(fs::write(f.join("zzz"), "")?)),
    ("new empty folder", |f| Ok(fs::create_dir(f.join("full/deeper/new"))?)),
    ("new fifo", |f| {
        Ok(rustix::fs::mknodat(CWD, f.join("fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)?)
    }),
    ("file gone", |f| Ok(fs::remove_file(f.join("full/new"))?)),
    ("the last file gone, and the time set back", |f| keep_time(f, || Ok(fs::remove_file(f.join("zzz"))?))),
    ("folder gone", |f| Ok(fs::remove_dir(f.join("empty"))?)),
    ("file renamed", |f| Ok(fs::rename(f.join("full/c"), f.join("full/e"))?)),
    ("folder renamed", |f| Ok(fs::rename(f.join("full/deeper"), f.join("full/shallower"))?)),
    ("two files exchanged", |f| {
        fs::rename(f.join("a"), f.join("x"))?;
        fs::rename(f.join("b"), f.join("a"))?;
        Ok(fs::rename(f.join("x"), f.join("b"))?)
    }),
    ("target of a link", |f| {
        fs::remove_file(f.join("link"))?;
        Ok(symlink("b", f.join("link"))?)
    }),
    ("link to a file", |f| {
        fs::remove_file(f.join("link"))?;
        Ok(fs::write(f.join("link"), "b")?)
    }),
    ("file to a folder", |f| {
        fs::remove_file(f.join("full/e"))?;
        Ok(fs::create_dir(f.join("full/e"))?)
    }),
    ("folder to a link", |f| {
        fs::remove_dir(f.join("full/e"))?;
        Ok(symlink("..", f.join("full/e"))?)
    }),
    ("another hard link", |f| Ok(fs::hard_link(f.join("b"), f.join("full/shallower/also"))?)),
    ("hard link gone", |f| Ok(fs::remove_file(f.join("full/also a"))?)),
    ("copied in place", |f| {
        fs::copy(f.join("full/shallower/d"), f.join("copy"))?;
        Ok(fs::rename(f.join("copy"), f.join("full/shallower/d"))?)
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_captured() -> Result<()> {
    let bench = Bench::new().await?;
    let folder = bench.path("folder");
    fill(&folder)?;
    bench.capture(&[&folder], &[]).await?;
    let is_root = rustix::process::geteuid().is_root();
    for (what, change) in CHANGES {
        if !is_root && (what.contains("owner") || what.contains("group")) {
            continue;
        }
        change(&folder)?;
        let captured = bench.capture(&[&folder], &[]).await?;
        assert!(!captured.unchanged, "{what}");
        tree::assert_same(&bench.brings_back(&captured.snapshot, &folder).await?, &tree::describe(&folder)?);
        // What was read just now is as it was: a file's last access is no change.
        let again = bench.capture(&[&folder], &[]).await?;
        assert!(again.unchanged, "after: {what}");
        assert_eq!(bench.snapshot(&captured.snapshot)?["tree"], bench.snapshot(&again.snapshot)?["tree"], "{what}");
    }
    bench.restic(&["check", "--read-data"])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn other_settings_are_a_change() -> Result<()> {
    let bench = Bench::new().await?;
    let (folder, other) = (bench.path("folder"), bench.path("other"));
    fill(&folder)?;
    fs::create_dir(&other)?;
    bench.capture(&[&folder], &[]).await?;
    let less = bench.capture(&[&folder], &["d"]).await?;
    assert!(!less.unchanged && less.report.excluded == 1);
    assert!(!bench.brings_back(&less.snapshot, &folder).await?.contains("deeper/d"));
    assert!(bench.capture(&[&folder], &["d"]).await?.unchanged);
    let more = bench.capture(&[&folder], &[]).await?;
    assert!(!more.unchanged);
    tree::assert_same(&bench.brings_back(&more.snapshot, &folder).await?, &tree::describe(&folder)?);

    assert!(!bench.capture(&[&folder, &other], &[]).await?.unchanged, "no snapshot has these paths");
    assert!(bench.capture(&[&other, &folder], &[]).await?.unchanged, "their order is no matter");
    fs::remove_dir(&other)?;
    let gone = bench.capture(&[&folder, &other], &[]).await?;
    assert!(!gone.unchanged && gone.report.unreadable_count == 1, "what is gone is said: {gone:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_that_vanished_are_noticed() -> Result<()> {
    let bench = Bench::new().await?;
    let folder = bench.path("folder");
    fill(&folder)?;
    bench.capture(&[&folder], &[]).await?;
    let packs = bench.packs();
    assert!(packs.len() > 1, "one of files and one of trees");
    for pack in packs {
        let aside = bench.path("aside");
        fs::rename(&pack, &aside)?;
        assert!(bench.capture(&[&folder], &[]).await.is_err(), "the index names it, and it is not there");
        fs::rename(&aside, &pack)?;
        assert!(bench.capture(&[&folder], &[]).await?.unchanged);
    }
    for pack in bench.packs() {
        fs::remove_file(&pack)?;
        bench.restic(&["rebuild-index"])?;
        let captured = bench.capture(&[&folder], &[]).await?;
        assert!(!captured.unchanged, "the index says that it is gone");
        tree::assert_same(&bench.brings_back(&captured.snapshot, &folder).await?, &tree::describe(&folder)?);
        assert!(bench.capture(&[&folder], &[]).await?.unchanged);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_capture_that_is_killed_harms_nothing() -> Result<()> {
    let bench = Bench::new().await?;
    let folder = bench.path("folder");
    fill(&folder)?;
    bench.capture(&[&folder], &[]).await?;
    for fault in [Fault::DiesAt(0), Fault::DiesAfter(0)] {
        bench.faults.set(fault);
        assert!(bench.capture(&[&folder], &[]).await.is_err());
        bench.faults.set(Fault::None);
        bench.restic(&["check", "--read-data"])?;
        assert!(bench.capture(&[&folder], &[]).await?.unchanged);
    }
    assert_eq!(bench.faults.writes(), 1, "a snapshot is all that is written");
    Ok(())
}
