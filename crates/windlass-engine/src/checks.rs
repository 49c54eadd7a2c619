//! What must hold of something restored: the rows the dump was taken with, and the application's own checks.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use windlass_core::application::{Application, Check, Strategy};
use windlass_core::diagnose::chain;
use windlass_core::name::Name;
use windlass_core::point::DatabaseDump;

use crate::postgres::session::Session;
use crate::postgres::tools::Tools;
use crate::postgres::{PostgresError, counts};

/// The longest a check may take.
const LIMIT: SignedDuration = SignedDuration::from_mins(10);

/// How long an address may take to answer well after a start.
const PATIENCE: Duration = Duration::from_mins(1);

/// Missing files that are named; more are counted.
const NAMED: usize = 5;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What held.
    pub held: Vec<String>,
    /// What did not.
    pub failed: Vec<String>,
    /// What a person should know, though it is no failure.
    pub noted: Vec<String>,
}

/// Checks a restored database: its rows, and the queries that are put to its component.
pub async fn database(
    checks: &[Check],
    component: &Name,
    dump: &DatabaseDump,
    tools: &Tools,
    database: &str,
) -> Result<Found, PostgresError> {
    let mut found = rows(dump, tools, database).await?;
    let asked = asked(checks, component, &dump.name, tools, database).await?;
    found.held.extend(asked.held);
    found.failed.extend(asked.failed);
    Ok(found)
}

/// Asks the queries that are checks of a component; `called` is what the database was called where it was captured.
pub async fn asked(
    checks: &[Check],
    component: &Name,
    called: &str,
    tools: &Tools,
    database: &str,
) -> Result<Found, PostgresError> {
    let mut found = Found::default();
    for check in checks {
        let Check::Sql { component: of, sql } = check else { continue };
        if of == component {
            match lines(tools, database, sql).await? {
                Ok(lines) if is_true(&lines) => found.held.push(format!("{called}: {sql}")),
                Ok(lines) => {
                    let came = lines.first().map_or("nothing", String::as_str);
                    found.failed.push(format!("{called}: the check `{sql}` gave {came} instead of true"));
                }
                Err(why) => found.failed.push(format!("{called}: the check `{sql}`: {why}")),
            }
        }
    }
    Ok(found)
}

async fn rows(dump: &DatabaseDump, tools: &Tools, database: &str) -> Result<Found, PostgresError> {
    let mut found = Found::default();
    let expected: Vec<_> = dump.tables.iter().collect();
    let mut session = Session::open(tools, database).await?;
    let there = counts::count_these(&mut session, &expected).await?;
    session.close().await;
    let differences = counts::differences(&expected, &there);
    if differences.is_empty() {
        let rows: u64 = expected.iter().filter(|t| t.exact).map(|t| t.rows).sum();
        let (name, tables) = (&dump.name, expected.len());
        found.held.push(format!("{name}: {tables} tables, {rows} rows as counted in the dump's own snapshot"));
    }
    found.failed.extend(differences.into_iter().map(|difference| format!("{}: {difference}", dump.name)));
    Ok(found)
}

/// Puts a query to a database, in a session of its own: one that fails ends it. Why it failed, in words.
async fn lines(tools: &Tools, database: &str, sql: &str) -> Result<Result<Vec<String>, String>, PostgresError> {
    let mut session = Session::open(tools, database).await?;
    let limit = LIMIT.as_millis();
    let begin = format!("reset search_path; set statement_timeout = {limit}; set default_transaction_read_only = on");
    session.lines(&begin).await?;
    Ok(session.lines(sql).await.map_err(|error| chain(&error)))
}

fn is_true(lines: &[String]) -> bool {
    let first = lines.first().and_then(|line| line.split('\u{1f}').next());
    matches!(first, Some("t" | "true"))
}

/// Looks for the files that a database mentions. What is missing is noted: the rest is restored all the same.
pub async fn files(
    application: &Application,
    component: &Name,
    tools: &Tools,
    database: &str,
) -> Result<Found, PostgresError> {
    let mut found = Found::default();
    for check in &application.checks {
        let Check::Files { component: of, sql, files } = check else { continue };
        if of != component {
            continue;
        }
        let folders = folders_of(application, files);
        let (one, _) = mentioned(tools, database, sql, &folders, files.as_str()).await?;
        found.held.extend(one.held);
        found.failed.extend(one.failed);
        found.noted.extend(one.noted);
    }
    Ok(found)
}

/// Looks for the files that a query names in its first column: below one of the folders where a path is not absolute. What was
/// found, and the first of them that is there.
pub async fn mentioned(
    tools: &Tools,
    database: &str,
    sql: &str,
    folders: &[&Path],
    place: &str,
) -> Result<(Found, Option<PathBuf>), PostgresError> {
    let (mut found, mut first) = (Found::default(), None);
    match lines(tools, database, sql).await? {
        Ok(mentioned) => {
            let places = |path: &String| folders.iter().map(|folder| folder.join(path)).find(|place| place.is_file());
            first = mentioned.iter().find_map(places);
            let missing: Vec<&String> = mentioned.iter().filter(|path| !is_there(folders, path)).collect();
            if missing.is_empty() {
                found.held.push(format!("{database}: {} files it mentions are in {place}", mentioned.len()));
            } else {
                let named: Vec<&str> = missing.iter().take(NAMED).map(|path| path.as_str()).collect();
                let more = missing.len().saturating_sub(NAMED);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                found.noted.push(format!(
                    "{} of {} files that {database} mentions are not in {place}: {}{more}",
                    missing.len(),
                    mentioned.len(),
                    named.join(", ")
                ));
            }
        }
        Err(why) => found.failed.push(format!("{database}: the check `{sql}`: {why}")),
    }
    Ok((found, first))
}

fn folders_of<'a>(application: &'a Application, files: &Name) -> Vec<&'a Path> {
    let component = application.components.iter().find(|component| component.name == *files);
    match component.map(|component| &component.strategy) {
        Some(Strategy::Disk(disk)) => disk.paths.iter().map(PathBuf::as_path).collect(),
        _ => Vec::new(),
    }
}

/// Whether a path is there, below one of the folders where it is not absolute.
fn is_there(folders: &[&Path], path: &str) -> bool {
    folders.iter().any(|folder| folder.join(path).symlink_metadata().is_ok())
}

/// Asks addresses, until each has answered well or a minute has passed.
pub async fn addresses<'a>(urls: impl IntoIterator<Item = &'a str>) -> Found {
    let mut found = Found::default();
    for url in urls {
        match address(url).await {
            Ok(()) => found.held.push(format!("{url} answers")),
            Err(why) => found.failed.push(format!("{url} does not answer as it should: {why}")),
        }
    }
    found
}

async fn address(url: &str) -> Result<(), String> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().map_err(|e| chain(&e))?;
    let began = Instant::now();
    loop {
        let why = match client.get(url).send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => answer.status().to_string(),
            Err(error) => chain(&error.without_url()),
        };
        if began.elapsed() >= PATIENCE {
            return Err(why);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
