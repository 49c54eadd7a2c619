//! The WAL of a standby's base backup: the segment it ends in is ended by the primary, not by us.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use windlass_core::point::ObjectRef;
use windlass_core::wal::Segment;
use windlass_repo::regular;

use super::base_backup::Task;
use super::error::PhysicalError;
use super::server::{Facts, Reached};
use super::survey::still_there;
use crate::postgres::session::Session;

/// How long a segment is waited for.
const PATIENCE: Duration = Duration::from_mins(10);

/// How often is looked.
const PAUSE: Duration = Duration::from_millis(500);

/// Waits until the archive holds the segments from the first to the last. What the standby has received whole is archived from its
/// data folder, where that is at hand; else the primary has to archive it to the same place.
pub(super) async fn wal_of_standby(
    task: &Task<'_>,
    session: &mut Session,
    facts: &Facts,
    data: Option<&Path>,
    (mut segment, last): (Segment, Segment),
) -> Result<Vec<ObjectRef>, PhysicalError> {
    let (size, cluster) = (facts.segment_size, facts.system_identifier);
    let (began, mut objects) = (Instant::now(), Vec::new());
    while segment <= last {
        let name = segment.name(size);
        if let Some(object) = task.archive.find_stored(&name).await.map_err(PhysicalError::Walg)? {
            objects.push(object);
            segment = segment.next();
            continue;
        }
        let is_whole = Reached::ask(session).await?.lsn.is_some_and(|replayed| replayed >= segment.end(size));
        let path = data.filter(|_| is_whole).map(|data| data.join("pg_wal").join(&name));
        if let Some(path) = path
            && let Some(file) =
                still_there(regular::open(&path)).map_err(|source| PhysicalError::Read { path, source })?
        {
            let pushed = task.archive.archived(&name, &Arc::new(file), cluster, task.compression).await;
            objects.push(pushed.map_err(PhysicalError::Walg)?.object);
            segment = segment.next();
            continue;
        }
        if began.elapsed() > PATIENCE {
            return Err(PhysicalError::NotClosed { segment: name, minutes: PATIENCE.as_secs() / 60 });
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(objects)
}
