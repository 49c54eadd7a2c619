//! Volumes and directories: a restic repository, written through `rustic_core` and readable by stock restic.
//!
//! Promised: a snapshot that is returned by [`Files::capture`] relies only on packs that were there, unmarked,
//! after it was written; an entry that could not be read is counted, never left out in silence; restores use
//! bounded memory. Not promised: that others may prune here. There are no locks.
//!
//! `rustic_core` is synchronous and must not run on an async thread: everything here goes through
//! [`tokio::task::spawn_blocking`]. Its own restore takes as much memory as there are data, so ours is used.

mod ahead;
mod backend;
mod capture;
mod compare;
mod error;
mod fetch;
mod files;
mod keyfile;
mod owners;
mod prune;
mod restore;
mod source;
mod trees;
mod unchanged;
mod verify;

pub use capture::{Captured, Source};
pub use compare::{Compared, Place};
pub use error::FilesError;
pub use files::{Files, SnapshotInfo};
pub use prune::Pruned;
pub use restore::{Restored, Target};
pub use source::{Excludes, Report, STAGE, is_stage};
pub use verify::Verified;
