//! Reads back what is archived: whether every file of a base backup is there, and every record of the WAL behind it.

use std::io::Read;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use windlass_core::wal::{Lsn, Segment};

use super::backups::{Backups, Held, LARGE, parts, walk};
use super::chain::{Backup, Step};
use super::commits::CommitWalk;

use super::moment::AT_ONCE;
use super::{BackupName, Replay, SegmentHeader, WalgError};

/// Segments that are told to be damaged; there may be many.
const TOLD: usize = 8;

/// What reading everything back has shown.
#[derive(Clone, Debug, Default)]
pub struct ReadBack {
    /// Objects that were read.
    pub objects: u64,
    /// Bytes of them, unpacked.
    pub bytes: u64,
    /// What cannot be restored, in words; nothing where all is well.
    pub damage: Vec<String>,
}

impl ReadBack {
    /// That the store cannot be asked says nothing of the backup; everything else is damage.
    fn add(&mut self, object: Result<u64, WalgError>, progress: &(dyn Fn(u64) + Send + Sync)) -> Result<(), WalgError> {
        match object {
            Ok(bytes) => {
                progress(bytes);
                (self.objects, self.bytes) = (self.objects + 1, self.bytes + bytes);
            }
            Err(error @ WalgError::Read { .. }) => return Err(error),
            Err(error) => self.damage.push(error.to_string()),
        }
        Ok(())
    }
}

impl Backups {
    /// Reads every archive of a chain back, opened and unpacked, and the WAL that makes its newest consistent: whether every
    /// file is there, and every segment is the one it should be.
    pub async fn read_back(
        &self,
        held: &Held,
        chain: &[Backup],
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<ReadBack, WalgError> {
        let mut read = ReadBack::default();
        let steps = match Step::plan(chain) {
            Ok(steps) => steps,
            Err(error) => return Ok(ReadBack { damage: vec![error.to_string()], ..read }),
        };
        for step in steps {
            let step = Arc::new(step);
            for part in parts(held, &step.backup) {
                let ticked = Arc::clone(&step);
                let walked =
                    self.blocking(step.backup.part(&part), part.codec(), move |content| walk(content, &ticked));
                read.add(walked.await, progress)?;
            }
            read.damage.extend(step.check().err().map(|error| error.to_string()));
        }
        let Some(newest) = chain.first() else { return Ok(read) };
        match held.until_consistent(&newest.name) {
            Ok(segments) => {
                for segment in segments {
                    let looked = self.look_over(held, segment, newest.sentinel.system_identifier).await;
                    read.add(looked, progress)?;
                }
            }
            Err(why) => read.damage.push(why),
        }
        Ok(read)
    }

    /// Reads the WAL back that leads on from a base backup, up to a place where there is one: whether every segment is the one it should be, and every record in it is whole. A gap is no damage: what is there ends.
    pub async fn read_wal(
        &self,
        held: &Held,
        (backup, replay): (&BackupName, &Replay),
        until: Option<Lsn>,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<ReadBack, WalgError> {
        let mut read = ReadBack::default();
        let cluster =
            held.backups.iter().find(|one| one.name == *backup).and_then(|one| one.sentinel.system_identifier);
        let history = held.history_of(replay.timeline);
        let is_before = |segment: &Segment| until.is_none_or(|until| segment.start(held.size) < until);
        let segments: Vec<Segment> = replay.segments.iter().copied().filter(is_before).collect();
        // Of one that is too large to be held only its beginning and its length are looked at.
        if held.size.bytes() > AT_ONCE {
            for segment in segments {
                read.add(self.look_over(held, segment, cluster).await, progress)?;
            }
            return Ok(read);
        }
        let many = usize::try_from(AT_ONCE / held.size.bytes()).unwrap_or(1);
        let last = segments.last().copied();
        let fetch = |segment: Segment| async move {
            match self.segment(held, segment, cluster).await {
                Err(error @ WalgError::Read { .. }) => Err(error),
                other => Ok((segment, other)),
            }
        };
        let mut fetched = futures::stream::iter(segments).map(fetch).buffered(many);
        let mut walk = CommitWalk::new();
        while let Some((segment, found)) = fetched.try_next().await? {
            let left = history.end_of(segment.timeline).into_iter().chain(until).min();
            let whole = found.and_then(|(header, bytes)| {
                let commits = walk.marks(&header, &bytes, left, &mut |_| {});
                if commits.goes_on || commits.more || Some(segment) == last {
                    return Ok(bytes.len() as u64);
                }
                let object = segment.name(held.size);
                Err(WalgError::Segment { object, why: format!("it ends at {}, and others are behind it", commits.end) })
            });
            if whole.is_err() {
                // What goes over from it is not known in the next.
                walk = CommitWalk::new();
            }
            read.add(whole, progress)?;
            if read.damage.len() == TOLD {
                break;
            }
        }
        Ok(read)
    }

    /// Looks whether a segment is the one it should be, by its beginning and its length; its bytes, unpacked.
    async fn look_over(&self, held: &Held, segment: Segment, cluster: Option<u64>) -> Result<u64, WalgError> {
        let Some((object, codec)) = held.object(segment) else {
            let object = segment.name(held.size);
            return Err(WalgError::Chain { backup: object, why: "it is not there any more".to_owned() });
        };
        let name = object.clone();
        let looked = self.blocking(object, codec, move |content| {
            let mut head = vec![0; super::wal::LONG];
            content.read_exact(&mut head)?;
            let bytes = head.len() as u64 + std::io::copy(&mut content.take(LARGE), &mut std::io::sink())?;
            let checked = SegmentHeader::read(&name, &head)
                .and_then(|header| header.check(&name, segment, cluster.unwrap_or(header.system_identifier), bytes));
            checked.map(|()| bytes).map_err(std::io::Error::other)
        });
        looked.await
    }
}
