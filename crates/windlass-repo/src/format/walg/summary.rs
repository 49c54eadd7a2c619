//! What a segment of ours says of its transactions, in front of its content: a moment is found without reading all of the WAL.
//!
//! ```text
//! skippable frame   u32 5E 2A 4D 18    u32 length
//! its content       "windlass"   u8 1   u8 flags   u64 transactions that ended   i64 earliest   i64 latest
//!                   u32 least transaction   u32 greatest   u64 last record   u64 end   u32 CRC-32C of all before
//! ```
//!
//! Little-endian; times are microseconds since 1970. The frame is one of the formats of Zstandard and LZ4 themselves, which every
//! reader passes over, stock `wal-g` among them; a segment that has none is read whole. It is behind the key where segments are
//! sealed: for the length of one sealed chunk.
//!
//! Said is what the segment shows by itself. Of a record that goes on in the next one is only said whether it may matter.

use std::io::Read;

use crc_fast::{CrcAlgorithm, checksum};
use jiff::Timestamp;
use windlass_core::restore::Moment;
use windlass_core::wal::Lsn;

use super::commits::{CommitWalk, Commits, Marked};
use super::wal::number;
use super::{SegmentHeader, WalgError};

/// The magic number of the frame: one of sixteen.
const FRAME: u32 = 0x184D_2A5E;
const NAME: &[u8; 8] = b"windlass";
const VERSION: u8 = 1;
const CONTENT: usize = 8 + 2 + 8 + 8 + 8 + 4 + 4 + 8 + 8 + 4;
const LENGTH: usize = 8 + CONTENT;

/// Bytes of a stored object in which the whole of it is: also of one that is sealed.
pub(super) const WITHIN: u64 = 16 << 10;

/// The largest segment that gets one: it is held in memory for it.
pub(super) const LARGEST: u64 = 64 << 20;

const GOES_ON: u8 = 1;
const CARRIES: u8 = 2;
const NAMES: u8 = 4;
const TABLESPACES: u8 = 8;

/// What is known of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// Whether the log goes on in the next segment.
    pub(super) goes_on: bool,
    /// Whether a record goes on in the next segment that may end a transaction, have a name, or make a tablespace.
    pub(super) carries: bool,
    /// Whether there are restore points.
    pub(super) names: bool,
    /// Whether tablespaces were made outside of the data folder.
    pub(super) tablespaces: bool,
    /// Transactions that ended.
    pub(super) count: u64,
    /// When the first and the last of them did, by their own clocks.
    pub(super) ended: Option<(Timestamp, Timestamp)>,
    /// The least and the greatest of their numbers.
    pub(super) transactions: (u32, u32),
    /// Where the last record that is whole begins, and the first byte behind it; `None` where there is none.
    pub(super) last: Option<(Lsn, Lsn)>,
}

impl Summary {
    /// Of a segment, all of it.
    pub(super) fn of(header: &SegmentHeader, segment: &[u8]) -> Self {
        let (mut names, mut transactions) = (false, (u32::MAX, 0));
        let found = CommitWalk::new().marks(header, segment, None, &mut |mark| match mark.what {
            Marked::Ended { transaction, .. } => {
                transactions = (transaction.min(transactions.0), transaction.max(transactions.1));
            }
            Marked::RestorePoint(_) => names = true,
            Marked::Timeline => {}
        });
        let Commits { earliest, latest, count, last, end, tablespaces, goes_on, carries, .. } = found;
        Self {
            goes_on,
            carries,
            names,
            tablespaces: !tablespaces.is_empty(),
            count,
            ended: earliest.zip(latest),
            transactions,
            last: last.map(|last| (last, end)),
        }
    }

    /// Whether recovery to a moment goes through it, as far as it shows: neither ends in it nor is kept from it by what is in it.
    pub(super) fn is_passed_by(&self, moment: &Moment) -> bool {
        let is_beside = match moment {
            Moment::Time(_) => !self.ends_after(moment),
            Moment::Transaction(wanted) => {
                self.count == 0 || *wanted < self.transactions.0 || *wanted > self.transactions.1
            }
            Moment::Named(_) => !self.names,
            Moment::Lsn(_) | Moment::Newest => true,
        };
        is_beside && self.goes_on && !self.carries && !self.tablespaces
    }

    /// Whether a transaction ended later than the time that is looked for.
    pub(super) fn ends_after(&self, moment: &Moment) -> bool {
        matches!((moment, self.ended), (Moment::Time(time), Some((_, latest))) if latest > *time)
    }

    /// As the frame that is stored in front of the content.
    pub(super) fn frame(&self) -> Vec<u8> {
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        let flags = flag(self.goes_on, GOES_ON)
            | flag(self.carries, CARRIES)
            | flag(self.names, NAMES)
            | flag(self.tablespaces, TABLESPACES);
        let micros = self.ended.map(|(first, last)| (first.as_microsecond(), last.as_microsecond()));
        let (earliest, latest) = micros.unwrap_or_default();
        let (last, end) = self.last.unwrap_or_default();
        let mut frame = Vec::with_capacity(LENGTH);
        frame.extend(FRAME.to_le_bytes());
        frame.extend(u32::try_from(CONTENT).unwrap_or_default().to_le_bytes());
        frame.extend(NAME);
        frame.extend([VERSION, flags]);
        frame.extend(self.count.to_le_bytes());
        frame.extend(earliest.to_le_bytes());
        frame.extend(latest.to_le_bytes());
        frame.extend(self.transactions.0.to_le_bytes());
        frame.extend(self.transactions.1.to_le_bytes());
        frame.extend(last.0.to_le_bytes());
        frame.extend(end.0.to_le_bytes());
        let sum = sum(&frame[8..]);
        frame.extend(sum.to_le_bytes());
        frame
    }

    /// From the beginning of an object whose seal is open, as long as the frame or longer; `None` where it begins with no such
    /// frame, or one that is not whole.
    pub(super) fn read(object: &mut impl Read) -> std::io::Result<Option<Self>> {
        let mut frame = [0; LENGTH];
        if super::open::fill(object, &mut frame)? < LENGTH {
            return Ok(None);
        }
        Ok(Self::parse(&frame))
    }

    fn parse(frame: &[u8; LENGTH]) -> Option<Self> {
        let said = |at: usize| number::<8>(frame, at);
        let content = frame.get(8..LENGTH - 4)?;
        let is_ours = number::<4>(frame, 0) == u64::from(FRAME)
            && number::<4>(frame, 4) == CONTENT as u64
            && content.starts_with(NAME)
            && content[8] == VERSION
            && number::<4>(frame, LENGTH - 4) == u64::from(sum(content));
        if !is_ours {
            return None;
        }
        let flags = content[9];
        let time = |at: usize| Timestamp::from_microsecond(said(at).cast_signed()).ok();
        let count = said(18);
        let ended = if count == 0 { None } else { Some((time(26)?, time(34)?)) };
        let small = |at: usize| u32::try_from(number::<4>(frame, at)).ok();
        let end = Lsn(said(58));
        Some(Self {
            goes_on: flags & GOES_ON != 0,
            carries: flags & CARRIES != 0,
            names: flags & NAMES != 0,
            tablespaces: flags & TABLESPACES != 0,
            count,
            ended,
            transactions: (small(42)?, small(46)?),
            last: (end != Lsn(0)).then_some((Lsn(said(50)), end)),
        })
    }
}

fn sum(content: &[u8]) -> u32 {
    u32::try_from(checksum(CrcAlgorithm::Crc32Iscsi, content)).unwrap_or_default()
}

/// The frame of a segment; none of what is no whole segment.
pub(super) fn frame_of(name: &str, segment: &[u8]) -> Result<Vec<u8>, WalgError> {
    let header = SegmentHeader::read(name, segment)?;
    Ok(Summary::of(&header, segment).frame())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        let at = |micros| Timestamp::from_microsecond(micros).unwrap();
        Summary {
            goes_on: true,
            carries: false,
            names: true,
            tablespaces: false,
            count: 3,
            ended: Some((at(1_700_000_000_000_001), at(1_700_000_001_000_002))),
            transactions: (750, 4_000_000_000),
            last: Some((Lsn(0x0200_0028), Lsn(0x0300_0000))),
        }
    }

    #[test]
    fn what_is_said_of_a_segment_is_read_as_it_was_written() {
        let empty = Summary { count: 0, ended: None, last: None, ..summary() };
        for said in [summary(), empty] {
            let stored = [said.frame(), b"what follows".to_vec()].concat();
            assert_eq!(Summary::read(&mut stored.as_slice()).unwrap(), Some(said));
        }
    }

    #[test]
    fn what_is_changed_or_cut_or_something_else_says_nothing() {
        let frame = summary().frame();
        for at in 0..frame.len() {
            let mut changed = frame.clone();
            changed[at] ^= 1;
            assert_eq!(Summary::read(&mut changed.as_slice()).unwrap(), None, "byte {at}");
            assert_eq!(Summary::read(&mut &frame[..at]).unwrap(), None, "cut at {at}");
        }
        assert_eq!(Summary::read(&mut &[0; 100][..]).unwrap(), None);
    }
}
