//! Whose WAL it is: the cluster behind a component, and the user its server runs as.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use windlass_core::application::Physical;
use windlass_core::wal::{Lsn, Segment, SegmentSize, Timeline};
use windlass_repo::format::walg::{CommitWalk, SegmentHeader};
use windlass_repo::regular;

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
            return Ok(Self { cluster, user: owner(data) });
        }
        let asked = "select (select system_identifier from pg_catalog.pg_control_system()) as cluster, \
            (select setting from pg_catalog.pg_settings where name = 'data_directory') as data";
        let told: Told = ask(settings, asked).await?;
        let data = settings.data_directory.clone().or(told.data.map(PathBuf::from));
        Ok(Self { cluster: told.cluster, user: data.as_deref().and_then(owner) })
    }
}

/// How far a primary has written.
#[derive(Clone, Debug, Deserialize)]
pub struct Written {
    /// The identifier of its cluster.
    pub cluster: u64,
    /// The segment it has written last, by name, and how large segments are.
    segment: String,
    size: SegmentSize,
    /// The first byte that is not durable there.
    pub lsn: Lsn,
    /// Its data folder; not every role is told.
    data: Option<PathBuf>,
    /// Its tablespaces that are not in the data folder, by their oid.
    pub tablespaces: Vec<u32>,
}

impl Written {
    /// Asks the server. A standby writes nothing, and refuses.
    pub async fn ask(settings: &Physical) -> Result<Self, PostgresError> {
        let asked = "select system_identifier as cluster, pg_catalog.pg_current_wal_flush_lsn()::text as lsn, \
            pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_flush_lsn()) as segment, \
            (select setting::bigint from pg_catalog.pg_settings where name = 'wal_segment_size') as size, \
            (select setting from pg_catalog.pg_settings where name = 'data_directory') as data, \
            array(select oid::bigint from pg_catalog.pg_tablespace where pg_catalog.pg_tablespace_location(oid) like '/%') as tablespaces \
            from pg_catalog.pg_control_system()";
        let written: Self = ask(settings, asked).await?;
        Ok(Self { data: settings.data_directory.clone().or(written.data), ..written })
    }

    /// The timeline it writes on.
    pub fn timeline(&self) -> Option<Timeline> {
        Segment::parse(&self.segment, self.size).ok().map(|segment| segment.timeline)
    }

    /// Up to where everything that matters is before `end`: that itself, or how far is written where no transaction ended behind it.
    /// A server that does nothing writes a few records all the same. Only the one segment is looked at that begins there.
    pub fn means_no_more_than(&self, end: Lsn) -> bool {
        if self.lsn <= end {
            return true;
        }
        let Ok(segment) = Segment::parse(&self.segment, self.size) else { return false };
        if segment.start(self.size) != end {
            return false;
        }
        let look = || -> Option<u64> {
            let path = self.data.as_ref()?.join("pg_wal").join(&self.segment);
            let mut bytes = vec![0; usize::try_from(self.lsn.0 - end.0).ok()?];
            regular::open(&path).ok()?.read_exact_at(&mut bytes, 0).ok()?;
            let header = SegmentHeader::read(&self.segment, &bytes).ok()?;
            (header.start == end).then(|| CommitWalk::new().segment(&header, &bytes).count)
        };
        look() == Some(0)
    }
}

fn owner(folder: &Path) -> Option<u32> {
    std::fs::metadata(folder).ok().map(|is| is.uid())
}

/// Asks a server for one row.
pub(super) async fn ask<T: DeserializeOwned>(settings: &Physical, query: &str) -> Result<T, PostgresError> {
    let mut session = Session::open_any(&Tools::find(&settings.server).await?).await?;
    let row = session.row(query).await?;
    session.close().await;
    Ok(row)
}
