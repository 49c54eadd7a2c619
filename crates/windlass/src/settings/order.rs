//! The order of capture: every component behind those it comes after, otherwise as in the file.

use windlass_core::application::Component;
use windlass_core::name::Name;

/// Sorts the components, or names a circle of components that wait for each other.
///
/// Names in `after` that no component has are ignored: whoever read them has told of them.
pub(super) fn in_capture_order(mut waiting: Vec<Component>) -> Result<Vec<Component>, Vec<Name>> {
    let mut ordered: Vec<Component> = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let ready = waiting
            .iter()
            .position(|component| !component.after.iter().any(|other| waiting.iter().any(|c| c.name == *other)));
        match ready {
            Some(index) => ordered.push(waiting.remove(index)),
            None => return Err(circle(&waiting)),
        }
    }
    Ok(ordered)
}

/// Follows `after` among components that all wait for one another until one comes up again.
fn circle(waiting: &[Component]) -> Vec<Name> {
    let mut path: Vec<Name> = Vec::new();
    let mut next = waiting.first();
    while let Some(component) = next {
        if let Some(start) = path.iter().position(|name| *name == component.name) {
            path.drain(..start);
            path.push(component.name.clone());
            break;
        }
        path.push(component.name.clone());
        next = component.after.iter().find_map(|other| waiting.iter().find(|c| c.name == *other));
    }
    path
}
