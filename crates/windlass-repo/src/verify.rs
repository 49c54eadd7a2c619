//! The level `read`: every byte of a point read back and hashed; and the record of every verification.

use futures::stream::{StreamExt, TryStreamExt};
use windlass_core::id::PointId;
use windlass_core::point::{ComponentData, ComponentManifest, ObjectRef};
use windlass_core::verification::{ComponentVerdict, Verdict, Verification};

use crate::error::RepositoryError;
use crate::evidence::{self, Event};
use crate::format::dump::Walker;
use crate::hex;
use crate::layout;
use crate::object::ObjectError;
use crate::store::StoreError;
use crate::vault::Vault;
use crate::writer::Writer;

/// Records read at once.
const PARALLEL: usize = 16;

/// Reads every object of a component back. A store that cannot be reached is an error, not a verdict.
///
/// `moved` hears of every piece read, in bytes.
pub async fn objects(
    vault: &Vault,
    manifest: &ComponentManifest,
    moved: &(dyn Fn(u64) + Sync),
) -> Result<ComponentVerdict, ObjectError> {
    let mut verdict = ComponentVerdict {
        name: manifest.component.clone(),
        verdict: Verdict::Passed,
        findings: Vec::new(),
        bytes_read: 0,
        restore_ms: None,
        left_out: Vec::new(),
        checked: Vec::new(),
    };
    for object in manifest.objects() {
        match object_whole(vault, object, is_dump(&manifest.data, object), moved).await {
            Ok(()) => verdict.bytes_read += object.size,
            Err(error) if is_damage(&error) => {
                verdict.verdict = Verdict::Failed;
                verdict.findings.push(windlass_core::diagnose::chain(&error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(verdict)
}

async fn object_whole(
    vault: &Vault,
    object: &ObjectRef,
    dump: bool,
    moved: &(dyn Fn(u64) + Sync),
) -> Result<(), ObjectError> {
    let mut reader = vault.read(object).await?;
    let mut walker = dump.then(Walker::new);
    while let Some(piece) = reader.next().await? {
        moved(piece.len() as u64);
        if let Some(walker) = &mut walker {
            walker.feed(&piece).map_err(|error| broken(object, &error))?;
        }
    }
    if let Some(walker) = walker {
        walker.finish().map_err(|error| broken(object, &error))?;
    }
    Ok(())
}

fn broken(object: &ObjectRef, error: &(dyn std::error::Error + 'static)) -> ObjectError {
    ObjectError::Damaged { key: object.key.clone(), why: windlass_core::diagnose::chain(error) }
}

fn is_dump(data: &ComponentData, object: &ObjectRef) -> bool {
    matches!(data, ComponentData::Postgres(data) if data.databases.iter().any(|dump| dump.object.key == object.key))
}

/// Whether an error says something about the object rather than about the way to it.
pub fn is_damage(error: &ObjectError) -> bool {
    matches!(error, ObjectError::Damaged { .. } | ObjectError::Store(StoreError::NotFound { .. }))
}

/// Stores the record of a verification, in `verified/` and as evidence.
pub async fn record(vault: &Vault, writer: &Writer, verification: &Verification) -> Result<(), RepositoryError> {
    let key = layout::verification(vault.application(), verification.point, verification.id);
    let bytes = writer.sign(verification)?;
    let event = Event::Verification {
        point: verification.point,
        entry: verification.id,
        sha256: hex::sha256(&bytes),
        level: verification.level,
        verdict: verification.verdict,
        drill: verification.drill.clone(),
    };
    vault.store().create(&key, bytes).await.map_err(RepositoryError::Store)?;
    evidence::append(vault, writer, &verification.host, event).await?;
    Ok(())
}

/// All verifications of an application that can be read and trusted, the oldest first, and how many cannot.
pub async fn load(vault: &Vault) -> Result<(Vec<Verification>, usize), RepositoryError> {
    let folder = layout::verifications(vault.application());
    let listed = vault.store().list_all(Some(&folder)).await.map_err(RepositoryError::Store)?;
    let read: Vec<Option<Verification>> = futures::stream::iter(listed)
        .map(|object| async move {
            let Some(bytes) = vault.store().find(&object.key).await.map_err(RepositoryError::Store)? else {
                return Ok::<_, RepositoryError>(None);
            };
            let record: Option<Verification> = vault.accept(&object.key, &bytes).ok();
            let expected = |r: &Verification| layout::verification(vault.application(), r.point, r.id) == object.key;
            Ok(record.filter(expected))
        })
        .buffered(PARALLEL)
        .try_collect()
        .await?;
    let all = read.len();
    let mut good: Vec<Verification> = read.into_iter().flatten().collect();
    good.sort_by_key(|verification| verification.id);
    let unreadable = all - good.len();
    Ok((good, unreadable))
}

/// The newest verification of each level of a point.
pub fn newest_of(all: &[Verification], point: PointId) -> Vec<&Verification> {
    let mut newest: Vec<&Verification> = Vec::new();
    for verification in all.iter().filter(|v| v.point == point).rev() {
        if !newest.iter().any(|v| v.level == verification.level) {
            newest.push(verification);
        }
    }
    newest
}
