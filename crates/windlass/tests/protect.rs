//! Stories of an application that is protected, lost, and brought back.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(dead_code, clippy::panic, reason = "each file of stories uses what it needs of the stage")]

mod story;

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use story::{PASSPHRASE, Stage, script};
use windlass_testkit::process::run;
use windlass_testkit::s3::{ACCESS_KEY, BUCKET, Kind, S3Server, SECRET_KEY};
use windlass_testkit::tree;

fn full_stage() -> Result<Stage> {
    let stage = Stage::new()?;
    stage.server.make_rich("shop")?;
    script(&stage.path("export"), "printf 'an index of %s\\n' \"$(seq 1000 | tr '\\n' ' ')\"")?;
    script(&stage.path("import"), &format!("cat > {}", stage.path("imported").display()))?;
    let action = format!(
        "kind = \"action\"\nbackup = [\"{0}/export\"]\nrestore = [\"{0}/import\"]\nrehearse = [\"grep\", \"-q\", \"an index\"]",
        stage.path("").display().to_string().trim_end_matches('/')
    );
    let check = "checks = [ { component = \"db\", sql = \"select count(*) = 3000 from orders\" } ]";
    let stage = stage.application(check)?.database("shop")?.uploads()?.component("index", &action)?;
    tree::make_hard(&stage.path("uploads"))?;
    Ok(stage)
}

#[test]
fn everything_comes_back_beside_itself_as_it_was() -> Result<()> {
    let stage = full_stage()?;
    stage.begin()?;
    let copy = stage.server.url("copy");
    let (into_db, into_files) = (format!("db={copy}"), format!("uploads={}", stage.path("back").display()));
    let restore = ["restore", "shop", "--into", &into_db, "--into", &into_files, "--into", "index=-"];

    stage.windlass(&restore)?.with(2).says("nothing was confirmed");
    assert!(!stage.path("back").exists() && !stage.path("imported").exists());
    let plan = stage.windlass(&[&["--output", "json"], restore.as_slice(), &["--plan"]].concat())?.with(0).json();
    let digest = plan["digest"].as_str().unwrap();
    stage.windlass(&[restore.as_slice(), &["--confirm", "0000"]].concat())?.with(2).says("the world has changed");
    stage.windlass(&[restore.as_slice(), &["--confirm", digest]].concat())?.with(0);

    tree::assert_same(&stage.server.describe("copy")?, &stage.server.describe("shop")?);
    tree::assert_same(&tree::describe(&stage.path("back"))?, &tree::describe(&stage.path("uploads"))?);
    assert!(std::fs::read_to_string(stage.path("imported"))?.starts_with("an index of 1 2 3"));

    // The world has changed: the same digest is not run again.
    stage.windlass(&[restore.as_slice(), &["--confirm", digest]].concat())?.with(2).says("not empty");
    Ok(())
}

#[test]
fn protected_is_said_only_once_a_restore_has_proved_it() -> Result<()> {
    let stage = full_stage()?;
    stage.begin()?;
    let status = stage.windlass(&["--output", "json", "status", "shop"])?.with(1).json();
    assert_eq!(status[0]["protected"], false);
    assert_eq!(status[0]["reasons"][0]["reason"], "not_restored");
    let drilled = stage.windlass(&["--output", "json", "drill", "shop"])?.with(0);
    let drill = drilled.json();
    assert_eq!(drill["verdict"], "passed");
    assert!(drill["drill"]["rto_ms"].as_u64().unwrap() > 0);
    let place = drilled.err.split("restored to ").nth(1).and_then(|text| text.split("/files-").next()).unwrap();
    assert!(place.starts_with("/var/tmp/windlass-scratch-") && !Path::new(place).exists(), "{place} is gone");
    stage.windlass(&["status", "shop"])?.with(0);
    let points = stage.windlass(&["--output", "json", "points", "shop"])?.with(0).json();
    assert_eq!(points["points"][0]["verified"], "restored");
    Ok(())
}

#[test]
fn one_table_comes_back_with_what_belongs_to_it() -> Result<()> {
    let stage = full_stage()?;
    stage.begin()?;
    let into = format!("db={}", stage.server.url("one"));
    let only = r#"db/shop/"My Schema 🧭"."Odd ""Table"" name",db/shop/public.orders"#;
    stage.windlass(&["restore", "shop", "--only", only, "--into", &into, "--yes"])?.with(0);
    let of = |database: &str, sql: &str| stage.server.psql(database, &format!("set row_security = off; {sql}"));
    for sql in [
        "select count(*), sum(price), sum(total) from orders",
        "select count(*), string_agg(\"Ünïcode col\", '|' order by id) from \"My Schema 🧭\".\"Odd \"\"Table\"\" name\"",
        "select indexdef from pg_indexes where tablename = 'orders' order by 1",
        "select tgname from pg_trigger where not tgisinternal and tgrelid = 'orders'::regclass",
    ] {
        assert_eq!(of("one", sql), of("shop", sql), "{sql}");
    }
    assert_eq!(
        stage.server.psql("one", "select count(*) from pg_class where relname in ('events', 'parent', 'chicken')"),
        "0"
    );
    let missing = stage.windlass(&[
        "restore",
        "shop",
        "--only",
        "db/shop/public.nothing",
        "--into",
        &format!("db={}", stage.server.url("none")),
        "--yes",
    ])?;
    missing.with(2).says("holds no public.nothing in this point");
    assert_eq!(
        stage.server.psql("postgres", "select count(*) from pg_database where datname = 'none'"),
        "0",
        "nothing was made for it"
    );
    Ok(())
}

#[test]
fn following_the_readme_alone_gets_everything_back() -> Result<()> {
    let stage = full_stage()?;
    stage.begin()?;
    let repository = stage.path("repository");
    let readme = std::fs::read_to_string(repository.join("README.txt"))?;
    for line in [
        "age --decrypt --output keyring.txt",
        "createdb --template=template0",
        "restic --no-lock --repo files/",
        "# restic-password: ",
    ] {
        assert!(readme.contains(line), "README.txt does not say `{line}`");
    }
    // age insists on a terminal for a passphrase: script gives it one.
    let hand = stage.path("by hand");
    std::fs::create_dir(&hand)?;
    let steps = format!(
        r#"set -eu
        cd '{repository}'
        key=$(ls keys/shop/*.age | tail -n 1)
        point=$(ls points/shop | tail -n 1); point=${{point%.json}}
        printf '{PASSPHRASE}\n' | script -qec "age --decrypt --output '{hand}/keyring.txt' $key" /dev/null >/dev/null
        head -n 1 "runs/shop/$point/component.uploads.json" | jq -r .snapshot > '{hand}/snapshot'
        sed -n 's/^# restic-password: //p' '{hand}/keyring.txt' > '{hand}/restic-password'
        age --decrypt --identity '{hand}/keyring.txt' --output '{hand}/database.dump' dumps/shop/db/"$point"/shop-*.dump.age
        age --decrypt --identity '{hand}/keyring.txt' --output '{hand}/globals.sql' dumps/shop/db/"$point"/globals-*.sql.age
        age --decrypt --identity '{hand}/keyring.txt' --output '{hand}/index' dumps/shop/index/"$point"/action.out.age
        createdb --template=template0 --host='{socket}' --username=postgres byhand
        pg_restore --exit-on-error --host='{socket}' --username=postgres --dbname=byhand '{hand}/database.dump'
        restic --no-cache --repo files/shop --password-file '{hand}/restic-password' restore "$(cat '{hand}/snapshot')" --target '{hand}/files'
        restic --no-cache --repo files/shop --password-file '{hand}/restic-password' check --read-data
        "#,
        repository = repository.display(),
        hand = hand.display(),
        socket = stage.server.socket().display()
    );
    run(Command::new("sh").arg("-c").arg(steps))?;
    tree::assert_same(&stage.server.describe("byhand")?, &stage.server.describe("shop")?);
    let files = hand.join("files").join(stage.path("uploads").strip_prefix("/")?);
    let without = |text: String| {
        text.lines().filter(|l| !l.contains("link to bytes")).map(|l| format!("{l}\n")).collect::<String>()
    };
    tree::assert_same(&without(tree::describe(&files)?), &without(tree::describe(&stage.path("uploads"))?));
    assert!(std::fs::read_to_string(hand.join("globals.sql"))?.contains("CREATE ROLE windlass_reader"));
    assert!(std::fs::read_to_string(hand.join("index"))?.starts_with("an index"));
    Ok(())
}

#[test]
fn from_nothing_but_the_bucket_and_the_kit() -> Result<()> {
    for kind in [Kind::Versitygw, Kind::Minio] {
        let bucket = S3Server::start(kind)?;
        let stage = full_stage()?;
        let url = format!("s3://{BUCKET}/prod/shop");
        let stage = stage.bucket(&bucket.endpoint(), "prod/shop")?;
        stage.begin()?;
        let kit = stage.path("kit");
        stage.windlass(&["repo", "kit", "--file", kit.to_str().unwrap()])?.with(0);
        stage.windlass(&["repo", "check", "--read-data"])?.with(0);

        // Another machine: no settings, no state, only the kit and the bucket's credentials.
        let back = stage.path("back");
        let mut restore = Command::new(env!("CARGO_BIN_EXE_windlass"));
        restore.current_dir("/").env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        restore.env("S3_ACCESS_KEY", ACCESS_KEY).env("S3_SECRET_KEY", SECRET_KEY);
        restore.args(["restore", "shop", "--from", &url, "--endpoint", &bucket.endpoint(), "--yes", "--kit"]).arg(&kit);
        restore.args([
            "--into",
            &format!("db={}", stage.server.url("copy")),
            "--into",
            &format!("uploads={}", back.display()),
        ]);
        run(&mut restore)?;
        tree::assert_same(&stage.server.describe("copy")?, &stage.server.describe("shop")?);
        tree::assert_same(&tree::describe(&back)?, &tree::describe(&stage.path("uploads"))?);
    }
    Ok(())
}

#[test]
fn a_newer_point_of_one_component_does_not_hide_an_older_one_of_all() -> Result<()> {
    let stage = full_stage()?;
    let whole = stage.begin()?;
    stage.windlass(&["backup", "shop", "--only", "index"])?.with(0);
    let (into_db, into_files) =
        (format!("db={}", stage.server.url("copy")), format!("uploads={}", stage.path("back").display()));
    let plan = ["--output", "json", "restore", "shop", "--into", &into_db, "--into", &into_files, "--plan"];
    assert_eq!(stage.windlass(&plan)?.with(0).json()["plan"]["point"], whole.as_str());
    assert_eq!(stage.windlass(&["--output", "json", "drill", "shop"])?.with(0).json()["point"], whole.as_str());
    stage.windlass(&["status", "shop"])?.with(0);
    Ok(())
}

#[test]
fn a_restore_beside_the_source_goes_the_way_of_the_backup() -> Result<()> {
    let stage = Stage::new()?;
    stage.server.psql("postgres", "create database shop");
    stage.server.psql("shop", "create table t as select n from generate_series(1, 100) n");
    let (wrapper, went) = (stage.path("wrapper"), stage.path("went"));
    let path = "PATH=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1):$PATH";
    script(&wrapper, &format!("{path}\necho \"$1 $PGPASSWORD\" >> {}\nexec \"$@\"", went.display()))?;
    std::fs::write(stage.path("password"), "let-through")?;
    let component = format!(
        "kind = \"postgres\"\nurl = \"{}\"\nvia = [\"{}\"]\npassword = {{ file = \"{}\" }}",
        stage.server.url("shop"),
        wrapper.display(),
        stage.path("password").display()
    );
    let stage = stage.component("db", &component)?;
    stage.begin()?;
    std::fs::remove_file(&went)?;
    let into = format!("db={}", stage.server.url("copy"));
    stage.windlass(&["restore", "shop", "--into", &into, "--yes"])?.with(0);
    assert_eq!(stage.server.psql("copy", "select count(*) from t"), "100");
    let log = std::fs::read_to_string(&went)?;
    assert!(log.contains("pg_restore let-through") && log.contains("psql let-through"), "{log}");

    // Another server, or another user of this one, is none of the settings' business.
    std::fs::remove_file(&went)?;
    stage.server.psql("postgres", "create role other superuser login");
    let into = format!("db={}", stage.server.url_as("other", "copy2"));
    stage.windlass(&["restore", "shop", "--into", &into, "--yes"])?.with(0);
    assert!(!went.exists());
    Ok(())
}

#[test]
fn what_the_target_lacks_is_said_in_the_plan() -> Result<()> {
    let stage = Stage::new()?;
    stage.server.psql("postgres", "create role clerk; create role reader; create role keeper");
    stage.server.psql("postgres", "create database shop");
    stage.server.psql(
        "shop",
        "create table t (n int, name text collate \"en-x-icu\"); grant select on t to reader;
         create table other (n int); alter table t enable row level security;
         create policy mine on t to clerk using (true); alter table other owner to keeper",
    );
    let stage = stage.database("shop")?;
    stage.begin()?;
    let elsewhere = windlass_testkit::postgres::PgCluster::start()?;
    let into = format!("db={}", elsewhere.url("copy"));
    let plan = |more: &[&str]| {
        let mut arguments = vec!["--output", "json", "restore", "shop", "--into", &into, "--plan"];
        arguments.extend(more);
        stage.windlass(&arguments)
    };
    plan(&[])?.with(2).says("WDL-0263").says("clerk").says("create role");
    // Who needs no policy needs no clerk; who lacks an owner or a reader gets everything without them, and is told.
    let other = plan(&["--only", "db/shop/public.other"])?.with(0).json();
    let said = other["plan"]["warnings"][0].as_str().unwrap();
    assert!(said.contains("keeper") && said.contains("reader"), "{said}");
    elsewhere.psql("postgres", "create role clerk; create role keeper; create role reader");
    let all = plan(&[])?.with(0).json();
    assert_eq!(all["plan"]["steps"][0]["owners"], true);
    assert_eq!(elsewhere.psql("postgres", "select count(*) from pg_database where datname = 'copy'"), "0");
    stage.windlass(&["restore", "shop", "--into", &into, "--yes"])?.with(0);
    tree::assert_same(&elsewhere.describe("copy")?, &stage.server.describe("shop")?);
    Ok(())
}

#[test]
fn large_tables_are_restored_in_two_lanes() -> Result<()> {
    let stage = Stage::new()?;
    stage.server.psql("postgres", "create database shop");
    for table in ["one", "two", "three"] {
        stage.server.psql(
            "shop",
            &format!("create table {table} (n bigserial primary key, body text); insert into {table} (body) select repeat(md5(n::text), 20) from generate_series(1, 18000) n"),
        );
    }
    stage.server.psql("shop", "select lo_from_bytea(4711, 'a large object')");
    let stage = stage.database("shop")?;
    let point = stage.begin()?;
    let manifest = std::fs::read_to_string(stage.path(&format!("repository/runs/shop/{point}/component.db.json")))?;
    assert!(manifest.contains("\"bytes\":"), "the tables' sizes are known: {manifest}");
    let into = format!("db={}", stage.server.url("copy"));
    stage.windlass(&["restore", "shop", "--into", &into, "--yes"])?.with(0);
    tree::assert_same(&stage.server.describe("copy")?, &stage.server.describe("shop")?);
    Ok(())
}
