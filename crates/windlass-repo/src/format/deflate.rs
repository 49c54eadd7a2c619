//! Compresses to the zlib format (RFC 1950), for dumps, which `pg_restore` unpacks.

use zlib_rs::{Deflate, DeflateError, DeflateFlush, Status};

/// On dumps it makes less of them than level 1 of zlib, which `pg_dump --compress=1` uses, in about its time; this
/// library's level 1 leaves half as much again.
const LEVEL: i32 = 2;

/// The largest window there is, as `pg_dump` has it: 32 KiB.
const WINDOW_BITS: u8 = 15;

/// Bytes that are given room for at once.
const ROOM: usize = 64 << 10;

/// A zlib stream that is being written. It can be used for another stream once it was finished.
pub(crate) struct Deflater(Deflate);

impl Default for Deflater {
    fn default() -> Self {
        Self(Deflate::new(LEVEL, true, WINDOW_BITS))
    }
}

impl Deflater {
    /// Takes more; what is finished of the stream is appended to `out`.
    pub(crate) fn write(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DeflateError> {
        self.push(bytes, DeflateFlush::NoFlush, out)
    }

    /// Ends the stream; the next byte that is written begins another.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), DeflateError> {
        self.push(&[], DeflateFlush::Finish, out)?;
        self.0.reset();
        Ok(())
    }

    fn push(&mut self, mut bytes: &[u8], flush: DeflateFlush, out: &mut Vec<u8>) -> Result<(), DeflateError> {
        loop {
            let (read, written, from) = (self.0.total_in(), self.0.total_out(), out.len());
            out.resize(from + ROOM, 0);
            let room = out.get_mut(from..).unwrap_or_default();
            let status = self.0.compress(bytes, room, flush)?;
            let (read, written) = (self.0.total_in() - read, self.0.total_out() - written);
            out.truncate(from.saturating_add(usize::try_from(written).unwrap_or(ROOM)));
            bytes = bytes.get(usize::try_from(read).unwrap_or(bytes.len())..).unwrap_or_default();
            let is_over = match flush {
                DeflateFlush::Finish => status == Status::StreamEnd,
                _ => bytes.is_empty() && written < ROOM as u64,
            };
            if is_over {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
pub(in crate::format) mod tests {
    use zlib_rs::{Inflate, InflateFlush, Status};

    use super::Deflater;

    /// Reads a zlib stream that ends where the bytes do.
    pub(in crate::format) fn inflate(packed: &[u8]) -> Vec<u8> {
        let mut reader = Inflate::new(true, 15);
        let (mut plain, mut piece) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            let (read, written) = (reader.total_in(), reader.total_out());
            let rest = &packed[usize::try_from(read).unwrap()..];
            let status = reader.decompress(rest, &mut piece, InflateFlush::NoFlush).unwrap();
            let more = usize::try_from(reader.total_out() - written).unwrap();
            plain.extend_from_slice(&piece[..more]);
            if status == Status::StreamEnd {
                assert_eq!(reader.total_in(), packed.len() as u64, "nothing follows");
                return plain;
            }
            assert!(more > 0 || reader.total_in() > read, "it is cut");
        }
    }

    #[test]
    fn streams_follow_each_other_however_they_are_cut() {
        let rows: Vec<u8> = (0..100_000u32).flat_map(|n| format!("{n}\tnote {}\n", n % 97).into_bytes()).collect();
        // What cannot be made smaller fills more room than one piece has.
        let noise: Vec<u8> = (0..1_000_000u64).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
        let mut deflater = Deflater::default();
        for (bytes, piece) in [(&rows, 97), (&rows, 1 << 20), (&noise, 1 << 20), (&Vec::new(), 1)] {
            let mut packed = Vec::new();
            for piece in bytes.chunks(piece) {
                deflater.write(piece, &mut packed).unwrap();
            }
            deflater.finish(&mut packed).unwrap();
            assert!(inflate(&packed) == *bytes);
            assert!(packed.len() <= bytes.len() + bytes.len() / 1000 + 16);
        }
    }
}
