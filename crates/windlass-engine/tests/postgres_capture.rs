//! Stories of captures: what is in them, and what happens around them while they run.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod postgres_stage;

use anyhow::Result;
use postgres_stage::{capture as capture_all, finish, processes_with, read, source, tools, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use windlass_core::application::Postgres;
use windlass_core::diagnose::{Diagnose, Retry};
use windlass_core::secret::SecretRef;
use windlass_engine::postgres::PostgresError;
use windlass_engine::postgres::capture::{self, globals};
use windlass_engine::postgres::inspect;
use windlass_engine::postgres::tools::Tools;
use windlass_testkit::postgres::PgCluster;

/// A database whose dump no pipe can hold.
fn with_much(server: &PgCluster) {
    server.psql("postgres", "create database shop");
    server.psql(
        "shop",
        "create table orders as select n as id, md5(n::text) || md5((n * 7)::text) as note from generate_series(1, 100000) n; \
         create table empty (id int)",
    );
}

#[tokio::test]
async fn rows_are_counted_as_the_dump_sees_them_whatever_happens_meanwhile() -> Result<()> {
    let server = PgCluster::start()?;
    with_much(&server);
    let tools = tools(&server.url("shop")).await?;
    let running = capture::begin(&tools, "shop", true).await?;
    server.psql("shop", "insert into orders values (0, 'late'); delete from orders where id > 50000");
    // Emptied, a table would look empty to the snapshot as well.
    let refused = server.try_psql("shop", "set lock_timeout = '200ms'; truncate orders").unwrap_err();
    assert!(refused.to_string().contains("lock timeout"), "{refused:#}");
    let captured = finish(running, "shop").await?;
    assert_eq!(captured.rows_of("orders"), Some(100_000));
    assert_eq!(captured.rows_of("empty"), Some(0));
    assert!(captured.dump.tables.iter().all(|table| table.exact));
    assert!(captured.bytes.starts_with(b"PGDMP"));
    assert_eq!(captured.said, "");
    server.psql("shop", "set lock_timeout = '5s'; truncate orders");
    Ok(())
}

#[tokio::test]
async fn a_table_cannot_be_emptied_between_the_snapshot_and_its_count() -> Result<()> {
    let server = PgCluster::start()?;
    with_much(&server);
    server.psql(
        "shop",
        "do $$ begin for n in 1..1500 loop execute format('create table t%s (id int)', n); end loop; end $$",
    );
    // pg_dump comes late, and the largest table is counted last: for a moment nobody else holds it.
    let folder = tempfile::tempdir()?;
    let late = folder.path().join("late");
    postgres_stage::script(&late, "case \"$*\" in pg_dump*--snapshot*) sleep 2 ;; esac; exec \"$@\"")?;
    let through = Postgres { via: vec![late.display().to_string()], ..source(&server.url("shop")) };
    let running = capture::begin(&Tools::find(&through).await?, "shop", true).await?;
    let refused = server.try_psql("shop", "set lock_timeout = '1s'; truncate orders");
    assert!(refused.is_err_and(|error| error.to_string().contains("lock timeout")));
    let captured = finish(running, "shop").await?;
    assert_eq!(captured.rows_of("orders"), Some(100_000));
    assert_eq!(captured.dump.tables.len(), 1502);
    Ok(())
}

#[tokio::test]
async fn only_tables_whose_rows_are_in_the_dump_are_counted() -> Result<()> {
    let server = PgCluster::start()?;
    server.make_rich("shop")?;
    server.psql(
        "shop",
        "create server far foreign data wrapper postgres_fdw; \
         create foreign table distant (id int) server far; create table rules (id int); \
         insert into rules values (1); alter extension hstore add table rules",
    );
    let captured = capture_all(&tools(&server.url("shop")).await?, "shop").await?;
    let count = |table: &str| captured.rows_of(table);
    assert_eq!((count("orders"), count("events_2025"), count("fleeting")), (Some(3000), Some(213), Some(1)));
    assert_eq!(count("Odd \"Table\" name"), Some(50));
    assert_eq!((count("parent"), count("child")), (Some(1), Some(1)), "a parent without its heirs");
    for absent in ["events", "summary", "cheap", "distant", "rules", "pg_class"] {
        assert_eq!(count(absent), None, "{absent}");
    }
    assert!(captured.dump.extensions.contains_key("uuid-ossp"));
    Ok(())
}

#[tokio::test]
async fn an_empty_database_is_a_dump_and_no_dump_at_all_is_an_error() -> Result<()> {
    let server = PgCluster::start()?;
    server.psql("postgres", "create database shop");
    let captured = capture_all(&tools(&server.url("shop")).await?, "shop").await?;
    assert!(captured.dump.tables.is_empty() && !captured.bytes.is_empty());

    let folder = tempfile::tempdir()?;
    let mute = folder.path().join("mute");
    postgres_stage::script(&mute, "case \"$*\" in pg_dump*--snapshot*) exit 0 ;; *) exec \"$@\" ;; esac")?;
    let through = Postgres { via: vec![mute.display().to_string()], ..source(&server.url("shop")) };
    let error = capture_all(&Tools::find(&through).await?, "shop").await.err().unwrap();
    assert!(matches!(error, PostgresError::Empty { .. }), "{error}");
    Ok(())
}

#[tokio::test]
async fn limits_set_for_people_do_not_end_a_capture() -> Result<()> {
    let server = PgCluster::start()?;
    with_much(&server);
    server.psql(
        "postgres",
        "create role app superuser login; alter role app set statement_timeout = '100ms'; \
         alter role app set idle_in_transaction_session_timeout = '100ms'; alter role app set lock_timeout = '100ms'",
    );
    let captured = capture_all(&tools(&server.url_as("app", "shop")).await?, "shop").await?;
    assert_eq!(captured.rows_of("orders"), Some(100_000));
    Ok(())
}

#[tokio::test]
async fn a_dump_that_is_killed_is_no_success() -> Result<()> {
    let server = PgCluster::start()?;
    with_much(&server);
    let tools = tools(&server.url("shop")).await?;
    let mut running = capture::begin(&tools, "shop", true).await?;
    assert!(running.dump.read(&mut vec![0; 1000]).await? > 0);
    let socket = server.socket().display().to_string();
    let dump = processes_with(&socket).into_iter().find(|(_, arguments)| arguments.contains("--snapshot=")).unwrap();
    kill_process(Pid::from_raw(dump.0).unwrap(), Signal::KILL)?;
    let error = finish(running, "shop").await.err().unwrap();
    assert!(error.to_string().contains("run `pg_dump`: it ended with signal: 9"), "{error}");
    assert_eq!(error.retry(), Retry::Soon);
    Ok(())
}

#[tokio::test]
async fn a_dump_that_fails_says_why() -> Result<()> {
    let server = PgCluster::start()?;
    server.psql("postgres", "create role app login");
    server.psql("postgres", "create database shop");
    server.psql("shop", "create table secret (id int); create table open (id int); grant select on open to app");
    let error = capture_all(&tools(&server.url_as("app", "shop")).await?, "shop").await.err().unwrap();
    assert!(error.to_string().contains("permission denied for table secret"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_capture_leaves_no_session_behind() -> Result<()> {
    let server = PgCluster::start()?;
    with_much(&server);
    let tools = tools(&server.url("shop")).await?;
    let sessions =
        || server.psql("postgres", "select count(*) from pg_stat_activity where application_name = 'windlass'");
    let running = capture::begin(&tools, "shop", true).await?;
    assert_ne!(sessions(), "0");
    drop(running);
    wait_for("the sessions to end", || sessions() == "0")
}

#[tokio::test]
async fn the_password_is_in_no_argument_while_everything_runs() -> Result<()> {
    let server = PgCluster::start()?;
    with_much(&server);
    server.psql("postgres", "create role app superuser login password 'open-sesame'");
    std::fs::write(server.socket().join("data/pg_hba.conf"), "local all app scram-sha-256\nlocal all all trust\n")?;
    server.psql("postgres", "select pg_reload_conf()");
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("password");
    std::fs::write(&file, "open-sesame\n")?;
    let source = Postgres { password: Some(SecretRef::File(file)), ..source(&server.url_as("app", "shop")) };
    let tools = Tools::find(&source).await?;
    let mut running = capture::begin(&tools, "shop", true).await?;
    assert!(running.dump.read(&mut vec![0; 1000]).await? > 0);
    let shown = processes_with(&server.socket().display().to_string());
    assert!(shown.iter().any(|(_, arguments)| arguments.contains("pg_dump")), "{shown:?}");
    assert!(shown.iter().any(|(_, arguments)| arguments.contains("psql")), "{shown:?}");
    assert!(processes_with("open-sesame").is_empty());
    drop(running);

    let url = format!("postgresql://app:open-sesame@/shop?host={}", server.socket().display());
    let refused = postgres_stage::tools(&url).await.err().unwrap();
    assert!(refused.to_string().contains("it holds a password"), "{refused}");
    assert!(!format!("{refused:?}").contains("open-sesame"));
    Ok(())
}

#[tokio::test]
async fn roles_come_with_their_passwords_only_where_the_right_is_there() -> Result<()> {
    let server = PgCluster::start()?;
    server.psql("postgres", "create role app login password 'open-sesame'");
    server.psql("postgres", "create database shop owner app");
    // A role of one application is let into its own database only.
    server.psql("postgres", "revoke connect on database postgres, template1 from public");
    for (role, may) in [("postgres", true), ("app", false)] {
        let (mut stream, passwords) = globals(&tools(&server.url_as(role, "shop")).await?).await?;
        let script = String::from_utf8(read(&mut stream).await?)?;
        stream.finish().await?;
        assert_eq!(passwords, may, "{role}");
        assert!(script.contains("CREATE ROLE app;"), "{script}");
        assert_eq!(script.contains("SCRAM-SHA-256$"), may, "{role}");
    }
    Ok(())
}

#[tokio::test]
async fn all_databases_are_those_one_can_connect_to() -> Result<()> {
    let server = PgCluster::start()?;
    for name in ["shop", "\"odd name 🧭\"", "broken"] {
        server.psql("postgres", &format!("create database {name}"));
    }
    server.psql("postgres", "update pg_database set datconnlimit = -2 where datname = 'broken'");
    let tools = tools(&server.url("postgres")).await?;
    let all = inspect::databases(&tools, windlass_core::application::Databases::All).await?;
    assert_eq!(all, ["odd name 🧭", "postgres", "shop"]);
    assert!(!capture_all(&tools, "odd name 🧭").await?.bytes.is_empty());
    Ok(())
}
