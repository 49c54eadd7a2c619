//! Sealing as libsodium's `crypto_secretstream_xchacha20poly1305` does it, in the chunks `wal-g` cuts.
//!
//! ```text
//! header   24 random bytes
//! chunk    8192 bytes of content as 8209: a tag (sealed), the content (sealed), an authenticator of 16
//! ...
//! last     fewer than 8192, possibly none, with the tag that says so
//! ```
//!
//! Each chunk is bound to those before it: one that is left out, moved, repeated or changed cannot be opened, and an object
//! without its last chunk is known to be cut. Whoever has the key can read and write: it proves nothing about who wrote.

use std::io::{self, Read, Write};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use chacha20::{ChaCha20, hchacha};
use poly1305::Poly1305;
use poly1305::universal_hash::{KeyInit, UniversalHash};
use secrecy::zeroize::Zeroizing;
use windlass_core::hex;

use super::WalgError;
use super::error::Fault;
use super::open::fill;

/// Content of a chunk, but of the last.
const CHUNK: usize = 8192;

/// What sealing adds to a chunk: the tag and the authenticator.
const OVERHEAD: usize = 1 + MAC;
const MAC: usize = 16;
const HEADER: usize = 24;

/// The tag of a chunk that others follow.
const MESSAGE: u8 = 0;
/// The tag of the last chunk.
const FINAL: u8 = 3;
/// The bit of a tag after which the key changes; [`FINAL`] has it.
const REKEY: u8 = 2;

/// How a key is written down: `WALG_LIBSODIUM_KEY_TRANSFORM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyForm {
    /// The text itself, at least 25 characters: cut to 32 bytes or filled up with zeros.
    Raw,
    /// 64 hexadecimal digits.
    Hex,
    /// 32 bytes in base64.
    Base64,
}

/// A key of 32 bytes, for everything a cluster stores.
#[derive(Clone)]
pub struct SealKey(Zeroizing<[u8; 32]>);

impl SealKey {
    /// From text as `WALG_LIBSODIUM_KEY` or the file at `WALG_LIBSODIUM_KEY_PATH` holds it; space around it is left out.
    pub fn parse(text: &str, form: KeyForm) -> Result<Self, WalgError> {
        const RAW_MINIMUM: usize = 25;
        let text = text.trim();
        let exactly = |bytes: Option<Vec<u8>>, why| {
            let bytes = bytes.map(Zeroizing::new).ok_or(WalgError::InvalidKey { why })?;
            let key = <[u8; 32]>::try_from(bytes.as_slice());
            key.map(|key| Self(Zeroizing::new(key)))
                .map_err(|_| WalgError::InvalidKey { why: "it is not 32 bytes long" })
        };
        match form {
            KeyForm::Hex => exactly(hex::decode(text), "it is not hexadecimal"),
            KeyForm::Base64 => exactly(BASE64_STANDARD.decode(text).ok(), "it is not base64"),
            KeyForm::Raw if text.len() < RAW_MINIMUM => {
                Err(WalgError::InvalidKey { why: "it is shorter than 25 characters" })
            }
            KeyForm::Raw => {
                let mut key = Zeroizing::new([0; 32]);
                for (byte, given) in key.iter_mut().zip(text.bytes()) {
                    *byte = given;
                }
                Ok(Self(key))
            }
        }
    }
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey")
    }
}

/// The state both sides go through, chunk by chunk.
struct Stream {
    key: Zeroizing<[u8; 32]>,
    /// A counter of 4 bytes, which begins with 1, and 8 that each authenticator changes.
    nonce: [u8; 12],
}

impl Stream {
    fn new(key: &SealKey, header: [u8; HEADER]) -> Self {
        let (input, inner) = header.split_at(16);
        let key = hchacha::<chacha20::cipher::consts::U10>(&(*key.0).into(), input.into());
        let mut nonce = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        nonce[4..].copy_from_slice(inner);
        Self { key: Zeroizing::new(key.into()), nonce }
    }

    fn cipher(&self) -> ChaCha20 {
        ChaCha20::new(&(*self.key).into(), &self.nonce.into())
    }

    /// Seals content in place: it begins at the second byte, and the first becomes the tag. Returns the authenticator.
    fn seal(&mut self, tag: u8, chunk: &mut [u8]) -> [u8; MAC] {
        let mut cipher = self.cipher();
        let mac = authenticator(&mut cipher);
        let mut block = [0; 64];
        block[0] = tag;
        cipher.apply_keystream(&mut block);
        if let Some((first, content)) = chunk.split_first_mut() {
            *first = block[0];
            cipher.apply_keystream(content);
            let mac = authenticate(mac, &block, content);
            self.step(tag, mac);
            return mac;
        }
        [0; MAC]
    }

    /// Opens what [`Self::seal`] sealed, in place, and tells the tag; `None` where it was not sealed so.
    fn open(&mut self, chunk: &mut [u8], expected: &[u8]) -> Option<u8> {
        let (first, content) = chunk.split_first_mut()?;
        let mut cipher = self.cipher();
        let mac = authenticator(&mut cipher);
        let mut block = [0; 64];
        block[0] = *first;
        cipher.apply_keystream(&mut block);
        let tag = std::mem::replace(&mut block[0], *first);
        let mac = authenticate(mac, &block, content);
        let differs = mac.iter().zip(expected).fold(0, |differs, (a, b)| differs | (a ^ b));
        if differs != 0 || expected.len() != MAC {
            return None;
        }
        cipher.apply_keystream(content);
        self.step(tag, mac);
        Some(tag)
    }

    /// What makes the next chunk depend on this one.
    fn step(&mut self, tag: u8, mac: [u8; MAC]) {
        for (byte, more) in self.nonce[4..].iter_mut().zip(mac) {
            *byte ^= more;
        }
        let [a, b, c, d, ..] = self.nonce;
        let counter = u32::from_le_bytes([a, b, c, d]).wrapping_add(1);
        self.nonce[..4].copy_from_slice(&counter.to_le_bytes());
        if tag & REKEY != 0 || counter == 0 {
            self.rekey();
        }
    }

    fn rekey(&mut self) {
        let mut fresh = Zeroizing::new([0; 40]);
        fresh[..32].copy_from_slice(&*self.key);
        fresh[32..].copy_from_slice(&self.nonce[4..]);
        self.cipher().apply_keystream(&mut *fresh);
        self.key.copy_from_slice(&fresh[..32]);
        self.nonce[..4].copy_from_slice(&1_u32.to_le_bytes());
        self.nonce[4..].copy_from_slice(&fresh[32..]);
    }
}

/// The one-time authenticator of a chunk, from the first block of its key stream.
fn authenticator(cipher: &mut ChaCha20) -> Poly1305 {
    let mut block = Zeroizing::new([0; 64]);
    cipher.apply_keystream(&mut *block);
    Poly1305::new(poly1305::Key::from_slice(&block[..32]))
}

fn authenticate(mut mac: Poly1305, block: &[u8; 64], content: &[u8]) -> [u8; MAC] {
    let whole = content.len() - content.len() % MAC;
    let (blocks, rest) = content.split_at(whole);
    mac.update_padded(block);
    mac.update_padded(blocks);
    // libsodium fills up by as many zeros as there are bytes too many, not as are missing: the format is what it does.
    let mut tail = rest.to_vec();
    tail.resize(2 * rest.len(), 0);
    tail.extend(0_u64.to_le_bytes());
    tail.extend((64 + content.len() as u64).to_le_bytes());
    mac.compute_unpadded(&tail).into()
}

/// Seals what is written to it. It must be [finished](Self::finish): what was not is cut.
pub struct Sealer<W> {
    stream: Stream,
    to: W,
    /// A place for the tag, and content of a chunk that is not full yet.
    chunk: Vec<u8>,
}

impl<W: Write> Sealer<W> {
    /// Begins an object: writes its header.
    pub fn new(key: &SealKey, to: W) -> Result<Self, WalgError> {
        let header = crate::random::bytes().map_err(|error| WalgError::Pack { why: error.to_string() })?;
        Self::with_header(key, header, to).map_err(|error| WalgError::Pack { why: error.to_string() })
    }

    fn with_header(key: &SealKey, header: [u8; HEADER], mut to: W) -> io::Result<Self> {
        to.write_all(&header)?;
        Ok(Self { stream: Stream::new(key, header), to, chunk: vec![MESSAGE] })
    }

    fn emit(&mut self, tag: u8) -> io::Result<()> {
        let mac = self.stream.seal(tag, &mut self.chunk);
        self.chunk.extend(mac);
        let written = self.to.write_all(&self.chunk);
        self.chunk.clear();
        self.chunk.push(MESSAGE);
        written
    }

    /// Ends the object.
    pub fn finish(mut self) -> io::Result<W> {
        self.emit(FINAL)?;
        Ok(self.to)
    }
}

impl Sealer<Vec<u8>> {
    /// What was sealed since it was asked last.
    pub(super) fn take_sealed(&mut self) -> Vec<u8> {
        // What follows is about as long.
        let room = Vec::with_capacity(self.to.len());
        std::mem::replace(&mut self.to, room)
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        let room = 1 + CHUNK - self.chunk.len();
        let taken = &content[..content.len().min(room)];
        self.chunk.extend(taken);
        if self.chunk.len() == 1 + CHUNK {
            self.emit(MESSAGE)?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Opens what a [`Sealer`], or `wal-g`, sealed. Nothing is handed out that was not proven to be unchanged; that nothing is
/// missing is known at the end only.
pub struct Opener<R> {
    from: R,
    key: SealKey,
    stream: Option<Stream>,
    chunk: Vec<u8>,
    /// What of the chunk was not handed out yet.
    left: std::ops::Range<usize>,
    is_first: bool,
    is_over: bool,
}

impl<R: Read> Opener<R> {
    /// At the beginning of an object.
    pub fn new(key: &SealKey, from: R) -> Self {
        Self { from, key: key.clone(), stream: None, chunk: Vec::new(), left: 0..0, is_first: true, is_over: false }
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        let stream = if let Some(stream) = &mut self.stream {
            stream
        } else {
            let mut header = [0; HEADER];
            if fill(&mut self.from, &mut header)? < HEADER {
                return Err(Fault::Cut.into());
            }
            self.stream.insert(Stream::new(&self.key, header))
        };
        self.chunk.resize(CHUNK + OVERHEAD, 0);
        let read = fill(&mut self.from, &mut self.chunk)?;
        let is_short = read < self.chunk.len();
        self.chunk.truncate(read);
        let Some(content) = read.checked_sub(MAC).filter(|content| *content > 0) else { return Err(Fault::Cut.into()) };
        let (sealed, mac) = self.chunk.split_at_mut(content);
        let tag = stream.open(sealed, mac).ok_or(match (self.is_first, is_short) {
            (true, _) => Fault::WrongKey,
            (false, true) => Fault::Cut,
            (false, false) => Fault::Damaged("a sealed chunk was changed, moved or left out"),
        })?;
        match (tag, is_short) {
            (FINAL, true) => self.is_over = true,
            (FINAL, false) => return Err(Fault::Damaged("it ends before its last sealed chunk").into()),
            (_, true) => return Err(Fault::Cut.into()),
            (_, false) => {}
        }
        self.is_first = false;
        self.left = 1..content;
        Ok(())
    }
}

impl<R: Read> Read for Opener<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.left.is_empty() && !into.is_empty() {
            if self.is_over {
                return Ok(0);
            }
            self.next_chunk()?;
        }
        let content = self.chunk.get(self.left.clone()).unwrap_or_default();
        let taken = content.len().min(into.len());
        into[..taken].copy_from_slice(&content[..taken]);
        self.left.start += taken;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests;
