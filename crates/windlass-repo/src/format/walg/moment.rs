//! Finds a moment in the WAL behind a base backup: the place in the log at which recovery has to end for it.
//!
//! A time is turned into a place because PostgreSQL, told a time that lies behind the last transaction of the archive, ends with
//! an error once it has replayed everything. The place is the one PostgreSQL itself would end at: before the first record, in the
//! order of the log, of a transaction that ended later.
//!
//! Of segments that say of themselves what is in them ([`super::summary`]) only those are read that can matter, and of the others
//! everything between the base backup and the moment, a few at a time.

use std::io::Read;

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use windlass_core::restore::{Moment, Reach};
use windlass_core::wal::{History, Lsn, Segment, SegmentSize, Timeline};

use super::backups::{Backups, BaseBackup, Held, unread};
use super::commits::{CommitWalk, Mark, Marked};
use super::summary::{self, Summary};
use super::{BackupName, Codec, Opener, Replay, SegmentHeader, WalgError};
use crate::store::Key;

/// Bytes of segments that are read at once.
pub(super) const AT_ONCE: u64 = 64 << 20;

/// Segments that are asked at once what they say of themselves.
const ASKED_AT_ONCE: usize = 32;

/// Why there is no such moment.
#[derive(Debug, thiserror::Error)]
pub enum NoMoment {
    /// The archive.
    #[error(transparent)]
    Archive(WalgError),
    /// The base backup is too young for it.
    #[error("it is before {consistent}, where the base backup is consistent")]
    TooEarly {
        /// Where it is.
        consistent: Lsn,
    },
    /// It lies behind what is there.
    #[error("the WAL of timeline {timeline} ends at {end}{}{}", reached(*.last), behind(.gap.as_deref()))]
    TooLate {
        /// The timeline that was followed.
        timeline: Timeline,
        /// The first byte that is not there.
        end: Lsn,
        /// When the last transaction ended.
        last: Option<Timestamp>,
        /// The segment that is missing or ends too early, where others are there behind it.
        gap: Option<String>,
        /// Whether there is nothing but what makes the base backup consistent.
        is_bare: bool,
    },
    /// It is not in the WAL that is there.
    #[error("it is not in the WAL of timeline {timeline} between {from} and {end}")]
    NotFound {
        /// The timeline that was followed.
        timeline: Timeline,
        /// Where it was looked for.
        from: Lsn,
        /// And up to where.
        end: Lsn,
    },
    /// It lies where one timeline was left and the other not begun.
    #[error(
        "it is between timelines: what timeline {before} did until then goes no further than {left}, and timeline {after} begins with {begun}"
    )]
    Between {
        /// The older timeline.
        before: Timeline,
        /// When its last transaction ended that the newer one took over.
        left: Timestamp,
        /// The newer one.
        after: Timeline,
        /// When its first transaction ended.
        begun: Timestamp,
    },
    /// A tablespace was made on the way.
    #[error(
        "a tablespace was made in `{folder}` at {at}, behind the base backup: replaying that would write into that very folder, which may be one that a server uses"
    )]
    Tablespace {
        /// Its folder.
        folder: String,
        /// Where the log has it.
        at: Lsn,
    },
    /// The timeline does not lead on from the base backup.
    #[error("timeline {timeline} is not in the archive, or does not lead on from the base backup")]
    NoTimeline {
        /// The timeline.
        timeline: Timeline,
    },
}

fn reached(last: Option<Timestamp>) -> String {
    last.map_or(", and no transaction ended in it".to_owned(), |last| {
        format!(", and the last transaction in it ended at {last}")
    })
}

fn behind(gap: Option<&str>) -> String {
    gap.map_or(String::new(), |gap| format!("; the segment {gap} is missing or ends too early"))
}

impl Backups {
    /// Finds a moment behind a base backup, on the newest timeline that leads on from there or on one that is named. `progress` is
    /// told of bytes that were read.
    pub async fn locate(
        &self,
        held: &Held,
        backup: &BackupName,
        moment: &Moment,
        timeline: Option<Timeline>,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Reach, NoMoment> {
        let walg = NoMoment::Archive;
        let missing = |why: String| walg(WalgError::Chain { backup: backup.to_string(), why });
        let base = held.backups.iter().find(|one| one.name == *backup);
        let base = base.ok_or_else(|| missing("it is not there".to_owned()))?;
        let timeline = match moment {
            Moment::Time(time) if timeline.is_none() => self.begun_by(held, base, *time).await.map_err(walg)?,
            _ => timeline,
        };
        let replay = held.replay_on(backup, timeline);
        let replay = replay.ok_or(NoMoment::NoTimeline { timeline: timeline.unwrap_or(base.segment.timeline) })?;
        held.until_consistent(backup).map_err(missing)?;
        let consistent = base.sentinel.finish.unwrap_or_default();
        let history = held.history_of(replay.timeline);
        let mut search =
            Search { moment, consistent, found: None, is_behind: false, last: None, last_on: None, gap: None };
        let many = usize::try_from(AT_ONCE / held.size.bytes()).unwrap_or(1).max(1);
        let cluster = base.sentinel.system_identifier;
        let looks = self.looks(held, &replay, &history, moment).await.map_err(walg)?;
        let look = |look: Look| async move {
            let segment = match look {
                Look::Known(..) => return Ok((look, None)),
                Look::Read(segment) => segment,
            };
            self.segment(held, segment, cluster).await.map(|read| (look, Some(read)))
        };
        let mut looked = futures::stream::iter(looks).map(look).buffered(many);
        let (mut walk, mut last, mut broken, mut made) = (CommitWalk::new(), (consistent, consistent), None, None);
        while let Some((look, read)) = looked.try_next().await.map_err(walg)? {
            let segment = match (look, &read) {
                (Look::Known(segment, said), _) => {
                    search.pass(&said, segment.timeline);
                    last = said.last.unwrap_or(last);
                    continue;
                }
                (Look::Read(segment), _) => segment,
            };
            let Some((header, bytes)) = read else { continue };
            progress(bytes.len() as u64);
            // Behind where its timeline was left it is not replayed; nor behind a place that was asked for.
            let left = history.end_of(segment.timeline);
            let until = left.into_iter().chain(search.place()).min();
            let commits = walk.marks(&header, &bytes, until, &mut |mark| search.see(&mark, &history));
            last = commits.last.map_or(last, |start| (start, commits.end));
            made = made.or_else(|| commits.tablespaces.into_iter().find(|(at, _)| Some(*at) >= base.sentinel.start));
            search.is_behind |= commits.more && until == search.place();
            if search.is_over() {
                break;
            }
            if !commits.goes_on && !commits.more {
                // PostgreSQL would go no further, whatever is behind.
                broken = Some(segment);
                break;
            }
        }
        let broken = broken.filter(|broken| replay.segments.last() != Some(broken));
        search.gap = broken.or(replay.gap.map(|(missing, _)| missing)).map(|missing| missing.name(held.size));
        let reach = search.end(&replay, held, last)?;
        match made {
            Some((at, folder)) if at <= reach.record => Err(NoMoment::Tablespace { folder, at }),
            _ => Ok(reach),
        }
    }

    /// How each segment is looked at, to find a moment in them: the last one is always read, and what surrounds a record that goes
    /// over into the next and may matter.
    async fn looks(
        &self,
        held: &Held,
        replay: &Replay,
        history: &History,
        moment: &Moment,
    ) -> Result<Vec<Look>, WalgError> {
        let ask = |segment: Segment| async move { self.summary(held, segment).await.map(|said| (segment, said)) };
        let mut said = futures::stream::iter(replay.segments.iter().copied()).map(ask).buffered(ASKED_AT_ONCE);
        let (mut looks, mut carried, mut silent) = (Vec::new(), false, 0);
        while let Some((segment, said)) = said.try_next().await? {
            let is_cut = matches!(moment, Moment::Lsn(place) if *place < segment.end(held.size))
                || !is_of_one_timeline(segment, history, held.size)
                || replay.segments.last() == Some(&segment);
            let known = said.filter(|said| !carried && !is_cut && said.is_passed_by(moment));
            carried = said.is_none_or(|said| said.carries);
            silent = if said.is_some() { 0 } else { silent + 1 };
            looks.push(known.map_or(Look::Read(segment), |said| Look::Known(segment, said)));
            // The moment is in there; and others' archives say nothing.
            if silent == ASKED_AT_ONCE || said.is_some_and(|said| said.ends_after(moment)) {
                break;
            }
        }
        let rest = replay.segments.iter().skip(looks.len()).map(|segment| Look::Read(*segment));
        looks.extend(rest);
        Ok(looks)
    }

    /// What a segment says of itself, where it does.
    pub(super) async fn summary(&self, held: &Held, segment: Segment) -> Result<Option<Summary>, WalgError> {
        let Some((object, Codec::Zstd | Codec::Lz4)) = held.object(segment) else { return Ok(None) };
        let stored = self.store.get_range(&Key::foreign(&object), 0..summary::WITHIN).await;
        let stored = stored.map_err(|error| unread(&object, error))?;
        let said = match self.key.as_deref() {
            None => Summary::read(&mut &stored[..]),
            Some(key) => Summary::read(&mut Opener::new(key, &stored[..])),
        };
        // What cannot be read here is read whole, and says then what is wrong with it.
        Ok(said.ok().flatten())
    }

    /// The newest timeline that leads on from a base backup and had begun by a time: what was put back or promoted later is no part of
    /// that moment. None where it is that of the base backup, or not known to be another.
    async fn begun_by(&self, held: &Held, base: &BaseBackup, time: Timestamp) -> Result<Option<Timeline>, WalgError> {
        let own = base.segment.timeline;
        let later: Vec<Timeline> = held.timelines().filter(|timeline| *timeline > own).collect();
        for timeline in later.into_iter().rev() {
            if held.replay_on(&base.name, Some(timeline)).is_none() {
                continue;
            }
            if self.begin_of(held, timeline).await?.is_none_or(|began| began <= time) {
                return Ok(Some(timeline));
            }
        }
        Ok(Some(own))
    }

    /// When a timeline began, where its first segment is there and tells.
    async fn begin_of(&self, held: &Held, timeline: Timeline) -> Result<Option<Timestamp>, WalgError> {
        let Some(left) = held.history_of(timeline).switches().last().map(|switch| switch.at) else { return Ok(None) };
        let first = Segment { timeline, number: left.0 / held.size.bytes() };
        if held.object(first).is_none() {
            return Ok(None);
        }
        let (header, bytes) = self.segment(held, first, None).await?;
        let mut began = None;
        CommitWalk::new().marks(&header, &bytes, None, &mut |mark| {
            if mark.what == Marked::Timeline && mark.start >= left && began.is_none() {
                began = Some(mark.at);
            }
        });
        Ok(began)
    }

    /// A segment, all of it, of the cluster with this identifier, where one is given.
    pub(super) async fn segment(
        &self,
        held: &Held,
        segment: Segment,
        cluster: Option<u64>,
    ) -> Result<(SegmentHeader, Vec<u8>), WalgError> {
        let name = segment.name(held.size);
        let Some((object, codec)) = held.object(segment) else {
            return Err(WalgError::Chain { backup: name, why: "it is not there any more".to_owned() });
        };
        let size = held.size.bytes();
        let bytes = self.blocking(object.clone(), codec, move |content| {
            let mut bytes = Vec::new();
            content.take(size).read_to_end(&mut bytes).map(|_| bytes)
        });
        let bytes = bytes.await?;
        let header = SegmentHeader::read(&object, &bytes)?;
        header.check(&object, segment, cluster.unwrap_or(header.system_identifier), bytes.len() as u64)?;
        Ok((header, bytes))
    }
}

/// How a segment is looked at.
#[derive(Clone, Copy)]
enum Look {
    Read(Segment),
    /// What it says of itself is enough.
    Known(Segment, Summary),
}

/// Whether all of a segment is replayed, and was written on the timeline it is named by.
fn is_of_one_timeline(segment: Segment, history: &History, size: SegmentSize) -> bool {
    let (start, end) = (segment.start(size), segment.end(size));
    history.switches().iter().all(|switch| switch.at <= start || switch.at >= end)
}

/// What is looked for, and what was seen on the way.
struct Search<'a> {
    moment: &'a Moment,
    consistent: Lsn,
    found: Option<Found>,
    /// Whether a record was seen that begins behind the place that is looked for.
    is_behind: bool,
    /// When the last transaction ended that is replayed, and on which timeline.
    last: Option<Timestamp>,
    last_on: Option<Timeline>,
    /// The segment that is missing, or ends too early, where others are there behind it.
    gap: Option<String>,
}

struct Found {
    /// The last record that is replayed.
    record: Lsn,
    end: Lsn,
    /// The record that is not replayed any more: when it was written, and on which timeline.
    next: Option<(Timestamp, Timeline)>,
}

impl Search<'_> {
    /// The place that is looked for, where it is one.
    fn place(&self) -> Option<Lsn> {
        if let Moment::Lsn(lsn) = self.moment { Some(*lsn) } else { None }
    }

    fn is_over(&self) -> bool {
        self.found.is_some() || self.is_behind
    }

    /// A segment is passed over by what it says of itself.
    fn pass(&mut self, said: &Summary, on: Timeline) {
        if let Some((_, latest)) = said.ended {
            self.last = Some(self.last.map_or(latest, |last| last.max(latest)));
            self.last_on = Some(on);
        }
    }

    fn see(&mut self, mark: &Mark, history: &History) {
        if self.found.is_some() {
            return;
        }
        let on = history.timeline_at(mark.start);
        let behind = Found { record: mark.start, end: mark.end, next: None };
        self.found = match (self.moment, &mark.what) {
            (Moment::Time(time), Marked::Ended { .. }) if mark.at > *time => {
                // Of what lies between the two nothing is a record.
                Some(Found { record: mark.before, end: mark.start, next: Some((mark.at, on)) })
            }
            (Moment::Transaction(wanted), Marked::Ended { transaction, .. }) if transaction == wanted => Some(behind),
            (Moment::Named(wanted), Marked::RestorePoint(name)) if name == wanted => Some(behind),
            _ => None,
        };
        let is_replayed = self.found.as_ref().is_none_or(|found| mark.start < found.end);
        if is_replayed && matches!(mark.what, Marked::Ended { .. }) {
            self.last = Some(self.last.map_or(mark.at, |last| last.max(mark.at)));
            self.last_on = Some(on);
        }
    }

    /// What was found when the search ended behind a record.
    fn end(self, replay: &Replay, held: &Held, (record, end): (Lsn, Lsn)) -> Result<Reach, NoMoment> {
        let timeline = replay.timeline;
        let too_early = NoMoment::TooEarly { consistent: self.consistent };
        let Some(found) = self.found else {
            return match self.moment {
                Moment::Lsn(lsn) if *lsn < self.consistent => Err(too_early),
                Moment::Lsn(lsn) if self.is_behind || *lsn <= end => {
                    Ok(Reach { timeline, record, end, last: self.last, gap: None })
                }
                Moment::Newest => Ok(Reach { timeline, record, end, last: self.last, gap: self.gap }),
                Moment::Time(_) | Moment::Lsn(_) => Err(NoMoment::TooLate {
                    timeline,
                    end,
                    last: self.last,
                    gap: self.gap,
                    is_bare: replay.end(held.size).is_none_or(|end| end.0 < self.consistent.0 + held.size.bytes()),
                }),
                Moment::Transaction(_) | Moment::Named(_) => {
                    Err(NoMoment::NotFound { timeline, from: self.consistent, end })
                }
            };
        };
        if found.end < self.consistent {
            return Err(too_early);
        }
        if let (Some(left), Some(before), Some((begun, after))) = (self.last, self.last_on, found.next)
            && before != after
            && held.went_on(before, after)
        {
            return Err(NoMoment::Between { before, left, after, begun });
        }
        Ok(Reach { timeline, record: found.record, end: found.end, last: self.last, gap: None })
    }
}

impl Held {
    /// The history of a timeline; one that has none is the first.
    pub(super) fn history_of(&self, timeline: Timeline) -> History {
        self.histories.get(&timeline).cloned().unwrap_or_else(|| History::first(timeline))
    }

    /// Whether a timeline was written on behind where another left it, as far as is archived.
    fn went_on(&self, before: Timeline, after: Timeline) -> bool {
        let Some(left) = self.history_of(after).end_of(before) else { return false };
        self.segments.iter().any(|segment| segment.timeline == before && segment.end(self.size) > left)
    }
}
