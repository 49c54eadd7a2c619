//! Writers: the installations that may write, each with a signing key of its own.
//!
//! A writer introduces itself by `writers/<writer>.json`, a document signed with its own key; a holder of the
//! application's keyring vouches for it by `writers/<writer>.endorsed.json`, signed with the keyring's
//! authority. The private key lies in the state folder of the host, never in the keyring or the repository:
//! who steals the bucket and the keyring can read everything, but not forge what was written before.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use windlass_core::id::{RepositoryId, WriterId};
use windlass_core::name::Name;
use windlass_core::point::FORMAT;

use crate::error::RepositoryError;
use crate::keyring::Keyring;
use crate::layout;
use crate::random::{self, Fresh};
use crate::sign::{DocumentError, PublicKey, SigningKey, Unchecked};
use crate::store::{Key, Store};

/// What a writer says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WriterRecord {
    /// The version of this document.
    pub format: u32,
    /// Its identifier.
    pub writer: WriterId,
    /// The application it writes.
    pub application: Name,
    /// The host it runs on.
    pub host: String,
    /// When it was made.
    pub created: Timestamp,
    /// Its Ed25519 public key, in base64.
    pub public_key: String,
}

/// A keyring holder's word about a writer: that it is one of ours, or that it writes no more.
#[derive(Debug, Serialize, Deserialize)]
struct Statement {
    format: u32,
    writer: WriterId,
    application: Name,
    public_key: String,
    authority: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endorsed: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retired: Option<Timestamp>,
}

/// A writer on the host it lives on.
pub struct Writer {
    /// Its identifier.
    pub id: WriterId,
    key: SigningKey,
}

/// How a writer is kept in the state folder.
#[derive(Serialize, Deserialize)]
struct Kept {
    writer: WriterId,
    seed: String,
}

impl Kept {
    fn fresh() -> Result<Self, RepositoryError> {
        let seed: [u8; 32] = random::bytes().map_err(RepositoryError::Randomness)?;
        let writer = WriterId::fresh().map_err(RepositoryError::Randomness)?;
        Ok(Self { writer, seed: BASE64_STANDARD.encode(seed) })
    }
}

impl Writer {
    /// The writer of this host for an application of a repository, made at the first call; kept in `state`.
    pub fn load(state: &Path, repository: RepositoryId, application: &Name) -> Result<Self, RepositoryError> {
        let path = state.join("writers").join(repository.to_string()).join(format!("{application}.json"));
        let failed = |source| RepositoryError::WriterKey { path: path.clone(), source };
        let kept = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| failed(e.into()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => keep(&path)?,
            Err(error) => return Err(failed(error)),
        };
        Self::of(&kept).ok_or_else(|| failed(std::io::Error::other("it holds no signing key")))
    }

    /// A writer kept elsewhere, as [`Writer::fresh`] wrote it; `None` where the text is none.
    pub fn read(kept: &SecretString) -> Option<Self> {
        Self::of(&serde_json::from_str(kept.expose_secret()).ok()?)
    }

    /// A new writer as text, to be kept where only its host can read it.
    pub fn fresh() -> Result<SecretString, RepositoryError> {
        let kept = Kept::fresh()?;
        serde_json::to_string(&kept).map(SecretString::from).map_err(|e| RepositoryError::Write(DocumentError::Json(e)))
    }

    fn of(kept: &Kept) -> Option<Self> {
        let seed = BASE64_STANDARD.decode(&kept.seed).ok()?;
        Some(Self { id: kept.writer, key: SigningKey::from_seed(&seed)? })
    }

    /// Signs a document.
    pub fn sign<T: Serialize>(&self, document: &T) -> Result<Vec<u8>, RepositoryError> {
        self.key.sign_document(self.id, document).map_err(RepositoryError::Write)
    }

    /// Makes itself known in the repository, and vouched for where the keyring is open. Idempotent.
    pub async fn introduce(
        &self,
        store: &Store,
        application: &Name,
        host: &str,
        keyring: Option<&Keyring>,
    ) -> Result<(), RepositoryError> {
        let key = layout::writer(self.id);
        if store.find(&key).await.map_err(RepositoryError::Store)?.is_none() {
            let record = WriterRecord {
                format: FORMAT,
                writer: self.id,
                application: application.clone(),
                host: host.to_owned(),
                created: Timestamp::now(),
                public_key: self.key.public().to_base64(),
            };
            store.create(&key, self.sign(&record)?).await.map_err(RepositoryError::Store)?;
        }
        match keyring {
            Some(keyring) => endorse(store, self.id, &self.key.public(), keyring).await,
            None => Ok(()),
        }
    }
}

/// Vouches for a writer with the keyring's authority. Idempotent.
pub async fn endorse(
    store: &Store,
    writer: WriterId,
    public_key: &PublicKey,
    keyring: &Keyring,
) -> Result<(), RepositoryError> {
    let said = Statement { endorsed: Some(Timestamp::now()), ..statement(writer, public_key, keyring)? };
    say(store, &layout::endorsement(writer), &said, keyring).await
}

/// Says with the keyring's authority that a writer writes no more: its host is gone, or given up. Idempotent.
pub async fn retire(
    store: &Store,
    writer: WriterId,
    public_key: &PublicKey,
    keyring: &Keyring,
) -> Result<(), RepositoryError> {
    let said = Statement { retired: Some(Timestamp::now()), ..statement(writer, public_key, keyring)? };
    say(store, &layout::retirement(writer), &said, keyring).await
}

fn statement(writer: WriterId, public_key: &PublicKey, keyring: &Keyring) -> Result<Statement, RepositoryError> {
    Ok(Statement {
        format: FORMAT,
        writer,
        application: keyring.application.clone(),
        public_key: public_key.to_base64(),
        authority: keyring.authority().map_err(RepositoryError::Key)?.public().to_base64(),
        endorsed: None,
        retired: None,
    })
}

async fn say(store: &Store, key: &Key, said: &Statement, keyring: &Keyring) -> Result<(), RepositoryError> {
    if store.find(key).await.map_err(RepositoryError::Store)?.is_some() {
        return Ok(());
    }
    let authority = keyring.authority().map_err(RepositoryError::Key)?;
    let bytes = authority.sign_document(said.writer, said).map_err(RepositoryError::Write)?;
    store.create(key, bytes).await.map_err(RepositoryError::Store)?;
    Ok(())
}

fn keep(path: &PathBuf) -> Result<Kept, RepositoryError> {
    let failed = |source| RepositoryError::WriterKey { path: path.clone(), source };
    let kept = Kept::fresh()?;
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed)?;
    let mut file = tempfile::Builder::new().tempfile_in(folder).map_err(failed)?;
    let text = serde_json::to_vec(&kept).map_err(|e| failed(e.into()))?;
    file.write_all(&text).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    match file.persist_noclobber(path) {
        Ok(_) => {
            fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
            Ok(kept)
        }
        // Another process made it in the meantime: theirs is the writer.
        Err(_) => serde_json::from_slice(&fs::read(path).map_err(failed)?).map_err(|e| failed(e.into())),
    }
}

/// What a keyring's authority says, and about which key.
#[derive(Clone, Debug)]
struct Word {
    authority: PublicKey,
    about: PublicKey,
}

/// All writers of a repository, as far as they could be read.
#[derive(Clone, Debug, Default)]
pub struct Writers {
    records: BTreeMap<WriterId, (WriterRecord, PublicKey)>,
    /// The word given for each.
    endorsed: BTreeMap<WriterId, Word>,
    /// Those whose word is that they write no more.
    retired: BTreeMap<WriterId, Word>,
}

impl Writers {
    /// Reads all writers. What is no valid record is left out; documents signed by it will not be accepted.
    pub async fn load(store: &Store) -> Result<Self, RepositoryError> {
        let mut writers = Self::default();
        for object in store.list_all(Some(&layout::writers())).await.map_err(RepositoryError::Store)? {
            let bytes = store.get(&object.key).await.map_err(RepositoryError::Store)?;
            let name = object.key.file_name();
            if let Some(of) = name.strip_suffix(".endorsed.json") {
                writers.endorsed.extend(read_word(&bytes).filter(|(writer, _)| writer.to_string() == of));
            } else if let Some(of) = name.strip_suffix(".retired.json") {
                writers.retired.extend(read_word(&bytes).filter(|(writer, _)| writer.to_string() == of));
            } else if let Some((record, key)) = read_record(&bytes)
                && name == format!("{}.json", record.writer)
            {
                writers.records.insert(record.writer, (record, key));
            }
        }
        Ok(writers)
    }

    /// All records.
    pub fn iter(&self) -> impl Iterator<Item = &WriterRecord> {
        self.records.values().map(|(record, _)| record)
    }

    /// A writer's public key.
    pub fn key(&self, writer: WriterId) -> Option<&PublicKey> {
        self.records.get(&writer).map(|(_, key)| key)
    }

    /// Whether the keyring's authority vouches for the writer, and for the very key it has here.
    pub fn is_endorsed(&self, writer: WriterId, authority: &PublicKey) -> bool {
        let word = self.endorsed.get(&writer);
        word.is_some_and(|word| word.authority == *authority && self.key(writer) == Some(&word.about))
    }

    /// Whether anyone vouches for the writer.
    pub fn has_endorsement(&self, writer: WriterId) -> bool {
        self.endorsed.contains_key(&writer)
    }

    /// Whether the writer was retired by whoever vouched for it: it writes no more, and what it wrote stays good.
    pub fn is_retired(&self, writer: WriterId) -> bool {
        let endorsed = self.endorsed.get(&writer);
        self.retired.get(&writer).is_some_and(|word| endorsed.is_none_or(|by| by.authority == word.authority))
    }

    /// The writer of an application that was there first and was not retired.
    pub fn first_of(&self, application: &Name) -> Option<&WriterRecord> {
        self.iter().find(|record| record.application == *application && !self.is_retired(record.writer))
    }

    /// Checks a document's signature by a known writer and reads it.
    pub fn check<T: serde::de::DeserializeOwned>(&self, bytes: &[u8]) -> Result<(T, WriterId), DocumentError> {
        let unchecked = Unchecked::parse(bytes)?;
        let writer = unchecked.writer();
        let key = self.key(writer).ok_or(DocumentError::UnknownWriter(writer))?;
        Ok((unchecked.check(key)?, writer))
    }
}

fn read_record(bytes: &[u8]) -> Option<(WriterRecord, PublicKey)> {
    let unchecked = Unchecked::parse(bytes).ok()?;
    let record: WriterRecord = unchecked.read_unchecked().ok()?;
    let key = PublicKey::from_base64(&record.public_key)?;
    let checked: WriterRecord = unchecked.check(&key).ok()?;
    (checked.writer == unchecked.writer()).then_some((checked, key))
}

fn read_word(bytes: &[u8]) -> Option<(WriterId, Word)> {
    let unchecked = Unchecked::parse(bytes).ok()?;
    let said: Statement = unchecked.read_unchecked().ok()?;
    let authority = PublicKey::from_base64(&said.authority)?;
    let said: Statement = unchecked.check(&authority).ok()?;
    let about = PublicKey::from_base64(&said.public_key)?;
    (said.writer == unchecked.writer()).then_some((said.writer, Word { authority, about }))
}
