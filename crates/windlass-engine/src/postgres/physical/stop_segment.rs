//! The WAL of a standby's base backup: the segment it ends in is ended by the primary, not by us.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use windlass_core::point::ObjectRef;
use windlass_core::wal::{Segment, SegmentSize};
use windlass_repo::format::walg::{CommitWalk, SegmentHeader};
use windlass_repo::regular;

use super::base_backup::{Task, blocking};
use super::error::PhysicalError;
use super::server::{Facts, Reached};
use super::survey::still_there;
use crate::postgres::session::Session;

/// How long a segment is waited for.
const PATIENCE: Duration = Duration::from_mins(10);

/// The largest segment that is held in memory, to see whether it is whole; larger ones are waited for in the archive.
const LARGEST: u64 = 64 << 20;

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
        let is_there = Reached::ask(session).await?.received.is_some_and(|received| received >= segment.end(size));
        let path = data.filter(|_| is_there).map(|data| data.join("pg_wal").join(&name));
        if let Some(path) = path
            && let Some(file) = blocking(move || whole(&path, size)).await?
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

/// A segment whose log goes on to its end. One in which a timeline was left is none: its primary, should it live on, writes it anew.
fn whole(path: &Path, size: SegmentSize) -> Result<Option<File>, PhysicalError> {
    let failed = |source| PhysicalError::Read { path: path.to_owned(), source };
    let Some(file) = still_there(regular::open(path)).map_err(failed)? else { return Ok(None) };
    if size.bytes() > LARGEST {
        return Ok(None);
    }
    let mut content = vec![0; usize::try_from(size.bytes()).unwrap_or_default()];
    file.read_exact_at(&mut content, 0).map_err(failed)?;
    let goes_on = SegmentHeader::read(&path.to_string_lossy(), &content)
        .is_ok_and(|header| CommitWalk::new().segment(&header, &content).goes_on);
    Ok(goes_on.then_some(file))
}
