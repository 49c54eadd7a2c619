//! Stories of scratch servers: what may come up in them, and that nothing of them stays.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod postgres_stage;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;
use postgres_stage::{Into, capture, new, processes_with, restore, tools, wait_for};
use windlass_engine::postgres::counts;
use windlass_engine::postgres::restore::{Roles, look};
use windlass_engine::postgres::scratch::{Place, ScratchServer, teardown};
use windlass_engine::postgres::session::Session;
use windlass_testkit::postgres::{PgCluster, bin};

/// A place that is torn down however the story ends.
struct Torn(PathBuf);

impl Torn {
    fn make() -> Result<(Place, Self)> {
        let place = Place::make()?;
        let torn = Self(place.path.clone());
        Ok((place, torn))
    }
}

impl Drop for Torn {
    fn drop(&mut self) {
        let _ = teardown(&self.0);
    }
}

fn running_in(place: &Path) -> Vec<(i32, String)> {
    let all = processes_with("postgres");
    let cwd = |pid: i32| std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    all.into_iter().filter(|(pid, _)| cwd(*pid).starts_with(place)).collect()
}

#[tokio::test]
async fn what_the_source_has_and_this_machine_lacks_does_not_keep_a_dump_from_being_proved() -> Result<()> {
    let server = PgCluster::start()?;
    server.make_rich("shop")?;
    let space = server.socket().join("space");
    std::fs::create_dir(&space)?;
    std::os::unix::fs::chown(
        &space,
        Some(std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(server.socket())?)),
        None,
    )?;
    server.psql("postgres", &format!("create tablespace fast location '{}'", space.display()));
    server.psql("shop", "alter table orders set tablespace fast; create role owner; alter table orders owner to owner");
    let mut captured = capture(&tools(&server.url("shop")).await?, "shop").await?;
    captured.dump.collate = "xx_XX.UTF-8".into();
    captured.dump.ctype = "xx_XX.UTF-8".into();

    let (place, _torn) = Torn::make()?;
    let scratch = ScratchServer::start(&place, 15).await?;
    let facts = look(&scratch.tools, "shop", &captured.dump, &Roles::default()).await?;
    assert!(facts.missing_extensions.is_empty(), "{facts:?}");
    let left_out = restore(&scratch.tools, &captured, Into { owners: false, ..new("shop") }).await?;
    assert_eq!(left_out.len(), 1, "{left_out:?}");
    assert!(left_out[0].contains("the locale xx_XX.UTF-8, taken for C.UTF-8 here"), "{left_out:?}");
    let expected: Vec<_> = captured.dump.tables.iter().collect();
    let mut session = Session::open(&scratch.tools, "shop").await?;
    let found = counts::count_these(&mut session, &expected).await?;
    assert_eq!(counts::differences(&expected, &found), [""; 0]);
    session.close().await;
    scratch.halt()?;
    assert!(running_in(&place.path).is_empty());
    assert!(place.path.exists(), "the place stays for others");
    teardown(&place.path)?;
    Ok(())
}

#[tokio::test]
async fn an_extension_that_cannot_be_had_is_named_before_anything_is_restored() -> Result<()> {
    let server = PgCluster::start()?;
    server.psql("postgres", "create database shop");
    server.psql("shop", "create extension hstore; create extension cube; create extension earthdistance");
    let mut captured = capture(&tools(&server.url("shop")).await?, "shop").await?;
    captured.dump.extensions.insert("no_such_extension".into(), "1".into());
    let (place, _torn) = Torn::make()?;
    let scratch = ScratchServer::start(&place, 15).await?;
    // Stands for an extension that is installed and still refuses, such as one that must be loaded at the start.
    let mut session = Session::open_any(&scratch.tools).await?;
    session.lines("create type public.hstore as (a int)").await?;
    session.close().await;
    let facts = look(&scratch.tools, "shop", &captured.dump, &Roles::default()).await?;
    assert_eq!(facts.missing_extensions.len(), 2, "{facts:?}");
    assert!(
        facts.missing_extensions[0].starts_with("hstore (ask postgres: type \"hstore\" already exists"),
        "{facts:?}"
    );
    assert_eq!(facts.missing_extensions[1], "no_such_extension");
    teardown(&place.path)?;
    Ok(())
}

#[tokio::test]
async fn a_scratch_server_is_alone_and_its_folder_is_enough_to_end_it() -> Result<()> {
    let (place, _torn) = Torn::make()?;
    let scratch = ScratchServer::start(&place, 13).await?;
    let mut session = Session::open_any(&scratch.tools).await?;
    let settings = "select string_agg(name || '=' || setting, ' ' order by name) from pg_settings \
                    where name in ('listen_addresses', 'archive_mode', 'shared_preload_libraries', 'max_wal_senders')";
    let settings = session.lines(settings).await?;
    assert_eq!(settings, ["archive_mode=off listen_addresses= max_wal_senders=0 shared_preload_libraries="]);
    let server = running_in(&place.path);
    assert!(!server.is_empty());
    let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let isolates = Command::new("unshare").args(["--net", "true"]).status()?.success();
    assert_eq!(network(&server[0].0.to_string()) != network("self"), isolates);
    assert_ne!(std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{}", server[0].0))?), 0);

    // Whoever started it is gone: only the folder is known.
    std::mem::forget(session);
    let path = place.path.clone();
    drop((scratch, place));
    teardown(&path)?;
    assert!(running_in(&path).is_empty() && !path.exists());
    teardown(&path)?;
    Ok(())
}

#[test]
fn what_is_half_made_is_torn_down_as_well() -> Result<()> {
    let (place, _torn) = Torn::make()?;
    let mut initdb = Command::new("setpriv");
    let owner = std::fs::metadata(&place.path)?;
    let (user, group) = (std::os::unix::fs::MetadataExt::uid(&owner), std::os::unix::fs::MetadataExt::gid(&owner));
    if user != 0 {
        initdb.arg(format!("--reuid={user}")).arg(format!("--regid={group}")).arg("--clear-groups");
    }
    initdb.arg(bin()?.join("initdb")).arg("--pgdata").arg(place.path.join("data")).args(["--no-sync", "--auth=trust"]);
    let mut initdb = initdb.current_dir("/").stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    wait_for("initdb to begin", || place.path.join("data/postmaster.pid").exists())?;
    // The first line of it is a negative number, as long as no server runs.
    let first = std::fs::read_to_string(place.path.join("data/postmaster.pid")).unwrap_or_default();
    assert!(first.is_empty() || first.starts_with('-'), "{first}");
    teardown(&place.path)?;
    assert!(!initdb.wait()?.success(), "it was ended half-way");
    assert!(running_in(&place.path).is_empty() && !place.path.exists());
    Ok(())
}

#[test]
fn a_number_in_a_pid_file_is_not_trusted() -> Result<()> {
    let (place, _torn) = Torn::make()?;
    std::fs::create_dir(place.path.join("data"))?;
    let mut stranger = Command::new("sleep").arg("600").current_dir(&place.path).spawn()?;
    std::fs::write(place.path.join("data/postmaster.pid"), format!("{}\n", stranger.id()))?;
    teardown(&place.path)?;
    assert!(!place.path.exists());
    assert!(stranger.try_wait()?.is_none(), "it lives");
    stranger.kill()?;
    stranger.wait()?;
    Ok(())
}

#[test]
fn only_scratch_places_are_torn_down() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("precious");
    std::fs::write(&file, "data")?;
    let refused = teardown(folder.path()).unwrap_err();
    assert!(refused.to_string().contains("is no scratch place"), "{refused}");
    assert!(teardown(Path::new("windlass-scratch-relative")).is_err());
    assert!(file.exists());
    Ok(())
}

#[tokio::test]
async fn roles_that_are_not_there_do_not_keep_a_dump_from_being_proved() -> Result<()> {
    let server = PgCluster::start()?;
    server.psql("postgres", "create database shop");
    server.psql(
        "shop",
        "create role app; create role \"odd, role\"; create table orders (id int, \"to\" text); insert into orders values (1); \
         create policy everyone on orders using (true); \
         create policy mine on orders for select to app, \"odd, role\" using (id in (select 1 from pg_class)); \
         alter table orders enable row level security; grant select on orders to app; \
         create extension postgres_fdw; create server far foreign data wrapper postgres_fdw; create user mapping for app server far",
    );
    let captured = capture(&tools(&server.url("shop")).await?, "shop").await?;
    let (place, _torn) = Torn::make()?;
    let scratch = ScratchServer::start(&place, 15).await?;
    let left_out = restore(&scratch.tools, &captured, Into { owners: false, ..new("shop") }).await?;
    assert_eq!(
        left_out,
        ["USER MAPPING app SERVER far: there is no role app", "POLICY orders mine: there is no role app, odd, role"]
    );
    let mut session = Session::open(&scratch.tools, "shop").await?;
    assert_eq!(session.lines("select polname from pg_policy").await?, ["everyone"]);
    assert_eq!(session.lines("select id from public.orders").await?, ["1"]);
    Ok(())
}
