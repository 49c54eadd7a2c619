//! Restores: planned by an agent, shown, confirmed by the plan's digest, and carried out in steps.
//!
//! ```text
//! plan → (confirmed) → stop → lay down → volume → switch → start → check → (undo until its time is over)
//!                        ↓ failure, or somebody's word
//!                      stop again → put back → start again
//! ```
//!
//! Promised: which step a restore is at stands in its status before the step is begun, and each looks at how things are and
//! does what is missing, so that an operator that was killed anywhere goes on; what fails puts back what was there. Not
//! promised: that what an application wrote since the point was taken is merged.

mod build;
mod jobs;
mod plan;
mod reconcile;
mod record;
pub(crate) mod source;
mod steps;
mod tell;
mod world;

pub(crate) use self::reconcile::run;
