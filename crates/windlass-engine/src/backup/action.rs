//! Captures an `action` component.

use windlass_core::application::{Action, Component};
use windlass_core::id::PointId;
use windlass_core::point::{ComponentData, Consistency};
use windlass_repo::layout;
use windlass_repo::vault::ObjectOrKeyError;

use super::{AnyError, Backup, Part, boxed};
use crate::action;
use crate::progress::Event;

pub(super) async fn capture(
    task: &Backup<'_>,
    id: PointId,
    component: &Component,
    source: &Action,
) -> Result<Part, AnyError> {
    let name = &component.name;
    task.progress.event(Event::Step { component: name, text: "run the backup command", total: None });
    let sealed = task.vault.recipient().map_err(boxed)?.is_some();
    let file = if sealed { "action.out.age" } else { "action.out" };
    let key = layout::dump(task.vault.application(), name, id, file);
    let object = task.vault.write(&key).map_err(|error| match error {
        ObjectOrKeyError::Object(error) => boxed(error),
        ObjectOrKeyError::Key(error) => boxed(error),
    })?;
    let (data, window, warnings) = action::capture(name, source, object, task.progress).await.map_err(boxed)?;
    Ok(Part {
        window,
        // What a command writes is as consistent as the command makes it; it is taken at its word.
        consistency: Consistency::Component,
        tools: Vec::new(),
        warnings,
        data: ComponentData::Action(data),
    })
}
