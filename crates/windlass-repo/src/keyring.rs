//! An application's keyring: what opens everything sealed for it.
//!
//! Stored as `keys/<application>/<id>.<recipient>.age`, sealed by age to a passphrase or to recipients; or, where
//! encryption was said to be "none", as `….txt` in the open. What is sealed is itself an age identity file, so
//! that `age --decrypt --identity` takes it as it is; the other secrets stand in its comments:
//!
//! ```text
//! # Windlass keyring of shop
//! # created: 2026-03-01T02:00:00Z
//! # restic-password: 43 characters of base64
//! # authority: 43 characters of base64, the seed of the Ed25519 key that endorses writers
//! AGE-SECRET-KEY-1…
//! ```
//!
//! The recipient in the key's name is public: with it alone dumps can be sealed, without opening the keyring.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::str::FromStr;

use age::secrecy::{ExposeSecret, SecretString};
use age::x25519;
use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use jiff::Timestamp;
use windlass_core::diagnose::{Diagnose, Outcome};
use windlass_core::id::EntryId;
use windlass_core::name::Name;
use windlass_core::repository::Encryption;

use crate::layout;
use crate::random::{self, Fresh, NoRandomness};
use crate::secret::{self, SecretError};
use crate::sign::SigningKey;
use crate::store::{Key, Store, StoreError};

/// scrypt's work factor: 2^16 blocks, 64 MiB and a quarter of a second. age's own default of 2^18 takes 270 MiB.
const WORK_FACTOR: u8 = 16;

/// The greatest work factor accepted when opening: a keyring could be swapped for one that eats all memory.
const MAX_WORK_FACTOR: u8 = 18;

/// The largest keyring accepted, in bytes.
const MAX_KEYRING: u64 = 64 << 10;

/// A keyring that cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The passphrase or identity does not open it.
    #[error("open the keyring `{key}`: the {with} does not open it")]
    WrongKey {
        /// The keyring.
        key: Key,
        /// `passphrase` or `identity`.
        with: &'static str,
    },
    /// It is sealed, and the settings name nothing that opens it.
    #[error("open the keyring `{key}`: it is sealed to recipients, and the settings name no identity that opens it")]
    NoIdentity {
        /// The keyring.
        key: Key,
    },
    /// It is sealed, and the settings say that nothing is.
    #[error("open the keyring `{key}`: it is sealed, but the settings say `encryption = \"none\"`")]
    Sealed {
        /// The keyring.
        key: Key,
    },
    /// It is in the open, and the settings say that everything is sealed.
    #[error("open the keyring `{key}`: it lies in the open, but the settings name a key to seal it with")]
    Open {
        /// The keyring.
        key: Key,
    },
    /// It is damaged.
    #[error("open the keyring `{key}`: {why}")]
    Damaged {
        /// The keyring.
        key: Key,
        /// What is wrong with it.
        why: String,
    },
    /// There is none.
    #[error("open the keyring of `{application}` in {store}: there is none")]
    Missing {
        /// The application.
        application: Name,
        /// The repository.
        store: String,
    },
    /// There is none, though there are points that need one.
    #[error("open the keyring of `{application}` in {store}: it is gone, and points of it are there")]
    Lost {
        /// The application.
        application: Name,
        /// The repository.
        store: String,
    },
    /// The recipients or the identity in the settings are no age keys.
    #[error("use the age key `{shown}`: {why}")]
    Recipient {
        /// As much of it as is public.
        shown: String,
        /// What is wrong with it.
        why: String,
    },
    /// Sealing failed.
    #[error("seal the keyring of `{application}`")]
    Seal {
        /// The application.
        application: Name,
        /// Why.
        source: std::io::Error,
    },
    /// No randomness.
    #[error(transparent)]
    Randomness(NoRandomness),
    /// A passphrase or identity is not to be had.
    #[error(transparent)]
    Secret(SecretError),
    /// The store.
    #[error(transparent)]
    Store(StoreError),
}

impl Diagnose for KeyError {
    fn code(&self) -> &'static str {
        match self {
            Self::WrongKey { .. } => "WDL-1501",
            Self::NoIdentity { .. } => "WDL-1502",
            Self::Sealed { .. } => "WDL-1503",
            Self::Open { .. } => "WDL-1504",
            Self::Damaged { .. } => "WDL-1505",
            Self::Missing { .. } => "WDL-1506",
            Self::Recipient { .. } => "WDL-1507",
            Self::Lost { .. } => "WDL-1510",
            Self::Seal { .. } => "WDL-1508",
            Self::Randomness(_) => "WDL-1509",
            Self::Secret(error) => error.code(),
            Self::Store(error) => error.code(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::WrongKey { .. } => "WrongKey",
            Self::NoIdentity { .. } => "NoIdentity",
            Self::Sealed { .. } => "KeyringSealed",
            Self::Open { .. } => "KeyringOpen",
            Self::Damaged { .. } => "KeyringDamaged",
            Self::Missing { .. } => "KeyringMissing",
            Self::Recipient { .. } => "InvalidAgeKey",
            Self::Lost { .. } => "KeyringLost",
            Self::Seal { .. } => "SealKeyring",
            Self::Randomness(_) => "NoRandomness",
            Self::Secret(error) => error.reason(),
            Self::Store(error) => error.reason(),
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Damaged { .. } | Self::Seal { .. } => Outcome::Failed,
            Self::Store(error) => error.outcome(),
            _ => Outcome::CouldNotRun,
        }
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::WrongKey { with, .. } => {
                format!("give the {with} this keyring was sealed with; the data themselves are not damaged")
            }
            Self::NoIdentity { .. } => {
                "add `identity = { file = … }` to the repository's `encryption`; without it only dumps can be written"
                    .into()
            }
            Self::Sealed { .. } => "say in the repository's `encryption` what it is sealed with".into(),
            Self::Open { .. } => {
                "say `encryption = \"none\"`, or make a new repository that is sealed from the start".into()
            }
            Self::Damaged { .. } => {
                "remove it and put it back from the recovery kit: `windlass repo keys restore --kit FILE`".into()
            }
            Self::Lost { .. } => {
                "put it back from the recovery kit: `windlass repo keys restore --kit FILE`; nothing else opens what is there".into()
            }
            Self::Missing { .. } => "run `windlass repo init`, or check that this is the right repository".into(),
            Self::Recipient { .. } => {
                "make one with `age-keygen`: recipients begin with age1, identities with AGE-SECRET-KEY-1".into()
            }
            Self::Seal { .. } | Self::Randomness(_) => "run it again".into(),
            Self::Secret(error) => return error.hints(),
            Self::Store(error) => return error.hints(),
        };
        vec![hint]
    }
}

/// What opens keyrings, fetched from where the settings say.
pub enum Unlock {
    /// A passphrase.
    Passphrase(SecretString),
    /// Identities, from an age identity file.
    Identities(Vec<x25519::Identity>),
    /// Nothing: recipients are known, but what is sealed to them cannot be opened here.
    Recipients,
    /// Nothing is needed: keyrings lie in the open.
    Open,
}

impl Unlock {
    /// Fetches what the settings name.
    pub fn resolve(encryption: &Encryption) -> Result<Self, KeyError> {
        Ok(match encryption {
            Encryption::Passphrase(reference) => {
                Self::Passphrase(secret::resolve(reference).map_err(KeyError::Secret)?)
            }
            Encryption::Recipients { identity: Some(reference), .. } => {
                Self::Identities(identities(&secret::resolve(reference).map_err(KeyError::Secret)?)?)
            }
            Encryption::Recipients { identity: None, .. } => Self::Recipients,
            Encryption::None => Self::Open,
        })
    }
}

/// The identities in an age identity file.
pub fn identities(file: &SecretString) -> Result<Vec<x25519::Identity>, KeyError> {
    let wrong = |why: &str| KeyError::Recipient { shown: "identity file".into(), why: why.into() };
    let lines = file.expose_secret().lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let found = lines.map(|line| x25519::Identity::from_str(line).map_err(wrong)).collect::<Result<Vec<_>, _>>()?;
    if found.is_empty() { Err(wrong("it holds no identity")) } else { Ok(found) }
}

/// An opened keyring.
pub struct Keyring {
    /// Its identifier; the newest of an application is the one to write with.
    pub id: EntryId,
    /// The application.
    pub application: Name,
    identity: x25519::Identity,
    restic_password: SecretString,
    authority: SecretString,
}

impl Keyring {
    /// Makes the secrets of a new application.
    pub fn generate(application: &Name) -> Result<Self, KeyError> {
        let secret = || {
            Ok(SecretString::from(BASE64_STANDARD_NO_PAD.encode(random::bytes::<32>().map_err(KeyError::Randomness)?)))
        };
        Ok(Self {
            id: EntryId::fresh().map_err(KeyError::Randomness)?,
            application: application.clone(),
            identity: x25519::Identity::generate(),
            restic_password: secret()?,
            authority: secret()?,
        })
    }

    /// The same secrets under a new identifier: to be sealed anew.
    pub fn renewed(self) -> Result<Self, KeyError> {
        Ok(Self { id: EntryId::fresh().map_err(KeyError::Randomness)?, ..self })
    }

    /// The public recipient dumps are sealed to.
    pub fn recipient(&self) -> x25519::Recipient {
        self.identity.to_public()
    }

    /// What opens dumps.
    pub fn identity(&self) -> &x25519::Identity {
        &self.identity
    }

    /// The password of the application's restic repository.
    pub fn restic_password(&self) -> &SecretString {
        &self.restic_password
    }

    /// The key that base backups and WAL are sealed with, as `WALG_LIBSODIUM_KEY` in hex: made of the password of the restic
    /// repository, so that it is as old as the keyring.
    pub fn libsodium_key(&self) -> SecretString {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, self.restic_password.expose_secret().as_bytes());
        SecretString::from(crate::hex::encode(ring::hmac::sign(&key, b"windlass libsodium key of WAL-G").as_ref()))
    }

    /// The key that endorses writers.
    pub fn authority(&self) -> Result<SigningKey, KeyError> {
        BASE64_STANDARD_NO_PAD
            .decode(self.authority.expose_secret())
            .ok()
            .and_then(|seed| SigningKey::from_seed(&seed))
            .ok_or_else(|| KeyError::Damaged { key: self.key(true), why: "its authority is not a key".into() })
    }

    /// The name it is stored under.
    fn key(&self, sealed: bool) -> Key {
        layout::keyring(&self.application, self.id, &self.recipient().to_string(), sealed)
    }

    /// The age identity file with everything in it: what the recovery kit prints.
    pub fn to_text(&self) -> SecretString {
        let mut text = String::new();
        let _ = writeln!(text, "# Windlass keyring of {}", self.application);
        let _ = writeln!(
            text,
            "# created: {}",
            self.id.made_at().round(jiff::Unit::Second).unwrap_or(Timestamp::UNIX_EPOCH)
        );
        let _ = writeln!(text, "# restic-password: {}", self.restic_password.expose_secret());
        let _ = writeln!(text, "# authority: {}", self.authority.expose_secret());
        // Not read: it is made of the password above, and stands here for those who have stock tools alone.
        let _ = writeln!(text, "# walg-libsodium-key: {}", self.libsodium_key().expose_secret());
        let _ = writeln!(text, "{}", self.identity.to_string().expose_secret());
        SecretString::from(text)
    }

    /// Reads what [`Keyring::to_text`] wrote.
    pub fn from_text(application: &Name, id: EntryId, text: &SecretString) -> Result<Self, String> {
        let comment = |name: &str| {
            let prefix = format!("# {name}: ");
            let found = text.expose_secret().lines().find_map(|line| line.strip_prefix(prefix.as_str()));
            found.map(|value| SecretString::from(value.trim())).ok_or_else(|| format!("its `{name}` is missing"))
        };
        let identity = text.expose_secret().lines().find(|line| line.starts_with("AGE-SECRET-KEY-1"));
        let identity = identity.ok_or_else(|| "its identity is missing".to_owned())?;
        Ok(Self {
            id,
            application: application.clone(),
            identity: x25519::Identity::from_str(identity.trim())
                .map_err(|_| "its identity is not an age identity".to_owned())?,
            restic_password: comment("restic-password")?,
            authority: comment("authority")?,
        })
    }

    /// Seals it as the settings say and stores it.
    pub async fn store(&self, store: &Store, encryption: &Encryption) -> Result<(), KeyError> {
        let (bytes, sealed) = self.seal(encryption)?;
        store.create(&self.key(sealed), bytes).await.map_err(KeyError::Store)?;
        Ok(())
    }

    fn seal(&self, encryption: &Encryption) -> Result<(Vec<u8>, bool), KeyError> {
        let text = self.to_text();
        let plain = text.expose_secret().as_bytes();
        let seal = |recipients: &[&dyn age::Recipient]| -> std::io::Result<Vec<u8>> {
            let encryptor =
                age::Encryptor::with_recipients(recipients.iter().copied()).map_err(std::io::Error::other)?;
            let mut writer = encryptor.wrap_output(Vec::new())?;
            writer.write_all(plain)?;
            writer.finish()
        };
        let failed = |source| KeyError::Seal { application: self.application.clone(), source };
        match encryption {
            Encryption::None => Ok((plain.to_vec(), false)),
            Encryption::Passphrase(reference) => {
                let passphrase = secret::resolve(reference).map_err(KeyError::Secret)?;
                let mut recipient = age::scrypt::Recipient::new(passphrase);
                recipient.set_work_factor(WORK_FACTOR);
                Ok((seal(&[&recipient]).map_err(failed)?, true))
            }
            Encryption::Recipients { recipients, .. } => {
                let recipients = recipients.iter().map(|text| parse_recipient(text)).collect::<Result<Vec<_>, _>>()?;
                let recipients: Vec<&dyn age::Recipient> = recipients.iter().map(|r| r as _).collect();
                Ok((seal(&recipients).map_err(failed)?, true))
            }
        }
    }
}

/// An age recipient, from its text.
pub fn parse_recipient(text: &str) -> Result<x25519::Recipient, KeyError> {
    x25519::Recipient::from_str(text).map_err(|why| KeyError::Recipient { shown: text.into(), why: why.into() })
}

/// A keyring as it lies in the repository, not opened.
#[derive(Clone, Debug)]
pub struct StoredKeyring {
    /// Where it lies.
    pub key: Key,
    /// Its identifier.
    pub id: EntryId,
    /// The public recipient dumps are sealed to.
    pub recipient: String,
    /// Whether it is sealed.
    pub sealed: bool,
}

impl StoredKeyring {
    /// All keyrings of an application, the newest last.
    pub async fn list(store: &Store, application: &Name) -> Result<Vec<Self>, KeyError> {
        let objects = store.list_all(Some(&layout::keys(application))).await.map_err(KeyError::Store)?;
        let mut found: Vec<Self> = objects.iter().filter_map(|object| Self::parse(&object.key)).collect();
        found.sort_by_key(|keyring| keyring.id);
        Ok(found)
    }

    /// What a key's name says; `None` where it names no keyring.
    pub fn parse(key: &Key) -> Option<Self> {
        let mut parts = key.file_name().split('.');
        let (id, recipient, ending, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
            return None;
        };
        parse_recipient(recipient).ok()?;
        let sealed = match ending {
            "age" => true,
            "txt" => false,
            _ => return None,
        };
        Some(Self { key: key.clone(), id: id.parse().ok()?, recipient: recipient.to_owned(), sealed })
    }

    /// Opens it.
    pub async fn open(&self, store: &Store, application: &Name, unlock: &Unlock) -> Result<Keyring, KeyError> {
        let damaged = |why: String| KeyError::Damaged { key: self.key.clone(), why };
        let size = store.head(&self.key).await.map_err(KeyError::Store)?.size;
        if size > MAX_KEYRING {
            return Err(damaged(format!("it is {size} bytes long, more than any keyring of ours")));
        }
        let stored = store.get(&self.key).await.map_err(KeyError::Store)?;
        let plain = match (unlock, self.sealed) {
            (Unlock::Open, false) => stored.to_vec(),
            (Unlock::Open, true) => return Err(KeyError::Sealed { key: self.key.clone() }),
            (_, false) => return Err(KeyError::Open { key: self.key.clone() }),
            (Unlock::Recipients, true) => return Err(KeyError::NoIdentity { key: self.key.clone() }),
            (Unlock::Passphrase(passphrase), true) => {
                let mut identity = age::scrypt::Identity::new(passphrase.clone());
                identity.set_max_work_factor(MAX_WORK_FACTOR);
                self.unseal(&stored, &[&identity], "passphrase")?
            }
            (Unlock::Identities(identities), true) => {
                let identities: Vec<&dyn age::Identity> = identities.iter().map(|i| i as _).collect();
                self.unseal(&stored, &identities, "identity")?
            }
        };
        let text = SecretString::from(String::from_utf8(plain).map_err(|_| damaged("it is not text".into()))?);
        let keyring = Keyring::from_text(application, self.id, &text).map_err(damaged)?;
        // The name is what dumps are sealed by, and anyone who can write to the store could have changed it.
        if keyring.recipient().to_string() != self.recipient {
            return Err(damaged("the recipient in its name is not its own".into()));
        }
        Ok(keyring)
    }

    fn unseal(&self, stored: &[u8], with: &[&dyn age::Identity], what: &'static str) -> Result<Vec<u8>, KeyError> {
        let damaged = |why: String| KeyError::Damaged { key: self.key.clone(), why };
        let decryptor = age::Decryptor::new(stored).map_err(|e| damaged(e.to_string()))?;
        let mut plain = Vec::new();
        let mut reader = decryptor.decrypt(with.iter().copied()).map_err(|error| match error {
            age::DecryptError::DecryptionFailed
            | age::DecryptError::NoMatchingKeys
            | age::DecryptError::KeyDecryptionFailed => KeyError::WrongKey { key: self.key.clone(), with: what },
            other => damaged(other.to_string()),
        })?;
        reader.read_to_end(&mut plain).map_err(|e| damaged(e.to_string()))?;
        Ok(plain)
    }
}
