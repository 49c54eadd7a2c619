//! Stories of a server that is brought back to a moment.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(dead_code, clippy::panic, reason = "each file of stories uses what it needs of the stage")]

mod story;

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;

use anyhow::{Context, Result};
use story::archiving::Archive;
use windlass_testkit::postgres::PgCluster;

/// Restores to a moment, and starts a server on what came of it.
fn restored(archive: &Archive, moment: &[&str]) -> Result<PgCluster> {
    let back = archive.stage.path("back");
    let into = format!("db={}", back.display());
    let arguments = [&["restore", "shop", "--into", &into, "--yes"], moment].concat();
    archive.stage.windlass(&arguments)?.with(0);
    let server = PgCluster::start_from(|to| Ok(std::fs::rename(back.join("data"), to)?), &[])?;
    std::fs::remove_dir_all(&back)?;
    Ok(server)
}

fn ids(server: &PgCluster) -> String {
    server.psql("shop", "select string_agg(id::text, ',' order by id) from orders")
}

#[test]
fn every_way_to_name_a_moment_leads_to_exactly_that() -> Result<()> {
    let archive = Archive::new()?;
    let server = &archive.server;
    server.psql("shop", "insert into orders values (1, 'before the base backup')");
    server.psql("postgres", "create database a_first_one_that_is_dropped");
    archive.stage.take()?;
    server.psql("postgres", "drop database a_first_one_that_is_dropped");
    let insert = |id: u32| {
        server.psql("shop", &format!("insert into orders values ({id}, md5('{id}'))"));
        server.psql(
            "shop",
            "select pg_current_wal_lsn(), clock_timestamp(), (select xmin from orders order by id desc limit 1)",
        )
    };
    let fields = |line: &str| line.split('|').map(str::to_owned).collect::<Vec<_>>();
    let second = fields(&insert(2));
    let third = fields(&insert(3));
    server.psql("shop", "select pg_create_restore_point('before it all went wrong')");
    insert(4);
    server.psql("shop", "delete from orders");
    server.psql("shop", "insert into orders values (1, 'after it all')");
    let ended = server.psql("postgres", "select pg_switch_wal()");
    let last = server.psql("postgres", &format!("select pg_walfile_name('{ended}')"));
    archive.wait_for(&last);

    let time = second[1].replace(' ', "T");
    let at = |moment: &[&str]| -> Result<String> { Ok(ids(&restored(&archive, moment)?)) };
    assert_eq!(at(&["--at", &time])?, "1,2", "{second:?}");
    assert_eq!(at(&["--at-lsn", &third[0]])?, "1,2,3");
    assert_eq!(at(&["--at-xid", &second[2]])?, "1,2");
    assert_eq!(at(&["--at-name", "before it all went wrong"])?, "1,2,3");
    // Inside a record, at the end that a switch says, at the border of a segment, and in what fills one up.
    let inside = server.psql("shop", &format!("select '{}'::pg_lsn - 8", third[0]));
    assert_eq!(at(&["--at-lsn", &inside])?, "1,2,3");
    let (switched, border) = (ended.clone(), format!("0/{}000000", &last[23..24]));
    assert_eq!(at(&["--at-lsn", &switched])?, "1");
    assert_eq!(at(&["--at-lsn", &border])?, at(&["--at-lsn", &format!("0/{}000028", &last[23..24])])?);
    let newest = restored(&archive, &["--at", "latest"])?;
    assert_eq!(ids(&newest), "1", "what came after it all");
    assert_eq!(newest.psql("postgres", "show archive_mode"), "off");
    assert_eq!(newest.psql("postgres", "show restore_command"), "");
    assert!(!newest.data().join("recovery.signal").exists());
    // Without a moment it is the point's own, and what more there is is said.
    let into = format!("db={}", archive.stage.path("aside").display());
    let plan = archive.stage.windlass(&["restore", "shop", "--into", &into, "--plan"])?.with(0);
    assert!(plan.out.contains("`--at latest` has it recovered up to there"), "{}", plan.out);
    Ok(())
}

#[test]
fn a_server_is_left_at_a_moment_to_be_looked_at_and_goes_on_when_it_is_told() -> Result<()> {
    let archive = Archive::new()?;
    archive.stage.take()?;
    archive.switch();
    let moment = archive.server.psql("shop", "select pg_current_wal_lsn()");
    archive.switch();
    let last = archive.switch();
    archive.wait_for(&last);
    let mut server = restored(&archive, &["--at-lsn", &moment, "--pause"])?;
    let stays = "select pg_is_in_recovery(), pg_is_wal_replay_paused()";
    story::wait_until("it to have come there", || server.psql("postgres", stays) == "t|t");
    assert_eq!(ids(&server), "1");
    let refused = server.try_psql("shop", "insert into orders values (7, 'not now')").unwrap_err().to_string();
    assert!(refused.contains("read-only"), "{refused}");
    server.down();
    server.up()?;
    story::wait_until("it to have come there again", || server.psql("postgres", stays) == "t|t");
    assert_eq!(ids(&server), "1");
    server.psql("postgres", "select pg_wal_replay_resume()");
    let server = server.recovered()?;
    server.psql("shop", "insert into orders values (7, 'now')");
    assert_eq!(ids(&server), "1,7");
    assert_eq!(server.psql("postgres", "show archive_mode"), "off");

    let into = format!("db={}", archive.stage.path("back").display());
    let pause = |more: &[&str]| archive.stage.windlass(&[&["restore", "shop", "--pause", "--plan"], more].concat());
    pause(&["--into", &into])?.with(2);
    pause(&["--in-place", "--at", "latest"])?.with(2);
    pause(&["--into", &into, "--at", "latest", "--standby"])?.with(2);
    let plan = pause(&["--into", &into, "--at", "latest"])?.with(0);
    assert!(plan.out.contains("where it stays paused"), "{}", plan.out);
    Ok(())
}

#[test]
fn clusters_of_other_segments_and_without_checksums_come_back_as_well() -> Result<()> {
    for size in ["--wal-segsize=1", "--wal-segsize=128"] {
        let server = PgCluster::made_with(&[size], &["archive_mode=on", "wal_level=replica"])?;
        assert_eq!(server.psql("postgres", "show data_checksums"), "off");
        let archive = Archive::of(server, "", Ok)?;
        archive.stage.take()?;
        archive.switch();
        let many = "insert into orders select n, repeat(md5(n::text), 9) from generate_series(10, 9000) n";
        archive.server.psql("shop", many);
        let (moment, rows) =
            (archive.server.psql("shop", "select pg_current_wal_lsn()"), "select count(*) from orders");
        let expected = archive.server.psql("shop", rows);
        archive.switch();
        let last = archive.switch();
        archive.wait_for(&last);
        archive.stage.windlass(&["verify", "shop", "--deep"])?.with(0);
        assert_eq!(restored(&archive, &["--at-lsn", &moment])?.psql("shop", rows), expected, "{size}");
        assert_eq!(restored(&archive, &["--at", "latest"])?.psql("shop", rows), archive.server.psql("shop", rows));
    }
    Ok(())
}

#[test]
fn a_moment_that_is_not_there_is_refused_and_the_nearest_is_named() -> Result<()> {
    let archive = Archive::new()?;
    let server = &archive.server;
    archive.stage.take()?;
    let last = archive.switch();
    archive.wait_for(&last);
    let ended = server.psql("shop", "select max(id) from orders");
    assert_eq!(ended, "1");
    let into = format!("db={}", archive.stage.path("back").display());
    let refused =
        |moment: &[&str]| archive.stage.windlass(&[&["restore", "shop", "--into", &into, "--plan"], moment].concat());
    refused(&["--at", "2031-01-01T00:00:00Z"])?.with(2).says("the last transaction in it ended at 20");
    refused(&["--at", "2001-01-01T00:00:00Z"])?.with(2).says("at or before that time: the oldest stands for 20");
    refused(&["--at-lsn", "0/1000028"])?.with(2).says("where the base backup is consistent");
    refused(&["--at-lsn", "7/1000028"])?.with(2).says("ends at 0/");
    refused(&["--at-xid", "4000000"])?.with(2).says("it is not in the WAL");
    refused(&["--at-name", "nothing"])?.with(2).says("the restore point `nothing`");
    refused(&["--at", "latest", "--timeline", "7"])?.with(2).says("timeline 7 is not in the archive");
    refused(&["--at", "latest", "--at-lsn", "0/3000000"])?.with(2);

    // A gap: what is before it can be had, what is behind cannot.
    let names: Vec<String> = (0..4).map(|_| archive.switch()).collect();
    archive.wait_for(&names[3]);
    std::fs::remove_file(archive.object(&names[2])?)?;
    let plan = archive.stage.windlass(&["restore", "shop", "--into", &into, "--at", "latest", "--yes"])?.with(0);
    assert!(plan.out.contains(&format!("the WAL segment {} is missing", names[2])), "{}", plan.out);
    let restored = PgCluster::start_from(|to| Ok(std::fs::rename(archive.stage.path("back/data"), to)?), &[])?;
    assert_eq!(
        restored.psql("shop", "select max(id) from orders"),
        "3",
        "the fourth went with the segment that is missing"
    );
    refused(&["--at", "2031-01-01T00:00:00Z"])?
        .with(2)
        .says(&format!("the segment {} is missing or ends too early", names[2]));
    Ok(())
}

/// Moments that are tried.
const MOMENTS: usize = 100;

#[test]
fn a_hundred_moments_hold_exactly_what_was_committed_by_then() -> Result<()> {
    let archive = Archive::with(&["track_commit_timestamp=on"])?;
    let server = &archive.server;
    archive.stage.take()?;
    // A row every 10 ms, and where the log had come to when it was there.
    server.psql("shop", "create table written (id int primary key, lsn pg_lsn, note text)");
    let writer = "do $$ begin for n in 1..1500 loop \
        insert into written values (n, null, repeat(md5(n::text), 50)); commit; \
        update written set lsn = pg_current_wal_lsn() where id = n; commit; \
        perform pg_sleep(0.008); \
        if n % 300 = 0 then perform pg_switch_wal(); end if; end loop; end $$";
    server.psql("shop", writer);
    let last = archive.switch();
    archive.wait_for(&last);

    let span = server.psql(
        "shop",
        "select extract(epoch from min(at)) * 1000000, extract(epoch from max(at)) * 1000000 \
         from (select pg_xact_commit_timestamp(xmin) at from written) t",
    );
    let (from, to) = span.split_once('|').unwrap();
    let micros = |text: &str| text.split('.').next().unwrap_or_default().parse::<u64>();
    let (from, to) = (micros(from)?, micros(to)?);
    let mut seed = 42_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 20) % below
    };
    // By the rows as they were first written: what updates them is another transaction.
    let mut wanted = Vec::new();
    for number in 0..MOMENTS {
        if number % 2 == 0 {
            let at = format!("to_timestamp({} / 1000000.0)", from + random(to - from));
            let asked = format!("select to_char({at} at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')");
            let done = format!("select count(*) from written where pg_xact_commit_timestamp(xmin) <= {at}");
            let (asked, done) = (server.psql("shop", &asked), server.psql("shop", &done));
            wanted.push(("--at", asked, "select count(*) from written where lsn is not null", done));
        } else {
            let row = 1 + random(1499);
            let asked = server.psql("shop", &format!("select lsn from written where id = {row}"));
            wanted.push(("--at-lsn", asked, "select count(*) from written", row.to_string()));
        }
    }
    let (one, other) = wanted.split_at(MOMENTS / 2);
    let tried = |name: &str, moments: &[(&str, String, &str, String)]| -> Result<()> {
        for (option, moment, question, rows) in moments {
            let back = archive.stage.path(name);
            let into = format!("db={}", back.display());
            archive.stage.windlass(&["restore", "shop", "--into", &into, "--yes", option, moment])?.with(0);
            let server = PgCluster::start_from(|to| Ok(std::fs::rename(back.join("data"), to)?), &[])?;
            assert_eq!(server.psql("shop", question), *rows, "{option} {moment}");
            std::fs::remove_dir_all(&back)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let one = scope.spawn(|| tried("one", one));
        let other = scope.spawn(|| tried("other", other));
        one.join().unwrap().and(other.join().unwrap())
    })
}

#[test]
fn every_timeline_can_be_followed_and_a_time_between_two_is_not_guessed() -> Result<()> {
    let archive = Archive::new()?;
    let server = &archive.server;
    let now = |server: &PgCluster| server.psql("postgres", "select clock_timestamp()").replace(' ', "T");
    archive.stage.take()?;
    server.psql("shop", "insert into orders values (1, 'on the first timeline')");
    let branch = now(server);
    server.psql("shop", "insert into orders values (2, 'that nobody was to see')");
    let lost = now(server);
    let place = server.psql("postgres", "select pg_current_wal_lsn()");
    server.psql("shop", "insert into orders values (3, 'still on the first')");
    let last = archive.switch();
    archive.wait_for(&last);

    // The server is put back to the moment of the branch, and goes on from there.
    let second = restored(&archive, &["--at", &branch])?;
    assert_eq!(ids(&second), "1");
    let command = server.psql("postgres", "show archive_command");
    second.psql("postgres", &format!("alter system set archive_command = '{command}'"));
    second.psql("postgres", "alter system set archive_mode = 'on'");
    let second = again(second)?;
    let between = now(&second);
    second.psql("shop", "insert into orders values (20, 'on the second timeline')");
    let last = second.psql("postgres", "select pg_walfile_name(pg_switch_wal())");
    assert!(last.starts_with("00000002"), "{last}");
    archive.wait_for(&last);

    // The first one is there yet, and what it writes from now on is not what is restored.
    let status = archive.stage.windlass(&["status", "shop"])?.with(1);
    assert!(status.out.contains("writes on timeline 1, and what is archived leads to timeline 2"), "{}", status.out);
    assert_eq!(ids(&restored(&archive, &["--at", "latest"])?), "1,20");
    assert_eq!(ids(&restored(&archive, &["--at", &lost])?), "1,2", "the second timeline had not begun by then");
    assert_eq!(ids(&restored(&archive, &["--at", "latest", "--timeline", "1"])?), "1,2,3,4");
    let into = format!("db={}", archive.stage.path("back").display());
    let between = archive.stage.windlass(&["restore", "shop", "--into", &into, "--at", &between, "--plan"])?.with(2);
    between.says("it is between timelines").says("--timeline");
    // One that was left paused asks nobody, and takes none that there is either.
    let paused = restored(&archive, &["--at-lsn", &place, "--timeline", "1", "--pause"])?;
    story::wait_until("it to be paused", || paused.psql("postgres", "select pg_is_wal_replay_paused()") == "t");
    assert_eq!(ids(&paused), "1,2");
    paused.psql("postgres", "select pg_wal_replay_resume()");
    let paused = paused.recovered()?;
    assert_eq!(paused.psql("postgres", "select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"), "00000003");
    // The next life begins on a timeline of its own.
    let third = restored(&archive, &["--at", "latest"])?;
    assert_eq!(third.psql("postgres", "select timeline_id from pg_control_checkpoint()"), "3");
    Ok(())
}

/// Started again, as settings want that were changed.
fn again(mut server: PgCluster) -> Result<PgCluster> {
    server.down();
    server.up()?;
    Ok(server)
}

#[test]
fn wal_goes_only_where_nothing_that_is_there_needs_it() -> Result<()> {
    let archive = Archive::new()?;
    let stage = &archive.stage;
    // What is before the first base backup was stored before it.
    let first = archive.switch();
    archive.wait_for(&first);
    let bases: Vec<(String, String)> = (0..3)
        .map(|_| {
            let point = stage.take().unwrap();
            let between: Vec<String> = (0..3).map(|_| archive.switch()).collect();
            archive.wait_for(&between[2]);
            (point, between[1].clone())
        })
        .collect();
    // Without rules nothing goes, whatever nobody needs.
    let plan = stage.windlass(&["--output", "json", "retention", "plan", "shop"])?.with(0).json();
    assert!(plan["wal"].is_null(), "{plan:#}");
    let with_rules = |rules: &str| -> Result<()> {
        let settings = std::fs::read_to_string(stage.path("windlass.toml"))?;
        let settings = settings.split("[policy.brief]").next().unwrap().to_owned();
        let settings = settings
            .replace("policy = \"brief\"\n", "")
            .replace("[application.shop]\n", "[application.shop]\npolicy = \"brief\"\n");
        Ok(std::fs::write(stage.path("windlass.toml"), format!("{settings}[policy.brief]\nretention = {rules}\n"))?)
    };
    with_rules("{ daily = 9, pitr = \"7d\" }")?;
    let plan = stage.windlass(&["--output", "json", "retention", "plan", "shop"])?.with(0).json();
    let before = plan["wal"][0]["before"].as_str().context("what is before the first base backup")?;
    assert!(before > first.as_str() && archive.archived(before), "{plan:#}");

    std::thread::sleep(std::time::Duration::from_secs(1));
    with_rules("{ daily = 9, pitr = \"1s\" }")?;
    let plan = stage.windlass(&["retention", "plan", "shop"])?.with(0);
    assert!(plan.out.contains("DELETE at once") && plan.out.contains("files of WAL of db"), "{}", plan.out);
    assert!(archive.archived(&bases[0].1), "a plan deletes nothing");
    stage.windlass(&["retention", "apply", "shop"])?.with(2);
    assert!(archive.archived(&bases[0].1), "nor does what nobody confirmed");
    stage.windlass(&["retention", "apply", "shop", "--yes"])?.with(0);
    assert!(!archive.archived(&bases[0].1) && !archive.archived(&bases[1].1), "what lay between");
    assert!(archive.archived(&bases[2].1), "what the newest leads on to");
    // Each base backup still comes back, to its own end; the newest to the end of all.
    for (point, _) in &bases {
        let server = restored(&archive, &["--point", point])?.recovered()?;
        assert_eq!(server.psql("postgres", "select pg_is_in_recovery()"), "f");
    }
    assert_eq!(restored(&archive, &["--at", "latest"])?.psql("shop", "select max(id) from orders"), "10");
    stage.windlass(&["repo", "check", "--read-data"])?.with(0);
    stage.windlass(&["verify", "shop"])?.with(0);
    Ok(())
}

#[test]
fn a_restore_that_was_killed_goes_on_where_it_was() -> Result<()> {
    let archive = Archive::new()?;
    archive.server.psql("shop", "create table much as select n, md5(n::text) from generate_series(1, 100000) n");
    archive.stage.take()?;
    for _ in 0..3 {
        archive.wait_for(&archive.switch());
    }
    let back = archive.stage.path("back");
    let into = format!("db={}", back.display());
    let of_a_file = |name: &str| -> Result<(u64, i64)> {
        let meta = back.join("data").join(name).metadata()?;
        Ok((meta.ino(), meta.mtime_nsec()))
    };
    let (latest, paused) = (&["--at", "latest"][..], &["--at", "latest", "--pause"][..]);
    for (at, moment) in [
        ("1", latest),
        ("after \"lay down\"", latest),
        ("after \"recover\"", latest),
        ("after \"lay down\"", paused),
        ("after \"recover\"", paused),
        ("after \"stay\"", paused),
        ("1", &[]),
        ("after \"lay down\"", &[]),
    ] {
        let asked = [&["restore", "shop", "--into", &into], moment].concat();
        let run = [&asked[..], &["--yes"]].concat();
        let killed = archive.stage.command(&run).env("WINDLASS_DIE_AT", at).output()?;
        assert_eq!(killed.status.signal(), Some(9), "{at}: {}", String::from_utf8_lossy(&killed.stderr));
        let before = of_a_file("PG_VERSION").ok();
        // Another restore does not go on with it.
        let other = ["restore", "shop", "--into", &into, "--at-lsn", "0/5000028", "--plan"];
        archive.stage.windlass(&other)?.with(2).says("another restore was begun and did not come to its end");
        let plan = archive.stage.windlass(&[&asked[..], &["--plan"]].concat())?.with(0);
        assert!(plan.out.contains("go on laying down base backup"), "{at}: {}", plan.out);
        archive.stage.windlass(&run)?.with(0);
        if at != "1" {
            assert_eq!(of_a_file("PG_VERSION").ok(), before, "what was laid down is not laid down again");
        }
        assert!(!back.join(".windlass-restore").exists());
        let server = PgCluster::start_from(|to| Ok(std::fs::rename(back.join("data"), to)?), &[])?;
        assert_eq!(server.psql("shop", "select count(*) from much"), "100000", "{at}");
        let orders = if moment.is_empty() { "0" } else { "3" };
        if moment == paused {
            let stays = "select pg_is_in_recovery(), pg_is_wal_replay_paused()";
            story::wait_until("it to have come there", || server.psql("postgres", stays) == "t|t");
        }
        assert_eq!(server.psql("shop", "select count(*) from orders"), orders, "{at}");
        drop(server);
        std::fs::remove_dir_all(&back)?;
    }
    // Where more was archived meanwhile, `latest` is another moment; the place that its plan said is still there.
    let asked = ["restore", "shop", "--into", &into];
    let plan = [&["--output", "json"], &asked[..], latest, &["--plan"]].concat();
    let planned = archive.stage.windlass(&plan)?.with(0).json();
    let end = planned["plan"]["steps"][0]["recover"]["reach"]["end"].as_str().context("where it ends")?.to_owned();
    let run = [&asked[..], latest, &["--yes"]].concat();
    archive.stage.command(&run).env("WINDLASS_DIE_AT", "after \"lay down\"").output()?;
    archive.wait_for(&archive.switch());
    archive.stage.windlass(&run)?.with(2).says("--at-lsn");
    archive.stage.windlass(&[&asked[..], &["--at-lsn", &end, "--yes"]].concat())?.with(0);
    let server = PgCluster::start_from(|to| Ok(std::fs::rename(back.join("data"), to)?), &[])?;
    assert_eq!(server.psql("shop", "select count(*) from orders"), "3");
    Ok(())
}
