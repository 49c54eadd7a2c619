//! `windlass repo`: make, check and look after a repository.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use futures::TryStreamExt;
use secrecy::ExposeSecret;
use serde::Serialize;
use windlass_core::id::RepositoryId;
use windlass_core::name::Name;
use windlass_repo::error::RepositoryError;
use windlass_repo::kit;
use windlass_repo::manual;

use crate::context::Context;
use crate::failure::{Failure, Result, Status};
use crate::printer::Printer;

#[derive(Serialize)]
struct Made<'a> {
    repository: RepositoryId,
    location: &'a str,
    applications: Vec<&'a Name>,
}

/// `repo init`.
pub(crate) async fn init(context: &Context, name: Option<&Name>) -> Result {
    let settings = context.repository(name)?;
    let repository = context.host.init_repository(settings).await?;
    if repository.store().looks_first() {
        context.printer.warning(
            "the store has no create-only writes: each write looks first, and one host alone may write an application",
        );
    }
    let applications: Vec<&Name> = context.applications_of(settings).map(|a| &a.name).collect();
    for application in &applications {
        let joins = context.host.init_application(&repository, settings, application).await?;
        context.warn_of_joining(application, &joins);
    }
    let made = Made { repository: repository.id(), location: repository.store().location(), applications };
    context.printer.done(true, &made, |_| {
        let names: Vec<&str> = made.applications.iter().map(|n| n.as_str()).collect();
        format!(
            "repository {} in {}, with keys for: {}\n\
             Now print the recovery kit and keep it away from this machine: windlass repo kit --file recovery-kit.txt",
            made.repository,
            made.location,
            if names.is_empty() { "no application of the settings".to_owned() } else { names.join(", ") }
        )
    });
    Ok(Status::Done)
}

#[derive(Default, Serialize)]
struct Share {
    objects: u64,
    bytes: u64,
}

/// `repo stats`.
pub(crate) async fn stats(context: &Context, name: Option<&Name>) -> Result {
    let repository = context.host.open_repository(context.repository(name)?).await?;
    let mut shares: BTreeMap<String, Share> = BTreeMap::new();
    let mut listing = repository.store().list(None);
    while let Some(object) = listing.try_next().await.map_err(RepositoryError::Store)? {
        let share = shares.entry(part_of(object.key.as_str())).or_default();
        share.objects += 1;
        share.bytes += object.size;
    }
    context.printer.result(&shares, |_| {
        let row = |(part, share): (&String, &Share)| {
            vec![part.clone(), share.objects.to_string(), Printer::size(share.bytes)]
        };
        let total =
            Share { objects: shares.values().map(|s| s.objects).sum(), bytes: shares.values().map(|s| s.bytes).sum() };
        let mut rows: Vec<_> = shares.iter().map(row).collect();
        rows.push(row((&"all".to_owned(), &total)));
        Printer::table(&["PART", "OBJECTS", "SIZE"], rows)
    });
    Ok(Status::Done)
}

/// `dumps/shop` of `dumps/shop/db/…`, `windlass.json` of itself.
fn part_of(key: &str) -> String {
    let mut segments = key.split('/');
    match (segments.next(), segments.next(), segments.next()) {
        (Some(folder), Some(application), Some(_)) => format!("{folder}/{application}"),
        (Some(folder), Some(_), None) => folder.to_owned(),
        _ => key.to_owned(),
    }
}

/// `repo manual`.
pub(crate) async fn manual(context: &Context, name: Option<&Name>) -> Result {
    let repository = context.host.open_repository(context.repository(name)?).await?;
    context.printer.page("manual", &manual::readme(repository.identity()));
    Ok(Status::Done)
}

/// `repo kit`.
pub(crate) async fn kit(context: &Context, name: Option<&Name>, file: Option<&Path>) -> Result {
    let settings = context.repository(name)?;
    let repository = context.host.open_repository(settings).await?;
    let mut keyrings = Vec::new();
    for application in context.applications_of(settings) {
        let vault = context.host.open_vault(settings, &application.name).await?;
        keyrings.push(vault.keyring().map_err(RepositoryError::Key)?.to_text());
    }
    let text = kit::text(&repository, &settings.place, &keyrings);
    match file {
        None => context.printer.page("kit", text.expose_secret()),
        Some(path) => {
            write_new(path, text.expose_secret()).map_err(|error| {
                Failure::usage(
                    format!("write the recovery kit to `{}`: {error}", path.display()),
                    "name a file that does not exist yet, where there is room for it",
                )
            })?;
            let words = format!(
                "recovery kit written to {}, readable by its owner only\n\
                 Print it or copy it away from this machine: whoever has it and the repository can read everything.",
                path.display()
            );
            context.printer.done(true, &serde_json::json!({ "file": path }), |_| words);
        }
    }
    Ok(Status::Done)
}

fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a kit would only be taken for one.
        let _ = std::fs::remove_file(path);
    }
    written
}
