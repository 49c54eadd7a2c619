//! `[application.NAME]`: what is protected as one.

use windlass_core::application::{Application, Check, Component, Control, Strategy};
use windlass_core::name::Name;

use super::component::{read as read_component, read_hooks};
use super::cursor::{Faults, Item, Table};
use super::keys;
use super::order::in_capture_order;
use super::place;
use super::problem::Fault;
use super::reference_to::{self, Known};

/// Reads an application.
pub(super) fn read(name: Name, item: &Item<'_>, known: &Known<'_>, faults: &mut Faults<'_>) -> Option<Application> {
    let table = item.table(&[&keys::APPLICATION], faults)?;
    let repository = table.require(&keys::APPLICATION, "repository", faults);
    let repository = repository.and_then(|item| reference_to::repository(&item, known, faults));
    let policy = table.get("policy").and_then(|item| reference_to::policy(&item, known, faults));
    let control = table.get("control").and_then(|item| read_control(&item, faults));
    let hooks = read_hooks(&table, faults);
    let undo = table.get("undo").and_then(|item| item.positive_duration(faults));
    let components = read_components(&name, &table, known, faults);
    let checks = read_checks(&table, components.as_deref(), faults);
    Some(Application { name, repository: repository?, policy, control, hooks, checks, undo, components: components? })
}

/// The components in the order of capture; nothing if one of them is wrong.
fn read_components(
    application: &Name,
    table: &Table<'_>,
    known: &Known<'_>,
    faults: &mut Faults<'_>,
) -> Option<Vec<Component>> {
    let siblings = table.names("component");
    let declared = table.named("component", faults);
    if siblings.is_empty() && (table.get("component").is_none_or(|item| item.is_table())) {
        let what = format!("[{}] has no components", table.name);
        let hint = format!("add a table [application.{application}.component.NAME] with a `kind`");
        faults.add(table.at, Fault::NothingToProtect { what, hint });
    }
    let mut components = Vec::new();
    for (name, item) in declared {
        components.extend(read_component(name, &item, &siblings, known, faults));
    }
    let complete = components.len() == siblings.len() && !components.is_empty();
    match in_capture_order(components) {
        Ok(components) => complete.then_some(components),
        Err(circle) => {
            let at = circle
                .first()
                .and_then(|name| table.get("component")?.open(faults)?.get(name.as_str())?.open(faults)?.get("after"))
                .map_or(table.at, |after| after.at());
            let circle: Vec<&str> = circle.iter().map(Name::as_str).collect();
            faults.add(at, Fault::Cycle { application: application.to_string(), circle: circle.join(" after ") });
            None
        }
    }
}

pub(super) fn read_control(item: &Item<'_>, faults: &mut Faults<'_>) -> Option<Control> {
    let table = item.table(&[&keys::CONTROL], faults)?;
    let stop = table.require(&keys::CONTROL, "stop", faults).and_then(|item| item.command(faults));
    let start = table.require(&keys::CONTROL, "start", faults).and_then(|item| item.command(faults));
    Some(Control { stop: stop?, start: start? })
}

fn read_checks(table: &Table<'_>, components: Option<&[Component]>, faults: &mut Faults<'_>) -> Vec<Check> {
    let shape = "write [{ component = \"db\", sql = \"select …\" }]";
    let elements = table.get("checks").and_then(|item| item.elements(faults, "an array of tables", shape));
    let siblings = table.names("component");
    elements
        .unwrap_or_default()
        .iter()
        .filter_map(|element| read_check(element, components, &siblings, faults))
        .collect()
}

fn read_check(
    item: &Item<'_>,
    components: Option<&[Component]>,
    siblings: &[&str],
    faults: &mut Faults<'_>,
) -> Option<Check> {
    let table = item.table(&[&keys::CHECK], faults)?;
    match (table.get("sql"), table.get("http")) {
        (Some(sql), None) => {
            if let Some(stray) = table.get("after") {
                let why =
                    format!("`after` {} goes with `http`: a query is always asked after a restore", stray.place());
                faults.add(stray.at(), Fault::Conflict { why, hint: "take it out".to_owned() });
            }
            let sql = sql.text(faults)?.to_owned();
            let item = table.require(&keys::CHECK, "component", faults)?;
            let component = item.name(faults)?;
            if !siblings.contains(&component.as_str()) {
                reference_to::unknown(&item, "component", &component, siblings, faults);
                return None;
            }
            let found = |name: &Name| components.and_then(|all| all.iter().find(|c| c.name == *name));
            let is_asked = |c: &&Component| matches!(c.strategy, Strategy::Postgres(_) | Strategy::Physical(_));
            if let Some(other) = found(&component).filter(|c| !is_asked(c)) {
                let why = format!("names a component of kind \"{}\"", other.strategy.kind());
                item.refuse(faults, why, "put the query to a component of kind \"postgres\"");
                return None;
            }
            let Some(item) = table.get("files") else { return Some(Check::Sql { component, sql }) };
            if found(&component).is_some_and(|c| matches!(c.strategy, Strategy::Physical(_))) {
                let why =
                    "is asked after a restore in place, and a component of mode \"physical\" is restored aside only";
                item.refuse(faults, why, "take it out");
                return None;
            }
            let files = item.name(faults)?;
            if !siblings.contains(&files.as_str()) {
                reference_to::unknown(&item, "component", &files, siblings, faults);
                return None;
            }
            if let Some(other) = found(&files).filter(|c| !matches!(c.strategy, Strategy::Disk(_))) {
                let why = format!("names a component of kind \"{}\"", other.strategy.kind());
                item.refuse(faults, why, "name the component of kind \"disk\" that has the files");
                return None;
            }
            Some(Check::Files { component, sql, files })
        }
        (None, Some(http)) => {
            for key in ["component", "files"] {
                if let Some(stray) = table.get(key) {
                    let why = format!("`{key}` {} goes with `sql`", stray.place());
                    faults.add(stray.at(), Fault::Conflict { why, hint: "take it out".to_owned() });
                }
            }
            if let Some(after) = table.get("after")
                && after.text(faults)? != "restore"
            {
                after.refuse(
                    faults,
                    "is not \"restore\"",
                    "write after = \"restore\", or take it out: nothing else is there",
                );
            }
            place::http(&http, faults).map(|url| Check::Http { url })
        }
        (sql, _) => {
            let why = if sql.is_some() { "both `sql` and `http`" } else { "neither `sql` nor `http`" };
            let fault = Fault::Conflict {
                why: format!("`{}` {} has {why}", item.key, item.place()),
                hint: "a check is { component = \"NAME\", sql = \"select …\" } or { http = \"http://…\" }".to_owned(),
            };
            faults.add(item.at(), fault);
            None
        }
    }
}
