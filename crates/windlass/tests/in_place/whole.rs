//! A whole application, from the plan to the end of the undo.

use anyhow::Result;
use serde_json::Value;

use crate::stage::{Described, live_on, private, restored, running_stage};
use crate::story::{Stage, script, wait_until};

#[test]
fn everything_comes_back_where_it_was_and_the_undo_is_as_exact() -> Result<()> {
    let stage = running_stage()?;
    let then = Described::now(&stage)?;
    stage.begin()?;
    live_on(&stage)?;
    let before = Described::now(&stage)?;

    let done = restored(&stage, &[])?;
    Described::now(&stage)?.assert_is(&then);
    assert!(stage.path("up").exists(), "it was started again");
    let id = done["restore"].as_str().unwrap();
    assert!(done["undo_until"].as_str().is_some());

    stage.server.psql(
        "shop",
        "create table made_after_the_restore (n int); insert into made_after_the_restore values (1), (2), (3)",
    );
    std::fs::write(stage.path("uploads").join("made after the restore"), "new")?;
    let plan = stage.windlass(&["--output", "json", "undo", id, "--plan"])?.with(0).json();
    assert_eq!(plan["impact"]["databases"][0]["rows_written"], 3, "{plan}");
    assert_eq!(plan["impact"]["entries_changed"], 2, "the file, and the folder it is in: {plan}");
    stage.windlass(&["undo", id, "--yes"])?.with(0).says("is back");
    Described::now(&stage)?.assert_is(&before);
    assert!(stage.path("up").exists());
    stage.windlass(&["undo", id, "--yes"])?.with(2).says("it is undone");

    assert!(private(&stage).contains("_undone"), "what was restored is kept");
    stage.windlass(&["undo", id, "--forget", "--yes"])?.with(0);
    assert_eq!(private(&stage), "");
    assert!(
        !stage.path("uploads").read_dir()?.flatten().any(|e| e.file_name().to_string_lossy().starts_with(".windlass-"))
    );
    Described::now(&stage)?.assert_is(&before);
    Ok(())
}

#[test]
fn the_plan_is_the_preview_and_its_digest_is_what_runs() -> Result<()> {
    let stage = running_stage()?;
    let point = stage.begin()?;
    live_on(&stage)?;
    let before = Described::now(&stage)?;
    let plan = stage.windlass(&["--output", "json", "restore", "shop", "--in-place", "--plan"])?.with(0).json();
    assert_eq!(plan["plan"]["point"], point.as_str());
    let steps: Vec<&str> =
        plan["plan"]["steps"].as_array().unwrap().iter().map(|s| s["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["stop", "replace-files", "replace-database", "start"]);
    let tables = plan["impact"]["databases"][0]["tables"].as_array().unwrap();
    let of = |name: &str| tables.iter().find(|t| t["table"] == name).unwrap_or_else(|| panic!("{name}: {tables:?}"));
    assert_eq!((&of("orders")["rows_then"], &of("orders")["exact"]), (&Value::from(3000), &Value::from(true)));
    assert!(of("orders")["rows_now"].as_u64().unwrap() < 3000);
    assert_eq!((&of("made_since")["rows_now"], &of("made_since")["rows_then"]), (&Value::from(2), &Value::Null));
    let files = &plan["impact"]["files"][0];
    let (created, changed, deleted) = (&files["created"], &files["changed"], &files["deleted"]);
    assert_eq!((created, deleted), (&Value::from(3), &Value::from(4)), "{files}");
    assert!(changed.as_u64().unwrap() >= 1);
    let list = std::fs::read_to_string(files["diff"].as_str().unwrap())?;
    for line in ["- ", "+ ", "~ "] {
        assert!(list.lines().any(|l| l.starts_with(line)), "{list}");
    }
    assert!(list.contains("uploads/folder made since/deep/file") && list.contains("a/b/c/deep"), "{list}");
    assert!(files["needed_bytes"].as_u64() > Some(50 << 20) && files["free_bytes"].as_u64() > Some(0));
    assert!(plan["impact"]["databases"][0]["free_bytes"].as_u64() > Some(0), "the server is on this machine");
    Described::now(&stage)?.assert_is(&before);
    assert_eq!(private(&stage), "");

    let shown = stage.windlass(&["restore", "shop", "--in-place"])?.with(2).says("nothing was confirmed").out;
    for words in [
        "IN PLACE",
        "stop the application",
        "rows now, 3000 then",
        "2 rows now, not there then",
        "deleted",
        "data lost: what was written",
        "needed",
        "windlass undo",
    ] {
        assert!(shown.contains(words), "`{words}` is not in\n{shown}");
    }
    // Another database took its name meanwhile: what was confirmed is not what would be done.
    let digest = plan["digest"].as_str().unwrap();
    stage.server.psql("postgres", "alter database shop rename to shop_aside");
    stage.server.psql("postgres", "create database shop");
    stage.windlass(&["restore", "shop", "--in-place", "--confirm", digest])?.with(2).says("the world has changed");
    stage.server.psql("postgres", "drop database shop");
    stage.server.psql("postgres", "alter database shop_aside rename to shop");
    stage.windlass(&["restore", "shop", "--in-place", "--confirm", digest])?.with(0);
    Ok(())
}

#[test]
fn a_restore_that_fails_puts_back_what_was_there_and_is_in_nobodys_way() -> Result<()> {
    let stage = running_stage()?;
    stage.begin()?;
    live_on(&stage)?;
    let before = Described::now(&stage)?;
    let settings = std::fs::read_to_string(stage.path("windlass.toml"))?;
    let wrong = settings.replace("count(*) = 3000", "count(*) = 1");
    std::fs::write(stage.path("windlass.toml"), wrong)?;
    let ended = stage.windlass(&["restore", "shop", "--in-place", "--yes"])?.with(1);
    ended.says("gave f instead of true").says("was put back").says("the next restore can be begun");
    Described::now(&stage)?.assert_is(&before);
    assert!(stage.path("up").exists(), "it was started again");
    assert_eq!(private(&stage), "");
    stage.server.psql("shop", "select 1");
    std::fs::write(stage.path("windlass.toml"), settings)?;
    restored(&stage, &[])?;
    Ok(())
}

#[test]
fn what_is_restored_and_does_not_start_is_no_success_and_can_be_undone() -> Result<()> {
    let stage = running_stage()?;
    stage.begin()?;
    live_on(&stage)?;
    let before = Described::now(&stage)?;
    let start = std::fs::read_to_string(stage.path("start"))?;
    script(&stage.path("start"), "exit 7")?;
    let ended = stage.windlass(&["restore", "shop", "--in-place", "--yes"])?.with(1);
    let hint = ended.err.split("`windlass undo ").nth(1).unwrap().split('`').next().unwrap().to_owned();
    ended.says("is not proven to work").says("exit status: 7");
    std::fs::write(stage.path("start"), start)?;
    std::fs::write(stage.path("up"), "")?;
    stage.windlass(&["undo", &hint, "--yes"])?.with(0);
    Described::now(&stage)?.assert_is(&before);
    Ok(())
}

#[test]
fn what_is_kept_goes_when_its_grace_has_ended_and_not_before() -> Result<()> {
    let stage = Stage::new()?.application("undo = \"4s\"")?.uploads()?;
    std::fs::write(stage.path("uploads/file"), "then")?;
    stage.server.psql("postgres", "create database shop");
    let stage = stage.database("shop")?;
    stage.server.psql("shop", "create table t (n int)");
    stage.begin()?;
    std::fs::write(stage.path("uploads/file"), "since")?;
    let began = std::time::Instant::now();
    let done = restored(&stage, &[])?;
    let id = done["restore"].as_str().unwrap();
    let kept = || !private(&stage).is_empty();
    stage.take()?;
    assert!(kept() || began.elapsed().as_secs() >= 4);
    std::thread::sleep(std::time::Duration::from_secs(5));
    let point = stage.take()?;
    assert!(!kept() && stage.path("uploads").read_dir()?.count() == 1);
    stage.windlass(&["undo", id, "--yes"])?.with(2).says("it is over");
    // What was kept was never part of a point.
    let points = stage.windlass(&["--output", "json", "points", "shop"])?.with(0).json();
    let newest = points["points"].as_array().unwrap().iter().find(|p| p["id"] == point.as_str()).unwrap().clone();
    assert_eq!(newest["complete"], true, "{newest}");
    Ok(())
}

#[test]
fn commands_cannot_be_undone_and_are_run_only_with_consent() -> Result<()> {
    let stage = Stage::new()?.uploads()?;
    std::fs::write(stage.path("uploads/file"), "then")?;
    script(&stage.path("import"), &format!("cat > {}", stage.path("imported").display()))?;
    let action = format!("kind = \"action\"\nbackup = [\"echo\", \"index\"]\nrestore = [{:?}]", stage.path("import"));
    let stage = stage.component("index", &action)?;
    stage.begin()?;
    stage.windlass(&["restore", "shop", "--in-place", "--plan"])?.with(2).says("WDL-0272").says("--without-undo");
    let done = restored(&stage, &["--without-undo"])?;
    assert_eq!(std::fs::read_to_string(stage.path("imported"))?, "index\n");
    assert!(done["plan"]["warnings"].to_string().contains("index: what is there now is not kept"), "{done}");
    restored(&stage, &["--only", "uploads"])?;
    Ok(())
}

#[test]
fn checks_ask_the_application_and_name_the_files_that_are_missing() -> Result<()> {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        // Unwell at first, as an application is that has just been started.
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 1024]);
            let status = if number < 2 { "503 Service Unavailable" } else { "200 OK" };
            let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let stage = Stage::new()?.application(&format!(
        "checks = [ {{ http = \"http://{address}/healthz\" }}, {{ component = \"db\", sql = \"select path from notes\", files = \"uploads\" }} ]"
    ))?;
    stage.server.psql("postgres", "create database shop");
    stage.server.psql("shop", "create table notes (path text); insert into notes values ('there'), ('sub/gone')");
    let stage = stage.database("shop")?.uploads()?;
    std::fs::write(stage.path("uploads/there"), "")?;
    stage.begin()?;
    let done = stage.windlass(&["restore", "shop", "--in-place", "--yes"])?.with(0);
    done.says("1 of 2 files that shop mentions are not in uploads: sub/gone").says("/healthz answers");
    Ok(())
}

#[test]
fn restores_of_one_application_are_told_apart() -> Result<()> {
    let stage = Stage::new()?.uploads()?;
    std::fs::write(stage.path("uploads/file"), "one")?;
    let (go, began) = (stage.path("go"), stage.path("began"));
    script(
        &stage.path("stop"),
        &format!("touch {}; while [ ! -e {} ]; do sleep 0.05; done", began.display(), go.display()),
    )?;
    let control = format!("control = {{ stop = [{:?}], start = [\"true\"] }}", stage.path("stop"));
    let stage = stage.application(&control)?;
    stage.begin()?;
    std::fs::write(stage.path("uploads/file"), "two")?;
    let mut first = stage.command(&["restore", "shop", "--in-place", "--yes"]).spawn()?;
    wait_until("the first has begun", || began.exists());
    stage
        .windlass(&["restore", "shop", "--in-place", "--yes"])?
        .with(2)
        .says("a restore, an undo or a backup of it is at work");
    std::fs::write(&go, "")?;
    assert!(first.wait()?.success());
    std::fs::write(stage.path("uploads/file"), "three")?;
    let second = restored(&stage, &[])?;
    let all = stage.windlass(&["--output", "json", "undo"])?.with(0).json();
    let first = all[0]["restore"].as_str().unwrap();
    let second = second["restore"].as_str().unwrap();
    let refused = stage.windlass(&["undo", first, "--yes"])?.with(2);
    refused.says(second).says("undo that first");
    let file = || std::fs::read_to_string(stage.path("uploads/file")).unwrap();
    stage.windlass(&["undo", second, "--yes"])?.with(0);
    assert_eq!(file(), "three");
    stage.windlass(&["undo", first, "--yes"])?.with(0);
    assert_eq!(file(), "two");
    Ok(())
}
