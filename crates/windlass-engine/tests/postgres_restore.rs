//! Stories of restores beside: what comes back, what stays away, and what a failure leaves.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod postgres_stage;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use bytes::Bytes;
use postgres_stage::{Captured, Into, capture, new, restore, restore_from, source, tools};
use windlass_core::application::Postgres;
use windlass_core::diagnose::{Diagnose, Outcome};
use windlass_engine::postgres::PostgresError;
use windlass_engine::postgres::counts;
use windlass_engine::postgres::restore::{Roles, look};
use windlass_engine::postgres::session::Session;
use windlass_engine::postgres::tools::Tools;
use windlass_testkit::postgres::PgCluster;
use windlass_testkit::tree::assert_same;

fn exists(server: &PgCluster, database: &str) -> bool {
    server.psql("postgres", &format!("select count(*) from pg_database where datname = '{database}'")) == "1"
}

/// A server with a database, and the dump of it.
async fn shop(sql: &str) -> Result<(PgCluster, Tools, Captured)> {
    let server = PgCluster::start()?;
    server.psql("postgres", "create database shop");
    server.psql("shop", sql);
    let tools = tools(&server.url("shop")).await?;
    let captured = capture(&tools, "shop").await?;
    Ok((server, tools, captured))
}

const ORDERS: &str = "create table orders as select n as id, md5(n::text) || md5((n * 7)::text) as note from generate_series(1, 50000) n; \
     create table customers as select n as id from generate_series(1, 10) n";

#[tokio::test]
async fn a_rich_database_comes_back_as_it_was() -> Result<()> {
    let server = PgCluster::start()?;
    server.make_rich("shop")?;
    let tools = tools(&server.url("shop")).await?;
    let captured = capture(&tools, "shop").await?;
    let left_out = restore(&tools, &captured, new("co\"py 🧭")).await?;
    assert!(left_out.is_empty(), "{left_out:?}");
    assert_same(&server.describe("co\"py 🧭")?, &server.describe("shop")?);
    let mut session = Session::open(&tools, "co\"py 🧭").await?;
    let expected: Vec<_> = captured.dump.tables.iter().collect();
    assert!(counts::differences(&expected, &counts::count_these(&mut session, &expected).await?).is_empty());
    let analyzed = "select count(*) > 0 from pg_stats where schemaname = 'public' and tablename = 'orders'";
    assert_eq!(server.psql("co\"py 🧭", &format!("set row_security = off; {analyzed}")), "t");
    Ok(())
}

#[tokio::test]
async fn tools_elsewhere_bring_it_back_as_well() -> Result<()> {
    let server = PgCluster::start()?;
    server.make_rich("shop")?;
    let through = Postgres { via: vec!["env".into(), "--".into()], ..source(&server.url("shop")) };
    let tools = Tools::find(&through).await?;
    let captured = capture(&tools, "shop").await?;
    restore(&tools, &captured, new("copy")).await?;
    assert_same(&server.describe("copy")?, &server.describe("shop")?);
    Ok(())
}

#[tokio::test]
async fn a_new_database_has_the_owner_and_the_settings_of_the_old() -> Result<()> {
    let (server, tools, _) = shop(ORDERS).await?;
    for sql in [
        "create role app login",
        "alter database shop owner to app",
        "alter database shop connection limit 7",
        "alter database shop set timezone = 'Europe/Zurich'",
        "alter database shop set default_transaction_read_only = on",
        "alter role app in database shop set work_mem = '9MB'",
        "revoke connect on database shop from public",
        "comment on database shop is 'it''s\nthe shop'",
    ] {
        server.psql("postgres", sql);
    }
    let captured = capture(&tools, "shop").await?;
    let left_out = restore(&tools, &captured, new("copy")).await?;
    assert!(left_out.is_empty(), "{left_out:?}");
    let about = |name: &str| {
        server.psql(
            "postgres",
            &format!(
                "select pg_get_userbyid(datdba), datconnlimit, (select string_agg(acl::text, ' ' order by acl::text) from unnest(datacl) acl), shobj_description(d.oid, 'pg_database'), \
                 pg_encoding_to_char(encoding), datcollate, (select string_agg(setrole::regrole || array_to_string(setconfig, ','), ';' order by setrole) \
                 from pg_db_role_setting s where s.setdatabase = d.oid) from pg_database d where datname = '{name}'"
            ),
        )
    };
    assert_eq!(about("copy"), about("shop"));
    assert!(about("copy").contains("app|7|") && about("copy").contains("work_mem=9MB"), "{}", about("copy"));

    // Without owners nothing names a role.
    restore(&tools, &captured, Into { owners: false, ..new("plain") }).await?;
    assert!(about("plain").starts_with("postgres|7||") && !about("plain").contains("work_mem"), "{}", about("plain"));
    assert!(about("plain").contains("TimeZone=Europe/Zurich"));
    Ok(())
}

#[tokio::test]
async fn rows_that_are_missing_from_a_valid_dump_are_found() -> Result<()> {
    let (server, tools, captured) = shop(ORDERS).await?;
    let mut dump = std::process::Command::new(windlass_testkit::postgres::bin()?.join("pg_dump"));
    dump.args(["--format=custom", "--exclude-table-data=orders"]).arg(server.url("shop"));
    let lacking = Captured { bytes: dump.output()?.stdout, dump: captured.dump.clone(), said: String::new() };
    restore(&tools, &lacking, new("copy")).await?;
    server.psql("copy", "drop table customers");
    let expected: Vec<_> = captured.dump.tables.iter().collect();
    let mut session = Session::open(&tools, "copy").await?;
    let found = counts::count_these(&mut session, &expected).await?;
    assert_eq!(
        counts::differences(&expected, &found),
        ["the table public.customers is missing", "public.orders has 0 rows instead of 50000"]
    );
    Ok(())
}

#[tokio::test]
async fn a_restore_that_fails_takes_back_the_database_it_made() -> Result<()> {
    let (server, tools, captured) = shop(ORDERS).await?;
    let half = captured.bytes.len() / 2;
    let cut = Captured { bytes: captured.bytes[..half].to_vec(), dump: captured.dump.clone(), said: String::new() };
    let error = restore(&tools, &cut, new("copy")).await.unwrap_err();
    assert!(error.to_string().contains("run `pg_restore --section=data`"), "{error}");
    assert!(!exists(&server, "copy"));

    let broken: Vec<std::io::Result<Bytes>> =
        vec![Ok(Bytes::copy_from_slice(&captured.bytes[..half])), Err(std::io::Error::other("the store is gone"))];
    let error = restore_from(&tools, &captured, new("copy"), broken).await.unwrap_err();
    assert_eq!(error.to_string(), "read the dump of shop");
    assert!(!exists(&server, "copy"));

    let nothing = Captured { bytes: captured.bytes[..20].to_vec(), dump: captured.dump.clone(), said: String::new() };
    assert!(restore(&tools, &nothing, new("copy")).await.is_err());
    assert!(!exists(&server, "copy"));
    Ok(())
}

#[tokio::test]
async fn a_restore_that_fails_says_what_is_left_of_it_and_reads_no_further() -> Result<()> {
    let (server, tools, captured) = shop(ORDERS).await?;
    server.psql("postgres", "create database copy");
    // The database refuses rows of the table that is filled first.
    server.psql(
        "copy",
        "create function refuse() returns event_trigger language plpgsql as $$ begin \
         alter table public.customers add constraint few check (id < 5); exception when undefined_table or duplicate_object then null; end $$; \
         create event trigger refusing on ddl_command_end when tag in ('CREATE TABLE') execute function refuse()",
    );
    let read = Arc::new(AtomicUsize::new(0));
    let (bytes, counter) = (captured.bytes.clone(), read.clone());
    let pieces = (0..bytes.len()).step_by(4096).map(move |at| {
        let piece = &bytes[at..(at + 4096).min(bytes.len())];
        counter.fetch_add(piece.len(), Ordering::Relaxed);
        Ok(Bytes::copy_from_slice(piece))
    });
    let into = Into { create: false, ..new("copy") };
    let error = restore_from(&tools, &captured, into, pieces).await.unwrap_err();
    let text = windlass_core::diagnose::chain(&error);
    assert!(text.starts_with("restore into copy: it was there before, and now holds a part of the dump"), "{text}");
    assert!(text.contains("\"few\""), "{text}");
    assert!(read.load(Ordering::Relaxed) < captured.bytes.len() / 2, "what comes behind is not fetched");
    assert!(error.hints()[0].contains("drop or empty the database"));
    assert!(exists(&server, "copy"));
    Ok(())
}

#[tokio::test]
async fn a_locale_that_is_not_there_is_refused_before_anything_is_made() -> Result<()> {
    let (server, tools, mut captured) = shop(ORDERS).await?;
    captured.dump.collate = "xx_XX.UTF-8".into();
    let error = restore(&tools, &captured, new("copy")).await.unwrap_err();
    assert!(error.to_string().contains("create the database copy: invalid locale name: \"xx_XX.UTF-8\""), "{error}");
    assert_eq!(error.outcome(), Outcome::CouldNotRun);
    assert!(!exists(&server, "copy"));
    // The remedy it names.
    server.psql("postgres", "create database copy");
    restore(&tools, &captured, Into { create: false, ..new("copy") }).await?;
    assert_eq!(server.psql("copy", "select count(*) from orders"), "50000");
    Ok(())
}

#[tokio::test]
async fn every_kind_of_locale_comes_back() -> Result<()> {
    let server = PgCluster::start()?;
    for (name, text, options) in [
        (
            "icu",
            "'\\xc3a9', 'UTF8'",
            "encoding 'UTF8' lc_collate 'C' lc_ctype 'C.UTF-8' locale_provider icu icu_locale 'de-CH'",
        ),
        ("latin", "'\\xe9', 'LATIN1'", "encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'"),
        ("ascii", "'\\xe9ff', 'SQL_ASCII'", "encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C'"),
    ] {
        server.psql("postgres", &format!("create database {name} template template0 {options}"));
        server.psql(name, &format!("create table t as select convert_from({text}) as x"));
        let tools = tools(&server.url(name)).await?;
        restore(&tools, &capture(&tools, name).await?, new("copy")).await?;
        let about = |database: &str| {
            server.psql(
                "postgres",
                &format!(
                    "select encoding, datlocprovider, datcollate, datctype, daticulocale from pg_database where datname = '{database}'"
                ),
            )
        };
        assert_eq!(about("copy"), about(name));
        assert_eq!(server.psql("copy", &format!("select x = convert_from({text}) from t")), "t", "{name}");
        server.psql("postgres", "drop database copy");
    }
    Ok(())
}

#[tokio::test]
async fn a_copy_does_not_subscribe_to_the_source_of_its_source() -> Result<()> {
    let (server, tools, _) = shop(ORDERS).await?;
    server.psql("shop", "create subscription sub connection 'dbname=nowhere' publication p with (connect = false)");
    let captured = capture(&tools, "shop").await?;
    let left_out = restore(&tools, &captured, new("copy")).await?;
    assert_eq!(left_out, ["subscription sub: a copy does not subscribe"]);
    let subscribed =
        "select count(*) from pg_subscription s join pg_database d on d.oid = subdbid where datname = 'copy'";
    assert_eq!(server.psql("postgres", subscribed), "0");
    server.psql("shop", "alter subscription sub set (slot_name = none); drop subscription sub");
    Ok(())
}

#[tokio::test]
async fn a_target_is_empty_though_an_extension_brought_something_along() -> Result<()> {
    let (server, tools, mut captured) = shop(ORDERS).await?;
    server.psql("postgres", "create database copy");
    server.psql("copy", "create extension pg_stat_statements");
    captured.dump.extensions.insert("no_such_extension".into(), "1".into());
    captured.dump.collations.push("no_such_collation".into());
    let roles = Roles {
        owners: ["postgres".into(), "no_such_role".into()].into(),
        required: ["postgres".into(), "no_such_clerk".into()].into(),
    };
    let facts = look(&tools, "copy", &captured.dump, &roles).await?;
    assert!(facts.exists);
    assert_eq!(facts.tables, 0);
    assert_eq!(facts.missing_roles, ["no_such_role"]);
    assert_eq!(facts.missing_required_roles, ["no_such_clerk"]);
    assert_eq!(facts.missing_collations, ["no_such_collation"]);
    assert_eq!(facts.missing_locale, None, "it is there already, whatever its locale");
    assert_eq!(facts.missing_extensions, ["no_such_extension"]);
    let none = look(&tools, "none", &captured.dump, &Roles::default()).await?;
    assert_eq!((none.exists, none.missing_locale), (false, None));
    captured.dump.collate = "xx_XX.UTF-8".into();
    let none = look(&tools, "none", &captured.dump, &Roles::default()).await?;
    assert!(none.missing_locale.is_some_and(|why| why.contains("xx_XX")));
    server.psql("copy", "create view mine as select 1");
    assert_eq!(look(&tools, "copy", &captured.dump, &Roles::default()).await?.tables, 1);
    Ok(())
}

#[tokio::test]
async fn a_dump_of_newer_tools_is_not_given_to_older_ones() -> Result<()> {
    let (server, tools, mut captured) = shop(ORDERS).await?;
    // The head says which pg_dump wrote it.
    let at = captured.bytes.windows(3).enumerate().filter(|(_, w)| *w == b"15.").nth(2).unwrap().0;
    captured.bytes[at..at + 3].copy_from_slice(b"99.");
    let error = restore(&tools, &captured, new("copy")).await.unwrap_err();
    assert!(matches!(&error, PostgresError::NoTool { major: 99, .. }), "{error}");
    assert!(
        error.to_string().contains("`pg_restore`: it is not installed in version 99 or newer (found: 15)"),
        "{error}"
    );
    assert!(!exists(&server, "copy"));
    Ok(())
}

#[tokio::test]
async fn roles_that_are_not_there_are_all_named_before_anything_is_made() -> Result<()> {
    let (server, tools, _) = shop(ORDERS).await?;
    server.psql("postgres", "create role reader; create role clerk; create role keeper");
    server.psql(
        "shop",
        "grant select on orders to reader with grant option; create policy mine on customers to clerk using (true); \
         alter default privileges for role postgres in schema public grant select on tables to keeper",
    );
    let captured = capture(&tools, "shop").await?;
    let other = PgCluster::start()?;
    other.psql("postgres", "create role keeper");
    let elsewhere = postgres_stage::tools(&other.url("postgres")).await?;
    let error = restore(&elsewhere, &captured, new("copy")).await.unwrap_err();
    assert!(error.to_string().ends_with("it lacks the roles clerk, reader"), "{error}");
    assert!(error.hints()[0].contains("roles and settings"), "{:?}", error.hints());
    assert_eq!(error.outcome(), Outcome::CouldNotRun);
    assert!(!exists(&other, "copy"));
    // Without privileges only the policy needs one.
    let without = || Into { owners: false, ..new("copy") };
    let error = restore(&elsewhere, &captured, without()).await.unwrap_err();
    assert!(error.to_string().ends_with("it lacks the roles clerk"), "{error}");
    other.psql("postgres", "create role clerk");
    restore(&elsewhere, &captured, without()).await?;
    assert_eq!(other.psql("copy", "select polroles::regrole[] from pg_policy"), "{clerk}");
    other.psql("postgres", "create role reader");
    restore(&elsewhere, &captured, new("other")).await?;
    assert_eq!(other.psql("other", "select has_table_privilege('reader', 'orders', 'select')"), "t");
    Ok(())
}

#[tokio::test]
async fn an_extension_only_a_superuser_may_create_is_taken_from_template1() -> Result<()> {
    let (server, _, captured) =
        shop(&format!("create extension file_fdw; comment on extension file_fdw is 'of ours'; {ORDERS}")).await?;
    server.psql("postgres", "create role app login createdb");
    let tools = tools(&server.url("postgres").replace("postgres@", "app@")).await?;
    let roles = Roles::default();
    let facts = look(&tools, "copy", &captured.dump, &roles).await?;
    let lacking = facts.missing_extensions.join("; ");
    assert!(lacking.contains("file_fdw") && lacking.contains("template1"), "{lacking}");
    let as_it_is = || Into { owners: false, ..new("copy") };
    restore(&tools, &captured, as_it_is()).await.unwrap_err();
    assert!(!exists(&server, "copy"), "what could not be filled is gone");

    server.psql("template1", "create extension file_fdw");
    assert!(look(&tools, "copy", &captured.dump, &roles).await?.missing_extensions.is_empty());
    let left_out = restore(&tools, &captured, as_it_is()).await?;
    assert!(left_out.is_empty(), "{left_out:?}");
    let about = "select extname, pg_get_userbyid(extowner) from pg_extension where extname = 'file_fdw'";
    assert_eq!(server.psql("copy", about), "file_fdw|postgres");
    assert_eq!(server.psql("copy", "select count(*) from orders"), "50000");
    Ok(())
}
