//! Stories of things that go wrong: nothing is called a success that is none, and nothing is lost.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(dead_code, clippy::panic, reason = "each file of stories uses what it needs of the stage")]

mod story;

use std::process::Stdio;

use anyhow::Result;
use story::{PASSPHRASE, Stage, scratch_places, script, wait_until, with_mounts_of_its_own};
use windlass_testkit::tree;

/// A database of one table, captured through a wrapper around PostgreSQL's tools.
fn wrapped(wrapper: &str) -> Result<Stage> {
    let stage = Stage::new()?;
    stage.server.psql("postgres", "create database shop");
    stage.server.psql("shop", "create table orders as select n, md5(n::text) from generate_series(1, 20000) n");
    stage.server.psql("shop", "create table other as select n from generate_series(1, 10) n");
    script(
        &stage.path("wrapper"),
        &format!("PATH=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1):$PATH\n{wrapper}\nexec \"$@\""),
    )?;
    let url = stage.server.url("shop");
    let via = stage.path("wrapper").display().to_string();
    stage.component("db", &format!("kind = \"postgres\"\nurl = \"{url}\"\nvia = [\"{via}\"]"))
}

#[test]
fn a_dump_that_was_cut_is_no_backup() -> Result<()> {
    for cut in ["head -c 0", "head -c 100", "head -c 5000", "head -c 100000", "cat; printf x"] {
        let stage = wrapped(&format!(
            "if [ \"$1\" = pg_dump ] && [ \"$2\" != --version ]; then \"$@\" | {{ {cut}; }}; exit 0; fi"
        ))?;
        stage.windlass(&["repo", "init"])?.with(0);
        stage.windlass(&["backup", "shop"])?.with(1).says("not a whole dump");
        let points = stage.windlass(&["--output", "json", "points", "shop"])?.with(0).json();
        assert_eq!(points["points"].as_array().unwrap().len(), 0, "{cut}");
        assert!(
            !stage.objects().iter().any(|path| path.to_string_lossy().contains("/dumps/")),
            "{cut}: nothing became visible"
        );
    }
    Ok(())
}

#[test]
fn a_valid_dump_that_lacks_one_tables_rows_fails_the_deep_verification() -> Result<()> {
    let stage = wrapped(
        "if [ \"$1\" = pg_dump ] && [ \"$2\" != --version ]; then shift; exec pg_dump --exclude-table-data=public.orders \"$@\"; fi",
    )?;
    stage.begin()?;
    stage.windlass(&["verify", "shop"])?.with(0);
    let deep = stage.windlass(&["--output", "json", "verify", "shop", "--deep"])?.with(1).json();
    assert_eq!(deep[0]["verdict"], "failed");
    assert!(
        deep[0]["components"][0]["findings"][0].as_str().unwrap().contains("public.orders has 0 rows instead of 20000"),
        "{deep}"
    );
    stage.windlass(&["status", "shop"])?.with(1);
    Ok(())
}

#[test]
fn what_cannot_be_captured_makes_a_partial_point_and_a_failure() -> Result<()> {
    for (command, said) in
        [("printf ''", "was empty"), ("printf half; echo why >&2; exit 3", "why"), ("sleep 60", "took longer")]
    {
        let stage = Stage::new()?.uploads()?;
        std::fs::write(stage.path("uploads/file"), "content")?;
        script(&stage.path("export"), command)?;
        let action = format!("kind = \"action\"\nbackup = [\"{}\"]\ntimeout = \"2s\"", stage.path("export").display());
        let stage = stage.component("index", &action)?;
        stage.windlass(&["repo", "init"])?.with(0);
        stage.windlass(&["backup", "shop"])?.with(1).says("index could not be captured").says(said);
        let points = stage.windlass(&["--output", "json", "points", "shop"])?.with(0).json();
        assert_eq!(points["points"][0]["complete"], false);
        stage.windlass(&["status", "shop"])?.with(1);
        // What was captured can be restored by name.
        let point = points["points"][0]["id"].as_str().unwrap();
        let into = format!("uploads={}", stage.path("back").display());
        stage.windlass(&["restore", "shop", "--point", point, "--into", &into, "--yes"])?.with(0);
        assert_eq!(std::fs::read_to_string(stage.path("back/file"))?, "content");
        let newest = stage.windlass(&[
            "restore",
            "shop",
            "--into",
            &format!("uploads={}", stage.path("back2").display()),
            "--yes",
        ])?;
        newest.with(2).says("there is no complete one");
    }
    Ok(())
}

#[test]
fn nothing_to_protect_is_an_error() -> Result<()> {
    let stage = Stage::new()?.uploads()?;
    stage.windlass(&["repo", "init"])?.with(0);
    stage.windlass(&["backup", "shop"])?.says("nothing");
    std::fs::remove_dir(stage.path("uploads"))?;
    stage.windlass(&["backup", "shop"])?.with(2).says("uploads");
    Ok(())
}

#[test]
fn after_hooks_run_also_when_windlass_is_killed_while_paused() -> Result<()> {
    let stage = Stage::new()?;
    let at = |name: &str| stage.path(name).display().to_string();
    script(&stage.path("pause"), &format!("touch {}", at("paused")))?;
    script(&stage.path("resume"), &format!("rm {}; touch {}", at("paused"), at("resumed")))?;
    script(&stage.path("export"), &format!("echo $$ > {}; exec sleep 60", at("exporting")))?;
    let hooks = format!(
        "[application.shop.hooks]\nbefore = [ {{ run = [\"{}\"], timeout = \"5s\" }} ]\nafter = [ {{ run = [\"{}\"], timeout = \"5s\" }} ]",
        at("pause"),
        at("resume")
    );
    let action = format!("kind = \"action\"\nbackup = [\"{}\"]", at("export"));
    let stage = stage.application(&hooks)?.component("index", &action)?;
    stage.windlass(&["repo", "init"])?.with(0);
    for signal in ["KILL", "INT", "TERM"] {
        let _ = std::fs::remove_file(stage.path("resumed"));
        let _ = std::fs::remove_file(stage.path("exporting"));
        let mut backup = stage.command(&["backup", "shop"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        wait_until("the capture runs", || {
            std::fs::read_to_string(stage.path("exporting")).is_ok_and(|text| !text.is_empty())
        });
        assert!(stage.path("paused").exists());
        windlass_testkit::process::run(
            std::process::Command::new("kill").args([&format!("-{signal}"), &backup.id().to_string()]),
        )?;
        backup.wait()?;
        wait_until("the application is resumed", || stage.path("resumed").exists() && !stage.path("paused").exists());
        if signal == "KILL" {
            // Ours alone is left behind by a kill that nobody can catch; the test ends what it started.
            let left = std::fs::read_to_string(stage.path("exporting"))?;
            let _ = std::process::Command::new("kill").args(["-KILL", left.trim()]).status();
        }
    }
    let points = stage.windlass(&["--output", "json", "points", "shop"])?.with(0).json();
    assert_eq!(points["points"].as_array().unwrap().len(), 0);
    Ok(())
}

#[test]
fn hooks_that_fail_are_said_and_the_rest_still_runs() -> Result<()> {
    let stage = Stage::new()?.uploads()?;
    std::fs::write(stage.path("uploads/file"), "content")?;
    let resumed = stage.path("resumed").display().to_string();
    let hooks = |before: &str, after: &str| {
        format!(
            "[application.shop.hooks]\nbefore = [ {{ run = [{before}], timeout = \"2s\" }} ]\n\
             after = [ {{ run = [{after}], timeout = \"2s\" }}, {{ run = [\"touch\", \"{resumed}\"], timeout = \"5s\" }} ]"
        )
    };
    let stage = stage.application(&hooks("\"false\"", "\"true\""))?;
    stage.windlass(&["repo", "init"])?.with(0);
    stage.windlass(&["backup", "shop"])?.with(1).says("before the capture");
    assert!(stage.path("resumed").exists(), "after-hooks run although a before-hook failed");
    let points = stage.windlass(&["--output", "json", "points", "shop"])?.with(0).json();
    assert_eq!(points["points"].as_array().unwrap().len(), 0);
    Ok(())
}

#[test]
fn a_drill_that_is_killed_leaves_nothing_running() -> Result<()> {
    let stage = Stage::new()?;
    stage.server.psql("postgres", "create database shop");
    stage.server.psql("shop", "create table orders as select n from generate_series(1, 1000) n");
    // The check waits, so that there is time to be killed in.
    let stage = stage
        .application("checks = [ { component = \"db\", sql = \"select true from pg_sleep(30)\" } ]")?
        .database("shop")?;
    stage.begin()?;
    let mut drill = stage.command(&["drill", "shop"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let mut found = None;
    wait_until("the scratch server runs", || {
        // The server is a child of the drill's; other tests have scratch places of their own.
        let threads = std::fs::read_dir(format!("/proc/{}/task", drill.id())).into_iter().flatten().flatten();
        let children: String =
            threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok()).collect();
        found = scratch_places().into_iter().find_map(|place| {
            let pid = std::fs::read_to_string(place.join("data/postmaster.pid")).ok()?.lines().next()?.to_owned();
            children.split_whitespace().any(|child| child == pid).then_some((place, pid))
        });
        found.is_some()
    });
    let (place, pid) = found.unwrap();
    drill.kill()?;
    drill.wait()?;
    wait_until("the scratch place is gone", || !place.exists());
    // Gone, or dead and not yet buried by whoever inherited it.
    wait_until("the scratch server is gone", || {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
    });
    Ok(())
}

#[test]
fn a_damaged_point_is_refused_before_anything_is_written_and_an_intact_one_is_named() -> Result<()> {
    let stage = Stage::new()?.uploads()?;
    stage.server.make_rich("shop")?;
    let stage = stage.database("shop")?;
    std::fs::write(stage.path("uploads/file"), "content")?;
    let first = stage.begin()?;
    let second = stage.take()?;
    let dump = stage.objects().into_iter().find(|path| {
        let path = path.to_string_lossy();
        path.contains(&second) && path.contains("/shop-")
    });
    let dump = dump.unwrap();
    let mut bytes = std::fs::read(&dump)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&dump, bytes)?;

    let into = format!("db={}", stage.server.url("copy"));
    stage
        .windlass(&["restore", "shop", "--into", &into, "--yes"])?
        .with(1)
        .says(&format!("the newest intact point is {first}"));
    assert_eq!(stage.server.psql("postgres", "select count(*) from pg_database where datname = 'copy'"), "0");
    stage.windlass(&["verify", "shop"])?.with(1);
    let check = stage.windlass(&["--output", "json", "repo", "check", "--read-data"])?.with(1).json();
    assert_eq!(check[0]["kind"], "damaged");
    assert_eq!(check[0]["costs"][0], format!("{second}: db"));
    stage.windlass(&["status", "shop"])?.with(1);
    stage.windlass(&["restore", "shop", "--point", &first, "--into", &into, "--yes"])?.with(0);
    tree::assert_same(&stage.server.describe("copy")?, &stage.server.describe("shop")?);
    Ok(())
}

#[test]
fn every_kind_of_damage_is_found_and_its_cost_named() -> Result<()> {
    let stage = Stage::new()?.uploads()?;
    stage.server.psql("postgres", "create database shop");
    stage.server.psql("shop", "create table t as select n from generate_series(1, 1000) n");
    let stage = stage.database("shop")?;
    std::fs::write(stage.path("uploads/file"), vec![7; 500_000])?;
    stage.begin()?;
    stage.windlass(&["repo", "check", "--read-data"])?.with(0);
    for object in stage.objects() {
        let key = object.strip_prefix(stage.path("repository"))?.to_string_lossy().into_owned();
        let good = std::fs::read(&object)?;
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        for bad in [None, Some(Vec::new()), Some(flipped)] {
            match &bad {
                None => std::fs::remove_file(&object)?,
                Some(bytes) => std::fs::write(&object, bytes)?,
            }
            let check = stage.windlass(&["--output", "json", "repo", "check", "--read-data"])?;
            let what = bad.as_ref().map_or("removed", |b| if b.is_empty() { "emptied" } else { "flipped" });
            // What a run set out to do is no part of a point: it costs nothing, and its loss is only found with its data.
            let harmless = key.ends_with("intent.json") || (key.starts_with("verified/") && bad.is_none());
            if !harmless {
                // What lies at the root of everything is an error; of all else a finding says what it costs.
                let is_root = key == "windlass.json" || key.starts_with("keys/");
                assert!(check.code == 1 || is_root && check.code == 2, "{key} was {what}: {}{}", check.out, check.err);
            }
        }
        std::fs::write(&object, &good)?;
    }
    std::fs::write(stage.path("repository/points/shop/notes.txt"), "mine")?;
    let check = stage.windlass(&["--output", "json", "repo", "check"])?.with(1).json();
    assert_eq!(check[0]["kind"], "foreign");
    std::fs::remove_file(stage.path("repository/points/shop/notes.txt"))?;
    stage.windlass(&["repo", "check", "--read-data"])?.with(0);
    Ok(())
}

#[test]
fn an_emptied_or_replaced_repository_is_never_made_anew() -> Result<()> {
    let stage = Stage::new()?.uploads()?;
    std::fs::write(stage.path("uploads/file"), "content")?;
    stage.begin()?;
    std::fs::rename(stage.path("repository"), stage.path("away"))?;
    std::fs::create_dir(stage.path("repository"))?;
    for verb in [vec!["backup", "shop"], vec!["repo", "init"], vec!["status", "shop"]] {
        stage.windlass(&verb)?.with(2).says("now there is none");
    }
    assert_eq!(stage.objects().len(), 0);
    Ok(())
}

#[test]
fn no_secret_is_seen_on_a_command_line_or_in_what_is_printed() -> Result<()> {
    let stage = Stage::new()?;
    stage.server.psql("postgres", "create database shop");
    stage.server.psql("postgres", "create role app superuser login password 'hush-hush-hush'");
    stage.server.psql("shop", "create table t as select n, repeat('x', 1000) from generate_series(1, 20000) n");
    std::fs::write(stage.path("password"), "hush-hush-hush")?;
    let url = stage.server.url_as("app", "shop");
    let component = format!(
        "kind = \"postgres\"\nurl = \"{url}\"\npassword = {{ file = \"{}\" }}",
        stage.path("password").display()
    );
    let stage = stage.component("db", &component)?;
    stage.windlass(&["repo", "init"])?.with(0);
    let mut backup = stage.command(&["-vv", "backup", "shop"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut looked = 0;
    while backup.try_wait()?.is_none() {
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            // The superuser that made the role had it on its command line; ours must not.
            assert!(!line.contains("hush-hush-hush") && !line.contains(PASSPHRASE), "{line}");
            looked += 1;
        }
    }
    let output = backup.wait_with_output()?;
    assert!(looked > 50);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("hush-hush-hush") && !said.contains(PASSPHRASE));
    for object in stage.objects() {
        let bytes = String::from_utf8_lossy(&std::fs::read(&object)?).into_owned();
        assert!(!bytes.contains("hush-hush-hush") && !bytes.contains(PASSPHRASE), "{}", object.display());
    }
    Ok(())
}

#[test]
fn keyrings_are_sealed_anew_also_when_that_is_stopped_halfway() -> Result<()> {
    let stage = Stage::new()?.uploads()?;
    std::fs::write(stage.path("uploads/file"), "content")?;
    stage.begin()?;
    let keyring = stage.objects().into_iter().find(|path| path.extension().is_some_and(|e| e == "age")).unwrap();
    let old = std::fs::read(&keyring)?;
    std::fs::rename(stage.path("passphrase"), stage.path("old-passphrase"))?;
    std::fs::write(stage.path("passphrase"), "another passphrase")?;
    stage.windlass(&["verify", "shop"])?.with(2).says("the passphrase does not open it");
    let reseal = ["repo", "keys", "reseal", "--old", stage.path("old-passphrase").to_str().unwrap()].map(str::to_owned);
    let reseal: Vec<&str> = reseal.iter().map(String::as_str).collect();
    stage.windlass(&reseal)?.with(0);
    assert!(!keyring.exists(), "what the old passphrase opens is gone");
    stage.windlass(&["verify", "shop"])?.with(0);

    // Stopped between the writing of the new and the removal of the old: both lie there.
    std::fs::write(&keyring, old)?;
    stage.windlass(&["verify", "shop"])?.with(0);
    stage.windlass(&reseal)?.with(0);
    assert!(!keyring.exists());
    stage.windlass(&["backup", "shop"])?.with(0);
    stage.windlass(&["verify", "shop", "--all"])?.with(0);
    Ok(())
}

#[test]
fn retention_shows_what_goes_marks_it_and_a_hold_takes_the_mark_away() -> Result<()> {
    let stage = Stage::new()?.uploads()?;
    std::fs::write(stage.path("uploads/file"), "content")?;
    let settings = std::fs::read_to_string(stage.path("windlass.toml"))?;
    let policy =
        "[policy.short]\nretention = { daily = 1, max_delete = \"50%\" }\n[application.shop]\npolicy = \"short\"\n";
    std::fs::write(stage.path("windlass.toml"), settings.replace("[application.shop]\n", policy))?;
    let first = stage.begin()?;
    let second = stage.take()?;
    let third = stage.take()?;
    let plan = |stage: &Stage| -> Result<serde_json::Value> {
        Ok(stage.windlass(&["--output", "json", "retention", "plan", "shop"])?.with(0).json())
    };
    let shown = plan(&stage)?;
    assert_eq!(shown["delete"].as_array().unwrap().len(), 2);
    assert_eq!(shown["keep"][0]["id"], third.as_str());
    stage.windlass(&["retention", "apply", "shop"])?.with(2).says("nothing was confirmed");
    let digest = shown["digest"].as_str().unwrap().to_owned();
    stage.windlass(&["retention", "apply", "shop", "--confirm", &digest])?.with(2).says("more than the 50%");
    stage.windlass(&["retention", "hold", "shop", &first, "--reason", "audit"])?.with(0);
    stage.windlass(&["retention", "apply", "shop", "--confirm", &digest])?.with(2).says("the world has changed");
    let digest = plan(&stage)?["digest"].as_str().unwrap().to_owned();
    stage.windlass(&["retention", "apply", "shop", "--confirm", &digest])?.with(0);
    stage.windlass(&["retention", "explain", "shop", &second])?.with(0);
    let points = stage.windlass(&["--output", "json", "points", "shop"])?.with(0).json();
    let marked = |points: &serde_json::Value, id: &str| {
        let all = points["points"].as_array().unwrap();
        all.iter().any(|point| point["id"] == id && point["deleted_after_grace"] == true)
    };
    assert!(marked(&points, &second) && !marked(&points, &first) && !marked(&points, &third));
    // Nothing is deleted before its grace is over, and a hold takes the mark away.
    stage.windlass(&["retention", "hold", "shop", &second, "--reason", "wait"])?.with(0);
    let points = stage.windlass(&["--output", "json", "points", "shop"])?.with(0).json();
    assert!(!marked(&points, &second));
    stage.windlass(&["verify", "shop", "--all"])?.with(0);
    stage.windlass(&["retention", "release", "shop", &second])?.with(0);
    assert_eq!(plan(&stage)?["delete"][0]["id"], second.as_str());
    Ok(())
}

#[test]
fn from_a_repository_that_can_only_be_read_everything_comes_back() -> Result<()> {
    let stage = Stage::new()?.uploads()?;
    std::fs::write(stage.path("uploads/file"), "content")?;
    stage.begin()?;
    // As a disk that was mounted to be read only: made so in a namespace of its own, which ends with the command.
    let run = |arguments: &[&str]| -> Result<(i32, String)> {
        let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
        let command = stage.command(arguments);
        let mut unshare = with_mounts_of_its_own();
        unshare.args(["sh", "-c", script]).arg(stage.path("repository"));
        unshare.arg(command.get_program()).args(command.get_args());
        let ended = unshare.stdin(Stdio::null()).output()?;
        Ok((ended.status.code().unwrap_or(-1), String::from_utf8(ended.stderr)?))
    };
    let (code, said) = run(&["backup", "shop"])?;
    assert!(code == 2 && said.contains("access denied: Read-only file system"), "{code}: {said}");
    let (code, said) = run(&["verify", "shop"])?;
    assert!(code == 0 && said.contains("does not count"), "{code}: {said}");
    let into = format!("uploads={}", stage.path("back").display());
    let (code, said) = run(&["restore", "shop", "--yes", "--into", &into])?;
    assert!(code == 0 && said.contains("not pinned") && said.contains("not on record"), "{code}: {said}");
    assert_eq!(std::fs::read_to_string(stage.path("back/file"))?, "content");
    let (code, said) = run(&["retention", "apply", "shop", "--yes"])?;
    assert!(code == 2 && said.contains("access denied"), "{code}: {said}");
    Ok(())
}

/// Makes a file look as if it had been written two days ago.
fn age(path: &std::path::Path) -> Result<()> {
    windlass_testkit::process::run(std::process::Command::new("touch").args(["-d", "2 days ago"]).arg(path))?;
    Ok(())
}

#[test]
fn what_was_marked_a_grace_ago_is_deleted_and_can_be_held_no_more() -> Result<()> {
    let stage = Stage::new()?.uploads()?;
    let action = "kind = \"action\"\nbackup = [\"seq\", \"1000\"]";
    let stage =
        stage.component("index", action)?.application("policy = \"short\"\n[policy.short]\nretention = \"1s\"")?;
    std::fs::write(stage.path("uploads/file"), "content")?;
    let (first, second) = (stage.begin()?, stage.take()?);
    std::thread::sleep(std::time::Duration::from_secs(2));
    stage.take()?;
    stage.windlass(&["retention", "apply", "shop", "--yes"])?.with(0);
    let mark = |id: &str| stage.path(&format!("repository/live/tombstones/shop/{id}.json"));
    age(&mark(&first))?;
    stage.windlass(&["retention", "hold", "shop", &first, "--reason", "too late"])?.with(2).says("its grace is over");
    let into = format!("uploads={}", stage.path("back").display());
    stage.windlass(&["restore", "shop", "--point", &first, "--yes", "--into", &into])?.with(2);
    stage.windlass(&["retention", "apply", "shop", "--yes"])?.with(0);
    let points = stage.windlass(&["--output", "json", "points", "shop"])?.with(0).json();
    let ids: Vec<&str> = points["points"].as_array().unwrap().iter().map(|p| p["id"].as_str().unwrap()).collect();
    assert!(!ids.contains(&first.as_str()) && ids.contains(&second.as_str()), "{ids:?}");
    assert!(!stage.objects().iter().any(|path| path.to_string_lossy().contains(&first)), "nothing of it is left");
    stage.windlass(&["repo", "check", "--read-data"])?.with(0);
    Ok(())
}

#[test]
fn a_run_that_slept_for_a_day_commits_nothing() -> Result<()> {
    let stage = Stage::new()?;
    let (repository, began) = (stage.path("repository"), stage.path("began"));
    let export = format!(
        "touch {}; find {} -name intent.json | xargs touch -d '2 days ago'; seq 10",
        began.display(),
        repository.display()
    );
    script(&stage.path("export"), &export)?;
    let action = format!("kind = \"action\"\nbackup = [\"{}\"]", stage.path("export").display());
    let stage = stage.component("index", &action)?;
    stage.windlass(&["repo", "init"])?.with(0);
    stage.windlass(&["backup", "shop"])?.with(1).says("took longer than");
    assert!(began.exists() && !stage.path("repository/points").exists());
    Ok(())
}
