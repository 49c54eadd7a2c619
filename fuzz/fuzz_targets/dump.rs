//! Dumps from the bucket: any bytes, in any pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use windlass_repo::format::dump::Walker;

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let mut walker = Walker::new();
    for piece in bytes.chunks(usize::from(piece) + 1) {
        if walker.feed(piece).is_err() {
            return;
        }
    }
    let _ = walker.finish();
});
