//! One sealed object: hashed, sealed and sent as it is written; fetched, hashed and opened as it is read.
//!
//! Memory is that of an [`Upload`]; nothing is staged. A reader proves what it read only at the end: what it
//! gave before must not be believed until [`ObjectReader::next`] has returned `None`.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use age::x25519;
use bytes::Bytes;
use futures::io::AsyncReadExt;
use futures::stream::{BoxStream, Stream, StreamExt, TryStreamExt, unfold};
use ring::digest::{Context, SHA256};
use tokio::sync::mpsc::channel;
use windlass_core::diagnose::{Diagnose, Outcome, Retry};
use windlass_core::point::ObjectRef;

use crate::hex;
use crate::store::{Key, Store, StoreError, Upload};

/// Bytes handed out at once by a reader: age opens no more at a time.
const PIECE: usize = 64 << 10;

/// Pieces of the store that may be hashed before they are opened.
const AHEAD: usize = 2;

/// An object that could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The store.
    #[error(transparent)]
    Store(StoreError),
    /// age could not seal.
    #[error("seal `{key}`")]
    Seal {
        /// The object.
        key: Key,
        /// Why.
        source: std::io::Error,
    },
    /// Its bytes are not those that were written.
    #[error("read `{key}`: {why}")]
    Damaged {
        /// The object.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// It is sealed to a key that is not at hand.
    #[error("open `{key}`: it is sealed to {recipient}, whose keyring is not open here")]
    NoKey {
        /// The object.
        key: String,
        /// What it is sealed to.
        recipient: String,
    },
}

impl Diagnose for ObjectError {
    fn code(&self) -> &'static str {
        match self {
            Self::Store(error) => error.code(),
            Self::Seal { .. } => "WDL-1201",
            Self::Damaged { .. } => "WDL-1202",
            Self::NoKey { .. } => "WDL-1203",
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Store(error) => error.reason(),
            Self::Seal { .. } => "SealObject",
            Self::Damaged { .. } => "ObjectDamaged",
            Self::NoKey { .. } => "NoKey",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Store(error) => error.retry(),
            _ => Retry::Never,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Store(error) => error.outcome(),
            Self::NoKey { .. } => Outcome::CouldNotRun,
            _ => Outcome::Failed,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Store(error) => error.hints(),
            Self::Seal { .. } => vec!["run it again".into()],
            Self::Damaged { .. } => {
                vec!["run `windlass repo check` to see what else is damaged, and restore from another point".into()]
            }
            Self::NoKey { .. } => vec!["give the keyring of that time: `windlass repo keys` lists them".into()],
        }
    }
}

/// An object being written.
pub struct ObjectWriter {
    upload: Upload,
    key: Key,
    seal: Option<Seal>,
    size: u64,
}

struct Seal {
    writer: age::stream::StreamWriter<Outbox>,
    sealed: Outbox,
    recipient: String,
    /// Of what is sealed; what is stored as it is, the upload hashes.
    hash: Context,
}

/// Where age leaves what it sealed until it is sent.
#[derive(Clone, Default)]
struct Outbox(Arc<Mutex<Vec<u8>>>);

impl Outbox {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Outbox {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl ObjectWriter {
    /// Begins an object, sealed to the recipient where there is one.
    pub fn new(store: &Store, key: &Key, recipient: Option<&x25519::Recipient>) -> Result<Self, ObjectError> {
        let seal = recipient.map(|recipient| Seal::begin(recipient, key)).transpose()?;
        Ok(Self { upload: store.upload(key), key: key.clone(), seal, size: 0 })
    }

    /// Sends fewer parts at once, where other objects are written beside it: each takes 16 MiB.
    pub fn send_at_once(&mut self, parts: usize) {
        self.upload.send_at_once(parts);
    }

    /// Adds bytes; waits while the store is slower than the source.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), ObjectError> {
        let stored = self.sealed(bytes)?.unwrap_or_else(|| Bytes::copy_from_slice(bytes));
        self.upload.write(stored).await.map_err(ObjectError::Store)
    }

    /// The same; what is not sealed is not copied.
    pub async fn write_whole(&mut self, bytes: Bytes) -> Result<(), ObjectError> {
        let stored = self.sealed(&bytes)?.unwrap_or(bytes);
        self.upload.write(stored).await.map_err(ObjectError::Store)
    }

    /// Counts bytes, and seals them where the object is sealed.
    fn sealed(&mut self, bytes: &[u8]) -> Result<Option<Bytes>, ObjectError> {
        self.size += bytes.len() as u64;
        let Some(seal) = &mut self.seal else { return Ok(None) };
        seal.hash.update(bytes);
        seal.writer.write_all(bytes).map_err(|source| ObjectError::Seal { key: self.key.clone(), source })?;
        Ok(Some(seal.sealed.take().into()))
    }

    /// Bytes written so far, before sealing.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Sends the rest and makes the object visible.
    pub async fn finish(mut self) -> Result<ObjectRef, ObjectError> {
        let mut sealed = None;
        if let Some(seal) = self.seal.take() {
            seal.writer.finish().map_err(|source| ObjectError::Seal { key: self.key.clone(), source })?;
            self.upload.write(seal.sealed.take().into()).await.map_err(ObjectError::Store)?;
            sealed = Some((seal.recipient, hex::encode(seal.hash.finish().as_ref())));
        }
        let stored = self.upload.finish().await.map_err(ObjectError::Store)?;
        let sha256 = hex::encode(&stored.sha256);
        let (sealed_to, plain_sha256) = match sealed {
            Some((recipient, plain)) => (Some(recipient), plain),
            None => (None, sha256.clone()),
        };
        Ok(ObjectRef {
            key: self.key.to_string(),
            size: stored.size,
            sha256,
            plain_size: self.size,
            plain_sha256,
            sealed_to,
        })
    }

    /// Gives up; nothing becomes visible.
    pub async fn abort(self) {
        self.upload.abort().await;
    }
}

impl Seal {
    fn begin(recipient: &x25519::Recipient, key: &Key) -> Result<Self, ObjectError> {
        let failed = |source| ObjectError::Seal { key: key.clone(), source };
        let sealed = Outbox::default();
        let encryptor = age::Encryptor::with_recipients(std::iter::once(recipient as &dyn age::Recipient))
            .map_err(|e| failed(std::io::Error::other(e)))?;
        let writer = encryptor.wrap_output(sealed.clone()).map_err(failed)?;
        Ok(Self { writer, sealed, recipient: recipient.to_string(), hash: Context::new(&SHA256) })
    }
}

/// An object being read.
pub struct ObjectReader {
    pieces: Pieces,
    /// Of the bytes as they are stored, where they are hashed.
    stored: Option<Arc<Mutex<Running>>>,
    plain: Running,
    expected: ObjectRef,
    done: bool,
}

enum Pieces {
    Plain(BoxStream<'static, std::io::Result<Bytes>>),
    Sealed(std::pin::Pin<Box<dyn futures::io::AsyncRead + Send>>),
}

/// What of an object is compared with what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The bytes as they are stored, and those within.
    All,
    /// The bytes within, which are what is handed out: for an object that was read back whole a moment ago.
    Content,
}

/// A hash and a count on their way.
struct Running {
    hash: Context,
    size: u64,
}

impl Running {
    fn new() -> Self {
        Self { hash: Context::new(&SHA256), size: 0 }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// What differs from what was expected.
    fn differs(&self, what: &str, size: u64, sha256: &str) -> Option<String> {
        if self.size != size {
            return Some(format!("{what} has {} bytes instead of {size}", self.size));
        }
        let found = hex::encode(self.hash.clone().finish().as_ref());
        (found != sha256).then(|| format!("{what} has the SHA-256 {found} instead of {sha256}"))
    }
}

impl ObjectReader {
    /// Begins to read an object; `identities` are those of the keyrings that are open.
    pub async fn open(
        store: &Store,
        object: &ObjectRef,
        identities: &[&x25519::Identity],
        compare: Compare,
    ) -> Result<Self, ObjectError> {
        let key = Key::foreign(&object.key);
        let stored = (compare == Compare::All).then(|| Arc::new(Mutex::new(Running::new())));
        let stream = store.read(&key).await.map_err(ObjectError::Store)?;
        let stream = match &stored {
            Some(stored) => hashed(stream, Arc::clone(stored)),
            None => stream,
        };
        let stream = stream.map_err(std::io::Error::other);
        let pieces = match &object.sealed_to {
            None => Pieces::Plain(Box::pin(stream)),
            Some(recipient) => {
                let identity = identities.iter().find(|identity| identity.to_public().to_string() == *recipient);
                let identity = identity
                    .ok_or_else(|| ObjectError::NoKey { key: object.key.clone(), recipient: recipient.clone() })?;
                let damaged = |why: String| ObjectError::Damaged { key: object.key.clone(), why };
                let decryptor = age::Decryptor::new_async(Box::pin(stream).into_async_read())
                    .await
                    .map_err(|e| damaged(e.to_string()))?;
                let reader = decryptor
                    .decrypt_async(std::iter::once(*identity as &dyn age::Identity))
                    .map_err(|e| damaged(e.to_string()))?;
                Pieces::Sealed(Box::pin(reader))
            }
        };
        Ok(Self { pieces, stored, plain: Running::new(), expected: object.clone(), done: false })
    }

    /// The next piece of the opened bytes; `None` once all were read and are what was written.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ObjectError> {
        if self.done {
            return Ok(None);
        }
        let piece = match &mut self.pieces {
            Pieces::Plain(stream) => stream.try_next().await,
            Pieces::Sealed(reader) => {
                let mut buffer = vec![0; PIECE];
                reader.read(&mut buffer).await.map(|read| {
                    buffer.truncate(read);
                    (read > 0).then(|| Bytes::from(buffer))
                })
            }
        };
        if let Some(bytes) = piece.map_err(|error| self.why(error))? {
            self.plain.add(&bytes);
            Ok(Some(bytes))
        } else {
            self.done = true;
            self.prove().map(|()| None)
        }
    }

    /// The opened bytes as a stream that ends in an error where they are not what was written.
    pub fn into_stream(self) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
        futures::stream::try_unfold(self, |mut this| async move {
            match this.next().await {
                Ok(Some(bytes)) => Ok(Some((bytes, this))),
                Ok(None) => Ok(None),
                Err(error) => Err(std::io::Error::other(error)),
            }
        })
    }

    fn prove(&self) -> Result<(), ObjectError> {
        let expected = &self.expected;
        let stored = self.stored.as_ref().map(|stored| stored.lock().unwrap_or_else(PoisonError::into_inner));
        let wrong = stored
            .and_then(|stored| stored.differs("the object", expected.size, &expected.sha256))
            .or_else(|| self.plain.differs("its content", expected.plain_size, &expected.plain_sha256));
        match wrong {
            Some(why) => Err(ObjectError::Damaged { key: expected.key.clone(), why }),
            None => Ok(()),
        }
    }

    /// A store's error stays one; everything else means that the bytes are not what was written.
    fn why(&self, error: std::io::Error) -> ObjectError {
        let text = error.to_string();
        match error.into_inner().and_then(|inner| inner.downcast::<StoreError>().ok()) {
            Some(store) => ObjectError::Store(*store),
            None => {
                ObjectError::Damaged { key: self.expected.key.clone(), why: format!("it cannot be opened ({text})") }
            }
        }
    }
}

/// The same pieces, hashed by another task while those before them are opened.
fn hashed(
    mut stream: BoxStream<'static, Result<Bytes, StoreError>>,
    hash: Arc<Mutex<Running>>,
) -> BoxStream<'static, Result<Bytes, StoreError>> {
    let (send, receive) = channel(AHEAD);
    tokio::spawn(async move {
        while let Some(piece) = stream.next().await {
            if let Ok(bytes) = &piece {
                hash.lock().unwrap_or_else(PoisonError::into_inner).add(bytes);
            }
            // Whoever took the pieces may have gone.
            if send.send(piece).await.is_err() {
                break;
            }
        }
    });
    unfold(receive, |mut receive| async move { receive.recv().await.map(|piece| (piece, receive)) }).boxed()
}
