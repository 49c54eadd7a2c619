//! What is made for a `Kryton` in the cluster: one file a step.
//!
//! ```text
//! watch → dereference (client) → validate (pure) → build (pure, infallible) → apply (client) → status (client)
//! ```
//!
//! Parts do not wait for each other: where backups cannot be set up, snapshots are.

mod apply;
mod build;
mod claim;
mod deletion;
pub(crate) mod dereference;
#[cfg(test)]
mod fields;
pub(crate) mod names;
mod outdated;
mod preflight;
mod reconcile;
mod release;
pub(crate) mod validate;

pub(crate) use self::build::{component, of_secret};
pub(crate) use self::reconcile::run;
