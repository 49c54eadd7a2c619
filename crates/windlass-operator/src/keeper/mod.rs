//! Keeps the repository of each `Kryton`: makes it, commits the points whose captures are there, applies retention, and
//! tells how things stand.
//!
//! It goes by what lies in the repository. A Job only says when to look, and why something is not there. One store that
//! does not answer holds up nobody who uses another.

mod open;
mod reconcile;
mod runs;

pub(crate) use self::open::{Opened, Shut, open};
pub(crate) use self::reconcile::run;
