//! Where recovery points are kept, and how they are sealed, as the settings describe it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::name::Name;
use crate::secret::SecretRef;

/// A repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// Its name in the settings.
    pub name: Name,
    /// The place its objects lie.
    pub place: Place,
    /// Whose layout it has.
    pub format: Format,
}

/// Whose layout a repository has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// Our own: written, swept and read.
    Windlass(Encryption),
    /// Someone else's restic repository: listed, verified and restored, never written or swept.
    Restic {
        /// Its password.
        password: SecretRef,
    },
    /// Someone else's WAL-G repository of a PostgreSQL cluster: listed, verified and restored, never written or swept.
    WalG {
        /// The libsodium key it is sealed with, where it is.
        key: Option<LibsodiumKey>,
    },
}

impl Format {
    /// Whether it is someone else's, which is only read.
    pub fn is_foreign(&self) -> bool {
        !matches!(self, Self::Windlass(_))
    }
}

/// A libsodium key as `wal-g` is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibsodiumKey {
    /// Where its text is.
    pub secret: SecretRef,
    /// How it is written down.
    pub transform: KeyTransform,
}

/// How a libsodium key is written down: `WALG_LIBSODIUM_KEY_TRANSFORM`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyTransform {
    /// The text itself, of at least 25 characters.
    #[default]
    None,
    /// In base64.
    Base64,
    /// In hexadecimal digits.
    Hex,
}

/// The place objects lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory.
    Directory(PathBuf),
    /// A prefix of a bucket of an S3-compatible store.
    S3(S3),
}

/// A prefix of a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct S3 {
    /// The bucket.
    pub bucket: String,
    /// The prefix without slashes at either end; may be empty.
    pub prefix: String,
    /// The server, for stores other than AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The region; `us-east-1` where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`; the default where an endpoint is given.
    pub path_style: bool,
    /// A file of PEM certificates trusted beside the built-in ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The access key.
    pub access_key: SecretRef,
    /// The secret key.
    pub secret_key: SecretRef,
}

/// How a repository's keyrings are sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// To a passphrase, by scrypt.
    Passphrase(SecretRef),
    /// To age recipients (`age1…`).
    Recipients {
        /// The recipients; at least one.
        recipients: Vec<String>,
        /// An age identity file that opens what is sealed to them; without it this host can only write dumps.
        identity: Option<SecretRef>,
    },
    /// Not at all; dumps are not sealed either.
    None,
}
