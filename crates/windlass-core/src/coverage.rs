//! How far the WAL of a server can be restored.

use jiff::Timestamp;
use serde::Serialize;

use crate::id::PointId;
use crate::wal::{Lsn, Timeline};

/// How far the WAL of an archive leads on from a point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reached {
    /// The point, which holds the base backup.
    pub point: PointId,
    /// The identifier of the cluster.
    pub cluster: String,
    /// The timeline it leads to.
    pub timeline: Timeline,
    /// The first byte that cannot be had.
    pub end: Lsn,
    /// The newest moment that can be restored: of a server that has written nothing since, now.
    pub moment: Option<Timestamp>,
    /// The segment that is missing, where others are there behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap: Option<String>,
    /// The tablespaces that the base backup has, by their oid.
    #[serde(skip)]
    pub tablespaces: Vec<u32>,
    /// Why what the server writes now cannot be restored from this archive, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<String>,
}

impl Reached {
    /// Takes up which tablespaces the server has, by their oid: one that was made since would be replayed into the folder it has there.
    pub fn beside_tablespaces(&mut self, there: &[u32]) {
        if there.iter().any(|oid| !self.tablespaces.contains(oid)) {
            let why =
                "a tablespace was made since the newest base backup, and no moment after that can be restored from it";
            self.elsewhere.get_or_insert_with(|| why.to_owned());
        }
    }

    /// Takes up what the server says of itself: its cluster, the timeline it writes on, and how far it has written by now.
    pub fn beside(&mut self, cluster: &str, timeline: Timeline, written: Lsn, now: Timestamp) {
        if self.cluster != cluster {
            let ours = &self.cluster;
            self.elsewhere =
                Some(format!("the server is the cluster {cluster}, and its newest base backup is of {ours}"));
        } else if timeline != self.timeline {
            let ours = self.timeline;
            self.elsewhere = Some(format!(
                "the server writes on timeline {timeline}, and what is archived leads to timeline {ours}"
            ));
        } else if timeline == self.timeline && written <= self.end && self.gap.is_none() {
            // Nothing was written that is not there.
            self.moment = Some(now);
        }
    }
}
