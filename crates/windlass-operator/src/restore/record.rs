//! Puts on record, as evidence, what a restore did.

use windlass_repo::evidence::{self, Event};

use super::source::Source;
use crate::context::Context;
use crate::keeper::Shut;
use crate::kryton::names;

/// Puts an event on record, in the repository that the point is in.
pub(super) async fn record(context: &Context, source: &Source, event: Event) -> Result<(), Shut> {
    let opened = source.open(context).await?;
    evidence::append(&opened.vault, &opened.writer, &names::full(&source.kryton), event).await?;
    Ok(())
}
