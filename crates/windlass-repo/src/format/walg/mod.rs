//! The layout of WAL-G for PostgreSQL: base backups and archived WAL that stock `wal-g` reads and writes.
//!
//! ```text
//! <prefix>/basebackups_005/<backup>_backup_stop_sentinel.json     written last: its presence is the backup
//! <prefix>/basebackups_005/<backup>/metadata.json                 for lists, retention, marking
//! <prefix>/basebackups_005/<backup>/files_metadata.json           every file: whole, changed pages only, or unchanged
//! <prefix>/basebackups_005/<backup>/tar_partitions/part_001.tar.zst ...
//!                                                 backup_label.tar.zst   backup_label, tablespace_map
//!                                                 pg_control.tar.zst     global/pg_control, taken after all others
//! <prefix>/wal_005/<24 digits>.zst, <timeline>.history.zst, <24 digits>.<offset>.backup.zst
//!
//! backup    base_<segment it starts in>, and _D_<segment of the backup before> where it holds changes only
//! object    sealed(compressed(content)); documents are neither
//! ```
//!
//! | to know | module |
//! |---|---|
//! | what objects are called | [`names`](BackupName) |
//! | what the documents say | [`sentinel`](Sentinel) |
//! | how bytes are compressed and sealed | [`codec`](Codec), [`seal`](SealKey), `open` |
//! | what archives are made of | [`archive`](Entries), [`part`](PartWriter), [`increment`](Step) |
//! | how backups become a data folder | [`chain`](Step), [`target`](Target), [`unpack`](Archive), `body`, [`ledger`](Ledger) |
//! | what a store holds of it, and how far it can be replayed | [`backups`](Backups), [`replay`](Replay) |
//! | how WAL comes into the archive, and out of it | [`push`](Archived), [`fetch`](StoredWal) |
//! | whose a WAL segment is, and what was committed in it | [`wal`](SegmentHeader), [`commits`](CommitWalk), `summary` |
//! | where in the WAL a moment is | [`moment`](NoMoment) |
//! | whether all of it is what it should be | [`read_back`](ReadBack) |
//!
//! Promised: whatever bytes are given, nothing is written outside the target, nothing panics, and a backup is called whole only
//! if every file it names was there. `pg_control` comes last, so that no server starts from less. Left to others: PostgreSQL
//! itself, retention, and what makes a server replay the WAL (`recovery.signal`, `restore_command`).
//!
//! Everything but [`Backups`] is synchronous, and knows no store; archives are unpacked by as many threads as one wants.
//! Source: `wal-g` 3.0, and what it wrote; `docs/decisions/0017-physical-postgres-format.md`.

mod archive;
mod backups;
mod body;
mod chain;
mod codec;
mod commits;
mod error;
mod fetch;
mod increment;
mod ledger;
mod moment;
mod names;
mod open;
mod part;
mod push;
mod read_back;
mod replay;
mod seal;
mod sentinel;
mod summary;
mod target;
mod unpack;
mod wal;

pub use archive::{Entries, Entry, Kind};
pub use backups::{Backups, BaseBackup, Held};
pub use chain::{Backup, Step};
pub use codec::{Codec, Compression, Compressor, FRAME};
pub use commits::{CommitWalk, Commits, Mark, Marked};
use error::Fault;
pub use error::WalgError;
pub use fetch::StoredWal;
pub use ledger::Ledger;
pub use moment::NoMoment;
pub use names::{BASE_BACKUPS, BackupName, Listing, PartKind, PartName, Present, WAL, wal_object};
pub use open::open;
pub use part::PartWriter;
pub use push::{Archived, Before, Sealing};
pub use read_back::ReadBack;
pub use replay::Replay;
pub use seal::{KeyForm, Opener, SealKey, Sealer};
pub use sentinel::{CorruptBlocks, Delta, FileDescription, FilesMetadata, Metadata, Sentinel, Spec, Tablespace};
pub use target::Target;
pub use unpack::{Archive, Unpacked};
pub use wal::SegmentHeader;
