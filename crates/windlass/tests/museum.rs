//! A museum: repositories as earlier versions wrote them, whole and damaged in every way that was thought of.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(dead_code, clippy::panic, reason = "each file of stories uses what it needs of the stage")]

mod story;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use story::Stage;
use windlass_testkit::process::run;

const FIRST: &str = "01M7Y01K7EEACTZ95TS2G1ST31";
const NEWEST: &str = "01M7Y01PMDKY3V5H96FB2BFJPX";

/// A host that finds a repository of format 1, knows its passphrase, and has never written to it.
fn visitor() -> Result<Stage> {
    let stage = Stage::new()?.uploads()?;
    fs::write(stage.path("uploads/file"), "new")?;
    let exhibit = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/museum/format-1");
    run(Command::new("cp").arg("-r").arg(exhibit).arg(stage.path("repository")))?;
    fs::write(stage.path("passphrase"), "museum\n")?;
    Ok(stage)
}

/// The one object whose key begins and ends so.
fn object(root: &Path, begins: &str, ends: &str) -> PathBuf {
    let (mut open, mut found) = (vec![root.to_owned()], Vec::new());
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let key = entry.path().strip_prefix(root).unwrap().to_string_lossy().into_owned();
            if entry.path().is_dir() {
                open.push(entry.path());
            } else if key.starts_with(begins) && key.ends_with(ends) {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found.into_iter().next_back().unwrap_or_else(|| panic!("no object `{begins}…{ends}`"))
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn flip(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
}

#[test]
fn a_repository_of_the_first_format_is_read_whole() -> Result<()> {
    let stage = visitor()?;
    stage.windlass(&["repo", "check", "--read-data"])?.with(0);
    let points = stage.windlass(&["--output", "json", "points", "shop"])?.with(0).json();
    assert_eq!(points["points"].as_array().unwrap().len(), 2);
    for (point, rows, many) in [(FIRST, "50", 5000), (NEWEST, "51", 5005)] {
        let (database, folder) = (format!("at_{rows}"), stage.path(&format!("back-{rows}")));
        let (db, files) = (format!("db={}", stage.server.url(&database)), format!("uploads={}", folder.display()));
        stage.windlass(&["restore", "shop", "--point", point, "--yes", "--into", &db, "--into", &files])?.with(0);
        assert_eq!(stage.server.psql(&database, "select count(*) from orders"), rows);
        assert_eq!(stage.server.psql(&database, "select count(*) from recent"), if rows == "50" { "10" } else { "11" });
        assert_eq!(fs::read_to_string(folder.join("a file.txt"))?, "hello\n");
        assert_eq!(fs::metadata(folder.join("sub/many"))?.len(), many);
        assert_eq!(fs::read_link(folder.join("link"))?, Path::new("a file.txt"));
    }
    // And it is written on: by a host that is new to it, beside what is there.
    stage.windlass(&["backup", "shop"])?.with(0);
    stage.windlass(&["repo", "check", "--read-data"])?.with(0);
    Ok(())
}

/// What was done to a repository, and what must be said of it.
struct Exhibit {
    name: &'static str,
    deed: fn(&Path),
    /// How `repo check --read-data` ends, and what it says: kind, a part of the key, what it costs.
    check: (i32, &'static str, &'static str, &'static str),
    /// The point whose folder still comes back; none where nothing can be read.
    comes_back: Option<&'static str>,
}

const EXHIBITS: &[Exhibit] = &[
    Exhibit {
        name: "the newest commit record is gone",
        deed: |root| fs::remove_file(object(root, "points/", "BFJPX.json")).unwrap(),
        check: (1, "missing", NEWEST, "all of it"),
        comes_back: Some(FIRST),
    },
    Exhibit {
        name: "a commit record is empty",
        deed: |root| fs::write(object(root, "points/", "BFJPX.json"), "").unwrap(),
        check: (1, "damaged", NEWEST, "all of it"),
        comes_back: Some(FIRST),
    },
    Exhibit {
        name: "a commit record is another's",
        deed: |root| {
            fs::copy(object(root, "points/", "1ST31.json"), object(root, "points/", "BFJPX.json")).unwrap();
        },
        check: (1, "damaged", NEWEST, "all of it"),
        comes_back: Some(FIRST),
    },
    Exhibit {
        name: "a commit record is of a format to come",
        deed: |root| {
            edit(&object(root, "points/", "BFJPX.json"), |bytes| {
                *bytes = String::from_utf8_lossy(bytes).replacen("\"format\":1", "\"format\":9", 1).into_bytes();
            });
        },
        check: (1, "damaged", NEWEST, "all of it"),
        comes_back: Some(FIRST),
    },
    Exhibit {
        name: "a point is complete and partial at once",
        deed: |root| {
            let record = object(root, "points/", "BFJPX.json");
            fs::copy(&record, record.with_extension("partial.json")).unwrap();
        },
        check: (1, "damaged", "partial.json", NEWEST),
        comes_back: Some(NEWEST),
    },
    Exhibit {
        name: "a manifest has another letter",
        deed: |root| edit(&object(root, "runs/shop/01M7Y01P", "component.uploads.json"), |bytes| flip(bytes)),
        check: (1, "damaged", "component.uploads.json", "uploads"),
        comes_back: Some(FIRST),
    },
    Exhibit {
        name: "a manifest is that of another point",
        deed: |root| {
            let of = |point: &str| object(root, &format!("runs/shop/{point}"), "component.uploads.json");
            fs::copy(of("01M7Y01K"), of("01M7Y01P")).unwrap();
        },
        check: (1, "damaged", "component.uploads.json", "uploads"),
        comes_back: Some(FIRST),
    },
    Exhibit {
        name: "a dump is gone",
        deed: |root| fs::remove_file(object(root, "dumps/shop/db/01M7Y01P", ".dump.age")).unwrap(),
        check: (1, "missing", ".dump.age", "db"),
        comes_back: Some(NEWEST),
    },
    Exhibit {
        name: "a dump was cut",
        deed: |root| edit(&object(root, "dumps/shop/db/01M7Y01P", ".dump.age"), |bytes| bytes.truncate(1000)),
        check: (1, "truncated", ".dump.age", "db"),
        comes_back: Some(NEWEST),
    },
    Exhibit {
        name: "a bit of a dump has flipped",
        deed: |root| edit(&object(root, "dumps/shop/db/01M7Y01P", ".dump.age"), |bytes| flip(bytes)),
        check: (1, "damaged", ".dump.age", "db"),
        comes_back: Some(NEWEST),
    },
    Exhibit {
        name: "the keyring was cut",
        deed: |root| edit(&object(root, "keys/shop", ".age"), |bytes| bytes.truncate(100)),
        check: (1, "", "", ""),
        comes_back: None,
    },
    Exhibit {
        name: "the keyring is gone",
        deed: |root| fs::remove_file(object(root, "keys/shop", ".age")).unwrap(),
        check: (1, "missing", "keys/shop", "shop: all of it"),
        comes_back: None,
    },
    Exhibit {
        name: "the writer's record is gone",
        deed: |root| fs::remove_file(object(root, "writers/", "D0G.json")).unwrap(),
        check: (1, "damaged", NEWEST, "all of it"),
        comes_back: None,
    },
    Exhibit {
        name: "nobody vouches for the writer any more",
        deed: |root| fs::remove_file(object(root, "writers/", ".endorsed.json")).unwrap(),
        check: (1, "damaged", NEWEST, "all of it"),
        comes_back: None,
    },
    Exhibit {
        name: "the restic repository has lost its index",
        deed: |root| fs::remove_dir_all(root.join("files/shop/index")).unwrap(),
        check: (1, "damaged", "files/shop", "uploads"),
        comes_back: None,
    },
    Exhibit {
        name: "a bit of every pack has flipped",
        deed: |root| {
            for folder in fs::read_dir(root.join("files/shop/data")).unwrap().flatten() {
                for pack in fs::read_dir(folder.path()).unwrap().flatten() {
                    edit(&pack.path(), |bytes| flip(bytes));
                }
            }
        },
        check: (1, "damaged", "files/shop", "uploads"),
        comes_back: None,
    },
    Exhibit {
        name: "all snapshots are gone",
        deed: |root| fs::remove_dir_all(root.join("files/shop/snapshots")).unwrap(),
        check: (1, "damaged", "files/shop", "uploads"),
        comes_back: None,
    },
    Exhibit {
        name: "the restic repository has lost its key",
        deed: |root| fs::remove_dir_all(root.join("files/shop/keys")).unwrap(),
        check: (1, "damaged", "files/shop", "uploads"),
        comes_back: None,
    },
    Exhibit {
        name: "a tombstone nobody set",
        deed: |root| {
            fs::create_dir_all(root.join("live/tombstones/shop")).unwrap();
            fs::write(root.join(format!("live/tombstones/shop/{NEWEST}.json")), "garbage").unwrap();
        },
        check: (1, "damaged", "live/tombstones", ""),
        comes_back: Some(NEWEST),
    },
    Exhibit {
        name: "a hold was changed",
        deed: |root| edit(&object(root, "holds/shop", ".json"), |bytes| flip(bytes)),
        check: (1, "damaged", "holds/shop", ""),
        comes_back: Some(NEWEST),
    },
    Exhibit {
        name: "the evidence lacks its first record",
        deed: |root| fs::remove_file(object(root, "evidence/", "000000000001.json")).unwrap(),
        check: (1, "missing", "000000000001.json", ""),
        comes_back: Some(NEWEST),
    },
    Exhibit {
        name: "somebody has been here with a file manager",
        deed: |root| fs::write(root.join("points/shop/.DS_Store"), "x").unwrap(),
        check: (1, "foreign", ".DS_Store", ""),
        comes_back: Some(NEWEST),
    },
    Exhibit {
        name: "the identity is of a format to come",
        deed: |root| {
            edit(&root.join("windlass.json"), |bytes| {
                *bytes = String::from_utf8_lossy(bytes).replacen("\"format\": 1", "\"format\": 9", 1).into_bytes();
            });
        },
        check: (1, "", "", "newer Windlass"),
        comes_back: None,
    },
    Exhibit {
        name: "the identity is empty",
        deed: |root| fs::write(root.join("windlass.json"), "").unwrap(),
        check: (1, "", "", ""),
        comes_back: None,
    },
];

/// What lies there, but what is short-lived, and index files, which a prune writes anew.
fn keys(stage: &Stage) -> BTreeSet<PathBuf> {
    let lasts = |path: &PathBuf| ["/live/", "/index/"].iter().all(|part| !path.to_string_lossy().contains(part));
    stage.objects().into_iter().filter(lasts).collect()
}

/// What is wrong with what is said and done about an exhibit.
fn complaints(exhibit: &Exhibit) -> Result<Vec<String>> {
    let stage = visitor()?;
    (exhibit.deed)(&stage.path("repository"));
    let before = keys(&stage);
    let mut complaints = Vec::new();

    let (code, kind, key, costs) = exhibit.check;
    let check = stage.windlass(&["--output", "json", "repo", "check", "--read-data"])?;
    let said = if kind.is_empty() {
        check.err.contains("error[WDL-") && check.err.contains("hint: ") && check.err.contains(costs)
    } else {
        let found: serde_json::Value = serde_json::from_str(&check.out).unwrap_or_default();
        let says = |f: &serde_json::Value| {
            f["kind"] == kind
                && f["key"].as_str().unwrap().contains(key)
                && (costs.is_empty() || f["costs"].to_string().contains(costs))
        };
        found.as_array().is_some_and(|found| found.iter().any(says))
    };
    if check.code != code || !said {
        complaints.push(format!("the check ended with {}:\n{}{}", check.code, check.out, check.err));
    }

    // Whatever it is, applying retention deletes nothing of it.
    stage.windlass(&["retention", "apply", "shop", "--yes"])?;
    let gone: Vec<_> = before.difference(&keys(&stage)).cloned().collect();
    if !gone.is_empty() {
        complaints.push(format!("retention deleted {gone:?}"));
    }

    // What is whole comes back, and what is not is never called so.
    for point in [FIRST, NEWEST] {
        let folder = stage.path(&format!("back-{point}"));
        let into = format!("uploads={}", folder.display());
        let restore = stage.windlass(&["restore", "shop", "--point", point, "--yes", "--into", &into])?;
        let whole = exhibit.comes_back.is_some_and(|newest| point <= newest);
        if (restore.code == 0) != whole || (!whole && folder.exists()) {
            complaints.push(format!("the restore of {point} ended with {}: {}", restore.code, restore.err));
        }
    }
    Ok(complaints)
}

#[test]
fn of_every_damaged_one_it_is_said_what_is_wrong_and_nothing_is_lost() -> Result<()> {
    let mut all = Vec::new();
    for exhibit in EXHIBITS {
        all.extend(complaints(exhibit)?.into_iter().map(|complaint| format!("{}: {complaint}", exhibit.name)));
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
    Ok(())
}
