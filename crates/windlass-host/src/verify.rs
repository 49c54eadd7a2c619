//! Reads a point back: every byte, hashed; of a base backup also the WAL that leads on from it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use windlass_core::diagnose::without_output;
use windlass_core::name::Name;
use windlass_core::point::{ComponentData, ComponentManifest, PhysicalData, RecoveryPoint};
use windlass_core::restore::Reach;
use windlass_core::verification::{ComponentVerdict, Level, Verdict, Verification};
use windlass_engine::backup::files;
use windlass_engine::progress::{Event, Progress};
use windlass_repo::catalog::Entry;
use windlass_repo::error::RepositoryError;
use windlass_repo::format::restic::{FilesError, Verified};
use windlass_repo::live::{self, Pin};
use windlass_repo::random::Fresh;
use windlass_repo::store::StoreError;
use windlass_repo::vault::Vault;
use windlass_repo::verify;
use windlass_repo::writer::Writer;

use crate::error::TaskError;
use crate::moments;

/// Pins a point and makes sure that it stays: the pin is written first, then it is looked for the point's tombstone.
///
/// With credentials that can only read there is no pin: a restore after a disaster must not depend on one. What is
/// swept meanwhile is then found missing, not taken for whole.
pub async fn pin(vault: &Vault, entry: &Entry, why: &str, progress: &dyn Progress) -> Result<Option<Pin>, TaskError> {
    let pin = match Pin::set(vault, entry.point.id, why).await {
        Ok(pin) => pin,
        Err(RepositoryError::Store(StoreError::Denied { .. })) => {
            let text = "these credentials cannot write, so the point is not pinned against a sweep";
            progress.event(Event::Warning { text });
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    if live::is_going(vault, entry.point.id).await? {
        pin.lift().await;
        return Err(TaskError::Going { point: entry.point.id });
    }
    Ok(Some(pin))
}

/// Lifts a pin, if there is one.
pub(crate) async fn unpin(pin: Option<Pin>) {
    if let Some(pin) = pin {
        pin.lift().await;
    }
}

/// Reads a point back and records what came of it.
pub async fn read(
    vault: &Vault,
    writer: &Writer,
    host: &str,
    entry: &Entry,
    progress: &dyn Progress,
) -> Result<Verification, TaskError> {
    let started = Timestamp::now();
    let pin = pin(vault, entry, "verify", progress).await?;
    let components = components(vault, &entry.point, &[], &Behind::ItsOwn, progress).await?;
    unpin(pin).await;
    let record = record_of(vault, host, &entry.point, Level::Read, started, components)?;
    put_on_record(vault, writer, &record, progress).await?;
    Ok(record)
}

/// Records a verification. What was found out is told also where these credentials cannot write it down.
pub(crate) async fn put_on_record(
    vault: &Vault,
    writer: &Writer,
    record: &Verification,
    progress: &dyn Progress,
) -> Result<(), TaskError> {
    match verify::record(vault, writer, record).await {
        Err(RepositoryError::Store(StoreError::Denied { .. })) => {
            let text = "these credentials cannot write, so this verification is not recorded and does not count";
            progress.event(Event::Warning { text });
            Ok(())
        }
        other => Ok(other?),
    }
}

/// What of the WAL behind a base backup is read as well.
pub(crate) enum Behind<'a> {
    /// All of it, up to where the next base backup begins.
    ItsOwn,
    /// As far as a plan goes.
    Planned(&'a BTreeMap<Name, Reach>),
}

/// Reads the components of a point back, or those named.
pub(crate) async fn components(
    vault: &Vault,
    point: &RecoveryPoint,
    only: &[Name],
    behind: &Behind<'_>,
    progress: &dyn Progress,
) -> Result<Vec<ComponentVerdict>, TaskError> {
    let mut verdicts = Vec::new();
    for summary in point.components.iter().filter(|c| only.is_empty() || only.contains(&c.name)) {
        let verdict = match vault.component(point, summary).await {
            Ok(manifest) => component(vault, &manifest, behind, progress).await?,
            // The store is away: nothing can be said.
            Err(RepositoryError::Store(error)) if error.is_outage() => {
                return Err(RepositoryError::Store(error).into());
            }
            Err(error) => failed(&summary.name, windlass_core::diagnose::chain(&error)),
        };
        let text = match verdict.verdict {
            Verdict::Passed => format!("read back, {}", windlass_core::size::display(verdict.bytes_read)),
            _ => format!("DAMAGED: {}", verdict.findings.join("; ")),
        };
        progress.event(Event::Done { component: &summary.name, text: &text });
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

async fn component(
    vault: &Vault,
    manifest: &ComponentManifest,
    behind: &Behind<'_>,
    progress: &dyn Progress,
) -> Result<ComponentVerdict, TaskError> {
    let name = &manifest.component;
    let total = manifest.objects().iter().map(|object| object.size).sum();
    progress.event(Event::Step { component: name, text: "read back", total: (total > 0).then_some(total) });
    let moved = |more| progress.event(Event::Bytes { component: name, more });
    let mut verdict = verify::objects(vault, manifest, &moved).await.map_err(TaskError::Object)?;
    if let Some(snapshot) = manifest.snapshot() {
        let files = files(vault).map_err(TaskError::Key)?;
        let verified = match files.verify(snapshot, &moved).await {
            // Its password is in the keyring, and its place is in the repository: whatever is not there was there.
            Err(
                error @ (FilesError::Missing { .. } | FilesError::WrongPassword { .. } | FilesError::NoSnapshot { .. }),
            ) => Verified { damage: vec![windlass_core::diagnose::chain(&error)], ..Verified::default() },
            verified => verified.map_err(TaskError::Files)?,
        };
        verdict.bytes_read += verified.bytes;
        if !verified.damage.is_empty() {
            verdict.verdict = Verdict::Failed;
            verdict.findings.extend(verified.damage);
        }
    }
    if let ComponentData::Physical(data) = &manifest.data {
        wal(vault, name, data, behind, (&mut verdict, progress)).await?;
    }
    Ok(verdict)
}

/// Reads the WAL back behind a base backup: what is damaged of it makes the verdict.
async fn wal(
    vault: &Vault,
    component: &Name,
    data: &PhysicalData,
    behind: &Behind<'_>,
    (verdict, progress): (&mut ComponentVerdict, &dyn Progress),
) -> Result<(), TaskError> {
    let (archive, backup) = moments::archive(vault, component, data)?;
    let held = archive.look().await.map_err(moments::walg)?;
    let reach = match behind {
        Behind::ItsOwn => None,
        Behind::Planned(reaches) => match reaches.get(component) {
            None => return Ok(()),
            planned => planned,
        },
    };
    let Some(replay) = held.replay_on(&backup, reach.map(|reach| reach.timeline)) else { return Ok(()) };
    let until = reach.map_or_else(|| held.next_base(&backup, &replay), |reach| Some(reach.end));
    progress.event(Event::Step { component, text: "read back its WAL", total: None });
    let told = |more| progress.event(Event::Bytes { component, more });
    let read = archive.read_wal(&held, (&backup, &replay), until, &told).await.map_err(moments::walg)?;
    if !read.damage.is_empty() {
        verdict.verdict = Verdict::Failed;
        verdict.findings.extend(read.damage);
    }
    Ok(())
}

fn failed(name: &Name, why: String) -> ComponentVerdict {
    ComponentVerdict {
        name: name.clone(),
        verdict: Verdict::Failed,
        findings: vec![why],
        bytes_read: 0,
        restore_ms: None,
        left_out: Vec::new(),
        checked: Vec::new(),
    }
}

/// The record of a verification that ends now.
pub(crate) fn record_of(
    vault: &Vault,
    host: &str,
    point: &RecoveryPoint,
    level: Level,
    started: Timestamp,
    components: Vec<ComponentVerdict>,
) -> Result<Verification, TaskError> {
    let mut components = components;
    for finding in components.iter_mut().flat_map(|component| &mut component.findings) {
        *finding = without_output(finding).to_owned();
    }
    Ok(Verification {
        format: windlass_core::point::FORMAT,
        id: Fresh::fresh().map_err(RepositoryError::Randomness)?,
        application: vault.application().clone(),
        point: point.id,
        level,
        verdict: Verification::worst(&components),
        started,
        finished: Timestamp::now(),
        host: host.to_owned(),
        components,
        drill: None,
    })
}
