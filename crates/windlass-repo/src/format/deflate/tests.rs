//! What was compressed is read by somebody else's reader.

use proptest::prelude::*;
use zlib_rs::{Inflate, InflateFlush, Status};

use super::{Deflater, huffman};

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

fn deflate(pieces: &[&[u8]], deflater: &mut Deflater) -> Vec<u8> {
    let mut packed = Vec::new();
    for piece in pieces {
        deflater.write(piece, &mut packed);
    }
    deflater.finish(&mut packed);
    packed
}

fn there_and_back(bytes: &[u8]) -> usize {
    let packed = deflate(&[bytes], &mut Deflater::new());
    assert!(inflate(&packed) == bytes, "{} bytes come back", bytes.len());
    packed.len()
}

/// Numbers that look like chance, and are the same each time.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..count).map(|_| next()).collect()
}

fn rows(count: usize) -> Vec<u8> {
    let note = |n: usize| format!("{n}\tnote {n}\t{:x}\t\\N\t{}\n", n.wrapping_mul(0x9E37_79B1_85EB_CA87), n % 7);
    (0..count).flat_map(|n| note(n).into_bytes()).collect()
}

#[test]
fn everything_comes_back_and_what_repeats_gets_small() {
    assert_eq!(there_and_back(b""), 11);
    assert!(there_and_back(b"\\.\n\n\n") < 20);
    let rows = rows(100_000);
    assert!(there_and_back(&rows) < rows.len() / 2);
    assert!(there_and_back(&vec![b' '; 1 << 20]) < 8 << 10);
    let noise = noise(1 << 20);
    assert!(there_and_back(&noise) < noise.len() + noise.len() / 1000);
    // What repeats lies as far back as can be told, and one byte farther.
    for far in [32_767, 32_768, 32_769, 40_000] {
        there_and_back(&[&noise[..far], &noise[..far], &noise[..300]].concat());
    }
}

#[test]
fn lengths_around_a_block_and_around_a_match_come_back() {
    let rows = rows(10_000);
    for length in [1, 2, 3, 4, 5, 7, 8, 9, 257, 258, 259, 260, 131_071, 131_072, 131_073, 262_144, 262_151] {
        there_and_back(&rows[..length]);
        there_and_back(&vec![0; length]);
    }
}

#[test]
fn a_stream_knows_nothing_of_the_one_before_and_not_how_it_was_cut() {
    let rows = rows(5000);
    let mut deflater = Deflater::new();
    let first = deflate(&[&rows], &mut deflater);
    let pieces: Vec<&[u8]> = rows.chunks(97).collect();
    assert_eq!(deflate(&pieces, &mut deflater), first);
    assert_eq!(inflate(&deflate(&[b"other"], &mut deflater)), b"other");
}

#[test]
fn codes_are_complete_and_never_too_long() {
    // Counts as in Fibonacci's row make the deepest tree.
    let mut deep = vec![1u32, 1];
    while deep.len() < 40 {
        deep.push(deep[deep.len() - 1] + deep[deep.len() - 2]);
    }
    let many = vec![1u32; 286];
    for (counts, longest) in
        [(&deep, 15), (&many, 15), (&vec![0, 0, 9, 0], 7), (&vec![0u32; 30], 15), (&deep[..19].to_vec(), 7)]
    {
        let mut lengths = vec![0; counts.len()];
        huffman::lengths(counts, longest, &mut lengths);
        let used = lengths.iter().filter(|length| **length > 0);
        let room: u32 = used.clone().map(|length| 1 << (15 - u32::from(*length))).sum();
        assert_eq!(room, 1 << 15, "{counts:?}: {lengths:?}");
        assert!(used.clone().all(|length| usize::from(*length) <= longest));
        let forgotten = counts.iter().zip(&lengths).any(|(count, length)| *count > 0 && *length == 0);
        assert!(!forgotten, "what comes has a code");
    }
}

proptest! {
    #[test]
    fn any_bytes_come_back(pieces in proptest::collection::vec((any::<u8>(), 1usize..20_000, any::<bool>()), 0..30)) {
        let noise = noise(20_000);
        let bytes: Vec<u8> = pieces
            .iter()
            .flat_map(|(byte, length, plain)| if *plain { vec![*byte; *length] } else { noise[..*length].to_vec() })
            .collect();
        there_and_back(&bytes);
    }

    #[test]
    fn any_few_letters_come_back(bytes in proptest::collection::vec(0u8..4, 0..5000)) {
        there_and_back(&bytes);
    }
}
