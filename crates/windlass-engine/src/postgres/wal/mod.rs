//! WAL on its way into the archive and out of it, while servers run: what `archive_command` and `restore_command` ask for.
//!
//! ```text
//! PostgreSQL ── wal-push  %p ─┐ client: a name, open files        ┌─ Archiver: compressed, sealed, stored, several at once
//!            ── wal-fetch %f ─┴──── unix socket ──── Listener ────┴─ Ahead: what will be asked for next is there already
//! ```
//!
//! Promised: a file is acknowledged when the store has confirmed it, and no sooner; the one who asks needs no secret of ours, nor
//! do we need its rights, since files are handed over open; who may ask is known by the kernel's word for who they are; what is
//! held in memory is bounded, however much waits.
//!
//! Not promised: anything between two segments. What the server has not finished yet is not asked for.

mod ahead;
mod archiver;
mod client;
mod feed;
mod health;
mod socket;
mod source;
mod spool;
mod wire;

pub use ahead::{Ahead, FetchError};
pub use archiver::{Archiver, PushError};
pub use client::{ClientError, cluster_of, fetch, history_of, push};
pub use feed::Feed;
pub use health::Health;
pub use socket::{Call, Caller, ListenError, Listener};
pub use source::{Source, Written};
pub use spool::Spool;
pub use wire::{Answer, Fetch, Owner, Push, Request, Said};

/// Where the socket is, unless it is said otherwise.
pub const SOCKET: &str = "/run/windlass/wal.sock";
