//! Restores in place that meet what nobody planned: a reboot, somebody else, another server, an application that does not
//! stop or start.

use std::os::unix::process::ExitStatusExt;

use anyhow::Result;
use serde_json::Value;
use windlass_testkit::postgres::PgCluster;

use crate::stage::{RESTORE, killed, newest, private, stages};
use crate::story::{Stage, script};

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
    stage.server.psql("shop", "insert into t values (-1), (-2)");
    let (id, _) = newest(&stage)?;
    let undone = stage.windlass(&["undo", &id, "--yes"])?.with(0);
    undone.says("made or changed meanwhile").says("was written to after it had been restored");
    assert_eq!(seen(&stage), now());
    let kept = stages(&stage)?;
    assert_eq!(std::fs::read_to_string(kept[0].join("undone/made meanwhile"))?, "mine");
    assert_eq!(stage.server.psql(&private(&stage), "select count(*) from t"), "102");
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
