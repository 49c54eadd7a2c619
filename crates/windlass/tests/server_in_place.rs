//! Stories of servers as a whole that are put in the place of those that are there, and back.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(dead_code, clippy::panic, reason = "each file of stories uses what it needs of the stage")]

mod story;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use story::archiving::{Serving, archiving};
use story::{Ended, Stage, script, wait_until};
use windlass_testkit::postgres::{PgCluster, bin};

/// A server that is stopped and started by commands of the settings, and its application.
struct House {
    stage: Stage,
    server: PgCluster,
    serving: Option<Serving>,
}

impl Drop for House {
    fn drop(&mut self) {
        // What a restore started is no child of the test.
        let _ = Command::new(self.stage.path("stop-db")).output();
    }
}

const IN_PLACE: [&str; 3] = ["restore", "shop", "--in-place"];

impl House {
    /// With more settings of its component and of its application.
    fn new(application: &str) -> Result<Self> {
        let server = PgCluster::start_with(&["archive_mode=on", "wal_level=replica", "max_wal_size=64MB"])?;
        server.psql("postgres", "create database shop");
        server.psql("shop", "create table orders (id bigint primary key, note text)");
        let stage = Stage::new()?;
        let (stop, start) = (stage.path("stop-db"), stage.path("start-db"));
        let settings = format!(
            "kind = \"postgres\"\nmode = \"physical\"\nwal = \"archive\"\nurl = \"{}\"\ndata_directory = \"{}\"\n\
             control = {{ stop = [\"{}\"], start = [\"{}\"] }}",
            server.url("shop"),
            server.data().display(),
            stop.display(),
            start.display()
        );
        let stage = stage.application(application)?.component("db", &settings)?;
        let (data, folder) = (server.data(), server.socket().to_owned());
        let control = control(&data)?;
        script(&stop, &format!("{control} stop -m fast -w -t 60 >{0}/said 2>&1", folder.display()))?;
        let options = format!(
            "-k {} -c listen_addresses= -c fsync=off -c archive_mode=on -c wal_level=replica -c max_connections=50",
            folder.display()
        );
        script(
            &start,
            &format!("{control} start -w -t 60 -o '{options}' -l {0}/its.log >{0}/said 2>&1", folder.display()),
        )?;
        stage.windlass(&["repo", "init"])?.with(0);
        let mut house = Self { stage, server, serving: None };
        house.serving = Some(archiving(&house.stage, &house.server)?);
        Ok(house)
    }

    /// Writes a row, and waits until it is in the archive. The moment just after.
    fn write(&self, id: u32) -> String {
        self.server.psql("shop", &format!("insert into orders values ({id}, 'row {id}')"));
        let moment = self.server.psql("shop", "select clock_timestamp()").replace(' ', "T");
        let last = self.server.psql("postgres", "select pg_walfile_name(pg_switch_wal())");
        wait_until(&format!("{last} to be archived"), || {
            self.stage.objects().iter().any(|object| object.to_string_lossy().ends_with(&format!("/{last}.zst")))
        });
        moment
    }

    fn rows(&self) -> String {
        self.server.psql("shop", "select string_agg(id::text, ',' order by id) from orders")
    }

    fn in_place(&self, more: &[&str]) -> Result<Ended> {
        self.stage.windlass(&[&IN_PLACE[..], more].concat())
    }

    /// The newest restore, and how far it is.
    fn newest(&self) -> Result<(String, String)> {
        let all = self.stage.windlass(&["--output", "json", "undo"])?.with(0).json();
        let newest = all.as_array().and_then(|all| all.last()).context("a restore")?;
        let text = |key: &str| newest[key].as_str().unwrap_or_default().to_owned();
        Ok((text("restore"), text("state")))
    }

    /// What restores keep in the data folder.
    fn kept(&self) -> Result<Vec<PathBuf>> {
        let entries = self.server.data().read_dir()?.flatten().map(|entry| entry.path());
        Ok(entries.filter(|path| path.to_string_lossy().contains("/.windlass-")).collect())
    }
}

/// `pg_ctl` for a data folder, as its owner.
fn control(data: &Path) -> Result<String> {
    let program = format!("{} -D {}", bin()?.join("pg_ctl").display(), data.display());
    let is_root = rustix::process::geteuid().is_root();
    Ok(if is_root { format!("cd / && exec runuser -u postgres -- {program}") } else { format!("exec {program}") })
}

#[test]
fn a_server_goes_back_to_a_moment_and_forth_again() -> Result<()> {
    let house = House::new("")?;
    house.stage.take()?;
    house.write(1);
    let moment = house.write(2);
    house.write(3);
    house.server.psql("shop", "drop table orders");
    house.server.psql("postgres", "create database later");

    let plan = house.in_place(&["--at", &moment, "--plan", "--cluster"])?.with(0).out;
    assert!(plan.contains("replace the SERVER in"), "{plan}");
    assert!(plan.contains("its databases go back together: postgres, shop"), "{plan}");
    assert!(plan.contains("NOT there afterwards: the databases later"), "{plan}");
    house.in_place(&["--at", &moment, "--plan"])?.with(2).says("with the databases later of others");
    let digest = plan.lines().find_map(|line| line.strip_prefix("Digest: ")).context("a digest")?;
    house.in_place(&["--at", &moment, "--cluster", "--confirm", digest])?.with(0);
    assert_eq!(house.rows(), "1,2");
    assert_eq!(house.server.psql("postgres", "select count(*) from pg_database where datname = 'later'"), "0");
    assert_eq!(house.server.psql("postgres", "select timeline_id from pg_control_checkpoint()"), "2");
    let old = house.kept()?;
    assert_eq!(old.len(), 1, "what was there is kept: {old:?}");
    assert!(old[0].join("out/PG_VERSION").exists());

    // It archives on, on a timeline of its own, from its very beginning; and a base backup has nothing of what is kept.
    house.write(4);
    let into = format!("db={}", house.stage.path("back").display());
    house.stage.windlass(&["restore", "shop", "--at", "latest", "--into", &into, "--yes"])?.with(0);
    let copy = PgCluster::start_from(|to| Ok(std::fs::rename(house.stage.path("back/data"), to)?), &[])?;
    assert_eq!(copy.psql("shop", "select string_agg(id::text, ',' order by id) from orders"), "1,2,4");
    drop(copy);
    house.stage.take()?;
    std::fs::remove_dir_all(house.stage.path("back"))?;
    house.stage.windlass(&["restore", "shop", "--into", &into, "--yes"])?.with(0);
    let names = house.stage.path("back/data").read_dir()?.flatten().map(|entry| entry.file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with(".windlass-")));

    // Back to what was there before.
    let (id, state) = house.newest()?;
    assert_eq!(state, "restored");
    let undo = house.stage.windlass(&["undo", &id, "--plan"])?.with(0).out;
    assert!(undo.contains("put the server in"), "{undo}");
    house.stage.windlass(&["undo", &id, "--yes"])?.with(0).says("take a base backup now");
    assert_eq!(house.server.psql("shop", "select to_regclass('orders') is null"), "t");
    // What is archived leads on to the server that was undone; a base backup of the one that is there ends that.
    let timeline = "the server writes on timeline 1, and what is archived leads to timeline 2";
    let status = || -> Result<String> { Ok(house.stage.windlass(&["status", "shop"])?.out) };
    assert!(status()?.contains(timeline), "{}", status()?);
    house.stage.take()?;
    assert!(!status()?.contains(timeline), "{}", status()?);
    assert_eq!(house.server.psql("postgres", "select count(*) from pg_database where datname = 'later'"), "1");
    house.stage.windlass(&["undo", &id, "--forget", "--yes"])?.with(0);
    assert_eq!(house.kept()?, Vec::<PathBuf>::new());
    Ok(())
}

#[test]
fn tablespaces_and_a_log_on_another_disk_keep_their_places() -> Result<()> {
    let house = House::new("")?;
    let (tablespace, wal) = (house.server.socket().join("fast"), house.server.socket().join("wal"));
    let stop = || Command::new(house.stage.path("stop-db")).status();
    let start = || Command::new(house.stage.path("start-db")).status();
    for folder in [&tablespace, &wal] {
        std::fs::create_dir(folder)?;
        give(folder)?;
    }
    stop()?;
    let inside = house.server.data().join("pg_wal");
    for entry in inside.read_dir()?.flatten() {
        std::fs::rename(entry.path(), wal.join(entry.file_name()))?;
    }
    std::fs::remove_dir(&inside)?;
    std::os::unix::fs::symlink(&wal, &inside)?;
    start()?;
    house.server.psql("postgres", &format!("create tablespace fast location '{}'", tablespace.display()));
    house.server.psql("shop", "create table swift (id int) tablespace fast; insert into swift values (7)");
    house.stage.take()?;
    let moment = house.write(1);
    house.server.psql("shop", "delete from swift; insert into swift values (8)");
    house.write(2);
    house.in_place(&["--at", &moment, "--yes"])?.with(0);
    assert_eq!(house.rows(), "1");
    assert_eq!(house.server.psql("shop", "select id from swift"), "7");
    assert_eq!(std::fs::read_link(&inside)?, wal);
    let at =
        house.server.psql("postgres", "select pg_tablespace_location(oid) from pg_tablespace where spcname = 'fast'");
    assert_eq!(PathBuf::from(at), tablespace);
    let (id, _) = house.newest()?;
    house.stage.windlass(&["undo", &id, "--yes"])?.with(0);
    assert_eq!(house.rows(), "1,2");
    assert_eq!(house.server.psql("shop", "select id from swift"), "8");
    Ok(())
}

fn give(folder: &Path) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        Command::new("chown").arg("-R").arg("postgres:").arg(folder).status()?;
    }
    Ok(())
}

#[test]
fn what_fails_on_the_way_puts_the_server_back_that_was_there() -> Result<()> {
    let house = House::new("checks = [{ component = \"db\", sql = \"select count(*) > 1 from orders\" }]")?;
    house.stage.take()?;
    let moment = house.write(1);
    house.write(2);
    // Checked beside what is there: the server was never stopped.
    let started = house.server.psql("postgres", "select pg_postmaster_start_time()");
    house.in_place(&["--at", &moment, "--yes"])?.with(1).says("select count(*) > 1 from orders");
    assert_eq!(house.server.psql("postgres", "select pg_postmaster_start_time()"), started);
    assert_eq!((house.rows().as_str(), house.kept()?.len()), ("1,2", 0));
    assert_eq!(house.newest()?.1, "put-back");

    // A new server that does not start.
    house.write(3);
    let (start, broken) = (house.stage.path("start-db"), house.stage.path("broken"));
    let text = std::fs::read_to_string(&start)?;
    script(
        &start,
        &format!("[ -e {0} ] && rm {0} && exit 3\n{1}", broken.display(), text.trim_start_matches("#!/bin/sh\n")),
    )?;
    std::fs::write(&broken, "")?;
    house.in_place(&["--at", "latest", "--yes"])?.with(1).says("start the server");
    assert_eq!(house.rows(), "1,2,3");
    assert_eq!(house.newest()?.1, "put-back");
    Ok(())
}

#[test]
fn what_must_not_be_replaced_is_refused() -> Result<()> {
    let house = House::new("")?;
    house.stage.take()?;
    house.write(1);
    house.in_place(&["--only", "db/shop", "--plan"])?.with(2).says("single databases of it are restored aside only");
    // Of another server: its identifier is another one.
    let other = PgCluster::start()?;
    other.psql("postgres", "create database shop");
    let settings = house.stage.path("windlass.toml");
    let text = std::fs::read_to_string(&settings)?;
    let moved = text.replace(&house.server.socket().display().to_string(), &other.socket().display().to_string());
    std::fs::write(&settings, moved)?;
    house.in_place(&["--plan"])?.with(2).says("another server lives in it");
    // Nobody says how it is stopped.
    let lines = text.lines().filter(|line| !line.starts_with("control = "));
    std::fs::write(&settings, lines.map(|line| format!("{line}\n")).collect::<String>())?;
    house.in_place(&["--plan"])?.with(2).says("do not say how the server of db is stopped and started");
    std::fs::write(&settings, text)?;
    // A tablespace that was made behind the base backup lies in a folder that is in use.
    let folder = house.server.socket().join("since");
    std::fs::create_dir(&folder)?;
    give(&folder)?;
    house.server.psql("postgres", &format!("create tablespace since location '{}'", folder.display()));
    house.write(2);
    house.in_place(&["--at", "latest", "--plan"])?.with(2).says("a tablespace was made in");
    let status = house.stage.windlass(&["status", "shop"])?.with(1);
    assert!(status.out.contains("a tablespace was made since the newest base backup"), "{}", status.out);
    Ok(())
}

/// Moments at which it is killed: by name, and some of those within.
const MOMENTS: [&str; 12] = [
    "before LayDown(0)",
    "20",
    "after LayDown(0)",
    "before TakeOut(0)",
    "60",
    "400",
    "after TakeOut(0)",
    "700",
    "after PutIn(0)",
    "before Launch(0)",
    "after Launch(0)",
    "before Prove",
];

#[test]
fn killed_on_the_way_the_same_command_goes_on_and_an_undo_goes_back() -> Result<()> {
    let house = House::new("")?;
    house.stage.take()?;
    let moment = house.write(1);
    house.write(2);
    let again = [&IN_PLACE[..], &["--at", &moment, "--yes"]].concat();
    for (number, at) in MOMENTS.iter().enumerate() {
        let output = house.stage.command(&again).env("WINDLASS_DIE_AT", at).output()?;
        assert_eq!(output.status.signal(), Some(9), "{at}: {}", String::from_utf8_lossy(&output.stderr));
        let (id, state) = house.newest()?;
        eprintln!("killed at {at}: {state}");
        if number % 2 == 0 {
            house.stage.windlass(&again)?.with(0);
            assert_eq!(house.rows(), "1", "{at}");
        }
        house.stage.windlass(&["undo", &id, "--yes"])?.with(0);
        assert_eq!(house.rows(), "1,2", "{at}");
        if house.newest()?.1 == "undone" || !house.kept()?.is_empty() {
            house.stage.windlass(&["undo", &id, "--forget", "--yes"])?.with(0);
        }
        assert_eq!(house.kept()?, Vec::<PathBuf>::new(), "{at}");
    }
    Ok(())
}
