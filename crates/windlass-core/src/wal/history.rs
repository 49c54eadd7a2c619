//! How a timeline came to be: the content of a `.history` file.

use std::fmt::Write;

use super::{Lsn, Timeline};

/// A history that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read the history of timeline {timeline}: line {line} {why}")]
pub struct InvalidHistory {
    timeline: Timeline,
    line: usize,
    why: &'static str,
}

/// The end of one timeline on the way to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The timeline that was left.
    pub timeline: Timeline,
    /// The first byte of the log that it does not hold any more.
    pub at: Lsn,
    /// Why, in PostgreSQL's words.
    pub reason: String,
}

/// A timeline and those it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    timeline: Timeline,
    switches: Vec<Switch>,
}

impl History {
    /// A timeline that comes from no other: the first has no file.
    pub fn first(timeline: Timeline) -> Self {
        Self { timeline, switches: Vec::new() }
    }

    /// From the content of the file of this timeline. Comments and empty lines are passed over, as PostgreSQL does.
    pub fn parse(timeline: Timeline, text: &str) -> Result<Self, InvalidHistory> {
        let mut switches: Vec<Switch> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |why| InvalidHistory { timeline, line: index + 1, why };
            let (parent, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let (at, reason) = rest.trim_start().split_once(char::is_whitespace).unwrap_or((rest.trim_start(), ""));
            let parent = Timeline(parent.parse().map_err(|_| wrong("begins with no timeline"))?);
            let at: Lsn = at.parse().map_err(|_| wrong("has no LSN behind its timeline"))?;
            if switches.last().is_some_and(|last| last.timeline >= parent) {
                return Err(wrong("names a timeline that is not greater than the one before"));
            }
            if switches.last().is_some_and(|last| last.at > at) {
                return Err(wrong("goes back in the log"));
            }
            if parent >= timeline {
                return Err(wrong("names a timeline that is not before this one"));
            }
            switches.push(Switch { timeline: parent, at, reason: reason.trim_start().to_owned() });
        }
        Ok(Self { timeline, switches })
    }

    /// The timeline this is the history of.
    pub fn timeline(&self) -> Timeline {
        self.timeline
    }

    /// The timelines that were left, the oldest first.
    pub fn switches(&self) -> &[Switch] {
        &self.switches
    }

    /// The history of a new timeline that leaves this one; `None` where it would not be greater, or goes back.
    pub fn branch(&self, timeline: Timeline, at: Lsn, reason: &str) -> Option<Self> {
        if timeline <= self.timeline || self.switches.last().is_some_and(|last| last.at > at) {
            return None;
        }
        // One line is one switch.
        let reason = reason.replace(['\n', '\r'], " ").trim().to_owned();
        let mut switches = self.switches.clone();
        switches.push(Switch { timeline: self.timeline, at, reason });
        Some(Self { timeline, switches })
    }

    /// The timeline whose segments hold the byte at this place, on the way to this one.
    pub fn timeline_at(&self, lsn: Lsn) -> Timeline {
        self.switches.iter().find(|switch| lsn < switch.at).map_or(self.timeline, |switch| switch.timeline)
    }

    /// Where this history leaves a timeline; `None` where it never does.
    pub fn end_of(&self, timeline: Timeline) -> Option<Lsn> {
        self.switches.iter().find(|switch| switch.timeline == timeline).map(|switch| switch.at)
    }

    /// Whether a place on a timeline lies on the way: a backup from there can be brought to this timeline.
    pub fn passes(&self, timeline: Timeline, lsn: Lsn) -> bool {
        timeline == self.timeline || self.end_of(timeline).is_some_and(|end| lsn <= end)
    }

    /// The content of its file, as PostgreSQL writes it.
    pub fn text(&self) -> String {
        self.switches.iter().fold(String::new(), |mut text, Switch { timeline, at, reason }| {
            let _ = writeln!(text, "{timeline}\t{at}\t{reason}");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::History;
    use crate::wal::{Lsn, Timeline};

    /// As PostgreSQL 15 wrote it after two promotions.
    const THIRD: &str = "1\t0/70A9C60\tno recovery target specified\n\n2\t0/9000000\tbefore 2026-11-20 09:10:07+00\n";

    #[test]
    fn each_timeline_holds_the_log_up_to_where_it_was_left() {
        let history = History::parse(Timeline(3), THIRD).expect("valid");
        let cases = [(0, 1), (0x070A_9C5F, 1), (0x070A_9C60, 2), (0x08FF_FFFF, 2), (0x0900_0000, 3), (u64::MAX, 3)];
        for (lsn, timeline) in cases {
            assert_eq!(history.timeline_at(Lsn(lsn)), Timeline(timeline), "{}", Lsn(lsn));
        }
        assert!(history.passes(Timeline(1), Lsn(0x0700_0000)));
        assert!(!history.passes(Timeline(1), Lsn(0x0800_0000)), "it went on alone there");
        assert!(history.passes(Timeline(3), Lsn(u64::MAX)));
        assert!(!history.passes(Timeline(4), Lsn(0)));
        assert_eq!(history.switches()[0].reason, "no recovery target specified");
    }

    #[test]
    fn what_cannot_have_happened_is_refused() {
        let texts =
            ["x\t0/1\tr", "1\tno lsn", "1", "2\t0/1\tr\n1\t0/2\tr", "1\t0/2\tr\n2\t0/1\tr", "3\t0/1\tr", "-1\t0/1"];
        for text in texts {
            assert!(History::parse(Timeline(3), text).is_err(), "{text}");
        }
        assert!(History::parse(Timeline(3), "# a comment\n\n").expect("valid").switches().is_empty());
        assert_eq!(History::first(Timeline(2)).branch(Timeline(2), Lsn(1), ""), None);
    }

    proptest! {
        #[test]
        fn comes_back_from_its_file(steps in proptest::collection::vec((1_u32..5, 0_u64..1 << 40, "[ -~]{0,20}"), 0..6)) {
            let mut history = History::first(Timeline(1));
            let mut lsn = Lsn(0);
            for (more, bytes, reason) in steps {
                lsn = lsn + bytes;
                history = history.branch(Timeline(history.timeline().0 + more), lsn, &reason).expect("goes on");
            }
            prop_assert_eq!(History::parse(history.timeline(), &history.text()), Ok(history));
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = History::parse(Timeline(7), &text);
        }
    }
}
