//! Runs whose components are captured elsewhere: what they left, and the commit of their point.
//!
//! An agent writes the run's intent and its component's manifest and nothing else. Whoever commits goes by what lies in
//! the repository, never by what became of the agent. Promised: committing twice, also from two places at once, makes one
//! point, and the later one finds the earlier's.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use windlass_core::id::{EntryId, PointId};
use windlass_core::name::Name;
use windlass_core::point::{ComponentManifest, ComponentSummary, Consistency, FORMAT, RecoveryPoint, span};
use windlass_core::verification::{ComponentVerdict, Level, Verdict, Verification};

use crate::catalog::{Intent, point_of};
use crate::error::RepositoryError;
use crate::evidence::{self, Event};
use crate::random::Fresh;
use crate::store::{Key, StoreError};
use crate::vault::Vault;
use crate::writer::Writer;
use crate::{hex, layout, verify};

/// What an attempt of a run is about to write beside the repository, where names do not tell whose an object is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The version of this document.
    pub format: u32,
    /// The run.
    pub point: PointId,
    /// The key it writes to.
    pub key: String,
    /// When.
    pub at: Timestamp,
}

impl Attempt {
    /// Notes an attempt, before it writes.
    pub async fn note(vault: &Vault, writer: &Writer, point: PointId, key: &Key) -> Result<(), RepositoryError> {
        let entry = EntryId::fresh().map_err(RepositoryError::Randomness)?;
        let attempt = Self { format: FORMAT, point, key: key.to_string(), at: Timestamp::now() };
        let note = layout::attempt(vault.application(), point, entry);
        vault.store().create(&note, writer.sign(&attempt)?).await.map_err(RepositoryError::Store)?;
        Ok(())
    }

    /// Every attempt of a run that was noted. A note that cannot be trusted is an error.
    pub async fn all(vault: &Vault, point: PointId) -> Result<Vec<Self>, RepositoryError> {
        let listed = vault.store().list_all(Some(&layout::run(vault.application(), point))).await;
        let mut attempts = Vec::new();
        for object in listed.map_err(RepositoryError::Store)? {
            if !object.key.file_name().starts_with("attempt.") {
                continue;
            }
            let Some(bytes) = vault.store().find(&object.key).await.map_err(RepositoryError::Store)? else { continue };
            let attempt: Self = vault.accept(&object.key, &bytes)?;
            if attempt.point == point {
                attempts.push(attempt);
            }
        }
        Ok(attempts)
    }
}

/// Every run of which something is there, the oldest first.
pub async fn begun(vault: &Vault) -> Result<Vec<PointId>, RepositoryError> {
    let runs =
        vault.store().list_all(Some(&layout::runs(vault.application()))).await.map_err(RepositoryError::Store)?;
    let ids: BTreeSet<PointId> = runs.iter().filter_map(|object| object.key.segments().nth(2)?.parse().ok()).collect();
    Ok(ids.into_iter().collect())
}

/// A run, as far as it got.
#[derive(Clone, Debug)]
pub struct Run {
    /// What it set out to do.
    pub intent: Intent,
    /// The components that are there, each with the SHA-256 of its manifest, in hex.
    pub captured: BTreeMap<Name, (ComponentManifest, String)>,
}

impl Run {
    /// Reads a run; `None` where nothing of it is there.
    pub async fn load(vault: &Vault, id: PointId) -> Result<Option<Self>, RepositoryError> {
        let key = layout::intent(vault.application(), id);
        let Some(bytes) = vault.store().find(&key).await.map_err(RepositoryError::Store)? else { return Ok(None) };
        let intent: Intent = vault.accept(&key, &bytes)?;
        if intent.point != id {
            return Err(RepositoryError::Misplaced { key });
        }
        let mut captured = BTreeMap::new();
        for name in &intent.components {
            let key = layout::component(vault.application(), id, name);
            let Some(bytes) = vault.store().find(&key).await.map_err(RepositoryError::Store)? else { continue };
            let manifest: ComponentManifest = vault.accept(&key, &bytes)?;
            if manifest.point != id || manifest.component != *name {
                return Err(RepositoryError::Misplaced { key });
            }
            captured.insert(name.clone(), (manifest, hex::sha256(&bytes)));
        }
        Ok(Some(Self { intent, captured }))
    }

    /// The runs that were never committed, the oldest first.
    pub async fn open(vault: &Vault) -> Result<Vec<PointId>, RepositoryError> {
        let points = vault.store().list_all(Some(&layout::points(vault.application()))).await;
        let points = points.map_err(RepositoryError::Store)?;
        let committed: BTreeSet<PointId> = points.iter().filter_map(|object| point_of(&object.key)).collect();
        let mut open = begun(vault).await?;
        open.retain(|id| !committed.contains(id));
        Ok(open)
    }

    /// Whether every component is there.
    fn is_whole(&self) -> bool {
        self.intent.components.iter().all(|name| self.captured.contains_key(name))
    }

    /// Commits the point; `None` where not every component is there.
    pub async fn commit(&self, vault: &Vault, writer: &Writer) -> Result<Option<RecoveryPoint>, RepositoryError> {
        let Some(mut point) = self.point() else { return Ok(None) };
        point.evidence = evidence::heads(vault).await?;
        match vault.commit(writer, &point).await {
            Ok(sha256) => {
                let event = Event::Backup { point: point.id, complete: point.is_complete(), sha256 };
                evidence::append(vault, writer, &self.intent.host, event).await?;
                self.record_what_was_read(vault, writer, &point).await?;
                Ok(Some(point))
            }
            // Someone else was faster.
            Err(RepositoryError::Store(StoreError::Occupied { key, .. })) => {
                let bytes = vault.store().get(&key).await.map_err(RepositoryError::Store)?;
                vault.accept(&key, &bytes).map(Some)
            }
            Err(error) => Err(error),
        }
    }

    fn point(&self) -> Option<RecoveryPoint> {
        if !self.is_whole() {
            return None;
        }
        let manifests = || self.intent.components.iter().filter_map(|name| self.captured.get(name));
        let components: Vec<ComponentSummary> =
            manifests().map(|(manifest, sha256)| ComponentSummary::of(manifest, sha256.clone())).collect();
        let window = span(&components)?;
        Some(RecoveryPoint {
            format: FORMAT,
            id: self.intent.point,
            application: self.intent.application.clone(),
            at: window.from,
            started: self.intent.started,
            finished: manifests().map(|(manifest, _)| manifest.finished).max()?,
            // Of components captured apart from each other.
            consistency: manifests().map(|(manifest, _)| manifest.consistency).min()?.min(Consistency::Component),
            skew_ms: window.skew_ms(),
            components,
            failed: Vec::new(),
            warnings: manifests()
                .flat_map(|(manifest, _)| manifest.warnings.iter().map(|w| format!("{}: {w}", manifest.component)))
                .collect(),
            evidence: BTreeMap::new(),
        })
    }

    /// Puts on record that every object was read back, where it was.
    async fn record_what_was_read(
        &self,
        vault: &Vault,
        writer: &Writer,
        point: &RecoveryPoint,
    ) -> Result<(), RepositoryError> {
        let manifests = || self.captured.values().map(|(manifest, _)| manifest);
        let Some(finished) = manifests().map(|manifest| manifest.read_back).min().flatten() else { return Ok(()) };
        let verdict = |manifest: &ComponentManifest| ComponentVerdict {
            name: manifest.component.clone(),
            verdict: Verdict::Passed,
            findings: Vec::new(),
            bytes_read: manifest.stored_bytes(),
            restore_ms: None,
            left_out: Vec::new(),
            checked: Vec::new(),
        };
        let verification = Verification {
            format: FORMAT,
            id: EntryId::fresh().map_err(RepositoryError::Randomness)?,
            application: vault.application().clone(),
            point: point.id,
            level: Level::Read,
            verdict: Verdict::Passed,
            started: point.finished.min(finished),
            finished,
            host: self.intent.host.clone(),
            components: manifests().map(verdict).collect(),
            drill: None,
        };
        verify::record(vault, writer, &verification).await
    }
}
