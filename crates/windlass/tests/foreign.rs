//! Someone else's restic repository: listed, verified and restored, never written.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(dead_code, clippy::panic, reason = "each file of stories uses what it needs of the stage")]

mod story;

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use story::{PASSPHRASE, Stage};
use windlass_testkit::process::run;
use windlass_testkit::s3::{ACCESS_KEY, BUCKET, Kind, S3Server, SECRET_KEY};
use windlass_testkit::tree;

/// Stock restic, at a repository of its own.
fn restic(stage: &Stage, at: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("restic");
    command.env("RESTIC_PASSWORD", PASSPHRASE).args(["--no-cache", "--repo", at]).args(arguments);
    command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    run(command.current_dir(stage.path("")))
}

/// Two snapshots of a folder, made by restic; returns their identifiers, the oldest first.
fn snapshots(stage: &Stage, at: &str) -> Result<Vec<String>> {
    tree::make_hard(&stage.path("data"))?;
    restic(stage, at, &["init"])?;
    restic(stage, at, &["backup", "--host", "theirs", "--tag", "nightly", "data"])?;
    std::fs::write(stage.path("data/later"), vec![1; 200_000])?;
    restic(stage, at, &["backup", "--host", "theirs", "data"])?;
    let listed: serde_json::Value = serde_json::from_str(&restic(stage, at, &["snapshots", "--json"])?)?;
    Ok(listed.as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect())
}

#[test]
fn a_restic_repository_is_listed_verified_and_restored_and_never_written() -> Result<()> {
    let stage = Stage::new()?.uploads()?;
    let at = stage.path("theirs").display().to_string();
    let ids = snapshots(&stage, &at)?;
    let stage = stage.repository(&format!("url = \"file://{at}\"\nformat = \"restic\""))?.alone()?;
    let before = tree::describe(Path::new(&at))?;

    let listed = stage.windlass(&["--output", "json", "points", "main"])?.with(0).json();
    let found: Vec<&str> = listed.as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap()).collect();
    assert_eq!(found, ids);
    assert_eq!(listed[0]["tags"][0], "nightly");
    let verified = stage.windlass(&["--output", "json", "verify", "main", "--all"])?.with(0).json();
    assert_eq!(verified.as_array().unwrap().len(), 2);

    // The newest, by plan and digest; then an older one, by a part of its name.
    let into = |name: &str| format!("files={}", stage.path(name).display());
    let plan = stage.windlass(&["--output", "json", "restore", "main", "--into", &into("new"), "--plan"])?.with(0);
    let plan = plan.json();
    assert_eq!(plan["plan"]["snapshot"], ids[1]);
    assert!(!stage.path("new").exists());
    stage.windlass(&["restore", "main", "--into", &into("new")])?.with(2).says("nothing was confirmed");
    let digest = plan["digest"].as_str().unwrap();
    stage.windlass(&["restore", "main", "--into", &into("other"), "--confirm", digest])?.with(2).says("changed");
    stage.windlass(&["restore", "main", "--into", &into("new"), "--confirm", digest])?.with(0);
    restic(&stage, &at, &["--no-lock", "restore", &ids[1], "--target", "by-restic"])?;
    tree::assert_same(&tree::describe(&stage.path("new/data"))?, &tree::describe(&stage.path("by-restic/data"))?);
    stage.windlass(&["restore", "main", "--into", &into("old"), "--yes", "--point", &ids[0][..10]])?.with(0);
    let later = walk(&stage.path("old"));
    assert!(!later.iter().any(|name| name.ends_with("/later")) && later.iter().any(|name| name.contains("/data/")));
    stage.windlass(&["restore", "main", "--into", &into("new"), "--yes"])?.with(2).says("not empty");
    stage.windlass(&["restore", "main", "--into", &into("x"), "--yes", "--point", "ffff00"])?.with(2);
    stage.windlass(&["restore", "main", "--into", &into("x"), "--yes", "--at", "2001-01-01T00:00:00Z"])?.with(2);

    for verb in [vec!["repo", "init"], vec!["repo", "check"], vec!["repo", "kit"]] {
        assert_ne!(stage.windlass(&verb)?.code, 0, "{verb:?}");
    }
    tree::assert_same(&tree::describe(Path::new(&at))?, &before);

    // A damaged pack is found, and nothing is restored from it.
    let pack = walk(&Path::new(&at).join("data")).into_iter().max_by_key(|p| std::fs::metadata(p).unwrap().len());
    let pack = pack.unwrap();
    let mut bytes = std::fs::read(&pack)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    run(Command::new("chmod").arg("u+w").arg(&pack))?;
    std::fs::write(&pack, &bytes)?;
    stage.windlass(&["verify", "main"])?.with(1);
    stage.windlass(&["restore", "main", "--into", &into("damaged"), "--yes"])?.with(1).says("nothing was written");
    assert!(!stage.path("damaged").exists());
    std::fs::write(stage.path("passphrase"), "wrong")?;
    stage.windlass(&["points", "main"])?.says("password");
    Ok(())
}

#[test]
fn a_restic_repository_in_a_bucket() -> Result<()> {
    for kind in [Kind::Versitygw, Kind::Minio] {
        let server = S3Server::start(kind)?;
        let stage = Stage::new()?.uploads()?;
        let ids = snapshots(&stage, &format!("s3:{}/{BUCKET}/theirs", server.endpoint()))?;
        let stage = stage.bucket(&server.endpoint(), "theirs")?.format("restic")?.alone()?;
        stage.windlass(&["verify", "main", "--point", &ids[0]])?.with(0);
        let into = format!("files={}", stage.path("back").display());
        stage.windlass(&["restore", "main", "--into", &into, "--yes"])?.with(0);
        // restic 0.14 keeps no target that is not UTF-8.
        let without = |text: String| {
            text.lines().filter(|l| !l.contains("link to bytes")).map(|l| format!("{l}\n")).collect::<String>()
        };
        let (found, expected) = (tree::describe(&stage.path("back/data"))?, tree::describe(&stage.path("data"))?);
        tree::assert_same(&without(found), &without(expected));
    }
    Ok(())
}

/// Every file below a folder.
fn walk(root: &Path) -> Vec<String> {
    let (mut files, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else {
                files.push(entry.path().to_string_lossy().into_owned());
            }
        }
    }
    files
}

#[test]
fn a_snapshot_made_to_write_elsewhere_writes_nowhere() -> Result<()> {
    let outside = tempfile::tempdir()?;
    let out = outside.path().display();
    let evil = |name: &str| format!("[{{\"name\": \"{name}\", \"type\": \"file\"}}]");
    let through_a_link = format!(
        "[{{\"name\": \"d\", \"type\": \"symlink\", \"linktarget\": \"{out}\"}}, \
          {{\"name\": \"d\", \"type\": \"dir\", \"subtree\": [{{\"name\": \"evil\", \"type\": \"file\"}}]}}]"
    );
    let trees = [
        evil("../evil"),
        evil(&format!("{out}/evil")),
        evil("a/../../evil"),
        evil(".."),
        evil("."),
        evil(""),
        evil("evil\\u0000"),
        format!("[{{\"name\": \"sub\", \"type\": \"dir\", \"subtree\": {}}}]", evil("../../evil")),
        through_a_link,
    ];
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/hostile-snapshot");
    let stage = Stage::new()?.uploads()?;
    let at = stage.path("theirs").display().to_string();
    restic(&stage, &at, &["init"])?;
    let stage = stage.repository(&format!("url = \"file://{at}\"\nformat = \"restic\""))?.alone()?;
    for (number, tree) in trees.iter().enumerate() {
        let mut craft = Command::new("python3");
        let id = run(craft.arg(&tool).args([at.as_str(), PASSPHRASE, tree.as_str()]))?;
        let parent = stage.path(&format!("parent-{number}"));
        std::fs::create_dir(&parent)?;
        let into = format!("files={}", parent.join("back").display());
        let ended = stage.windlass(&["restore", "main", "--yes", "--point", id.trim(), "--into", &into])?;
        assert_eq!(ended.code, 1, "{tree}: {}{}", ended.out, ended.err);
        assert_eq!(std::fs::read_dir(outside.path())?.count(), 0, "{tree}");
        let beside: Vec<String> = walk(&parent).into_iter().filter(|path| path.ends_with("evil")).collect();
        assert!(beside.iter().all(|path| path.contains("/back/")), "{tree}: {beside:?}");
    }
    // The same way, an honest one comes back.
    let mut craft = Command::new("python3");
    let id = run(craft.arg(&tool).args([at.as_str(), PASSPHRASE, &evil("good")]))?;
    let into = format!("files={}", stage.path("good").display());
    stage.windlass(&["restore", "main", "--yes", "--point", id.trim(), "--into", &into])?.with(0);
    assert!(stage.path("good/good").is_file());
    Ok(())
}
