//! One object of unknown size, sent in parts.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use ring::digest::{Context, SHA256};
use tokio::task::JoinSet;

use super::{Key, Store, StoreError};

/// Bytes of one part, for the first [`SMALL`]; of each after them four times as much.
const PART: usize = 16 << 20;

/// Parts of 16 MiB: 31 GiB of an object.
const SMALL: u32 = 2_000;

/// The most parts S3 allows; with parts of 64 MiB after the small ones this bounds an object at 531 GiB.
const MOST: u32 = 10_000;

/// Bytes on their way at once. With the part being filled this bounds an upload's memory at 80 MiB, and at 192 MiB
/// for an object of more than 31 GiB.
const ON_THE_WAY: usize = 128 << 20;

/// Small parts on their way at once, at most.
const PARALLEL: usize = 4;

/// Pieces at least as long wait as they came; shorter ones are put together.
const WHOLE: usize = 64 << 10;

/// What was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Size in bytes, confirmed by the store.
    pub size: u64,
    /// SHA-256 of the bytes as sent.
    pub sha256: [u8; 32],
}

/// An object on its way. Dropped without [`Upload::finish`] it leaves nothing visible.
pub struct Upload {
    store: Store,
    key: Key,
    /// What waits to be sent, in pieces as they came.
    waiting: Waiting,
    parts: Option<Parts>,
    /// Parts on their way at once.
    parallel: usize,
    hash: Context,
    size: u64,
}

/// Pieces, and how long they are together.
#[derive(Default)]
struct Waiting {
    pieces: VecDeque<Bytes>,
    /// Of small ones, which are put together: each piece has a price of its own.
    small: BytesMut,
    length: usize,
}

impl Waiting {
    fn push(&mut self, piece: Bytes) {
        self.length += piece.len();
        if piece.len() < WHOLE && self.small.len() + piece.len() < 2 * WHOLE {
            self.small.extend_from_slice(&piece);
            return;
        }
        self.join();
        self.pieces.push_back(piece);
    }

    fn join(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push_back(self.small.split().freeze());
        }
    }

    /// The first bytes, as many as asked for or as there are; a piece is cut where they end.
    fn take(&mut self, mut wanted: usize) -> Vec<Bytes> {
        self.join();
        let mut taken = Vec::new();
        while wanted > 0
            && let Some(first) = self.pieces.front_mut()
        {
            let piece = first.split_to(wanted.min(first.len()));
            if first.is_empty() {
                self.pieces.pop_front();
            }
            (wanted, self.length) = (wanted - piece.len(), self.length - piece.len());
            taken.push(piece);
        }
        taken
    }
}

struct Parts {
    upload: Box<dyn MultipartUpload>,
    sent: u32,
    running: JoinSet<object_store::Result<()>>,
}

impl Upload {
    pub(super) fn new(store: Store, key: Key) -> Self {
        Self {
            store,
            key,
            waiting: Waiting::default(),
            parts: None,
            parallel: PARALLEL,
            hash: Context::new(&SHA256),
            size: 0,
        }
    }

    /// Sends fewer parts at once, where other uploads run beside it: each takes 16 MiB.
    pub fn send_at_once(&mut self, parts: usize) {
        self.parallel = parts.clamp(1, PARALLEL);
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds bytes; waits while enough parts are on their way.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.hash.update(&bytes);
        self.size += bytes.len() as u64;
        self.waiting.push(bytes);
        loop {
            let part = part_size(self.parts.as_ref().map_or(0, |p| p.sent));
            if self.waiting.length <= part {
                return Ok(());
            }
            let body = self.waiting.take(part);
            self.send(body).await?;
        }
    }

    /// Sends the rest, makes the object visible, and asks the store for its size.
    pub async fn finish(mut self) -> Result<Stored, StoreError> {
        let rest = self.waiting.take(usize::MAX);
        if self.parts.is_none() {
            self.store.create_from(&self.key, rest).await?;
        } else {
            self.send(rest).await?;
            self.complete().await?;
        }
        let stored = self.store.head(&self.key).await?.size;
        if stored != self.size {
            let store = self.store.location().to_owned();
            return Err(StoreError::Mismatch { key: self.key, store, sent: self.size, stored });
        }
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(self.hash.finish().as_ref());
        Ok(Stored { size: stored, sha256 })
    }

    /// Gives up and removes the parts sent so far, as far as the store allows.
    pub async fn abort(mut self) {
        if let Some(mut parts) = self.parts.take() {
            parts.running.shutdown().await;
            // What stays behind is invisible, and swept with the other parts of uploads that died.
            let _ = parts.upload.abort().await;
        }
    }

    async fn send(&mut self, body: Vec<Bytes>) -> Result<(), StoreError> {
        let failed = |source| StoreError::of("write", &self.key, self.store.location(), source);
        let parallel = self.parallel;
        let parts = match &mut self.parts {
            Some(parts) => parts,
            none => {
                let path = self.store.path(&self.key);
                let upload = self.store.objects.put_multipart(&path).await.map_err(failed)?;
                none.insert(Parts { upload, sent: 0, running: JoinSet::new() })
            }
        };
        if parts.sent >= MOST {
            let store = self.store.location().to_owned();
            return Err(StoreError::TooLarge { key: self.key.clone(), store, size: self.size });
        }
        while parts.running.len() >= parallel.min(ON_THE_WAY / part_size(parts.sent)) {
            settle(parts.running.join_next().await).map_err(failed)?;
        }
        parts.sent += 1;
        parts.running.spawn(parts.upload.put_part(PutPayload::from_iter(body)));
        Ok(())
    }

    async fn complete(&mut self) -> Result<(), StoreError> {
        let failed = |source| StoreError::of("write", &self.key, self.store.location(), source);
        let Some(parts) = &mut self.parts else { return Ok(()) };
        while !parts.running.is_empty() {
            settle(parts.running.join_next().await).map_err(failed)?;
        }
        let Err(error) = parts.upload.complete().await else { return Ok(()) };
        // Its answer may have been lost, and the next attempt told that there is no such upload any more.
        match self.store.head(&self.key).await {
            Ok(info) if info.size == self.size => Ok(()),
            _ => Err(failed(error)),
        }
    }
}

fn settle(part: Option<Result<object_store::Result<()>, tokio::task::JoinError>>) -> object_store::Result<()> {
    match part {
        None => Ok(()),
        Some(Ok(result)) => result,
        Some(Err(source)) => Err(object_store::Error::JoinError { source }),
    }
}

fn part_size(sent: u32) -> usize {
    if sent < SMALL { PART } else { 4 * PART }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "the numbers of tests are meant to be cut")]
mod tests {
    use super::{Bytes, WHOLE, Waiting};

    #[test]
    fn what_waits_keeps_its_order_and_small_pieces_are_put_together() {
        let mut waiting = Waiting::default();
        let mut all = Vec::new();
        for (number, length) in [1, 2, WHOLE, 3, WHOLE - 1, WHOLE - 1, 5 * WHOLE, 0, 7].into_iter().enumerate() {
            waiting.push(vec![number as u8; length].into());
            all.extend(vec![number as u8; length]);
        }
        assert_eq!(waiting.length, all.len());
        let mut taken = waiting.take(WHOLE + 10).concat();
        assert_eq!(taken.len(), WHOLE + 10);
        taken.extend(waiting.take(usize::MAX).concat());
        assert!(taken == all);
        assert_eq!(waiting.length, 0);
        for _ in 0..100_000 {
            waiting.push(Bytes::from_static(b"x"));
        }
        assert!(waiting.take(usize::MAX).len() <= 2);
    }
}
