//! A prefix in the layout of WAL-G, in a store: what it holds, and how that is read.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::io::{StreamReader, SyncIoBridge};
use windlass_core::wal::{History, Lsn, Segment, SegmentSize, Timeline, WalFile};

use super::archive::Entries;
use super::ledger::LEDGER;
use super::replay::Replay;
use super::{
    Archive, Backup, BackupName, Codec, CommitWalk, FilesMetadata, Ledger, Listing, PartName, Present, SealKey,
    SegmentHeader, Sentinel, Step, Target, Unpacked, WalgError, open, wal_object,
};
use crate::store::{Key, Store, StoreError};

/// Archives that are read at once: as many as two cores can unpack, and one that is waited for.
const AT_ONCE: usize = 3;

/// Segments whose headers are tried to learn how large segments are: one may be damaged, or sealed by another key.
const TRIED: usize = 8;

/// The longest file of the archive but a segment, and the longest segment.
pub(super) const SMALL: u64 = 1 << 20;
pub(super) const LARGE: u64 = 1 << 30;

/// A prefix: where it is, and what opens it. Nothing is read until it is used.
#[derive(Clone)]
pub struct Backups {
    pub(super) store: Store,
    pub(super) key: Option<Arc<SealKey>>,
}

/// What a prefix holds.
#[derive(Clone, Debug)]
pub struct Held {
    /// Base backups that are finished, the oldest first.
    pub backups: Vec<BaseBackup>,
    /// Base backups without a sentinel: under way, or left over.
    pub unfinished: Vec<BackupName>,
    /// What could not be read, in words: base backups and timelines that are left out because of it.
    pub unreadable: Vec<String>,
    /// How large segments are here.
    pub size: SegmentSize,
    listing: Listing,
    pub(super) segments: BTreeSet<Segment>,
    pub(super) histories: BTreeMap<Timeline, History>,
}

/// A base backup that is finished.
#[derive(Clone, Debug)]
pub struct BaseBackup {
    /// Its name.
    pub name: BackupName,
    /// What it says of itself.
    pub sentinel: Sentinel,
    /// The timeline it was taken on, and the segment it starts in.
    pub segment: Segment,
    /// When it ended: as it says, or when the store got it.
    pub at: Timestamp,
    /// Bytes of its objects as stored.
    pub stored_bytes: u64,
}

impl Backups {
    /// Someone else's, at the root of a store.
    pub fn foreign(store: &Store, key: Option<SealKey>) -> Self {
        Self { store: store.clone(), key: key.map(Arc::new) }
    }

    /// That of a cluster in a repository of ours.
    pub fn ours(store: &Store, cluster: &Key, key: Option<SealKey>) -> Self {
        Self::foreign(&store.below(cluster), key)
    }

    /// Looks at everything by name, and reads the sentinels and histories.
    pub async fn look(&self) -> Result<Held, WalgError> {
        let mut objects = Vec::new();
        for folder in [super::BASE_BACKUPS, super::WAL] {
            let listed = self.store.list_all(Some(&Key::foreign(folder))).await;
            objects.extend(listed.map_err(|error| unread(folder, error))?);
        }
        let size = self.segment_size(objects.iter().map(|object| object.key.as_str())).await?;
        let listing = Listing::read(objects.iter().map(|object| object.key.as_str()), size);
        let (mut backups, mut unfinished, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
        for (name, present) in &listing.backups {
            if !present.sentinel {
                unfinished.push(name.clone());
                continue;
            }
            let (sentinel, segment) = match self.sentinel(name, size).await {
                Ok(found) => found,
                Err(error @ WalgError::Read { .. }) => return Err(error),
                Err(error) => {
                    unreadable.push(error.to_string());
                    continue;
                }
            };
            let folder = format!("{}/{name}/", super::BASE_BACKUPS);
            let of_it = |key: &str| key.starts_with(&folder);
            let stored = objects.iter().filter(|object| of_it(object.key.as_str()));
            let stored_bytes = stored.map(|object| object.size).sum();
            let written = objects.iter().find(|object| object.key.as_str() == name.sentinel());
            let at = sentinel.finished.or(written.map(|object| object.modified)).unwrap_or_default();
            backups.push(BaseBackup { segment, name: name.clone(), sentinel, at, stored_bytes });
        }
        backups.sort_by_key(|backup| backup.at);
        let mut histories = BTreeMap::new();
        for (file, codecs) in &listing.wal {
            if let (WalFile::History(timeline), Some(codec)) = (file, codecs.first()) {
                match self.history(*timeline, *codec).await {
                    Ok(history) => drop(histories.insert(*timeline, history)),
                    Err(error @ WalgError::Read { .. }) => return Err(error),
                    Err(error) => unreadable.push(error.to_string()),
                }
            }
        }
        let segments = whole(&listing).collect();
        Ok(Held { backups, unfinished, unreadable, size, listing, segments, histories })
    }

    async fn sentinel(&self, name: &BackupName, size: SegmentSize) -> Result<(Sentinel, Segment), WalgError> {
        let sentinel = Sentinel::read(name, &self.document(&name.sentinel()).await?)?;
        let segment = name.segment(size);
        let segment = segment.map_err(|error| WalgError::Chain { backup: name.to_string(), why: error.to_string() })?;
        Ok((sentinel, segment))
    }

    /// As the newest segments say; the usual size where none can be read.
    pub(super) async fn segment_size<'a>(
        &self,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<SegmentSize, WalgError> {
        let any = SegmentSize::LEAST;
        let listing = Listing::read(names, any);
        let segments = listing.wal.iter().rev().filter(|(file, _)| matches!(file, WalFile::Segment(_)));
        for (file, codecs) in segments.take(TRIED) {
            let Some(codec) = codecs.first() else { continue };
            let object = wal_object(*file, any, *codec);
            let head = self.blocking(object.clone(), *codec, |content| {
                let mut head = vec![0; super::wal::LONG];
                content.read_exact(&mut head).map(|()| head)
            });
            match head.await.and_then(|head| SegmentHeader::read(&object, &head)) {
                Ok(header) => return Ok(header.size),
                Err(error @ WalgError::Read { .. }) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(SegmentSize::default())
    }

    pub(super) async fn history(&self, timeline: Timeline, codec: Codec) -> Result<History, WalgError> {
        let object = wal_object(WalFile::History(timeline), SegmentSize::default(), codec);
        let text = self.blocking(object.clone(), codec, |content| {
            let mut text = String::new();
            content.take(SMALL).read_to_string(&mut text).map(|_| text)
        });
        let text = text.await?;
        History::parse(timeline, &text).map_err(|error| WalgError::Document { object, why: error.to_string() })
    }

    /// A base backup and those it stands on, the newest first.
    pub async fn chain(&self, held: &Held, newest: &BackupName) -> Result<Vec<Backup>, WalgError> {
        let broken = |why| WalgError::Chain { backup: newest.to_string(), why };
        let mut chain = Vec::new();
        for (BaseBackup { name, sentinel, .. }, present) in held.chain(newest).map_err(broken)? {
            let files = if present.files_metadata && !sentinel.without_files_metadata {
                Some(FilesMetadata::read(name, &self.document(&name.files_metadata()).await?)?)
            } else {
                None
            };
            chain.push(Backup { name: name.clone(), sentinel: sentinel.clone(), files });
        }
        Ok(chain)
    }

    /// Lays a chain down, whole and on disk. With a ledger, a full backup goes on where it was.
    pub async fn lay_down(
        &self,
        held: &Held,
        chain: &[Backup],
        target: Target,
        ledger: Option<&Arc<Ledger>>,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Unpacked, WalgError> {
        let mut all = Unpacked::default();
        // What changes pages that are there has to come in order.
        let again = ledger.is_some_and(|ledger| ledger.is_begun());
        let ledger = ledger.filter(|_| chain.len() == 1);
        let target = Arc::new(target);
        let mut done = Vec::new();
        for step in Step::plan(chain)? {
            let step = Arc::new(step);
            let mut parts = parts(held, &step.backup).into_iter();
            let mut running = JoinSet::new();
            loop {
                while running.len() < AT_ONCE
                    && let Some(name) = parts.next()
                {
                    let object = step.backup.part(&name);
                    if let Some(names) = ledger.and_then(|ledger| ledger.part(&object)) {
                        step.have(names);
                        continue;
                    }
                    let stored = self.stored(&object).await?;
                    let (key, step, target) = (self.key.clone(), Arc::clone(&step), Arc::clone(&target));
                    let ledger = ledger.cloned();
                    running.spawn_blocking(move || {
                        let archive = Archive { name: &name, key: key.as_deref(), stored, again };
                        let (unpacked, names) = target.unpack_noting(&step, archive)?;
                        if let Some((ledger, names)) = ledger.zip(names) {
                            let noted = ledger.unpacked(&object, names);
                            noted.map_err(|source| target.failed(&[OsStr::new(LEDGER)], source))?;
                        }
                        Ok(unpacked)
                    });
                }
                let Some(unpacked) = running.join_next().await else { break };
                let Unpacked { files, bytes } = unpacked.map_err(|error| ended(&step.backup, &error))??;
                progress(bytes);
                (all.files, all.bytes) = (all.files + files, all.bytes + bytes);
            }
            done.push(step);
        }
        // No thread has them any more.
        let steps: Vec<Step> = done.into_iter().filter_map(Arc::into_inner).collect();
        if let Some(target) = Arc::into_inner(target) {
            tokio::task::spawn_blocking(move || target.finish(&steps))
                .await
                .map_err(|error| WalgError::Target { path: PathBuf::new(), source: std::io::Error::other(error) })??;
        }
        Ok(all)
    }

    /// When the last transaction ended whose end is in these segments, on the way to a timeline, of the cluster with this
    /// identifier.
    pub async fn last_end(
        &self,
        held: &Held,
        (timeline, segments): (Timeline, &[Segment]),
        cluster: Option<u64>,
    ) -> Result<Option<Timestamp>, WalgError> {
        let left = held.history_of(timeline);
        for segment in segments.iter().rev() {
            if left.end_of(segment.timeline).is_none_or(|left| left >= segment.end(held.size))
                && let Some(said) = self.summary(held, *segment).await?
            {
                match said.ended {
                    Some((_, latest)) => return Ok(Some(latest)),
                    None => continue,
                }
            }
            let (header, bytes) = self.segment(held, *segment, cluster).await?;
            let found = CommitWalk::new().marks(&header, &bytes, left.end_of(segment.timeline), &mut |_| {});
            if found.latest.is_some() {
                return Ok(found.latest);
            }
        }
        Ok(None)
    }

    /// Where a file of the archive is; each way of compressing it is asked for, the usual ones first.
    pub(super) async fn find(&self, file: &str) -> Result<Option<(String, Codec)>, WalgError> {
        self.find_among(&Codec::ALL, file).await
    }

    /// The same, of some ways.
    pub(super) async fn find_among(&self, codecs: &[Codec], file: &str) -> Result<Option<(String, Codec)>, WalgError> {
        let Ok(file) = WalFile::parse(file, SegmentSize::LEAST) else { return Ok(None) };
        self.find_as(codecs, |codec| wal_object(file, SegmentSize::LEAST, codec)).await
    }

    /// Where an object is whose name says how it is compressed.
    pub(super) async fn find_as(
        &self,
        codecs: &[Codec],
        name: impl Fn(Codec) -> String,
    ) -> Result<Option<(String, Codec)>, WalgError> {
        for codec in codecs.iter().copied() {
            let object = name(codec);
            match self.store.head(&Key::foreign(&object)).await {
                Ok(_) => return Ok(Some((object, codec))),
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(unread(&object, error)),
            }
        }
        Ok(None)
    }

    async fn document(&self, object: &str) -> Result<Vec<u8>, WalgError> {
        let bytes = self.store.get(&Key::foreign(object)).await;
        bytes.map(|bytes| bytes.to_vec()).map_err(|error| unread(object, error))
    }

    /// An object as it is stored, for a thread that reads.
    async fn stored(&self, object: &str) -> Result<impl Read + Send + use<>, WalgError> {
        let stream = self.store.read(&Key::foreign(object)).await.map_err(|error| unread(object, error))?;
        let stream = stream.map_err(std::io::Error::other).boxed();
        Ok(SyncIoBridge::new(StreamReader::new(stream)))
    }

    /// Reads the content of an object on a thread of its own.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        object: String,
        codec: Codec,
        read: impl FnOnce(&mut (dyn Read + Send)) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, WalgError> {
        let (stored, key) = (self.stored(&object).await?, self.key.clone());
        let name = object.clone();
        let task = tokio::task::spawn_blocking(move || {
            let mut content = open(&object, codec, key.as_deref(), stored)?;
            read(&mut *content).map_err(|error| WalgError::of_read(&object, error))
        });
        task.await.map_err(|error| WalgError::Read { object: name, source: std::io::Error::other(error) })?
    }
}

impl Held {
    /// The timelines whose histories are archived.
    pub fn timelines(&self) -> impl Iterator<Item = Timeline> {
        self.histories.keys().copied()
    }

    /// The WAL behind a base backup, on the newest timeline that leads on from there.
    pub fn replay(&self, backup: &BackupName) -> Option<Replay> {
        self.replay_on(backup, None)
    }

    /// The same on a timeline that is named; `None` also where that does not lead on from there.
    pub fn replay_on(&self, backup: &BackupName, timeline: Option<Timeline>) -> Option<Replay> {
        let backup = self.backups.iter().find(|one| one.name == *backup)?;
        let start = backup.sentinel.start.unwrap_or_else(|| backup.segment.start(self.size));
        let consistent = backup.sentinel.finish.unwrap_or(start);
        let from = backup.segment.timeline;
        let of_path = |history: &History| timeline.is_none_or(|timeline| history.timeline() <= timeline);
        let histories: BTreeMap<Timeline, History> =
            self.histories.iter().filter(|(_, history)| of_path(history)).map(|(t, h)| (*t, h.clone())).collect();
        let replay = Replay::behind(from, (start, consistent), &self.segments, &histories, self.size);
        timeline.is_none_or(|timeline| timeline == replay.timeline).then_some(replay)
    }

    /// Where the next base backup begins that the WAL behind this one leads to.
    pub fn next_base(&self, backup: &BackupName, replay: &Replay) -> Option<Lsn> {
        let base = self.backups.iter().find(|one| one.name == *backup)?;
        let later =
            self.backups.iter().filter(|one| one.segment > base.segment && replay.segments.contains(&one.segment));
        later.filter_map(|one| one.sentinel.start).filter(|start| Some(*start) > base.sentinel.finish).min()
    }

    /// The first byte behind what can be replayed; `None` where nothing can.
    pub fn end_of(&self, replay: &Replay) -> Option<Lsn> {
        let last = replay.segments.last()?;
        // What an older timeline wrote behind where it was left is not on the way.
        let left = self.history_of(replay.timeline).end_of(last.timeline);
        Some(left.map_or(last.end(self.size), |left| left.min(last.end(self.size))))
    }

    /// The segments that make a base backup consistent; or which is missing, in words.
    pub fn until_consistent(&self, backup: &BackupName) -> Result<Vec<Segment>, String> {
        let unknown = || format!("there is no base backup `{backup}`");
        let replay = self.replay(backup).ok_or_else(unknown)?;
        let held = self.backups.iter().find(|one| one.name == *backup).ok_or_else(unknown)?;
        let finish = held.sentinel.finish.ok_or_else(|| format!("`{backup}` does not say where it is consistent"))?;
        if !replay.reaches(finish, self.size) {
            let next = replay.segments.last().map_or(held.segment, |last| last.next());
            return Err(format!(
                "the WAL segment {} is missing: `{backup}` is consistent at {finish} only",
                next.name(self.size)
            ));
        }
        Ok(replay.segments.into_iter().filter(|segment| segment.start(self.size) < finish).collect())
    }

    /// What is missing of a base backup and of those it stands on, by name; nothing where all is there.
    pub fn lacks(&self, backup: &BackupName) -> Option<String> {
        self.chain(backup).err()
    }

    /// A base backup and those it stands on, the newest first, with what is there of each; or what is missing, in words.
    fn chain(&self, newest: &BackupName) -> Result<Vec<(&BaseBackup, &Present)>, String> {
        let mut chain: Vec<(&BaseBackup, &Present)> = Vec::new();
        let mut next = Some(newest);
        while let Some(name) = next {
            if chain.iter().any(|(backup, _)| backup.name == *name) {
                return Err(format!("it stands on `{name}` twice"));
            }
            let held = self.backups.iter().find(|one| one.name == *name);
            let there = held.zip(self.listing.backups.get(name));
            let (held, present) = there.ok_or_else(|| format!("`{name}`, on which it stands, is not there"))?;
            usable(name, present)?;
            chain.push((held, present));
            next = held.sentinel.delta.as_ref().map(|delta| &delta.from);
        }
        Ok(chain)
    }

    /// Where a segment is, and how it is compressed.
    pub(super) fn object(&self, segment: Segment) -> Option<(String, Codec)> {
        let file = WalFile::Segment(segment);
        let codec = *self.listing.wal.get(&file)?.first()?;
        Some((wal_object(file, self.size, codec), codec))
    }
}

pub(super) fn whole(listing: &Listing) -> impl Iterator<Item = Segment> {
    listing.wal.keys().filter_map(|file| match file {
        WalFile::Segment(segment) => Some(*segment),
        _ => None,
    })
}

/// The archives of a base backup, those of files first.
pub(super) fn parts(held: &Held, backup: &BackupName) -> Vec<PartName> {
    let mut parts = held.listing.backups.get(backup).map(|present| present.parts.clone()).unwrap_or_default();
    parts.sort_by_key(|part| (part.kind(), part.to_string()));
    parts
}

/// Whether a base backup can be restored by what is there of it.
fn usable(name: &BackupName, present: &Present) -> Result<(), String> {
    let has = |kind| present.parts.iter().any(|part| part.kind() == kind);
    if !has(super::PartKind::Control) {
        return Err(format!("`{name}` has no archive of pg_control"));
    }
    if !has(super::PartKind::Files) {
        return Err(format!("`{name}` has no archive of files"));
    }
    // They are numbered without a gap.
    let parts = || present.parts.iter().filter(|part| part.kind() == super::PartKind::Files).map(ToString::to_string);
    let number = |part: &str| part.strip_prefix("part_")?.split('.').next()?.parse::<u64>().ok();
    let numbers: BTreeSet<u64> = parts().filter_map(|part| number(&part)).collect();
    if let Some(missing) = (1..=numbers.last().copied().unwrap_or(0)).find(|number| !numbers.contains(number)) {
        return Err(format!("`{name}` has no archive part_{missing:03}"));
    }
    Ok(())
}

/// Walks an archive, and ticks off what it holds. Returns the bytes of its files.
pub(super) fn walk(content: &mut (dyn Read + Send), step: &Step) -> std::io::Result<u64> {
    let mut entries = Entries::new(content);
    let mut bytes = 0;
    while let Some(entry) = entries.next()? {
        bytes += entry.size;
        if let Some(wanted) = step.wanted.as_ref().and_then(|wanted| wanted.get(&*String::from_utf8_lossy(&entry.name)))
        {
            wanted.is_there.store(true, Ordering::Relaxed);
        }
    }
    Ok(bytes)
}

pub(super) fn unread(object: &str, error: StoreError) -> WalgError {
    WalgError::Read { object: object.to_owned(), source: std::io::Error::other(error) }
}

fn ended(backup: &BackupName, error: &tokio::task::JoinError) -> WalgError {
    WalgError::Read { object: backup.to_string(), source: std::io::Error::other(error.to_string()) }
}
