//! Stories of sessions held through `psql`, and of how they fail.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod postgres_stage;

use std::time::Duration;

use anyhow::Result;
use postgres_stage::{processes_with, source, tools};
use windlass_core::application::Postgres;
use windlass_core::diagnose::{Diagnose, Outcome, Retry};
use windlass_core::secret::SecretRef;
use windlass_engine::postgres::PostgresError;
use windlass_engine::postgres::session::Session;
use windlass_engine::postgres::tools::Tools;
use windlass_testkit::postgres::PgCluster;

async fn session(server: &PgCluster) -> Result<Session> {
    Ok(Session::open_any(&tools(&server.url("postgres")).await?).await?)
}

/// An endless wait is a failure of its own.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.unwrap()
}

#[tokio::test]
async fn values_come_back_as_they_are() -> Result<()> {
    let server = PgCluster::start()?;
    let mut session = session(&server).await?;
    let rows = session
        .rows(
            r#"select E'two\nlines\t"quoted" \\ ''x''' as text, null::int as nothing, repeat('é', 1000000) as huge,
               '{"a":
                  1}'::json as spaced, 9223372036854775807 as big, 'x''y' as "Odd ""column""" "#,
        )
        .await?;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["text"], "two\nlines\t\"quoted\" \\ 'x'");
    assert!(rows[0]["nothing"].is_null());
    assert_eq!(rows[0]["huge"].as_str().unwrap().chars().count(), 1_000_000);
    assert_eq!(rows[0]["spaced"]["a"], 1);
    assert_eq!(rows[0]["big"], i64::MAX);
    assert_eq!(rows[0]["Odd \"column\""], "x'y");
    assert_eq!(session.lines("select true, 5").await?, ["t\u{1f}5"]);
    assert!(session.rows("select 1 as n where false").await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_long_text_and_a_long_answer_do_not_wait_for_each_other() -> Result<()> {
    let server = PgCluster::start()?;
    let mut session = session(&server).await?;
    // More than any pipe holds, both ways at once.
    let many = "select repeat('x', 1000); ".repeat(2000);
    assert_eq!(soon(session.lines(&many)).await?.len(), 2000);
    Ok(())
}

#[tokio::test]
async fn only_the_server_reads_a_statement() -> Result<()> {
    let server = PgCluster::start()?;
    let witness = tempfile::tempdir()?;
    let file = witness.path().join("written");
    for (sql, says) in [
        ("select 'never closed".to_owned(), "unterminated quoted string"),
        ("select $$never closed".to_owned(), "unterminated dollar-quoted string"),
        ("select /* never closed".to_owned(), "unterminated /* comment"),
        (format!("select 1 \\! touch {}", file.display()), "syntax error"),
        (format!("select 1; \\o {}", file.display()), "syntax error"),
        ("select :'HOST'".to_owned(), "syntax error"),
    ] {
        let mut session = session(&server).await?;
        let error = soon(session.lines(&sql)).await.unwrap_err();
        assert!(
            matches!(&error, PostgresError::Statement { sqlstate: Some(state), .. } if state == "42601"),
            "{error}"
        );
        assert!(error.to_string().contains(says), "{sql}: {error}");
    }
    assert!(!file.exists());
    Ok(())
}

#[tokio::test]
async fn an_error_says_what_the_server_said() -> Result<()> {
    let server = PgCluster::start()?;
    server.psql("postgres", "create table t (id int primary key); insert into t values (1)");
    let error = session(&server).await?.lines("insert into public.t values (1)").await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("ask postgres: duplicate key value violates unique constraint \"t_pkey\""), "{text}");
    assert!(text.contains("Key (id)=(1) already exists.") && text.ends_with("(SQLSTATE 23505)"), "{text}");
    assert!(!text.contains("LOCATION"), "{text}");
    assert_eq!(error.retry(), Retry::Never);
    Ok(())
}

#[tokio::test]
async fn limits_set_for_people_do_not_end_a_session() -> Result<()> {
    let server = PgCluster::start()?;
    server.psql("postgres", "create role app superuser login; alter role app set statement_timeout = '5ms'");
    let tools = tools(&server.url_as("app", "postgres")).await?;
    let mut session = Session::open_any(&tools).await?;
    assert_eq!(session.lines("select pg_sleep(0.2), 1").await?, ["\u{1f}1"]);
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_down_is_worth_another_try() -> Result<()> {
    let mut server = PgCluster::start()?;
    let mut session = session(&server).await?;
    server.down();
    let gone = soon(session.lines("select 1")).await.unwrap_err();
    assert!(matches!(gone, PostgresError::Connect { .. }), "{gone}");
    let error = soon(tools(&server.url("postgres"))).await.err().unwrap();
    assert!(error.to_string().starts_with("connect to postgres: "), "{error}");
    assert_eq!((error.retry(), error.outcome()), (Retry::Soon, Outcome::CouldNotRun));
    assert!(error.hints()[0].contains("check that the server runs"));
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_is_told_apart_and_no_password_is_ever_shown() -> Result<()> {
    let server = PgCluster::start()?;
    server.psql("postgres", "create role app superuser login password 'open-sesame'");
    let hba = server.socket().join("data/pg_hba.conf");
    std::fs::write(&hba, "local all app scram-sha-256\nlocal all all trust\n")?;
    server.psql("postgres", "select pg_reload_conf()");
    let with = |password: &str| Postgres {
        password: Some(SecretRef::Command(vec!["printf".into(), password.into()])),
        ..source(&server.url_as("app", "postgres"))
    };
    let none = soon(tools(&server.url_as("app", "postgres"))).await.err().unwrap();
    assert!(none.to_string().contains("no password supplied"), "{none}");
    assert!(none.hints()[0].contains("`password`"), "{:?}", none.hints());
    let wrong = soon(Tools::find(&with("open-barley"))).await.err().unwrap();
    assert!(wrong.to_string().contains("password authentication failed"), "{wrong}");
    assert_eq!((wrong.retry(), wrong.outcome()), (Retry::Never, Outcome::CouldNotRun));
    assert!(!format!("{wrong:?} {:?}", wrong.hints()).contains("open-barley"));

    let tools = Tools::find(&with("open-sesame")).await?;
    let mut session = Session::open_any(&tools).await?;
    assert_eq!(session.lines("select current_user").await?, ["app"]);
    let shown = processes_with(&server.socket().display().to_string());
    assert!(shown.iter().any(|(_, arguments)| arguments.contains("psql")), "{shown:?}");
    assert!(processes_with("open-sesame").is_empty());
    Ok(())
}

#[tokio::test]
async fn tools_are_refused_by_name_where_they_are_too_old_or_not_there() -> Result<()> {
    let server = PgCluster::start()?;
    let folder = tempfile::tempdir()?;
    let old = folder.path().join("old");
    postgres_stage::script(
        &old,
        "case \"$*\" in *--version*) echo 'pg_dump (PostgreSQL) 12.4' ;; *) exec \"$@\" ;; esac",
    )?;
    let through = |program: &std::path::Path| Postgres {
        via: vec![program.display().to_string()],
        ..source(&server.url("postgres"))
    };
    let error = Tools::find(&through(&old)).await.err().unwrap();
    assert!(error.to_string().contains("`pg_dump`: it is not installed in version 15 or newer (found: 12)"), "{error}");
    let nowhere = Tools::find(&through(&folder.path().join("nowhere"))).await.err().unwrap();
    assert!(nowhere.to_string().contains("nowhere"), "{nowhere}");
    Ok(())
}
