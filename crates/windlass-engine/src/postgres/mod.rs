//! The `postgres` strategy, logical: `pg_dump` and `pg_restore`, with SQL through `psql`.
//!
//! Everything goes through PostgreSQL's own client tools, so that a URL means what libpq says it means, and the
//! tools can be run somewhere else (`via`: in a container, a chroot, over ssh). Passwords reach them through
//! `PGPASSWORD` in their environment, never as an argument.

pub mod capture;
mod child;
pub mod counts;
mod error;
pub mod impact;
pub mod inspect;
mod installed;
mod message;
pub mod physical;
mod quote;
pub mod replace;
pub mod restore;
pub mod scratch;
pub mod session;
pub mod tools;
mod url;
pub mod wal;

pub use error::PostgresError;
pub use url::{database_of, with_database};
