//! Changed pages of a relation's file, and how they are put into the file they changed.
//!
//! ```text
//! "wi1" 0x55     what it is
//! u64            the file's size now
//! u32            how many pages follow
//! u32 each       their numbers, ascending, from the beginning of the file
//! 8192 each      the pages
//! ```
//!
//! All numbers are little-endian.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::error::Fault;

/// A page; `wal-g` takes another size from `WALG_PG_BLOCK_SIZE`, for servers built with one, which are not known here.
const PAGE: usize = 8192;

const MAGIC: [u8; 4] = *b"wi1\x55";

/// Bytes before the pages' numbers.
const HEAD: usize = 16;

/// The largest file that can be made of pages: relations are cut into files of 1 GiB, if their server was not built otherwise.
const LARGEST: u64 = 64 << 30;

/// Pages that are read at once.
const AT_ONCE: usize = 16;

/// Reads pages from a body of this length and writes them into a file. Returns the bytes written; doing it again changes nothing.
pub(super) fn apply(body: &mut impl Read, length: u64, file: &File) -> io::Result<u64> {
    let mut head = [0; HEAD];
    body.read_exact(&mut head)?;
    let field =
        |from: usize, to: usize| head[from..to].iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let (size, count) = (field(4, 12), field(12, 16));
    if head[..4] != MAGIC {
        return Err(Fault::Damaged("it should hold changed pages, and does not begin as those do").into());
    }
    if size > LARGEST || size % PAGE as u64 != 0 || length != HEAD as u64 + count * (4 + PAGE as u64) {
        return Err(Fault::Damaged("its changed pages have impossible sizes").into());
    }
    let mut numbers = Vec::new();
    let mut number = [0; 4];
    for _ in 0..count {
        body.read_exact(&mut number)?;
        let number = u64::from(u32::from_le_bytes(number));
        let is_ascending = numbers.last().is_none_or(|last| *last < number);
        if !is_ascending || (number + 1) * PAGE as u64 > size {
            return Err(Fault::Damaged("its changed pages are in an impossible order").into());
        }
        numbers.push(number);
    }
    file.set_len(size).map_err(Fault::Target)?;
    let mut pages = vec![0; AT_ONCE * PAGE];
    for some in numbers.chunks(AT_ONCE) {
        let pages = &mut pages[..some.len() * PAGE];
        body.read_exact(pages)?;
        let mut at = 0;
        for run in some.chunk_by(|one, next| one + 1 == *next) {
            let bytes = &pages[at..at + run.len() * PAGE];
            let offset = run.first().map_or(0, |number| number * PAGE as u64);
            file.write_all_at(bytes, offset).map_err(Fault::Target)?;
            at += bytes.len();
        }
    }
    Ok(numbers.len() as u64 * PAGE as u64)
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "the numbers of tests are small, or meant to be cut")]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::{MAGIC, PAGE, apply};

    fn increment(size: u64, numbers: &[u32]) -> Vec<u8> {
        let mut body = MAGIC.to_vec();
        body.extend(size.to_le_bytes());
        body.extend((numbers.len() as u32).to_le_bytes());
        body.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        body.extend(numbers.iter().flat_map(|number| vec![*number as u8; PAGE]));
        body
    }

    fn applied(before: &[u8], body: &[u8]) -> std::io::Result<Vec<u8>> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), before)?;
        apply(&mut &*body, body.len() as u64, file.as_file())?;
        std::fs::read(file.path())
    }

    #[test]
    fn pages_go_to_their_places_and_the_file_gets_its_size() {
        let before = vec![255; 40 * PAGE];
        let changed: Vec<u32> = (0..20).chain([22, 29]).collect();
        let after = applied(&before, &increment(30 * PAGE as u64, &changed)).unwrap();
        assert_eq!(after.len(), 30 * PAGE);
        for (number, page) in after.chunks(PAGE).enumerate() {
            let value = if changed.contains(&(number as u32)) { number as u8 } else { 255 };
            assert!(page.iter().all(|byte| *byte == value), "{number}");
        }
        let grown = applied(&[], &increment(3 * PAGE as u64, &[2])).unwrap();
        assert_eq!((grown.len(), grown[0], grown[2 * PAGE]), (3 * PAGE, 0, 2));
        assert_eq!(applied(&before, &increment(0, &[])).unwrap(), b"");
    }

    #[test]
    fn impossible_ones_are_refused_before_anything_is_written() {
        let size = 10 * PAGE as u64;
        let mut other = increment(size, &[1]);
        other[0] = b'x';
        let mut cut = increment(size, &[1]);
        cut.truncate(100);
        let mut long = increment(size, &[1]);
        long.push(0);
        let mut many = increment(size, &[1]);
        many[12..16].fill(255);
        let unordered =
            [increment(size, &[2, 1]), increment(size, &[1, 1]), increment(size, &[10]), increment(size + 1, &[1])];
        for body in unordered.into_iter().chain([other, cut, long, many, increment(1 << 62, &[1]), vec![]]) {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), b"before").unwrap();
            assert!(apply(&mut &*body, body.len() as u64, file.as_file()).is_err());
            let mut after = Vec::new();
            file.reopen().unwrap().read_to_end(&mut after).unwrap();
            assert_eq!(after, b"before");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut body: Vec<u8>, length: u64) {
            let file = tempfile::tempfile().unwrap();
            let _ = apply(&mut &*body, length, &file);
            body.splice(0..0, MAGIC);
            let _ = apply(&mut &*body, body.len() as u64, &file);
        }
    }
}
