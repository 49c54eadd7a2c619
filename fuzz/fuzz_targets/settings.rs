//! Settings files.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use windlass::settings::Settings;

fuzz_target!(|bytes: &[u8]| {
    let _ = Settings::parse(Path::new("windlass.toml"), bytes, Path::new("/state"));
});
