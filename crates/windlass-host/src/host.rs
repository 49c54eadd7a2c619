//! This machine, and applications opened on it.

use std::path::PathBuf;

use windlass_core::application::Application;
use windlass_core::id::{RepositoryId, WriterId};
use windlass_core::name::Name;
use windlass_core::repository::{Encryption, Format, Place, Repository as RepositorySettings};
use windlass_repo::error::RepositoryError;
use windlass_repo::evidence::{self, Event, Head};
use windlass_repo::keyring::Unlock;
use windlass_repo::repository::{Known, Repository, remember_recipient};
use windlass_repo::store::open::{OpenError, location_of, open};
use windlass_repo::vault::Vault;
use windlass_repo::writer::Writer;

/// This machine.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where the writer's keys and the memory of repositories lie, and scratch places are made.
    pub state: PathBuf,
    /// Its name, in manifests.
    pub name: String,
    /// The windlass binary, started again as the supervisor.
    pub program: PathBuf,
}

/// What could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The store.
    #[error(transparent)]
    Open(OpenError),
    /// The repository.
    #[error(transparent)]
    Repository(RepositoryError),
    /// The repository is someone else's.
    #[error(
        "use the repository `{name}` for that: it is someone else's (`format = \"{format}\"`), which is only listed, verified and restored"
    )]
    NotOurs {
        /// The repository.
        name: Name,
        /// Its format.
        format: &'static str,
    },
}

impl windlass_core::diagnose::Diagnose for HostError {
    fn code(&self) -> &'static str {
        match self {
            Self::Open(error) => error.code(),
            Self::Repository(error) => error.code(),
            Self::NotOurs { .. } => "WDL-3001",
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Open(error) => error.reason(),
            Self::Repository(error) => error.reason(),
            Self::NotOurs { .. } => "ForeignRepository",
        }
    }

    fn retry(&self) -> windlass_core::diagnose::Retry {
        match self {
            Self::Repository(error) => error.retry(),
            Self::Open(_) | Self::NotOurs { .. } => windlass_core::diagnose::Retry::Never,
        }
    }

    fn outcome(&self) -> windlass_core::diagnose::Outcome {
        match self {
            Self::Open(error) => error.outcome(),
            Self::Repository(error) => error.outcome(),
            Self::NotOurs { .. } => windlass_core::diagnose::Outcome::CouldNotRun,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Open(error) => error.hints(),
            Self::Repository(error) => error.hints(),
            Self::NotOurs { .. } => vec!["name a repository of our own for what is to be written".into()],
        }
    }
}

/// An application with its repository, its keys and this host's writer.
pub struct Site {
    /// The application, as the settings describe it.
    pub application: Application,
    /// Its part of the repository.
    pub vault: Vault,
    /// Who signs for this host.
    pub writer: Writer,
    /// The hosts that wrote the application before, where this one has just joined them.
    pub joins: Vec<String>,
}

impl Site {
    /// Appends a record of evidence to this host's chain.
    pub async fn record(&self, host: &Host, event: Event) -> Result<Head, RepositoryError> {
        evidence::append(&self.vault, &self.writer, &host.name, event).await
    }
}

impl Host {
    /// Makes a repository in an empty place, or takes the one this host made there.
    pub async fn init_repository(&self, settings: &RepositorySettings) -> Result<Repository, HostError> {
        encryption(settings)?;
        let (known, seen) = self.known(settings)?;
        let store =
            if seen.is_none() { open_or_make(settings)? } else { open(&settings.place).map_err(HostError::Open)? };
        let repository = match Repository::open(store.clone(), seen).await {
            Err(RepositoryError::Missing { .. }) => Repository::init(store, &self.name).await,
            other => other,
        };
        let repository = repository.map_err(HostError::Repository)?.probed().await.map_err(HostError::Repository)?;
        known.set(&repository).map_err(HostError::Repository)?;
        Ok(repository)
    }

    /// What this host remembers of the place. A folder that is gone though a repository was seen in it has vanished: its
    /// disk may not be mounted, and nothing is made in its stead.
    fn known(&self, settings: &RepositorySettings) -> Result<(Known, Option<RepositoryId>), HostError> {
        let known = Known::new(&self.state, &settings.name);
        let location = location_of(&settings.place);
        let seen = known.get(&location).map_err(HostError::Repository)?;
        match (&settings.place, seen) {
            (Place::Directory(path), Some(known)) if !path.is_dir() => {
                Err(HostError::Repository(RepositoryError::Vanished { store: location, known }))
            }
            _ => Ok((known, seen)),
        }
    }

    /// Makes the keys of an application and introduces this host as its writer. Idempotent. Returns the hosts that wrote
    /// the application before, where this one has just joined them.
    pub async fn init_application(
        &self,
        repository: &Repository,
        settings: &RepositorySettings,
        application: &Name,
    ) -> Result<Vec<String>, HostError> {
        let encryption = encryption(settings)?;
        Vault::create(repository, application, encryption).await.map_err(HostError::Repository)?;
        let mut vault = open_vault(repository, application, encryption).await?;
        let Introduced { joins, .. } = self.introduce(&mut vault).await?;
        Ok(joins)
    }

    /// Opens a repository that is there.
    pub async fn open_repository(&self, settings: &RepositorySettings) -> Result<Repository, HostError> {
        encryption(settings)?;
        let (known, seen) = self.known(settings)?;
        let store = open(&settings.place).map_err(HostError::Open)?;
        let repository = Repository::open(store, seen).await.map_err(HostError::Repository)?;
        if seen.is_none() {
            known.set(&repository).map_err(HostError::Repository)?;
        }
        Ok(repository)
    }

    /// Opens an application to read: nothing is written.
    pub async fn open_vault(&self, settings: &RepositorySettings, application: &Name) -> Result<Vault, HostError> {
        let repository = self.open_repository(settings).await?;
        open_vault(&repository, application, encryption(settings)?).await
    }

    /// Opens an application where something may have to be written, if only a pin: what the store can do is known.
    pub async fn open_to_write(&self, settings: &RepositorySettings, application: &Name) -> Result<Vault, HostError> {
        let repository = self.open_repository(settings).await?.probed().await.map_err(HostError::Repository)?;
        open_vault(&repository, application, encryption(settings)?).await
    }

    /// Opens an application to work on.
    pub async fn open(&self, settings: &RepositorySettings, application: &Application) -> Result<Site, HostError> {
        let mut vault = self.open_to_write(settings, &application.name).await?;
        if let (true, Some(recipient)) = (vault.keyrings().is_empty(), vault.newest_recipient()) {
            remember_recipient(&self.state, vault.repository().id(), &application.name, recipient)
                .map_err(HostError::Repository)?;
        }
        let Introduced { writer, joins } = self.introduce(&mut vault).await?;
        Ok(Site { application: application.clone(), vault, writer, joins })
    }

    /// Whether this host may add to the application's archives: it was not retired, and where the store cannot keep two apart it is the
    /// only one.
    pub fn may_archive(&self, vault: &Vault) -> Result<(), HostError> {
        let writer = Writer::load(&self.state, vault.repository().id(), vault.application());
        writer.and_then(|writer| may_write(vault, writer.id)).map_err(HostError::Repository)
    }

    /// This host's writer, made known to the repository.
    pub(crate) async fn introduce(&self, vault: &mut Vault) -> Result<Introduced, HostError> {
        let id = vault.repository().id();
        let writer = Writer::load(&self.state, id, vault.application()).map_err(HostError::Repository)?;
        may_write(vault, writer.id).map_err(HostError::Repository)?;
        let known = vault.writers().key(writer.id).is_some();
        let endorsed = vault.writers().has_endorsement(writer.id);
        let joins = if known { Vec::new() } else { hosts_of(vault) };
        if !known || (!endorsed && vault.keyring().is_ok()) {
            let keyring = vault.keyring().ok();
            let introduced = writer.introduce(vault.store(), vault.application(), &self.name, keyring).await;
            introduced.map_err(HostError::Repository)?;
            vault.reload_writers().await.map_err(HostError::Repository)?;
        }
        Ok(Introduced { writer, joins })
    }
}

/// This host's writer, known to the repository.
pub(crate) struct Introduced {
    pub(crate) writer: Writer,
    /// The hosts that wrote the application before, where this one has just joined them.
    joins: Vec<String>,
}

fn hosts_of(vault: &Vault) -> Vec<String> {
    let writers = vault.writers();
    let others = writers.iter().filter(|w| w.application == *vault.application() && !writers.is_retired(w.writer));
    others.map(|writer| writer.host.clone()).collect()
}

/// Whether a writer may write: it was not retired, and where the store cannot keep two apart it is the only one.
fn may_write(vault: &Vault, writer: WriterId) -> Result<(), RepositoryError> {
    let (writers, application) = (vault.writers(), vault.application());
    if writers.is_retired(writer) {
        return Err(RepositoryError::Retired { application: application.clone(), writer });
    }
    match writers.first_of(application) {
        Some(first) if vault.store().looks_first() && first.writer != writer => Err(RepositoryError::SecondWriter {
            application: application.clone(),
            first: first.writer,
            host: first.host.clone(),
        }),
        _ => Ok(()),
    }
}

async fn open_vault(repository: &Repository, application: &Name, encryption: &Encryption) -> Result<Vault, HostError> {
    let unlock = Unlock::resolve(encryption).map_err(|e| HostError::Repository(RepositoryError::Key(e)))?;
    Vault::open(repository, application, &unlock).await.map_err(HostError::Repository)
}

/// How the repository is sealed; refuses one that is not ours.
pub fn encryption(settings: &RepositorySettings) -> Result<&Encryption, HostError> {
    match &settings.format {
        Format::Windlass(encryption) => Ok(encryption),
        Format::Restic { .. } => Err(HostError::NotOurs { name: settings.name.clone(), format: "restic" }),
        Format::WalG { .. } => Err(HostError::NotOurs { name: settings.name.clone(), format: "wal-g" }),
    }
}

/// Opens the place of a new repository; a directory is made, a bucket must be there.
fn open_or_make(settings: &RepositorySettings) -> Result<windlass_repo::store::Store, HostError> {
    if let Place::Directory(path) = &settings.place
        && !path.exists()
    {
        std::fs::create_dir_all(path)
            .map_err(|source| HostError::Repository(RepositoryError::State { path: path.clone(), source }))?;
    }
    open(&settings.place).map_err(HostError::Open)
}
