//! A session with a database, held open through a `psql` process.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};
use windlass_repo::random;

use super::tools::Tools;
use super::{PostgresError, database_of};

/// A session. Dropped, the server sees the client go.
pub struct Session {
    database: String,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    stderr: tokio::task::JoinHandle<String>,
    /// What `psql` is asked to print behind each answer.
    mark: String,
}

impl Session {
    /// Opens a session with a database of the tools' server.
    pub async fn open(tools: &Tools, database: &str) -> Result<Self, PostgresError> {
        Self::start(tools, tools.dbname(database)?, database).await
    }

    /// Opens a session with the database the URL names, or with libpq's default.
    pub async fn open_any(tools: &Tools) -> Result<Self, PostgresError> {
        let name = database_of(tools.url())?.unwrap_or_else(|| "the server".into());
        Self::start(tools, format!("--dbname={}", tools.url()), &name).await
    }

    async fn start(tools: &Tools, dbname: String, database: &str) -> Result<Self, PostgresError> {
        let failed = |source| PostgresError::Start { tool: "psql".into(), source };
        let mut child = tools
            .command("psql")
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--no-password"])
            .args(["--set=ON_ERROR_STOP=1", "--set=VERBOSITY=verbose", "--field-separator=\u{1f}"])
            .arg(dbname)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| match source.kind() {
                std::io::ErrorKind::NotFound => {
                    PostgresError::NoTool { tool: "psql".into(), major: 0, found: String::new() }
                }
                _ => failed(source),
            })?;
        let (Some(stdin), Some(stdout), Some(mut stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(failed(std::io::Error::other("it has no pipes")));
        };
        let stderr = tokio::spawn(async move {
            let mut text = Vec::new();
            // psql stops at the first error, so this stays small; notices of a long session are cut.
            let _ = (&mut stderr).take(64 << 10).read_to_end(&mut text).await;
            let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
            String::from_utf8_lossy(&text).into_owned()
        });
        let mark = random::bytes::<12>().map_err(|e| failed(std::io::Error::other(e)))?;
        let mark = format!("windlass-{}", windlass_repo::hex::encode(&mark));
        let mut session =
            Self { database: database.to_owned(), child, stdin, stdout: BufReader::new(stdout), stderr, mark };
        // What we ask must not be hidden, nor wait for ever.
        session.lines("set row_security = off; set client_encoding = 'UTF8'; set search_path = pg_catalog").await?;
        Ok(session)
    }

    /// Runs statements and returns the lines they print, fields separated by U+001F.
    pub async fn lines(&mut self, sql: &str) -> Result<Vec<String>, PostgresError> {
        let text = format!("{}\n;\n\\echo {}\n", sql.trim().trim_end_matches(';'), self.mark);
        if self.stdin.write_all(text.as_bytes()).await.is_err() {
            return Err(self.failure().await);
        }
        let mut lines = Vec::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            match self.stdout.read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return Err(self.failure().await),
                Ok(_) => {}
            }
            let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned();
            if text == self.mark {
                return Ok(lines);
            }
            lines.push(text);
        }
    }

    /// Runs one query and returns its rows as JSON objects.
    pub async fn rows(&mut self, query: &str) -> Result<Vec<Value>, PostgresError> {
        let lines = self.lines(&format!("select pg_catalog.row_to_json(q)::text from ({query}) q")).await?;
        let wrong = |error: serde_json::Error| PostgresError::Answer {
            database: self.database.clone(),
            why: format!("a row is not JSON: {error}"),
        };
        lines.iter().map(|line| serde_json::from_str(line).map_err(wrong)).collect()
    }

    /// Runs one query whose single row is read into a value.
    pub async fn row<T: serde::de::DeserializeOwned>(&mut self, query: &str) -> Result<T, PostgresError> {
        let row = self.rows(query).await?.into_iter().next();
        let wrong = |why: String| PostgresError::Answer { database: self.database.clone(), why };
        let row = row.ok_or_else(|| wrong("no row came".into()))?;
        serde_json::from_value(row).map_err(|e| wrong(e.to_string()))
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
        let _ = self.child.wait().await;
    }

    /// Why the session ended.
    async fn failure(&mut self) -> PostgresError {
        let _ = self.child.wait().await;
        let why = (&mut self.stderr).await.unwrap_or_default();
        let why = if why.trim().is_empty() { "the session ended without a word".to_owned() } else { why };
        PostgresError::Statement { database: self.database.clone(), why }
    }
}
