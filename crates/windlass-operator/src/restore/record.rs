//! Puts on record, as evidence, what a restore did.

use windlass_repo::evidence::{self, Event};

use super::world::World;
use crate::context::Context;
use crate::keeper::Shut;
use crate::kryton::names;

/// Puts an event on record, in the repository that the point is in.
pub(super) async fn record(context: &Context, world: &World, event: Event) -> Result<(), Shut> {
    let (opened, from) = (world.source.open(context).await?, &world.source.kryton);
    evidence::append(&opened.vault, &opened.writer, &names::full(from), event).await?;
    Ok(())
}
