//! A session with a database, held open through a `psql` process.
//!
//! Statements are handed to `psql` as one quoted text and run by `\gexec`, so that the server alone reads them:
//! an unclosed quote is a syntax error and not an endless wait, and a backslash is no command of `psql`.
//!
//! Promised: what a role or database has set as time limits does not end the session, nor does row security hide
//! rows from it; writing and reading go on at once, so that neither side waits for the other; an answer has a bound.
//! Not promised: that a session can be used on after an error, or after a call that was dropped half-way.

use std::process::Stdio;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use windlass_repo::random;

use super::child::Running;
use super::message::Message;
use super::quote::literal;
use super::tools::Tools;
use super::{PostgresError, database_of};

/// The most an answer may hold: a hundred thousand tables are listed in a third of it.
const ANSWER: u64 = 64 << 20;

/// How long `psql` may take to end when asked to.
const GRACE: Duration = Duration::from_secs(10);

/// What libpq says where the connection ends before the answer.
const LOST: [&str; 2] = ["server closed the connection unexpectedly", "connection to server was lost"];

/// What every session begins with. Roles and databases may have limits of their own, which are not meant for us;
/// the names are asked for, since each version knows others.
const BEGIN: &str = "\
set statement_timeout = 0; set standard_conforming_strings = on; set client_encoding = 'UTF8'; set client_min_messages = warning; \
set row_security = off; set search_path = pg_catalog; \
select count(set_config(name, '0', false)) from pg_settings where name in \
('lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout');";

/// A session. Dropped, the server sees the client go.
pub struct Session {
    database: String,
    psql: Running,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// What `psql` is asked to print behind each answer.
    mark: String,
    open: bool,
}

impl Session {
    /// Opens a session with a database of the tools' server.
    pub async fn open(tools: &Tools, database: &str) -> Result<Self, PostgresError> {
        Self::open_with(tools, database, None).await
    }

    /// Opens a session that begins with settings, as `PGOPTIONS` has them.
    pub(super) async fn open_with(
        tools: &Tools,
        database: &str,
        settings: Option<&str>,
    ) -> Result<Self, PostgresError> {
        Self::start(tools, tools.dbname(database)?, database, settings).await
    }

    /// Opens a session with a database that is always there and is none of these.
    pub(super) async fn beside(tools: &Tools, not: &[&str]) -> Result<Self, PostgresError> {
        let mut failure = None;
        for database in ["postgres", "template1"].into_iter().filter(|database| !not.contains(database)) {
            match Self::open(tools, database).await {
                Ok(session) => return Ok(session),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Err(failure.unwrap_or_else(|| PostgresError::Answer {
            database: not.join(", "),
            why: "there is no other database".into(),
        }))
    }

    /// Runs a statement in a database that is always there and is none of these.
    pub(super) async fn administer(tools: &Tools, not: &[&str], sql: &str) -> Result<(), PostgresError> {
        let mut session = Self::beside(tools, not).await?;
        session.lines(sql).await?;
        session.close().await;
        Ok(())
    }

    /// Opens a session with the database the URL names, or with libpq's default.
    pub async fn open_any(tools: &Tools) -> Result<Self, PostgresError> {
        let name = database_of(tools.url())?.unwrap_or_else(|| "the server".into());
        Self::start(tools, format!("--dbname={}", tools.url()), &name, None).await
    }

    async fn start(
        tools: &Tools,
        dbname: String,
        database: &str,
        settings: Option<&str>,
    ) -> Result<Self, PostgresError> {
        let mut command = tools.command("psql");
        command
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--no-password"])
            .args(["--set=ON_ERROR_STOP=1", "--set=VERBOSITY=verbose", "--field-separator=\u{1f}"])
            .arg(dbname)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(settings) = settings {
            command.env("PGOPTIONS", settings);
        }
        let mut psql = Running::start(tools.program("psql"), &mut command).map_err(|error| match error {
            PostgresError::Start { source, .. }
                if source.kind() == std::io::ErrorKind::NotFound && tools.are_here() =>
            {
                PostgresError::NoTool { tool: "psql".into(), major: 0, found: String::new() }
            }
            other => other,
        })?;
        let (stdin, stdout) = (psql.stdin()?, BufReader::new(psql.stdout()?));
        let mark = random::bytes::<12>().map_err(|e| psql.failed(std::io::Error::other(e)))?;
        let mark = format!("windlass-{}", windlass_repo::hex::encode(&mark));
        let mut session = Self { database: database.to_owned(), psql, stdin, stdout, mark, open: false };
        session.exchange(BEGIN).await?;
        session.open = true;
        Ok(session)
    }

    /// Runs statements and returns the lines they print, fields separated by U+001F.
    pub async fn lines(&mut self, sql: &str) -> Result<Vec<String>, PostgresError> {
        let answer = self.exchange(&format!("select {} \\gexec", literal(sql))).await?;
        Ok(String::from_utf8_lossy(&answer).lines().map(str::to_owned).collect())
    }

    /// Runs one query and returns its rows as JSON objects.
    pub async fn rows(&mut self, query: &str) -> Result<Vec<Value>, PostgresError> {
        let sql = format!("select pg_catalog.row_to_json(q)::text from ({query}) q");
        let answer = self.exchange(&format!("select {} \\gexec", literal(&sql))).await?;
        // Not by lines: a value of type json keeps the line breaks it was written with.
        let rows = serde_json::Deserializer::from_slice(&answer).into_iter::<Value>();
        rows.map(|row| row.map_err(|error| self.wrong(format!("a row is not JSON: {error}")))).collect()
    }

    /// Runs one query and reads each of its rows into a value.
    pub async fn all<T: DeserializeOwned>(&mut self, query: &str) -> Result<Vec<T>, PostgresError> {
        let rows = self.rows(query).await?;
        rows.into_iter().map(|row| serde_json::from_value(row).map_err(|e| self.wrong(e.to_string()))).collect()
    }

    /// Runs one query whose first row is read into a value.
    pub async fn row<T: DeserializeOwned>(&mut self, query: &str) -> Result<T, PostgresError> {
        self.all(query).await?.into_iter().next().ok_or_else(|| self.wrong("no row came".into()))
    }

    /// Runs one query that gives one column `n` with a number.
    pub async fn number(&mut self, query: &str) -> Result<u32, PostgresError> {
        #[derive(serde::Deserialize)]
        struct Number {
            n: u32,
        }
        Ok(self.row::<Number>(query).await?.n)
    }

    /// Ends the session in good order.
    pub async fn close(mut self) {
        let _ = self.stdin.write_all(b"\\quit\n").await;
        drop(self.stdin);
        let _ = tokio::time::timeout(GRACE, self.psql.end()).await;
    }

    /// Gives `psql` something to run, and reads what it prints up to the mark.
    async fn exchange(&mut self, script: &str) -> Result<Vec<u8>, PostgresError> {
        let text = format!("{script}\n\\echo {}\n", self.mark);
        let Self { stdin, stdout, mark, .. } = self;
        // A write that fails means that psql has ended: the reader sees it too, and how it ended tells why.
        let (_, read) = tokio::join!(stdin.write_all(text.as_bytes()), answer(stdout, mark.as_bytes()));
        match read {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(self.failure().await),
            Err(source) => Err(self.psql.failed(source)),
        }
    }

    fn wrong(&self, why: String) -> PostgresError {
        PostgresError::Answer { database: self.database.clone(), why }
    }

    /// Why the session ended.
    async fn failure(&mut self) -> PostgresError {
        let (status, said) = match self.psql.end().await {
            Ok(end) => end,
            Err(error) => return error,
        };
        let database = self.database.clone();
        let Message { sqlstate, text } = Message::find(&said);
        let why = if text.is_empty() { format!("psql ended with {status} and without a word") } else { text };
        if !self.open || LOST.iter().any(|words| said.contains(words)) {
            PostgresError::Connect { database, why }
        } else {
            PostgresError::Statement { database, sqlstate, why }
        }
    }
}

/// Reads lines up to the mark; `None` where the stream ends before it.
async fn answer(stdout: &mut BufReader<ChildStdout>, mark: &[u8]) -> std::io::Result<Option<Vec<u8>>> {
    let mut bounded = stdout.take(ANSWER);
    let mut answer = Vec::new();
    loop {
        let begin = answer.len();
        if bounded.read_until(b'\n', &mut answer).await? == 0 {
            return if bounded.limit() == 0 {
                Err(std::io::Error::other(format!("it answers with more than {ANSWER} bytes")))
            } else {
                Ok(None)
            };
        }
        if answer[begin..].strip_suffix(b"\n") == Some(mark) {
            answer.truncate(begin);
            return Ok(Some(answer));
        }
    }
}
