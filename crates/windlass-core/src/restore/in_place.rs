//! The steps of a restore in the place of what is there.
//!
//! ```text
//! stop → databases and files replaced → commands → start
//! ```
//!
//! What is there is set aside and stays; where it cannot, the plan is made only with consent (`without_undo`).

use std::collections::BTreeMap;
use std::path::Path;

use super::aside::{action_step, database_step};
use super::{
    FilesPlace, LiveDatabase, LivePlace, Old, Refusal, ReplaceDatabase, ReplaceFiles, Step, TargetFacts, Terms, Wanted,
};
use crate::name::Name;
use crate::point::{ComponentData, DatabaseDump, DiskData};

/// What is planned.
pub(super) struct InPlace<'a> {
    pub(super) wanted: &'a [Wanted<'a>],
    pub(super) facts: &'a BTreeMap<Name, TargetFacts>,
    pub(super) terms: &'a Terms,
    pub(super) without_undo: bool,
}

pub(super) fn in_place(asked: &InPlace<'_>, warnings: &mut Vec<String>) -> Result<Vec<Step>, Refusal> {
    let (mut replaced, mut commands) = (Vec::new(), Vec::new());
    for part in asked.wanted {
        let name = &part.manifest.component;
        match (&part.manifest.data, asked.facts.get(name)) {
            (ComponentData::Postgres(_), Some(TargetFacts::LiveDatabases(facts))) => {
                for dump in part.databases() {
                    let live = facts.get(&dump.name).ok_or_else(|| Refusal::NoTarget { component: name.clone() })?;
                    replaced.push(Step::ReplaceDatabase(asked.database(part, dump, live, warnings)?));
                }
            }
            (ComponentData::Disk(data), Some(TargetFacts::LivePlaces(places))) => {
                replaced.push(Step::ReplaceFiles(asked.files(name, data, places)?));
            }
            (ComponentData::Action(data), Some(TargetFacts::Action { command })) => {
                let step = action_step(name, data, command.as_ref())?;
                if !asked.without_undo {
                    return Err(Refusal::NoUndo {
                        what: name.to_string(),
                        why: "its restore command overwrites what is there, and Windlass cannot set that aside",
                    });
                }
                warnings.push(format!("{name}: what is there now is not kept, and cannot be put back"));
                commands.push(step);
            }
            _ => return Err(Refusal::NoTarget { component: name.clone() }),
        }
    }
    refuse_overlaps(&replaced)?;
    let mut steps = Vec::new();
    match &asked.terms.control {
        Some((stop, _)) => steps.push(Step::Stop(stop.clone())),
        None => warnings.push(
            "the settings name no `control`: nothing stops the application, and what it writes meanwhile is lost or lands in the restored data"
                .into(),
        ),
    }
    steps.append(&mut replaced);
    steps.append(&mut commands);
    if let Some((_, start)) = &asked.terms.control {
        steps.push(Step::Start(start.clone()));
    }
    Ok(steps)
}

/// Two places of which one lies in the other would be exchanged twice.
fn refuse_overlaps(steps: &[Step]) -> Result<(), Refusal> {
    let places: Vec<&FilesPlace> = steps
        .iter()
        .filter_map(|step| match step {
            Step::ReplaceFiles(step) => Some(&step.places),
            _ => None,
        })
        .flatten()
        .collect();
    for (index, place) in places.iter().enumerate() {
        let lies_in = |(other, outer): &(usize, &&FilesPlace)| {
            *other != index && Path::new(&place.path).starts_with(Path::new(&outer.path))
        };
        if let Some((_, outer)) = places.iter().enumerate().find(lies_in) {
            let (what, why) =
                (format!("`{}`", place.path), format!("it lies in `{}`, which is replaced as well", outer.path));
            return Err(Refusal::NotReplaceable { what, why });
        }
    }
    Ok(())
}

impl InPlace<'_> {
    fn database(
        &self,
        part: &Wanted<'_>,
        dump: &DatabaseDump,
        live: &LiveDatabase,
        warnings: &mut Vec<String>,
    ) -> Result<ReplaceDatabase, Refusal> {
        let database = &dump.name;
        if !part.relations(database).is_empty() {
            return Err(Refusal::RelationInPlace { database: database.clone() });
        }
        if !live.obstacles.is_empty() {
            let (database, why) = (database.clone(), live.obstacles.join("; "));
            return Err(Refusal::NotReplaceable { what: format!("the database `{database}`"), why });
        }
        let mut fill = database_step(part, dump, live.facts.clone(), warnings)?;
        fill.create = true;
        let needed = live.needed_bytes(dump.database_bytes);
        let has_room = live.free_bytes.is_none_or(|free| free >= needed);
        let would_have_room = live.free_bytes.is_none_or(|free| free.saturating_add(live.bytes) >= needed);
        let old = match (live.oid, has_room) {
            (None, true) => Old::None,
            (Some(_), true) => Old::Kept,
            (Some(_), false) if self.without_undo && would_have_room => Old::Deleted,
            (_, false) => {
                let (path, free) = (format!("the server of {database}"), live.free_bytes.unwrap_or(0));
                return Err(if live.oid.is_some() && would_have_room {
                    Refusal::NoRoomForTwo { path, needed, free }
                } else {
                    Refusal::NoSpace { path, needed, free }
                });
            }
        };
        if old == Old::Deleted {
            warnings.push(format!(
                "{database}: there is no room for two: the database is DELETED before the new one is laid down, and cannot be put back"
            ));
        }
        warnings.extend(live.notes.iter().map(|note| format!("{database}: {note}")));
        Ok(ReplaceDatabase { fill, oid: live.oid, server: live.server.clone(), closed: live.closed, old })
    }

    fn files(&self, name: &Name, data: &DiskData, places: &[LivePlace]) -> Result<ReplaceFiles, Refusal> {
        if let Some(place) = places.iter().find(|place| !place.obstacles.is_empty()) {
            let (what, why) = (format!("`{}`", place.path), place.obstacles.join("; "));
            return Err(Refusal::NotReplaceable { what, why });
        }
        // Several places may share a file system.
        let mut needed: BTreeMap<u64, (u64, &LivePlace)> = BTreeMap::new();
        for place in places {
            needed.entry(place.device).or_insert((0, place)).0 += place.bytes;
        }
        if let Some((bytes, place)) = needed.values().find(|(bytes, place)| place.free_bytes < *bytes) {
            return Err(Refusal::NoSpace { path: place.path.clone(), needed: *bytes, free: place.free_bytes });
        }
        let place = |place: &LivePlace| FilesPlace {
            path: place.path.clone(),
            is_file: place.is_file,
            exists: place.exists,
            mounts: place.mounts.clone(),
        };
        Ok(ReplaceFiles {
            component: name.clone(),
            snapshot: data.snapshot.clone(),
            places: places.iter().map(place).collect(),
            exclude: self.terms.exclude.get(name).cloned().unwrap_or_default(),
            files: data.files,
            folders: data.folders,
            bytes: data.bytes,
            old: if places.iter().any(|place| place.exists) { Old::Kept } else { Old::None },
        })
    }
}
