//! Signed documents: two lines, the first the document, the second who signed it.
//!
//! ```text
//! {"format":1,"id":"01J…", …}
//! {"writer":"01J…","ed25519":"base64 of the signature of the first line's bytes"}
//! ```
//!
//! The signature covers the bytes as they stand, so nothing depends on how JSON is written; `head -n 1 | jq`
//! shows the document and `openssl pkeyutl -verify -rawin` checks it. Who a writer is, is `writers.rs`' matter.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use windlass_core::id::WriterId;

/// The largest document accepted, in bytes: a manifest with some 300,000 tables.
pub const MAX_DOCUMENT: usize = 64 << 20;

/// Why a document cannot be accepted.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is not two lines.
    #[error("it is not a document and its signature on two lines")]
    Shape,
    /// It is too large to be one of ours.
    #[error("it is {0} bytes long, more than any document of ours")]
    TooLarge(usize),
    /// A line is not the JSON it should be.
    #[error("its JSON is not what it should be")]
    Json(#[source] serde_json::Error),
    /// It was written by a newer Windlass.
    #[error("it has format {0}, and this Windlass knows formats up to {known}", known = windlass_core::point::FORMAT)]
    TooNew(u64),
    /// The signature does not fit the document.
    #[error("its signature by writer {0} is wrong")]
    Signature(WriterId),
    /// Nobody of that name is known to write here.
    #[error("it is signed by {0}, who is not a writer of this repository")]
    UnknownWriter(WriterId),
}

#[derive(Serialize, Deserialize)]
struct SignatureLine {
    writer: WriterId,
    ed25519: String,
}

/// A document whose signature has not been checked yet.
pub struct Unchecked<'a> {
    document: &'a [u8],
    signature: Vec<u8>,
    writer: WriterId,
}

impl<'a> Unchecked<'a> {
    /// Takes a signed document apart.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DocumentError> {
        if bytes.len() > MAX_DOCUMENT {
            return Err(DocumentError::TooLarge(bytes.len()));
        }
        let mut lines = bytes.split(|b| *b == b'\n');
        let (Some(document), Some(signature), Some([]), None) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(DocumentError::Shape);
        };
        let line: SignatureLine = serde_json::from_slice(signature).map_err(DocumentError::Json)?;
        let signature = BASE64_STANDARD.decode(&line.ed25519).map_err(|_| DocumentError::Signature(line.writer))?;
        Ok(Self { document, signature, writer: line.writer })
    }

    /// Who claims to have signed it.
    pub fn writer(&self) -> WriterId {
        self.writer
    }

    /// Checks the signature and reads the document.
    pub fn check<T: DeserializeOwned>(&self, key: &PublicKey) -> Result<T, DocumentError> {
        if !key.verifies(self.document, &self.signature) {
            return Err(DocumentError::Signature(self.writer));
        }
        read(self.document)
    }

    /// Reads the document of somebody who is not known yet: a writer introducing itself.
    pub(crate) fn read_unchecked<T: DeserializeOwned>(&self) -> Result<T, DocumentError> {
        read(self.document)
    }
}

/// Reads a JSON document after a look at its format.
pub(crate) fn read<T: DeserializeOwned>(document: &[u8]) -> Result<T, DocumentError> {
    #[derive(Deserialize)]
    struct Head {
        format: u64,
    }
    let head: Head = serde_json::from_slice(document).map_err(DocumentError::Json)?;
    if head.format > u64::from(windlass_core::point::FORMAT) {
        return Err(DocumentError::TooNew(head.format));
    }
    serde_json::from_slice(document).map_err(DocumentError::Json)
}

/// An Ed25519 public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(Vec<u8>);

impl PublicKey {
    /// From base64; `None` where it is not 32 bytes.
    pub fn from_base64(text: &str) -> Option<Self> {
        BASE64_STANDARD.decode(text).ok().filter(|bytes| bytes.len() == 32).map(Self)
    }

    /// As base64.
    pub fn to_base64(&self) -> String {
        BASE64_STANDARD.encode(&self.0)
    }

    /// Whether the signature is this key's of these bytes.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }
}

/// A private key that signs.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// The key made of a secret seed of 32 bytes; `None` where the seed has another length.
    pub fn from_seed(seed: &[u8]) -> Option<Self> {
        Ed25519KeyPair::from_seed_unchecked(seed).ok().map(Self)
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.public_key().as_ref().to_vec())
    }

    /// The signature of these bytes, in base64.
    pub fn sign(&self, message: &[u8]) -> String {
        BASE64_STANDARD.encode(self.0.sign(message))
    }

    /// The document with its signature, ready to be stored.
    pub fn sign_document<T: Serialize>(&self, writer: WriterId, document: &T) -> Result<Vec<u8>, DocumentError> {
        let mut bytes = serde_json::to_vec(document).map_err(DocumentError::Json)?;
        let line = SignatureLine { writer, ed25519: self.sign(&bytes) };
        bytes.push(b'\n');
        bytes.extend(serde_json::to_vec(&line).map_err(DocumentError::Json)?);
        bytes.push(b'\n');
        Ok(bytes)
    }
}
