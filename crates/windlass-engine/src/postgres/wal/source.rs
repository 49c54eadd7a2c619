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

/// How far a server has written; of a standby only whose it is, for its primary may be further.
#[derive(Clone, Debug, Deserialize)]
pub struct Written {
    /// The identifier of its cluster.
    pub cluster: u64,
    /// The segment it has written last, by name, and how large segments are; none of a standby.
    segment: Option<String>,
    size: SegmentSize,
    /// The first byte that is not durable there; none of a standby.
    lsn: Option<Lsn>,
    /// The timeline a standby replays.
    replayed: Option<Timeline>,
    /// Its data folder; not every role is told.
    data: Option<PathBuf>,
    /// Its tablespaces that are not in the data folder, by their oid.
    pub tablespaces: Vec<u32>,
}

impl Written {
    /// Asks the server.
    pub async fn ask(settings: &Physical) -> Result<Self, PostgresError> {
        let asked = "select system_identifier as cluster, \
            case when not pg_catalog.pg_is_in_recovery() then pg_catalog.pg_current_wal_flush_lsn()::text end as lsn, \
            case when not pg_catalog.pg_is_in_recovery() \
              then pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_flush_lsn()) end as segment, \
            case when pg_catalog.pg_is_in_recovery() \
              then (select nullif(min_recovery_end_timeline, 0) from pg_catalog.pg_control_recovery()) end as replayed, \
            (select setting::bigint from pg_catalog.pg_settings where name = 'wal_segment_size') as size, \
            (select setting from pg_catalog.pg_settings where name = 'data_directory') as data, \
            array(select oid::bigint from pg_catalog.pg_tablespace where pg_catalog.pg_tablespace_location(oid) like '/%') as tablespaces \
            from pg_catalog.pg_control_system()";
        let written: Self = ask(settings, asked).await?;
        Ok(Self { data: settings.data_directory.clone().or(written.data), ..written })
    }

    /// The timeline it writes on, or replays.
    pub fn timeline(&self) -> Option<Timeline> {
        let segment = self.segment.as_deref().and_then(|name| Segment::parse(name, self.size).ok());
        segment.map(|segment| segment.timeline).or(self.replayed)
    }

    /// Whether everything that matters is before `end`: all that is written, or nothing is behind it that ended a transaction. A server
    /// that does nothing writes a few records all the same. Only the one segment is looked at that begins there. Of a standby it is
    /// not known.
    pub fn means_no_more_than(&self, end: Lsn) -> bool {
        let (Some(lsn), Some(name)) = (self.lsn, &self.segment) else { return false };
        if lsn <= end {
            return true;
        }
        let Ok(segment) = Segment::parse(name, self.size) else { return false };
        if segment.start(self.size) != end {
            return false;
        }
        let look = || -> Option<u64> {
            let path = self.data.as_ref()?.join("pg_wal").join(name);
            let mut bytes = vec![0; usize::try_from(lsn.0 - end.0).ok()?];
            regular::open(&path).ok()?.read_exact_at(&mut bytes, 0).ok()?;
            let header = SegmentHeader::read(name, &bytes).ok()?;
            // Another server may have a folder of the same name here.
            (header.start == end && header.system_identifier == self.cluster)
                .then(|| CommitWalk::new().segment(&header, &bytes).count)
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
