//! The custom format of `pg_dump`, as far as it must be understood to know that a dump is whole.
//!
//! `pg_restore --list` reads the head of a dump only: one that was cut in the middle passes it. [`Walker`] walks
//! the whole stream while it goes by, with memory for the table of contents alone, and accepts it only if every
//! entry with data appears once, ends properly, and nothing follows. It does not unpack what the entries hold.
//! [`RowCounter`] does, and counts their rows.
//!
//! ```text
//! head   "PGDMP", version 1.12 to 1.16, sizes of integers and offsets, format, compression,
//!        time, database, server's version, pg_dump's version
//! TOC    count, entries
//! data   blocks: type (1 data, 3 large objects), dump id, chunks of a length and bytes, ended by the length 0;
//!        large objects: an object id before each one's chunks, ended by the id 0
//! ```
//!
//! Source: `src/bin/pg_dump/pg_backup_archiver.c` and `pg_backup_custom.c` of PostgreSQL 12 to 18.

mod cursor;
mod error;
mod roles;
mod rows;
mod selection;
mod toc;
mod walker;

#[cfg(test)]
mod tests;

pub use error::DumpError;
pub use rows::{RowCounter, Rows};
pub use selection::{Selection, select};
pub use toc::{Entry, Toc};
pub use walker::{Walked, Walker};
