//! Versions of PostgreSQL's programs that are installed here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures::future::join_all;
use tokio::process::Command;
use tokio::sync::Mutex;
use windlass_core::application::{Application, Component, Strategy};

use super::PostgresError;

/// What lies beside any real installation's server or `pg_dump`: a lone wrapper on PATH is not enough.
const COMPANIONS: [&str; 2] = ["psql", "pg_restore"];

/// A tool that does not say its version within this is none.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where packages put the programs of each major version: a folder, how its entries begin, and what lies in them.
/// Debian and Ubuntu; Red Hat; Alpine; from source; Homebrew on ARM and on Intel.
const PLACES: [(&str, &str, &str); 8] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/usr/local", "pgsql", "bin"),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/opt/homebrew/opt", "libpq", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/opt", "pgsql-", "bin"),
];

/// Begins to look for the client tools that an application needs, for whoever has something else to do first.
pub fn look_ahead(application: &Application) {
    let is_here = |component: &Component| matches!(&component.strategy, Strategy::Postgres(it) if it.via.is_empty());
    if application.components.iter().any(is_here) {
        tokio::spawn(async { drop(installed("pg_dump").await) });
    }
}

/// Installed versions of a tool, the oldest major version first, each with its folder. They are looked for once in a
/// process.
pub(super) async fn installed(tool: &str) -> Vec<(u32, PathBuf)> {
    static FOUND: Mutex<BTreeMap<String, Vec<(u32, PathBuf)>>> = Mutex::const_new(BTreeMap::new());
    let mut known = FOUND.lock().await;
    if let Some(found) = known.get(tool) {
        return found.clone();
    }
    let found = look_for(tool).await;
    // What was not there may be installed while we run.
    if !found.is_empty() {
        known.insert(tool.to_owned(), found.clone());
    }
    found
}

async fn look_for(tool: &str) -> Vec<(u32, PathBuf)> {
    let is_whole = |folder: &PathBuf| COMPANIONS.iter().chain([&tool]).all(|program| folder.join(program).is_file());
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    let asked = folders().into_iter().filter(is_whole).map(|folder| async move {
        let major = version_of(&mut Command::new(folder.join(tool))).await?;
        Some((major, folder))
    });
    // All are asked at once, and what they say is taken in the order in which they stand.
    for (major, folder) in join_all(asked).await.into_iter().flatten() {
        if !found.iter().any(|(known, _)| *known == major) {
            found.push((major, folder));
        }
    }
    found.sort();
    found
}

/// Where to look; what PATH names comes last, for it may name wrappers that choose for themselves.
fn folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for (root, begins, within) in PLACES {
        let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
        let meant = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(begins));
        folders.extend(meant.map(|entry| entry.path().join(within)));
    }
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    // Many systems have one folder under two names.
    let mut known = BTreeSet::new();
    folders.retain(|folder| known.insert(folder.canonicalize().unwrap_or_else(|_| folder.clone())));
    folders
}

/// The major version a tool says it has.
pub(super) async fn version_of(command: &mut Command) -> Option<u32> {
    let output = command.arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, output).await.ok()?.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Chooses the same major version, else the next: what is newer than needed writes what older tools cannot read.
pub(super) fn choose(tool: &str, major: u32, installed: &[(u32, PathBuf)]) -> Result<(u32, PathBuf), PostgresError> {
    let choice = installed.iter().find(|(found, _)| *found >= major).cloned();
    choice.ok_or_else(|| {
        let versions: Vec<String> = installed.iter().map(|(major, _)| major.to_string()).collect();
        let found = if versions.is_empty() { "none".to_owned() } else { versions.join(", ") };
        PostgresError::NoTool { tool: tool.to_owned(), major, found }
    })
}

/// A folder with a server of at least this major version: the oldest that will do.
pub async fn server_folder(major: u32) -> Result<(u32, PathBuf), PostgresError> {
    let mut servers = installed("postgres").await;
    servers.retain(|(_, folder)| Path::new(folder).join("initdb").is_file());
    choose("postgres", major, &servers)
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[test]
    fn the_same_version_is_taken_else_the_next_never_an_older_one() {
        let there = [(13, "/a".into()), (15, "/b".into()), (17, "/c".into())];
        assert_eq!(choose("pg_dump", 15, &there).unwrap().0, 15);
        assert_eq!(choose("pg_dump", 16, &there).unwrap().0, 17);
        let error = choose("pg_dump", 18, &there).unwrap_err().to_string();
        assert!(error.contains("version 18 or newer (found: 13, 15, 17)"), "{error}");
    }
}
