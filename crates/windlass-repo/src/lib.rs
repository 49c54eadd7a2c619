//! The repository: what lies at rest, and every rule of writing, reading and deleting it.

pub mod catalog;
pub mod check;
pub mod error;
pub mod evidence;
pub mod format;
pub mod keyring;
pub mod kit;
pub mod layout;
pub mod live;
pub mod manual;
pub mod object;
pub mod random;
pub mod regular;
pub mod repository;
pub mod retention;
pub mod run;
pub mod secret;
pub mod sign;
pub mod standing;
pub mod store;
pub mod sweep;
pub mod vault;
pub mod verify;
pub mod wal_retention;
pub mod writer;

pub use windlass_core::hex;
