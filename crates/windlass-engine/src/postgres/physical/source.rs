//! How a server is read: by its data folder where that is at hand, else by the replication protocol.

use std::io;

use windlass_core::application::Physical;

use super::error::PhysicalError;
use super::server::Server;
use super::streamed::Remote;
use crate::postgres::tools::Tools;

/// A server of which a base backup can be taken.
pub enum Source {
    /// Its data folder is at hand.
    Folder(Box<Server>),
    /// It is not.
    Protocol(Box<Remote>),
}

impl Source {
    /// Opens it. A data folder that the settings name has to be the server's own; one that only the server names, and that is not
    /// here, cannot be read, or is another's, is read by the protocol.
    pub async fn open(tools: &Tools, source: &Physical) -> Result<Self, PhysicalError> {
        let error = match Server::open(tools, source.data_directory.as_deref()).await {
            Ok(server) => return Ok(Self::Folder(Box::new(server))),
            Err(error) => error,
        };
        let why = match &error {
            PhysicalError::OtherFolder { folder, why } => format!("`{}`: {why}", folder.display()),
            PhysicalError::Read { path, source }
                if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
            {
                format!("`{}`: {source}", path.display())
            }
            _ => return Err(error),
        };
        if source.data_directory.is_some() {
            return Err(error);
        }
        Ok(Self::Protocol(Box::new(Remote::open(tools, source, why).await?)))
    }

    /// The identifier of its cluster.
    pub fn system_identifier(&self) -> u64 {
        match self {
            Self::Folder(server) => server.system_identifier(),
            Self::Protocol(remote) => remote.system_identifier(),
        }
    }
}
