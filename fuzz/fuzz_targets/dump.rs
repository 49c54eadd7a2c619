//! Dumps from the bucket: any bytes, in pieces of any size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use windlass_repo::format::dump::{RowCounter, Walker};

fuzz_target!(|bytes: &[u8]| {
    // The last byte says how large the pieces are, so that a real dump is an input as it stands.
    let size = bytes.last().map_or(1, |last| usize::from(*last) + 1);
    let counted = count(bytes, size);
    let mut walker = Walker::new();
    for piece in bytes.chunks(size) {
        if walker.feed(piece).is_err() {
            assert!(!counted, "what was counted can be walked");
            return;
        }
    }
    assert!(walker.finish().is_ok() || !counted, "what was counted is whole");
});

/// Rows are told of whole dumps only.
fn count(bytes: &[u8], size: usize) -> bool {
    let mut counter = RowCounter::new();
    bytes.chunks(size).all(|piece| counter.feed(piece).is_ok()) && counter.finish().is_ok()
}
