//! How an application stands, told from the repository alone.

use std::collections::BTreeMap;

use jiff::Timestamp;
use windlass_core::coverage::Reached;
use windlass_core::diagnose::{Diagnose, Outcome, Retry};
use windlass_core::name::Name;
use windlass_core::point::ComponentData;
use windlass_core::protection::{Goals, PointSummary, Protection, assess};
use windlass_core::verification::Verification;

use crate::catalog::Catalog;
use crate::error::RepositoryError;
use crate::format::walg::WalgError;
use crate::vault::Vault;
use crate::verify;

/// Why an application's standing could not be told.
#[derive(Debug, thiserror::Error)]
pub enum StandingError {
    /// The repository.
    #[error(transparent)]
    Repository(RepositoryError),
    /// An archive of WAL.
    #[error(transparent)]
    Wal(WalgError),
}

impl StandingError {
    fn inner(&self) -> &dyn Diagnose {
        match self {
            Self::Repository(error) => error,
            Self::Wal(error) => error,
        }
    }
}

impl Diagnose for StandingError {
    fn code(&self) -> &'static str {
        self.inner().code()
    }

    fn reason(&self) -> &'static str {
        self.inner().reason()
    }

    fn retry(&self) -> Retry {
        self.inner().retry()
    }

    fn outcome(&self) -> Outcome {
        self.inner().outcome()
    }

    fn hints(&self) -> Vec<String> {
        self.inner().hints()
    }
}

/// Segments that are looked through for the last transaction: an idle server may have archived many in which none ended.
const LOOKED_THROUGH: usize = 512;

/// An application's standing is judged by this.
pub struct Known {
    catalog: Catalog,
    verifications: Vec<Verification>,
    /// How far the WAL of its servers leads on.
    pub reached: BTreeMap<Name, Reached>,
}

impl Known {
    /// Reads it; of servers whose WAL is archived also how far that leads on from the newest point.
    pub async fn load(vault: &Vault, archiving: &[Name]) -> Result<Self, StandingError> {
        let failed = StandingError::Repository;
        let catalog = Catalog::load(vault).await.map_err(failed)?;
        let (verifications, _) = verify::load(vault).await.map_err(failed)?;
        let mut reached = BTreeMap::new();
        for component in archiving {
            if let Some(found) = reach(vault, &catalog, component).await? {
                reached.insert(component.clone(), found);
            }
        }
        Ok(Self { catalog, verifications, reached })
    }

    /// Judges.
    pub fn assess(&self, goals: &BTreeMap<Name, Goals>) -> Protection {
        judge(&self.catalog, &self.verifications, goals, &self.reached)
    }
}

/// How far the WAL of a component leads on from the newest point that holds it.
async fn reach(vault: &Vault, catalog: &Catalog, component: &Name) -> Result<Option<Reached>, StandingError> {
    let failed = StandingError::Repository;
    for entry in catalog.live().rev().filter(|entry| entry.point.is_complete()) {
        let Some(summary) = entry.point.components.iter().find(|summary| summary.name == *component) else { continue };
        let manifest = vault.component(&entry.point, summary).await.map_err(failed)?;
        let ComponentData::Physical(data) = &manifest.data else { return Ok(None) };
        let archive = vault.cluster(component, &data.system_identifier, data.sealed);
        let archive = archive.map_err(|error| failed(RepositoryError::Key(error)))?;
        let held = archive.look().await.map_err(StandingError::Wal)?;
        let Some(replay) = data.backup.parse().ok().and_then(|name| held.replay(&name)) else { return Ok(None) };
        let Some(end) = held.end_of(&replay) else { return Ok(None) };
        let newest = replay.segments.len().saturating_sub(LOOKED_THROUGH);
        let cluster = data.system_identifier.parse().ok();
        let last = archive
            .last_end(&held, (replay.timeline, &replay.segments[newest..]), cluster)
            .await
            .map_err(StandingError::Wal)?;
        return Ok(Some(Reached {
            point: entry.point.id,
            cluster: data.system_identifier.clone(),
            timeline: replay.timeline,
            end,
            moment: last,
            gap: replay.gap.map(|(missing, _)| missing.name(held.size)),
            tablespaces: data.tablespaces.keys().copied().collect(),
            elsewhere: None,
        }));
    }
    Ok(None)
}

/// Judges by what was loaded just now, of an application without servers whose WAL is archived.
pub fn assess_loaded(catalog: &Catalog, verifications: &[Verification], goals: &BTreeMap<Name, Goals>) -> Protection {
    judge(catalog, verifications, goals, &BTreeMap::new())
}

fn judge(
    catalog: &Catalog,
    verifications: &[Verification],
    goals: &BTreeMap<Name, Goals>,
    reached: &BTreeMap<Name, Reached>,
) -> Protection {
    let points: Vec<PointSummary> = catalog
        .live()
        .map(|entry| PointSummary {
            id: entry.point.id,
            stored: entry.committed,
            // A partial point restores what it holds, but never counts.
            components: if entry.point.is_complete() {
                entry.point.components.iter().map(|c| (c.name.clone(), c.window.from.min(entry.committed))).collect()
            } else {
                BTreeMap::new()
            },
            corrupt: entry.point.components.iter().filter(|c| c.source_corrupt).map(|c| c.name.clone()).collect(),
        })
        .collect();
    assess(goals, &points, verifications, reached, Timestamp::now())
}
