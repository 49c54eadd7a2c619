//! Windlass on a single machine: opens what the settings name, runs tasks in this process, and answers how
//! things stand. Everything it remembers is a cache; the repository is the truth.

pub mod backup;
pub mod error;
pub mod host;
pub mod in_place;
mod moments;
pub mod rehearse;
pub mod restore;
pub mod retention;
mod scratch;
pub mod verify;
pub mod wal;
