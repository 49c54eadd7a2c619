//! When transactions in a WAL segment ended, and what else one has to know of it before it is replayed: its records are walked, each proven by its checksum.
//!
//! ```text
//! record  u32 length of all   u32 transaction   u64 the record before   u8 kind   u8 resource manager   u32 CRC-32C
//!         headers of what it holds, the last of them of its main data; the data
//! ```
//!
//! Records begin at multiples of 8 and go on over pages, behind each page's header, and over segments. The walk ends, without a
//! word, at the first that is not valid: behind it the log was not written yet, or is what a reused file held before.
//!
//! Source: `xlogrecord.h`, `xlogreader.c`, `rmgrlist.h`, `xact.h` and `tablespace.h` of PostgreSQL 13 to 18.

use crc_fast::{CrcAlgorithm, Digest};
use jiff::Timestamp;
use windlass_core::wal::Lsn;

use super::wal::{CONTINUES, GIVEN_UP, PAGE, Page, SegmentHeader, number};

/// Bytes of a record's header; the last four are the checksum of the data and the bytes before.
const HEADER: usize = 24;
const SUMMED: usize = 20;

/// The longest record that is followed into the next segment: those that end transactions are far shorter.
const LONGEST_CARRIED: usize = 4 << 20;

/// Resource managers.
const XLOG: u8 = 0;
const XACT: u8 = 1;
const TABLESPACE: u8 = 5;

/// The kind of record behind which a segment holds nothing, and the one that has a name.
const SWITCH: u8 = 0x40;
const RESTORE_POINT: u8 = 0x70;

/// The kinds of record that a timeline begins with: a checkpoint, or the end of recovery. What they say of timelines, and when, in the
/// structures of all versions from 13 to 18.
const CHECKPOINT: u8 = 0x00;
const END_OF_RECOVERY: u8 = 0x90;
const TIMELINES: usize = 8;
const CHECKPOINT_AT: usize = 64;

/// The kind of record that makes a tablespace: its number, and its folder.
const CREATE: u8 = 0x00;

/// Kinds of records that end a transaction: commit, abort, and both of a prepared one.
const ENDS: [u8; 4] = [0x00, 0x20, 0x30, 0x40];

/// Microseconds from 1970 to 2000, where PostgreSQL's time begins.
const EPOCH: i64 = 946_684_800_000_000;

/// What was found in a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commits {
    /// When the first transaction ended, by its own clock; `None` where none did.
    pub earliest: Option<Timestamp>,
    /// When the last did. Restored to the end of this segment, everything up to then is there.
    pub latest: Option<Timestamp>,
    /// How many ended.
    pub count: u64,
    /// Where the last valid record begins; `None` where there is none.
    pub last: Option<Lsn>,
    /// The first byte behind it: where it is a switch, that of the next segment.
    pub end: Lsn,
    /// Tablespaces that were made outside of the data folder: where that record begins, and their folder.
    pub tablespaces: Vec<(Lsn, String)>,
    /// Whether it was ended by a record that begins where nothing more was wanted.
    pub more: bool,
    /// Whether the log goes on in the next segment: this one is full, or ended by a switch.
    pub goes_on: bool,
    /// Whether a record goes on there that may be one that is looked for here.
    pub carries: bool,
}

/// A record at which recovery can be told to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Where the record before it begins.
    pub before: Lsn,
    /// Where the record begins.
    pub start: Lsn,
    /// The first byte behind it.
    pub end: Lsn,
    /// When it was written, by the server's clock.
    pub at: Timestamp,
    /// What it is.
    pub what: Marked,
}

/// What a record tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Marked {
    /// A transaction ended. Of one that was prepared first, the number is not known.
    Ended {
        /// Its number.
        transaction: u32,
        /// Whether it was committed.
        committed: bool,
    },
    /// A restore point was made, by `pg_create_restore_point`.
    RestorePoint(String),
    /// A timeline begins here. Of one that begins with a checkpoint the time is known to the second.
    Timeline,
}

/// Walks segments, one after the other; a record that goes on in the next is seen if that comes next.
#[derive(Default)]
pub struct CommitWalk {
    /// The record that goes on, as far as it is there.
    begun: Vec<u8>,
    /// Its length.
    total: usize,
    /// Where it began, and where it goes on.
    from: Lsn,
    next: Lsn,
}

impl CommitWalk {
    /// Before any segment.
    pub fn new() -> Self {
        Self::default()
    }

    /// Walks a segment. What follows its size is not looked at; one that is shorter is walked as far as it goes.
    pub fn segment(&mut self, header: &SegmentHeader, bytes: &[u8]) -> Commits {
        self.marks(header, bytes, None, &mut |_| {})
    }

    /// The same as far as records begin before a place, and hands out each at which recovery can end.
    pub fn marks(
        &mut self,
        header: &SegmentHeader,
        bytes: &[u8],
        until: Option<Lsn>,
        seen: &mut dyn FnMut(Mark),
    ) -> Commits {
        let size = usize::try_from(header.size.bytes()).unwrap_or(usize::MAX);
        let bytes = bytes.get(..size).unwrap_or(bytes);
        let mut walk = Walk {
            header,
            bytes,
            at: 0,
            record: Vec::new(),
            found: Commits { end: header.start, ..Commits::default() },
            until,
            seen,
        };
        let begun = std::mem::take(self);
        if let Some(rest) = walk.run(begun) {
            *self = rest;
        }
        walk.found
    }
}

struct Walk<'a> {
    header: &'a SegmentHeader,
    bytes: &'a [u8],
    at: usize,
    /// The record being read, of which nothing was in the page it began in, or all.
    record: Vec<u8>,
    found: Commits,
    until: Option<Lsn>,
    seen: &'a mut dyn FnMut(Mark),
}

/// Why a record could not be put together.
enum Stop {
    /// The segment is over.
    Over,
    /// A page is none, or says something else.
    Invalid,
    /// It was given up by the server; others follow from here.
    GivenUp,
}

impl Walk<'_> {
    fn lsn(&self) -> Lsn {
        self.header.start + self.at as u64
    }

    /// The header of the page at this place.
    fn page(&self, at: usize) -> Option<Page> {
        let page = Page::read(self.bytes.get(at..)?)?;
        let is_it = page.magic == self.header.magic && page.address == self.header.start + at as u64;
        is_it.then_some(page)
    }

    /// Walks the segment; what of a record is left for the next.
    fn run(&mut self, begun: CommitWalk) -> Option<CommitWalk> {
        let first = self.page(0)?;
        let mut before = None;
        if first.flags & CONTINUES != 0 {
            let missing = begun.total.saturating_sub(begun.begun.len());
            let goes_on = begun.total > 0 && begun.next == self.header.start && missing == first.rest;
            (self.record, self.at) = (if goes_on { begun.begun } else { Vec::new() }, 0);
            // Where its beginning is not known, it is passed over.
            let (total, from) = if goes_on { (begun.total, begun.from) } else { (first.rest, self.header.start) };
            match self.collect(total) {
                Ok(()) if goes_on => {
                    self.judge(from, None)?;
                    before = Some(from);
                }
                Ok(()) | Err(Stop::GivenUp) => {}
                Err(Stop::Over) => {
                    let carried = self.carry(total, from);
                    // What it is was said where it began.
                    self.found.carries |= !goes_on;
                    return carried.filter(|_| goes_on);
                }
                Err(Stop::Invalid) => return None,
            }
        }
        loop {
            self.at = self.at.next_multiple_of(8);
            if self.at.is_multiple_of(PAGE) {
                let page = self.page(self.at)?;
                // A record's rest has been passed over already; here none is expected.
                if page.flags & CONTINUES != 0 {
                    return None;
                }
                self.at += page.header();
            }
            let from = self.lsn();
            let total = usize::try_from(number::<4>(self.bytes.get(self.at..)?.get(..4)?, 0)).ok()?;
            if total < HEADER {
                return None;
            }
            self.record.clear();
            match self.collect(total) {
                Ok(()) => {
                    let is_last = self.judge(from, before)?;
                    before = Some(from);
                    if is_last {
                        return None;
                    }
                }
                Err(Stop::Over) => return self.carry(total, from),
                Err(Stop::GivenUp) => before = None,
                Err(Stop::Invalid) => return None,
            }
        }
    }

    fn carry(&mut self, total: usize, from: Lsn) -> Option<CommitWalk> {
        self.found.goes_on = true;
        self.found.carries = may_matter(&self.record);
        let next = self.header.start + self.header.size.bytes();
        let begun = std::mem::take(&mut self.record);
        let is_whole = self.bytes.len() as u64 == self.header.size.bytes();
        (total <= LONGEST_CARRIED && is_whole).then_some(CommitWalk { begun, total, from, next })
    }

    /// Reads on until the record has this length, over pages.
    fn collect(&mut self, total: usize) -> Result<(), Stop> {
        while self.record.len() < total {
            if self.at.is_multiple_of(PAGE) {
                if self.at >= self.bytes.len() {
                    return Err(Stop::Over);
                }
                let page = self.page(self.at).ok_or(Stop::Invalid)?;
                if page.flags & GIVEN_UP != 0 {
                    return Err(Stop::GivenUp);
                }
                if page.flags & CONTINUES == 0 || page.rest != total - self.record.len() {
                    return Err(Stop::Invalid);
                }
                self.at += page.header();
            }
            let left = PAGE - self.at % PAGE;
            let length = left.min(total - self.record.len());
            let piece = self.bytes.get(self.at..self.at + length).ok_or(Stop::Over)?;
            self.record.extend_from_slice(piece);
            self.at += length;
        }
        Ok(())
    }

    /// Proves the record that began at a place and notes when its transaction ended; `true` where nothing follows it in the
    /// segment. `before` is where the record before began, if that is known.
    fn judge(&mut self, start: Lsn, before: Option<Lsn>) -> Option<bool> {
        let record = &self.record;
        let (header, data) = record.split_at_checked(HEADER)?;
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(data);
        digest.update(&header[..SUMMED]);
        let says = Lsn(number::<8>(header, 8));
        if digest.finalize() != number::<4>(header, SUMMED) || before.is_some_and(|before| before != says) {
            return None;
        }
        // The next one begins at a multiple of 8, and PostgreSQL counts this one up to there.
        let end = Lsn((self.header.start.0 + self.at as u64).next_multiple_of(8));
        if self.until.is_some_and(|until| start >= until) {
            self.found.more = true;
            return None;
        }
        let (kind, manager) = (header[16] & 0xF0, header[17]);
        let is_last = manager == XLOG && kind == SWITCH;
        // It takes up the rest of its segment.
        let end = if is_last { self.header.start + self.header.size.bytes() } else { end };
        (self.found.last, self.found.end) = (Some(start), end);
        self.found.goes_on = end == self.header.start + self.header.size.bytes();
        let main = || main_data(data);
        if manager == XACT
            && ENDS.contains(&(kind & 0x70))
            && let Some(at) = main().and_then(time)
        {
            let found = &mut self.found;
            found.earliest = Some(found.earliest.map_or(at, |earliest| earliest.min(at)));
            found.latest = Some(found.latest.map_or(at, |latest| latest.max(at)));
            found.count += 1;
            let transaction = u32::try_from(number::<4>(header, 4)).unwrap_or_default();
            let committed = matches!(kind & 0x70, 0x00 | 0x30);
            (self.seen)(Mark { before: says, start, end, at, what: Marked::Ended { transaction, committed } });
        }
        if manager == XLOG
            && kind == RESTORE_POINT
            && let Some((main, at)) = main().and_then(|main| Some((main, time(main)?)))
        {
            let name = main.get(8..).unwrap_or_default();
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            (self.seen)(Mark { before: says, start, end, at, what: Marked::RestorePoint(name) });
        }
        if manager == XLOG
            && matches!(kind, CHECKPOINT | END_OF_RECOVERY)
            && let Some(at) = main().and_then(|main| begun(main, kind))
        {
            (self.seen)(Mark { before: says, start, end, at, what: Marked::Timeline });
        }
        if manager == TABLESPACE
            && kind == CREATE
            && let Some(path) = main().and_then(|main| main.get(4..))
        {
            let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
            if !path.is_empty() {
                self.found.tablespaces.push((start, String::from_utf8_lossy(path).into_owned()));
            }
        }
        Some(is_last)
    }
}

/// Whether a record, of which this is the beginning, may end a transaction, have a name, or make a tablespace.
fn may_matter(begun: &[u8]) -> bool {
    let Some([kind, manager]) = begun.get(16..18) else { return true };
    match *manager {
        XACT | TABLESPACE => true,
        XLOG => kind & 0xF0 == RESTORE_POINT,
        _ => false,
    }
}

/// The main data of a record.
fn main_data(data: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    // What may stand before the header of the main data: where it was replicated from, the transaction it is part of.
    let length = loop {
        match *data.get(at)? {
            253 => at += 1 + 2,
            252 => at += 1 + 4,
            255 => break usize::from(*data.get(at + 1)?),
            254 => break usize::try_from(number::<4>(data.get(at + 1..at + 5)?, 0)).ok()?,
            _ => return None,
        }
    };
    data.get(data.len().checked_sub(length)?..)
}

/// When a timeline began, where one does.
fn begun(main: &[u8], kind: u8) -> Option<Timestamp> {
    let timelines = main.get(TIMELINES..TIMELINES + 8)?;
    if timelines[..4] == timelines[4..] {
        return None;
    }
    if kind == END_OF_RECOVERY {
        return time(main);
    }
    Timestamp::from_second(i64::from_le_bytes(*main.get(CHECKPOINT_AT..)?.first_chunk()?)).ok()
}

/// The time a record begins with that ends a transaction, or has a name.
fn time(main: &[u8]) -> Option<Timestamp> {
    let micros = i64::from_le_bytes(*main.first_chunk()?);
    Timestamp::from_microsecond(micros.checked_add(EPOCH)?).ok()
}

#[cfg(test)]
mod tests;
