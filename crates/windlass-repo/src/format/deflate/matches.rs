//! Finds what repeats.

/// How far back a match may lie.
pub(super) const WINDOW: usize = 32 << 10;

/// The longest match.
const LONGEST: usize = 258;

/// The shortest match looked for.
const SHORTEST: usize = 5;

/// Places remembered, as a power of two.
const HASHED: u32 = 15;

/// So many places without a match before steps grow.
const PATIENCE: usize = 5;

/// Bytes that are taken as they are, and a match behind them; the last of a block may have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sequence {
    pub(super) literals: usize,
    /// Bytes of the match; 0 for none.
    pub(super) length: usize,
    pub(super) distance: usize,
}

pub(super) struct Matches {
    /// By hash, the place behind the one it was last seen at; 0 for none.
    places: Vec<u32>,
    found: Vec<Sequence>,
}

impl Matches {
    pub(super) fn new() -> Self {
        Self { places: vec![0; 1 << HASHED], found: Vec::new() }
    }

    /// Tells what repeats from a place in the buffer on; what lies before is known.
    pub(super) fn find(&mut self, buffer: &[u8], from: usize) -> &[Sequence] {
        self.found.clear();
        let (mut at, mut literals_from, mut missed) = (from, from, 0usize);
        while let Some(eight) = eight(buffer, at) {
            let Some(place) = self.places.get_mut(hash(eight)) else { break };
            let candidate = std::mem::replace(place, u32::try_from(at + 1).unwrap_or(0)) as usize;
            let distance = at + 1 - candidate;
            let length = if candidate == 0 || distance > WINDOW { 0 } else { common(buffer, at - distance, at) };
            if length < SHORTEST {
                missed += 1;
                at += 1 + (missed >> PATIENCE);
                continue;
            }
            missed = 0;
            self.found.push(Sequence { literals: at - literals_from, length, distance });
            at += length;
            literals_from = at;
            // What a match ends with is where the next one is likely to begin.
            self.remember(buffer, at - 2);
        }
        self.found.push(Sequence { literals: buffer.len() - literals_from, length: 0, distance: 0 });
        &self.found
    }

    fn remember(&mut self, buffer: &[u8], at: usize) {
        if let Some(eight) = eight(buffer, at)
            && let Some(place) = self.places.get_mut(hash(eight))
        {
            *place = u32::try_from(at + 1).unwrap_or(0);
        }
    }

    /// So many bytes were taken off the buffer's beginning.
    pub(super) fn slide(&mut self, gone: usize) {
        let gone = u32::try_from(gone).unwrap_or(u32::MAX);
        for place in &mut self.places {
            *place = place.saturating_sub(gone);
        }
    }

    pub(super) fn forget(&mut self) {
        self.places.fill(0);
    }
}

fn eight(buffer: &[u8], at: usize) -> Option<u64> {
    let bytes = buffer.get(at..at + 8)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// Of the first five bytes.
fn hash(eight: u64) -> usize {
    ((eight << 24).wrapping_mul(0x9E37_79B1_85EB_CA87) >> (64 - HASHED)) as usize
}

/// How many bytes two places have in common.
fn common(buffer: &[u8], earlier: usize, at: usize) -> usize {
    let here = buffer.get(at..).unwrap_or_default();
    let here = here.get(..LONGEST.min(here.len())).unwrap_or_default();
    let there = buffer.get(earlier..earlier + here.len()).unwrap_or_default();
    let (ours, theirs) = (here.chunks_exact(8), there.chunks_exact(8));
    let mut length = 0;
    for (one, other) in ours.zip(theirs) {
        let differ = word(one) ^ word(other);
        if differ != 0 {
            return length + (differ.trailing_zeros() / 8) as usize;
        }
        length += 8;
    }
    let rest = here.iter().zip(there).skip(length);
    length + rest.take_while(|(one, other)| one == other).count()
}

fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map(u64::from_le_bytes).unwrap_or_default()
}
