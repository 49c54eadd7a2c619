//! A component whose WAL is served: its server, its repository as far as that is open, its spool.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use windlass_core::diagnose::chain;
use windlass_core::wal::{Segment, SegmentSize};
use windlass_engine::moment;
use windlass_engine::postgres::wal::{Ahead, Archiver, Fetch, FetchError, Owner, Source, Spool};
use windlass_repo::format::walg::{Backups, Codec, WalgError};
use windlass_repo::vault::Vault;

use super::{Served, WalError};
use crate::host::{Host, HostError};

/// For how long a store that was away is not asked again where there is a spool.
const AWAY: Duration = Duration::from_secs(30);

/// How long is waited before a repository that could not be opened, or used, is opened anew.
pub(super) const AGAIN: Duration = Duration::from_secs(5);

/// How long a repository stays open: who may write it is looked at when it is opened.
const LONGEST: Duration = Duration::from_hours(1);

/// A component, and what is open of it.
pub(super) struct Component {
    pub(super) served: Served,
    /// The server, as it was found last.
    found: Mutex<Found>,
    opened: Mutex<Opened>,
}

/// A server that was looked for.
#[derive(Default)]
struct Found {
    source: Option<Source>,
    tried: Option<Instant>,
}

/// The repository, as far as it is open.
#[derive(Default)]
struct Opened {
    vault: Option<Arc<Vault>>,
    /// When it was tried last.
    tried: Option<Instant>,
    archivers: HashMap<u64, Arc<Archiver>>,
    aheads: HashMap<u64, Arc<Ahead>>,
    /// By cluster, the archive as it was open last: what seals, also while the store is away.
    sealing: HashMap<u64, Backups>,
    /// When the store could not take something last.
    away: Option<Instant>,
}

impl Opened {
    /// Forgets what is open, and keeps what seals and when it was tried.
    fn close(&mut self) {
        let (tried, away, sealing) = (self.tried, self.away, std::mem::take(&mut self.sealing));
        *self = Self { tried, sealing, away, ..Self::default() };
    }
}

impl Component {
    /// Nothing is open yet.
    pub(super) fn new(served: Served) -> Self {
        Self { served, found: Mutex::default(), opened: Mutex::default() }
    }

    /// Stores files, the first of which is waited for.
    pub(super) async fn store(
        &self,
        host: &Host,
        cluster: u64,
        files: Vec<(String, Arc<File>)>,
    ) -> Result<(), WalError> {
        let (vault, archiver) = self.archiver(host, cluster).await?;
        let gone = |error| WalError::Host(HostError::Repository(error));
        if vault.store().directory().is_some() {
            // Folders would be made where its disk is not mounted.
            vault.repository().still_there().await.map_err(gone)?;
        }
        archiver.push(files).await.map_err(WalError::Push)?;
        vault.repository().still_there().await.map_err(gone)
    }

    /// Whether the store was away a moment ago, and there is a spool.
    pub(super) async fn was_away(&self) -> bool {
        let away = self.opened.lock().await.away;
        self.served.source.spool > 0 && away.is_some_and(|away| away.elapsed() < AWAY)
    }

    /// The spool of a cluster. Where the settings allow none any more, what is in it is stored all the same.
    fn spool(&self, host: &Host, cluster: &str) -> Spool {
        Spool::new(spools(host, &self.served.owner).join(cluster), self.served.source.spool)
    }

    /// Puts the file that is waited for, and what tells of its timeline, into the spool. Where that cannot be, `why` it is asked
    /// for stands.
    pub(super) async fn put_aside(
        &self,
        host: &Host,
        cluster: u64,
        files: &[(String, Arc<File>)],
        why: Option<WalError>,
    ) -> Result<(), WalError> {
        let said = why.as_ref().map(|why| chain(why));
        let sealing = {
            let mut opened = self.opened.lock().await;
            if why.is_some() {
                opened.away = Some(Instant::now());
            }
            opened.sealing.get(&cluster).cloned()
        };
        if why.as_ref().is_some_and(WalError::may_pass) {
            // Credentials that changed are taken up when it is opened again.
            self.close().await;
        }
        let spool = self.spool(host, &cluster.to_string());
        let owner = || self.served.owner.clone();
        let Some(sealing) = sealing.filter(|_| self.served.source.spool > 0) else {
            let never = || {
                std::io::Error::other(
                    "the repository was never open since `windlass serve` began, and what seals it is there",
                )
            };
            return Err(why.unwrap_or_else(|| WalError::Spool { owner: owner(), source: never() }));
        };
        for (index, (name, file)) in files.iter().enumerate() {
            if index > 0 && !name.ends_with(".history") {
                continue;
            }
            let packed = sealing.packed(name, file, cluster, self.served.source.compression).await;
            let (object, pieces) = packed.map_err(WalError::Archive)?;
            let failed = |source| WalError::Spool { owner: owner(), source };
            if spool.holds(&object) {
                let waiting = sealing.unpacked(&object, spool.get(&object).map_err(failed)?);
                if !waiting.is(file).map_err(WalError::Archive)? {
                    return Err(WalError::Archive(WalgError::OtherContent { object }));
                }
                continue;
            }
            spool.put(&object, &pieces).map_err(failed)?;
            tracing::warn!(owner = %self.served.owner, name, why = said, "WAL waits on this machine: its store is away");
        }
        Ok(())
    }

    /// Writes a file that waits in the spool; `false` where it does not.
    pub(super) async fn write_waiting(&self, host: &Host, fetch: &Fetch, to: File) -> Result<bool, WalError> {
        let spool = self.spool(host, &fetch.cluster.to_string());
        let failed = |source| WalError::Spool { owner: self.served.owner.clone(), source };
        let waiting = spool.waiting().map_err(failed)?;
        if waiting.is_empty() {
            return Ok(false);
        }
        // What waits here is behind what is there: without what opens it nobody can say that the archive ends.
        let sealing = self.opened.lock().await.sealing.get(&fetch.cluster).cloned();
        let sealing = if let Some(sealing) = sealing {
            sealing
        } else {
            let vault = self.vault(host, &mut *self.opened.lock().await).await?;
            self.archive(&vault, fetch.cluster)?
        };
        let Some((object, _)) = waiting.iter().find(|(object, _)| Codec::split(object).0 == fetch.name) else {
            let segment = |name: &str| Segment::parse(name, SegmentSize::LEAST).ok();
            let asked = segment(&fetch.name);
            let is_behind = |other: Segment| {
                asked.is_some_and(|asked| other.timeline == asked.timeline && other.number > asked.number)
            };
            if waiting.iter().filter_map(|(object, _)| segment(Codec::split(object).0)).any(is_behind) {
                return Err(WalError::Fetch(FetchError::Gap { name: fetch.name.clone() }));
            }
            return Ok(false);
        };
        let stored = sealing.unpacked(object, spool.get(object).map_err(failed)?);
        stored.unpack(Some(fetch.cluster), &to).map_err(WalError::Archive)?;
        Ok(true)
    }

    /// Removes what one that was killed left in the spools, before anything is put there.
    pub(super) fn tidy(&self, host: &Host) {
        for cluster in std::fs::read_dir(spools(host, &self.served.owner)).into_iter().flatten().flatten() {
            if let Err(error) = Spool::new(cluster.path(), 0).tidy() {
                tracing::warn!(owner = %self.served.owner, %error, "what was left in the spool cannot be removed");
            }
        }
    }

    /// Stores what waits in the spools of all clusters; stops at the first that cannot be.
    pub(super) async fn drain(&self, host: &Host) -> Result<(), WalError> {
        let failed = |source| WalError::Spool { owner: self.served.owner.clone(), source };
        let clusters = std::fs::read_dir(spools(host, &self.served.owner)).into_iter().flatten().flatten();
        for cluster in clusters.filter_map(|entry| entry.file_name().into_string().ok()) {
            let (spool, Ok(number)) = (self.spool(host, &cluster), cluster.parse::<u64>()) else { continue };
            let waiting = spool.waiting().map_err(failed)?;
            if waiting.is_empty() {
                continue;
            }
            let (vault, _) = self.archiver(host, number).await?;
            vault.repository().still_there().await.map_err(|error| WalError::Host(HostError::Repository(error)))?;
            let archive = self.archive(&vault, number)?;
            for (object, _) in &waiting {
                match archive.push_packed(object, spool.get(object).map_err(failed)?, number).await {
                    Ok(()) => {
                        moment::pass();
                        spool.remove(object).map_err(failed)?;
                        moment::pass();
                    }
                    // It holds up nothing else, and stays until somebody has looked at it.
                    Err(error) if error.is_of_content() => {
                        tracing::error!(owner = %self.served.owner, object, "the archive refuses what waited on this machine: {}", chain(&error));
                        spool.refuse(object).map_err(failed)?;
                    }
                    Err(error) => {
                        self.close().await;
                        return Err(WalError::Archive(error));
                    }
                }
            }
            tracing::info!(owner = %self.served.owner, files = waiting.len(), "WAL that waited on this machine is stored");
            self.opened.lock().await.away = None;
        }
        Ok(())
    }

    /// The server, looked at anew where it is not the cluster that is asked for; not more often than every few seconds.
    pub(super) async fn source(&self, host: &Host, cluster: u64) -> Result<Source, WalError> {
        let mut found = self.found.lock().await;
        let is_it = |source: &&Source| source.cluster == cluster || found.tried.is_some_and(|at| at.elapsed() < AGAIN);
        if let Some(source) = found.source.as_ref().filter(is_it) {
            return Ok(source.clone());
        }
        let found_none = |error| WalError::Server { owner: self.served.owner.clone(), source: Box::new(error) };
        found.tried = Some(Instant::now());
        let source = Source::look(&self.served.source).await.map_err(found_none)?;
        if let Some(user) = source.user {
            // For when it is gone: a server is recovered when it cannot be asked.
            let file = self.remembered(host);
            let kept = file
                .parent()
                .map_or(Ok(()), std::fs::create_dir_all)
                .and_then(|()| std::fs::write(&file, user.to_string()));
            if let Err(error) = kept {
                tracing::debug!(%error, "the user of the server is not remembered");
            }
        }
        found.source = Some(source.clone());
        Ok(source)
    }

    /// The user of the server, as it was seen last.
    pub(super) async fn user(&self, host: &Host) -> Option<u32> {
        let known = {
            let found = self.found.lock().await;
            let is_fresh = found.source.is_some() || found.tried.is_some_and(|at| at.elapsed() < AGAIN);
            is_fresh.then(|| found.source.as_ref().and_then(|source| source.user))
        };
        let user = match known {
            Some(user) => user,
            None => self.source(host, 0).await.ok().and_then(|source| source.user),
        };
        user.or_else(|| std::fs::read_to_string(self.remembered(host)).ok()?.trim().parse().ok())
    }

    fn remembered(&self, host: &Host) -> PathBuf {
        let Owner { application, component } = &self.served.owner;
        host.state.join("servers").join(format!("{application}.{component}"))
    }

    /// Root, our own user, and that of the server.
    pub(super) fn may_ask(&self, user: u32, servers: Option<u32>) -> Result<(), WalError> {
        if user == 0 || user == rustix::process::geteuid().as_raw() || Some(user) == servers {
            return Ok(());
        }
        Err(WalError::NotAllowed { owner: self.served.owner.clone(), user })
    }

    async fn archiver(&self, host: &Host, cluster: u64) -> Result<(Arc<Vault>, Arc<Archiver>), WalError> {
        let mut opened = self.opened.lock().await;
        let vault = self.vault(host, &mut opened).await?;
        if let Some(archiver) = opened.archivers.get(&cluster) {
            return Ok((vault, Arc::clone(archiver)));
        }
        host.may_archive(&vault).map_err(WalError::Host)?;
        let archive = self.archive(&vault, cluster)?;
        opened.sealing.insert(cluster, archive.clone());
        let archiver =
            Archiver::open(archive, cluster, self.served.source.compression).await.map_err(WalError::Archive)?;
        let archiver = Arc::clone(opened.archivers.entry(cluster).or_insert(Arc::new(archiver)));
        Ok((vault, archiver))
    }

    pub(super) async fn ahead(&self, host: &Host, cluster: u64) -> Result<Arc<Ahead>, WalError> {
        let mut opened = self.opened.lock().await;
        if let Some(ahead) = opened.aheads.get(&cluster) {
            return Ok(Arc::clone(ahead));
        }
        let vault = self.vault(host, &mut opened).await?;
        let ahead = Ahead::new(self.archive(&vault, cluster)?, cluster);
        Ok(Arc::clone(opened.aheads.entry(cluster).or_insert(Arc::new(ahead))))
    }

    fn archive(&self, vault: &Vault, cluster: u64) -> Result<Backups, WalError> {
        vault.archive(&self.served.owner.component, cluster).map_err(WalError::Key)
    }

    async fn vault(&self, host: &Host, opened: &mut Opened) -> Result<Arc<Vault>, WalError> {
        if opened.tried.is_some_and(|tried| tried.elapsed() > LONGEST) {
            opened.close();
        }
        if let Some(vault) = &opened.vault {
            return Ok(Arc::clone(vault));
        }
        // Opening a keyring is dear, and a server asks every second.
        if let Some(wait) = opened.tried.and_then(|tried| AGAIN.checked_sub(tried.elapsed())) {
            tokio::time::sleep(wait).await;
        }
        opened.tried = Some(Instant::now());
        let vault = host.open_to_write(&self.served.repository, &self.served.owner.application).await;
        let vault = Arc::new(vault.map_err(WalError::Host)?);
        opened.vault = Some(Arc::clone(&vault));
        Ok(vault)
    }

    /// Forgets what is open: what is under way goes on.
    pub(super) async fn close(&self) {
        self.opened.lock().await.close();
    }
}

/// Where the spools of a component are, a folder for each cluster.
pub(super) fn spools(host: &Host, owner: &Owner) -> PathBuf {
    let Owner { application, component } = owner;
    host.state.join("spool").join(format!("{application}.{component}"))
}
