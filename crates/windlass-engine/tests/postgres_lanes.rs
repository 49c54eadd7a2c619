//! Restores whose rows come in two lanes, each going on with the indexes of its tables.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod postgres_stage;

use anyhow::Result;
use bytes::Bytes;
use futures::StreamExt;
use postgres_stage::{Captured, capture, tools};
use windlass_engine::postgres::PostgresError;
use windlass_engine::postgres::restore::{LeftOut, Pieces, Restore};
use windlass_engine::postgres::tools::Tools;
use windlass_testkit::postgres::PgCluster;
use windlass_testkit::tree::assert_same;

/// Keys and indexes of every kind, and what must wait for more than the rows of one table.
const KEYS: &str = "\
    create table customers (id int primary key, name text not null unique); insert into customers select n, 'c' || n from generate_series(1, 500) n; \
    create table sold (id int primary key, customer int references customers, at date, exclude using gist (int4range(id, id + 1) with &&)); \
    insert into sold select n, n % 500 + 1, date '2026-01-01' + n from generate_series(1, 1000) n; \
    create index on sold (at) where id > 5; create index on sold ((at - date '2025-01-01')); cluster sold using sold_pkey; \
    alter table customers replica identity using index customers_name_key; comment on index sold_at_idx is 'commented'; \
    create table parts (id int, kind text, primary key (id, kind)) partition by list (kind); create index on parts (kind); \
    create table parts_a partition of parts for values in ('a'); create table parts_b partition of parts for values in ('b'); \
    insert into parts select n, case when n % 2 = 0 then 'a' else 'b' end from generate_series(1, 100) n; \
    create index on parts_a (id); alter table customers alter column name set statistics 50";

/// A server with a database, and a dump of it in which all tables are large.
async fn large() -> Result<(PgCluster, Tools, Captured)> {
    let server = PgCluster::start()?;
    server.make_rich("shop")?;
    server.psql("shop", KEYS);
    let tools = tools(&server.url("shop")).await?;
    let mut captured = capture(&tools, "shop").await?;
    for table in &mut captured.dump.tables {
        table.bytes = 64 << 20;
    }
    Ok((server, tools, captured))
}

async fn restore(tools: &Tools, captured: &Captured, owners: bool) -> Result<LeftOut, PostgresError> {
    let spool = tempfile::tempdir().unwrap();
    let pieces = || -> Pieces {
        let pieces = captured.bytes.chunks(64 << 10).map(|piece| Ok(Bytes::copy_from_slice(piece)));
        futures::stream::iter(pieces.collect::<Vec<_>>()).boxed()
    };
    let again = || -> futures::future::BoxFuture<'_, std::io::Result<Pieces>> { Box::pin(async { Ok(pieces()) }) };
    let restore = Restore {
        again: Some(&again),
        tools,
        database: "copy",
        dump: &captured.dump,
        create: true,
        owners,
        relations: &[],
        spool: spool.path(),
        moved: &|_| {},
    };
    restore.run(pieces()).await
}

#[tokio::test]
async fn a_database_restored_in_lanes_is_as_it_was() -> Result<()> {
    let (server, tools, captured) = large().await?;
    let left_out = restore(&tools, &captured, true).await?;
    assert!(left_out.is_empty(), "{left_out:?}");
    assert_same(&server.describe("copy")?, &server.describe("shop")?);
    let without = "select count(*) from pg_class c where relkind in ('r', 'm', 'p') and relnamespace = 'public'::regnamespace \
                   and not exists (select from pg_statistic where starelid = c.oid) and reltuples <> 0";
    assert_eq!(server.psql("copy", without), "0", "statistics are gathered of all that have rows");
    Ok(())
}

#[tokio::test]
async fn who_may_not_write_to_the_log_restores_all_the_same() -> Result<()> {
    let server = PgCluster::start()?;
    for sql in [
        "create role app login createdb",
        "alter role app set synchronous_commit = off",
        "create database shop owner app",
        "alter database template0 allow_connections true",
    ] {
        server.psql("postgres", sql);
    }
    let tables = "set role app; create table a as select generate_series(1, 100) n; create table b (n int)";
    server.psql("shop", "grant all on schema public to app");
    server.psql("shop", tables);
    for database in ["shop", "template0"] {
        server.psql(database, "revoke execute on function pg_logical_emit_message(boolean, text, text) from public");
    }
    let tools = tools(&server.url_as("app", "shop")).await?;
    let mut captured = capture(&tools, "shop").await?;
    for table in &mut captured.dump.tables {
        table.bytes = 64 << 20;
    }
    restore(&tools, &captured, false).await?;
    assert_eq!(server.psql("copy", "select count(*) from a"), "100");
    Ok(())
}
