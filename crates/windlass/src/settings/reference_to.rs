//! Names in the file that must be names of something else in it.

use windlass_core::name::Name;

use super::cursor::{Faults, Item};
use super::problem::Fault;
use super::suggest;

/// What the file declares, whether or not its content is right: a reference to it is no second mistake.
pub(super) struct Known<'t> {
    pub(super) repositories: Vec<&'t str>,
    pub(super) policies: Vec<&'t str>,
}

/// Reads the name of a policy.
pub(super) fn policy(item: &Item<'_>, known: &Known<'_>, faults: &mut Faults<'_>) -> Option<Name> {
    read(item, "policy", &known.policies, faults)
}

/// Reads the name of a repository.
pub(super) fn repository(item: &Item<'_>, known: &Known<'_>, faults: &mut Faults<'_>) -> Option<Name> {
    read(item, "repository", &known.repositories, faults)
}

fn read(item: &Item<'_>, what: &'static str, known: &[&str], faults: &mut Faults<'_>) -> Option<Name> {
    let name = item.name(faults)?;
    if known.contains(&name.as_str()) {
        return Some(name);
    }
    unknown(item, what, &name, known, faults);
    None
}

/// Tells that there is no such thing, and what there is.
pub(super) fn unknown(item: &Item<'_>, what: &'static str, name: &Name, known: &[&str], faults: &mut Faults<'_>) {
    let hint = match suggest::nearest(name.as_str(), known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() && what == "component" => "there is no other component".to_owned(),
        None if known.is_empty() => format!("add a table [{what}.{name}]"),
        None => format!("there {} `{}`", if known.len() == 1 { "is" } else { "are" }, known.join("`, `")),
    };
    let fault =
        Fault::UnknownReference { key: item.key.clone(), place: item.place(), what, name: name.to_string(), hint };
    faults.add(item.at(), fault);
}
