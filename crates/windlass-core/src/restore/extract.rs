//! Single databases and tables out of a server as a whole.

use std::collections::BTreeMap;

use super::aside::{is_free, warn_of_damage};
use super::{DatabaseFacts, ExtractStep, ExtractedDatabase, FolderFacts, RecoverStep, Refusal, Wanted};
use crate::point::PhysicalData;

/// Recovers the server in a scratch place, and fills databases that are empty or not there from those that are wanted of it.
///
/// Which roles, extensions and collations they need is known only once it is recovered: it is looked at before the first write.
pub(super) fn extract_step(
    part: &Wanted<'_>,
    data: &PhysicalData,
    facts: &BTreeMap<String, DatabaseFacts>,
    (place, recover): (&FolderFacts, Option<RecoverStep>),
    warnings: &mut Vec<String>,
) -> Result<ExtractStep, Refusal> {
    let component = &part.manifest.component;
    let major = data.server_version / 10_000;
    let mut databases = Vec::new();
    for database in part.extracted() {
        let target = facts.get(database).ok_or_else(|| Refusal::NoTarget { component: component.clone() })?;
        is_free(target)?;
        let (theirs, database) = (target.server_version / 10_000, database.to_owned());
        if theirs < major {
            return Err(Refusal::OlderServer { database, theirs, ours: major });
        }
        if !data.databases.contains(&database) {
            warnings.push(format!("{database} was not there yet when the base backup was taken: it may not be there"));
        }
        let relations = part.relations(&database);
        databases.push(ExtractedDatabase { create: !target.exists, relations, target: target.clone(), database });
    }
    warn_of_damage(component, data, warnings);
    Ok(ExtractStep {
        component: component.clone(),
        backup: data.backup.clone(),
        major,
        until: data.stop,
        recover,
        databases,
        place: place.path.clone(),
        bytes: data.data_bytes,
    })
}
