//! Stories of restores where the data live, and of going back.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(dead_code, clippy::panic, reason = "each file of stories uses what it needs of the stage")]

mod story;

use anyhow::Result;
use serde_json::Value;
use story::{Stage, script};
use windlass_testkit::tree;

/// An application with a rich database, a hard folder, and commands that stop and start it: it is up while `up` is there.
fn running_stage() -> Result<Stage> {
    let stage = Stage::new()?;
    stage.server.make_rich("shop")?;
    let up = stage.path("up");
    std::fs::write(&up, "")?;
    script(&stage.path("stop"), &format!("rm {}", up.display()))?;
    script(&stage.path("start"), &format!("touch {}", up.display()))?;
    let root = stage.path("");
    let root = root.display().to_string();
    let root = root.trim_end_matches('/');
    let stage = stage.application(&format!(
        "control = {{ stop = [\"{root}/stop\"], start = [\"{root}/start\"] }}\nundo = \"72h\"\n\
         checks = [ {{ component = \"db\", sql = \"select count(*) = 3000 from orders\" }} ]"
    ))?;
    let stage = stage.database("shop")?.uploads()?;
    tree::make_hard(&stage.path("uploads"))?;
    Ok(stage)
}

/// What happens to an application in a day.
fn live_on(stage: &Stage) -> Result<()> {
    stage.server.psql(
        "shop",
        "set row_security = off; delete from orders where id % 7 = 0; create table made_since (n int); insert into made_since values (1), (2)",
    );
    let uploads = stage.path("uploads");
    std::fs::write(uploads.join("plain"), "changed since, in place\n")?;
    std::fs::write(uploads.join("made since"), "new")?;
    std::fs::create_dir_all(uploads.join("folder made since/deep"))?;
    std::fs::write(uploads.join("folder made since/deep/file"), "new, too")?;
    std::fs::remove_dir_all(uploads.join("a/b/c"))?;
    std::fs::remove_file(uploads.join("link"))?;
    Ok(())
}

struct Described {
    database: String,
    files: String,
}

impl Described {
    fn now(stage: &Stage) -> Result<Self> {
        let files = tree::describe(&stage.path("uploads"))?;
        Ok(Self { database: stage.server.describe("shop")?, files: without_stages(&files) })
    }

    fn assert_is(&self, expected: &Self) {
        tree::assert_same(&self.database, &expected.database);
        tree::assert_same(&self.files, &expected.files);
    }
}

/// Without what restores keep beside what is there.
fn without_stages(description: &str) -> String {
    let mut lines: Vec<&str> = description.lines().filter(|line| !line.starts_with("\".windlass-")).collect();
    lines.push("");
    lines.join("\n")
}

fn restored(stage: &Stage, more: &[&str]) -> Result<Value> {
    let mut arguments = vec!["--output", "json", "restore", "shop", "--in-place", "--yes"];
    arguments.extend(more);
    Ok(stage.windlass(&arguments)?.with(0).json())
}

/// The databases of a restore, which are nobody else's.
fn private(stage: &Stage) -> String {
    stage.server.psql(
        "postgres",
        "select string_agg(datname, ' ' order by datname) from pg_database where datname like 'windlass\\_%'",
    )
}

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
    assert_eq!(plan["impact"]["rows_written"][0][1], 3, "{plan}");
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
