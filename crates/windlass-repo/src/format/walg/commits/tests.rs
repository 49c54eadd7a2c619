#![expect(clippy::cast_possible_truncation, reason = "the numbers of tests are small, or meant to be cut")]

use jiff::Timestamp;

use super::{CommitWalk, Commits, EPOCH, HEADER, SUMMED, SWITCH, XACT, XLOG};
use crate::format::walg::SegmentHeader;
use crate::format::walg::wal::{CONTINUES, GIVEN_UP, IS_LONG, PAGE};

const SEGMENT: usize = 1 << 20;
const FIRST: u64 = 7 * SEGMENT as u64;
const COMMIT: u8 = 0x80; // With the flag that says that more follows.
const ABORT: u8 = 0x20;
const PREPARE: u8 = 0x10;

/// A log of segments of 1 MiB, as a server writes it.
struct Log {
    magic: u16,
    bytes: Vec<u8>,
    before: u64,
}

impl Log {
    fn new(magic: u16) -> Self {
        Self { magic, bytes: Vec::new(), before: 0 }
    }

    fn lsn(&self) -> u64 {
        FIRST + self.bytes.len() as u64
    }

    fn page(&mut self, flags: u16, rest: usize) {
        let is_first = self.bytes.len().is_multiple_of(SEGMENT);
        let address = self.lsn();
        self.bytes.extend(self.magic.to_le_bytes());
        self.bytes.extend((flags | if is_first { IS_LONG } else { 0 }).to_le_bytes());
        self.bytes.extend(1_u32.to_le_bytes());
        self.bytes.extend(address.to_le_bytes());
        self.bytes.extend((rest as u64).to_le_bytes());
        if is_first {
            self.bytes.extend(42_u64.to_le_bytes());
            self.bytes.extend((SEGMENT as u32).to_le_bytes());
            self.bytes.extend((PAGE as u32).to_le_bytes());
        }
    }

    fn record(&mut self, kind: u8, manager: u8, data: &[u8]) -> &mut Self {
        self.align();
        if self.bytes.len().is_multiple_of(PAGE) {
            self.page(0, 0);
        }
        let mut record = ((HEADER + data.len()) as u32).to_le_bytes().to_vec();
        record.extend([0; 4]);
        let from = self.lsn();
        record.extend(std::mem::replace(&mut self.before, from).to_le_bytes());
        record.extend([kind, manager, 0, 0]);
        let sum = crc_fast::crc32_iscsi(&[data, &record[..SUMMED]].concat());
        record.extend(sum.to_le_bytes());
        record.extend(data);
        let mut left = &record[..];
        while !left.is_empty() {
            if self.bytes.len().is_multiple_of(PAGE) {
                self.page(CONTINUES, left.len());
            }
            let some = left.len().min(PAGE - self.bytes.len() % PAGE);
            self.bytes.extend(&left[..some]);
            left = &left[some..];
        }
        self
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    /// The end of a transaction, this many seconds after 2000, with more main data behind its time.
    fn ends(&mut self, kind: u8, seconds: i64, more: usize) -> &mut Self {
        let main = [&(seconds * 1_000_000).to_le_bytes()[..], &vec![9; more]].concat();
        let head = match u8::try_from(main.len()) {
            Ok(length) => vec![253, 1, 0, 255, length],
            Err(_) => [&[252, 1, 2, 3, 4, 254][..], &(main.len() as u32).to_le_bytes()].concat(),
        };
        self.record(kind, XACT, &[head, main].concat())
    }

    /// Another record, so long that the next begins this many bytes before a segment's end.
    fn up_to(&mut self, before_end: usize) -> &mut Self {
        self.align();
        if self.bytes.len().is_multiple_of(PAGE) {
            self.page(0, 0);
        }
        let room = SEGMENT - self.bytes.len() % SEGMENT - before_end;
        let headers = (room + before_end - 1) / PAGE * 24;
        self.record(0, 10, &vec![5; room - headers - HEADER]);
        assert_eq!((SEGMENT - self.bytes.len() % SEGMENT) % SEGMENT, before_end);
        self
    }

    fn walk(&self) -> Vec<Commits> {
        let mut bytes = self.bytes.clone();
        bytes.resize(bytes.len().next_multiple_of(SEGMENT), 0);
        let mut walk = CommitWalk::new();
        let one = |bytes: &[u8]| walk.segment(&SegmentHeader::read("segment", bytes).unwrap(), bytes);
        bytes.chunks(SEGMENT).map(one).collect()
    }
}

fn at(seconds: i64) -> Option<Timestamp> {
    Timestamp::from_microsecond(EPOCH + seconds * 1_000_000).ok()
}

#[test]
fn the_ends_of_transactions_are_found_in_every_version() {
    for magic in [0xD106, 0xD10D, 0xD110, 0xD113, 0xD116, 0xD118] {
        let mut log = Log::new(magic);
        log.ends(COMMIT, 20, 0).ends(PREPARE, 99, 0).record(0, 10, &[1; 100]).ends(ABORT, 10, 300);
        log.ends(0x30, 25, 9000).ends(0x40, 24, 3).record(0x50, XACT, &[]);
        let found = log.walk().remove(0);
        assert_eq!((found.earliest, found.latest, found.count), (at(10), at(25), 4), "{magic:x}");
        assert_eq!(found.end.0, log.lsn().next_multiple_of(8));
    }
}

#[test]
fn a_segment_whose_last_record_ends_just_before_its_end_is_full() {
    // 34 bytes in the last 40: what is left is too little for another.
    let mut log = Log::new(0xD110);
    log.ends(COMMIT, 1, 0).up_to(40).record(0, 10, &[1; 10]).ends(COMMIT, 2, 0);
    let found = log.walk();
    assert_eq!((found[0].goes_on, found[0].carries, found[0].end.0), (true, false, FIRST + SEGMENT as u64));
    assert_eq!((found[1].count, found[1].latest), (1, at(2)));
}

#[test]
fn a_record_that_goes_on_in_the_next_segment_is_found_there() {
    for before_end in (8..=64).step_by(8) {
        let mut log = Log::new(0xD110);
        log.ends(COMMIT, 1, 0).up_to(before_end).ends(COMMIT, 2, 20_000).ends(COMMIT, 3, 0);
        let found = log.walk();
        assert_eq!((found[0].count, found[0].latest), (1, at(1)), "{before_end}");
        assert_eq!((found[1].count, found[1].earliest, found[1].latest), (2, at(2), at(3)), "{before_end}");
        assert_eq!(found[1].end.0, log.lsn().next_multiple_of(8));
        // Alone, the second segment tells of what begins in it only.
        let second = &mut log.bytes.split_off(SEGMENT);
        second.resize(SEGMENT, 0);
        let alone = CommitWalk::new().segment(&SegmentHeader::read("second", second).unwrap(), second);
        assert_eq!((alone.count, alone.earliest), (1, at(3)));
    }
}

#[test]
fn a_record_may_fill_a_segment_and_be_longer_than_is_carried() {
    let mut log = Log::new(0xD110);
    log.ends(COMMIT, 1, 0).record(0, 10, &vec![1; 5 << 20]).ends(COMMIT, 2, 0);
    let found = log.walk();
    assert_eq!(found.len(), 6);
    assert_eq!(found.iter().map(|found| found.count).sum::<u64>(), 2);
    let mut log = Log::new(0xD110);
    log.up_to(16).record(0, 10, &vec![1; 3 << 20]).ends(COMMIT, 2, 0);
    assert_eq!(log.walk().iter().map(|found| found.count).collect::<Vec<_>>(), [0, 0, 0, 0, 1]);
}

#[test]
fn the_walk_ends_at_a_switch_at_a_wrong_sum_and_at_what_a_reused_file_held() {
    let mut log = Log::new(0xD110);
    log.ends(COMMIT, 1, 0).record(SWITCH, XLOG, &[]);
    log.ends(COMMIT, 2, 0);
    assert_eq!((log.walk()[0].count, log.walk()[0].end.0), (1, FIRST + SEGMENT as u64), "it takes up the rest");
    assert!(log.walk()[0].goes_on);

    let mut log = Log::new(0xD110);
    log.ends(COMMIT, 1, 0);
    let end = log.bytes.len().next_multiple_of(8);
    log.ends(COMMIT, 2, 0).ends(COMMIT, 3, 0);
    log.bytes[end + HEADER + 8] ^= 1;
    assert_eq!((log.walk()[0].count, log.walk()[0].end.0), (1, FIRST + end as u64));
    assert!(!log.walk()[0].goes_on);

    // A whole record, but of another place: the one before it is not the one before it.
    let mut log = Log::new(0xD110);
    log.ends(COMMIT, 1, 0);
    log.before = 77;
    log.ends(COMMIT, 2, 0);
    assert_eq!(log.walk()[0].count, 1);
}

#[test]
fn behind_a_record_that_the_server_gave_up_the_log_goes_on() {
    let mut log = Log::new(0xD110);
    log.ends(COMMIT, 1, 0).record(0, 10, &vec![1; 3 * PAGE]);
    log.bytes.truncate(2 * PAGE);
    log.page(GIVEN_UP, 0);
    log.ends(COMMIT, 2, 0);
    let found = log.walk().remove(0);
    assert_eq!((found.count, found.latest), (2, at(2)));
}
