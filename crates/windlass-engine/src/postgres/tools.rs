//! PostgreSQL's client tools: found, chosen, and made ready to run against one server.
//!
//! Promised: no shell; a password travels in the environment only; messages are in English; a tool ends when its
//! handle is dropped. With `via` the tools are those found where it leads, and their version is checked there. A
//! password has to be let through by it, as `docker compose exec -T -e PGPASSWORD postgres` does.

use std::path::PathBuf;
use std::process::Stdio;

use secrecy::{ExposeSecret, SecretString};
use tokio::process::Command;
use windlass_core::application::Postgres;
use windlass_repo::secret;

use super::installed::{choose, installed, version_of};
use super::{PostgresError, database_of, session::Session, with_database};

pub use super::installed::{look_ahead, server_folder};

/// What sessions call themselves where nothing else is said.
const CALLED: &str = "windlass";

/// Client tools for one server.
#[derive(Clone)]
pub struct Tools {
    /// The folder they lie in; `None` where they are found by name, here or where `via` leads.
    folder: Option<PathBuf>,
    via: Vec<String>,
    url: String,
    password: Option<SecretString>,
    scratch: bool,
    /// What sessions call themselves.
    called: String,
    /// The major version of `pg_dump`.
    pub major: u32,
    /// The server's `server_version_num`.
    pub server_version: u32,
}

impl Tools {
    /// Finds tools that are at least as new as the server: the same major version if it is installed, else the next.
    pub async fn find(source: &Postgres) -> Result<Self, PostgresError> {
        database_of(&source.url)?;
        let password = source.password.as_ref().map(secret::resolve).transpose().map_err(PostgresError::Secret)?;
        let mut tools = Self {
            folder: None,
            via: source.via.clone(),
            url: source.url.clone(),
            password,
            scratch: false,
            called: CALLED.to_owned(),
            major: 0,
            server_version: 0,
        };
        let there = if source.via.is_empty() { installed("pg_dump").await } else { Vec::new() };
        // Any psql can ask any server for its version.
        tools.folder = there.last().map(|(_, folder)| folder.clone());
        let mut session = Session::open_any(&tools).await?;
        tools.server_version = session.number("select current_setting('server_version_num')::bigint as n").await?;
        session.close().await;
        let wanted = tools.server_version / 10_000;
        if source.via.is_empty() {
            let (major, folder) = choose("pg_dump", wanted, &there)?;
            (tools.major, tools.folder) = (major, Some(folder));
        } else {
            let found = version_of(&mut tools.command("pg_dump")).await.map(|major| (major, PathBuf::new()));
            (tools.major, _) = choose("pg_dump", wanted, found.as_slice())?;
        }
        Ok(tools)
    }

    /// Tools for a scratch server, from the server's own folder.
    pub(super) fn of_scratch(folder: PathBuf, url: String, major: u32) -> Self {
        let server_version = major * 10_000;
        let called = CALLED.to_owned();
        Self {
            folder: Some(folder),
            via: Vec::new(),
            url,
            password: None,
            scratch: true,
            called,
            major,
            server_version,
        }
    }

    /// The same server with tools of at least another major version: a dump is read by nothing older than its writer.
    pub(super) async fn at_least(&self, major: u32) -> Result<Self, PostgresError> {
        if major <= self.major {
            return Ok(self.clone());
        }
        let there = if self.via.is_empty() { installed("pg_dump").await } else { vec![(self.major, PathBuf::new())] };
        let (major, folder) = choose("pg_restore", major, &there)?;
        Ok(Self { major, folder: Some(folder), ..self.clone() })
    }

    /// The same tools, whose sessions call themselves so. With `via`, what they are called is up to that.
    #[must_use]
    pub fn called(self, called: String) -> Self {
        Self { called, ..self }
    }

    /// What sessions call themselves.
    pub(super) fn name(&self) -> &str {
        &self.called
    }

    /// The URL, as it was given; it holds no password.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether the tools run on this machine and see its files.
    pub(super) fn are_here(&self) -> bool {
        self.via.is_empty()
    }

    /// Whether the server is a throw-away of ours, where a locale may differ from the source's.
    pub(super) fn are_for_scratch(&self) -> bool {
        self.scratch
    }

    /// The program that is started to run a tool: the tool itself, or what leads to it.
    pub(super) fn program<'a>(&'a self, tool: &'a str) -> &'a str {
        self.via.first().map_or(tool, String::as_str)
    }

    /// A tool ready to run, without a terminal, with stable messages, ended when dropped.
    pub fn command(&self, tool: &str) -> Command {
        let mut command = match self.via.split_first() {
            None => Command::new(self.folder.as_ref().map_or_else(|| PathBuf::from(tool), |folder| folder.join(tool))),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(tool);
                command
            }
        };
        command.stdin(Stdio::null()).kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| self.must_not_see(name)) {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").env("PGAPPNAME", &self.called).env("PGCONNECT_TIMEOUT", "15");
        match &self.password {
            Some(password) => command.env("PGPASSWORD", password.expose_secret()),
            None => &mut command,
        };
        command
    }

    /// Whether a variable of our environment would lead libpq elsewhere than the URL says. Of those that are defaults,
    /// such as `PGHOST` and `PGPASSFILE`, a scratch server must see none either: it is reached by its URL alone.
    fn must_not_see(&self, variable: &str) -> bool {
        const ELSEWHERE: [&str; 5] = ["PGHOSTADDR", "PGSERVICE", "PGSERVICEFILE", "PGTARGETSESSIONATTRS", "PGOPTIONS"];
        ELSEWHERE.contains(&variable) || (self.scratch && variable.starts_with("PG"))
    }

    /// `--dbname=` for a database of the server.
    pub fn dbname(&self, database: &str) -> Result<String, PostgresError> {
        Ok(format!("--dbname={}", with_database(&self.url, database)?))
    }
}
