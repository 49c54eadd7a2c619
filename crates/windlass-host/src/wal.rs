//! Serves the WAL of this machine's servers: takes what they push, gives what they fetch.
//!
//! Nothing is remembered that is not in the repository: killed at any moment and started again it goes on, and the servers ask again
//! for what was not acknowledged. The repository of a component is opened when it is first asked for, and anew after a failure, so
//! that credentials that changed are taken up.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use windlass_core::application::Physical;
use windlass_core::diagnose::{Diagnose, Outcome, Retry, chain};
use windlass_core::repository::Repository as RepositorySettings;
use windlass_engine::postgres::PostgresError;
use windlass_engine::postgres::wal::{
    Ahead, Answer, Archiver, Call, Fetch, FetchError, Listener, Owner, Push, PushError, Request, Source,
};
use windlass_repo::format::walg::{Compression, WalgError};
use windlass_repo::keyring::KeyError;
use windlass_repo::vault::Vault;

use crate::host::{Host, HostError};

/// How long is waited before a repository that could not be opened, or used, is opened anew.
const AGAIN: Duration = Duration::from_secs(5);

/// Why WAL could not be taken or given.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// No such component is served here.
    #[error("serve the WAL of {owner}: the settings have no such component with `wal = \"archive\"`")]
    NotServed {
        /// The component.
        owner: Owner,
    },
    /// Who asks may not.
    #[error("serve the WAL of {owner}: the user {user} is not the one of its server")]
    NotAllowed {
        /// The component.
        owner: Owner,
        /// The user.
        user: u32,
    },
    /// WAL of another cluster.
    #[error(
        "archive the WAL of {owner}: it is of the cluster {theirs}, and the server of {owner} is of the cluster {ours}"
    )]
    OtherCluster {
        /// The component.
        owner: Owner,
        /// The cluster that wrote it.
        theirs: u64,
        /// The component's cluster.
        ours: u64,
    },
    /// The files that came are not those that were named.
    #[error("serve the WAL of {owner}: the files that came are not those that are named")]
    Files {
        /// The component.
        owner: Owner,
    },
    /// The repository.
    #[error(transparent)]
    Host(HostError),
    /// The key.
    #[error(transparent)]
    Key(KeyError),
    /// The server could not be asked which cluster it is.
    #[error("find the server of {owner}")]
    Server {
        /// The component.
        owner: Owner,
        /// Why not.
        source: Box<PostgresError>,
    },
    /// The archive.
    #[error(transparent)]
    Archive(WalgError),
    /// A file was not stored.
    #[error(transparent)]
    Push(PushError),
    /// A file was not fetched.
    #[error(transparent)]
    Fetch(FetchError),
}

impl WalError {
    fn inner(&self) -> Option<&dyn Diagnose> {
        Some(match self {
            Self::Host(error) => error,
            Self::Key(error) => error,
            Self::Server { source, .. } => &**source,
            Self::Archive(error) => error,
            Self::Push(error) => error,
            Self::Fetch(error) => error,
            Self::NotServed { .. } | Self::NotAllowed { .. } | Self::OtherCluster { .. } | Self::Files { .. } => {
                return None;
            }
        })
    }

    /// Whether another try with the repository opened anew may do better.
    fn may_pass(&self) -> bool {
        match self {
            Self::Push(PushError::Archive(error)) => matches!(**error, WalgError::Read { .. }),
            Self::Fetch(FetchError::Archive(error)) => matches!(**error, WalgError::Read { .. }),
            Self::Archive(_) | Self::Host(_) => true,
            _ => false,
        }
    }
}

impl Diagnose for WalError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotServed { .. } => "WDL-3401",
            Self::NotAllowed { .. } => "WDL-3402",
            Self::OtherCluster { .. } => "WDL-3403",
            Self::Files { .. } => "WDL-3404",
            _ => self.inner().map_or("WDL-3404", Diagnose::code),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotServed { .. } => "NotServed",
            Self::NotAllowed { .. } => "NotAllowed",
            Self::OtherCluster { .. } => "OtherCluster",
            Self::Files { .. } => "OtherFiles",
            _ => self.inner().map_or("OtherFiles", Diagnose::reason),
        }
    }

    fn retry(&self) -> Retry {
        self.inner().map_or(Retry::Never, Diagnose::retry)
    }

    fn outcome(&self) -> Outcome {
        self.inner().map_or(Outcome::CouldNotRun, Diagnose::outcome)
    }

    fn hints(&self) -> Vec<String> {
        vec![match self {
            Self::NotServed { owner } => {
                format!("give the component of {owner} `wal = \"archive\"`, and start `windlass serve` again")
            }
            Self::NotAllowed { .. } => "run it as the server's user".to_owned(),
            Self::OtherCluster { .. } => {
                "look whether this server's `archive_command` names the right component; a copy of a server archives as a component of its own"
                    .to_owned()
            }
            Self::Files { .. } => "use the `windlass` of the same version on both sides".to_owned(),
            _ => return self.inner().map(Diagnose::hints).unwrap_or_default(),
        }]
    }
}

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

struct Component {
    served: Served,
    /// The server, as it was found last.
    found: Mutex<Option<Source>>,
    opened: Mutex<Opened>,
}

/// The repository, as far as it is open.
#[derive(Default)]
struct Opened {
    vault: Option<Arc<Vault>>,
    /// When it was tried last.
    tried: Option<Instant>,
    archivers: HashMap<u64, Arc<Archiver>>,
    aheads: HashMap<u64, Arc<Ahead>>,
}

impl WalService {
    /// For these components of a machine's settings.
    pub fn new(host: Host, components: Vec<Served>) -> Self {
        let component = |served: Served| {
            (served.owner.clone(), Component { served, found: Mutex::default(), opened: Mutex::default() })
        };
        Self { host, components: components.into_iter().map(component).collect() }
    }

    /// Answers whoever calls, until nobody can any more.
    pub async fn run(self: Arc<Self>, mut listener: Listener) {
        while let Some(caller) = listener.next().await {
            let service = Arc::clone(&self);
            tokio::spawn(async move {
                match caller.hear().await {
                    Ok(Some(call)) => service.answer(call).await,
                    Ok(None) => {}
                    Err(error) => tracing::warn!(%error, "a call at the socket could not be understood"),
                }
            });
        }
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
        call.answer(&answer);
    }

    async fn push(&self, push: &Push, files: Vec<OwnedFd>, user: u32) -> Result<(), WalError> {
        let component = self.component(&push.owner)?;
        let source = component.source(push.cluster).await?;
        component.may_ask(user, source.user)?;
        if source.cluster != push.cluster {
            let (theirs, ours) = (push.cluster, source.cluster);
            return Err(WalError::OtherCluster { owner: push.owner.clone(), theirs, ours });
        }
        if files.len() != push.names.len() || files.is_empty() {
            return Err(WalError::Files { owner: push.owner.clone() });
        }
        let (vault, archiver) = component.archiver(&self.host, push.cluster).await?;
        let files = push.names.iter().cloned().zip(files.into_iter().map(File::from)).collect();
        let gone = |error| WalError::Host(HostError::Repository(error));
        if vault.store().directory().is_some() {
            // Folders would be made where its disk is not mounted.
            vault.repository().still_there().await.map_err(gone)?;
        }
        archiver.push(files).await.map_err(WalError::Push)?;
        vault.repository().still_there().await.map_err(gone)
    }

    async fn fetch(&self, fetch: &Fetch, files: Vec<OwnedFd>, user: u32) -> Result<bool, WalError> {
        let component = self.component(&fetch.owner)?;
        component.may_ask(user, component.user().await)?;
        let Ok([to]) = <[OwnedFd; 1]>::try_from(files) else {
            return Err(WalError::Files { owner: fetch.owner.clone() });
        };
        let ahead = component.ahead(&self.host, fetch.cluster).await?;
        ahead.fetch(&fetch.name, File::from(to)).await.map_err(WalError::Fetch)
    }

    fn component(&self, owner: &Owner) -> Result<&Component, WalError> {
        self.components.get(owner).ok_or_else(|| WalError::NotServed { owner: owner.clone() })
    }
}

impl Component {
    /// The server, looked at anew where it is not the cluster that is asked for.
    async fn source(&self, cluster: u64) -> Result<Source, WalError> {
        let mut found = self.found.lock().await;
        if let Some(source) = found.as_ref().filter(|source| source.cluster == cluster) {
            return Ok(source.clone());
        }
        let found_none = |error| WalError::Server { owner: self.served.owner.clone(), source: Box::new(error) };
        let source = Source::look(&self.served.source).await.map_err(found_none)?;
        *found = Some(source.clone());
        Ok(source)
    }

    /// The user of the server; unknown where it is gone, which is when WAL is fetched.
    async fn user(&self) -> Option<u32> {
        let mut found = self.found.lock().await;
        if found.is_none() {
            *found = Source::look(&self.served.source).await.ok();
        }
        found.as_ref().and_then(|source| source.user)
    }

    /// Root, our own user, and that of the server.
    fn may_ask(&self, user: u32, servers: Option<u32>) -> Result<(), WalError> {
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
        let archive = self.archive(&vault, cluster)?;
        let archiver = Archiver::open(archive, cluster, Compression::default()).await.map_err(WalError::Archive)?;
        let archiver = Arc::clone(opened.archivers.entry(cluster).or_insert(Arc::new(archiver)));
        Ok((vault, archiver))
    }

    async fn ahead(&self, host: &Host, cluster: u64) -> Result<Arc<Ahead>, WalError> {
        let mut opened = self.opened.lock().await;
        if let Some(ahead) = opened.aheads.get(&cluster) {
            return Ok(Arc::clone(ahead));
        }
        let vault = self.vault(host, &mut opened).await?;
        let ahead = Ahead::new(self.archive(&vault, cluster)?, cluster);
        Ok(Arc::clone(opened.aheads.entry(cluster).or_insert(Arc::new(ahead))))
    }

    fn archive(&self, vault: &Vault, cluster: u64) -> Result<windlass_repo::format::walg::Backups, WalError> {
        let sealed = vault.seals().map_err(WalError::Key)?;
        vault.cluster(&self.served.owner.component, &cluster.to_string(), sealed).map_err(WalError::Key)
    }

    async fn vault(&self, host: &Host, opened: &mut Opened) -> Result<Arc<Vault>, WalError> {
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
    async fn close(&self) {
        let mut opened = self.opened.lock().await;
        let tried = opened.tried;
        *opened = Opened { tried, ..Opened::default() };
    }
}
