//! PostgreSQL's client tools: found, chosen, and made ready to run.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use secrecy::{ExposeSecret, SecretString};
use tokio::process::Command;
use windlass_core::application::Postgres;
use windlass_repo::secret;

use super::{PostgresError, session::Session, with_database};

/// Client tools for one server.
#[derive(Clone)]
pub struct Tools {
    /// The folder they lie in; `None` where they are found by name, here or where `via` leads.
    folder: Option<PathBuf>,
    via: Vec<String>,
    url: String,
    password: Option<SecretString>,
    /// The major version of `pg_dump`.
    pub major: u32,
    /// The server's `server_version_num`.
    pub server_version: u32,
}

impl Tools {
    /// Finds tools that are at least as new as the server: the same major version if it is installed, else the next.
    pub async fn find(source: &Postgres) -> Result<Self, PostgresError> {
        let password = source.password.as_ref().map(secret::resolve).transpose().map_err(PostgresError::Secret)?;
        let mut tools = Self {
            folder: None,
            via: source.via.clone(),
            url: source.url.clone(),
            password,
            major: 0,
            server_version: 0,
        };
        let installed = if source.via.is_empty() { installed("psql").await } else { Vec::new() };
        // Any psql can ask any server for its version.
        tools.folder = installed.last().map(|(_, folder)| folder.clone());
        let mut session = Session::open_any(&tools).await?;
        tools.server_version = session.number("select current_setting('server_version_num')::bigint as n").await?;
        session.close().await;
        let server_major = tools.server_version / 10_000;
        if source.via.is_empty() {
            let choice = installed.iter().find(|(major, _)| *major >= server_major);
            let (major, folder) = choice.ok_or_else(|| missing("pg_dump", server_major, &installed))?;
            (tools.major, tools.folder) = (*major, Some(folder.clone()));
        } else {
            tools.major = version_of(tools.command("pg_dump")).await.unwrap_or(0);
            if tools.major < server_major {
                let found = if tools.major == 0 { "none".to_owned() } else { tools.major.to_string() };
                return Err(PostgresError::NoTool { tool: "pg_dump".into(), major: server_major, found });
            }
        }
        Ok(tools)
    }

    /// Tools for a server of our own, with tools of the same folder.
    pub(super) fn local(folder: PathBuf, url: String, major: u32, server_version: u32) -> Self {
        Self { folder: Some(folder), via: Vec::new(), url, password: None, major, server_version }
    }

    /// The URL, as it was given.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A tool ready to run, without a terminal, with stable messages, ended when dropped.
    pub fn command(&self, tool: &str) -> Command {
        let program = self.folder.as_ref().map_or_else(|| PathBuf::from(tool), |folder| folder.join(tool));
        let mut command = match self.via.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(tool);
                command
            }
        };
        command.stdin(Stdio::null()).kill_on_drop(true);
        command.env("LC_ALL", "C").env("PGAPPNAME", "windlass").env("PGCONNECT_TIMEOUT", "15");
        match &self.password {
            Some(password) => command.env("PGPASSWORD", password.expose_secret()),
            None => &mut command,
        };
        command
    }

    /// `--dbname=` for a database of the server.
    pub fn dbname(&self, database: &str) -> Result<String, PostgresError> {
        Ok(format!("--dbname={}", with_database(&self.url, database)?))
    }
}

/// Installed versions of a tool, the oldest first, each with its folder.
pub async fn installed(tool: &str) -> Vec<(u32, PathBuf)> {
    let mut folders = Vec::new();
    for root in ["/usr/lib/postgresql", "/usr/local/lib/postgresql"] {
        let versions = std::fs::read_dir(root).into_iter().flatten().flatten();
        folders.extend(versions.map(|version| version.path().join("bin")));
    }
    for root in ["/usr", "/opt"] {
        let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
        let pgsql = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("pgsql-"));
        folders.extend(pgsql.map(|entry| entry.path().join("bin")));
    }
    // What PATH finds comes last, for those who keep theirs elsewhere.
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path));
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for folder in folders {
        let program = folder.join(tool);
        if program.is_file()
            && let Some(major) = version_of(Command::new(&program)).await
            && !found.iter().any(|(known, _)| *known == major)
        {
            found.push((major, folder));
        }
    }
    found.sort();
    found
}

/// The major version a tool says it has.
async fn version_of(mut command: Command) -> Option<u32> {
    let output = command.arg("--version").stdin(Stdio::null()).output().await.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

pub(super) fn missing(tool: &str, major: u32, installed: &[(u32, PathBuf)]) -> PostgresError {
    let versions: Vec<String> = installed.iter().map(|(major, _)| major.to_string()).collect();
    let found = if versions.is_empty() { "none".to_owned() } else { versions.join(", ") };
    PostgresError::NoTool { tool: tool.to_owned(), major, found }
}

/// A folder with a server of at least this major version: the oldest that will do.
pub async fn server_folder(major: u32) -> Result<(u32, PathBuf), PostgresError> {
    let mut servers = installed("postgres").await;
    servers.retain(|(_, folder)| folder.join("initdb").is_file() && is_real(folder));
    let choice = servers.iter().find(|(found, _)| *found >= major).cloned();
    choice.ok_or_else(|| missing("postgres", major, &servers))
}

/// Whether the client tools lie beside the server: a lone wrapper somewhere on PATH is not enough.
fn is_real(folder: &Path) -> bool {
    ["psql", "pg_restore"].iter().all(|tool| folder.join(tool).is_file())
}
