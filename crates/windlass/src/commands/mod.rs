//! What the verbs do: each takes what is resolved already and says how it ended.

pub(crate) mod agent;
pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod cluster;
pub(crate) mod completions;
mod compose;
pub(crate) mod confirm;
pub(crate) mod doctor;
pub(crate) mod drill;
pub(crate) mod foreign;
mod in_place;
pub(crate) mod init;
pub(crate) mod keys;
pub(crate) mod operator;
pub(crate) mod points;
pub(crate) mod repo;
pub(crate) mod restore;
pub(crate) mod retention;
pub(crate) mod status;
pub(crate) mod undo;
pub(crate) mod verify;
pub(crate) mod wal;
