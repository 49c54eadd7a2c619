//! Stories of restores where the data live, and of going back.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(dead_code, clippy::panic, reason = "each file of stories uses what it needs of the stage")]

mod story;

use std::path::Path;

use anyhow::Result;
use serde_json::Value;
use story::{Stage, script, wait_until, with_mounts_of_its_own};
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
fn who_holds_a_folder_open_goes_on_seeing_what_is_in_it() -> Result<()> {
    let stage = Stage::new()?.uploads()?;
    let uploads = stage.path("uploads");
    std::fs::create_dir_all(uploads.join("a/b"))?;
    std::fs::write(uploads.join("a/b/file"), "then")?;
    stage.begin()?;
    std::fs::write(uploads.join("a/b/file"), "since")?;
    // As a container does: the folder, and one below it, mounted elsewhere, and a shell whose folder it is.
    for name in ["whole", "part"] {
        std::fs::create_dir(stage.path(name))?;
    }
    let root = stage.path("");
    let script = format!(
        "set -e; cd {root}; mount --bind uploads whole; mount --bind uploads/a part; cd uploads/a/b; touch {root}/ready
         while [ ! -e {root}/restored ]; do sleep 0.05; done
         cat {root}/whole/a/b/file {root}/part/b/file ./file > {root}/seen",
        root = root.display()
    );
    let mut holder = with_mounts_of_its_own().arg("sh").arg("-c").arg(script).spawn()?;
    wait_until("the folder is held", || stage.path("ready").exists());
    restored(&stage, &[])?;
    std::fs::write(stage.path("restored"), "")?;
    assert!(holder.wait()?.success());
    assert_eq!(std::fs::read_to_string(stage.path("seen"))?, "thenthenthen");
    Ok(())
}

#[test]
fn a_mount_point_below_a_folder_stays_and_what_is_in_it_is_replaced() -> Result<()> {
    let stage = Stage::new()?.uploads()?;
    let (uploads, disk) = (stage.path("uploads"), stage.path("another disk"));
    std::fs::create_dir_all(uploads.join("below/mounted here"))?;
    std::fs::create_dir(&disk)?;
    std::fs::write(uploads.join("outside"), "then")?;
    std::fs::write(disk.join("inside"), "then")?;
    std::fs::create_dir(disk.join("folder"))?;
    let windlass = format!("{} --config {}", env!("CARGO_BIN_EXE_windlass"), stage.path("windlass.toml").display());
    let script = format!(
        "set -e; cd {root}; mount --bind 'another disk' 'uploads/below/mounted here'
         {windlass} repo init; {windlass} backup shop
         echo since > 'another disk/inside'; echo since > 'another disk/new'; echo since > uploads/outside; rmdir 'another disk/folder'
         {windlass} --output json restore shop --in-place --yes > done.json
         cat uploads/outside 'uploads/below/mounted here/inside' > seen; ls 'another disk' > list
         {windlass} --output json backup shop > kept.json
         {windlass} undo $(jq -r .restore done.json) --yes; cat 'another disk/inside' 'another disk/new' uploads/outside > undone
         {windlass} undo $(jq -r .restore done.json) --forget --yes; ls -A 'another disk' uploads > left",
        root = stage.path("").display()
    );
    assert!(with_mounts_of_its_own().arg("sh").arg("-c").arg(script).status()?.success());
    assert_eq!(std::fs::read_to_string(stage.path("seen"))?, "thenthen");
    assert_eq!(std::fs::read_to_string(stage.path("list"))?, "folder\ninside\n");
    assert_eq!(std::fs::read_to_string(stage.path("undone"))?, "since\nsince\nsince\n");
    assert_eq!(
        std::fs::read_to_string(stage.path("left"))?,
        "another disk:\ninside\nnew\n\nuploads:\nbelow\noutside\n"
    );
    // A point taken while the old copies are there has none of them.
    let kept: Value = serde_json::from_slice(&std::fs::read(stage.path("kept.json"))?)?;
    let list = stage.windlass(&[
        "restore",
        "shop",
        "--point",
        kept["id"].as_str().unwrap(),
        "--into",
        &format!("uploads={}", stage.path("aside").display()),
        "--yes",
    ]);
    list?.with(0);
    let aside = tree::describe(&stage.path("aside"))?;
    assert!(aside.contains("mounted here/inside") && !aside.contains(".windlass-"), "{aside}");
    let plan: Value = serde_json::from_slice(&std::fs::read(stage.path("done.json"))?)?;
    let mounts = &plan["plan"]["steps"][0]["places"][0]["mounts"];
    assert!(mounts[0].as_str().unwrap().ends_with("below/mounted here"), "{mounts}");
    Ok(())
}

#[test]
fn what_is_left_out_of_captures_is_not_touched() -> Result<()> {
    let stage = Stage::new()?;
    let uploads = stage.path("uploads");
    std::fs::create_dir_all(uploads.join("cache/deep"))?;
    std::fs::create_dir_all(uploads.join("gone since"))?;
    std::fs::write(uploads.join("kept"), "then")?;
    std::fs::write(uploads.join("gone since/file"), "then")?;
    let settings =
        format!("kind = \"disk\"\npaths = [\"{}\"]\nexclude = [\"*.tmp\", \"/cache/deep\"]", uploads.display());
    let stage = stage.component("uploads", &settings)?;
    std::fs::write(uploads.join("cache/deep/object"), "precious")?;
    std::fs::write(uploads.join("x.tmp"), "1")?;
    stage.begin()?;
    std::fs::remove_dir_all(uploads.join("gone since"))?;
    std::fs::create_dir(uploads.join("new folder"))?;
    std::fs::write(uploads.join("new folder/y.tmp"), "2")?;
    std::fs::write(uploads.join("new folder/file"), "new")?;
    let before = without_stages(&tree::describe(&uploads)?);
    let done = restored(&stage, &[])?;
    assert_eq!(done["impact"]["files"][0]["untouched"], 3, "{done}");
    let read = |path: &str| std::fs::read_to_string(uploads.join(path)).unwrap_or_default();
    assert_eq!(read("cache/deep/object") + &read("x.tmp") + &read("new folder/y.tmp"), "precious12");
    assert_eq!(read("gone since/file") + &read("new folder/file"), "then");
    stage.windlass(&["undo", done["restore"].as_str().unwrap(), "--yes"])?.with(0);
    tree::assert_same(&without_stages(&tree::describe(&uploads)?), &before);
    Ok(())
}

#[test]
fn single_files_and_folders_that_are_gone_come_back() -> Result<()> {
    let stage = Stage::new()?;
    let (one, two, folder) = (stage.path("etc/one.conf"), stage.path("etc/two.conf"), stage.path("srv/gone"));
    std::fs::create_dir_all(stage.path("etc"))?;
    std::fs::create_dir_all(folder.join("deep"))?;
    for (path, text) in
        [(&one, "1"), (&two, "2"), (&folder.join("deep/file"), "3"), (&stage.path("etc/foreign"), "not ours")]
    {
        std::fs::write(path, text)?;
    }
    let paths: Vec<String> = [&one, &two, &folder].iter().map(|path| format!("{path:?}")).collect();
    let stage = stage.component("files", &format!("kind = \"disk\"\npaths = [{}]", paths.join(", ")))?;
    stage.begin()?;
    let etc = tree::describe(&stage.path("etc"))?;
    std::fs::write(&one, "changed")?;
    std::fs::remove_file(&two)?;
    std::fs::remove_dir_all(stage.path("srv"))?;
    let done = restored(&stage, &[])?;
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_else(|_| "gone".into());
    assert_eq!(
        read(&one) + &read(&two) + &read(&folder.join("deep/file")) + &read(&stage.path("etc/foreign")),
        "123not ours"
    );
    let files_of = |text: &str| text.lines().filter(|l| l.contains(".conf")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(files_of(&without_stages(&tree::describe(&stage.path("etc"))?)), files_of(&etc));
    let id = done["restore"].as_str().unwrap();
    stage.windlass(&["undo", id, "--yes"])?.with(0);
    assert_eq!(read(&one) + &read(&two) + &read(&stage.path("etc/foreign")), "changedgonenot ours");
    assert!(!folder.join("deep/file").exists());
    stage.windlass(&["undo", id, "--forget", "--yes"])?.with(0);
    assert_eq!(stage.path("etc").read_dir()?.count(), 2);

    // Aside, a single file comes back under its own name.
    let aside = stage.path("aside");
    let alone = Stage::new()?;
    let alone = alone.component("one", &format!("kind = \"disk\"\npaths = [{one:?}]"))?;
    alone.begin()?;
    alone.windlass(&["restore", "shop", "--into", &format!("one={}", aside.display()), "--yes"])?.with(0);
    assert_eq!(read(&aside.join("one.conf")), "changed");
    Ok(())
}

#[test]
fn databases_that_are_gone_or_broken_are_replaced() -> Result<()> {
    let stage = Stage::new()?;
    stage.server.psql("postgres", "create database shop");
    stage.server.psql("shop", "create table t (n int); insert into t select generate_series(1, 100)");
    let stage = stage.database("shop")?;
    stage.begin()?;
    stage.server.psql("postgres", "drop database shop");
    let done = restored(&stage, &[])?;
    assert_eq!(stage.server.psql("shop", "select count(*) from t"), "100");
    // Undone, it is gone again, and what was restored is kept.
    let id = done["restore"].as_str().unwrap();
    stage.windlass(&["undo", id, "--yes"])?.with(0);
    assert!(stage.server.try_psql("shop", "select 1").is_err());
    assert!(private(&stage).ends_with("_undone"));
    restored(&stage, &[])?;

    // Its catalog is destroyed: nobody can connect to it any more, and it is replaced nevertheless.
    let file = stage.server.psql("shop", "checkpoint; select pg_relation_filepath('pg_class')");
    stage
        .server
        .psql("postgres", "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = 'shop'");
    let path = stage.server.socket().join("data").join(file.lines().last().unwrap());
    let mut bytes = std::fs::read(&path)?;
    for byte in &mut bytes {
        *byte = !*byte;
    }
    std::fs::write(&path, bytes)?;
    let mut stage = stage;
    stage.restart_server()?;
    assert!(stage.server.try_psql("shop", "select count(*) from t").is_err(), "it is broken");
    let done = restored(&stage, &[])?;
    assert!(done["impact"]["databases"][0]["unknown"].as_str().is_some(), "{done}");
    assert_eq!(stage.server.psql("shop", "select count(*) from t"), "100");
    Ok(())
}

#[test]
fn a_database_that_fills_its_disk_can_be_replaced_with_consent() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        eprintln!(
            "not tried: PostgreSQL does not run as the root of a namespace, and only root may mount for another user"
        );
        return Ok(());
    }
    let bin = windlass_testkit::postgres::bin()?;
    let stage = Stage::new()?;
    std::fs::set_permissions(stage.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let disk = stage.path("small disk");
    std::fs::create_dir(&disk)?;
    let url = format!("postgresql://postgres@/shop?host={}", disk.display().to_string().replace(' ', "%20"));
    let stage = stage.component("db", &format!("kind = \"postgres\"\nurl = \"{url}\""))?;
    let script = format!(
        "set -e; cd {root}; export LC_ALL=C.UTF-8
         mount -t tmpfs -o size=128m tmpfs 'small disk'; chown postgres 'small disk'; cd 'small disk'
         as() {{ runuser -u postgres -- \"$@\"; }}
         as {bin}/initdb -D data -U postgres -A trust -N --wal-segsize=1 >/dev/null
         printf \"listen_addresses = ''\\nmax_wal_size = '4MB'\\nmin_wal_size = '2MB'\\nfsync = off\\n\" >> data/postgresql.conf
         as {bin}/pg_ctl -D data -w -l log -o \"-k '$PWD'\" start >/dev/null
         trap 'cd {root}/small*; as {bin}/pg_ctl -D data -m immediate stop >/dev/null' EXIT
         sql() {{ {bin}/psql -XAtq -v ON_ERROR_STOP=1 -h \"$PWD\" -U postgres -d \"$1\" -c \"$2\"; }}
         sql postgres 'create database shop'
         sql shop 'create table t as select n, md5(n::text) || md5(n::text) as x from generate_series(1, 450000) n'
         sql shop checkpoint
         windlass='{windlass} --config {root}/windlass.toml'
         $windlass repo init; $windlass backup shop
         sql shop \"insert into t values (-1, 'since')\"
         set +e; $windlass restore shop --in-place --yes 2> {root}/refused; echo $? > {root}/code; set -e
         set +e; WINDLASS_DIE_AT='before Delete(0)' $windlass restore shop --in-place --without-undo --yes; set -e
         $windlass undo $($windlass --output json undo | grep -o '01[0-9A-Z]*' | head -1) --yes
         sql shop 'select count(*) from t' > {root}/rows-kept
         set +e; WINDLASS_DIE_AT='after Delete(0)' $windlass restore shop --in-place --without-undo --yes > {root}/plan
         $windlass undo $($windlass --output json undo | grep '\"restore\"' | grep -o '01[0-9A-Z]*' | tail -1) --yes 2> {root}/gone; set -e
         $windlass restore shop --in-place --without-undo --yes
         sql shop 'select count(*) from t' > {root}/rows
         $windlass --output json undo > {root}/restores; sql postgres 'select count(*) from pg_database' > {root}/databases",
        root = stage.path("").display(),
        bin = bin.display(),
        windlass = env!("CARGO_BIN_EXE_windlass"),
    );
    assert!(with_mounts_of_its_own().arg("sh").arg("-c").arg(script).status()?.success());
    let read = |name: &str| std::fs::read_to_string(stage.path(name)).unwrap();
    assert_eq!(read("code").trim(), "2");
    assert!(read("refused").contains("WDL-0273") && read("refused").contains("--without-undo"), "{}", read("refused"));
    assert!(
        read("plan").contains("DELETE the database shop") && read("plan").contains("cannot be put back"),
        "{}",
        read("plan")
    );
    assert_eq!(read("rows-kept").trim(), "450001", "what was not deleted yet comes back");
    assert!(read("gone").contains("not put back: the database shop, which the plan deleted first"), "{}", read("gone"));
    assert_eq!((read("rows").trim(), read("databases").trim()), ("450000", "4"));
    Ok(())
}

#[test]
fn the_database_one_connects_to_by_habit_is_replaced_like_any_other() -> Result<()> {
    let stage = Stage::new()?;
    stage.server.psql("postgres", "create table t (n int); insert into t values (1)");
    let stage = stage.database("postgres")?;
    stage.begin()?;
    stage.server.psql("postgres", "insert into t values (2)");
    let done = restored(&stage, &[])?;
    assert_eq!(stage.server.psql("postgres", "select count(*) from t"), "1");
    stage.windlass(&["undo", done["restore"].as_str().unwrap(), "--yes"])?.with(0);
    assert_eq!(stage.server.psql("postgres", "select count(*) from t"), "2");
    Ok(())
}

#[test]
fn who_is_not_root_replaces_what_is_closed_to_its_owner() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65_534;
    let stage = Stage::new()?.application("control = { stop = [\"true\"], start = [\"true\"] }")?.uploads()?;
    let uploads = stage.path("uploads");
    for folder in ["closed", "gone since"] {
        std::fs::create_dir_all(uploads.join(folder))?;
        std::fs::write(uploads.join(folder).join("file"), "then")?;
        std::fs::set_permissions(uploads.join(folder), std::fs::Permissions::from_mode(0o500))?;
    }
    let is_root = rustix::process::geteuid().is_root();
    let windlass = |arguments: &[&str]| -> Result<String> {
        if is_root {
            let root = stage.path("").display().to_string();
            assert!(std::process::Command::new("chown").args(["-R", "65534:65534", &root]).status()?.success());
        }
        let mut command = stage.command(arguments);
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = command.output()?;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    windlass(&["repo", "init"])?;
    windlass(&["backup", "shop"])?;
    for folder in ["closed", "gone since"] {
        std::fs::set_permissions(uploads.join(folder), std::fs::Permissions::from_mode(0o700))?;
    }
    std::fs::write(uploads.join("closed/file"), "since")?;
    std::fs::remove_dir_all(uploads.join("gone since"))?;
    std::fs::create_dir(uploads.join("new"))?;
    std::fs::write(uploads.join("new/file"), "new")?;
    for folder in ["closed", "new"] {
        std::fs::set_permissions(uploads.join(folder), std::fs::Permissions::from_mode(0o500))?;
    }
    let done: Value =
        serde_json::from_str(&windlass(&["--output", "json", "restore", "shop", "--in-place", "--yes"])?)?;
    let seen = |path: &str| std::fs::read_to_string(uploads.join(path)).unwrap_or_else(|_| "not there".into());
    let mode = |path: &str| uploads.join(path).metadata().map_or(0, |meta| meta.permissions().mode() & 0o777);
    assert_eq!(
        (seen("closed/file"), seen("gone since/file"), seen("new/file")),
        ("then".into(), "then".into(), "not there".into())
    );
    assert_eq!((mode("closed"), mode("gone since")), (0o500, 0o500));
    let id = done["restore"].as_str().unwrap();
    windlass(&["undo", id, "--yes"])?;
    assert_eq!(
        (seen("closed/file"), seen("gone since/file"), seen("new/file")),
        ("since".into(), "not there".into(), "new".into())
    );
    assert_eq!((mode("closed"), mode("new")), (0o500, 0o500));
    windlass(&["undo", id, "--forget", "--yes"])?;
    assert!(!uploads.read_dir()?.flatten().any(|e| e.file_name().to_string_lossy().starts_with(".windlass-")));
    Ok(())
}

#[test]
fn what_a_database_was_set_to_comes_back_with_it() -> Result<()> {
    let stage = Stage::new()?;
    stage.server.psql("postgres", "create role app login; create role reader");
    stage.server.psql("postgres", "create database \"Shop \"\"🧭\"\" one\" owner app connection limit 7 encoding 'LATIN1' template template0 lc_collate 'C' lc_ctype 'C'");
    let name = "Shop \"🧭\" one";
    stage.server.psql(name, "create table t (n int); insert into t values (1)");
    let settings = "alter database %I set work_mem to '9MB'; alter role app in database %I set statement_timeout to '1min'; \
                    revoke connect on database %I from public; grant connect on database %I to reader; comment on database %I is 'the shop'";
    let settings = settings.replace("%I", "\"Shop \"\"🧭\"\" one\"");
    stage.server.psql("postgres", &settings);
    let url = stage.server.url("Shop%20%22%F0%9F%A7%AD%22%20one");
    let stage = stage.component("db", &format!("kind = \"postgres\"\nurl = \"{url}\""))?;
    let described = || {
        stage.server.psql(
            "postgres",
            "select datname, pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datconnlimit, datallowconn, (select string_agg(a::text, ',' order by a::text) from unnest(datacl) a), \
             shobj_description(d.oid, 'pg_database'), (select string_agg(setrole::regrole::text || setconfig::text, ',' order by 1) from pg_db_role_setting s where s.setdatabase = d.oid) \
             from pg_database d where datname like 'Shop%'",
        )
    };
    let then = described();
    assert!(then.contains("LATIN1") && then.contains("work_mem") && then.contains("reader"), "{then}");
    stage.begin()?;
    let done = restored(&stage, &[])?;
    assert_eq!(described(), then);
    stage.windlass(&["undo", done["restore"].as_str().unwrap(), "--yes"])?.with(0);
    assert_eq!(described(), then);
    Ok(())
}

#[test]
fn a_role_that_may_not_make_databases_is_told_so_and_what_is_possible() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.server.psql("postgres", "alter system set max_prepared_transactions = 2");
    stage.restart_server()?;
    stage.server.psql("postgres", "create role app login");
    stage.server.psql("postgres", "create database shop owner app");
    stage.server.psql("shop", "set role app; create table t (n int); insert into t values (1)");
    let url = stage.server.url_as("app", "shop");
    let stage = stage.component("db", &format!("kind = \"postgres\"\nurl = \"{url}\""))?;
    stage.begin()?;
    let refused = stage.windlass(&["restore", "shop", "--in-place", "--plan"])?.with(2);
    refused.says("WDL-0271").says("alter role app createdb").says("--into");
    stage.server.psql("postgres", "alter role app createdb");
    stage.server.psql("shop", "begin; insert into t values (2); prepare transaction 'held'");
    stage.windlass(&["restore", "shop", "--in-place", "--plan"])?.with(2).says("1 prepared transactions");
    stage.server.psql("shop", "rollback prepared 'held'");
    stage.server.psql("shop", "insert into t values (3)");
    restored(&stage, &[])?;
    assert_eq!(stage.server.psql("shop", "select string_agg(n::text, ',') from t"), "1");
    Ok(())
}

#[test]
fn an_application_that_goes_on_is_fenced_off() -> Result<()> {
    let stage = Stage::new()?;
    stage.server.psql("postgres", "create database shop");
    stage.server.psql("shop", "create table t (n int); insert into t values (1)");
    let stage = stage.database("shop")?;
    stage.begin()?;
    let url = stage.server.url("shop");
    let writes = format!(
        "while [ ! -e {} ]; do psql -Xq -c 'insert into t values (2); select pg_sleep(0.05)' '{url}' >/dev/null 2>&1; done",
        stage.path("done").display()
    );
    let mut writer = std::process::Command::new("sh").arg("-c").arg(writes).spawn()?;
    std::thread::sleep(std::time::Duration::from_millis(300));
    let ended = stage.windlass(&["--output", "json", "restore", "shop", "--in-place", "--yes"])?;
    std::fs::write(stage.path("done"), "")?;
    writer.wait()?;
    let done = ended.with(0).json();
    assert!(done["plan"]["warnings"][0].as_str().unwrap().contains("nothing stops the application"), "{done}");
    let old = private(&stage);
    assert!(stage.server.try_psql(&old, "select 1").is_err(), "nobody connects to the old copy");
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
