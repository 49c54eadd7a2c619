//! Whose WAL it is: the cluster behind a component, and the user its server runs as.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use windlass_core::application::Physical;

use super::client::cluster_in;
use crate::postgres::PostgresError;
use crate::postgres::session::Session;
use crate::postgres::tools::Tools;

/// A server whose WAL is archived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The identifier of its cluster.
    pub cluster: u64,
    /// The user it runs as, where its data folder can be seen.
    pub user: Option<u32>,
    /// Its data folder, as it is called here or, where that is not said, as the server calls it.
    pub data: Option<PathBuf>,
}

/// What a server tells.
#[derive(Deserialize)]
struct Told {
    cluster: u64,
    data: Option<String>,
}

impl Source {
    /// Looks at its data folder, where that is at hand, and asks the server otherwise.
    pub async fn look(settings: &Physical) -> Result<Self, PostgresError> {
        if let Some(data) = &settings.data_directory
            && let Ok(cluster) = cluster_in(data)
        {
            return Ok(Self { cluster, user: owner(data), data: Some(data.clone()) });
        }
        let asked = "select (select system_identifier from pg_catalog.pg_control_system()) as cluster, \
            (select setting from pg_catalog.pg_settings where name = 'data_directory') as data";
        let mut session = Session::open_any(&Tools::find(&settings.server).await?).await?;
        let told: Told = session.row(asked).await?;
        session.close().await;
        let data = settings.data_directory.clone().or(told.data.map(PathBuf::from));
        Ok(Self { cluster: told.cluster, user: data.as_deref().and_then(owner), data })
    }
}

fn owner(folder: &Path) -> Option<u32> {
    std::fs::metadata(folder).ok().map(|is| is.uid())
}
