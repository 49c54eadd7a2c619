//! Dumps whose rows are counted on the way, beside what the server says.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod postgres_stage;

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use postgres_stage::{capture, script, source, tools};
use windlass_core::application::Postgres;
use windlass_core::diagnose::Diagnose;
use windlass_engine::postgres::tools::Tools;
use windlass_testkit::postgres::{PgCluster, bin};

/// Tables whose rows are not as easy to count as they look.
const ODD: &str = r#"
    create table no_columns (); insert into no_columns select from generate_series(1, 17);
    create table all_gone (id int); insert into all_gone values (1), (2); alter table all_gone drop column id;
    create table generated (id int, twice int generated always as (id * 2) stored); insert into generated (id) select generate_series(1, 5);
    create table only_generated (one int generated always as (1) stored); insert into only_generated select from generate_series(1, 4);
    create table lines (t text); insert into lines values (E'a\nb'), (E'\n'), (E'\r\n'), (''), (null), (E'\\.'), (E'\\.\n\n\n'), (E'\\');
    create table "Mixed ""Case"" 🧭
line" (id int); insert into "Mixed ""Case"" 🧭
line" values (1), (2), (3);
    create table bytes (b bytea); insert into bytes select decode(md5(n::text), 'hex') || '\x0a0a5c2e0a'::bytea from generate_series(1, 1000) n;
    create table wide (t text); insert into wide select string_agg(md5((n * m)::text), E'\n') from generate_series(1, 4) m, generate_series(1, 20000) n group by m;
    create table measured (at int, city text) partition by list (city);
    create table measured_a partition of measured for values in ('a'); create table measured_rest partition of measured default;
    insert into measured select n, case when n % 3 = 0 then 'a' else 'b' end from generate_series(1, 100) n;
    create table forebear (id int); create table heir (more int) inherits (forebear);
    insert into forebear values (1); insert into heir values (2, 3), (4, 5);
    create unlogged table gone_soon (id int); insert into gone_soon values (1);
    create table nothing (id int);
    create table changed (id int, note text); insert into changed select n, repeat('x', n % 50) from generate_series(1, 3000) n;
    delete from changed where id % 3 = 0; update changed set note = note || E'\t\b\f\v' where id % 7 = 0;
    select lo_from_bytea(0, ''), lo_from_bytea(0, 'a'), lo_from_bytea(0, decode(repeat('00', 300000), 'hex'));
    select lo_from_bytea(0, string_agg(sha256(n::text::bytea), '')) from generate_series(1, 30000) n;
"#;

/// What the tools make of an archive.
fn read_by(arguments: &[&str], archive: &Path) -> String {
    let output = Command::new(bin().unwrap().join("pg_restore")).args(arguments).arg(archive).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // A script begins and ends with a word of chance.
    let text = String::from_utf8(output.stdout).unwrap();
    let meant = text
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("\\restrict ") && !line.starts_with("\\unrestrict "));
    meant.collect()
}

#[tokio::test]
async fn a_dump_is_what_pg_dump_wrote_and_its_rows_are_told_exactly() -> Result<()> {
    let server = PgCluster::start()?;
    server.make_rich("shop")?;
    server.psql("shop", ODD);
    let captured = capture(&tools(&server.url("shop")).await?, "shop").await?;
    let folder = tempfile::tempdir()?;
    let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
    std::fs::write(&ours, &captured.bytes)?;
    let mut dump = Command::new(bin()?.join("pg_dump"));
    assert!(dump.args(["-Fc", "-Z1", "-d", &server.url("shop"), "-f"]).arg(&theirs).status()?.success());
    for arguments in [["--file=-", "--format=custom"], ["--file=-", "--data-only"]] {
        let (ours, theirs) = (read_by(&arguments, &ours), read_by(&arguments, &theirs));
        let differ = ours.lines().zip(theirs.lines()).find(|(one, other)| one != other);
        assert!(ours == theirs, "{arguments:?}: {differ:?}");
    }
    // But for the moment it was taken at.
    let listed = |archive| -> Vec<String> {
        let list = read_by(&["--list"], archive);
        list.lines().filter(|line| !line.contains("Archive created at")).map(str::to_owned).collect()
    };
    assert_eq!(listed(&ours), listed(&theirs));

    assert!(captured.dump.tables.len() > 20 && captured.dump.tables.iter().all(|table| table.exact));
    for table in &captured.dump.tables {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let sql = format!("select count(*) from only {}.{}", quoted(&table.schema), quoted(&table.table));
        assert_eq!(server.psql("shop", &sql), table.rows.to_string(), "{}", table.table);
    }
    assert_eq!((captured.rows_of("no_columns"), captured.rows_of("lines")), (Some(17), Some(8)));
    Ok(())
}

#[tokio::test]
async fn names_that_are_not_utf_8_in_the_dump_are_counted_by_the_server() -> Result<()> {
    let server = PgCluster::start()?;
    server.psql("postgres", "create database old encoding 'LATIN1' locale 'C' template template0");
    for (name, rows) in [("gr\\00F6\\00DFe", 2), ("gr\\00E4\\00DFe", 1)] {
        server.psql("old", &format!("create table U&\"{name}\" as select n from generate_series(1, {rows}) n"));
    }
    let captured = capture(&tools(&server.url("old")).await?, "old").await?;
    assert_eq!((captured.rows_of("größe"), captured.rows_of("gräße")), (Some(2), Some(1)));
    Ok(())
}

#[tokio::test]
async fn what_is_no_dump_or_half_of_one_is_an_error() -> Result<()> {
    let server = PgCluster::start()?;
    server.make_rich("shop")?;
    let folder = tempfile::tempdir()?;
    for (name, body, code) in
        [("cut", "\"$@\" | head -c 9000", "WDL-1303"), ("garbled", "\"$@\" | tr '\\001' '\\002'", "WDL-1302")]
    {
        let wrapper = folder.path().join(name);
        let path = bin()?.display().to_string();
        script(
            &wrapper,
            &format!("PATH={path}:$PATH; case \"$*\" in pg_dump*--snapshot*) {body} ;; *) exec \"$@\" ;; esac"),
        )?;
        let through = Postgres { via: vec![wrapper.display().to_string()], ..source(&server.url("shop")) };
        let error = capture(&Tools::find(&through).await?, "shop").await.err().unwrap();
        assert_eq!(error.code(), code, "{name}: {error}");
    }
    Ok(())
}
