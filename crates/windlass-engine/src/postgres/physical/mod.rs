//! Clusters of PostgreSQL as they are on disk: base backups and the WAL behind them.

pub mod place;
pub mod recovery;
