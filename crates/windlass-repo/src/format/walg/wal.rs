//! Whose a WAL segment is: the header of its first page.
//!
//! ```text
//! u16 magic, which grows with every major version     u16 flags      u32 timeline     u64 address     u32 rest of a record
//! ... and on the first page: u64 system identifier    u32 size of a segment           u32 size of a page
//! ```
//!
//! Little-endian, as on all machines PostgreSQL is run on today. Source: `src/include/access/xlog_internal.h`.

use windlass_core::wal::{Lsn, Segment, SegmentSize, Timeline};

use super::WalgError;

/// Bytes of a page; servers can be built with others, which is not known here.
pub(super) const PAGE: usize = 8192;

/// Bytes of a page's header, and of the header of a segment's first page.
pub(super) const SHORT: usize = 24;
pub(super) const LONG: usize = 40;

/// The flags of a page: it begins with the rest of a record; it has a long header; it begins where a record was given up.
pub(super) const CONTINUES: u16 = 1;
pub(super) const IS_LONG: u16 = 2;
pub(super) const GIVEN_UP: u16 = 8;

const MAGICS: [(u16, u32); 6] = [(0xD106, 13), (0xD10D, 14), (0xD110, 15), (0xD113, 16), (0xD116, 17), (0xD118, 18)];

/// A number of 2, 4 or 8 bytes; 0 beyond the end.
pub(super) fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let found = bytes.get(at..at + N).unwrap_or_default();
    found.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The header of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) magic: u16,
    pub(super) flags: u16,
    pub(super) timeline: Timeline,
    pub(super) address: Lsn,
    /// Bytes of a record that began before.
    pub(super) rest: usize,
}

impl Page {
    pub(super) fn read(page: &[u8]) -> Option<Self> {
        page.get(..SHORT)?;
        let small = |at| u16::try_from(number::<2>(page, at)).ok();
        let timeline = Timeline(u32::try_from(number::<4>(page, 4)).ok()?);
        let rest = usize::try_from(number::<4>(page, 16)).ok()?;
        Some(Self { magic: small(0)?, flags: small(2)?, timeline, address: Lsn(number::<8>(page, 8)), rest })
    }

    pub(super) fn header(&self) -> usize {
        if self.flags & IS_LONG != 0 { LONG } else { SHORT }
    }
}

/// What the first page of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The major version of the server, 13 to 18.
    pub major: u32,
    /// The timeline its first page was written on: older than that of its name where the timeline changed in it.
    pub timeline: Timeline,
    /// Its first byte in the log.
    pub start: Lsn,
    /// The cluster's identifier.
    pub system_identifier: u64,
    /// The size of the cluster's segments.
    pub size: SegmentSize,
    pub(super) magic: u16,
}

impl SegmentHeader {
    /// From the beginning of a segment, at least 40 bytes of it.
    pub fn read(object: &str, bytes: &[u8]) -> Result<Self, WalgError> {
        let failed = |why: String| WalgError::Segment { object: object.to_owned(), why };
        let (Some(page), Some(_)) = (Page::read(bytes), bytes.get(..LONG)) else {
            return Err(failed("it is shorter than its header".to_owned()));
        };
        let Some((magic, major)) = MAGICS.into_iter().find(|(magic, _)| *magic == page.magic) else {
            return Err(failed(format!("it begins with {:04X}, as no WAL of PostgreSQL 13 to 18 does", page.magic)));
        };
        if page.flags & IS_LONG == 0 {
            return Err(failed("its first page is not that of a segment".to_owned()));
        }
        let size = SegmentSize::new(number::<4>(bytes, 32)).map_err(|error| failed(error.to_string()))?;
        let page_size = number::<4>(bytes, 36);
        if page_size != PAGE as u64 {
            return Err(failed(format!("its pages have {page_size} bytes, and 8192 are known")));
        }
        let (start, system_identifier) = (page.address, number::<8>(bytes, 24));
        if start.0 % size.bytes() != 0 {
            return Err(failed(format!("it says that it begins at {start}, where no segment does")));
        }
        Ok(Self { major, timeline: page.timeline, start, system_identifier, size, magic })
    }

    /// Whether it is the segment its name says, of the cluster with this identifier, and all there.
    pub fn check(&self, object: &str, name: Segment, cluster: u64, length: u64) -> Result<(), WalgError> {
        let failed = |why: String| Err(WalgError::Segment { object: object.to_owned(), why });
        if self.system_identifier != cluster {
            return failed(format!("it belongs to the cluster {}, and not to {cluster}", self.system_identifier));
        }
        if self.start != name.start(self.size) {
            return failed(format!("it begins at {}, and by its name at {}", self.start, name.start(self.size)));
        }
        if self.timeline > name.timeline {
            return failed(format!(
                "it is of timeline {}, which is not on the way to {}",
                self.timeline, name.timeline
            ));
        }
        if length != self.size.bytes() {
            return failed(format!("it has {length} bytes of {}", self.size.bytes()));
        }
        Ok(())
    }
}
