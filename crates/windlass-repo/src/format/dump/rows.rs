//! Counts the rows of a dump while it goes by.
//!
//! What a table holds is unpacked for it, so a dump whose data cannot be unpacked is found when it is taken. Rows are counted
//! as `COPY` prints them, one a line: line breaks within values are written as `\n`. Behind the rows stands a mark, by which
//! one knows that these were rows:
//!
//! ```text
//! 1\tfirst
//! 2\tsecond\\nline
//! \.
//!
//!
//! ```

use std::collections::BTreeMap;

use zlib_rs::{Inflate, InflateFlush, Status};

use super::walker::Listener;
use super::{DumpError, Toc, Walker};

/// What stands behind the rows of a table.
const MARK: &[u8] = b"\\.\n\n\n";

/// Lines of the mark.
const MARK_LINES: u64 = 3;

/// Where the head says how it is compressed.
const COMPRESSION: usize = 11;

/// The version of the format since which an algorithm is told instead of a level.
const WITH_ALGORITHM: u8 = 15;

/// The largest window a zlib stream may have, as a power of two.
const WINDOW_BITS: u8 = 15;

/// Bytes that are unpacked at once.
const ROOM: usize = 64 << 10;

/// Rows of tables, by schema and name; `None` where what the dump holds of a table could not be counted.
pub type Rows = BTreeMap<(String, String), Option<u64>>;

/// A push reader: give it the stream with [`RowCounter::feed`], and ask for the rows at the end.
#[derive(Default)]
pub struct RowCounter {
    walker: Walker,
    counting: Counting,
}

impl RowCounter {
    /// At the beginning of a dump.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the dump, however they are cut.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), DumpError> {
        self.walker.feed_to(&mut self.counting, bytes)?;
        self.counting.failed()
    }

    /// The end of the stream: tells the rows only if the dump is whole.
    pub fn finish(self) -> Result<Rows, DumpError> {
        let walked = self.walker.finish()?;
        self.counting.failed()?;
        Ok(by_name(&walked.toc, &self.counting.rows))
    }
}

fn by_name(toc: &Toc, rows: &BTreeMap<i64, Option<u64>>) -> Rows {
    let mut named = Rows::new();
    for entry in toc.entries.iter().filter(|entry| entry.kind == "TABLE DATA") {
        let rows = rows.get(&entry.id).copied().flatten();
        named
            .entry((entry.schema.clone(), entry.tag.clone()))
            // Names that are not UTF-8 may look the same.
            .and_modify(|rows| *rows = None)
            .or_insert(rows);
    }
    named
}

/// How a dump is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Compression {
    /// The head did not come yet.
    #[default]
    Unknown,
    None,
    Gzip,
    /// In a way that is not unpacked here: the server is asked for the rows.
    Other,
}

impl Compression {
    fn of(head: &[u8]) -> Self {
        let at = |place: usize| head.get(place).copied().unwrap_or_default();
        if at(6) >= WITH_ALGORITHM {
            return match at(COMPRESSION) {
                0 => Self::None,
                1 => Self::Gzip,
                _ => Self::Other,
            };
        }
        // A sign and a level, of which -1 is the usual one.
        let level = head.get(COMPRESSION + 1..COMPRESSION + 1 + usize::from(at(8))).unwrap_or_default();
        if level.iter().all(|byte| *byte == 0) { Self::None } else { Self::Gzip }
    }
}

struct Counting {
    compression: Compression,
    stream: Inflate,
    room: Vec<u8>,
    /// Whether the stream has begun, and whether it has ended.
    begun: bool,
    ended: bool,
    failure: Option<&'static str>,
    lines: Lines,
    rows: BTreeMap<i64, Option<u64>>,
}

impl Default for Counting {
    fn default() -> Self {
        Self {
            compression: Compression::default(),
            stream: Inflate::new(true, WINDOW_BITS),
            room: vec![0; ROOM],
            begun: false,
            ended: false,
            failure: None,
            lines: Lines::default(),
            rows: BTreeMap::new(),
        }
    }
}

impl Counting {
    fn failed(&self) -> Result<(), DumpError> {
        self.failure.map_or(Ok(()), |why| Err(DumpError::Unpack { why }))
    }

    fn unpack(&mut self, mut bytes: &[u8]) -> Result<(), &'static str> {
        self.begun = true;
        loop {
            if self.ended {
                return if bytes.is_empty() { Ok(()) } else { Err("something follows their end") };
            }
            let (read, written) = (self.stream.total_in(), self.stream.total_out());
            let status = self.stream.decompress(bytes, &mut self.room, InflateFlush::NoFlush);
            let status = status.map_err(zlib_rs::InflateError::as_str)?;
            let (read, written) = (self.stream.total_in() - read, self.stream.total_out() - written);
            let (read, written) =
                (usize::try_from(read).unwrap_or(bytes.len()), usize::try_from(written).unwrap_or(ROOM));
            self.lines.count(self.room.get(..written).unwrap_or_default());
            bytes = bytes.get(read..).unwrap_or_default();
            self.ended = status == Status::StreamEnd;
            if !self.ended && (bytes.is_empty() && written < ROOM || read == 0 && written == 0) {
                return Ok(());
            }
        }
    }
}

impl Listener for Counting {
    fn structure(&mut self, bytes: &[u8]) {
        if self.compression == Compression::Unknown {
            self.compression = Compression::of(bytes);
        }
    }

    fn data(&mut self, bytes: &[u8]) {
        match self.compression {
            Compression::None => self.lines.count(bytes),
            Compression::Gzip if self.failure.is_none() => self.failure = self.unpack(bytes).err(),
            Compression::Gzip | Compression::Other | Compression::Unknown => {}
        }
    }

    fn end(&mut self, id: i64, large_object: bool) {
        if self.begun && !self.ended {
            self.failure = self.failure.or(Some("they end too early"));
        }
        if self.begun {
            self.stream.reset(true);
        }
        (self.begun, self.ended) = (false, false);
        let rows = std::mem::take(&mut self.lines).rows();
        if !large_object {
            self.rows.insert(id, rows);
        }
    }
}

/// Lines that have gone by, and the end of the last ones.
#[derive(Default)]
struct Lines {
    count: u64,
    tail: Vec<u8>,
}

impl Lines {
    fn count(&mut self, bytes: &[u8]) {
        self.count += line_breaks(bytes);
        // One more than the mark has: the end of the row before it.
        let enough = MARK.len() + 1;
        if bytes.len() >= enough {
            self.tail.clear();
        }
        self.tail.extend_from_slice(bytes.get(bytes.len().saturating_sub(enough)..).unwrap_or_default());
        self.tail.drain(..self.tail.len().saturating_sub(enough));
    }

    /// The rows before the mark; `None` where it is not there.
    fn rows(self) -> Option<u64> {
        let before = self.tail.strip_suffix(MARK)?;
        if before.last().is_some_and(|byte| *byte != b'\n') {
            return None;
        }
        self.count.checked_sub(MARK_LINES)
    }
}

fn line_breaks(bytes: &[u8]) -> u64 {
    // So few at once that their number fits into a byte, and many bytes are looked at together.
    let some = bytes.chunks(usize::from(u8::MAX));
    some.map(|some| u64::from(some.iter().map(|byte| u8::from(*byte == b'\n')).sum::<u8>())).sum()
}
