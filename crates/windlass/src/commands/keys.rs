//! `windlass repo keys`: keyrings and writers.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use windlass_core::id::WriterId;
use windlass_core::name::Name;
use windlass_repo::error::RepositoryError;
use windlass_repo::keyring::{KeyError, Keyring, StoredKeyring, Unlock, identities};
use windlass_repo::kit;
use windlass_repo::repository::Repository;
use windlass_repo::store::{Store, StoreError};
use windlass_repo::vault::Vault;
use windlass_repo::writer::{WriterRecord, Writers, endorse};

use crate::context::Context;
use crate::failure::{Failure, Result, Status};
use crate::printer::Printer;

#[derive(Serialize)]
struct Report {
    keyrings: Vec<KeyringRow>,
    writers: Vec<WriterRow>,
}

#[derive(Serialize)]
struct KeyringRow {
    application: Name,
    id: String,
    recipient: String,
    sealed: bool,
}

#[derive(Serialize)]
struct WriterRow {
    id: WriterId,
    application: Name,
    host: String,
    created: jiff::Timestamp,
    endorsed: bool,
    retired: bool,
}

/// `repo keys list`.
pub(crate) async fn list(context: &Context, name: Option<&Name>) -> Result {
    let repository = context.host.open_repository(context.repository(name)?).await?;
    let mut keyrings = Vec::new();
    for application in windlass_repo::catalog::applications(repository.store()).await? {
        for stored in StoredKeyring::list(repository.store(), &application).await.map_err(RepositoryError::Key)? {
            keyrings.push(KeyringRow {
                application: application.clone(),
                id: stored.id.to_string(),
                recipient: stored.recipient,
                sealed: stored.sealed,
            });
        }
    }
    let known = Writers::load(repository.store()).await?;
    let writers = known.iter().map(|record| WriterRow {
        id: record.writer,
        application: record.application.clone(),
        host: record.host.clone(),
        created: record.created,
        endorsed: known.has_endorsement(record.writer),
        retired: known.is_retired(record.writer),
    });
    let report = Report { keyrings, writers: writers.collect() };
    context.printer.result(&report, |printer| {
        let keyrings = report.keyrings.iter().map(|row| {
            let sealed = if row.sealed { "sealed" } else { "in the open" };
            vec![row.application.to_string(), row.id.clone(), row.recipient.clone(), sealed.to_owned()]
        });
        let writers = report.writers.iter().map(|row| {
            let endorsed = match (row.retired, row.endorsed) {
                (true, _) => "retired",
                (false, true) => "yes",
                (false, false) => "NO",
            };
            vec![
                row.application.to_string(),
                row.id.to_string(),
                row.host.clone(),
                printer.time(row.created),
                endorsed.to_owned(),
            ]
        });
        format!(
            "{}\n{}",
            Printer::table(&["APPLICATION", "KEYRING", "RECIPIENT", "STORED"], keyrings.collect()),
            Printer::table(&["APPLICATION", "WRITER", "HOST", "CREATED", "ENDORSED"], writers.collect())
        )
    });
    Ok(Status::Done)
}

/// `repo keys enroll`.
pub(crate) async fn enroll(context: &Context, writer: WriterId, name: Option<&Name>) -> Result {
    let (vault, record) = writer_of(context, writer, name).await?;
    let key = vault.writers().key(writer).ok_or_else(|| no_writer(writer))?;
    endorse(vault.store(), writer, key, vault.keyring().map_err(RepositoryError::Key)?).await?;
    context.printer.note(&format!("writer {writer} of {} on {} is vouched for", record.application, record.host));
    Ok(Status::Done)
}

/// `repo keys retire`.
pub(crate) async fn retire(context: &Context, writer: WriterId, name: Option<&Name>) -> Result {
    let (vault, record) = writer_of(context, writer, name).await?;
    let key = vault.writers().key(writer).ok_or_else(|| no_writer(writer))?;
    windlass_repo::writer::retire(vault.store(), writer, key, vault.keyring().map_err(RepositoryError::Key)?).await?;
    let (application, host) = (&record.application, &record.host);
    context
        .printer
        .note(&format!("writer {writer} of {application} on {host} writes no more; what it wrote stays good"));
    Ok(Status::Done)
}

/// A writer's record, and its application with the keyring open.
async fn writer_of(context: &Context, writer: WriterId, name: Option<&Name>) -> Result<(Vault, WriterRecord)> {
    let settings = context.repository(name)?;
    let repository = context.host.open_repository(settings).await?;
    let writers = Writers::load(repository.store()).await?;
    let record = writers.iter().find(|record| record.writer == writer).ok_or_else(|| no_writer(writer))?;
    let vault = context.host.open_to_write(settings, &record.application).await?;
    Ok((vault, record.clone()))
}

fn no_writer(writer: WriterId) -> Failure {
    Failure::usage(format!("there is no writer {writer}"), "run `windlass repo keys list` to see them")
}

/// `repo keys restore`.
pub(crate) async fn restore(context: &Context, name: Option<&Name>, kit: &Path) -> Result {
    let settings = context.repository(name)?;
    let encryption = windlass_host::host::encryption(settings)?;
    let repository = context.host.open_repository(settings).await?.probed().await?;
    let mut put_back = Vec::new();
    for keyring in read_kit(kit, &repository)? {
        let there = StoredKeyring::list(repository.store(), &keyring.application).await;
        if there.map_err(RepositoryError::Key)?.is_empty() {
            keyring.store(repository.store(), encryption).await.map_err(RepositoryError::Key)?;
            put_back.push(keyring.application.clone());
        }
    }
    context.printer.done(true, &put_back, |_| match put_back.as_slice() {
        [] => "every keyring of the kit is there already: nothing was written".to_owned(),
        names => {
            let names: Vec<&str> = names.iter().map(Name::as_str).collect();
            format!("put back the keyrings of: {}", names.join(", "))
        }
    });
    Ok(Status::Done)
}

/// The keyrings of a recovery kit; one of another repository is refused.
pub(crate) fn read_kit(file: &Path, repository: &Repository) -> Result<Vec<Keyring>> {
    let page = std::fs::read_to_string(file).map_err(|error| {
        let why = format!("read the recovery kit `{}`: {error}", file.display());
        Failure::usage(why, "name the file that `windlass repo kit` wrote")
    })?;
    if let Some(other) = kit::repository_of(&page).filter(|other| *other != repository.id()) {
        let why = format!("the kit is that of the repository {other}, and this one is {}", repository.id());
        return Err(Failure::usage(why, "take the kit of this repository, or name the repository of the kit"));
    }
    Ok(kit::parse(&SecretString::from(page))?)
}

#[derive(Serialize)]
struct Resealed {
    application: Name,
    recipient: String,
    old: String,
    removed: bool,
}

/// `repo keys reseal`.
pub(crate) async fn reseal(context: &Context, name: Option<&Name>, old: &Path) -> Result {
    let settings = context.repository(name)?;
    let encryption = windlass_host::host::encryption(settings)?;
    let repository = context.host.open_repository(settings).await?.probed().await?;
    let (old, new) = (unlock_with(old)?, Unlock::resolve(encryption).map_err(RepositoryError::Key)?);
    let store = repository.store();
    let mut done = Vec::new();
    for application in context.applications_of(settings) {
        let name = &application.name;
        let all = StoredKeyring::list(store, name).await.map_err(RepositoryError::Key)?;
        let mut sealed_anew = Vec::new();
        let mut outdated = Vec::new();
        for stored in all {
            match stored.open(store, name, &new).await {
                Ok(_) => sealed_anew.push(stored.recipient.clone()),
                Err(KeyError::WrongKey { .. } | KeyError::Open { .. } | KeyError::Sealed { .. }) => {
                    outdated.push(stored);
                }
                Err(error) => return Err(error.into()),
            }
        }
        for stored in outdated {
            // An earlier call may have been stopped between the writing of the new and the removal of the old.
            if !sealed_anew.contains(&stored.recipient) {
                let opened = stored.open(store, name, &old).await.map_err(RepositoryError::Key)?;
                opened
                    .renewed()
                    .map_err(RepositoryError::Key)?
                    .store(store, encryption)
                    .await
                    .map_err(RepositoryError::Key)?;
                prove_resealed(store, name, &stored.recipient, &new).await?;
            }
            let removed = match store.delete(&stored.key).await {
                Ok(()) => true,
                Err(StoreError::Denied { .. }) => false,
                Err(error) => return Err(RepositoryError::Store(error).into()),
            };
            done.push(Resealed {
                application: name.clone(),
                recipient: stored.recipient,
                old: stored.key.to_string(),
                removed,
            });
        }
    }
    context.printer.result(&done, |_| {
        let line = |row: &Resealed| {
            let what = if row.removed { "was removed" } else { "may NOT be deleted with these credentials: remove it, for what opened it opens it still" };
            format!("{}: the keyring {} is sealed anew; `{}` {what}", row.application, row.recipient, row.old)
        };
        let mut text: Vec<String> = done.iter().map(line).collect();
        text.push("Print the recovery kit again only if it was sealed away with the old passphrase; its keyrings are the same.".into());
        text.join("\n")
    });
    Ok(if done.iter().all(|row| row.removed) { Status::Done } else { Status::Failed })
}

/// Makes sure that what was sealed anew opens with what the settings name now: only then may the old one go.
async fn prove_resealed(store: &Store, application: &Name, recipient: &str, new: &Unlock) -> Result<()> {
    let all = StoredKeyring::list(store, application).await.map_err(RepositoryError::Key)?;
    for stored in all.iter().rev().filter(|stored| stored.recipient == recipient) {
        if stored.open(store, application, new).await.is_ok() {
            return Ok(());
        }
    }
    let why = format!("the keyring of {application} was sealed anew, but what the settings name does not open it");
    Err(Failure::usage(
        why,
        "the old one was kept: correct `encryption` in the settings, its `identity` too, and run it again",
    ))
}

/// A file holds identities, or a passphrase.
fn unlock_with(old: &Path) -> Result<Unlock> {
    let text = std::fs::read_to_string(old).map_err(|error| {
        Failure::usage(format!("read `{}`: {error}", old.display()), "name the file with what opens the keyrings now")
    })?;
    let text = SecretString::from(text);
    if text.expose_secret().contains("AGE-SECRET-KEY-1") {
        Ok(Unlock::Identities(identities(&text)?))
    } else {
        Ok(Unlock::Passphrase(SecretString::from(text.expose_secret().trim_end_matches(['\r', '\n']))))
    }
}
