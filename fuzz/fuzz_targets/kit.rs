//! Recovery kits, typed off paper.
#![no_main]

use libfuzzer_sys::fuzz_target;
use secrecy::SecretString;

fuzz_target!(|text: &str| {
    let _ = windlass_repo::kit::parse(&SecretString::from(text));
});
