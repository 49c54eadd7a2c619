//! Databases that are replaced where they live.

use anyhow::Result;

use crate::stage::{RESTORE, newest, private, restored};
use crate::story::{Stage, with_mounts_of_its_own};

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
fn all_databases_of_a_server_are_replaced_together() -> Result<()> {
    let stage = Stage::new()?;
    for (name, rows) in [("shop", 3), ("stock", 5)] {
        stage.server.psql("postgres", &format!("create database {name}"));
        stage.server.psql(name, &format!("create table t as select generate_series(1, {rows}) n"));
    }
    let url = stage.server.url("postgres");
    let stage = stage.component("db", &format!("kind = \"postgres\"\nurl = \"{url}\"\ndatabases = \"all\""))?;
    stage.begin()?;
    stage.server.psql("shop", "delete from t");
    stage.server.psql("postgres", "drop database stock");
    stage.server.psql("postgres", "create database made_since");
    stage.windlass(&RESTORE)?.with(0);
    let rows = |name: &str| stage.server.psql(name, "select count(*) from t");
    assert_eq!((rows("shop"), rows("stock")), ("3".into(), "5".into()));
    let (id, _) = newest(&stage)?;
    stage.windlass(&["undo", &id, "--yes"])?.with(0);
    assert_eq!(rows("shop"), "0");
    let names =
        "select string_agg(datname, ' ' order by datname) from pg_database where datname in ('stock', 'made_since')";
    assert_eq!(stage.server.psql("postgres", names), "made_since");
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
fn a_role_of_its_own_replaces_its_database() -> Result<()> {
    let stage = Stage::new()?;
    stage.server.psql("postgres", "create role keeper login createdb");
    stage.server.psql("postgres", "create database shop owner keeper");
    let url = stage.server.url_as("keeper", "shop");
    let stage = stage.component("db", &format!("kind = \"postgres\"\nurl = \"{url}\""))?;
    let as_keeper = |sql: &str| stage.server.psql("shop", &format!("set role keeper; {sql}"));
    as_keeper("create table t as select generate_series(1, 10) n");
    stage.begin()?;
    as_keeper("delete from t");
    stage.windlass(&RESTORE)?.with(0);
    let count = || stage.server.psql("shop", "select count(*) from t");
    assert_eq!(count(), "10");
    let (id, _) = newest(&stage)?;
    stage.windlass(&["undo", &id, "--yes"])?.with(0);
    assert_eq!(count(), "0");
    stage.windlass(&["undo", &id, "--forget", "--yes"])?.with(0);
    assert_eq!(private(&stage), "");
    Ok(())
}
