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
use super::server::server;
use super::{
    CommandStep, FilesPlace, LiveDatabase, LivePlace, Old, Refusal, ReplaceDatabase, ReplaceFiles, Request, Step,
    TargetFacts, Terms, Wanted,
};
use crate::name::Name;
use crate::point::{ActionData, ComponentData, DatabaseDump, DiskData};

/// What is planned.
pub(super) struct InPlace<'a> {
    pub(super) wanted: &'a [Wanted<'a>],
    pub(super) facts: &'a BTreeMap<Name, TargetFacts>,
    pub(super) terms: &'a Terms,
    pub(super) request: &'a Request,
}

pub(super) fn in_place(asked: &InPlace<'_>, warnings: &mut Vec<String>) -> Result<Vec<Step>, Refusal> {
    // Everything that stands in the way is told at once.
    let (mut replaced, mut commands, mut refusals) = (Vec::new(), Vec::new(), Vec::new());
    for part in asked.wanted {
        for step in asked.steps(part, warnings) {
            match step {
                Ok(step @ Step::Action(_)) => commands.push(step),
                Ok(step) => replaced.push(step),
                Err(refusal) => refusals.push(refusal),
            }
        }
    }
    refusals.extend(overlap(&replaced));
    refusals.extend(twice(&replaced));
    match (refusals.pop(), refusals.is_empty()) {
        (None, _) => {}
        (Some(one), true) => return Err(one),
        (Some(last), false) => {
            refusals.push(last);
            return Err(Refusal::Several { all: refusals });
        }
    }
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

/// A database that is replaced in a server that is replaced as a whole would be looked for in the wrong one.
fn twice(steps: &[Step]) -> Option<Refusal> {
    let is_whole = |server: &Option<String>| {
        steps.iter().any(|step| matches!(step, Step::ReplaceServer(whole) if Some(&whole.server) == server.as_ref()))
    };
    steps.iter().find_map(|step| match step {
        Step::ReplaceDatabase(step) if is_whole(&step.server) => Some(Refusal::NotReplaceable {
            what: format!("the database `{}`", step.fill.database),
            why: "its server is replaced as a whole by the same restore: choose one of both by `--only`".to_owned(),
        }),
        _ => None,
    })
}

/// Two places of which one lies in the other would be exchanged twice.
fn overlap(steps: &[Step]) -> Option<Refusal> {
    let places: Vec<&FilesPlace> = steps
        .iter()
        .flat_map(|step| match step {
            Step::ReplaceFiles(step) => step.places.iter().collect(),
            Step::ReplaceServer(step) => step.places().collect(),
            _ => Vec::new(),
        })
        .collect();
    for (index, place) in places.iter().enumerate() {
        let lies_in = |(other, outer): &(usize, &&FilesPlace)| {
            *other != index && Path::new(&place.path).starts_with(Path::new(&outer.path))
        };
        if let Some((_, outer)) = places.iter().enumerate().find(lies_in) {
            let (what, why) =
                (format!("`{}`", place.path), format!("it lies in `{}`, which is replaced as well", outer.path));
            return Some(Refusal::NotReplaceable { what, why });
        }
    }
    None
}

impl InPlace<'_> {
    /// The steps of a component, or why it is not replaced.
    fn steps(&self, part: &Wanted<'_>, warnings: &mut Vec<String>) -> Vec<Result<Step, Refusal>> {
        let name = &part.manifest.component;
        match (&part.manifest.data, self.facts.get(name)) {
            (ComponentData::Postgres(_), Some(TargetFacts::LiveDatabases(facts))) => {
                // They share a disk.
                let mut taken = 0;
                let database = |dump: &&DatabaseDump| {
                    let mut live =
                        facts.get(&dump.name).cloned().ok_or_else(|| Refusal::NoTarget { component: name.clone() })?;
                    live.free_bytes = live.free_bytes.map(|free| free.saturating_sub(taken));
                    let step = self.database(part, dump, &live, warnings)?;
                    let given_back = if step.old == Old::Deleted { live.bytes } else { 0 };
                    taken += live.needed_bytes(dump.database_bytes).saturating_sub(given_back);
                    Ok(Step::ReplaceDatabase(step))
                };
                part.databases().iter().map(database).collect()
            }
            (ComponentData::Disk(data), Some(TargetFacts::LivePlaces(places))) => {
                vec![self.files(name, data, places).map(Step::ReplaceFiles)]
            }
            (ComponentData::Physical(data), Some(TargetFacts::LiveServer(live))) => {
                vec![server(name, data, live, self.request, warnings).map(Step::ReplaceServer)]
            }
            (ComponentData::Action(data), Some(TargetFacts::Action { command })) => {
                vec![self.command(name, data, command.as_ref(), warnings)]
            }
            _ => vec![Err(Refusal::NoTarget { component: name.clone() })],
        }
    }

    fn command(
        &self,
        name: &Name,
        data: &ActionData,
        command: Option<&CommandStep>,
        warnings: &mut Vec<String>,
    ) -> Result<Step, Refusal> {
        let step = action_step(name, data, command)?;
        if !self.request.without_undo {
            return Err(Refusal::NoUndo {
                what: name.to_string(),
                why: "its restore command overwrites what is there, and Windlass cannot set that aside",
            });
        }
        warnings.push(format!("{name}: what is there now is not kept, and cannot be put back"));
        Ok(step)
    }

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
            (Some(_), false) if self.request.without_undo && would_have_room => Old::Deleted,
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
        Ok(ReplaceFiles {
            component: name.clone(),
            snapshot: data.snapshot.clone(),
            places: places.iter().map(files_place).collect(),
            exclude: self.terms.exclude.get(name).cloned().unwrap_or_default(),
            files: data.files,
            folders: data.folders,
            bytes: data.bytes,
            old: if places.iter().any(|place| place.exists) { Old::Kept } else { Old::None },
        })
    }
}

/// What a plan says of a place.
pub(super) fn files_place(place: &LivePlace) -> FilesPlace {
    FilesPlace { path: place.path.clone(), is_file: place.is_file, exists: place.exists, mounts: place.mounts.clone() }
}
