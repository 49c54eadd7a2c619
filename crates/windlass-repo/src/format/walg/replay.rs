//! The WAL behind a base backup: over which timelines it is replayed, how far it goes, and where it has gaps. Pure.

use std::collections::{BTreeMap, BTreeSet};

use windlass_core::wal::{History, Lsn, Segment, SegmentSize, Timeline};

/// What can be replayed behind a base backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The timeline it ends on.
    pub timeline: Timeline,
    /// The segments, without a gap, in order; the first is the one the backup starts in. Empty where even that is missing.
    pub segments: Vec<Segment>,
    /// Where there is WAL behind a gap: the first segment that is missing, and the first behind it that is there.
    pub gap: Option<(Segment, Segment)>,
}

impl Replay {
    /// What is there behind a base backup of a timeline, brought to the newest timeline that leads on from where it is
    /// consistent.
    pub fn behind(
        timeline: Timeline,
        (start, consistent): (Lsn, Lsn),
        segments: &BTreeSet<Segment>,
        histories: &BTreeMap<Timeline, History>,
        size: SegmentSize,
    ) -> Self {
        let newest = histories.values().rev().find(|history| history.passes(timeline, consistent));
        let history = newest.cloned().unwrap_or_else(|| History::first(timeline));
        let mut number = Segment::of(start, timeline, size).number;
        let mut found = Vec::new();
        while let Some(segment) = at(&history, number, segments, size) {
            found.push(segment);
            number += 1;
        }
        let missing = Segment { timeline: timeline_of(&history, number, size), number };
        let later = segments.iter().filter(|one| {
            one.number > number && history.passes(one.timeline, one.start(size)) && one.timeline >= missing.timeline
        });
        let gap = later.min_by_key(|one| one.number).map(|later| (missing, *later));
        Self { timeline: history.timeline(), segments: found, gap }
    }

    /// The first byte behind what can be replayed; `None` where nothing can.
    pub fn end(&self, size: SegmentSize) -> Option<Lsn> {
        self.segments.last().map(|segment| segment.end(size))
    }

    /// Whether a backup that is consistent at this place can be brought there.
    pub fn reaches(&self, consistent: Lsn, size: SegmentSize) -> bool {
        self.end(size).is_some_and(|end| consistent <= end)
    }
}

/// The timeline that holds the last byte of a segment.
fn timeline_of(history: &History, number: u64, size: SegmentSize) -> Timeline {
    let segment = Segment { timeline: history.timeline(), number };
    history.timeline_at(segment.end(size) - 1)
}

/// The segment with this number on the way: of the newest timeline that wrote in it, as PostgreSQL looks for it.
fn at(history: &History, number: u64, segments: &BTreeSet<Segment>, size: SegmentSize) -> Option<Segment> {
    let of = |timeline| Segment { timeline, number };
    let first = history.timeline_at(of(history.timeline()).start(size));
    let last = timeline_of(history, number, size);
    let goes_on = || segments.range(of(last)..).any(|one| one.timeline == last && one.number > number);
    let found = |timeline| Some(of(timeline)).filter(|segment| segments.contains(segment));
    // What is left of the older one serves only where the newer one wrote nothing behind.
    found(last).or_else(|| found(first).filter(|_| !goes_on()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 16 << 20;

    /// The timeline it ends on, timelines and numbers of segments, and the numbers around a gap.
    type Found = (u32, Vec<(u32, u64)>, Option<(u64, u64)>);

    fn segments(all: &[(u32, u64)]) -> BTreeSet<Segment> {
        all.iter().map(|(timeline, number)| Segment { timeline: Timeline(*timeline), number: *number }).collect()
    }

    fn replay(from: (u32, u64), all: &[(u32, u64)], histories: &[(u32, &str)]) -> Found {
        let histories = histories
            .iter()
            .map(|(timeline, text)| (Timeline(*timeline), History::parse(Timeline(*timeline), text).unwrap()));
        let start = Lsn(from.1 * SIZE + 40);
        let size = SegmentSize::default();
        let found = Replay::behind(Timeline(from.0), (start, start), &segments(all), &histories.collect(), size);
        let named = found.segments.iter().map(|segment| (segment.timeline.0, segment.number)).collect();
        (found.timeline.0, named, found.gap.map(|(missing, there)| (missing.number, there.number)))
    }

    #[test]
    fn it_ends_where_a_segment_is_missing_and_says_what_is_behind() {
        assert_eq!(replay((1, 2), &[(1, 1), (1, 2), (1, 3)], &[]), (1, vec![(1, 2), (1, 3)], None));
        assert_eq!(replay((1, 2), &[(1, 2), (1, 5), (1, 6)], &[]), (1, vec![(1, 2)], Some((3, 5))));
        assert_eq!(replay((1, 2), &[(1, 1), (1, 3)], &[]), (1, vec![], Some((2, 3))));
        assert_eq!(replay((1, 2), &[], &[]), (1, vec![], None));
    }

    #[test]
    fn it_follows_the_newest_timeline_that_leads_on_from_there() {
        // Promoted in the middle of segment 4.
        let second = "1\t0/4800000\tno recovery target specified\n";
        let all = [(1, 2), (1, 3), (1, 4), (1, 5), (2, 4), (2, 5)];
        assert_eq!(replay((1, 2), &all, &[(2, second)]), (2, vec![(1, 2), (1, 3), (2, 4), (2, 5)], None));
        // Where the new one's first segment is not there, what is left of the old one leads nowhere; unless there is no more.
        assert_eq!(replay((1, 2), &[(1, 2), (1, 3), (1, 4), (2, 5)], &[(2, second)]).2, Some((4, 5)));
        assert_eq!(replay((1, 2), &[(1, 2), (1, 3), (1, 4)], &[(2, second)]).1.len(), 3);
        // A backup of the old timeline from behind the switch cannot get there.
        assert_eq!(replay((1, 5), &[(1, 5), (2, 5)], &[(2, second)]), (1, vec![(1, 5)], None));
        assert_eq!(replay((1, 2), &[(1, 2), (1, 3), (2, 5)], &[(2, second)]), (2, vec![(1, 2), (1, 3)], Some((4, 5))));
    }
}
