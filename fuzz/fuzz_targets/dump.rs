//! Dumps from the bucket: any bytes, in pieces of any size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use windlass_repo::format::dump::{Packer, Walker};

fuzz_target!(|bytes: &[u8]| {
    // The last byte says how large the pieces are, so that a real dump is an input as it stands.
    let size = bytes.last().map_or(1, |last| usize::from(*last) + 1);
    pack(bytes, size);
    let mut walker = Walker::new();
    for piece in bytes.chunks(size) {
        if walker.feed(piece).is_err() {
            return;
        }
    }
    let _ = walker.finish();
});

/// What was packed as a whole dump is one.
fn pack(bytes: &[u8], size: usize) {
    let (mut packer, mut walker) = (Packer::new(), Walker::new());
    for piece in bytes.chunks(size) {
        let Ok(packed) = packer.feed(piece) else { return };
        walker.feed(&packed).expect("what is packed can be walked");
    }
    if packer.finish().is_ok() {
        walker.finish().expect("what is packed is whole");
    }
}
