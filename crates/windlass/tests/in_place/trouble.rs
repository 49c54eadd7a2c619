//! Restores in place that meet what nobody planned: a reboot, somebody else, another server, an application that does not
//! stop or start.

use std::os::unix::process::ExitStatusExt;

use anyhow::Result;
use serde_json::Value;
use windlass_testkit::postgres::PgCluster;

use crate::stage::{RESTORE, killed, newest, private, stages};
use crate::story::{Stage, script, wait_until};

/// A database of a hundred rows and a folder of two files, of which a point was taken; since then both have changed. What
/// stops and starts the application says so in `said`.
fn changed_stage() -> Result<Stage> {
    let stage = Stage::new()?;
    stage.server.psql("postgres", "create database shop");
    stage.server.psql("shop", "create table t (n int primary key); insert into t select generate_series(1, 100)");
    for verb in ["stop", "start"] {
        script(&stage.path(verb), &format!("echo {verb} >> {}", stage.path("said").display()))?;
    }
    let (stop, start) = (stage.path("stop"), stage.path("start"));
    let stage = stage.application(&format!(
        "control = {{ stop = [\"{}\"], start = [\"{}\"] }}",
        stop.display(),
        start.display()
    ))?;
    let stage = stage.database("shop")?.uploads()?;
    let uploads = stage.path("uploads");
    std::fs::write(uploads.join("one"), "1")?;
    std::fs::create_dir(uploads.join("folder"))?;
    std::fs::write(uploads.join("folder/two"), "2")?;
    stage.begin()?;
    stage.server.psql("shop", "insert into t values (0)");
    std::fs::write(uploads.join("one"), "one, changed")?;
    Ok(stage)
}

/// Rows and a file, by which then, now and neither are told apart.
fn seen(stage: &Stage) -> (String, String) {
    let file = std::fs::read_to_string(stage.path("uploads/one")).unwrap_or_else(|_| "not there".into());
    (stage.server.psql("shop", "select count(*) from t"), file)
}

fn then() -> (String, String) {
    ("100".into(), "1".into())
}

fn now() -> (String, String) {
    ("101".into(), "one, changed".into())
}

/// What the application was told so far, in words.
fn said(stage: &Stage) -> String {
    std::fs::read_to_string(stage.path("said")).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn what_a_reboot_has_started_is_stopped_again() -> Result<()> {
    let stage = changed_stage()?;
    killed(&stage, "after Fence(2)", &RESTORE)?;
    assert_eq!(said(&stage), "stop");
    stage.windlass(&RESTORE)?.with(0);
    assert_eq!((seen(&stage), said(&stage).as_str()), (then(), "stop stop start"));
    let (id, _) = newest(&stage)?;
    killed(&stage, "before back Switch(2)", &["undo", &id, "--yes"])?;
    stage.windlass(&["undo", &id, "--yes"])?.with(0);
    assert_eq!((seen(&stage), said(&stage).as_str()), (now(), "stop stop start stop stop start"));

    // Nothing had been stopped, so nothing is.
    killed(&stage, "before Stop", &RESTORE)?;
    let (id, _) = newest(&stage)?;
    stage.windlass(&["undo", &id, "--yes"])?.with(0);
    assert_eq!(said(&stage), "stop stop start stop stop start start");
    Ok(())
}

#[test]
fn an_application_that_cannot_be_stopped_again_is_said_to_be_stopped() -> Result<()> {
    let stage = changed_stage()?;
    killed(&stage, "after Fence(2)", &RESTORE)?;
    script(&stage.path("stop"), "echo it is not running; exit 4")?;
    let refused = stage.windlass(&RESTORE)?.with(1);
    refused.says("stopped half-way").says("add `--stopped`").says("windlass undo");
    assert_eq!(newest(&stage)?.1, "running", "it can be finished still");
    stage.windlass(&[&RESTORE[..], &["--stopped"]].concat())?.with(0);
    assert_eq!(seen(&stage), then());
    let (id, _) = newest(&stage)?;
    stage.windlass(&["undo", &id, "--yes"])?.with(1).says("add `--stopped`");
    stage.windlass(&["undo", &id, "--yes", "--stopped"])?.with(0);
    assert_eq!(seen(&stage), now());
    Ok(())
}

#[test]
fn an_application_that_does_not_start_keeps_nobody_from_the_next_restore() -> Result<()> {
    let stage = changed_stage()?;
    let start = std::fs::read_to_string(stage.path("start"))?;
    killed(&stage, "after Switch(2)", &RESTORE)?;
    script(&stage.path("start"), "echo broken; exit 3")?;
    let (id, _) = newest(&stage)?;
    let undone = stage.windlass(&["--output", "json", "undo", &id, "--yes"])?.with(1);
    assert_eq!(undone.json()["state"], "put-back", "{}", undone.out);
    undone.says("is back").says("not proven to work").says("exit status: 3");
    assert_eq!((seen(&stage), private(&stage).as_str()), (now(), ""));
    std::fs::write(stage.path("start"), start)?;
    stage.windlass(&RESTORE)?.with(0);
    assert_eq!(seen(&stage), then());
    Ok(())
}

#[test]
fn a_database_that_somebody_made_meanwhile_is_kept() -> Result<()> {
    let stage = changed_stage()?;
    killed(&stage, "after Fence(2)", &RESTORE)?;
    stage.server.psql("postgres", "create database shop");
    stage.server.psql("shop", "create table theirs (n int); insert into theirs values (7)");
    let (id, _) = newest(&stage)?;
    // It is not replaced: the plan knew another one.
    let ended = stage.windlass(&RESTORE)?.with(1).says("somebody made a database of that name meanwhile");
    ended.says("is kept as windlass_").says("was put back");
    assert_eq!(seen(&stage), now());
    let kept = private(&stage);
    assert_eq!(stage.server.psql(&kept, "select n from theirs"), "7");
    // Nor is it dropped with what the restore kept: it is none of the restore's.
    stage.windlass(&["undo", &id, "--forget", "--yes"])?.with(0).says("left alone");
    assert_eq!(private(&stage), kept);
    Ok(())
}

#[test]
fn what_is_written_while_a_restore_is_put_back_is_kept() -> Result<()> {
    let stage = changed_stage()?;
    killed(&stage, "after PutIn(1)", &RESTORE)?;
    // It was not stopped, whatever its command said.
    std::fs::write(stage.path("uploads/made meanwhile"), "mine")?;
    // What is moved in may be older than the restore; and not all that is written are rows.
    std::fs::rename(stage.path("start"), stage.path("uploads/moved in"))?;
    std::fs::copy(stage.path("uploads/moved in"), stage.path("start"))?;
    stage.server.psql("shop", "select lo_from_bytea(0, 'mine')");
    let (id, _) = newest(&stage)?;
    let undone = stage.windlass(&["undo", &id, "--yes"])?.with(0);
    undone.says("2 entries were made or changed meanwhile").says("was written to after it had been restored");
    assert_eq!(seen(&stage), now());
    let kept = stages(&stage)?;
    assert_eq!(std::fs::read_to_string(kept[0].join("undone/made meanwhile"))?, "mine");
    assert!(kept[0].join("undone/moved in").exists());
    assert_eq!(stage.server.psql(&private(&stage), "select count(*) from pg_largeobject_metadata"), "1");
    stage.windlass(&RESTORE)?.with(0);
    stage.windlass(&["undo", &id, "--forget", "--yes"])?.with(0);
    assert!(!kept[0].exists());
    Ok(())
}

#[test]
fn what_is_made_anew_under_a_name_in_use_is_kept_beside_it() -> Result<()> {
    let stage = changed_stage()?;
    killed(&stage, "after TakeOut(1)", &RESTORE)?;
    // The task is done again, as if it had been killed in it, and something runs that should not.
    let (id, _) = newest(&stage)?;
    let journal = stage.path(&format!("state/restores/{id}.json"));
    let mut text: Value = serde_json::from_slice(&std::fs::read(&journal)?)?;
    for task in text["tasks"].as_array_mut().unwrap() {
        if task["task"] == "take-out" {
            task["done"] = Value::Null;
        }
    }
    std::fs::write(&journal, serde_json::to_vec(&text)?)?;
    std::fs::write(stage.path("uploads/one"), "made anew")?;
    stage.windlass(&RESTORE)?.with(0).says("was made anew meanwhile, and is kept as `one~1`");
    assert_eq!(seen(&stage), then());
    stage.windlass(&["undo", &id, "--yes"])?.with(0);
    assert_eq!(seen(&stage), now());
    assert_eq!(std::fs::read_to_string(stage.path("uploads/one~1"))?, "made anew");
    Ok(())
}

#[test]
fn what_somebody_put_in_the_place_of_our_folder_is_not_used() -> Result<()> {
    let stage = changed_stage()?;
    killed(&stage, "before LayDown(1)", &RESTORE)?;
    let (id, _) = newest(&stage)?;
    let ours = stage.path("uploads").join(format!(".windlass-{}", id.to_lowercase()));
    let victim = stage.path("victim");
    std::fs::create_dir_all(victim.join("in"))?;
    std::fs::write(victim.join("in/precious"), "mine")?;
    std::os::unix::fs::symlink(&victim, &ours)?;
    stage.windlass(&RESTORE)?.with(1).says("could not be put back");
    assert_eq!(std::fs::read_to_string(victim.join("in/precious"))?, "mine");
    assert_eq!(victim.read_dir()?.count(), 1);
    std::fs::remove_file(&ours)?;
    stage.windlass(&["undo", &id, "--yes"])?.with(0);
    assert_eq!(seen(&stage), now());
    Ok(())
}

#[test]
fn at_another_server_nothing_is_looked_for() -> Result<()> {
    let stage = changed_stage()?;
    killed(&stage, "after Fence(2)", &RESTORE)?;
    let other = PgCluster::start()?;
    other.psql("postgres", "create database shop");
    let settings = std::fs::read_to_string(stage.path("windlass.toml"))?;
    let elsewhere = settings.replace(&stage.server.url("shop"), &other.url("shop"));
    assert_ne!(elsewhere, settings);
    std::fs::write(stage.path("windlass.toml"), elsewhere)?;
    let (id, _) = newest(&stage)?;
    stage.windlass(&RESTORE)?.with(2).says("is not the one it was begun at").says("put the former `url` back");
    stage.windlass(&["undo", &id, "--yes"])?.with(2).says("is not the one it was begun at");
    std::fs::write(stage.path("windlass.toml"), settings)?;
    stage.windlass(&["undo", &id, "--yes"])?.with(0);
    assert_eq!(seen(&stage), now());
    Ok(())
}

#[test]
fn a_restore_that_nothing_can_finish_is_given_up() -> Result<()> {
    let stage = changed_stage()?;
    killed(&stage, "after Fence(2)", &RESTORE)?;
    let (id, _) = newest(&stage)?;
    // Somebody drops what was set aside.
    stage.server.psql("postgres", &format!("drop database {}", private(&stage)));
    stage.windlass(&["undo", &id, "--yes"])?.with(1).says("is not there any more").says("--abandon");
    stage.windlass(&RESTORE)?.with(1);
    let given_up = stage.windlass(&["undo", &id, "--abandon", "--yes"])?.with(0);
    given_up.says("as it was before").says("is given up");
    assert_eq!(newest(&stage)?.1, "abandoned");
    stage.windlass(&["undo", &id, "--abandon", "--yes"])?.with(2);
    stage.windlass(&RESTORE)?.with(0);
    assert_eq!(seen(&stage), then());
    Ok(())
}

#[test]
fn a_removal_that_was_killed_is_no_undo() -> Result<()> {
    let stage = changed_stage()?;
    for moment in 1.. {
        stage.windlass(&RESTORE)?.with(0);
        let (id, _) = newest(&stage)?;
        let forget = ["undo", &id, "--forget", "--yes"];
        let output = stage.command(&forget).env("WINDLASS_DIE_AT", moment.to_string()).output()?;
        let was_killed = output.status.signal() == Some(9);
        match newest(&stage)?.1.as_str() {
            "restored" => assert!(was_killed),
            "removing" => {
                stage.windlass(&["undo", &id, "--yes"])?.with(2).says("interrupted while what it kept was removed");
            }
            state => assert_eq!(state, "over"),
        }
        if newest(&stage)?.1 != "over" {
            stage.windlass(&forget)?.with(0);
        }
        assert_eq!((private(&stage).as_str(), stages(&stage)?.len()), ("", 0));
        assert_eq!(seen(&stage), then());
        if !was_killed {
            assert!(moment > 3, "it was killed at {moment} moments only");
            break;
        }
    }
    Ok(())
}

#[test]
fn a_journal_that_cannot_be_read_is_no_reason_to_begin_another() -> Result<()> {
    let stage = changed_stage()?;
    let restores = stage.path("state/restores");
    std::fs::create_dir_all(&restores)?;
    std::fs::write(restores.join("torn.json"), "{ \"format\": 1,")?;
    let refused = stage.windlass(&RESTORE)?.with(2);
    refused.says("WDL-3028").says("torn.json").says("move the file away");
    assert_eq!(seen(&stage), now());
    Ok(())
}

#[test]
fn an_undo_that_could_not_be_ended_is_not_begun() -> Result<()> {
    let stage = changed_stage()?;
    stage.windlass(&RESTORE)?.with(0);
    let (id, _) = newest(&stage)?;
    let out = stages(&stage)?[0].join("out");
    std::fs::rename(&out, stage.path("out"))?;
    stage.windlass(&["undo", &id, "--yes"])?.with(2).says("is not there any more").says("/out");
    std::fs::rename(stage.path("out"), &out)?;
    std::fs::rename(out.join("one"), stage.path("one"))?;
    stage.windlass(&["undo", &id, "--plan"])?.with(2).says("1 of the entries that were set aside are not there");
    std::fs::rename(stage.path("one"), out.join("one"))?;
    let old = private(&stage);
    stage.server.psql("postgres", &format!("drop database {old}"));
    stage.windlass(&["undo", &id, "--yes"])?.with(2).says(&old).says("is not there any more");
    assert_eq!((seen(&stage), said(&stage).as_str()), (then(), "stop start"));
    stage.windlass(&["undo", &id, "--forget", "--yes"])?.with(0);
    Ok(())
}

#[test]
fn what_a_killed_restore_left_in_the_server_is_ended_first() -> Result<()> {
    let stage = changed_stage()?;
    killed(&stage, "after Fence(2)", &RESTORE)?;
    let (id, _) = newest(&stage)?;
    let mut left = std::process::Command::new(windlass_testkit::postgres::bin()?.join("psql"))
        .args([
            "-X",
            "-h",
            &stage.server.socket().display().to_string(),
            "-U",
            "postgres",
            "-c",
            "select pg_sleep(600)",
        ])
        .env("PGAPPNAME", format!("windlass {id}"))
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let asked = "select count(*) from pg_stat_activity where query = 'select pg_sleep(600)' and state = 'active'";
    wait_until("it is at work", || stage.server.psql("postgres", asked) == "1");
    stage.windlass(&RESTORE)?.with(0);
    assert!(!left.wait()?.success(), "its session was ended");
    Ok(())
}

#[test]
fn an_application_that_nothing_stops_any_more_is_not_thought_to_be_stopped() -> Result<()> {
    let stage = changed_stage()?;
    killed(&stage, "after Fence(2)", &RESTORE)?;
    let settings = std::fs::read_to_string(stage.path("windlass.toml"))?;
    let without: Vec<&str> = settings.lines().filter(|line| !line.starts_with("control")).collect();
    std::fs::write(stage.path("windlass.toml"), without.join("\n"))?;
    stage.windlass(&RESTORE)?.with(1).says("have no `control` any more").says("--stopped");
    let (id, _) = newest(&stage)?;
    stage.windlass(&["undo", &id, "--yes", "--stopped"])?.with(0);
    assert_eq!((seen(&stage), said(&stage).as_str()), (now(), "stop"));
    Ok(())
}

#[test]
fn who_may_see_what_is_restored_is_as_it_was() -> Result<()> {
    let stage = changed_stage()?;
    // Whatever is made in the folder from now on may be read by user 1234, by its default list
    // (<https://man7.org/linux/man-pages/man5/acl.5.html>).
    let entries: [(u16, u16, u32); 5] = [(0x01, 7, !0), (0x02, 4, 1234), (0x04, 5, !0), (0x10, 5, !0), (0x20, 0, !0)];
    let mut list = 2u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(rights.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    let uploads = stage.path("uploads");
    if let Err(error) =
        rustix::fs::setxattr(&uploads, "system.posix_acl_default", &list, rustix::fs::XattrFlags::empty())
    {
        eprintln!("not tried: this file system has no access lists: {error}");
        return Ok(());
    }
    stage.windlass(&RESTORE)?.with(0);
    assert_eq!(seen(&stage), then());
    let has_a_list =
        |path: &str| rustix::fs::getxattr(uploads.join(path), "system.posix_acl_access", &mut [0u8; 256]).is_ok();
    assert!(!has_a_list("one") && !has_a_list("folder") && !has_a_list("folder/two"));
    Ok(())
}

#[test]
fn what_the_application_is_started_as_goes_on() -> Result<()> {
    let stage = changed_stage()?;
    let pid = stage.path("pid");
    script(&stage.path("start"), &format!("sleep 300 > /dev/null 2>&1 &\necho $! > {}", pid.display()))?;
    stage.windlass(&RESTORE)?.with(0);
    let started = std::fs::read_to_string(&pid)?.trim().to_owned();
    let runs = || std::fs::read_to_string(format!("/proc/{started}/comm")).is_ok_and(|name| name.trim() == "sleep");
    assert!(runs());
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(runs(), "it is not ended with the command that started it");
    std::process::Command::new("kill").arg(&started).status()?;
    Ok(())
}

#[test]
fn folders_may_be_deep() -> Result<()> {
    use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
    let stage = changed_stage()?;
    let mut folder = open(stage.path("uploads"), OFlags::DIRECTORY, Mode::empty())?;
    for _ in 0..900 {
        mkdirat(&folder, "d", Mode::RWXU)?;
        folder = openat(&folder, "d", OFlags::DIRECTORY, Mode::empty())?;
    }
    stage.windlass(&["restore", "shop", "--in-place", "--plan"])?.with(0);
    stage.windlass(&RESTORE)?.with(0);
    assert!(!stage.path("uploads/d").exists());
    let (id, _) = newest(&stage)?;
    stage.windlass(&["undo", &id, "--yes"])?.with(0);
    assert_eq!(stage.path("uploads").join("d/".repeat(900)).read_dir()?.count(), 0);
    Ok(())
}
