//! PostgreSQL's replication protocol: a small client.
//!
//! Promised: a base backup of any server of version 13 to 18 over the network, as tar archives, in bounded memory, with
//! nothing taken for whole that is not; and the few commands around it. Where the server is, and how the connection is
//! protected, is said by a libpq URI, which means what it means to libpq ([`Address`]). No password is in an error, a log
//! or `Debug`. Nothing is waited for without end while a connection is made; later a server that is silent is waited
//! for as long as its machine answers.
//!
//! Not here: SQL, logical replication, streaming of WAL, compressed and incremental base backups, what is in the
//! archives, and where they go.
//!
//! ```no_run
//! # async fn take() -> Result<(), windlass_replication::ReplicationError> {
//! use windlass_replication::{Address, BaseBackupOptions, Connection, Event};
//!
//! let address = Address::parse("postgresql://backup@db.example/?sslmode=verify-full&sslrootcert=system")?;
//! let mut connection = Connection::open(&address, None, "windlass").await?;
//! let options =
//!     BaseBackupOptions { label: "nightly".into(), fast: true, wal: true, verify_checksums: true, max_rate: None };
//! let mut backup = connection.base_backup(&options).await?;
//! while let Some(event) = backup.next().await? {
//!     match event {
//!         Event::Archive { tablespace } => { /* open another file */ }
//!         Event::Bytes(bytes) => { /* write them to it */ }
//!     }
//! }
//! let end = backup.finish().await?;
//! # Ok(())
//! # }
//! ```

mod address;
mod base_backup;
mod certificate;
mod connection;
mod dial;
mod error;
mod message;
mod passfile;
mod startup;
mod stream;
mod tls;
mod uri;

pub use address::{Address, AddressError, Host};
pub use base_backup::{BaseBackup, BaseBackupOptions, End, Event, Tablespace};
pub use connection::{Connection, Identity, TimelineHistory};
pub use error::ReplicationError;
pub use message::{Notice, Notices};
