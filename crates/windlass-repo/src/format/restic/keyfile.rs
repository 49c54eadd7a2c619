//! The key file of a repository of ours.
//!
//! scrypt makes a password that somebody chose dear to guess. Ours are 32 random bytes, which nobody guesses at any
//! price; the work `rustic_core` would put into it, 128 MiB and a quarter of a second each time a repository is opened,
//! would protect nothing.

use aes256ctr_poly1305aes::aead::AeadInPlace;
use aes256ctr_poly1305aes::{Aes256CtrPoly1305Aes, Key, Nonce};
use ring::digest::{SHA256, digest};
use rustic_core::repofile::{KeyFile, MasterKey};
use rustic_core::{ErrorKind, FileType, Id, RusticError, RusticResult, WriteBackend};

use super::backend::Backend;
use crate::hex;
use crate::random;

/// scrypt's N: a mebibyte, and a few milliseconds.
const WORK: u32 = 1 << 10;

/// scrypt's r, which every restic uses.
const BLOCK: u32 = 8;

/// Writes the key file by which a password opens the master key.
pub(super) fn write(backend: &Backend, master: &MasterKey, password: &str) -> RusticResult<()> {
    let bytes = make(master, password)?;
    let id: Id = hex::encode(digest(&SHA256, &bytes).as_ref()).parse()?;
    backend.write_bytes(FileType::Key, &id, false, bytes.into())
}

fn make(master: &MasterKey, password: &str) -> RusticResult<Vec<u8>> {
    let failed = |why: String| RusticError::new(ErrorKind::Key, why);
    let salt = random::bytes::<64>().map_err(|e| failed(e.to_string()))?;
    let mut file = KeyFile {
        hostname: None,
        username: None,
        created: None,
        kdf: "scrypt".to_owned(),
        n: WORK,
        r: BLOCK,
        p: 1,
        data: Vec::new(),
        salt: salt.to_vec(),
    };
    let (encrypt, k, r) = file.kdf_key(&password)?.to_keys();
    let key = [encrypt, k, r].concat();
    let plain = serde_json::to_vec(master).map_err(|e| failed(e.to_string()))?;
    file.data = seal(&key, &plain).map_err(failed)?;
    serde_json::to_vec(&file).map_err(|e| failed(e.to_string()))
}

/// As restic seals everything: nonce, ciphertext, tag.
fn seal(key: &[u8], plain: &[u8]) -> Result<Vec<u8>, String> {
    let nonce = random::bytes::<16>().map_err(|e| e.to_string())?;
    let mut sealed = [&nonce[..], plain].concat();
    let cipher = Aes256CtrPoly1305Aes::new(Key::from_slice(key));
    let (_, text) = sealed.split_at_mut(nonce.len());
    let tag = cipher.encrypt_in_place_detached(Nonce::from_slice(&nonce), &[], text).map_err(|e| e.to_string())?;
    sealed.extend_from_slice(&tag);
    Ok(sealed)
}
