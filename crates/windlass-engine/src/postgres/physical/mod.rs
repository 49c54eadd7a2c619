//! Clusters of PostgreSQL as they are on disk: base backups and the WAL behind them.

mod archives;
pub mod base_backup;
mod ending;
mod error;
mod laid_down;
mod outside;
mod pages;
pub mod place;
pub mod recover;
pub mod recovery;
mod server;
mod source;
mod stop_segment;
pub mod streamed;
mod survey;
mod unpacking;

pub use self::error::PhysicalError;
pub use self::laid_down::LaidDown;
pub use self::server::Server;
pub use self::source::Source;
