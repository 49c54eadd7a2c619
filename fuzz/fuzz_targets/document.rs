//! Signed documents from the bucket: points, manifests, verifications.
#![no_main]

use libfuzzer_sys::fuzz_target;
use windlass_core::point::{ComponentManifest, RecoveryPoint};
use windlass_core::verification::Verification;
use windlass_repo::sign::{PublicKey, Unchecked};

fuzz_target!(|bytes: &[u8]| {
    let Ok(unchecked) = Unchecked::parse(bytes) else { return };
    let Some(key) = PublicKey::from_base64("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=") else { return };
    let _ = unchecked.check::<RecoveryPoint>(&key);
    let _ = unchecked.check::<ComponentManifest>(&key);
    let _ = unchecked.check::<Verification>(&key);
});
