//! Stories of a PostgreSQL server that is captured physically: by base backups, as a whole.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(dead_code, clippy::panic, reason = "each file of stories uses what it needs of the stage")]

mod story;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use story::{Stage, with_mounts_of_its_own};
use windlass_testkit::postgres::PgCluster;

fn physical() -> Result<Stage> {
    let stage = Stage::new()?;
    stage.server.psql("postgres", "create database shop");
    stage.server.psql(
        "shop",
        "create table orders as select n as id, md5(n::text) as note from generate_series(1, 20000) n; create index on orders (id)",
    );
    let url = stage.server.url("shop");
    let check = "checks = [ { component = \"db\", sql = \"select count(*) = 20000 from orders\" } ]";
    stage.application(check)?.component("db", &format!("kind = \"postgres\"\nmode = \"physical\"\nurl = \"{url}\""))
}

/// Starts a server on a data folder that was laid down, and waits until it has recovered.
fn started(laid_down: &Path) -> Result<PgCluster> {
    let moved = |to: &Path| Ok(std::fs::rename(laid_down.join("data"), to)?);
    let server = PgCluster::start_from(moved, &[])?;
    server.recovered()
}

/// The objects of base backups, by key.
fn archives(stage: &Stage) -> Vec<std::path::PathBuf> {
    stage.objects().into_iter().filter(|path| path.to_string_lossy().contains("/tar_partitions/")).collect()
}

#[test]
fn a_server_comes_back_as_a_whole_and_was_proven_before() -> Result<()> {
    let stage = physical()?;
    let doctor = stage.windlass(&["--output", "json", "doctor"])?.json();
    let found = doctor.as_array().context("findings")?.iter().find(|f| f["what"] == "shop/db: data folder");
    assert_eq!(found.context("the data folder")?["good"], true, "{doctor:#}");

    let point = stage.begin()?;
    let points = stage.windlass(&["--output", "json", "points", "shop"])?.with(0).json();
    assert!(points.to_string().contains("physical"), "{points:#}");
    stage.windlass(&["verify", "shop"])?.with(0);
    let drilled = stage.windlass(&["--output", "json", "drill", "shop"])?.with(0).json().to_string();
    for held in ["recovered up to", "every table and index of postgres, shop", "select count(*) = 20000"] {
        assert!(drilled.contains(held), "{held}: {drilled}");
    }
    stage.windlass(&["repo", "check", "--read-data"])?.with(0);

    stage.server.psql("shop", "drop table orders");
    let back = stage.path("back");
    let into = format!("db={}", back.display());
    let plan = stage.windlass(&["--output", "json", "restore", "shop", "--into", &into, "--plan"])?.with(0).json();
    let step = &plan["plan"]["steps"][0];
    assert_eq!(
        (&step["step"], &step["databases"]),
        (&Value::from("data-folder"), &Value::from(vec!["postgres", "shop"]))
    );
    assert!(!back.exists());
    stage.windlass(&["restore", "shop", "--into", &into, "--yes"])?.with(0).says("it recovers by itself");
    // Once it is there, it is not written into.
    stage.windlass(&["restore", "shop", "--into", &into, "--yes"])?.with(2).says("not empty");
    let server = started(&back)?;
    assert_eq!(server.psql("shop", "select count(*), min(note) from orders"), "20000|00003e3b9e5336685200ae85d21b4f5e");
    assert_eq!(server.psql("postgres", "select timeline_id from pg_control_checkpoint()"), "2", "a life of its own");
    assert_eq!(server.psql("postgres", "show archive_mode"), "off");
    // The next life is captured as the first was: with the history of its timeline.
    let url = server.url("shop");
    let stage = stage.component("next", &format!("kind = \"postgres\"\nmode = \"physical\"\nurl = \"{url}\""))?;
    server.psql("shop", "insert into orders values (0, 'of the second life')");
    stage.windlass(&["backup", "shop"])?.with(0);
    let (again, into_next) = (stage.path("again"), format!("next={}", stage.path("again").display()));
    stage.windlass(&["restore", "shop", "--only", "next", "--into", &into_next, "--yes"])?.with(0);
    let again = started(&again)?;
    assert_eq!(again.psql("shop", "select note from orders where id = 0"), "of the second life");

    stage.windlass(&["restore", "shop", "--in-place", "--yes"])?.with(2).says("is stopped and started");
    stage.windlass(&["restore", "shop", "--only", "db/shop", "--into", &into, "--yes"])?.with(2);
    stage.windlass(&["restore", "shop", "--point", &point, "--only", "next", "--plan"])?.with(2);
    Ok(())
}

#[test]
fn what_is_stored_is_sealed_and_damage_is_found_before_anything_is_written() -> Result<()> {
    let stage = physical()?;
    stage.begin()?;
    let parts = archives(&stage);
    ensure!(parts.len() >= 3, "{parts:?}");
    for part in &parts {
        let head = std::fs::read(part)?;
        assert_ne!(head[..4], [0x28, 0xb5, 0x2f, 0xfd], "{} is not sealed", part.display());
    }
    // What somebody put beside them is not unpacked with them.
    let beside = parts[0].with_file_name("part_099.tar.zst");
    std::fs::copy(&parts[0], &beside)?;
    let into = format!("db={}", stage.path("beside").display());
    stage.windlass(&["restore", "shop", "--into", &into, "--yes"])?.with(1).says("is not what its manifest names");
    std::fs::remove_file(beside)?;
    let largest = parts.iter().max_by_key(|part| std::fs::metadata(part).map_or(0, |is| is.len())).context("one")?;
    let mut bytes = std::fs::read(largest)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(largest, bytes)?;
    stage.windlass(&["verify", "shop"])?.with(1);
    let back = stage.path("back");
    stage.windlass(&["restore", "shop", "--into", &format!("db={}", back.display()), "--yes"])?.with(1);
    assert!(!back.exists(), "nothing was written");
    Ok(())
}

#[test]
fn pages_that_the_disk_lost_are_told_at_once_and_fail_the_proof() -> Result<()> {
    let stage = physical()?;
    let path = stage.server.psql("shop", "select pg_relation_filepath('orders')");
    stage.server.psql("shop", "checkpoint");
    let file = std::fs::OpenOptions::new().write(true).open(stage.server.data().join(&path))?;
    stage.windlass(&["repo", "init"])?.with(0);
    stage.take()?;
    let good = stage.windlass(&["--output", "json", "points", "shop"])?.with(0).json();
    std::os::unix::fs::FileExt::write_all_at(&file, b"bitrot", 3 * 8192 + 4000)?;
    let said = format!("the pages [3] of `/{path}`, which is shop: public.orders");
    stage.windlass(&["backup", "shop"])?.says(&said);
    let status = stage.windlass(&["status", "shop"])?.with(1);
    assert!(status.out.contains("its source had lost pages"), "{}", status.out);
    assert!(stage.windlass(&["points", "shop"])?.out.contains("SOURCE CORRUPT: db"));
    // Whatever the rules, the newest good one stays.
    let settings = std::fs::read_to_string(stage.path("windlass.toml"))?;
    let settings = settings.replace("[application.shop]\n", "[application.shop]\npolicy = \"brief\"\n");
    let brief = "[policy.brief]\nretention = { daily = 1 }\n";
    std::fs::write(stage.path("windlass.toml"), format!("{settings}{brief}"))?;
    let plan = stage.windlass(&["retention", "plan", "shop"])?.with(0);
    let id = good["points"][0]["id"].as_str().context("an id")?;
    let kept = plan.out.lines().find(|line| line.contains(id)).context("the good one")?;
    assert!(kept.contains("keep") && kept.contains("not damaged"), "{kept}");
    let deep = stage.windlass(&["verify", "shop", "--deep"])?.with(1);
    assert!(format!("{}{}", deep.out, deep.err).contains("invalid page in block 3"), "{}{}", deep.out, deep.err);
    Ok(())
}

#[test]
fn a_backup_that_is_killed_leaves_the_server_alone_and_what_it_wrote_is_known() -> Result<()> {
    let stage = physical()?;
    stage.windlass(&["repo", "init"])?.with(0);
    // Long enough that it is under way when it is killed, on any machine.
    std::fs::File::create(stage.server.data().join("core"))?.set_len(3 << 30)?;
    let mut running = stage.command(&["backup", "shop"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    story::wait_until("archives to be written", || !archives(&stage).is_empty());
    running.kill()?;
    assert_eq!(running.wait()?.code(), None, "it had ended before it was killed");
    std::fs::remove_file(stage.server.data().join("core"))?;
    // Backup mode and what holds the WAL end with the session, which the server sees go.
    let ours = "select count(*) from pg_stat_activity where application_name like 'windlass%'";
    story::wait_until("the session to end", || stage.server.psql("postgres", ours) == "0");
    assert_eq!(stage.server.psql("postgres", "select count(*) from pg_replication_slots"), "0");
    stage.take()?;
    stage.windlass(&["verify", "shop"])?.with(0);
    let found = stage.windlass(&["--output", "json", "repo", "check"])?.out;
    assert!(found.contains("eftover") && !found.contains("oreign"), "{found}");
    Ok(())
}

#[test]
fn killed_at_any_step_a_backup_is_there_or_not_and_the_next_one_is_good() -> Result<()> {
    let stage = physical()?;
    let first = stage.begin()?;
    let points = || -> Result<usize> {
        let listed = stage.windlass(&["--output", "json", "points", "shop"])?.with(0).json();
        Ok(listed["points"].as_array().context("points")?.len())
    };
    let mut killed = 0;
    loop {
        let at = (killed + 1).to_string();
        let ended = stage.command(&["backup", "shop"]).env("WINDLASS_DIE_AT", &at).output()?;
        if ended.status.success() {
            break;
        }
        assert_eq!(ended.status.signal(), Some(9), "{at}: {}", String::from_utf8_lossy(&ended.stderr));
        killed += 1;
        assert_eq!(points()?, 1, "at step {at} there is no point yet");
        let ours = "select count(*) from pg_stat_activity where application_name like 'windlass%'";
        story::wait_until("the session to end", || stage.server.psql("postgres", ours) == "0");
        assert_eq!(stage.server.psql("postgres", "select count(*) from pg_replication_slots"), "0", "at step {at}");
        let found = stage.windlass(&["--output", "json", "repo", "check"])?.out;
        assert!(!found.contains("oreign") && !found.contains("amaged"), "at step {at}: {found}");
    }
    eprintln!("killed at {killed} steps");
    assert!(killed >= 10, "only {killed} steps");
    assert_eq!(points()?, 2);
    for deep in [&["verify", "shop"][..], &["verify", "shop", "--deep"], &["repo", "check", "--read-data"]] {
        stage.windlass(deep)?.with(0);
    }
    let (back, into) = (stage.path("back"), format!("db={}", stage.path("back").display()));
    stage.windlass(&["restore", "shop", "--point", &first, "--into", &into, "--yes"])?.with(0);
    assert_eq!(started(&back)?.psql("shop", "select count(*) from orders"), "20000");
    Ok(())
}

#[test]
fn settings_outside_of_the_data_folder_come_back_beside_it() -> Result<()> {
    let etc = tempfile::Builder::new().prefix("wl-etc-").tempdir_in("/tmp")?;
    std::fs::set_permissions(etc.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let (hba, more) = (etc.path().join("pg_hba.conf"), etc.path().join("more.conf"));
    std::fs::write(&hba, "local all all trust # of /etc\n")?;
    std::fs::write(&more, "work_mem = '7MB'\n")?;
    let mut server = PgCluster::start_with(&[&format!("hba_file={}", hba.display())])?;
    let conf = server.data().join("postgresql.conf");
    std::fs::write(&conf, format!("{}\ninclude '{}'\n", std::fs::read_to_string(&conf)?, more.display()))?;
    server.down();
    server.up()?;
    assert_eq!(server.psql("postgres", "show work_mem"), "7MB");
    let stage = Stage::new()?
        .application("")?
        .component("db", &format!("kind = \"postgres\"\nmode = \"physical\"\nurl = \"{}\"", server.url("postgres")))?;
    stage.begin()?;
    let back = stage.path("back");
    let into = format!("db={}", back.display());
    let plan = stage.windlass(&["restore", "shop", "--into", &into, "--plan"])?.with(0).out;
    assert!(plan.contains("settings files in"), "{plan}");
    stage.windlass(&["restore", "shop", "--into", &into, "--yes"])?.with(0).says("nothing uses them there");
    for path in [&hba, &more] {
        let restored = back.join("settings").join(path.strip_prefix("/")?);
        assert_eq!(std::fs::read(restored)?, std::fs::read(path)?);
    }
    stage.windlass(&["verify", "shop"])?.with(0);
    stage.windlass(&["repo", "check", "--read-data"])?.with(0);
    // A role that may not see them: it is told.
    server.psql(
        "postgres",
        "create role humble login; grant execute on function pg_backup_start, pg_backup_stop to humble",
    );
    let settings = std::fs::read_to_string(stage.path("windlass.toml"))?;
    let (all, few) = (server.url("postgres"), server.url_as("humble", "postgres"));
    let data = server.data();
    let humble = settings.replace(&format!("{all}\""), &format!("{few}\"\ndata_directory = \"{}\"", data.display()));
    assert_ne!(settings, humble);
    std::fs::write(stage.path("windlass.toml"), humble)?;
    let taken = stage.windlass(&["backup", "shop"])?.with(0);
    assert!(format!("{}{}", taken.out, taken.err).contains("pg_read_all_settings"), "{}{}", taken.out, taken.err);
    Ok(())
}

#[test]
fn what_is_written_is_compressed_as_the_settings_say() -> Result<()> {
    let stage = physical()?;
    stage.begin()?;
    let named = |extension: &str| {
        let ends = |path: &&std::path::PathBuf| path.extension().is_some_and(|found| found == extension);
        stage.objects().iter().filter(ends).count()
    };
    assert!(named("zst") > 0 && named("lz4") == 0);
    let settings = std::fs::read_to_string(stage.path("windlass.toml"))?;
    let with = |compression: &str| {
        let changed = settings.replace("mode = \"physical\"", &format!("mode = \"physical\"\n{compression}"));
        std::fs::write(stage.path("windlass.toml"), changed)
    };
    with("compression = \"gzip\"")?;
    stage
        .windlass(&["backup", "shop"])?
        .with(2)
        .says("write \"zstd\", \"zstd:3\" with a level from 1 to 19, or \"lz4\"");
    let zst = named("zst");
    with("compression = \"lz4\"")?;
    stage.windlass(&["backup", "shop"])?.with(0);
    assert_eq!(named("zst"), zst, "nothing of the second one is");
    assert!(named("lz4") > 3);
    stage.windlass(&["verify", "shop"])?.with(0);
    let (back, into) = (stage.path("back"), format!("db={}", stage.path("back").display()));
    stage.windlass(&["restore", "shop", "--into", &into, "--yes"])?.with(0);
    assert_eq!(started(&back)?.psql("shop", "select count(*) from orders"), "20000");
    Ok(())
}

#[test]
fn another_server_in_the_same_place_has_a_folder_of_its_own() -> Result<()> {
    let stage = physical()?;
    stage.begin()?;
    let other = PgCluster::start()?;
    other.psql("postgres", "create database shop");
    let settings = std::fs::read_to_string(stage.path("windlass.toml"))?;
    let replaced = settings.replace(&stage.server.url("shop"), &other.url("shop"));
    assert_ne!(settings, replaced);
    std::fs::write(stage.path("windlass.toml"), replaced)?;
    stage.take()?;
    let clusters = std::fs::read_dir(stage.path("repository/postgres/shop.db"))?.count();
    assert_eq!(clusters, 2, "neither touches what is the other's");
    stage.windlass(&["verify", "shop"])?.with(0);
    Ok(())
}

#[test]
fn a_server_that_came_back_twice_is_captured_in_both_lives() -> Result<()> {
    let stage = physical()?;
    let point = stage.begin()?;
    let settings = std::fs::read_to_string(stage.path("windlass.toml"))?;
    let mut timelines = Vec::new();
    for life in ["one", "two"] {
        let back = stage.path(life);
        let into = format!("db={}", back.display());
        stage.windlass(&["restore", "shop", "--point", &point, "--into", &into, "--yes"])?.with(0);
        let server = started(&back)?;
        timelines.push(server.psql("postgres", "select timeline_id from pg_control_checkpoint()"));
        server.psql("shop", &format!("insert into orders values (0, '{life}')"));
        // In the same place: it is the same cluster.
        std::fs::write(stage.path("windlass.toml"), settings.replace(&stage.server.url("shop"), &server.url("shop")))?;
        stage.take()?;
    }
    assert_eq!(timelines, ["2", "3"], "a timeline is never lived on twice");
    let (last, into) = (stage.path("last"), format!("db={}", stage.path("last").display()));
    stage.windlass(&["restore", "shop", "--into", &into, "--yes"])?.with(0);
    let last = started(&last)?;
    assert_eq!(last.psql("shop", "select string_agg(note, ',') from orders where id = 0"), "two");
    Ok(())
}

#[test]
fn a_disk_that_is_full_on_either_side_is_told_and_the_same_command_does_it_when_there_is_room() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tried: only root may mount for another user");
        return Ok(());
    }
    let stage = physical()?;
    for folder in ["repository", "small"] {
        std::fs::create_dir_all(stage.path(folder))?;
    }
    let script = format!(
        "set -e; cd {root}; windlass='{windlass} --config {root}/windlass.toml'
         try() {{ name=$1; shift; set +e; $windlass \"$@\" > $name.out 2> $name.err; echo $? > $name.code; set -e; }}
         mount -t tmpfs -o size=3m tmpfs repository; $windlass repo init
         try full-store backup shop
         mount -o remount,size=500m repository
         try store backup shop
         mount -t tmpfs -o size=500m,nr_inodes=300 tmpfs small
         try full-target restore shop --into db={root}/small/back --yes
         mount -o remount,nr_inodes=100000 small
         try target restore shop --into db={root}/small/back --yes
         $windlass --output json points shop > points; cp -a small/back back",
        root = stage.path("").display(),
        windlass = env!("CARGO_BIN_EXE_windlass"),
    );
    assert!(with_mounts_of_its_own().arg("sh").arg("-c").arg(script).status()?.success());
    let read = |name: &str| std::fs::read_to_string(stage.path(name)).unwrap();
    for name in ["full-store", "full-target"] {
        assert_eq!(read(&format!("{name}.code")).trim(), "1", "{}", read(&format!("{name}.err")));
        assert!(read(&format!("{name}.err")).contains("No space left on device"), "{}", read(&format!("{name}.err")));
    }
    for name in ["store", "target"] {
        assert_eq!(read(&format!("{name}.code")).trim(), "0", "{}", read(&format!("{name}.err")));
    }
    assert!(read("target.out").contains("go on laying down"), "{}", read("target.out"));
    let points: Value = serde_json::from_str(&read("points"))?;
    let complete = points["points"].as_array().context("points")?.iter().filter(|point| point["complete"] == true);
    assert_eq!(complete.count(), 1, "{points:#}");
    // Nothing of it is left in the server: no slot, no session that would be in backup mode.
    let left = "select (select count(*) from pg_replication_slots) + \
                (select count(*) from pg_stat_activity where application_name like '%windlass%')";
    assert_eq!(stage.server.psql("postgres", left), "0");
    let server = started(&stage.path("back"))?;
    assert_eq!(server.psql("shop", "select count(*) from orders"), "20000");
    Ok(())
}

#[test]
fn a_server_whose_folder_is_not_here_is_read_by_the_replication_protocol() -> Result<()> {
    let stage = physical()?;
    stage.windlass(&["repo", "init"])?.with(0);
    let data = stage.server.data();
    // As on another machine: what the server names as its folder is an empty one here.
    let script = format!(
        "mount -t tmpfs -o size=1m none {} || exit 99; \
         {windlass} --output json doctor >{doctor}; \
         {windlass} --output json backup shop >{told} 2>{errors}; echo $? >{code}",
        data.display(),
        windlass = format!("{} --config {}", env!("CARGO_BIN_EXE_windlass"), stage.path("windlass.toml").display()),
        doctor = stage.path("doctor").display(),
        told = stage.path("told").display(),
        errors = stage.path("errors").display(),
        code = stage.path("code").display(),
    );
    assert!(with_mounts_of_its_own().arg("sh").arg("-c").arg(script).status()?.success());
    let read = |name: &str| std::fs::read_to_string(stage.path(name)).unwrap();
    assert!(read("doctor").contains("come by the replication protocol"), "{}", read("doctor"));
    assert_eq!(read("code").trim(), "0", "{}{}", read("told"), read("errors"));
    // It is as good as any other: proven, and restored.
    stage.windlass(&["verify", "shop"])?.with(0);
    stage.windlass(&["drill", "shop"])?.with(0);
    let back = stage.path("back");
    stage.windlass(&["restore", "shop", "--into", &format!("db={}", back.display()), "--yes"])?.with(0);
    let server = started(&back)?;
    assert_eq!(server.psql("shop", "select count(*), min(note) from orders"), "20000|00003e3b9e5336685200ae85d21b4f5e");
    assert_eq!(stage.server.psql("postgres", "select count(*) from pg_replication_slots"), "0");
    Ok(())
}

#[test]
fn a_standby_is_backed_up_in_its_primarys_stead() -> Result<()> {
    let primary = PgCluster::start()?;
    primary.psql("postgres", "create database shop");
    primary
        .psql("shop", "create table orders as select n as id, md5(n::text) as note from generate_series(1, 20000) n");
    let (program, from) = (windlass_testkit::postgres::bin()?.join("pg_basebackup"), primary.url("postgres"));
    let standby = PgCluster::start_from(
        |data| {
            let copy =
                std::process::Command::new(program).args(["-R", "-c", "fast", "-d", &from, "-D"]).arg(data).status();
            ensure!(copy?.success());
            Ok(())
        },
        &[],
    )?;
    let component =
        format!("kind = \"postgres\"\nmode = \"physical\"\nwal = \"archive\"\nurl = \"{}\"", standby.url("shop"));
    let stage = Stage::new()?.application("")?.component("db", &component)?;
    stage.windlass(&["repo", "init"])?.with(0);
    let doctor = stage.windlass(&["doctor"])?;
    assert!(doctor.out.contains("its primary has to archive"), "{}", doctor.out);
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (seen, url) = (std::sync::Arc::clone(&over), primary.url("shop"));
    let switching = std::thread::spawn(move || {
        while !seen.load(std::sync::atomic::Ordering::Relaxed) {
            let mut psql = std::process::Command::new(windlass_testkit::postgres::bin().unwrap().join("psql"));
            let sql = "insert into orders values (0, 'while it was taken'); select pg_switch_wal()";
            assert!(psql.args(["-qXo", "/dev/null", &url, "-c", sql]).status().unwrap().success());
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
    });
    let taken = stage.windlass(&["backup", "shop"]);
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    switching.join().unwrap();
    taken?.with(0);
    stage.windlass(&["verify", "shop", "--deep"])?.with(0);
    let status = stage.windlass(&["status", "shop"])?;
    assert!(!status.err.contains("was not asked"), "{}", status.err);
    let back = stage.path("back");
    stage.windlass(&["restore", "shop", "--into", &format!("db={}", back.display()), "--yes"])?.with(0);
    let server = started(&back)?;
    assert_eq!(server.psql("shop", "select count(*) from orders where id > 0"), "20000");
    Ok(())
}
