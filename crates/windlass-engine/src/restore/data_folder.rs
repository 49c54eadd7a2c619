//! Lays down the data folder of a server: a base backup, the WAL that makes it consistent, and what has a server recover by it.
//!
//! The server that is started on it replays the WAL that lies in its `pg_wal`, comes up on a timeline of its own, archives nothing,
//! and needs neither the repository nor us.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use windlass_core::point::{ComponentManifest, ObjectRef, PhysicalData};
use windlass_core::restore::{DataFolderStep, RecoverStep};
use windlass_core::wal::WalFile;
use windlass_repo::format::walg::{BackupName, Backups, Codec, Held, Ledger, Target, WalgError};
use windlass_repo::vault::Vault;

use crate::backup::{tally, with_progress};
use crate::moment;
use crate::postgres::physical::place::not_ours_above;
use crate::postgres::physical::recover::{After, Recovered, Recoverer};
use crate::postgres::physical::recovery::{Recovery, Until, word};
use crate::postgres::physical::{LaidDown, PhysicalError};
use crate::postgres::wal::Owner;
use crate::progress::{Event, Progress};

/// Carries out a step; what a person should know. Killed on the way, the same step goes on where it was.
pub(super) async fn lay_down(
    vault: &Vault,
    manifest: &ComponentManifest,
    data: &PhysicalData,
    step: &DataFolderStep,
    recoverer: Option<Recoverer<'_>>,
    progress: &dyn Progress,
) -> Result<Vec<String>, PhysicalError> {
    let target = Path::new(&step.target);
    let failed = |source| PhysicalError::Write { path: target.to_owned(), source };
    // One that was killed while its server recovered belongs to the server's user.
    if !step.goes_on
        && let Some(above) = not_ours_above(&target.join("data")).map_err(failed)?
    {
        return Err(PhysicalError::NotOurs { folder: target.to_owned(), above });
    }
    if step.goes_on && Ledger::of(target) != Some(step.identity()) {
        let why = "what was begun in its target has come to its end meanwhile".to_owned();
        return Err(PhysicalError::Changed { why });
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(target).map_err(failed)?;
    let ledger = Arc::new(Ledger::open(target, &step.identity()).map_err(failed)?);
    let laid_down = LaidDown::below(target, data.tablespaces.keys());
    let mut settings = None;
    if !step.settings.is_empty() {
        // Before a server recovers there, to whose user all of it is given then: a target that is not ours any more has them.
        if std::fs::metadata(target).map_err(failed)?.uid() == rustix::process::geteuid().as_raw() {
            lay_down_settings(vault, manifest, data, target).await?;
        }
        let (used, place) = (data.settings.join("`, `"), target.join("settings"));
        settings = Some(format!("its settings `{used}` are in {}: nothing uses them there", place.display()));
    }
    match step.recover.as_ref().zip(recoverer) {
        None => {
            let recovery = if step.standby {
                let owner = Owner { application: vault.application().clone(), component: step.component.clone() };
                let program = std::env::current_exe().map_err(failed)?;
                let restore_command = format!("{} --quiet wal-fetch --component {owner} %f %p", word(&program));
                Recovery { restore_command, timeline: data.timeline, until: Until::Standby, paused: false }
            } else {
                Recovery::by_itself(data.timeline)
            };
            base_backup(vault, manifest, (data, &laid_down), Some(&ledger), progress).await?;
            with_its_wal(vault, manifest, (data, &laid_down), &recovery).await?;
        }
        Some((wanted, recoverer)) => {
            let what = (data, &laid_down);
            let recovered = recovered(vault, manifest, what, Some(wanted), Some(&ledger), recoverer, progress).await?;
            recovered.end(After::Silent).await?;
        }
    }
    if let Some(ledger) = Arc::into_inner(ledger) {
        ledger.end(target).map_err(failed)?;
    }
    let (major, folder) = (step.major, laid_down.data.as_path());
    let owner = std::fs::metadata(folder).map_err(failed)?.uid();
    let start = match &step.recover {
        Some(RecoverStep { reach, paused: true, .. }) => format!(
            "start PostgreSQL {major} on {}, with no less connections, locks and workers than its source has: it stays at {} and can be read; `select pg_wal_replay_resume()` makes it go its own way, and it archives nothing until `archive_mode` is on again and what Windlass set in its postgresql.auto.conf is reset",
            folder.display(),
            reach.end
        ),
        Some(RecoverStep { reach, .. }) => {
            let last = reach.last.map_or(String::new(), |last| format!(", whose last transaction ended at {last}"));
            format!(
                "start PostgreSQL {major} on {}: it was recovered up to {}{last}, and archives nothing until `archive_mode` is on again",
                folder.display(),
                reach.end
            )
        }
        None if step.standby => format!(
            "start PostgreSQL {major} on {}: it is a standby that follows the archive, by the `restore_command` in its postgresql.auto.conf; set `primary_conninfo` to have it stream as well",
            folder.display()
        ),
        None => {
            format!("start PostgreSQL {major} on {}: it recovers by itself, up to {}", folder.display(), step.until)
        }
    };
    let is_roots = rustix::process::geteuid().is_root() && owner == 0;
    let theirs = format!(
        "everything is root's: `chown -R postgres: {}` first, or as the server's user is called",
        target.display()
    );
    Ok(is_roots.then_some(theirs).into_iter().chain([start]).chain(settings).collect())
}

/// Lays down the settings that lay outside of the data folder.
async fn lay_down_settings(
    vault: &Vault,
    manifest: &ComponentManifest,
    data: &PhysicalData,
    target: &Path,
) -> Result<(), PhysicalError> {
    let (component, walg) = (&manifest.component, PhysicalError::Walg);
    let archive = vault.cluster(component, &data.system_identifier, data.sealed).map_err(PhysicalError::Key)?;
    let name: BackupName = data.backup.parse().map_err(walg)?;
    let folder = target.join("settings");
    for (path, content) in archive.settings(&name).await.map_err(walg)? {
        let path = folder.join(path);
        let failed = |source| PhysicalError::Write { path: path.clone(), source };
        let above = path.parent().unwrap_or(&folder);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(above).map_err(failed)?;
        let mut file = tempfile::NamedTempFile::new_in(above).map_err(failed)?;
        file.write_all(&content).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
    }
    Ok(())
}

/// Lays a base backup down. Where the ledger says that it was, nothing is done.
async fn base_backup(
    vault: &Vault,
    manifest: &ComponentManifest,
    (data, laid_down): (&PhysicalData, &LaidDown),
    ledger: Option<&Arc<Ledger>>,
    progress: &dyn Progress,
) -> Result<(), PhysicalError> {
    if ledger.is_some_and(|ledger| ledger.overrides().is_some()) {
        return Ok(());
    }
    let component = &manifest.component;
    let archive = vault.cluster(component, &data.system_identifier, data.sealed).map_err(PhysicalError::Key)?;
    let walg = PhysicalError::Walg;
    let name: BackupName = data.backup.parse().map_err(walg)?;
    progress.event(Event::Step { component, text: "lay down the data folder", total: Some(data.data_bytes) });
    // Everything in its folder is unpacked: it has to be what the manifest names.
    for (object, size) in archive.objects(&name).await.map_err(walg)? {
        let is_named = |named: &ObjectRef| named.key.ends_with(&format!("/{object}")) && named.size == size;
        if !data.objects.iter().any(is_named) {
            let why = format!("`{object}` is not what its manifest names");
            return Err(walg(WalgError::Chain { backup: name.to_string(), why }));
        }
    }
    let held = archive.look().await.map_err(walg)?;
    let chain = archive.chain(&held, &name).await.map_err(walg)?;
    let spec = chain.last().and_then(|backup| backup.sentinel.spec.clone());
    let folder = laid_down.data.as_path();
    let is_old = ledger.is_some_and(|ledger| ledger.is_begun());
    let open = if is_old { Target::go_on } else { Target::create };
    let into = open(folder, spec.as_ref(), &laid_down.tablespaces).map_err(walg)?;
    let (moved, mut counted) = tally();
    let laying_down = with_progress(archive.lay_down(&held, &chain, into, ledger, &*moved), &mut counted, |more| {
        moment::pass();
        progress.event(Event::Bytes { component, more });
    });
    laying_down.await.map_err(walg)?;
    if let Some(ledger) = ledger {
        let noted = Recovery::overrides(folder).and_then(|overrides| ledger.laid_down(&overrides));
        noted.map_err(|source| PhysicalError::Write { path: folder.to_owned(), source })?;
    }
    moment::reach("after", &"lay down");
    Ok(())
}

/// Has a server recover by itself on what was laid down: with the WAL that came with it, and every history that was archived, for it to
/// come up on a timeline nobody has had.
async fn with_its_wal(
    vault: &Vault,
    manifest: &ComponentManifest,
    (data, laid_down): (&PhysicalData, &LaidDown),
    recovery: &Recovery,
) -> Result<(), PhysicalError> {
    let (component, walg) = (&manifest.component, PhysicalError::Walg);
    let archive = vault.cluster(component, &data.system_identifier, data.sealed).map_err(PhysicalError::Key)?;
    let held = archive.look().await.map_err(walg)?;
    let folder = laid_down.data.as_path();
    let failed = |source| PhysicalError::Write { path: folder.to_owned(), source };
    recovery.write(folder).map_err(failed)?;
    // By their names without what says how they are compressed: so they are called in `pg_wal`.
    let wal =
        data.wal.iter().map(|object| Codec::split(object.key.rsplit('/').next().unwrap_or_default()).0.to_owned());
    let files = wal.chain(histories(&held, data)).collect();
    into_pg_wal(&archive, data, laid_down, files).await
}

/// The histories of all timelines that were archived.
fn histories<'a>(held: &'a Held, data: &'a PhysicalData) -> impl Iterator<Item = String> + 'a {
    held.timelines().map(|timeline| WalFile::History(timeline).name(data.segment_size))
}

/// Puts files of the archive where a server looks for its WAL.
async fn into_pg_wal(
    archive: &Backups,
    data: &PhysicalData,
    laid_down: &LaidDown,
    files: BTreeSet<String>,
) -> Result<(), PhysicalError> {
    let folder = laid_down.data.join("pg_wal");
    let failed = |source| PhysicalError::Write { path: folder.clone(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed)?;
    let cluster = data.system_identifier.parse().ok();
    for name in files {
        if !archive.fetch(&name, cluster, &folder.join(&name)).await.map_err(PhysicalError::Walg)? {
            return Err(PhysicalError::WalGone { segment: name });
        }
    }
    let synced = std::fs::File::open(&folder).and_then(|folder| folder.sync_all());
    synced.map_err(failed)
}

/// Lays a base backup down, and has its server recover: up to a moment where a step says so. It runs when this returns.
pub(crate) async fn recovered<'a>(
    vault: &Vault,
    manifest: &ComponentManifest,
    (data, laid_down): (&'a PhysicalData, &'a LaidDown),
    step: Option<&'a RecoverStep>,
    ledger: Option<&Arc<Ledger>>,
    recoverer: Recoverer<'a>,
    progress: &dyn Progress,
) -> Result<Recovered<'a>, PhysicalError> {
    base_backup(vault, manifest, (data, laid_down), ledger, progress).await?;
    let before = ledger.and_then(|ledger| ledger.overrides());
    let is_over = before.is_some() && Recovery::is_over(&laid_down.data)?;
    if step.is_none() && !is_over {
        with_its_wal(vault, manifest, (data, laid_down), &Recovery::by_itself(data.timeline)).await?;
    }
    let component = &manifest.component;
    let archive = vault.cluster(component, &data.system_identifier, data.sealed).map_err(PhysicalError::Key)?;
    let owner = Owner { application: vault.application().clone(), component: component.clone() };
    if step.is_some_and(|step| step.paused) && !is_over {
        // It asks nobody when it goes its own way, and must not take a timeline that there is.
        let held = archive.look().await.map_err(PhysicalError::Walg)?;
        into_pg_wal(&archive, data, laid_down, histories(&held, data).collect()).await?;
    }
    let recovered = recoverer.recover(owner, archive, (data, laid_down), step, before, progress).await?;
    moment::reach("after", &"recover");
    Ok(recovered)
}
