//! Serves the WAL of this machine's servers: takes what they push, gives what they fetch.
//!
//! Nothing is remembered that is not in the repository: killed at any moment and started again it goes on, and the servers ask again
//! for what was not acknowledged. The repository of a component is opened when it is first asked for, and anew after a failure, so
//! that credentials that changed are taken up.

mod component;
mod error;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use windlass_core::application::Physical;
use windlass_core::diagnose::{Diagnose, chain};
use windlass_core::repository::Repository as RepositorySettings;
use windlass_engine::moment;
use windlass_engine::postgres::wal::{Answer, Call, Fetch, Health, Listener, Owner, Push, PushError, Request, Spool};
use windlass_repo::format::walg::WalgError;

use self::component::{AGAIN, Component};
pub use self::error::WalError;
use crate::host::Host;

/// Calls that are answered at once.
const AT_ONCE: usize = 64;

/// How long a file may take to be stored before who asked is told that it was not: longer than the archiver waits for the store, which
/// goes on, and shorter than a client waits.
const PATIENCE: Duration = Duration::from_secs(90);

/// Files that wait before that is told, and how often it is looked at.
const WAITING: u64 = 32;
const WATCHED: Duration = Duration::from_secs(30);

/// A component whose WAL is served.
pub struct Served {
    /// Whose it is.
    pub owner: Owner,
    /// Its server.
    pub source: Physical,
    /// Where its WAL lies.
    pub repository: RepositorySettings,
}

/// Serves components.
pub struct WalService {
    host: Host,
    components: BTreeMap<Owner, Component>,
}

impl WalService {
    /// For these components of a machine's settings.
    pub fn new(host: Host, components: Vec<Served>) -> Self {
        let component = |served: Served| (served.owner.clone(), Component::new(served));
        Self { host, components: components.into_iter().map(component).collect() }
    }

    /// Answers whoever calls, until nobody can any more; empties the spools, and watches the servers' disks.
    pub async fn run(self: Arc<Self>, mut listener: Listener) {
        for component in self.components.values() {
            component.tidy(&self.host);
        }
        let (draining, watching) = (Arc::clone(&self), Arc::clone(&self));
        let mut beside = JoinSet::new();
        beside.spawn(async move { draining.drain().await });
        beside.spawn(async move { watching.watch().await });
        let room = Arc::new(Semaphore::new(AT_ONCE));
        while let Some(caller) = listener.next().await {
            let service = Arc::clone(&self);
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            tokio::spawn(async move {
                let _place = place;
                if !service.may_anything(caller.user()).await {
                    tracing::warn!(user = caller.user(), "a user called at the socket who may ask for nothing");
                    return caller.refuse().await;
                }
                match caller.hear().await {
                    Ok(Some(call)) => service.answer(call).await,
                    Ok(None) => {}
                    Err(error) => tracing::warn!(%error, "a call at the socket could not be understood"),
                }
            });
        }
    }

    /// Whether a user may ask for the WAL of any component.
    async fn may_anything(&self, user: Option<u32>) -> bool {
        let Some(user) = user else { return false };
        for component in self.components.values() {
            if component.may_ask(user, component.user(&self.host).await).is_ok() {
                return true;
            }
        }
        false
    }

    async fn answer(&self, mut call: Call) {
        let files = std::mem::take(&mut call.files);
        let (owner, done) = match &call.request {
            Request::Push(push) => (&push.owner, self.push(push, files, call.user).await.map(|()| true)),
            Request::Fetch(fetch) => (&fetch.owner, self.fetch(fetch, files, call.user).await),
        };
        let answer = match done {
            Ok(true) => Answer::Done,
            Ok(false) => Answer::NotThere,
            Err(error) => {
                tracing::warn!(%owner, code = error.code(), "{}", chain(&error));
                if error.may_pass()
                    && let Some(component) = self.components.get(owner)
                {
                    component.close().await;
                }
                Answer::failed(&error)
            }
        };
        moment::pass();
        call.answer(&answer);
        moment::pass();
    }

    async fn push(&self, push: &Push, files: Vec<OwnedFd>, user: u32) -> Result<(), WalError> {
        let component = self.component(&push.owner)?;
        component.may_ask(user, component.user(&self.host).await)?;
        let source = component.source(&self.host, push.cluster).await?;
        if source.cluster != push.cluster {
            let (theirs, ours) = (push.cluster, source.cluster);
            return Err(WalError::OtherCluster { owner: push.owner.clone(), theirs, ours });
        }
        if files.len() != push.names.len() || files.is_empty() {
            return Err(WalError::Files { owner: push.owner.clone() });
        }
        let files: Vec<_> =
            push.names.iter().cloned().zip(files.into_iter().map(|file| Arc::new(File::from(file)))).collect();
        let tried = if component.was_away().await {
            Err(None)
        } else {
            let stored = component.store(&self.host, push.cluster, files.clone());
            let name = || push.names.first().cloned().unwrap_or_default();
            let late = |_| Err(WalError::Push(PushError::NotYet { name: name() }));
            tokio::time::timeout(PATIENCE, stored).await.unwrap_or_else(late).map_err(Some)
        };
        match tried {
            Ok(()) => Ok(()),
            Err(Some(error)) if !error.is_outage() => Err(error),
            Err(why) => component.put_aside(&self.host, push.cluster, &files, why).await,
        }
    }

    async fn fetch(&self, fetch: &Fetch, files: Vec<OwnedFd>, user: u32) -> Result<bool, WalError> {
        let component = self.component(&fetch.owner)?;
        component.may_ask(user, component.user(&self.host).await)?;
        let Ok([to]) = <[OwnedFd; 1]>::try_from(files) else {
            return Err(WalError::Files { owner: fetch.owner.clone() });
        };
        let to = File::from(to);
        let failed = |source| WalError::Archive(WalgError::Target { path: fetch.name.clone().into(), source });
        let (there, again) = (to.try_clone().map_err(failed)?, to.try_clone().map_err(failed)?);
        let fetched = async {
            let ahead = component.ahead(&self.host, fetch.cluster).await?;
            ahead.fetch(&fetch.name, to).await.map_err(WalError::Fetch)
        };
        match fetched.await {
            Ok(true) => Ok(true),
            _ if component.write_waiting(&self.host, fetch, there).await? => Ok(true),
            // What waited may have been stored between the two looks.
            Ok(false) if component.served.source.spool > 0 => {
                let ahead = component.ahead(&self.host, fetch.cluster).await?;
                ahead.fetch(&fetch.name, again).await.map_err(WalError::Fetch)
            }
            other => other,
        }
    }

    /// Stores what waits in the spools, again and again.
    async fn drain(&self) {
        loop {
            for component in self.components.values() {
                if let Err(error) = component.drain(&self.host).await {
                    tracing::info!(owner = %component.served.owner, "the spool stays: {}", chain(&error));
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Tells where files wait and disks fill, once for each time it gets worse.
    async fn watch(&self) {
        let mut told: BTreeMap<&Owner, (u64, bool)> = BTreeMap::new();
        loop {
            for (owner, component) in &self.components {
                let Ok(health) = Health::ask(&component.served.source).await else { continue };
                let (waiting, is_near_full) = told.entry(owner).or_default();
                if health.waiting >= WAITING.max(*waiting * 2) {
                    let failing = health.failing.as_deref().unwrap_or("none");
                    tracing::warn!(%owner, waiting = health.waiting, failing, "files of WAL wait for their archive");
                    *waiting = health.waiting;
                } else if *waiting > 0 && health.waiting < WAITING {
                    tracing::info!(%owner, waiting = health.waiting, "files of WAL do not wait any more");
                    *waiting = 0;
                }
                if health.is_near_full() && !*is_near_full {
                    let free = windlass_core::size::display(health.free_bytes.unwrap_or_default());
                    let held = windlass_core::size::display(health.wal_bytes);
                    tracing::warn!(%owner, %free, pg_wal = %held, "the disk of pg_wal is nearly full: a server that cannot write WAL stops");
                }
                *is_near_full = health.is_near_full();
            }
            tokio::time::sleep(WATCHED).await;
        }
    }

    fn component(&self, owner: &Owner) -> Result<&Component, WalError> {
        self.components.get(owner).ok_or_else(|| WalError::NotServed { owner: owner.clone() })
    }
}

/// What of a component waits on this machine for its store, and what its archive refused: files.
pub fn waiting(host: &Host, owner: &Owner) -> std::io::Result<(usize, usize)> {
    let mut all = (0, 0);
    let clusters = match std::fs::read_dir(component::spools(host, owner)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(all),
        clusters => clusters?,
    };
    for cluster in clusters {
        let spool = Spool::new(cluster?.path(), 0);
        all = (all.0 + spool.waiting()?.len(), all.1 + spool.refused()?.len());
    }
    Ok(all)
}
