//! Dumps that are whole, and every way they may not be.

use super::{DumpError, Walker};
use proptest::prelude::*;

/// Writes dumps as `pg_dump` 15 does, for what cannot be had from it on demand: broken ones.
struct Dump(Vec<u8>);

impl Dump {
    fn new(entries: &[(i64, bool)]) -> Self {
        let mut dump = Self(b"PGDMP\x01\x0e\x00\x04\x08\x01".to_vec());
        dump.int(0);
        for _ in 0..7 {
            dump.int(1);
        }
        dump.text("shop").text("15.4").text("15.4").int(i64::try_from(entries.len()).unwrap());
        for (id, has_data) in entries {
            dump.int(*id).int(i64::from(*has_data)).text("1259").text("16385").text("orders").text("TABLE DATA").int(3);
            dump.text("").text("").text("COPY").text("public").text("").text("heap").text("shop").text("false");
            dump.text("7").int(-1);
            dump.0.push(if *has_data { 1 } else { 3 });
            dump.0.extend([0; 8]);
        }
        dump
    }

    fn int(&mut self, value: i64) -> &mut Self {
        self.0.push(u8::from(value < 0));
        self.0.extend(&value.unsigned_abs().to_le_bytes()[..4]);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.int(i64::try_from(text.len()).unwrap()).0.extend(text.as_bytes());
        self
    }

    fn block(mut self, id: i64, chunks: &[&[u8]]) -> Self {
        self.0.push(1);
        self.int(id);
        for chunk in chunks {
            self.int(i64::try_from(chunk.len()).unwrap()).0.extend_from_slice(chunk);
        }
        self.int(0);
        self
    }

    fn large_objects(mut self, id: i64, objects: &[(i64, &[u8])]) -> Self {
        self.0.push(3);
        self.int(id);
        for (oid, bytes) in objects {
            self.int(*oid);
            if !bytes.is_empty() {
                self.int(i64::try_from(bytes.len()).unwrap()).0.extend_from_slice(bytes);
            }
            self.int(0);
        }
        self.int(0);
        self
    }
}

fn good() -> Vec<u8> {
    let entries = [(1, false), (2, true), (3, true), (4, true)];
    Dump::new(&entries).block(3, &[b"one", &[7; 5000]]).block(2, &[]).large_objects(4, &[(99, b"blob"), (100, b"")]).0
}

fn walk(bytes: &[u8], piece: usize) -> Result<super::Walked, DumpError> {
    let mut walker = Walker::new();
    for piece in bytes.chunks(piece) {
        walker.feed(piece)?;
    }
    walker.finish()
}

#[test]
fn a_whole_dump_is_accepted_however_it_is_cut_in_pieces() {
    let whole = walk(&good(), usize::MAX).unwrap();
    assert_eq!(whole.toc.entries.len(), 4);
    assert_eq!((whole.toc.database.as_str(), whole.toc.dump_version.as_str()), ("shop", "15.4"));
    assert_eq!(whole.data.get(&3), Some(&5003));
    for piece in [1, 2, 3, 7, 64, 1000] {
        assert_eq!(walk(&good(), piece).unwrap(), whole, "pieces of {piece}");
    }
}

#[test]
fn a_cut_dump_is_refused_wherever_it_was_cut() {
    let good = good();
    for length in 0..good.len() {
        let result = walk(&good[..length], 100);
        assert!(matches!(result, Err(DumpError::Cut { .. })), "cut at {length}: {result:?}");
    }
}

#[test]
fn what_follows_is_refused() {
    for extra in [vec![0], vec![9; 10], vec![1]] {
        assert!(walk(&[good(), extra].concat(), 100).is_err());
    }
}

#[test]
fn data_twice_or_of_nobody_is_refused() {
    let twice = Dump::new(&[(2, true)]).block(2, &[b"a"]).block(2, &[b"a"]).0;
    assert!(matches!(walk(&twice, 64), Err(DumpError::Block { id: 2, .. })));
    let nobody = Dump::new(&[(2, true)]).block(5, &[b"a"]).0;
    assert!(matches!(walk(&nobody, 64), Err(DumpError::Block { id: 5, .. })));
    let none = Dump::new(&[(2, false)]).block(2, &[b"a"]).0;
    assert!(walk(&none, 64).is_err());
}

#[test]
fn a_dump_of_nothing_is_whole_and_an_empty_stream_is_not() {
    assert!(walk(&Dump::new(&[]).0, 10).is_ok());
    assert!(matches!(Walker::new().finish(), Err(DumpError::Cut { .. })));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), piece in 1usize..50) {
        let _ = walk(&bytes, piece);
        let _ = walk(&[b"PGDMP\x01\x0e\x00\x04\x08\x01".as_slice(), &bytes].concat(), piece);
    }

    #[test]
    fn a_flipped_byte_never_hangs_or_panics(at in 0usize..5500, to: u8, piece in 1usize..90) {
        let mut bytes = good();
        let at = at % bytes.len();
        bytes[at] = to;
        let _ = walk(&bytes, piece);
    }
}

mod rows {
    //! Dumps whose rows are counted.

    use std::collections::BTreeMap;

    use super::{Dump, good};
    use crate::format::dump::{DumpError, RowCounter, Rows};
    use proptest::prelude::*;
    use zlib_rs::{Deflate, DeflateFlush, Status};

    fn count(bytes: &[u8], piece: usize) -> Result<Rows, DumpError> {
        let mut counter = RowCounter::new();
        for piece in bytes.chunks(piece) {
            counter.feed(piece)?;
        }
        counter.finish()
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut packed = vec![0; bytes.len() + 1000];
        let mut stream = Deflate::new(1, true, 15);
        assert_eq!(stream.compress(bytes, &mut packed, DeflateFlush::Finish).unwrap(), Status::StreamEnd);
        packed.truncate(usize::try_from(stream.total_out()).unwrap());
        packed
    }

    /// A dump of one table, compressed with gzip and cut into chunks.
    fn packed(data: &[u8], chunk: usize) -> Vec<u8> {
        let chunks: Vec<&[u8]> = data.chunks(chunk).collect();
        let mut dump = Dump::new(&[(2, true)]).block(2, &chunks).0;
        dump[12] = 1;
        dump
    }

    #[test]
    fn rows_are_lines_before_the_mark_and_unknown_without_it() {
        let rows_of = |chunks: &[&[u8]]| {
            let plain = count(&Dump::new(&[(2, true)]).block(2, chunks).0, 7).unwrap();
            if !chunks.is_empty() {
                assert_eq!(count(&packed(&zlib(&chunks.concat()), 5), 7).unwrap(), plain);
            }
            assert_eq!(plain.len(), 1);
            plain.into_values().next().flatten()
        };
        assert_eq!(rows_of(&[b"\\.\n\n\n"]), Some(0));
        assert_eq!(rows_of(&[b"1\n", b"2\\n\n", b"\\.\n\n\n"]), Some(2));
        assert_eq!(rows_of(&[b"\n", b"\n", b"\n\\.\n", b"\n\n"]), Some(3), "rows without columns");
        assert_eq!(rows_of(&[&[b"row\n".repeat(100_000), b"\\.\n\n\n".to_vec()].concat()]), Some(100_000));
        assert_eq!(rows_of(&[]), None);
        assert_eq!(rows_of(&[b"INSERT INTO t VALUES (1);\n", b"\n\n"]), None);
        assert_eq!(rows_of(&[b"1\n2\\.\n\n\n"]), None);
        assert_eq!(rows_of(&[b"1\n\\.\n\n"]), None);
    }

    #[test]
    fn data_that_cannot_be_unpacked_are_found() {
        let data = zlib(&b"1\n2\n3\n\\.\n\n\n".repeat(50));
        assert!(count(&packed(&data, 10), 100).is_ok());
        let mut garbled = data.clone();
        *garbled.last_mut().unwrap() ^= 1;
        for bad in [&garbled[..], &data[..data.len() - 3], &[&data[..], b"more"].concat()] {
            assert!(matches!(count(&packed(bad, 10), 100), Err(DumpError::Unpack { .. })));
        }
        // In a way that is unknown here, nothing is known.
        let mut dump = Dump::new(&[]).0;
        dump.drain(12..16);
        for minor in [15, 16] {
            (dump[6], dump[11]) = (minor, 3);
            assert_eq!(count(&dump, 10).unwrap(), BTreeMap::new());
        }
    }

    #[test]
    fn what_has_one_name_twice_is_not_known() {
        let twice = Dump::new(&[(2, true), (3, true)]).block(2, &[b"\\.\n\n\n"]).block(3, &[b"\\.\n\n\n"]).0;
        assert_eq!(count(&twice, 100).unwrap(), BTreeMap::from([(("public".into(), "orders".into()), None)]));
    }

    #[test]
    fn of_a_cut_dump_nothing_is_told() {
        let good = good();
        assert!(count(&good, 100).is_ok());
        for length in 0..good.len() {
            assert!(matches!(count(&good[..length], 100), Err(DumpError::Cut { .. })), "cut at {length}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), piece in 1usize..50) {
            let _ = count(&bytes, piece);
            let _ = count(&[b"PGDMP\x01\x0e\x00\x04\x08\x01".as_slice(), &bytes].concat(), piece);
            let _ = count(&packed(&bytes, 9), piece);
        }
    }
}
