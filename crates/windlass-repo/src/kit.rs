//! The recovery kit: one printable page that, with the repository, brings everything back.
//!
//! The page is also read by `windlass restore --from URL --kit FILE`: each keyring stands between two lines of
//! its own, as it lies in the repository once opened.

use std::fmt::Write;

use secrecy::{ExposeSecret, SecretString};
use windlass_core::id::{EntryId, RepositoryId};
use windlass_core::name::Name;
use windlass_core::repository::Place;

use crate::hex;
use crate::keyring::Keyring;
use crate::random::Fresh;
use crate::repository::Repository;

const BEGIN: &str = "-----BEGIN KEYRING ";
const END: &str = "-----END KEYRING ";

/// The page. It holds secrets in the open: it belongs on paper or in a safe.
pub fn text(repository: &Repository, place: &Place, keyrings: &[SecretString]) -> SecretString {
    let identity = repository.identity();
    let mut page = String::new();
    let _ = writeln!(page, "WINDLASS RECOVERY KIT");
    let _ = writeln!(page);
    let _ = writeln!(page, "Repository:  {}", identity.id);
    let _ = writeln!(page, "Lies in:     {}", repository.store().location());
    if let Place::S3(s3) = place {
        let _ = writeln!(page, "Server:      {}", s3.endpoint.as_deref().unwrap_or("AWS"));
        let _ = writeln!(page, "Region:      {}", s3.region.as_deref().unwrap_or("us-east-1"));
    }
    let _ = writeln!(page, "Made on:     {} at {}", identity.owner, identity.created);
    let _ = writeln!(page);
    let _ = writeln!(page, "Whoever holds this page and the repository can read everything in it.");
    let _ = writeln!(page);
    let _ = writeln!(page, "With Windlass, on any machine:");
    let _ = writeln!(
        page,
        "  windlass restore APPLICATION --from {} --kit THIS-FILE --into COMPONENT=TARGET",
        repository.store().location()
    );
    let _ = writeln!(page);
    let _ = writeln!(page, "Without it: save the lines of a keyring below as keyring.txt and follow README.txt of the");
    let _ = writeln!(page, "repository from its step 2; step 1, opening the keyring, is done by this page.");
    for keyring in keyrings {
        let name = keyring.expose_secret().lines().find_map(|line| line.strip_prefix("# Windlass keyring of "));
        let name = name.unwrap_or_default();
        let _ = writeln!(page);
        let _ = writeln!(page, "Fingerprint of the keyring below: {}", fingerprint(keyring));
        let _ = writeln!(page, "{BEGIN}{name}-----");
        let _ = write!(page, "{}", keyring.expose_secret());
        let _ = writeln!(page, "{END}{name}-----");
    }
    SecretString::from(page)
}

/// The first 16 hexadecimal digits of the keyring's SHA-256, in groups of four.
fn fingerprint(keyring: &SecretString) -> String {
    let digits = hex::sha256(keyring.expose_secret().as_bytes());
    let groups: Vec<&str> = (0..4).filter_map(|i| digits.get(i * 4..i * 4 + 4)).collect();
    groups.join(" ")
}

/// A page that is no recovery kit.
#[derive(Debug, thiserror::Error)]
pub enum KitError {
    /// It holds no keyring.
    #[error("read the recovery kit: it holds no keyring")]
    Empty,
    /// A keyring in it is damaged.
    #[error("read the recovery kit: the keyring of `{name}` cannot be used: {why}")]
    Damaged {
        /// The application.
        name: String,
        /// What is wrong.
        why: String,
    },
}

impl windlass_core::diagnose::Diagnose for KitError {
    fn code(&self) -> &'static str {
        match self {
            Self::Empty => "WDL-1520",
            Self::Damaged { .. } => "WDL-1521",
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "NoRecoveryKit",
            Self::Damaged { .. } => "RecoveryKitDamaged",
        }
    }

    fn outcome(&self) -> windlass_core::diagnose::Outcome {
        windlass_core::diagnose::Outcome::CouldNotRun
    }

    fn hints(&self) -> Vec<String> {
        vec!["give the whole page, as `windlass repo kit` printed it".into()]
    }
}

/// The repository a page belongs to, where it says so.
pub fn repository_of(page: &str) -> Option<RepositoryId> {
    page.lines().find_map(|line| line.strip_prefix("Repository:"))?.trim().parse().ok()
}

/// Reads the keyrings of a page.
pub fn parse(page: &SecretString) -> Result<Vec<Keyring>, KitError> {
    let mut keyrings = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in page.expose_secret().lines().map(str::trim_end) {
        if let Some(name) = line.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix("-----")) {
            open = Some((name.to_owned(), String::new()));
        } else if line.starts_with(END)
            && let Some((name, text)) = open.take()
        {
            keyrings.push(read(&name, text)?);
        } else if let Some((_, text)) = &mut open {
            text.push_str(line);
            text.push('\n');
        }
    }
    if let Some((name, _)) = open {
        return Err(KitError::Damaged { name, why: "its end is missing".into() });
    }
    if keyrings.is_empty() { Err(KitError::Empty) } else { Ok(keyrings) }
}

fn read(name: &str, text: String) -> Result<Keyring, KitError> {
    let damaged = |why: String| KitError::Damaged { name: name.to_owned(), why };
    let application: Name = name.parse().map_err(|_| damaged("its name is not one".into()))?;
    let id = EntryId::fresh().map_err(|e| damaged(e.to_string()))?;
    Keyring::from_text(&application, id, &SecretString::from(text)).map_err(damaged)
}
