//! Huffman codes of bounded length.

/// The longest code of symbols.
const MOST: usize = 16;

/// Lengths of codes for symbols that come so often, none of them longer than `longest`. Symbols that never come have
/// none; at least two have one, for a code of a single symbol is not read by all.
pub(super) fn lengths(counts: &[u32], longest: usize, lengths: &mut [u8]) {
    lengths.fill(0);
    let mut used: Vec<(u32, usize)> = counts
        .iter()
        .copied()
        .enumerate()
        .filter(|(_, count)| *count > 0)
        .map(|(symbol, count)| (count, symbol))
        .collect();
    for symbol in 0..2 {
        if used.len() < 2 && !used.iter().any(|(_, there)| *there == symbol) {
            used.push((1, symbol));
        }
    }
    used.sort_unstable();
    let mut numbers = [0usize; MOST];
    for depth in depths(&used) {
        numbers[depth.clamp(1, longest)] += 1;
    }
    shorten(&mut numbers, longest);
    let mut rarest_first = used.iter();
    for length in (1..=longest).rev() {
        for (_, symbol) in rarest_first.by_ref().take(numbers[length]) {
            lengths[*symbol] = u8::try_from(length).unwrap_or_default();
        }
    }
}

/// How deep each of the leaves lies in the best tree; leaves come rarest first.
fn depths(leaves: &[(u32, usize)]) -> Vec<usize> {
    // Leaves, then knots in the order they are tied, which is that of their weight.
    let count = leaves.len();
    let mut weights: Vec<u64> = leaves.iter().map(|(weight, _)| u64::from(*weight)).collect();
    let mut above = vec![0usize; 2 * count - 1];
    let (mut leaf, mut knot) = (0, count);
    for tied in count..2 * count - 1 {
        let mut weight = 0;
        for _ in 0..2 {
            let take_leaf = leaf < count && (knot >= tied || weights[leaf] <= weights[knot]);
            let lightest = if take_leaf { &mut leaf } else { &mut knot };
            weight += weights[*lightest];
            above[*lightest] = tied;
            *lightest += 1;
        }
        weights.push(weight);
    }
    let mut depth = vec![0usize; 2 * count - 1];
    for at in (0..2 * count - 2).rev() {
        depth[at] = depth[above[at]] + 1;
    }
    depth.truncate(count);
    depth
}

/// Codes cut to the longest length are too many: shorter ones are lengthened until there is room for all.
fn shorten(numbers: &mut [usize; MOST], longest: usize) {
    let room = 1usize << longest;
    let mut taken: usize = (1..=longest).map(|length| numbers[length] << (longest - length)).sum();
    while taken > room {
        numbers[longest] -= 1;
        if let Some(length) = (1..longest).rev().find(|length| numbers[*length] > 0) {
            numbers[length] -= 1;
            numbers[length + 1] += 2;
        }
        taken -= 1;
    }
}

/// Codes for lengths, the first bit lowest.
pub(super) fn codes(lengths: &[u8], codes: &mut [u16]) {
    let mut numbers = [0u16; MOST];
    for length in lengths.iter().filter(|length| **length > 0) {
        numbers[usize::from(*length)] += 1;
    }
    let mut next = [0u16; MOST];
    for length in 1..MOST - 1 {
        next[length + 1] = (next[length] + numbers[length]) << 1;
    }
    for (length, code) in lengths.iter().zip(codes) {
        if *length > 0 {
            let of_length = &mut next[usize::from(*length)];
            *code = of_length.reverse_bits() >> (16 - u16::from(*length));
            *of_length += 1;
        }
    }
}
