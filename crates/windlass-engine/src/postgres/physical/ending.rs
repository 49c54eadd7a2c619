//! How a base backup ends, however it was read: what lies beside its archives, and last of all the sentinel.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use windlass_core::point::{ObjectRef, Window};
use windlass_core::wal::{Lsn, Timeline};
use windlass_repo::format::walg::{
    BackupName, Compressor, FilesMetadata, PartName, Sentinel, Spec, Tablespace, WalgError,
};

use super::archives::{self, Packed};
use super::base_backup::{BaseBackup, Task};
use super::error::PhysicalError;
use super::outside::Outside;
use super::server::Facts;
use crate::moment;

/// The longest list of files that is stored: readers hold it in memory, and can do without.
const DOCUMENT: usize = 96 << 20;

/// The archives of a backup, and what is in them.
#[derive(Default)]
pub(super) struct Archived {
    objects: Vec<ObjectRef>,
    documents: FilesMetadata,
    /// Bytes of the files that were read, and of those made for the backup.
    file_bytes: u64,
    more_bytes: u64,
    pub(super) corrupt: BTreeMap<String, Vec<u32>>,
}

impl Archived {
    pub(super) fn take_up(&mut self, part: &PartName, packed: Packed, object: ObjectRef) {
        self.objects.push(object);
        self.file_bytes += packed.file_bytes;
        let names = packed.held.iter().map(|(name, _)| name.clone()).collect();
        self.documents.tar_file_sets.insert(part.to_string(), names);
        for (name, description) in packed.held {
            if let Some(blocks) = &description.corrupt_blocks {
                self.corrupt.insert(name.clone(), blocks.some_corrupt_blocks.clone());
            }
            self.documents.files.insert(name, description);
        }
    }

    /// Stores an archive of a few files that are in memory. WAL-G names those of `backup_label` in its document, and not
    /// `pg_control`.
    pub(super) async fn add(
        &mut self,
        task: &Task<'_>,
        name: &BackupName,
        part: PartName,
        files: &[(&str, &[u8])],
    ) -> Result<(), PhysicalError> {
        self.more_bytes += files.iter().map(|(_, content)| content.len() as u64).sum::<u64>();
        let packed = packed(task, files).map_err(PhysicalError::Walg)?;
        self.objects.push(put(task, &name.part(&part), &packed).await?);
        if part == PartName::label(part.codec()) {
            let names = files.iter().map(|(name, _)| (*name).to_owned()).collect();
            self.documents.tar_file_sets.insert(part.to_string(), names);
        }
        Ok(())
    }

    /// Stores what the server says of the backup, for whoever starts from it.
    pub(super) async fn add_label(
        &mut self,
        task: &Task<'_>,
        name: &BackupName,
        label: &str,
        map: Option<&str>,
    ) -> Result<(), PhysicalError> {
        let mut files = vec![("backup_label", label.as_bytes())];
        files.extend(map.filter(|map| !map.is_empty()).map(|map| ("tablespace_map", map.as_bytes())));
        self.add(task, name, PartName::label(task.compression.codec()), &files).await
    }

    /// That nothing else lies where every archive is unpacked, whoever put it there.
    async fn is_alone(&self, task: &Task<'_>, name: &BackupName) -> Result<(), PhysicalError> {
        let there = task.archive.objects(name).await.map_err(PhysicalError::Walg)?;
        let is_ours =
            |(key, size): &(String, u64)| self.objects.iter().any(|ours| ours.key == *key && ours.size == *size);
        match there.iter().find(|object| !is_ours(object)) {
            None => Ok(()),
            Some((other, _)) => {
                Err(PhysicalError::Changed { why: format!("somebody else wrote `{other}` into it meanwhile") })
            }
        }
    }
}

/// What is known of a base backup at its end.
pub(super) struct Ending {
    pub(super) name: BackupName,
    pub(super) timeline: Timeline,
    pub(super) start: Lsn,
    pub(super) stop: Lsn,
    pub(super) started: Timestamp,
    pub(super) window: Window,
    pub(super) facts: Facts,
    /// The server's data folder, as it knows it.
    pub(super) data_dir: String,
    pub(super) tablespaces: BTreeMap<u32, PathBuf>,
    /// The WAL from start to stop, in the archive.
    pub(super) wal: Vec<ObjectRef>,
    /// Settings that lie outside of the data folder.
    pub(super) outside: Outside,
    pub(super) warnings: Vec<String>,
}

impl Ending {
    /// Writes the documents, and makes it a base backup.
    pub(super) async fn write(self, task: &Task<'_>, archived: Archived) -> Result<BaseBackup, PhysicalError> {
        let Self {
            name,
            timeline,
            start,
            stop,
            started,
            window,
            facts,
            data_dir,
            tablespaces,
            wal,
            outside,
            mut warnings,
        } = self;
        archived.is_alone(task, &name).await?;
        let tablespace = |(oid, place): (u32, PathBuf)| {
            let (location, link) = (place.to_string_lossy().into_owned(), format!("pg_tblspc/{oid}"));
            (oid, Tablespace { location, link })
        };
        let spec = (!tablespaces.is_empty()).then(|| Spec {
            base_prefix: data_dir.clone(),
            tablespaces: tablespaces.into_iter().map(tablespace).collect(),
        });
        let described = archived.documents.write().map_err(PhysicalError::Walg)?;
        let is_short = described.len() <= DOCUMENT;
        let sentinel = Sentinel {
            start: Some(start),
            finish: Some(stop),
            pg_version: facts.version,
            system_identifier: Some(facts.system_identifier),
            uncompressed_size: signed(archived.file_bytes + archived.more_bytes),
            compressed_size: signed(archived.objects.iter().map(|object| object.size).sum()),
            data_size: signed(archived.file_bytes),
            spec,
            started: Some(started),
            finished: Some(now()),
            hostname: task.host.clone(),
            data_dir,
            without_files_metadata: !is_short,
            ..Sentinel::default()
        };
        let walg = PhysicalError::Walg;
        let Archived { mut objects, corrupt, .. } = archived;
        if is_short {
            objects.push(put(task, &name.files_metadata(), &described).await?);
        }
        warnings.extend(outside.warnings);
        let mut settings = Vec::new();
        if !outside.files.is_empty() {
            let below = |path: &str| path.trim_start_matches('/').to_owned();
            settings = outside.files.iter().map(|(path, _)| path.clone()).collect();
            let files: Vec<_> = outside.files.into_iter().map(|(path, content)| (below(&path), content)).collect();
            let files: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
            let packed = packed(task, &files).map_err(walg)?;
            objects.push(put(task, &name.settings(task.compression.codec()), &packed).await?);
        }
        objects.push(put(task, &name.metadata(), &sentinel.metadata().write().map_err(walg)?).await?);
        objects.push(put(task, &name.sentinel(), &sentinel.write().map_err(walg)?).await?);
        let Facts { segment_size, superuser, databases, .. } = facts;
        Ok(BaseBackup {
            name,
            timeline,
            segment_size,
            window,
            superuser,
            databases,
            sentinel,
            objects,
            wal,
            corrupt,
            settings,
            warnings,
        })
    }
}

/// An archive of a few files, as it is stored.
fn packed(task: &Task<'_>, files: &[(&str, &[u8])]) -> Result<Vec<u8>, WalgError> {
    let (mut compressor, mut stored) = (Compressor::new(task.compression)?, Vec::new());
    archives::pack_bytes(files, &mut compressor, |frame| stored.extend(frame))?;
    let Some(mut sealing) = task.archive.sealing()? else { return Ok(stored) };
    let mut sealed = sealing.seal(&stored)?;
    sealed.extend(sealing.finish()?);
    Ok(sealed)
}

/// Now, as precise as the format that WAL-G's documents name for it: `%f` has six digits.
pub(super) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

async fn put(task: &Task<'_>, name: &str, bytes: &[u8]) -> Result<ObjectRef, PhysicalError> {
    let object = PhysicalError::Object;
    let mut writer = task.archive.write(name).map_err(object)?;
    writer.write(bytes).await.map_err(object)?;
    moment::pass();
    let stored = writer.finish().await.map_err(object);
    moment::pass();
    stored
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
