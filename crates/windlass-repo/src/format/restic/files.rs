//! Opens restic repositories.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustic_core::repofile::{MasterKey, SnapshotFile};
use rustic_core::{
    ConfigOptions, Credentials, FileType, KeyOptions, OpenStatus, ReadBackend, Repository, RepositoryBackends,
    RepositoryOptions, RusticError, RusticResult, WriteBackend,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::FilesError;
use super::backend::Backend;
use super::keyfile;
use crate::store::{Key, Store};

/// How often something is tried again when files vanish under it.
const TRIES: u32 = 5;

/// How long a process that makes a repository may take from the key to the configuration.
const PATIENCE: Duration = Duration::from_mins(2);

/// The pause before the second time; each is longer by as much.
const PAUSE: Duration = Duration::from_millis(200);

/// A restic repository: where it is and what opens it. Nothing is read until it is used.
#[derive(Clone)]
pub struct Files {
    store: Store,
    prefix: Key,
    password: SecretString,
    writable: bool,
}

/// A snapshot.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotInfo {
    /// Its identifier, in hex.
    pub id: String,
    /// When it was taken.
    pub time: Timestamp,
    /// The host it was taken on.
    pub host: String,
    /// The paths it holds.
    pub paths: Vec<String>,
    /// Its tags.
    pub tags: Vec<String>,
    /// Bytes of its files, where it says so.
    pub bytes: Option<u64>,
    /// Its files, where it says so.
    pub files: Option<u64>,
}

impl Files {
    /// One of our own, below a prefix of the repository. Its password must be a random one: no key file made here makes
    /// guessing dear.
    pub fn ours(store: &Store, prefix: &Key, password: &SecretString) -> Self {
        Self { store: store.clone(), prefix: prefix.clone(), password: password.clone(), writable: true }
    }

    /// Someone else's, at the root of a store: read only.
    pub fn foreign(store: &Store, password: &SecretString) -> Self {
        Self { store: store.clone(), prefix: Key::root(), password: password.clone(), writable: false }
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        if self.prefix.as_str().is_empty() {
            self.store.location().to_owned()
        } else {
            format!("{}/{}", self.store.location(), self.prefix)
        }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn backend(&self) -> Backend {
        Backend::new(self.store.clone(), self.prefix.clone(), self.writable)
    }

    /// Makes the repository where there is none.
    pub async fn create(&self) -> Result<(), FilesError> {
        self.create_after(PATIENCE).await
    }

    /// The same; a key without a configuration is another process at work on it for so long, and left by a dead one then.
    ///
    /// A key is written before the configuration it opens, and whoever reads takes the first key the password opens: one
    /// that belongs to no configuration would stand in the way of the right one.
    pub async fn create_after(&self, patience: Duration) -> Result<(), FilesError> {
        let password = self.password.clone();
        self.blocking("make it", self.backend(), move |backend| {
            let is_made = || Ok::<_, Box<RusticError>>(!backend.list_with_size(FileType::Config)?.is_empty());
            let began = Instant::now();
            let strangers = loop {
                if is_made()? {
                    return Ok(());
                }
                let keys = backend.list(FileType::Key)?;
                if keys.is_empty() || began.elapsed() >= patience {
                    break keys;
                }
                std::thread::sleep(PAUSE);
            };
            for key in strangers {
                backend.remove(FileType::Key, &key, false)?;
            }
            let Err(error) = make(&backend, &password) else { return Ok(()) };
            // Another process was faster: its configuration stays, and our key goes.
            for key in backend.written(FileType::Key) {
                let _ = backend.remove(FileType::Key, &key, false);
            }
            if is_made()? { Ok(()) } else { Err(error) }
        })
        .await
    }

    /// All snapshots, the oldest first.
    pub async fn snapshots(&self) -> Result<Vec<SnapshotInfo>, FilesError> {
        let mut all = self
            .opened("list snapshots", |repository| {
                Ok(repository.get_all_snapshots()?.iter().map(info).collect::<Vec<_>>())
            })
            .await?;
        all.sort_by_key(|snapshot| snapshot.time);
        Ok(all)
    }

    /// Runs work with the opened repository on a thread of its own; again, where an index or snapshot vanished under
    /// it: a prune writes new index files and removes the old ones, and needs no lock for it. And again, where a snapshot
    /// appeared after the index was read, which a prune reads first.
    pub(super) async fn opened<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl Fn(Repository<OpenStatus>) -> RusticResult<T> + Send + Sync + 'static,
    ) -> Result<T, FilesError> {
        self.opened_with_backend(doing, move |repository, _| work(repository)).await
    }

    /// The same for work that also needs what the repository reads and writes through.
    pub(super) async fn opened_with_backend<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl Fn(Repository<OpenStatus>, &Backend) -> RusticResult<T> + Send + Sync + 'static,
    ) -> Result<T, FilesError> {
        let work = Arc::new(work);
        for attempt in 1.. {
            let (backend, work, credentials) =
                (self.backend(), Arc::clone(&work), Credentials::password(self.password.expose_secret()));
            let watched = backend.clone();
            let done = self.blocking(doing, backend, move |backend| {
                if backend.list_with_size(FileType::Config)?.is_empty() {
                    return Ok(None);
                }
                work(repository(backend.clone())?.open(&credentials)?, &backend).map(Some)
            });
            match done.await {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => return Err(FilesError::Missing { place: self.place() }),
                Err(error) if attempt < TRIES && (watched.saw_one_vanish() || was_outrun(&error)) => {
                    tokio::time::sleep(PAUSE * attempt).await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(FilesError::Interrupted { doing })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        doing: &'static str,
        backend: Backend,
        work: impl FnOnce(Backend) -> RusticResult<T> + Send + 'static,
    ) -> Result<T, FilesError> {
        let (place, watched) = (self.place(), backend.clone());
        let done = tokio::task::spawn_blocking(move || work(backend)).await;
        done.map_err(|_| FilesError::Interrupted { doing })?.map_err(|error| match watched.take_outage() {
            Some(outage) => FilesError::Store(outage),
            None => FilesError::of(doing, &place, &error),
        })
    }
}

/// Whether what a snapshot names is not in the index that was read: it is newer than that, or it is damaged, which the
/// next look tells.
fn was_outrun(error: &FilesError) -> bool {
    windlass_core::diagnose::chain(error).contains("not found in index")
}

/// Packs of 16 MiB, which do not grow with the repository as `rustic_core`'s do by default: several are in memory at
/// once. What is written is not unpacked again at once for a check; verification reads it back.
fn config() -> ConfigOptions {
    let mut config = ConfigOptions::default().set_version(2_u32).set_compression(1).set_extra_verify(false);
    config.set_datapack_size = "16 MiB".parse().ok();
    config.set_datapack_growfactor = Some(0);
    config.set_treepack_size = "4 MiB".parse().ok();
    config.set_treepack_growfactor = Some(0);
    config
}

/// The key first, then the configuration it opens.
fn make(backend: &Backend, password: &SecretString) -> RusticResult<()> {
    let master = MasterKey::new();
    keyfile::write(backend, &master, password.expose_secret())?;
    let credentials = Credentials::Masterkey(master);
    repository(backend.clone())?.init(&credentials, &KeyOptions::default(), &config()).map(drop)
}

fn repository(backend: Backend) -> RusticResult<Repository<()>> {
    let options = RepositoryOptions::default().no_cache(true);
    Repository::new(&options, &RepositoryBackends::new(Arc::new(backend), None))
}

fn info(snapshot: &SnapshotFile) -> SnapshotInfo {
    SnapshotInfo {
        id: snapshot.id.to_hex().to_string(),
        time: snapshot.time.timestamp(),
        host: snapshot.hostname.clone(),
        paths: snapshot.paths.iter().cloned().collect(),
        tags: snapshot.tags.iter().cloned().collect(),
        bytes: snapshot.summary.as_ref().map(|s| s.total_bytes_processed),
        files: snapshot.summary.as_ref().map(|s| s.total_files_processed),
    }
}
