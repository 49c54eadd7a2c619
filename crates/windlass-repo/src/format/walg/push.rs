//! Puts files of WAL into the archive, and objects of base backups beside them.
//!
//! Promised: what is there under a name stays. The same content once more is no error, whoever compressed it and how; other
//! content is ([`WalgError::OtherContent`]), and nothing is overwritten. A segment is looked at before it is taken: it has to be
//! whole, of its name, and of the cluster. When this returns, the store has confirmed it.
//!
//! A file is held in memory once, compressed; a segment before that also as it is, for what is said of it in front of its content.

use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use windlass_core::point::ObjectRef;
use windlass_core::wal::{SegmentSize, WalFile};

use super::backups::{Backups, unread};
use super::fetch::is_meant;
use super::{
    BASE_BACKUPS, BackupName, Codec, Compression, Compressor, FRAME, Fault, SealKey, Sealer, WAL, WalgError, summary,
    wal_object,
};
use crate::object::{ObjectError, ObjectWriter};
use crate::store::{Key, StoreError};

/// A file of the archive, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archived {
    /// Whether it was new to the archive, rather than there already with the same content.
    pub is_new: bool,
    /// Its object.
    pub object: ObjectRef,
}

/// What is known of a name before a file is stored under it. That it is created, or not, decides all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// There is nothing, unless another writes, too.
    NotThere,
    /// There may be something.
    MayBeThere,
}

/// Seals an archive, piece by piece.
pub struct Sealing(Sealer<Vec<u8>>);

impl Sealing {
    /// The next bytes, sealed as far as that can be done without knowing what follows.
    pub fn seal(&mut self, bytes: &[u8]) -> Result<Vec<u8>, WalgError> {
        self.0.write_all(bytes).map_err(|error| WalgError::Pack { why: error.to_string() })?;
        Ok(self.0.take_sealed())
    }

    /// The rest of it.
    pub fn finish(self) -> Result<Vec<u8>, WalgError> {
        self.0.finish().map_err(|error| WalgError::Pack { why: error.to_string() })
    }
}

impl Backups {
    /// What seals an archive of a base backup on its way to the store; nothing, where nothing is sealed.
    pub fn sealing(&self) -> Result<Option<Sealing>, WalgError> {
        self.key.as_deref().map(|key| Sealer::new(key, Vec::new()).map(Sealing)).transpose()
    }

    /// Begins an object of a base backup, by its name below the prefix. What is written is stored as it is.
    pub fn write(&self, object: &str) -> Result<ObjectWriter, ObjectError> {
        ObjectWriter::new(&self.store, &Key::foreign(object), None)
    }

    /// What there is of a base backup: its objects but the sentinel, and that; with their sizes.
    pub async fn objects(&self, backup: &BackupName) -> Result<Vec<(String, u64)>, WalgError> {
        let folder = format!("{BASE_BACKUPS}/{backup}");
        let listed = self.store.list_all(Some(&Key::foreign(&folder))).await.map_err(|error| unread(&folder, error))?;
        let mut objects: Vec<_> = listed.into_iter().map(|object| (object.key.to_string(), object.size)).collect();
        match self.store.head(&Key::foreign(&backup.sentinel())).await {
            Ok(object) => objects.push((backup.sentinel(), object.size)),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(unread(&backup.sentinel(), error)),
        }
        Ok(objects)
    }

    /// Puts the file `name` of a cluster into the archive; its content is that of `file`, which nobody writes any more. `None` where
    /// it is there already, with this content.
    pub async fn push(
        &self,
        name: &str,
        file: &Arc<File>,
        cluster: u64,
        compression: Compression,
        before: Before,
    ) -> Result<Option<ObjectRef>, WalgError> {
        let named = looked_at(name, file, cluster)?;
        // Creating it tells of one that is compressed alike, and of no other.
        let looked_for: Vec<Codec> = match before {
            Before::MayBeThere => Codec::ALL.to_vec(),
            Before::NotThere => Codec::WRITTEN.into_iter().filter(|codec| *codec != compression.codec()).collect(),
        };
        if self.is_there(&looked_for, name, file).await? {
            return Ok(None);
        }
        let (object, made) = self.pack(name, named, file, compression).await?;
        // A server may have begun to use the file anew while it was read.
        looked_at(name, file, cluster)?;
        let stored = stored(&object, &made);
        match self.store.create_from(&Key::foreign(&object), made).await {
            Ok(_) => Ok(Some(stored)),
            // Another put it there meanwhile, or it is sealed: no two of those are the same.
            Err(StoreError::Occupied { .. }) if self.is_there(&Codec::ALL, name, file).await? => Ok(None),
            Err(StoreError::Occupied { .. }) => Err(WalgError::OtherContent { object }),
            Err(error) => Err(unread(&object, error)),
        }
    }

    /// The same, and what the archive then holds of it.
    pub async fn archived(
        &self,
        name: &str,
        file: &Arc<File>,
        cluster: u64,
        compression: Compression,
    ) -> Result<Archived, WalgError> {
        if let Some(object) = self.push(name, file, cluster, compression, Before::MayBeThere).await? {
            return Ok(Archived { is_new: true, object });
        }
        let gone = || io::Error::other("it was there a moment ago, and is not any more");
        let object = self.find_stored(name).await?;
        let object = object.ok_or_else(|| WalgError::Read { object: name.to_owned(), source: gone() })?;
        Ok(Archived { is_new: false, object })
    }

    /// The object a file is stored as, by its name below the prefix, and its pieces.
    async fn pack(
        &self,
        name: &str,
        named: WalFile,
        file: &Arc<File>,
        compression: Compression,
    ) -> Result<(String, Vec<Bytes>), WalgError> {
        let (title, from, key) = (name.to_owned(), Arc::clone(file), self.key.clone());
        let made = tokio::task::spawn_blocking(move || object(&title, from, compression, key.as_deref()));
        let made = made.await.map_err(|error| taken(name, io::Error::other(error)))??;
        Ok((wal_object(named, SegmentSize::LEAST, compression.codec()), made))
    }

    /// The object the file `name` of a cluster would be stored as, and its pieces. The store is not asked.
    pub async fn packed(
        &self,
        name: &str,
        file: &Arc<File>,
        cluster: u64,
        compression: Compression,
    ) -> Result<(String, Vec<Bytes>), WalgError> {
        let named = looked_at(name, file, cluster)?;
        self.pack(name, named, file, compression).await
    }

    /// Puts an object into the archive that was made before, by its name without the folder.
    pub async fn push_packed(&self, object: &str, bytes: Vec<u8>, cluster: u64) -> Result<(), WalgError> {
        let stored = self.unpacked(object, bytes);
        let content = tempfile::tempfile().map_err(|source| taken(object, source))?;
        let content =
            tokio::task::spawn_blocking(move || stored.unpack(Some(cluster), &content).map(|_| (stored, content)));
        let (stored, content) = content.await.map_err(|error| taken(object, io::Error::other(error)))??;
        let (name, content) = (stored.name().to_owned(), Arc::new(content));
        if self.is_there(&Codec::ALL, &name, &content).await? {
            return Ok(());
        }
        let object = format!("{WAL}/{object}");
        match self.store.create_from(&Key::foreign(&object), vec![stored.into_bytes().into()]).await {
            Ok(_) => Ok(()),
            // As above: no two that are sealed are the same.
            Err(StoreError::Occupied { .. }) if self.is_there(&Codec::ALL, &name, &content).await? => Ok(()),
            Err(StoreError::Occupied { .. }) => Err(WalgError::OtherContent { object }),
            Err(error) => Err(unread(&object, error)),
        }
    }

    /// A file as the archive holds it.
    pub async fn find_stored(&self, name: &str) -> Result<Option<ObjectRef>, WalgError> {
        let Some((object, _)) = self.find(name).await? else { return Ok(None) };
        let failed = |error| unread(&object, error);
        let pieces = self.store.read(&Key::foreign(&object)).await.map_err(failed)?;
        let pieces: Vec<Bytes> = pieces.map(|piece| piece.map_err(failed)).try_collect().await?;
        Ok(Some(stored(&object, &pieces)))
    }

    /// A file that the archive holds with this content: with other content that is an error.
    async fn is_there(&self, looked_for: &[Codec], name: &str, file: &Arc<File>) -> Result<bool, WalgError> {
        let Some((object, codec)) = self.find_among(looked_for, name).await? else { return Ok(false) };
        let from = Arc::clone(file);
        match self.blocking(object.clone(), codec, move |archived| is_same(archived, &from)).await {
            Ok(true) => Ok(true),
            Ok(false) => Err(WalgError::OtherContent { object }),
            Err(WalgError::Target { source, .. }) => Err(taken(name, source)),
            Err(error) => Err(error),
        }
    }
}

/// What a file is by its name; one that is not what it is called, or of another cluster, is refused.
fn looked_at(name: &str, file: &File, cluster: u64) -> Result<WalFile, WalgError> {
    let not_ours = |why: String| WalgError::Segment { object: name.to_owned(), why };
    let named = WalFile::parse(name, SegmentSize::LEAST).map_err(|error| not_ours(error.to_string()))?;
    let is = file.metadata().map_err(|source| taken(name, source))?;
    if !is.is_file() {
        return Err(taken(name, io::Error::other("it is no file")));
    }
    is_meant(name, Some(cluster), file, is.len())?;
    Ok(named)
}

/// Reads a file from its beginning, wherever others that have it are.
struct InOrder {
    file: Arc<File>,
    at: u64,
}

impl Read for InOrder {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(into, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// What is to be said of an object, from its bytes.
fn stored(object: &str, pieces: &[Bytes]) -> ObjectRef {
    let (mut hash, mut size) = (ring::digest::Context::new(&ring::digest::SHA256), 0);
    for piece in pieces {
        hash.update(piece);
        size += piece.len() as u64;
    }
    let sha256 = crate::hex::encode(hash.finish().as_ref());
    let (plain_size, plain_sha256) = (size, sha256.clone());
    ObjectRef { key: object.to_owned(), size, sha256, plain_size, plain_sha256, sealed_to: None }
}

pub(super) fn is_same(mut archived: &mut (dyn Read + Send), file: &Arc<File>) -> io::Result<bool> {
    let mut file = InOrder { file: Arc::clone(file), at: 0 };
    let failed = |source| io::Error::from(Fault::Target(source));
    let (mut ours, mut theirs) = (vec![0; 64 << 10], Vec::with_capacity(64 << 10));
    loop {
        theirs.clear();
        (&mut archived).take(64 << 10).read_to_end(&mut theirs)?;
        // To the end of both: a longer one is another.
        let mut read = 0;
        while read < ours.len() {
            match file.read(&mut ours[read..]).map_err(failed)? {
                0 => break,
                more => read += more,
            }
        }
        if ours[..read] != theirs {
            return Ok(false);
        }
        if read == 0 {
            return Ok(true);
        }
    }
}

/// The object of a file: compressed, and sealed where there is a key.
fn object(
    name: &str,
    file: Arc<File>,
    compression: Compression,
    key: Option<&SealKey>,
) -> Result<Vec<Bytes>, WalgError> {
    let failed = |source| taken(name, source);
    let (mut frames, mut content): (_, Box<dyn Read>) = match whole(name, &file)? {
        Some(segment) => (vec![summary::frame_of(name, &segment)?], Box::new(Cursor::new(segment))),
        None => (Vec::new(), Box::new(InOrder { file, at: 0 })),
    };
    let (mut compressor, mut piece, in_front) = (Compressor::new(compression)?, Vec::new(), frames.len());
    loop {
        piece.clear();
        (&mut content).take(FRAME as u64).read_to_end(&mut piece).map_err(failed)?;
        if piece.is_empty() && frames.len() > in_front {
            break;
        }
        frames.push(compressor.frame(&piece)?.to_vec());
    }
    let Some(key) = key else { return Ok(frames.into_iter().map(Bytes::from).collect()) };
    let mut sealer = Sealer::new(key, Vec::new())?;
    frames.iter().try_for_each(|frame| sealer.write_all(frame)).map_err(failed)?;
    Ok(vec![sealer.finish().map_err(failed)?.into()])
}

/// A segment, all of it: what is said of it goes in front of its content. None of what is none, or too large for that.
fn whole(name: &str, file: &File) -> Result<Option<Vec<u8>>, WalgError> {
    let is_segment = matches!(WalFile::parse(name, SegmentSize::LEAST), Ok(WalFile::Segment(_)));
    let size = file.metadata().map_err(|source| taken(name, source))?.len();
    if !is_segment || size > summary::LARGEST {
        return Ok(None);
    }
    let mut segment = vec![0; usize::try_from(size).unwrap_or_default()];
    file.read_exact_at(&mut segment, 0).map_err(|source| taken(name, source))?;
    Ok(Some(segment))
}

fn taken(name: &str, source: io::Error) -> WalgError {
    WalgError::Source { path: PathBuf::from(name), source }
}
