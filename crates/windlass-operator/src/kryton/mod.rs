//! What is made for a `Kryton` in the cluster: one file a step.
//!
//! ```text
//! watch → dereference (client) → validate (pure) → build (pure, infallible) → apply (client) → status (client)
//! ```
//!
//! Parts do not wait for each other: where backups cannot be set up, snapshots are.

pub(crate) mod apply;
mod build;
pub(crate) mod claim;
mod deletion;
pub(crate) mod dereference;
#[cfg(test)]
mod fields;
pub(crate) mod hold;
pub(crate) mod names;
mod outdated;
mod preflight;
mod reconcile;
pub(crate) mod release;
mod snapshots;
pub(crate) mod validate;

pub(crate) use self::build::{Agent, NOTES, component, of_secret, task};
pub(crate) use self::reconcile::run;
