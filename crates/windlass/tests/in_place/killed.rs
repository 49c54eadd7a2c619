//! A restore in place, and its undo, killed at every moment: the same command finishes, or `windlass undo` puts back.

use std::os::unix::process::ExitStatusExt;

use anyhow::Result;
use windlass_testkit::tree;

use crate::stage::{RESTORE, newest};
use crate::story::{Stage, script};

/// A small application: what is killed often must be quick.
fn small_stage() -> Result<Stage> {
    let stage = Stage::new()?;
    stage.server.psql("postgres", "create database shop");
    stage.server.psql("shop", "create table t (n int primary key); insert into t select generate_series(1, 100)");
    let up = stage.path("up");
    std::fs::write(&up, "")?;
    script(&stage.path("stop"), &format!("rm -f {}", up.display()))?;
    script(&stage.path("start"), &format!("touch {}", up.display()))?;
    let root = stage.path("");
    let root = root.display().to_string();
    let root = root.trim_end_matches('/');
    let control = format!("control = {{ stop = [\"{root}/stop\"], start = [\"{root}/start\"] }}");
    let stage = stage.application(&control)?.database("shop")?.uploads()?;
    let uploads = stage.path("uploads");
    std::fs::create_dir_all(uploads.join("folder"))?;
    std::fs::write(uploads.join("one"), "1")?;
    std::fs::write(uploads.join("folder/two"), "2")?;
    stage.begin()?;
    stage.server.psql("shop", "delete from t where n > 50; create table since (n int)");
    std::fs::write(uploads.join("one"), "one, changed")?;
    std::fs::write(uploads.join("three"), "since")?;
    std::fs::remove_dir_all(uploads.join("folder"))?;
    std::fs::create_dir(uploads.join("another folder"))?;
    Ok(stage)
}

/// Rows and files, as an application sees them.
fn seen(stage: &Stage) -> Result<String> {
    let files = tree::describe(&stage.path("uploads"))?;
    let files: Vec<&str> = files.lines().filter(|line| !line.starts_with("\".windlass-")).collect();
    let rows =
        stage.server.psql("shop", "select count(*) || ' ' || coalesce(to_regclass('since')::text, 'no since') from t");
    Ok(format!("{rows}\nup: {}\n{}", stage.path("up").exists(), files.join("\n")))
}

fn left_over(stage: &Stage) -> Result<String> {
    let databases = stage.server.psql(
        "postgres",
        "select coalesce(string_agg(datname, ' '), '') from pg_database where datname like 'windlass\\_%'",
    );
    let entries = stage.path("uploads").read_dir()?.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let stages: Vec<String> = entries.filter(|name| name.starts_with(".windlass-")).collect();
    Ok(databases + &stages.join(" "))
}

/// Runs a command that dies at a moment. Whether it did.
fn dies(stage: &Stage, moment: u32, arguments: &[&str]) -> Result<bool> {
    let output = stage.command(arguments).env("WINDLASS_DIE_AT", moment.to_string()).output()?;
    let killed = output.status.signal() == Some(9);
    assert!(killed || output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(killed)
}

/// A stage, and what is seen on it before a restore and after one.
fn stage_before_and_then() -> Result<(Stage, String, String)> {
    let stage = small_stage()?;
    let before = seen(&stage)?;
    stage.windlass(&RESTORE)?.with(0);
    let then = seen(&stage)?;
    assert_ne!(then, before);
    let (id, _) = newest(&stage)?;
    stage.windlass(&["undo", &id, "--yes"])?.with(0);
    stage.windlass(&["undo", &id, "--forget", "--yes"])?.with(0);
    tree::assert_same(&seen(&stage)?, &before);
    Ok((stage, before, then))
}

/// Undoes a restore, killed at a moment on the way where it comes that far.
fn undone_though_killed(stage: &Stage, id: &str, moment: u32) -> Result<()> {
    dies(stage, moment, &["undo", id, "--yes"])?;
    if !["put-back", "undone"].contains(&newest(stage)?.1.as_str()) {
        stage.windlass(&["undo", id, "--yes"])?.with(0);
    }
    Ok(())
}

fn nothing_is_left(stage: &Stage, id: &str) -> Result<()> {
    if newest(stage)?.1 == "undone" {
        stage.windlass(&["undo", id, "--forget", "--yes"])?.with(0);
    }
    assert_eq!(left_over(stage)?, "");
    Ok(())
}

#[test]
fn killed_at_any_moment_the_same_command_finishes_it() -> Result<()> {
    let (stage, before, then) = stage_before_and_then()?;
    let mut killed = 0;
    for moment in 1.. {
        if !dies(&stage, moment, &RESTORE)? {
            break;
        }
        let (_, state) = newest(&stage)?;
        eprintln!("killed at {moment}: {state}");
        if state != "restored" {
            stage.windlass(&RESTORE)?.with(0);
        }
        tree::assert_same(&seen(&stage)?, &then);
        let (id, state) = newest(&stage)?;
        assert_eq!(state, "restored");
        // The undo has moments of its own; each of them is some restore's turn.
        undone_though_killed(&stage, &id, moment)?;
        tree::assert_same(&seen(&stage)?, &before);
        nothing_is_left(&stage, &id)?;
        killed = moment;
    }
    assert!(killed > 30, "it was killed at {killed} moments only");
    Ok(())
}

#[test]
fn until_it_is_settled_nothing_else_is_done_with_the_application() -> Result<()> {
    let (stage, before, _) = stage_before_and_then()?;
    assert!(dies(&stage, 12, &RESTORE)?);
    let (id, _) = newest(&stage)?;
    // Half of each is what a backup would take; and another restore is another wish.
    stage.windlass(&["backup", "shop"])?.with(2).says(&id).says("windlass undo");
    let other = stage.windlass(&["restore", "shop", "--in-place", "--only", "uploads", "--yes"])?.with(2);
    other.says(&id).says("windlass undo");
    stage.windlass(&["status", "shop"])?.says(&id);
    stage.windlass(&["undo", &id, "--yes"])?.with(0);
    tree::assert_same(&seen(&stage)?, &before);
    stage.windlass(&["backup", "shop"])?.with(0);
    Ok(())
}

#[test]
fn killed_at_any_moment_what_was_there_is_put_back() -> Result<()> {
    let (stage, before, _) = stage_before_and_then()?;
    let mut killed = 0;
    for moment in 1.. {
        if !dies(&stage, moment, &RESTORE)? {
            break;
        }
        let (id, state) = newest(&stage)?;
        eprintln!("killed at {moment}: {id} is {state}");
        if ["running", "restored"].contains(&state.as_str()) {
            undone_though_killed(&stage, &id, moment / 2)?;
        }
        tree::assert_same(&seen(&stage)?, &before);
        nothing_is_left(&stage, &id)?;
        killed = moment;
    }
    assert!(killed > 30, "it was killed at {killed} moments only");
    Ok(())
}
