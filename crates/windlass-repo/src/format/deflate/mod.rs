//! Compresses to the zlib format (RFC 1950 and 1951), quickly: for dumps, which `pg_restore` unpacks.
//!
//! What a database prints repeats itself in long stretches, from row to row. So one place is tried for a match, found by
//! a hash of five bytes, and what never repeats is passed over in growing steps. Each block has Huffman codes of its own,
//! or is stored as it is where that is smaller. On dumps this is as small as zlib's level 1, at a quarter of its time.
//!
//! ```text
//! input → Matches (what repeats) → block: lengths of codes, symbols → bits → bytes of the stream
//! ```

mod adler;
mod block;
mod huffman;
mod matches;

#[cfg(test)]
pub(in crate::format) mod tests;

use self::adler::Adler;
use self::block::Blocks;
use self::matches::{Matches, WINDOW};

/// Bytes compressed at once, with codes of their own.
const BLOCK: usize = 128 << 10;

/// A zlib stream that is being written. It can be used for another stream once it was finished.
pub(crate) struct Deflater {
    /// Up to a window of what was compressed, and then what is to be.
    buffer: Vec<u8>,
    /// Where what is to be compressed begins.
    from: usize,
    matches: Matches,
    blocks: Blocks,
    adler: Adler,
    begun: bool,
}

impl Default for Deflater {
    fn default() -> Self {
        Self::new()
    }
}

impl Deflater {
    /// A stream at its beginning.
    pub(crate) fn new() -> Self {
        Self {
            buffer: Vec::with_capacity(WINDOW + BLOCK),
            from: 0,
            matches: Matches::new(),
            blocks: Blocks::default(),
            adler: Adler::default(),
            begun: false,
        }
    }

    /// Takes more; what is finished of the stream is appended to `out`.
    pub(crate) fn write(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let room = (self.from + BLOCK).saturating_sub(self.buffer.len());
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() >= self.from + BLOCK {
                self.block(false, out);
            }
        }
    }

    /// Ends the stream; the next byte that is written begins another.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        self.block(true, out);
        out.extend_from_slice(&self.adler.sum().to_be_bytes());
        self.buffer.clear();
        self.from = 0;
        self.matches.forget();
        self.adler = Adler::default();
        self.begun = false;
    }

    fn block(&mut self, last: bool, out: &mut Vec<u8>) {
        if !self.begun {
            // A window of 32 KiB, the fastest level, and a sum that makes it a multiple of 31.
            out.extend_from_slice(&[0x78, 0x01]);
            self.begun = true;
        }
        let input = self.buffer.get(self.from..).unwrap_or_default();
        self.adler.add(input);
        let sequences = self.matches.find(&self.buffer, self.from);
        self.blocks.write(input, sequences, last, out);
        self.slide();
    }

    /// Forgets what is too far back to be pointed to.
    fn slide(&mut self) {
        let gone = self.buffer.len().saturating_sub(WINDOW);
        self.buffer.drain(..gone);
        self.matches.slide(gone);
        self.from = self.buffer.len();
    }
}
