//! Writes blocks: with codes of their own, or stored.

use super::huffman;
use super::matches::Sequence;

const END: usize = 256;
const LITERALS: usize = 286;
const DISTANCES: usize = 30;
const LONGEST_CODE: usize = 15;

/// The order in which lengths of the codes for lengths are written.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// The most bytes a stored block holds.
const STORED: usize = 65_535;

/// The code of a symbol with what follows it: its bits, the first lowest, and how many they are.
#[derive(Clone, Copy, Default)]
struct Code {
    bits: u32,
    count: u32,
}

/// A code of its own for a block.
struct Codes {
    literals: [Code; LITERALS],
    /// By length of the match, with the bits that follow the code.
    matches: [Code; 259],
    distances: [Code; DISTANCES],
}

/// Writes blocks one after another; between them some bits wait for a whole byte.
#[derive(Default)]
pub(super) struct Blocks {
    bits: u64,
    count: u32,
}

impl Blocks {
    /// Writes one block; with the last one the stream ends at a whole byte.
    pub(super) fn write(&mut self, input: &[u8], sequences: &[Sequence], last: bool, out: &mut Vec<u8>) {
        let (literals, distances) = count(input, sequences);
        let head = Head::new(&literals, &distances);
        if head.bits_in_all(&literals, &distances) / 8 > input.len() {
            self.stored(input, last, out);
        } else {
            self.put(u64::from(last) | 2 << 1, 3, out);
            head.write(self, out);
            self.symbols(&head.codes(), input, sequences, out);
        }
        if last {
            self.fill_byte(out);
        }
    }

    fn stored(&mut self, input: &[u8], last: bool, out: &mut Vec<u8>) {
        let mut rest = input;
        loop {
            let (now, later) = rest.split_at(rest.len().min(STORED));
            rest = later;
            self.put(u64::from(last && rest.is_empty()), 3, out);
            self.fill_byte(out);
            let length = u16::try_from(now.len()).unwrap_or_default();
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&(!length).to_le_bytes());
            out.extend_from_slice(now);
            if rest.is_empty() {
                return;
            }
        }
    }

    /// Writes what a block holds and its end.
    fn symbols(&mut self, codes: &Codes, input: &[u8], sequences: &[Sequence], out: &mut Vec<u8>) {
        let mut rest = input;
        for sequence in sequences {
            let (literals, behind) = rest.split_at(sequence.literals);
            // Three codes and what waits fit into 64 bits.
            for three in literals.chunks(3) {
                for byte in three {
                    self.add(codes.literals[usize::from(*byte)]);
                }
                self.flush(out);
            }
            rest = behind;
            if sequence.length > 0 {
                rest = rest.get(sequence.length..).unwrap_or_default();
                self.add(codes.matches[sequence.length]);
                let (symbol, more, extra) = distance(sequence.distance);
                self.add(codes.distances[symbol]);
                self.add(Code { bits: more, count: extra });
                self.flush(out);
            }
        }
        self.add(codes.literals[END]);
        self.flush(out);
    }

    fn put(&mut self, bits: u64, count: u32, out: &mut Vec<u8>) {
        self.bits |= bits << self.count;
        self.count += count;
        self.flush(out);
    }

    fn add(&mut self, code: Code) {
        self.bits |= u64::from(code.bits) << self.count;
        self.count += code.count;
    }

    /// Writes whole bytes; fewer than eight bits wait.
    fn flush(&mut self, out: &mut Vec<u8>) {
        let whole = self.count / 8;
        let end = out.len() + whole as usize;
        out.extend_from_slice(&self.bits.to_le_bytes());
        out.truncate(end);
        self.bits = self.bits.checked_shr(whole * 8).unwrap_or(0);
        self.count %= 8;
    }

    fn fill_byte(&mut self, out: &mut Vec<u8>) {
        self.count = self.count.next_multiple_of(8);
        self.flush(out);
    }
}

/// How often each symbol comes.
fn count(input: &[u8], sequences: &[Sequence]) -> ([u32; LITERALS], [u32; DISTANCES]) {
    let (mut literals, mut distances) = ([0u32; LITERALS], [0u32; DISTANCES]);
    // The same byte twice in a row is not counted at the same place: the second would wait for the first.
    let mut others = [0u32; 256];
    let mut rest = input;
    for sequence in sequences {
        let (here, behind) = rest.split_at(sequence.literals);
        for two in here.chunks(2) {
            if let [one, other] = two {
                literals[usize::from(*one)] += 1;
                others[usize::from(*other)] += 1;
            } else if let [one] = two {
                literals[usize::from(*one)] += 1;
            }
        }
        rest = behind;
        if sequence.length > 0 {
            rest = rest.get(sequence.length..).unwrap_or_default();
            literals[length(sequence.length).0] += 1;
            distances[distance(sequence.distance).0] += 1;
        }
    }
    for (count, more) in literals.iter_mut().zip(others) {
        *count += more;
    }
    literals[END] += 1;
    (literals, distances)
}

/// The symbol of a match's length, the bits that follow it, and how many they are.
fn length(length: usize) -> (usize, u32, u32) {
    if length == 258 {
        return (285, 0, 0);
    }
    let (symbol, more, extra) = spread(length - 3, 4);
    (257 + symbol, more, extra)
}

/// The symbol of a distance, the bits that follow it, and how many they are.
fn distance(distance: usize) -> (usize, u32, u32) {
    spread(distance - 1, 2)
}

/// Small values have a symbol each; then there are so many symbols for each power of two, and the rest follows.
fn spread(value: usize, per_power: usize) -> (usize, u32, u32) {
    if value < 2 * per_power {
        return (value, 0, 0);
    }
    let fine = per_power.trailing_zeros();
    let extra = value.ilog2() - fine;
    let symbol = (extra as usize) * per_power + (value >> extra);
    let more = u32::try_from(value & ((1 << extra) - 1)).unwrap_or_default();
    (symbol, more, extra)
}

/// What a block says of its codes.
struct Head {
    literals: [u8; LITERALS],
    distances: [u8; DISTANCES],
    /// The lengths, one for each symbol or repeat: the symbol, what follows it, and how many bits that is.
    packed: Vec<(u8, u8, u32)>,
    lengths: [u8; 19],
    written: usize,
}

impl Head {
    fn new(literals: &[u32; LITERALS], distances: &[u32; DISTANCES]) -> Self {
        let mut head = Self {
            literals: [0; LITERALS],
            distances: [0; DISTANCES],
            packed: Vec::new(),
            lengths: [0; 19],
            written: 19,
        };
        huffman::lengths(literals, LONGEST_CODE, &mut head.literals);
        huffman::lengths(distances, LONGEST_CODE, &mut head.distances);
        let all: Vec<u8> = head.literals.iter().chain(&head.distances).copied().collect();
        head.packed = pack(&all);
        let mut counts = [0u32; 19];
        for (symbol, ..) in &head.packed {
            counts[usize::from(*symbol)] += 1;
        }
        huffman::lengths(&counts, 7, &mut head.lengths);
        while head.written > 4 && head.lengths[ORDER[head.written - 1]] == 0 {
            head.written -= 1;
        }
        head
    }

    fn bits_in_all(&self, literals: &[u32; LITERALS], distances: &[u32; DISTANCES]) -> usize {
        let mut bits = 17 + 3 * self.written;
        for (symbol, _, extra) in &self.packed {
            bits += usize::from(self.lengths[usize::from(*symbol)]) + *extra as usize;
        }
        for (symbol, (count, length)) in literals.iter().zip(&self.literals).enumerate() {
            let extra = if (265..285).contains(&symbol) { (symbol - 261) / 4 } else { 0 };
            bits += *count as usize * (usize::from(*length) + extra);
        }
        for (symbol, (count, length)) in distances.iter().zip(&self.distances).enumerate() {
            bits += *count as usize * (usize::from(*length) + (symbol / 2).saturating_sub(1));
        }
        bits
    }

    fn write(&self, to: &mut Blocks, out: &mut Vec<u8>) {
        to.put((LITERALS - 257) as u64, 5, out);
        to.put((DISTANCES - 1) as u64, 5, out);
        to.put((self.written - 4) as u64, 4, out);
        for symbol in ORDER.iter().take(self.written) {
            to.put(u64::from(self.lengths[*symbol]), 3, out);
        }
        let mut codes = [0; 19];
        huffman::codes(&self.lengths, &mut codes);
        for (symbol, more, extra) in &self.packed {
            let symbol = usize::from(*symbol);
            to.put(u64::from(codes[symbol]), u32::from(self.lengths[symbol]), out);
            to.put(u64::from(*more), *extra, out);
        }
    }

    fn codes(&self) -> Codes {
        let mut codes = Codes {
            literals: [Code::default(); LITERALS],
            matches: [Code::default(); 259],
            distances: [Code::default(); DISTANCES],
        };
        fill(&self.literals, &mut codes.literals);
        fill(&self.distances, &mut codes.distances);
        for (bytes, code) in codes.matches.iter_mut().enumerate().skip(3) {
            let (symbol, more, extra) = length(bytes);
            let Code { bits, count } = codes.literals[symbol];
            *code = Code { bits: bits | more << count, count: count + extra };
        }
        codes
    }
}

fn fill(lengths: &[u8], codes: &mut [Code]) {
    let mut bits = [0; LITERALS];
    huffman::codes(lengths, &mut bits);
    for ((code, bits), length) in codes.iter_mut().zip(bits).zip(lengths) {
        *code = Code { bits: bits.into(), count: u32::from(*length) };
    }
}

/// Lengths of codes with repeats told as such: 16 for the one before, 17 and 18 for none.
fn pack(lengths: &[u8]) -> Vec<(u8, u8, u32)> {
    let mut packed = Vec::new();
    for run in lengths.chunk_by(|a, b| a == b) {
        let Some(length) = run.first().copied() else { continue };
        let mut left = run.len();
        if length > 0 {
            packed.push((length, 0, 0));
            left -= 1;
        }
        while left > 0 {
            let (symbol, least, most, extra) = match (length, left) {
                (0, 11..) => (18, 11, 138, 7),
                (0, 3..) => (17, 3, 10, 3),
                (_, 3..) => (16, 3, 6, 2),
                _ => (length, 1, 1, 0),
            };
            let now = left.min(most);
            packed.push((symbol, u8::try_from(now - least).unwrap_or_default(), extra));
            left -= now;
        }
    }
    packed
}
