//! Stories of three in the morning: what a tired operator does, and what must not come of it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(dead_code, clippy::panic, reason = "each file of stories uses what it needs of the stage")]

mod story;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Result;
use story::{Stage, script, with_mounts_of_its_own};

/// A folder with one file, and a first point of it.
fn uploads() -> Result<Stage> {
    let stage = Stage::new()?.uploads()?;
    fs::write(stage.path("uploads/file"), "content")?;
    stage.begin()?;
    Ok(stage)
}

#[test]
fn every_mistake_in_the_settings_is_shown_with_its_line() -> Result<()> {
    let stage = Stage::new()?.uploads()?;
    let settings = fs::read_to_string(stage.path("windlass.toml"))?;
    fs::write(stage.path("windlass.toml"), format!("{settings}\nkindd = 1\n[policy.p]\nrpo = \"26\"\n"))?;
    for verb in [vec!["status"], vec!["doctor"], vec!["backup", "shop"]] {
        let ended = stage.windlass(&verb)?.with(2).says("`kindd`").says("stands without a unit").says("hint: ");
        let lines = settings.lines().count();
        assert!(ended.err.contains(&format!("windlass.toml:{}", lines + 2)), "{}", ended.err);
    }
    let json = stage.windlass(&["--output", "json", "status"])?.with(2).json();
    assert_eq!(json["error"]["details"].as_array().unwrap().len(), 2, "{json}");
    Ok(())
}

#[test]
fn a_rehearsal_never_leaves_its_scratch_server_whatever_the_environment_says() -> Result<()> {
    let stage = Stage::new()?;
    stage.server.psql("postgres", "create database shop");
    stage.server.psql("shop", "create table t as select n from generate_series(1, 100) n");
    let stage = stage.database("shop")?;
    stage.begin()?;
    stage.server.psql("postgres", "drop database shop");
    let socket = stage.server.socket().display().to_string();
    for (name, value) in [
        ("PGHOST", socket.as_str()),
        ("PGHOSTADDR", "127.0.0.1"),
        ("PGPORT", "1"),
        ("PGSERVICE", "none"),
        ("PGOPTIONS", "-c default_transaction_read_only=on"),
        ("PGTARGETSESSIONATTRS", "read-only"),
    ] {
        let mut drill = stage.command(&["--output", "json", "drill", "shop"]);
        let ended = drill.env(name, value).stderr(Stdio::null()).output()?;
        let record: serde_json::Value = serde_json::from_slice(&ended.stdout)?;
        assert_eq!(record["verdict"], "passed", "{name}: {record}");
        assert_eq!(stage.server.psql("postgres", "select count(*) from pg_database where datname = 'shop'"), "0");
    }
    // What this machine lacks says nothing of the point.
    let mut deep = stage.command(&["--output", "json", "verify", "shop", "--deep"]);
    let ended = deep.env("TMPDIR", "/nonexistent").stderr(Stdio::null()).output()?;
    let records: serde_json::Value = serde_json::from_slice(&ended.stdout)?;
    assert_eq!(records[0]["verdict"], "inconclusive", "{records}");
    Ok(())
}

#[test]
fn a_keyring_that_is_gone_is_put_back_from_the_kit_and_never_made_anew() -> Result<()> {
    let stage = uploads()?;
    let kit = stage.path("kit").display().to_string();
    stage.windlass(&["repo", "kit", "--file", &kit])?.with(0);
    fs::remove_dir_all(stage.path("repository/keys"))?;
    for verb in [vec!["repo", "init"], vec!["status"], vec!["backup", "shop"]] {
        stage.windlass(&verb)?.with(2).says("it is gone").says("keys restore");
    }
    let found = stage.windlass(&["--output", "json", "repo", "check"])?.with(1).json();
    assert_eq!(found[0]["kind"], "missing");
    assert_eq!(found.as_array().unwrap().len(), 1, "what is there is no stranger's: {found}");
    let other = uploads()?;
    other.windlass(&["repo", "keys", "restore", "--kit", &kit])?.with(2).says("the kit is that of the repository");
    stage.windlass(&["repo", "keys", "restore", "--kit", &kit])?.with(0);
    stage.windlass(&["backup", "shop"])?.with(0);
    stage.windlass(&["repo", "check", "--read-data"])?.with(0);
    Ok(())
}

#[test]
fn a_disk_that_is_not_mounted_gets_no_new_repository() -> Result<()> {
    let stage = uploads()?;
    fs::rename(stage.path("repository"), stage.path("unmounted"))?;
    for verb in [vec!["repo", "init"], vec!["status"], vec!["backup", "shop"]] {
        stage.windlass(&verb)?.with(2).says("now there is none").says("mounted");
    }
    assert!(!stage.path("repository").exists());
    fs::rename(stage.path("unmounted"), stage.path("repository"))?;
    stage.windlass(&["backup", "shop"])?.with(0);
    Ok(())
}

#[test]
fn what_cannot_be_printed_is_no_success_and_ends_no_backup() -> Result<()> {
    let stage = uploads()?;
    for verb in [vec!["repo", "kit"], vec!["--output", "json", "points", "shop"]] {
        let ended = stage.command(&verb).stdout(File::options().write(true).open("/dev/full")?).output()?;
        assert_eq!(ended.status.code(), Some(1), "{verb:?}");
    }
    // Whoever watched is gone, or cannot be told: the backup goes on.
    let ended = stage.command(&["backup", "shop"]).stderr(File::options().write(true).open("/dev/full")?).output()?;
    assert_eq!(ended.status.code(), Some(0));
    let points = stage.windlass(&["--output", "json", "points", "shop"])?.with(0).json();
    assert_eq!(points["points"].as_array().unwrap().len(), 2);
    Ok(())
}

#[test]
fn quiet_says_nothing_of_what_went_well() -> Result<()> {
    let stage = uploads()?;
    let into = format!("uploads={}", stage.path("back").display());
    for verb in [
        vec!["-q", "backup", "shop"],
        vec!["-q", "verify", "shop"],
        vec!["-q", "drill", "shop"],
        vec!["-q", "retention", "apply", "shop", "--yes"],
        vec!["-q", "restore", "shop", "--yes", "--into", &into],
    ] {
        let ended = stage.windlass(&verb)?.with(0);
        assert_eq!((ended.out.as_str(), ended.err.as_str()), ("", ""), "{verb:?}");
    }
    fs::remove_dir_all(stage.path("uploads"))?;
    assert!(!stage.windlass(&["-q", "backup", "shop"])?.with(2).err.is_empty());
    Ok(())
}

#[test]
fn doctor_opens_the_keyring() -> Result<()> {
    let stage = uploads()?;
    stage.windlass(&["doctor"])?.with(0);
    fs::write(stage.path("passphrase"), "wrong")?;
    let doctor = stage.windlass(&["doctor"])?.with(1);
    assert!(doctor.out.contains("the passphrase does not open it"), "{}", doctor.out);
    Ok(())
}

#[test]
fn what_a_command_said_is_on_the_screen_and_nowhere_in_the_repository() -> Result<()> {
    let stage = uploads()?;
    script(&stage.path("export"), "printf 'token=hush-hush \\033[2J\\n' >&2; exit 3")?;
    let action = format!("kind = \"action\"\nbackup = [\"{}\"]", stage.path("export").display());
    let stage = stage.component("index", &action)?;
    let ended = stage.windlass(&["backup", "shop"])?.with(1).says("token=hush-hush");
    assert!(!ended.err.contains('\u{1b}'), "nothing of it steers the terminal");
    // A restore that fails is on record, without what its command said.
    script(&stage.path("export"), "seq 10")?;
    script(&stage.path("import"), "printf 'token=hush-hush\\n' >&2; exit 3")?;
    let settings = fs::read_to_string(stage.path("windlass.toml"))?;
    let import = format!("{settings}restore = [\"{}\"]\n", stage.path("import").display());
    fs::write(stage.path("windlass.toml"), import)?;
    stage.windlass(&["backup", "shop"])?.with(0);
    stage.windlass(&["restore", "shop", "--into", "index=-", "--yes"])?.with(1).says("token=hush-hush");
    let objects = stage.objects();
    let recorded = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains("\"event\":\"restore\""));
    assert!(objects.iter().any(recorded), "the restore is on record");
    for object in objects {
        assert!(!String::from_utf8_lossy(&fs::read(&object)?).contains("hush-hush"), "{}", object.display());
    }
    Ok(())
}

#[test]
fn a_failed_after_hook_of_a_component_is_a_failure_also_where_the_capture_fails() -> Result<()> {
    let stage = Stage::new()?.uploads()?;
    let hooks = "hooks.after = [ { run = [\"false\"], timeout = \"5s\" } ]";
    fs::write(stage.path("uploads/file"), "content")?;
    let stage = stage.component("index", &format!("kind = \"action\"\nbackup = [\"seq\", \"10\"]\n{hooks}"))?;
    stage.windlass(&["repo", "init"])?.with(0);
    stage.windlass(&["backup", "shop"])?.with(1).says("index: after-hook");
    let settings = fs::read_to_string(stage.path("windlass.toml"))?;
    fs::write(stage.path("windlass.toml"), settings.replace("\"seq\", \"10\"", "\"false\""))?;
    stage.windlass(&["backup", "shop"])?.with(1).says("index: after-hook").says("index could not be captured");
    Ok(())
}

#[test]
fn a_plan_says_what_is_not_there_and_what_is_in_the_way() -> Result<()> {
    let stage = Stage::new()?.uploads()?;
    fs::write(stage.path("uploads/file"), "content")?;
    stage.server.psql("postgres", "create database shop");
    stage.server.psql("shop", "create table t as select n from generate_series(1, 100) n; create view v as select 1");
    let stage = stage.database("shop")?;
    stage.begin()?;
    let into = format!("db={}", stage.server.url("copy"));
    for only in ["db/shop/public.nope", "db/shop/nope.*", "db/shop/public.t,db/shop/public.tt"] {
        stage.windlass(&["restore", "shop", "--into", &into, "--plan", "--only", only])?.with(2).says("WDL-0266");
    }
    stage.windlass(&["restore", "shop", "--into", &into, "--plan", "--only", "db/shop/public.v"])?.with(0);
    stage.server.psql("postgres", "create database copy");
    stage.server.psql("copy", "create schema audit; create function audit.f() returns int language sql as 'select 1'");
    stage.windlass(&["restore", "shop", "--into", &into, "--plan"])?.with(2).says("is not empty");
    let files = |target: &str| format!("uploads={target}");
    let inside = files(&stage.path("repository/dumps/x").display().to_string());
    stage.windlass(&["restore", "shop", "--into", &inside, "--plan"])?.with(2).says("lies in the repository");
    stage.windlass(&["restore", "shop", "--into", &files("/etc/passwd"), "--plan"])?.with(2).says("is no folder");
    Ok(())
}

#[test]
fn a_database_left_by_a_restore_that_was_killed_is_called_so() -> Result<()> {
    let stage = Stage::new()?;
    stage.server.psql("postgres", "create database shop");
    stage.server.psql("shop", "create table t as select n from generate_series(1, 100) n");
    stage.server.psql("postgres", "comment on database shop is 'ours'");
    let stage = stage.database("shop")?;
    stage.begin()?;
    let into = format!("db={}", stage.server.url("copy"));
    stage.windlass(&["restore", "shop", "--into", &into, "--yes"])?.with(0);
    let comment = "select shobj_description(oid, 'pg_database') from pg_database where datname = 'copy'";
    assert_eq!(stage.server.psql("postgres", comment), "ours");
    stage.server.psql("postgres", "drop database copy; ");
    // Killed once the database is there: a trigger on nothing would be too quick, so the mark is set by hand.
    stage.server.psql("postgres", "create database copy");
    stage.server.psql("copy", "create table t (n int)");
    let mark = "windlass: a restore into this database has not come to its end";
    stage.server.psql("postgres", &format!("comment on database copy is '{mark}'"));
    stage.windlass(&["restore", "shop", "--into", &into, "--plan"])?.with(2).says("WDL-0267").says("dropdb");
    Ok(())
}

#[test]
fn a_host_that_opens_no_keyring_seals_to_nobody_new_and_deletes_nothing() -> Result<()> {
    let stage = Stage::new()?;
    let action = "kind = \"action\"\nbackup = [\"seq\", \"1000\"]";
    let stage =
        stage.component("index", action)?.application("policy = \"brief\"\n[policy.brief]\nretention = \"1s\"")?;
    let identity = windlass_testkit::process::run(&mut Command::new("age-keygen"))?;
    let recipient = identity.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
    let settings = fs::read_to_string(stage.path("windlass.toml"))?;
    let passphrase = format!("{{ passphrase = {{ file = \"{}\" }} }}", stage.path("passphrase").display());
    assert!(settings.contains(&passphrase));
    let sealed = settings.replace(&passphrase, &format!("{{ recipients = [\"{recipient}\"] }}"));
    fs::write(stage.path("windlass.toml"), sealed)?;
    stage.begin()?;
    stage.take()?;
    stage.windlass(&["retention", "apply", "shop", "--yes"])?.with(2).says("identity");

    // Somebody who may only write puts another keyring there, with a name that is newer than ours.
    let keys = stage.path("repository/keys/shop");
    let ours = fs::read_dir(&keys)?.next().unwrap()?.path();
    let other = windlass_testkit::process::run(&mut Command::new("age-keygen"))?;
    let other = other.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
    for (name, code) in [
        (format!("7ZZZZZZZZZZZZZZZZZZZZZZZZZ.{other}.age"), "WDL-1225"),
        (format!("7ZZZZZZZZZZZZZZZZZZZZZZZZZ.{recipient}.txt"), "WDL-"),
    ] {
        let planted = keys.join(name);
        fs::copy(&ours, &planted)?;
        let ended = stage.windlass(&["backup", "shop"])?.says(code);
        assert_ne!(ended.code, 0, "{}", ended.err);
        fs::remove_file(planted)?;
    }
    for object in stage.objects().iter().filter(|path| path.to_string_lossy().contains("/dumps/")) {
        assert!(object.to_string_lossy().ends_with(".age"), "{}", object.display());
    }
    stage.windlass(&["backup", "shop"])?.with(0);
    Ok(())
}

#[test]
fn json_is_had_of_every_verb_also_of_mistakes_in_the_arguments() -> Result<()> {
    let stage = uploads()?;
    for verb in [
        vec!["repo", "kit"],
        vec!["repo", "manual"],
        vec!["repo", "stats"],
        vec!["repo", "keys", "list"],
        vec!["doctor"],
    ] {
        let mut arguments = vec!["--output", "json"];
        arguments.extend(verb);
        stage.windlass(&arguments)?.with(0).json();
    }
    let ended = stage.windlass(&["--output", "json", "backup"])?.with(2).json();
    assert_eq!(ended["error"]["reason"], "Usage", "{ended}");
    Ok(())
}

#[test]
fn a_full_disk_fails_loudly_and_older_points_stay() -> Result<()> {
    let stage = uploads()?;
    fs::create_dir(stage.path("small"))?;
    // A disk of 8 MiB, in a namespace of its own, which ends with the script.
    let script = format!(
        "set -e; cd {0}; mount -t tmpfs -o size=8m tmpfs small; cp -r repository small/full; sed -i 's|/repository\"|/small/full\"|' windlass.toml
         rm -r state/repositories; head -c 30000000 /dev/urandom > uploads/big
         code=0; {1} --config windlass.toml backup shop || code=$?; test $code = 1
         rm uploads/big; {1} --config windlass.toml repo check --read-data; {1} --config windlass.toml verify shop
         {1} --config windlass.toml restore shop --yes --into uploads={0}/back",
        stage.path("").display(),
        env!("CARGO_BIN_EXE_windlass")
    );
    let ended = with_mounts_of_its_own().args(["sh", "-c", &script]).output()?;
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.contains("No space left on device"), "{said}");
    assert_eq!(fs::read_to_string(stage.path("back/file"))?, "content");
    Ok(())
}
