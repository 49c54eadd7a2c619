//! The Helm release of a `Kryton`: installed, upgraded, repaired, and removed with it.
//!
//! The release's state is read from where Helm keeps it, the Secrets it writes; what was asked for stands there as a label.
//! `helm` is never told to wait for a rollout: that is watched, and holds up nobody.

mod digest;
pub(crate) mod drift;
mod helm;
mod record;

pub(crate) use self::digest::{Desired, desired};
pub(crate) use self::helm::Helm;
pub(crate) use self::record::{Record, State, records};
