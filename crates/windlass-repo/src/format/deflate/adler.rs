//! The sum at the end of a zlib stream.

const MODULUS: u32 = 65_521;

/// Bytes that can be summed up before a sum might overflow, and a multiple of [`LANES`].
const AT_ONCE: usize = 4096;

/// Bytes summed up beside each other.
const LANES: usize = 32;

pub(super) struct Adler {
    a: u32,
    b: u32,
}

impl Default for Adler {
    fn default() -> Self {
        Self { a: 1, b: 0 }
    }
}

impl Adler {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        for some in bytes.chunks(AT_ONCE) {
            let lanes = some.chunks_exact(LANES);
            let rest = lanes.remainder();
            self.add_lanes(lanes);
            for byte in rest {
                self.a += u32::from(*byte);
                self.b += self.a;
            }
            self.a %= MODULUS;
            self.b %= MODULUS;
        }
    }

    /// Sums up each lane for itself: the first byte of a row counts as often as there are bytes from it to the row's end.
    fn add_lanes(&mut self, rows: std::slice::ChunksExact<'_, u8>) {
        let count = u32::try_from(rows.len()).unwrap_or_default();
        let (mut sums, mut sums_before) = ([0u32; LANES], [0u32; LANES]);
        for row in rows {
            for ((sum, before), byte) in sums.iter_mut().zip(&mut sums_before).zip(row) {
                *before += *sum;
                *sum += u32::from(*byte);
            }
        }
        let lanes = 32;
        self.b += self.a * count * lanes;
        for ((sum, before), weight) in sums.iter().zip(&sums_before).zip((1..=lanes).rev()) {
            self.a += sum;
            self.b = (self.b + before * lanes % MODULUS + sum * weight % MODULUS) % MODULUS;
        }
    }

    pub(super) fn sum(&self) -> u32 {
        self.b << 16 | self.a
    }
}
