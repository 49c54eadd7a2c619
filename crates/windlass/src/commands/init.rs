//! `windlass init`: a commented settings file for what is found here.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use serde::Serialize;
use windlass::settings::{Findings, FoundDatabase, FoundFolder, template};
use windlass_core::name::Name;
use windlass_engine::postgres::inspect::databases;
use windlass_engine::restore::tools_for;

use crate::cli;
use crate::commands::compose::{self, Found};
use crate::failure::{Failure, Result, Status};
use crate::printer::Printer;

#[derive(Serialize)]
struct Written<'a> {
    file: &'a Path,
    passphrase: PathBuf,
    databases: Vec<String>,
    folders: Vec<PathBuf>,
}

pub(crate) async fn run(printer: &Printer, arguments: &cli::Init) -> Result {
    let here = std::env::current_dir()
        .map_err(|e| Failure::usage(format!("find the current folder: {e}"), "change into one"))?;
    let file = here.join(&arguments.file);
    let folder = file.parent().unwrap_or(&here);
    let passphrase = folder.join("windlass-passphrase");
    let Found { compose, databases: mut all, folders: mut mounted } = compose::find(&here).await;
    for database in found_databases().await {
        if !all.iter().any(|other| other.name == database.name) {
            all.push(database);
        }
    }
    for folder in found_folders(&here) {
        if !mounted.iter().any(|other| other.name == folder.name || folder.path.starts_with(&other.path)) {
            mounted.push(folder);
        }
    }
    let findings = Findings {
        application: name_of(&here),
        repository: format!("file://{}", folder.join("windlass-repository").display()),
        passphrase: passphrase.clone(),
        databases: all,
        folders: mounted,
        compose,
    };
    write_new(&file, template(&findings).as_bytes(), 0o644)?;
    if !passphrase.exists() {
        let secret = windlass_repo::random::bytes::<24>().map_err(|e| Failure::usage(e.to_string(), "run it again"))?;
        write_new(&passphrase, format!("{}\n", BASE64_STANDARD_NO_PAD.encode(secret)).as_bytes(), 0o600)?;
    }
    let written = Written {
        file: &file,
        passphrase,
        databases: findings.databases.iter().map(|d| d.url.clone()).collect(),
        folders: findings.folders.iter().map(|f| f.path.clone()).collect(),
    };
    printer.result(&written, |_| {
        format!(
            "wrote {} and {} ({} databases, {} folders found)\n\
             Read the settings, then:\n  windlass repo init\n  windlass repo kit --file recovery-kit.txt   (and keep it away from this machine)\n  windlass backup {}\n  windlass verify {} --deep",
            written.file.display(),
            written.passphrase.display(),
            written.databases.len(),
            written.folders.len(),
            findings.application,
            findings.application
        )
    });
    Ok(Status::Done)
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut f| f.write_all(content));
    written.map_err(|error| {
        Failure::usage(
            format!("write `{}`: {error}", path.display()),
            "nothing is overwritten: name another file with --file, or move that one away",
        )
    })
}

/// The folder's name, as far as it can be one.
fn name_of(folder: &Path) -> Name {
    let text: String = folder.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let text: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let text = text.trim_matches(|c: char| c == '-' || c.is_ascii_digit());
    text.parse().or_else(|_| "app".parse()).unwrap_or_else(|_| unreachable!("`app` is a name"))
}

/// Databases of the server on this machine that lets us in without a password.
async fn found_databases() -> Vec<FoundDatabase> {
    let url = "postgresql:///postgres";
    let Ok(tools) = tools_for(url, None).await else { return Vec::new() };
    let names = databases(&tools, windlass_core::application::Databases::All).await.unwrap_or_default();
    let mut found: Vec<FoundDatabase> = Vec::new();
    for database in names.iter().filter(|name| *name != "postgres") {
        let name: String =
            database.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
        let name: Option<Name> = name.trim_matches('-').parse().ok();
        if let Some(name) = name.filter(|name| !found.iter().any(|other| other.name == *name)) {
            let url = format!("postgresql:///{}", windlass_repo::store::Key::encode(database));
            found.push(FoundDatabase { name, url, service: None });
        }
    }
    found
}

/// Folders that look like data, beside the settings.
fn found_folders(here: &Path) -> Vec<FoundFolder> {
    let likely = ["data", "uploads", "media", "storage", "files", "attachments", "notes"];
    let folder = |name: &&str| {
        let path = here.join(name);
        Some(FoundFolder { name: name.parse().ok()?, path: path.is_dir().then_some(path)? })
    };
    likely.iter().filter_map(folder).collect()
}
