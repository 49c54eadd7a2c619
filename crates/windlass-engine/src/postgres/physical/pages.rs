//! Pages of relations, and whether they are what was written.
//!
//! Only of clusters with checksums (`initdb --data-checksums`). A page that another process is writing while it is read can be
//! torn: it is read anew before it is called wrong (`super::archives` does that).

use windlass_core::wal::Lsn;

/// Bytes of a page: PostgreSQL as it is distributed has no other.
pub(super) const PAGE: usize = 8192;

/// Pages of a file of a relation: the rest of a larger one is in further files.
pub(super) const PAGES_OF_FILE: u32 = 131_072;

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// Its checksum is right, or it was never filled.
    Right,
    /// It was written since the backup began: the WAL has it whole.
    Newer,
    /// Its checksum is not that of its content.
    Wrong,
}

/// Looks at a page. `block` is its number in its relation; `start` is where the backup began.
pub(super) fn look(page: &[u8; PAGE], block: u32, start: Lsn) -> Condition {
    let number = |at: usize| u16::from_le_bytes([page[at], page[at + 1]]);
    let half = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
    // The end of the free space is 0 in a page that was never filled; such a page is all zeros.
    if number(14) == 0 {
        return if page.iter().all(|byte| *byte == 0) { Condition::Right } else { Condition::Wrong };
    }
    if Lsn(u64::from(half(0)) << 32 | u64::from(half(4))) >= start {
        return Condition::Newer;
    }
    if checksum(page, block) == number(8) { Condition::Right } else { Condition::Wrong }
}

/// Sums that go side by side.
const LANES: usize = 32;

/// What they begin with. Source: PostgreSQL, `src/include/storage/checksum_impl.h`.
const BEGIN: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

const PRIME: u32 = 16_777_619;

/// The checksum of a page: FNV-1a over 32 lanes, with the field it is kept in as zero.
fn checksum(page: &[u8; PAGE], block: u32) -> u16 {
    let mut sums = BEGIN;
    let mut first = true;
    for row in page.as_chunks::<{ 4 * LANES }>().0 {
        let mut values = [0; LANES];
        for (value, bytes) in values.iter_mut().zip(row.as_chunks::<4>().0) {
            *value = u32::from_le_bytes(*bytes);
        }
        if std::mem::take(&mut first) {
            values[2] &= 0xFFFF_0000;
        }
        mix(&mut sums, &values);
    }
    mix(&mut sums, &[0; LANES]);
    mix(&mut sums, &[0; LANES]);
    let sum = sums.iter().fold(0, |sum, lane| sum ^ lane) ^ block;
    // The remainder is below 65,535: a checksum is never 0.
    u16::try_from(sum % 65_535 + 1).unwrap_or(u16::MAX)
}

fn mix(sums: &mut [u32; LANES], values: &[u32; LANES]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        let mixed = *sum ^ value;
        *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_zeros_was_never_filled_and_one_with_anything_in_it_is_wrong() {
        let mut page = [0; PAGE];
        assert_eq!(look(&page, 7, Lsn(1)), Condition::Right);
        page[PAGE - 1] = 1;
        assert_eq!(look(&page, 7, Lsn(1)), Condition::Wrong);
    }

    #[test]
    fn what_was_written_since_the_start_is_not_judged() {
        let mut page = [7; PAGE];
        page[..8].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 3]);
        assert_eq!(look(&page, 0, Lsn(0x0300_0000)), Condition::Newer);
        assert_eq!(look(&page, 0, Lsn(0x0300_0001)), Condition::Wrong);
    }
}
