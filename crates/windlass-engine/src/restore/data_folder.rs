//! Lays down the data folder of a server: a base backup, the WAL that makes it consistent, and what has a server recover by it.
//!
//! The server that is started on it replays the WAL that lies in its `pg_wal`, comes up on a timeline of its own, archives nothing,
//! and needs neither the repository nor us.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use windlass_core::point::{ComponentManifest, ObjectRef, PhysicalData};
use windlass_core::restore::{DataFolderStep, RecoverStep};
use windlass_core::wal::WalFile;
use windlass_repo::format::walg::{BackupName, Codec, Target, WalgError};
use windlass_repo::vault::Vault;

use crate::backup::{tally, with_progress};
use crate::postgres::physical::PhysicalError;
use crate::postgres::physical::place::not_ours_above;
use crate::postgres::physical::recover::Recoverer;
use crate::postgres::physical::recovery::{NOTHING_MORE, Recovery, Until};
use crate::postgres::wal::Owner;
use crate::progress::{Event, Progress};

/// The part of the target that is the data folder.
pub(crate) const DATA: &str = "data";

/// Carries out a step; what a person should know.
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
    if let Some(above) = not_ours_above(&target.join(DATA)).map_err(failed)? {
        return Err(PhysicalError::NotOurs { folder: target.to_owned(), above });
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(target).map_err(failed)?;
    let recover = step.recover.as_ref().zip(recoverer);
    into(vault, manifest, data, target, recover, progress).await?;
    let (major, folder) = (step.major, target.join(DATA));
    let owner = std::fs::metadata(&folder).map_err(failed)?.uid();
    let start = match &step.recover {
        Some(RecoverStep { reach, .. }) => {
            let last = reach.last.map_or(String::new(), |last| format!(", whose last transaction ended at {last}"));
            format!(
                "start PostgreSQL {major} on {}: it was recovered up to {}{last}, and archives nothing until `archive_mode` is on again",
                folder.display(),
                reach.end
            )
        }
        None => {
            format!("start PostgreSQL {major} on {}: it recovers by itself, up to {}", folder.display(), step.until)
        }
    };
    let is_roots = rustix::process::geteuid().is_root() && owner == 0;
    let theirs = format!(
        "everything is root's: `chown -R postgres: {}` first, or as the server's user is called",
        target.display()
    );
    Ok(is_roots.then_some(theirs).into_iter().chain([start]).collect())
}

/// Lays a base backup down into a folder that is there, and has a server recover on it where a moment was asked for.
pub(crate) async fn into(
    vault: &Vault,
    manifest: &ComponentManifest,
    data: &PhysicalData,
    target: &Path,
    recover: Option<(&RecoverStep, Recoverer<'_>)>,
    progress: &dyn Progress,
) -> Result<(), PhysicalError> {
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
    let folder = |oid: &u32| (*oid, target.join(format!("tablespace-{oid}")));
    let tablespaces: BTreeMap<u32, PathBuf> = data.tablespaces.keys().map(folder).collect();
    let folder = target.join(DATA);
    let into = Target::create(&folder, spec.as_ref(), &tablespaces).map_err(walg)?;
    let (moved, mut counted) = tally();
    let laid_down = with_progress(archive.lay_down(&held, &chain, into, &*moved), &mut counted, |more| {
        progress.event(Event::Bytes { component, more });
    });
    laid_down.await.map_err(walg)?;
    if let Some((step, recoverer)) = recover {
        let owner = Owner { application: vault.application().clone(), component: component.clone() };
        return recoverer.recover(owner, archive, (data, &folder), step, progress).await;
    }
    let failed = |source| PhysicalError::Write { path: folder.clone(), source };
    Recovery { restore_command: NOTHING_MORE.to_owned(), timeline: data.timeline, until: Until::EndOfWal }
        .write(&folder)
        .map_err(failed)?;
    let cluster = data.system_identifier.parse().ok();
    // By their names without what says how they are compressed: so they are called in `pg_wal`. With every history that was
    // archived, for the server to come up on a timeline nobody has had.
    let wal =
        data.wal.iter().map(|object| Codec::split(object.key.rsplit('/').next().unwrap_or_default()).0.to_owned());
    let histories = held.timelines().map(|timeline| WalFile::History(timeline).name(data.segment_size));
    for name in wal.chain(histories).collect::<BTreeSet<String>>() {
        let name = name.as_str();
        if !archive.fetch(name, cluster, &folder.join("pg_wal").join(name)).await.map_err(walg)? {
            return Err(PhysicalError::WalGone { segment: name.to_owned() });
        }
    }
    let synced = std::fs::File::open(folder.join("pg_wal")).and_then(|folder| folder.sync_all());
    synced.map_err(failed)
}
