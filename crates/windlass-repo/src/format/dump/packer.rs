//! Compresses a dump that `pg_dump` did not, and counts its rows on the way.
//!
//! What comes of it is the dump `pg_dump --compress=1` would have written, with chunks cut elsewhere: the head says that
//! it is compressed with gzip, and what a table or a large object holds is a zlib stream, cut into chunks.
//!
//! Rows are counted as `COPY` prints them, one a line: line breaks within values are written as `\n`. Behind the rows
//! stands a mark, by which one knows that these were rows:
//!
//! ```text
//! 1\tfirst
//! 2\tsecond\\nline
//! \.
//!
//!
//! ```

use std::collections::BTreeMap;

use zlib_rs::DeflateError;

use super::walker::Listener;
use super::{DumpError, Toc, Walker};
use crate::format::deflate::Deflater;

/// What stands behind the rows of a table.
const MARK: &[u8] = b"\\.\n\n\n";

/// Lines of the mark.
const MARK_LINES: u64 = 3;

/// Where the head says how it is compressed.
const COMPRESSION: usize = 11;

/// The version of the format since which an algorithm is told instead of a level.
const WITH_ALGORITHM: u8 = 15;

/// Rows of tables, by schema and name; `None` where what the dump holds of a table could not be counted.
pub type Rows = BTreeMap<(String, String), Option<u64>>;

/// A push transformer: give it the stream with [`Packer::feed`], and ask for the rows at the end.
#[derive(Default)]
pub struct Packer {
    walker: Walker,
    packing: Packing,
}

#[derive(Default)]
struct Packing {
    out: Vec<u8>,
    deflater: Deflater,
    /// Compressed, and not yet in a chunk.
    chunk: Vec<u8>,
    /// Bytes of an integer, without its sign; 0 until the head came.
    int_size: usize,
    compressed: bool,
    failure: Option<DeflateError>,
    lines: Lines,
    rows: BTreeMap<i64, Option<u64>>,
}

impl Packer {
    /// A packer at the beginning of a dump.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the dump, however they are cut; returns the next of the compressed one.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<u8>, DumpError> {
        self.walker.feed_to(&mut self.packing, bytes)?;
        if self.packing.compressed {
            let why = "it is compressed already, which was not asked for,";
            return Err(DumpError::Malformed { offset: COMPRESSION as u64, why });
        }
        self.packing.failed()?;
        Ok(std::mem::take(&mut self.packing.out))
    }

    /// The end of the stream: tells the rows only if the dump is whole.
    pub fn finish(self) -> Result<Rows, DumpError> {
        self.packing.failed()?;
        let walked = self.walker.finish()?;
        Ok(by_name(&walked.toc, &self.packing.rows))
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

impl Packing {
    /// The head of a compressed dump.
    fn head(&mut self, bytes: &[u8]) {
        let mut head = bytes.to_vec();
        let at = |place: usize| head.get(place).copied().unwrap_or_default();
        let (minor, int_size) = (at(6), usize::from(at(8)));
        // An algorithm, of which gzip is the first; or a sign and a level.
        let (length, lowest) = if minor >= WITH_ALGORITHM { (1, COMPRESSION) } else { (1 + int_size, COMPRESSION + 1) };
        self.int_size = int_size;
        let said = head.get(COMPRESSION..COMPRESSION + length);
        self.compressed = said.is_none_or(|said| said.iter().any(|byte| *byte != 0));
        if let Some(lowest) = head.get_mut(lowest) {
            *lowest = 1;
        }
        self.out.append(&mut head);
    }

    fn failed(&self) -> Result<(), DumpError> {
        self.failure.map_or(Ok(()), |failure| Err(DumpError::Compress { why: failure.as_str() }))
    }

    /// Writes an integer as the dump does.
    fn int(&mut self, value: usize) {
        let digits = (value as u64).to_le_bytes();
        self.out.push(0);
        self.out.extend(digits.iter().take(self.int_size));
    }

    fn chunk(&mut self) {
        if !self.chunk.is_empty() {
            self.int(self.chunk.len());
            self.out.append(&mut self.chunk);
        }
    }
}

impl Listener for Packing {
    fn structure(&mut self, bytes: &[u8]) {
        if self.int_size == 0 {
            self.head(bytes);
        } else {
            self.out.extend_from_slice(bytes);
        }
    }

    fn data(&mut self, bytes: &[u8]) {
        self.lines.count(bytes);
        self.failure = self.failure.or(self.deflater.write(bytes, &mut self.chunk).err());
        self.chunk();
    }

    fn end(&mut self, id: i64, large_object: bool) {
        self.failure = self.failure.or(self.deflater.finish(&mut self.chunk).err());
        self.chunk();
        self.int(0);
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
