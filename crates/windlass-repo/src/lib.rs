//! The repository: what lies at rest, and every rule of writing, reading and deleting it.

pub mod format;
pub mod secret;
pub mod store;
