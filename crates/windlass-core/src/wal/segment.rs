//! Segments: what the log is cut into, by timeline and number, and their names.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Lsn;

/// Bytes of the log that one "log file" of a segment's name stands for.
const LOG: u64 = 1 << 32;

/// A size no cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a WAL segment of {bytes} bytes: a power of two from 1 MiB to 1 GiB is expected")]
pub struct InvalidSegmentSize {
    bytes: u64,
}

/// A name that is not that of a WAL file, given the size of a segment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not the name of a WAL file")]
pub struct InvalidWalName {
    pub(super) name: String,
}

/// A timeline: each promotion begins a new one, with a greater number. The first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timeline(pub u32);

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The size of a segment, which `initdb --wal-segsize` chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "u64", try_from = "u64")]
pub struct SegmentSize(u64);

impl SegmentSize {
    /// The smallest there is. By it the name of any segment can be read and written, but not counted with.
    pub const LEAST: Self = Self(1 << 20);

    /// The largest there is.
    pub const LARGEST: Self = Self(1 << 30);

    /// From bytes.
    pub fn new(bytes: u64) -> Result<Self, InvalidSegmentSize> {
        let is_valid = bytes.is_power_of_two() && (Self::LEAST.0..=Self::LARGEST.0).contains(&bytes);
        if is_valid { Ok(Self(bytes)) } else { Err(InvalidSegmentSize { bytes }) }
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    fn per_log(self) -> u64 {
        LOG / self.0
    }
}

impl Default for SegmentSize {
    /// 16 MiB.
    fn default() -> Self {
        Self(16 << 20)
    }
}

impl From<SegmentSize> for u64 {
    fn from(size: SegmentSize) -> Self {
        size.0
    }
}

impl TryFrom<u64> for SegmentSize {
    type Error = InvalidSegmentSize;

    fn try_from(bytes: u64) -> Result<Self, InvalidSegmentSize> {
        Self::new(bytes)
    }
}

/// A segment of the log, on a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// The timeline it was written on.
    pub timeline: Timeline,
    /// Segments before it since the beginning of the log.
    pub number: u64,
}

impl Segment {
    /// The one that holds the byte at this place.
    pub fn of(lsn: Lsn, timeline: Timeline, size: SegmentSize) -> Self {
        Self { timeline, number: lsn.0 / size.0 }
    }

    /// The one that holds the byte before this place: where an LSN stands for the end of what was replayed, as on a standby.
    pub fn before(lsn: Lsn, timeline: Timeline, size: SegmentSize) -> Self {
        Self::of(lsn - 1, timeline, size)
    }

    /// From 24 hexadecimal digits in capitals: timeline, log file, segment in it.
    pub fn parse(name: &str, size: SegmentSize) -> Result<Self, InvalidWalName> {
        let invalid = || InvalidWalName { name: name.to_owned() };
        let (timeline, rest) = name.split_at_checked(8).ok_or_else(invalid)?;
        let (log, segment) = rest.split_at_checked(8).ok_or_else(invalid)?;
        let (timeline, log, segment) =
            (hex8(timeline).zip(hex8(log)).zip(hex8(segment))).map(|((a, b), c)| (a, b, c)).ok_or_else(invalid)?;
        if u64::from(segment) >= size.per_log() {
            return Err(invalid());
        }
        Ok(Self { timeline: Timeline(timeline), number: u64::from(log) * size.per_log() + u64::from(segment) })
    }

    /// Its name, of 24 digits.
    pub fn name(self, size: SegmentSize) -> String {
        let (log, segment) = (self.number / size.per_log(), self.number % size.per_log());
        format!("{:08X}{log:08X}{segment:08X}", self.timeline.0)
    }

    /// Its first byte.
    pub fn start(self, size: SegmentSize) -> Lsn {
        Lsn(self.number.saturating_mul(size.0))
    }

    /// The first byte behind it.
    pub fn end(self, size: SegmentSize) -> Lsn {
        self.start(size) + size.0
    }

    /// The one behind it, on the same timeline.
    #[must_use]
    pub fn next(self) -> Self {
        Self { number: self.number.saturating_add(1), ..self }
    }

    /// The one before it, on the same timeline; `None` before the first.
    pub fn previous(self) -> Option<Self> {
        Some(Self { number: self.number.checked_sub(1)?, ..self })
    }
}

/// Eight digits, 0-9 and A-F: PostgreSQL writes capitals, and nothing else is one of its names.
pub(super) fn hex8(text: &str) -> Option<u32> {
    let is_hex = text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    is_hex.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Segment, SegmentSize, Timeline};
    use crate::wal::Lsn;

    fn sizes() -> impl Strategy<Value = SegmentSize> {
        (20_u32..=30).prop_map(|power| SegmentSize::new(1 << power).expect("valid"))
    }

    #[test]
    fn the_names_are_those_of_postgresql() {
        // pg_walfile_name('1/2A000028') and its like on clusters of several sizes.
        let cases = [
            (16_u64, 0x1_2A00_0028, "00000003000000010000002A"),
            (16, 0xFF00_0000, "0000000300000000000000FF"),
            (1, 0x1_0010_0000, "000000030000000100000001"),
            (64, 0xFC00_0000, "00000003000000000000003F"),
            (1024, 0xC000_0000, "000000030000000000000003"),
        ];
        for (mebibytes, lsn, name) in cases {
            let size = SegmentSize::new(mebibytes << 20).expect("valid");
            let segment = Segment::of(Lsn(lsn), Timeline(3), size);
            assert_eq!(segment.name(size), name);
            assert_eq!(Segment::parse(name, size), Ok(segment));
        }
    }

    #[test]
    fn what_is_no_segment_is_refused() {
        let size = SegmentSize::default();
        let names =
            ["", "00000001000000000000000", "0000000100000000000000a1", "000000010000000000000100", "00000001éééééééé"];
        for name in names {
            assert!(Segment::parse(name, size).is_err(), "{name}");
        }
        for bytes in [0, 1, 1 << 19, (1 << 20) + 1, 1 << 31] {
            assert!(SegmentSize::new(bytes).is_err(), "{bytes}");
        }
    }

    #[test]
    fn a_standby_means_the_segment_before_a_boundary() {
        let size = SegmentSize::default();
        let boundary = Lsn(0x0300_0000);
        assert_eq!(Segment::of(boundary, Timeline(1), size).number, 3);
        assert_eq!(Segment::before(boundary, Timeline(1), size).number, 2);
        assert_eq!(Segment::before(boundary + 1, Timeline(1), size).number, 3);
        assert_eq!(Segment::before(Lsn(0), Timeline(1), size).number, 0);
    }

    proptest! {
        #[test]
        fn a_segment_comes_back_from_its_name(timeline: u32, lsn: u64, size in sizes()) {
            let segment = Segment::of(Lsn(lsn), Timeline(timeline), size);
            let name = segment.name(size);
            prop_assert_eq!(name.len(), 24);
            prop_assert_eq!(Segment::parse(&name, size), Ok(segment));
        }

        #[test]
        fn a_segment_holds_its_lsn_and_its_neighbours_do_not(lsn: u64, size in sizes()) {
            let segment = Segment::of(Lsn(lsn), Timeline(1), size);
            prop_assert!(segment.start(size) <= Lsn(lsn));
            prop_assert!(Lsn(lsn) < segment.end(size) || segment.end(size) == Lsn(u64::MAX));
            prop_assert_eq!(segment.next().previous(), Some(segment));
            if let Some(previous) = segment.previous() {
                prop_assert_eq!(previous.end(size), segment.start(size));
            }
        }

        #[test]
        fn no_text_makes_it_panic(name: String, size in sizes()) {
            let _ = Segment::parse(&name, size);
        }
    }
}
