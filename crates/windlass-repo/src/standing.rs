//! How an application stands, told from the repository alone.

use std::collections::BTreeMap;

use jiff::Timestamp;
use windlass_core::name::Name;
use windlass_core::protection::{Goals, PointSummary, Protection, assess};
use windlass_core::verification::Verification;

use crate::catalog::Catalog;
use crate::error::RepositoryError;
use crate::vault::Vault;
use crate::verify;

/// Judges an application by what lies in its repository.
pub async fn assess_now(vault: &Vault, goals: &BTreeMap<Name, Goals>) -> Result<Protection, RepositoryError> {
    let catalog = Catalog::load(vault).await?;
    let (verifications, _) = verify::load(vault).await?;
    Ok(assess_loaded(&catalog, &verifications, goals))
}

/// The same, by what was loaded of it just now.
pub fn assess_loaded(catalog: &Catalog, verifications: &[Verification], goals: &BTreeMap<Name, Goals>) -> Protection {
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
        })
        .collect();
    assess(goals, &points, verifications, Timestamp::now())
}
