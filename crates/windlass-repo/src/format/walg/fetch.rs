//! Gets files of WAL out of the archive.
//!
//! Promised: a segment that is handed out is whole, of its name, and of the cluster that was asked for. A file that is not there is
//! told from an archive that has a gap, and from a place that holds no archive at all: PostgreSQL takes the first for the end.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt;
use windlass_core::wal::{History, Segment, SegmentSize, Timeline, WalFile};

use super::backups::{Backups, LARGE, SMALL, unread, whole};
use super::{
    BackupName, Codec, Entries, Entry, Fault, Kind, Listing, SealKey, SegmentHeader, WalgError, open, wal_object,
};
use crate::store::{Key, StoreError};

/// The most that settings outside of a data folder may be, together.
const SETTINGS: u64 = 64 << 20;

/// A file of the archive as it is stored, in memory.
pub struct StoredWal {
    name: String,
    object: String,
    codec: Codec,
    bytes: Vec<u8>,
    key: Option<Arc<SealKey>>,
}

impl StoredWal {
    /// Its name, as a server calls it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its bytes as stored.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// How it is compressed; others of the archive usually are, too.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Whether its content is that of a file. Blocks.
    pub fn is(&self, file: &Arc<File>) -> Result<bool, WalgError> {
        let mut content = open(&self.object, self.codec, self.key.as_deref(), Cursor::new(&self.bytes))?;
        super::push::is_same(&mut *content, file).map_err(|error| WalgError::of_read(&self.object, error))
    }

    /// Writes its content from the beginning of a file, which is empty. A segment must be of the cluster with this identifier,
    /// where one is given; how large segments are is returned. Blocks.
    pub fn unpack(&self, cluster: Option<u64>, to: &File) -> Result<Option<SegmentSize>, WalgError> {
        let failed = |source| io::Error::from(Fault::Target(source));
        let small =
            matches!(WalFile::parse(&self.name, SegmentSize::LEAST), Ok(WalFile::History(_) | WalFile::Backup { .. }));
        let limit = if small { SMALL } else { LARGE };
        let mut content = open(&self.object, self.codec, self.key.as_deref(), Cursor::new(&self.bytes))?;
        let mut write = || -> io::Result<u64> {
            let (mut at, mut piece) = (0, vec![0; 128 << 10]);
            loop {
                let read = content.read(&mut piece)?;
                if read == 0 {
                    return Ok(at);
                }
                to.write_all_at(&piece[..read], at).map_err(failed)?;
                at += read as u64;
                if at > limit {
                    return Err(Fault::Damaged("it is longer than such a file can be").into());
                }
            }
        };
        let bytes = write().map_err(|error| WalgError::of_read(&self.object, error))?;
        is_meant(&self.name, cluster, to, bytes)
    }
}

/// Bytes of an object that may hold a segment: the largest one, and what compressing and sealing add where they gain nothing.
const LARGEST: u64 = LARGE + (LARGE >> 4);

impl Backups {
    /// A file by the bytes of its object, whose name this is without the folder, wherever they come from.
    pub fn unpacked(&self, object: &str, bytes: Vec<u8>) -> StoredWal {
        let (name, codec) = Codec::split(object);
        let (name, object) = (name.to_owned(), format!("{}/{object}", super::WAL));
        StoredWal { name, object, codec, bytes, key: self.key.clone() }
    }

    /// A file of the archive, by its name, as it is stored; `None` where it is not there. `likely` is tried first of the ways of
    /// compressing it.
    pub async fn stored_wal(&self, file: &str, likely: Codec) -> Result<Option<StoredWal>, WalgError> {
        let Ok(named) = WalFile::parse(file, SegmentSize::LEAST) else { return Ok(None) };
        let others = Codec::ALL.into_iter().filter(|codec| *codec != likely);
        for codec in std::iter::once(likely).chain(others) {
            let object = wal_object(named, SegmentSize::LEAST, codec);
            let mut pieces = match self.store.read(&Key::foreign(&object)).await {
                Ok(pieces) => pieces,
                Err(StoreError::NotFound { .. }) => continue,
                Err(error) => return Err(unread(&object, error)),
            };
            let mut bytes = Vec::new();
            while let Some(piece) = pieces.try_next().await.map_err(|error| unread(&object, error))? {
                bytes.extend_from_slice(&piece);
                if bytes.len() as u64 > LARGEST {
                    let why = "it is larger than any segment".to_owned();
                    return Err(WalgError::Damaged { object, why });
                }
            }
            return Ok(Some(StoredWal { name: file.to_owned(), object, codec, bytes, key: self.key.clone() }));
        }
        Ok(None)
    }

    /// Writes a file of the archive, by its name, which becomes visible whole; `false` where it is not there. A segment must be
    /// of the cluster with this identifier, where one is given.
    pub async fn fetch(&self, file: &str, cluster: Option<u64>, to: &Path) -> Result<bool, WalgError> {
        let Some(stored) = self.stored_wal(file, Codec::Zstd).await? else { return Ok(false) };
        let (place, named) = (to.to_owned(), file.to_owned());
        let write = move || {
            let failed = |source| WalgError::Target { path: place.clone(), source };
            let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let part = tempfile::Builder::new().prefix(".windlass-").tempfile_in(folder).map_err(failed)?;
            stored.unpack(cluster, part.as_file()).map_err(|error| match error {
                WalgError::Target { source, .. } => failed(source),
                other => other,
            })?;
            part.as_file().sync_all().map_err(failed)?;
            part.persist(&place).map_err(|error| failed(error.error))?;
            Ok(true)
        };
        let written = tokio::task::spawn_blocking(write).await;
        written.map_err(|error| WalgError::Read { object: named, source: io::Error::other(error) })?
    }

    /// Settings that lay outside of the data folder of a base backup: their names, which lead nowhere else, and their content.
    pub async fn settings(&self, backup: &BackupName) -> Result<Vec<(PathBuf, Vec<u8>)>, WalgError> {
        match self.find_as(&Codec::ALL, |codec| backup.settings(codec)).await? {
            Some((object, codec)) => self.blocking(object, codec, |content| settings(content)).await,
            None => Ok(Vec::new()),
        }
    }

    /// The newest segment of each timeline.
    pub async fn newest_segments(&self) -> Result<BTreeMap<Timeline, Segment>, WalgError> {
        let listed = self.store.list_all(Some(&Key::foreign(super::WAL))).await;
        let listed = listed.map_err(|error| unread(super::WAL, error))?;
        let names = || listed.iter().map(|object| object.key.as_str());
        let mut newest = BTreeMap::new();
        for segment in whole(&Listing::read(names(), SegmentSize::LEAST)) {
            let known = newest.entry(segment.timeline).or_insert(segment);
            *known = segment.max(*known);
        }
        Ok(newest)
    }

    /// Whether the archive goes on behind a file that is not in it: then it has a gap. An archive in which nothing is at all has
    /// not come to its end: it is not there.
    pub async fn goes_on_behind(&self, file: &str) -> Result<bool, WalgError> {
        if !matches!(WalFile::parse(file, SegmentSize::LEAST), Ok(WalFile::Segment(_))) {
            return Ok(false);
        }
        let listed = self.store.list_all(Some(&Key::foreign(super::WAL))).await;
        let listed = listed.map_err(|error| unread(super::WAL, error))?;
        let names = || listed.iter().map(|object| object.key.as_str());
        let size = self.segment_size(names()).await?;
        let listing = Listing::read(names(), size);
        let all: BTreeSet<Segment> = whole(&listing).collect();
        if all.is_empty() {
            let source = io::Error::other("there is no segment in it at all: is this the place?");
            return Err(WalgError::Read { object: super::WAL.to_owned(), source });
        }
        let Ok(WalFile::Segment(asked)) = WalFile::parse(file, size) else { return Ok(false) };
        let mut histories = BTreeMap::new();
        for (file, codecs) in &listing.wal {
            if let (WalFile::History(timeline), Some(codec)) = (file, codecs.first())
                && *timeline >= asked.timeline
            {
                histories.insert(*timeline, self.history(*timeline, *codec).await?);
            }
        }
        // What a timeline took over from the one before was never written on it.
        let switch = histories.get(&asked.timeline).and_then(|history| history.switches().last());
        let is_of_before = switch.is_some_and(|switch| asked.end(size) <= switch.at);
        Ok(!is_of_before
            && all.iter().any(|one| {
                let leads_on =
                    |history: &History| history.end_of(asked.timeline).is_some_and(|end| asked.start(size) < end);
                let is_on_the_way =
                    one.timeline == asked.timeline || histories.get(&one.timeline).is_some_and(leads_on);
                one.number > asked.number && is_on_the_way
            }))
    }
}

fn settings(content: &mut (dyn Read + Send)) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut entries = Entries::new(content.take(SETTINGS));
    let mut files = Vec::new();
    while let Some(Entry { name, kind, .. }) = entries.next()? {
        let name = PathBuf::from(OsString::from_vec(name));
        let is_below = name.components().all(|part| matches!(part, Component::Normal(_)));
        if !is_below || kind != Kind::File {
            return Err(Fault::Damaged("there is something else among the settings than files below a folder").into());
        }
        let mut content = Vec::new();
        entries.read_to_end(&mut content)?;
        files.push((name, content));
    }
    Ok(files)
}

/// Whether a file is the segment of that name, of that cluster, and all of it, and how large segments are; other files are
/// believed.
pub(super) fn is_meant(
    file: &str,
    cluster: Option<u64>,
    content: &File,
    bytes: u64,
) -> Result<Option<SegmentSize>, WalgError> {
    let failed = |source| WalgError::Target { path: file.into(), source };
    if !matches!(WalFile::parse(file, SegmentSize::LEAST), Ok(WalFile::Segment(_))) {
        return Ok(None);
    }
    let mut head = vec![0; super::wal::LONG];
    content.read_exact_at(&mut head, 0).map_err(failed)?;
    let header = SegmentHeader::read(file, &head)?;
    let named = Segment::parse(file, header.size);
    let named = named.map_err(|error| WalgError::Segment { object: file.to_owned(), why: error.to_string() })?;
    header.check(file, named, cluster.unwrap_or(header.system_identifier), bytes)?;
    Ok(Some(header.size))
}
