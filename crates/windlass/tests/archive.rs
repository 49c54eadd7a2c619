//! Stories of a server whose WAL is archived as it is written, and fetched from there.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(dead_code, clippy::panic, reason = "each file of stories uses what it needs of the stage")]

mod story;

use anyhow::{Context, Result};
use story::archiving::{Archive, binary};
use story::wait_until;
use windlass_testkit::postgres::PgCluster;

#[test]
fn all_wal_is_archived_and_a_server_recovers_by_it_to_the_end() -> Result<()> {
    let archive = Archive::new()?;
    archive.stage.take()?;
    for round in 0..6 {
        let from = round * 1000 + 10;
        archive.server.psql(
            "shop",
            &format!("insert into orders select n, md5(n::text) from generate_series({from}, {from} + 900) n"),
        );
        archive.switch();
    }
    let last = archive.switch();
    archive.wait_for(&last);
    assert_eq!(archive.server.psql("postgres", "select failed_count from pg_stat_archiver"), "0", "{}", archive.said());
    let rows = archive.server.psql("shop", "select count(*), max(id) from orders");
    let restored = archive.restored(&archive.fetch())?.recovered()?;
    assert_eq!(restored.psql("shop", "select count(*), max(id) from orders"), rows);
    assert_eq!(restored.psql("postgres", "select timeline_id from pg_control_checkpoint()"), "2");
    archive.stage.windlass(&["repo", "check"])?.with(0);
    Ok(())
}

#[test]
fn nothing_that_goes_wrong_is_taken_for_the_end_of_the_archive() -> Result<()> {
    let mut archive = Archive::new()?;
    archive.stage.take()?;
    let (before, middle, last) = (archive.switch(), archive.switch(), archive.switch());
    archive.wait_for(&last);
    let rows = archive.server.psql("shop", "select count(*) from orders");
    let fetch = archive.fetch().replace("%f", "$1").replace("%p", "$2");
    let script = archive.script(&fetch)?;
    let away = archive.stage.path("away");
    let stored = archive.object(&middle)?;
    std::fs::rename(&stored, &away)?;
    // The gap is met first; the server ends, and stays what it is.
    let command = format!("{} %f %p", script.display());
    let told = archive.restored(&command).err().context("it must not come up")?;
    assert!(format!("{told:#}").contains("gap"), "{told:#}");
    let kept = archive.stage.path("kept");
    let into = format!("db={}", kept.display());
    archive.stage.windlass(&["restore", "shop", "--into", &into, "--yes"])?.with(0);
    let settings = [&*format!("restore_command={command}")];
    let try_it = || PgCluster::start_from(|to| copy(&kept.join("data"), to), &settings);
    let never = |what: &str| -> Result<()> {
        let told = try_it().err().with_context(|| format!("{what}: it must not come up"))?;
        let told = format!("{told:#}");
        let is_refused = told.contains(what) && told.contains("FATAL:  could not restore file");
        assert!(is_refused && !told.contains("selected new timeline"), "{what}: {told}");
        Ok(())
    };
    never("the archive has a gap")?;
    std::fs::write(&stored, b"no segment at all")?;
    never("it ends too early")?;
    let mut damaged = std::fs::read(&away)?;
    let at = damaged.len() / 2;
    damaged[at] ^= 1;
    std::fs::write(&stored, damaged)?;
    never("its first bytes are damaged")?;
    std::fs::copy(archive.object(&before)?, &stored)?;
    never("WDL-1612")?;
    std::fs::remove_file(&stored)?;
    std::fs::rename(&away, &stored)?;
    let wrong_from =
        |arguments: &str| format!("case $1 in {middle}) exec {binary} {arguments} ;; esac; {fetch}", binary = binary());
    let socket = archive.socket();
    let at = format!("--socket {}", socket.display());
    let nowhere = archive.server.socket().join("nowhere.sock");
    let settings_of_root = archive.stage.path("windlass.toml");
    for (what, arguments) in [
        ("unexpected argument", format!("wal-fetch --component shop/db {at} --nonsense $1 $2")),
        ("required arguments", format!("wal-fetch --component shop/db {at} $1")),
        ("WDL-3401", format!("wal-fetch --component shop/cache {at} $1 $2")),
        ("is this the place?", format!("wal-fetch --component shop/db --cluster 1 {at} $1 $2")),
        ("find the cluster of", format!("wal-fetch --component shop/db {at} $1 /nowhere/at/all")),
        ("WDL-0011", format!("wal-fetch --component shop/db --cluster 1 {at} $1 /nowhere/at/all")),
        ("find the settings", format!("wal-fetch --component shop/db --socket {} $1 $2", nowhere.display())),
        (
            "Permission denied",
            format!(
                "--config {} wal-fetch --component shop/db --socket {} $1 $2",
                settings_of_root.display(),
                nowhere.display()
            ),
        ),
        ("find the settings", "wal-fetch --component theirs $1 $2".to_owned()),
    ] {
        archive.script(&wrong_from(&arguments))?;
        never(what)?;
    }
    // No thread can be had: the runtime panics.
    archive.script(&format!(
        "case $1 in {middle}) exec prlimit --nproc=1 {} wal-fetch --component theirs $1 $2 ;; esac; {fetch}",
        binary()
    ))?;
    never("panicked")?;
    archive.script(&format!("case $1 in {middle}) {fetch} & kill -9 $!; wait $!; exit ;; esac; {fetch}"))?;
    never("exit code 137")?;
    archive.script(&fetch)?;
    archive.serving = None;
    never("nobody listens at")?;
    archive.serve()?;
    std::fs::rename(archive.stage.path("repository"), &away)?;
    never("WDL-1211")?;
    std::fs::rename(&away, archive.stage.path("repository"))?;
    let restored = try_it()?.recovered()?;
    assert_eq!(restored.psql("shop", "select count(*) from orders"), rows);
    Ok(())
}

#[test]
fn what_was_not_stored_stays_with_the_server_until_it_can_be() -> Result<()> {
    let mut archive = Archive::new()?;
    let first = archive.switch();
    archive.wait_for(&first);
    // Nobody listens; then there is much to do at once.
    archive.serving = None;
    let waiting: Vec<String> = (0..8).map(|_| archive.switch()).collect();
    let failed = || archive.server.psql("postgres", "select failed_count from pg_stat_archiver");
    wait_until("PostgreSQL to notice", || failed() != "0");
    assert!(!waiting.iter().any(|name| archive.archived(name)));
    archive.serve()?;
    for name in &waiting {
        archive.wait_for(name);
    }

    // Its disk is not mounted. Nothing is under way just then.
    let asked = "select count(*) from pg_ls_archive_statusdir() where name like '%.ready'";
    wait_until("PostgreSQL to have heard of all", || archive.server.psql("postgres", asked) == "0");
    let (place, away) = (archive.stage.path("repository"), archive.stage.path("away"));
    std::fs::rename(&place, &away)?;
    let kept = archive.switch();
    wait_until("it to be told", || archive.said().contains("WDL-1211"));
    assert!(!place.exists(), "nothing is made in its stead");
    std::fs::rename(&away, &place)?;
    archive.wait_for(&kept);

    // Killed again and again, nothing is lost.
    for _ in 0..5 {
        archive.switch();
        archive.serving = None;
        archive.serve()?;
    }
    let last = archive.switch();
    archive.wait_for(&last);
    archive.stage.windlass(&["repo", "check", "--read-data"])?.with(0);
    Ok(())
}

#[test]
fn what_the_store_does_not_take_waits_in_a_spool_that_has_a_bound() -> Result<()> {
    let mut archive = Archive::with_both(&[], "spool = \"100KiB\"")?;
    let first = archive.switch();
    archive.wait_for(&first);
    let (place, away) = (archive.stage.path("repository"), archive.stage.path("away"));
    std::fs::rename(&place, &away)?;
    let archived =
        |archive: &Archive| archive.server.psql("postgres", "select last_archived_wal from pg_stat_archiver");
    let waits = archive.switch();
    wait_until("the server not to keep it", || archived(&archive) == waits);
    let told = archive.said();
    assert!(told.contains("waits on this machine"), "{told}");
    // What cannot be had from the store can be had from here.
    let back = archive.server.socket().join("back");
    std::fs::create_dir(&back)?;
    let fetched = archive.stage.windlass(&[
        "wal-fetch",
        "--component",
        "shop/db",
        "--cluster",
        &archive.server.psql("postgres", "select system_identifier from pg_control_system()"),
        "--socket",
        archive.socket().to_str().context("UTF-8")?,
        &waits,
        back.join("segment").to_str().context("UTF-8")?,
    ])?;
    fetched.with(0);
    assert_eq!(std::fs::read(back.join("segment"))?.len(), 16 << 20);
    // It is full of what does not compress; the server keeps the rest.
    archive.server.psql("shop", "insert into orders select n, gen_random_uuid() || repeat(gen_random_uuid()::text, 9) from generate_series(100, 20000) n");
    let kept = archive.switch();
    wait_until("the bound to be told", || archive.said().contains("WDL-3405"));
    assert_ne!(archived(&archive), kept);
    // Killed meanwhile, what waits is not forgotten; nor given up where it cannot be looked at.
    archive.serving = None;
    std::fs::rename(&away, &place)?;
    archive.serve_with(&[("TMPDIR", "/nowhere")])?;
    wait_until("it to be told", || archive.said().contains("the spool stays"));
    let spooled = walk(&archive.stage.path("state/spool/shop.db"));
    assert!(spooled.iter().any(|file| file.display().to_string().contains(&waits)), "{spooled:?}");
    assert!(!spooled.iter().any(|file| file.display().to_string().contains("refused")), "{spooled:?}");
    archive.serve()?;
    archive.wait_for(&waits);
    archive.wait_for(&kept);
    let spool = archive.stage.path("state/spool/shop.db");
    wait_until("the spool to be empty", || walk(&spool).iter().all(|file| file.is_dir()));
    archive.stage.windlass(&["repo", "check", "--read-data"])?.with(0);
    // Where nobody can say what waits, nobody says that the archive ends.
    archive.serving = None;
    std::fs::remove_dir_all(&spool)?;
    let cluster = archive.server.psql("postgres", "select system_identifier from pg_control_system()");
    let fetch = || {
        let (socket, to) = (archive.stage.path("nobody.sock"), back.join("none"));
        let (socket, to) = (socket.display().to_string(), to.display().to_string());
        let at = ["wal-fetch", "--component", "shop/db", "--cluster", &cluster, "--socket", &socket];
        archive.stage.windlass(&[&at[..], &["0000000100000000000000FF", &to]].concat())
    };
    fetch()?.with(1);
    std::fs::write(&spool, "no folder")?;
    fetch()?.with(126).says("cannot be seen");
    Ok(())
}

#[test]
fn killed_at_any_step_of_a_push_what_was_acknowledged_is_there() -> Result<()> {
    let mut archive = Archive::with_both(&[], "spool = \"64MiB\"")?;
    archive.stage.take()?;
    let spool = archive.stage.path("state/spool/shop.db");
    let waits = || walk(&spool).into_iter().filter(|file| file.is_file()).map(|file| file.display().to_string());
    let mut killed = 0;
    loop {
        archive.serve_with(&[("WINDLASS_DIE_AT", &(killed + 1).to_string())])?;
        // One segment while its store is there, one while it is away, and then it is there again.
        let mut lives = true;
        let mut until = |archive: &mut Archive, so: &dyn Fn(&Archive) -> bool| -> Result<()> {
            wait_until("it to be so, or the end of who serves", || {
                let has_ended = archive.serving.as_mut().is_none_or(|serving| serving.has_ended().unwrap_or(true));
                lives &= !has_ended;
                has_ended || so(archive)
            });
            Ok(())
        };
        let first = archive.switch();
        until(&mut archive, &|archive| archive.acknowledged(&first))?;
        let (place, away) = (archive.stage.path("repository"), archive.stage.path("away"));
        std::fs::rename(&place, &away)?;
        let second = archive.switch();
        until(&mut archive, &|archive| archive.acknowledged(&second))?;
        std::fs::rename(&away, &place)?;
        until(&mut archive, &|_| waits().count() == 0)?;
        for name in [&first, &second] {
            let is_kept = archive.archived(name) || waits().any(|waiting| waiting.contains(name));
            assert!(is_kept || !archive.acknowledged(name), "at step {}: {name} is nowhere", killed + 1);
        }
        if lives {
            break;
        }
        killed += 1;
        archive.serve()?;
        let last = archive.switch();
        for name in [&first, &second, &last] {
            archive.wait_for(name);
        }
        wait_until("the spool to be empty", || waits().count() == 0);
    }
    eprintln!("killed at {killed} steps");
    assert!(killed >= 10, "only {killed} steps");
    archive.serve()?;
    archive.stage.windlass(&["repo", "check", "--read-data"])?.with(0);
    let last = archive.switch();
    archive.wait_for(&last);
    let rows = archive.server.psql("shop", "select count(*), max(id) from orders");
    let restored = archive.restored(&archive.fetch())?.recovered()?;
    assert_eq!(restored.psql("shop", "select count(*), max(id) from orders"), rows);
    Ok(())
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries: Vec<_> = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    let below: Vec<_> = entries.iter().flat_map(|entry| walk(entry)).collect();
    entries.into_iter().chain(below).collect()
}

#[test]
fn nothing_is_overwritten_and_nobody_elses_wal_is_taken() -> Result<()> {
    let archive = Archive::new()?;
    let first = archive.switch();
    archive.wait_for(&first);
    let stored = archive.object(&first)?;
    let next = archive.server.psql("postgres", "select pg_walfile_name(pg_current_wal_insert_lsn())");
    let taken = stored.with_file_name(format!("{next}.zst"));
    std::fs::copy(&stored, &taken)?;
    assert_eq!(archive.switch(), next);
    wait_until("it to be refused", || archive.said().contains("WDL-1615"));
    assert_eq!(std::fs::read(&taken)?, std::fs::read(&stored)?);
    assert_ne!(archive.server.psql("postgres", "select failed_count from pg_stat_archiver"), "0");
    std::fs::remove_file(&taken)?;
    archive.wait_for(&next);
    // Nor does one that is compressed otherwise go unseen.
    let another = archive.server.psql("postgres", "select pg_walfile_name(pg_current_wal_insert_lsn())");
    let taken = stored.with_file_name(format!("{another}.lz4"));
    std::fs::copy(&stored, &taken)?;
    let failed = "select failed_count from pg_stat_archiver";
    let before = archive.server.psql("postgres", failed);
    assert_eq!(archive.switch(), another);
    wait_until("it to be refused", || archive.server.psql("postgres", failed) != before);
    assert!(!archive.archived(&another), "{}", archive.said());
    std::fs::remove_file(&taken)?;
    archive.wait_for(&another);
    // Asked for once more it is found to be the same.
    let path = archive.server.data().join("pg_wal").join(&next);
    let socket = archive.socket();
    let push = |path: &std::path::Path| {
        let mut push = std::process::Command::new(binary());
        push.args(["wal-push", "--component", "shop/db", "--socket"]).arg(&socket).arg(path);
        push
    };
    assert!(push(&path).status()?.success());

    let other = PgCluster::start()?;
    let segment = other.psql("postgres", "select pg_walfile_name(pg_switch_wal())");
    let told = push(&other.data().join("pg_wal").join(segment)).output()?;
    assert_eq!(told.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&told.stderr).contains("WDL-3403"), "{}", String::from_utf8_lossy(&told.stderr));

    if rustix::process::geteuid().is_root() {
        let like_it = tempfile::Builder::new().prefix("wl-like-").tempdir_in("/tmp")?;
        for (from, to) in [("global/pg_control".to_owned(), "global"), (format!("pg_wal/{next}"), "pg_wal")] {
            std::fs::create_dir(like_it.path().join(to))?;
            copy(&archive.server.data().join(from), &like_it.path().join(to))?;
        }
        let open_to_all = std::process::Command::new("chmod").args(["-R", "a+rX"]).arg(like_it.path()).status()?;
        assert!(open_to_all.success());
        let mut nobody = std::process::Command::new("setpriv");
        nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(binary());
        nobody.args(["wal-push", "--component", "shop/db", "--socket"]).arg(&socket);
        let told = nobody.arg(like_it.path().join("pg_wal").join(&next)).output()?;
        assert!(
            String::from_utf8_lossy(&told.stderr).contains("WDL-3402"),
            "{}",
            String::from_utf8_lossy(&told.stderr)
        );
    }
    Ok(())
}

fn copy(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    anyhow::ensure!(status.success(), "cp failed");
    Ok(())
}

#[test]
fn status_goes_by_the_newest_moment_that_can_be_restored() -> Result<()> {
    let archive = Archive::with(&["archive_timeout=60"])?;
    archive.stage.take()?;
    archive.stage.windlass(&["drill", "shop"])?.with(0);
    let status = || -> Result<serde_json::Value> {
        Ok(archive.stage.windlass(&["--output", "json", "status", "shop"])?.json()[0].clone())
    };
    let last = archive.switch();
    archive.wait_for(&last);
    let doctor = || -> Result<serde_json::Value> {
        let found = archive.stage.windlass(&["--output", "json", "doctor"])?.json();
        let wal = found.as_array().and_then(|all| all.iter().find(|finding| finding["what"] == "shop/db: WAL"));
        Ok(wal.context("of WAL")?.clone())
    };
    assert_eq!(doctor()?["good"], true);
    std::thread::sleep(std::time::Duration::from_secs(3));
    let idle = status()?;
    assert_eq!(idle["protected"], true, "{idle:#}");
    let rpo = |status: &serde_json::Value| status["components"][0]["rpo_seconds"].as_i64();
    assert!(rpo(&idle).is_some_and(|seconds| seconds <= 1), "nothing was written since: {idle:#}");

    // What was written and is not archived yet counts from the last transaction that is.
    archive.server.psql("shop", "insert into orders values (1000, 'not archived yet')");
    let busy = status()?;
    assert!(rpo(&busy).is_some_and(|seconds| (3..30).contains(&seconds)), "{busy:#}");

    // A rehearsal replays what is archived: all of it, or as far as a place in it.
    let (missing, last) = (archive.switch(), archive.switch());
    archive.wait_for(&last);
    let drilled = archive.stage.windlass(&["--output", "json", "drill", "shop"])?.with(0).json();
    let end = status()?["components"][0]["reached"]["end"].as_str().context("its end")?.to_owned();
    let checked = drilled["components"][0]["checked"].to_string();
    assert!(checked.contains(&format!("recovered up to {end}")), "{end}: {drilled:#}");
    assert!(drilled["drill"]["rpo_ms"].as_u64().is_some_and(|rpo| rpo < 60_000), "{drilled:#}");
    archive.stage.windlass(&["verify", "shop", "--deep"])?.with(0);
    let (stored, away) = (archive.object(&missing)?, archive.stage.path("segment"));
    std::fs::rename(&stored, &away)?;
    std::fs::write(&stored, "no segment at all")?;
    archive.stage.windlass(&["drill", "shop"])?.with(1);
    // One bit of it is enough, and is found before anybody needs it.
    let mut damaged = std::fs::read(&away)?;
    let at = damaged.len() * 3 / 4;
    damaged[at] ^= 1;
    std::fs::write(&stored, damaged)?;
    let found = archive.stage.windlass(&["verify", "shop"])?.with(1);
    assert!(found.out.contains(&missing), "{} {}", found.out, found.err);
    archive.stage.windlass(&["status", "shop"])?.with(1);
    let back = archive.stage.path("back");
    let into = format!("db={}", back.display());
    let refused = archive.stage.windlass(&["restore", "shop", "--at", "latest", "--into", &into, "--yes"])?;
    assert!(refused.code != 0 && !back.exists(), "{} {}", refused.out, refused.err);
    std::fs::rename(&away, &stored)?;
    archive.stage.windlass(&["verify", "shop"])?.with(0);
    archive.stage.windlass(&["status", "shop"])?.with(0);
    archive.stage.windlass(&["drill", "shop"])?.with(0);

    std::fs::remove_file(archive.object(&missing)?)?;
    let gap = archive.stage.windlass(&["status", "shop"])?.with(1);
    assert!(gap.out.contains(&format!("the WAL segment {missing} is missing")), "{}", gap.out);
    // The next base backup begins behind it.
    archive.stage.take()?;
    let mended = status()?;
    assert_eq!(mended["protected"], true, "{mended:#}");

    archive.server.psql("postgres", "alter system set archive_command = 'cp %p /somewhere/else'");
    archive.server.psql("postgres", "select pg_reload_conf()");
    let elsewhere = doctor()?;
    assert_eq!(elsewhere["good"], false);
    assert!(elsewhere["fix"].to_string().contains("wal-push --component shop/db"), "{elsewhere:#}");
    Ok(())
}

#[test]
fn a_standby_follows_what_is_archived() -> Result<()> {
    let archive = Archive::new()?;
    archive.stage.take()?;
    let back = archive.stage.path("back");
    let into = format!("db={}", back.display());
    let asked = ["restore", "shop", "--into", &into, "--standby"];
    let plan = archive.stage.windlass(&[&asked[..], &["--plan"]].concat())?.with(0).out;
    assert!(plan.contains("and then a standby of what is archived"), "{plan}");
    archive
        .stage
        .windlass(&[&asked[..], &["--yes"]].concat())?
        .with(0)
        .says("it is a standby that follows the archive");
    let overrides = std::fs::read_to_string(back.join("data/postgresql.auto.conf"))?;
    assert!(overrides.contains("wal-fetch --component shop/db %f %p'"), "{overrides}");
    // By the socket of this story instead of the usual one.
    let fetch = format!("restore_command={}", archive.fetch());
    let standby = PgCluster::start_from(|to| Ok(std::fs::rename(back.join("data"), to)?), &[&fetch])?;
    for id in 1..3 {
        let last = archive.switch();
        archive.wait_for(&last);
        let found = format!("select count(*) from orders where id = {id}");
        wait_until(&format!("row {id} to be there"), || standby.psql("shop", &found) == "1");
    }
    assert_eq!(standby.psql("postgres", "select pg_is_in_recovery()"), "t");
    archive.stage.windlass(&[&asked[..], &["--at", "latest", "--plan"]].concat())?.with(2);
    Ok(())
}
