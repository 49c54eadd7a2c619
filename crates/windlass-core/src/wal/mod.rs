//! PostgreSQL's write-ahead log by name and number: places in it, the segments it is cut into, the files it is archived
//! as, and the history of its timelines. What is inside a segment is not looked at here.
//!
//! ```text
//! Lsn            0/2000028                    a byte of the log, 64 bits
//! Segment        000000010000000000000002     16 MiB of it (or what initdb was told), on one timeline
//! WalFile        what archive_command is given: a segment, 00000002.history, and two more
//! History        how a timeline came to be: which held the log up to which LSN
//! Codec          how an archived object is compressed, by its name; Compression: how one is written
//! ```
//!
//! Source: `src/include/access/xlog_internal.h` and `src/backend/access/transam/timeline.c` of PostgreSQL 13 to 18.

mod codec;
mod file;
mod history;
mod lsn;
mod segment;

pub use codec::{Codec, Compression, InvalidCompression};
pub use file::WalFile;
pub use history::{History, InvalidHistory, Switch};
pub use lsn::{InvalidLsn, Lsn};
pub use segment::{InvalidSegmentSize, InvalidWalName, Segment, SegmentSize, Timeline};
