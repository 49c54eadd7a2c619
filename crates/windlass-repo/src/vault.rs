//! An application's part of a repository, with the keys this host has for it.
//!
//! Opening a vault opens every keyring that can be opened. With recipients alone it still takes dumps in, but
//! nothing can be read back here, and nothing written that needs a keyring ([`Vault::keyring`] says so).

use age::x25519;
use futures::StreamExt;
use secrecy::ExposeSecret;
use windlass_core::name::Name;
use windlass_core::point::{ComponentManifest, ComponentSummary, ObjectRef, RecoveryPoint};
use windlass_core::repository::Encryption;

use crate::error::RepositoryError;
use crate::format::walg::{Backups, KeyForm, SealKey, WalgError};
use crate::hex;
use crate::keyring::{KeyError, Keyring, StoredKeyring, Unlock, parse_recipient};
use crate::layout;
use crate::object::{Compare, ObjectError, ObjectReader, ObjectWriter};
use crate::repository::Repository;
use crate::sign::DocumentError;
use crate::store::{Key, Store};
use crate::writer::{Writer, Writers};

/// An application's part of a repository.
pub struct Vault {
    repository: Repository,
    application: Name,
    stored: Vec<StoredKeyring>,
    keyrings: Vec<Keyring>,
    writers: Writers,
    /// Whether the settings say that nothing is sealed.
    in_the_open: bool,
}

impl Vault {
    /// Makes the application's first keyring; an application that has one is left as it is.
    pub async fn create(
        repository: &Repository,
        application: &Name,
        encryption: &Encryption,
    ) -> Result<(), RepositoryError> {
        let stored = StoredKeyring::list(repository.store(), application).await.map_err(RepositoryError::Key)?;
        if !stored.is_empty() {
            return Ok(());
        }
        // Another key would open nothing of what is there, and stand in the way of the right one.
        if has_points(repository.store(), application).await? {
            let (application, store) = (application.clone(), repository.store().location().to_owned());
            return Err(RepositoryError::Key(KeyError::Lost { application, store }));
        }
        let keyring = Keyring::generate(application).map_err(RepositoryError::Key)?;
        keyring.store(repository.store(), encryption).await.map_err(RepositoryError::Key)
    }

    /// Opens the application's part with what the settings name.
    pub async fn open(repository: &Repository, application: &Name, unlock: &Unlock) -> Result<Self, RepositoryError> {
        let store = repository.store();
        let stored = StoredKeyring::list(store, application).await.map_err(RepositoryError::Key)?;
        if stored.is_empty() {
            let lost = has_points(store, application).await?;
            let (application, store) = (application.clone(), store.location().to_owned());
            return Err(RepositoryError::Key(if lost {
                KeyError::Lost { application, store }
            } else {
                KeyError::Missing { application, store }
            }));
        }
        let mut keyrings = Vec::new();
        if !matches!(unlock, Unlock::Recipients) {
            keyrings = open_all(store, application, &stored, unlock).await.map_err(RepositoryError::Key)?;
        }
        let writers = Writers::load(store).await?;
        Ok(Self {
            repository: repository.clone(),
            application: application.clone(),
            stored,
            keyrings,
            writers,
            in_the_open: matches!(unlock, Unlock::Open),
        })
    }

    /// Opens it with a keyring that lies outside the repository: a recovery kit.
    pub async fn open_with_kit(repository: &Repository, kit: Keyring) -> Result<Self, RepositoryError> {
        let store = repository.store();
        let stored = StoredKeyring::list(store, &kit.application).await.map_err(RepositoryError::Key)?;
        let writers = Writers::load(store).await?;
        Ok(Self {
            repository: repository.clone(),
            application: kit.application.clone(),
            stored,
            keyrings: vec![kit],
            writers,
            in_the_open: false,
        })
    }

    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The repository's store.
    pub fn store(&self) -> &Store {
        self.repository.store()
    }

    /// The application.
    pub fn application(&self) -> &Name {
        &self.application
    }

    /// The writers of the repository, as they were when the vault was opened.
    pub fn writers(&self) -> &Writers {
        &self.writers
    }

    /// Reads the writers again, after one introduced itself.
    pub async fn reload_writers(&mut self) -> Result<(), RepositoryError> {
        self.writers = Writers::load(self.store()).await?;
        Ok(())
    }

    /// The keyring to write with, where it could be opened.
    pub fn keyring(&self) -> Result<&Keyring, KeyError> {
        self.keyrings.last().ok_or_else(|| match self.stored.last() {
            Some(stored) => KeyError::NoIdentity { key: stored.key.clone() },
            None => {
                KeyError::Missing { application: self.application.clone(), store: self.store().location().to_owned() }
            }
        })
    }

    /// All keyrings that are open here.
    pub fn keyrings(&self) -> &[Keyring] {
        &self.keyrings
    }

    /// The recipient of the newest keyring, as its name says.
    pub fn newest_recipient(&self) -> Option<&str> {
        self.stored.last().map(|stored| stored.recipient.as_str())
    }

    /// What new dumps are sealed to; `None` where encryption was said to be "none".
    pub fn recipient(&self) -> Result<Option<x25519::Recipient>, KeyError> {
        match self.stored.last() {
            Some(stored) if stored.sealed => parse_recipient(&stored.recipient).map(Some),
            // A keyring in the open is a word of whoever put it there; that nothing is sealed, the settings must say.
            Some(stored) if !self.in_the_open => Err(KeyError::Open { key: stored.key.clone() }),
            _ => Ok(None),
        }
    }

    /// Whether what is written now is sealed.
    pub fn seals(&self) -> Result<bool, KeyError> {
        Ok(self.recipient()?.is_some())
    }

    /// Where the base backups and the WAL of a component's cluster lie; `sealed` is what [`Vault::seals`] said when they were written.
    pub fn cluster(&self, component: &Name, system_identifier: &str, sealed: bool) -> Result<Backups, KeyError> {
        let mut key = None;
        if sealed {
            let text = self.keyring()?.libsodium_key();
            let damaged =
                |error: WalgError| KeyError::Damaged { key: layout::keys(&self.application), why: error.to_string() };
            key = Some(SealKey::parse(text.expose_secret(), KeyForm::Hex).map_err(damaged)?);
        }
        let place = layout::cluster(&self.application, component, system_identifier);
        Ok(Backups::ours(self.store(), &place, key))
    }

    /// The same, sealed as what is written now.
    pub fn archive(&self, component: &Name, cluster: u64) -> Result<Backups, KeyError> {
        self.cluster(component, &cluster.to_string(), self.seals()?)
    }

    /// Begins an object of one component's dump.
    pub fn write(&self, key: &Key) -> Result<ObjectWriter, ObjectOrKeyError> {
        let recipient = self.recipient().map_err(ObjectOrKeyError::Key)?;
        ObjectWriter::new(self.store(), key, recipient.as_ref()).map_err(ObjectOrKeyError::Object)
    }

    /// Begins to read an object.
    pub async fn read(&self, object: &ObjectRef) -> Result<ObjectReader, ObjectError> {
        self.read_comparing(object, Compare::All).await
    }

    /// Begins to read an object that was read back whole a moment ago: what it holds is compared once more, and how it
    /// is stored is not.
    pub async fn read_again(&self, object: &ObjectRef) -> Result<ObjectReader, ObjectError> {
        self.read_comparing(object, Compare::Content).await
    }

    async fn read_comparing(&self, object: &ObjectRef, compare: Compare) -> Result<ObjectReader, ObjectError> {
        let identities: Vec<&x25519::Identity> = self.keyrings.iter().map(Keyring::identity).collect();
        ObjectReader::open(self.store(), object, &identities, compare).await
    }

    /// Stores one component's manifest and returns what the point says of it.
    pub async fn put_component(
        &self,
        writer: &Writer,
        manifest: &ComponentManifest,
    ) -> Result<ComponentSummary, RepositoryError> {
        let bytes = writer.sign(manifest)?;
        let summary = ComponentSummary::of(manifest, hex::sha256(&bytes));
        let key = layout::component(&self.application, manifest.point, &manifest.component);
        can_be_read_again(&key, manifest)?;
        self.store().create(&key, bytes).await.map_err(RepositoryError::Store)?;
        Ok(summary)
    }

    /// Writes the commit record: from here on the point exists. Returns the record's SHA-256, in hex.
    pub async fn commit(&self, writer: &Writer, point: &RecoveryPoint) -> Result<String, RepositoryError> {
        let key = layout::point(&self.application, point.id, point.is_complete());
        can_be_read_again(&key, point)?;
        let bytes = writer.sign(point)?;
        let sha256 = hex::sha256(&bytes);
        self.store().create(&key, bytes).await.map_err(RepositoryError::Store)?;
        Ok(sha256)
    }

    /// Reads one component's manifest and checks that it is the one the point names.
    pub async fn component(
        &self,
        point: &RecoveryPoint,
        summary: &ComponentSummary,
    ) -> Result<ComponentManifest, RepositoryError> {
        let key = layout::component(&self.application, point.id, &summary.name);
        let bytes = self.store().get(&key).await.map_err(RepositoryError::Store)?;
        if hex::sha256(&bytes) != summary.manifest_sha256 {
            return Err(RepositoryError::Digest { key });
        }
        let manifest: ComponentManifest = self.accept(&key, &bytes)?;
        if manifest.point != point.id || manifest.component != summary.name {
            return Err(RepositoryError::Misplaced { key });
        }
        Ok(manifest)
    }

    /// Checks a document's signature, and where a keyring is open that its holder vouched for the writer.
    pub fn accept<T: serde::de::DeserializeOwned>(&self, key: &Key, bytes: &[u8]) -> Result<T, RepositoryError> {
        let document = |source| RepositoryError::Document { key: key.clone(), source };
        let (value, writer) = self.writers.check(bytes).map_err(document)?;
        if self.keyrings.is_empty() {
            return Ok(value);
        }
        for keyring in &self.keyrings {
            let authority = keyring.authority().map_err(RepositoryError::Key)?;
            if self.writers.is_endorsed(writer, &authority.public()) {
                return Ok(value);
            }
        }
        Err(RepositoryError::NotEndorsed { key: key.clone(), writer, application: self.application.clone() })
    }
}

/// Whether there is anything of an application that a keyring opens.
async fn has_points(store: &Store, application: &Name) -> Result<bool, RepositoryError> {
    for folder in [layout::points(application), layout::runs(application), layout::dumps(application)] {
        if store.list(Some(&folder)).next().await.transpose().map_err(RepositoryError::Store)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Opens every keyring there is; of one that was sealed anew and lies there twice, one that opens is enough.
async fn open_all(
    store: &Store,
    application: &Name,
    stored: &[StoredKeyring],
    unlock: &Unlock,
) -> Result<Vec<Keyring>, KeyError> {
    let mut opened: Vec<Keyring> = Vec::new();
    let mut refused = Vec::new();
    for keyring in stored {
        match keyring.open(store, application, unlock).await {
            Ok(keyring) => opened.push(keyring),
            Err(error @ KeyError::WrongKey { .. }) => refused.push((&keyring.recipient, error)),
            Err(error) => return Err(error),
        }
    }
    let is_open = |recipient: &str| opened.iter().any(|keyring| keyring.recipient().to_string() == *recipient);
    match refused.into_iter().find(|(recipient, _)| !is_open(recipient)) {
        Some((_, error)) => Err(error),
        None => Ok(opened),
    }
}

/// An object that could not be begun.
#[derive(Debug, thiserror::Error)]
pub enum ObjectOrKeyError {
    /// The object.
    #[error(transparent)]
    Object(ObjectError),
    /// The key to seal it to.
    #[error(transparent)]
    Key(KeyError),
}

/// That a document says the same when it is read: one that did not would be found out by the restore.
fn can_be_read_again<T>(key: &Key, document: &T) -> Result<(), RepositoryError>
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq,
{
    let wrong = |error| RepositoryError::Document { key: key.clone(), source: DocumentError::Json(error) };
    let text = serde_json::to_vec(document).map_err(wrong)?;
    if serde_json::from_slice::<T>(&text).map_err(wrong)? == *document {
        return Ok(());
    }
    Err(wrong(serde::de::Error::custom("it would be read as something else than it is")))
}
