//! What is asked of a point.

use super::{Refusal, Relation, Request};
use crate::id::RepositoryId;
use crate::name::Name;
use crate::point::{ComponentData, ComponentManifest, DatabaseDump, RecoveryPoint};
use crate::selector::Selector;

/// A point with the manifests of its components.
#[derive(Clone, Debug)]
pub struct Source<'a> {
    /// The repository it lies in.
    pub repository: RepositoryId,
    /// The point.
    pub point: &'a RecoveryPoint,
    /// The manifests of its components.
    pub components: &'a [ComponentManifest],
}

/// Which components, and which databases of them, a request means.
///
/// Every selector must match something, every component meant needs a target, and a target without a component
/// is refused: nothing is passed over in silence.
pub fn wanted<'a>(source: &Source<'a>, request: &Request) -> Result<Vec<Wanted<'a>>, Refusal> {
    for selector in &request.only {
        check_selector(source, selector, request.moment.is_some())?;
    }
    if let Some(name) = request.into.keys().find(|name| !source.components.iter().any(|c| c.component == **name)) {
        return Err(Refusal::NoComponent { name: name.clone(), known: names(source) });
    }
    let mut all = Vec::new();
    for manifest in source.components.iter().rev() {
        let selectors: Vec<&Selector> = request.only.iter().filter(|s| s.component == manifest.component).collect();
        let is_meant = request.only.is_empty() || !selectors.is_empty();
        let destination = if request.in_place {
            is_meant.then_some(Destination::InPlace)
        } else {
            match (request.only.is_empty(), selectors.is_empty(), request.into.get(&manifest.component)) {
                (true, _, Some(target)) | (false, false, Some(target)) => Some(Destination::Aside(target.clone())),
                (false, false, None) => return Err(Refusal::NoTarget { component: manifest.component.clone() }),
                (false, true, Some(_)) => return Err(Refusal::NotSelected { component: manifest.component.clone() }),
                (_, _, None) => None,
            }
        };
        if let Some(destination) = destination {
            all.push(Wanted { manifest, selectors: selectors.into_iter().cloned().collect(), destination });
        }
    }
    if all.is_empty() { Err(Refusal::Nothing { known: names(source) }) } else { Ok(all) }
}

/// Where a component goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Beside what is there: a database URL or a folder, as people wrote it.
    Aside(String),
    /// In the place of what is there.
    InPlace,
}

/// A component that is meant, with its target.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Its manifest.
    pub manifest: &'a ComponentManifest,
    /// The parts of it that are meant; empty for all.
    pub selectors: Vec<Selector>,
    /// Where it goes.
    pub destination: Destination,
}

impl<'a> Wanted<'a> {
    /// The databases that are meant, of a `postgres` component.
    pub fn databases(&self) -> Vec<&'a DatabaseDump> {
        let ComponentData::Postgres(data) = &self.manifest.data else { return Vec::new() };
        let meant = |dump: &DatabaseDump| {
            self.selectors.is_empty()
                || self.selectors.iter().any(|s| s.database.as_deref().is_none_or(|name| name == dump.name))
        };
        data.databases.iter().filter(|dump| meant(dump)).collect()
    }

    /// The databases that are meant alone, of a `physical` component; empty where all of it is meant.
    pub fn extracted(&self) -> Vec<&str> {
        let mut named = Vec::new();
        for selector in &self.selectors {
            match selector.database.as_deref() {
                None => return Vec::new(),
                Some(database) if named.contains(&database) => {}
                Some(database) => named.push(database),
            }
        }
        if matches!(self.manifest.data, ComponentData::Physical(_)) { named } else { Vec::new() }
    }

    /// The relations of one database that are meant; empty for all.
    pub fn relations(&self, database: &str) -> Vec<Relation> {
        let of_it = |s: &&Selector| s.database.as_deref().is_none_or(|name| name == database);
        let selectors: Vec<&Selector> = self.selectors.iter().filter(of_it).collect();
        if selectors.iter().any(|s| s.relation.is_none()) {
            return Vec::new();
        }
        let relation =
            |s: &Selector| s.relation.as_ref().map(|r| Relation { schema: r.schema.clone(), table: r.table.clone() });
        selectors.into_iter().filter_map(relation).collect()
    }
}

/// Whether the point has what a selector names. At another `moment` than its own a server may have other databases.
fn check_selector(source: &Source<'_>, selector: &Selector, moment: bool) -> Result<(), Refusal> {
    let manifest = source.components.iter().find(|c| c.component == selector.component);
    let manifest =
        manifest.ok_or_else(|| Refusal::NoComponent { name: selector.component.clone(), known: names(source) })?;
    let Some(database) = &selector.database else { return Ok(()) };
    let known: Vec<String> = match &manifest.data {
        ComponentData::Postgres(data) => data.databases.iter().map(|dump| dump.name.clone()).collect(),
        ComponentData::Physical(_) if moment => return Ok(()),
        ComponentData::Physical(data) => data.databases.clone(),
        ComponentData::Disk(_) | ComponentData::Action(_) => {
            return Err(Refusal::NoDatabases { component: selector.component.clone() });
        }
    };
    if known.contains(database) {
        return Ok(());
    }
    Err(Refusal::NoDatabase { component: selector.component.clone(), database: database.clone(), known })
}

fn names(source: &Source<'_>) -> Vec<Name> {
    source.components.iter().map(|c| c.component.clone()).collect()
}
