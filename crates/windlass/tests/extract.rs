//! Stories of single databases and tables that are taken out of a server as a whole, at any moment of it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(dead_code, clippy::panic, reason = "each file of stories uses what it needs of the stage")]

mod story;

use anyhow::Result;
use story::archiving::Archive;
use windlass_testkit::postgres::PgCluster;

/// What a shop holds besides its orders.
const SHOP: &str = "\
    create schema sales; \
    create type sales.state as enum ('open', 'paid'); \
    create sequence sales.numbers; \
    create table sales.bills (id int primary key default nextval('sales.numbers'), state sales.state not null, note text); \
    create index on sales.bills (state); \
    create table sales.\"Odd, \"\"name\"\"\" (a int); \
    create table customers (id int primary key, name text); \
    insert into customers select n, 'customer ' || n from generate_series(1, 5000) n; \
    insert into sales.\"Odd, \"\"name\"\"\" values (1), (2)";

/// A place for databases, which is none of the source's.
fn elsewhere() -> Result<PgCluster> {
    PgCluster::start_with(&[])
}

fn databases(server: &PgCluster) -> String {
    server.psql("postgres", "select string_agg(datname, ' ' order by datname) from pg_database where not datistemplate")
}

#[test]
fn one_table_of_a_moment_comes_back_as_it_was_then() -> Result<()> {
    let archive = Archive::new()?;
    let (server, other) = (&archive.server, elsewhere()?);
    server.psql("shop", SHOP);
    archive.stage.take()?;
    server.psql(
        "shop",
        "insert into sales.bills (state, note) select 'open', repeat('x', 100) from generate_series(1, 1000)",
    );
    let moment = server.psql("shop", "select clock_timestamp()").replace(' ', "T");
    server.psql("shop", "update sales.bills set state = 'paid'");
    server.psql("shop", "drop table sales.bills");
    let last = archive.switch();
    archive.wait_for(&last);

    let into = format!("db={}", other.url("rescued"));
    let asked = ["restore", "shop", "--only", "db/shop/sales.bills", "--at", &moment, "--into", &into];
    let plan = archive.stage.windlass(&[&asked[..], &["--plan"]].concat())?.with(0);
    assert!(plan.out.contains("create and fill the database rescued at"), "{}", plan.out);
    assert!(plan.out.contains("from its database shop: sales.bills, and what they need"), "{}", plan.out);
    assert_eq!(databases(&other), "postgres", "a plan makes nothing");
    let done = archive.stage.windlass(&[&asked[..], &["--yes"]].concat())?.with(0);
    assert!(done.err.contains("1000 rows, as counted in shop at that moment"), "{}", done.err);
    let found = "select count(*), count(*) filter (where state = 'open') from sales.bills";
    assert_eq!(other.psql("rescued", found), "1000|1000");
    // PostgreSQL logs up to 32 numbers ahead, and passes over them when it recovers.
    let next = "select nextval('sales.numbers') between 1001 and 1033";
    assert_eq!(other.psql("rescued", next), "t", "no number is given twice");
    let tables = "select string_agg(relname, ' ') from pg_class where relkind = 'r' and relnamespace >= 2200 and \
                  relnamespace <> 'information_schema'::regnamespace";
    assert_eq!(other.psql("rescued", tables), "bills");
    assert_eq!(other.psql("rescued", "select count(*) from pg_indexes where schemaname = 'sales'"), "2");

    // Once more there: it is not empty, and nothing is overwritten.
    archive.stage.windlass(&[&asked[..], &["--yes"]].concat())?.with(2).says("`rescued` is not empty");
    Ok(())
}

#[test]
fn whole_databases_come_back_also_those_the_base_backup_does_not_know() -> Result<()> {
    let archive = Archive::new()?;
    let (server, other) = (&archive.server, elsewhere()?);
    server.psql("shop", SHOP);
    archive.stage.take()?;
    server.psql("postgres", "create role keeper nologin");
    server.psql("postgres", "create database later owner keeper");
    server.psql("later", "create table t as select n from generate_series(1, 300) n");
    let last = archive.switch();
    archive.wait_for(&last);

    // Both by one recovery, into databases of their own names; one of them is there, and empty.
    other.psql("postgres", "create database later");
    let into = format!("db={}", other.url(""));
    let asked = ["restore", "shop", "--only", "db/shop,db/later", "--at", "latest", "--into", &into, "--yes"];
    let done = archive.stage.windlass(&asked)?.with(0);
    assert!(done.out.contains("later was not there yet when the base backup was taken"), "{}", done.out);
    assert!(done.err.contains("the target lacks the roles keeper"), "{}", done.err);
    assert_eq!(other.psql("later", "select count(*) from t"), "300");
    assert_eq!(other.psql("shop", "select count(*) from customers"), "5000");
    assert_eq!(other.psql("shop", "select sum(a) from sales.\"Odd, \"\"name\"\"\""), "3");

    // At the point's own moment, without its WAL: what came later is not in it.
    let into = format!("db={}", other.url("early"));
    let asked = ["restore", "shop", "--only", "db/shop/public.*", "--into", &into, "--yes"];
    archive.stage.windlass(&asked)?.with(0);
    assert_eq!(other.psql("early", "select count(*) from orders"), "0");
    assert_eq!(other.psql("early", "select count(*) from customers"), "5000");
    let asked = ["restore", "shop", "--only", "db/later", "--into", &into, "--plan"];
    archive.stage.windlass(&asked)?.with(2).says("has no database `later` in this point");
    Ok(())
}

#[test]
fn what_cannot_be_taken_out_is_refused_and_leaves_nothing() -> Result<()> {
    let archive = Archive::new()?;
    let (server, other) = (&archive.server, elsewhere()?);
    server.psql("shop", "create table held (id int)");
    archive.stage.take()?;
    let last = archive.switch();
    archive.wait_for(&last);
    let into = format!("db={}", other.url("rescued"));
    let folder = format!("db={}", archive.stage.path("back").display());
    let asked = |only: &str, into: &str, more: &[&str]| {
        archive.stage.windlass(&[&["restore", "shop", "--only", only, "--into", into, "--yes"], more].concat())
    };
    asked("db/shop", &folder, &[])?.with(2).says("single databases of db go into a server");
    asked("db", &into, &[])?.with(2).says("db is a whole server, which goes into a folder");
    asked("db/shop,db/postgres", &into, &[])?.with(2).says("must name the server only");
    asked("db/shop", &into, &["--in-place"])?.with(2);
    // What is known only once the server is recovered.
    asked("db/shop/public.nothing", &into, &["--at", "latest"])?.with(2).says("shop holds no public.nothing");
    asked("db/nowhere", &into, &["--at", "latest"])?.with(1).says("database \"nowhere\" does not exist");
    assert_eq!(databases(&other), "postgres");
    Ok(())
}
