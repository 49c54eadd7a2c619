//! `[repository.NAME]`: where recovery points lie, and how they are sealed.

use windlass_core::name::Name;
use windlass_core::repository::{Encryption, Format, KeyTransform, LibsodiumKey, Place, Repository, S3};

use super::cursor::{Faults, Item, Table};
use super::problem::Fault;
use super::{keys, place, secret, suggest};

/// Keys that only mean something for a bucket.
const S3_KEYS: [&str; 6] = ["endpoint", "region", "path_style", "ca", "access_key", "secret_key"];

/// Reads a repository.
pub(super) fn read(name: Name, item: &Item<'_>, faults: &mut Faults<'_>) -> Option<Repository> {
    let table = item.table(&[&keys::REPOSITORY], faults)?;
    let place = read_place(&table, faults);
    let format = read_format(&table, faults);
    Some(Repository { name, place: place?, format: format? })
}

/// Tells of a repository that lies where another of the file does: each would take the other's objects for its own.
pub(super) fn tell_same_place<'r>(
    repository: &Repository,
    others: impl IntoIterator<Item = &'r Repository>,
    item: &Item<'_>,
    faults: &mut Faults<'_>,
) {
    let same = |other: &&Repository| match (&repository.place, &other.place) {
        (Place::Directory(one), Place::Directory(two)) => one == two,
        (Place::S3(one), Place::S3(two)) => {
            (&one.endpoint, &one.bucket, &one.prefix) == (&two.endpoint, &two.bucket, &two.prefix)
        }
        _ => false,
    };
    let Some(other) = others.into_iter().find(same) else { return };
    let Some(url) = item.open(faults).and_then(|table| table.get("url")) else { return };
    let why = format!("is the place of [repository.{}] already", other.name);
    url.refuse(faults, why, "take one of them out, or give it a place of its own");
}

fn read_place(table: &Table<'_>, faults: &mut Faults<'_>) -> Option<Place> {
    let url = table.require(&keys::REPOSITORY, "url", faults)?;
    match place::read(&url, faults)? {
        place::Url::Directory(path) => {
            let stray: Vec<Item<'_>> = S3_KEYS.iter().filter_map(|key| table.get(key)).collect();
            for item in &stray {
                let fault = Fault::Conflict {
                    why: format!("`{}` {} means nothing for a directory", item.key, item.place()),
                    hint: "take it out, or write an s3:// url".to_owned(),
                };
                faults.add(item.at(), fault);
            }
            stray.is_empty().then_some(Place::Directory(path))
        }
        place::Url::Bucket { bucket, prefix } => read_s3(table, bucket, prefix, faults).map(Place::S3),
    }
}

fn read_s3(table: &Table<'_>, bucket: String, prefix: String, faults: &mut Faults<'_>) -> Option<S3> {
    let before = faults.count();
    let endpoint = table.get("endpoint").and_then(|item| place::endpoint(&item, faults));
    let region = table.get("region").and_then(|item| item.text(faults)).map(str::to_owned);
    let path_style = table.get("path_style").and_then(|item| item.boolean(faults));
    let ca = table.get("ca").and_then(|item| item.path(faults));
    let access_key = table.require(&keys::REPOSITORY, "access_key", faults);
    let access_key = access_key.and_then(|item| secret::read(&item, faults));
    let secret_key = table.require(&keys::REPOSITORY, "secret_key", faults);
    let secret_key = secret_key.and_then(|item| secret::read(&item, faults));
    if faults.count() > before {
        return None;
    }
    Some(S3 {
        bucket,
        prefix,
        path_style: path_style.unwrap_or(endpoint.is_some()),
        endpoint,
        region,
        ca,
        access_key: access_key?,
        secret_key: secret_key?,
    })
}

fn read_format(table: &Table<'_>, faults: &mut Faults<'_>) -> Option<Format> {
    let format = match table.get("format") {
        None => "windlass",
        Some(item) => match item.text(faults)? {
            known @ ("restic" | "wal-g") => known,
            other => {
                let near = suggest::nearest(other, ["restic", "wal-g"]);
                let guess = near.map_or(String::new(), |near| format!("did you mean \"{near}\"? "));
                let hint =
                    format!("{guess}leave the key out for Windlass's own layout, or write \"restic\" or \"wal-g\"");
                item.refuse(faults, format!("is of an unknown format, `{}`", other.escape_debug()), hint);
                return None;
            }
        },
    };
    let Some(item) = table.get("encryption") else {
        let hint = "add `encryption = { passphrase = { file = \"/etc/windlass/passphrase\" } }`; \
                    to store everything readable for whoever can read the place, say so: `encryption = \"none\"`";
        let fault = Fault::MissingKey { key: "encryption".to_owned(), place: table.place(), hint: hint.to_owned() };
        faults.add(table.at, fault);
        return None;
    };
    if format == "wal-g" {
        return read_libsodium(&item, faults).map(|key| Format::WalG { key });
    }
    let encryption = read_encryption(&item, faults)?;
    match (format, encryption) {
        ("restic", Encryption::Passphrase(password)) => Some(Format::Restic { password }),
        ("restic", _) => {
            let fault = Fault::Conflict {
                why: format!(
                    "a restic repository is opened with a password, and `encryption` {} has none",
                    item.place()
                ),
                hint: "write `encryption = { passphrase = { file = \"/etc/windlass/restic-password\" } }`".to_owned(),
            };
            faults.add(item.at(), fault);
            None
        }
        (_, encryption) => Some(Format::Windlass(encryption)),
    }
}

/// How a repository of WAL-G is sealed; `Some(None)` where it is not.
#[expect(clippy::option_option, reason = "wrong, not sealed, sealed")]
fn read_libsodium(item: &Item<'_>, faults: &mut Faults<'_>) -> Option<Option<LibsodiumKey>> {
    let hint =
        "write `encryption = { libsodium = { file = \"/etc/wal-g/key\" }, transform = \"none\" }`, or exactly \"none\"";
    match item.as_text() {
        Some("none") => return Some(None),
        Some(_) => {
            item.refuse(faults, "is a text other than \"none\"", hint);
            return None;
        }
        None => {}
    }
    let table = item.table(&[&keys::ENCRYPTION], faults)?;
    let Some(key) = table.get("libsodium") else {
        let why = format!("`wal-g` seals with a libsodium key, and `encryption` {} has none", item.place());
        faults.add(item.at(), Fault::Conflict { why, hint: hint.to_owned() });
        return None;
    };
    let secret = secret::read(&key, faults);
    let transform = match table.get("transform") {
        None => KeyTransform::None,
        Some(item) => match item.text(faults)? {
            "none" => KeyTransform::None,
            "base64" => KeyTransform::Base64,
            "hex" => KeyTransform::Hex,
            _ => {
                item.refuse(
                    faults,
                    "is none of `none`, `base64` and `hex`",
                    "write what WALG_LIBSODIUM_KEY_TRANSFORM held",
                );
                return None;
            }
        },
    };
    Some(Some(LibsodiumKey { secret: secret?, transform }))
}

fn read_encryption(item: &Item<'_>, faults: &mut Faults<'_>) -> Option<Encryption> {
    match item.as_text() {
        Some("none") => return Some(Encryption::None),
        Some(_) => {
            // Any other text may well be the passphrase: it is not shown.
            let hint = "write `encryption = { passphrase = { file = \"/etc/windlass/passphrase\" } }`, or exactly \"none\"; \
                        if this was the passphrase, choose another, since others may have read this file";
            item.refuse(faults, "is a text other than \"none\"", hint);
            return None;
        }
        None => {}
    }
    let table = item.table(&[&keys::ENCRYPTION], faults)?;
    match (table.get("passphrase"), table.get("recipients"), table.get("identity")) {
        (Some(passphrase), None, None) => secret::read(&passphrase, faults).map(Encryption::Passphrase),
        (None, Some(recipients), identity) => {
            let recipients = read_recipients(&recipients, faults);
            let identity = match identity {
                Some(identity) => Some(secret::read(&identity, faults)?),
                None => None,
            };
            Some(Encryption::Recipients { recipients: recipients?, identity })
        }
        (passphrase, recipients, _) => {
            let why = match (passphrase.is_some(), recipients.is_some()) {
                (true, true) => "both a passphrase and recipients",
                (true, false) => "an identity beside a passphrase, which needs none",
                _ => "neither a passphrase nor recipients",
            };
            let fault = Fault::Conflict {
                why: format!("`encryption` {} has {why}", item.place()),
                hint: "write { passphrase = { file = \"/PATH\" } }, or { recipients = [\"age1…\"], identity = { file = \"/PATH\" } }"
                    .to_owned(),
            };
            faults.add(item.at(), fault);
            None
        }
    }
}

fn read_recipients(item: &Item<'_>, faults: &mut Faults<'_>) -> Option<Vec<String>> {
    let expected = "an array of public keys of age";
    let elements = item.elements(faults, expected, "write [\"age1…\"]")?;
    if elements.is_empty() {
        item.refuse(faults, "is empty", "name at least one public key, as `age-keygen` prints it");
        return None;
    }
    let recipients: Vec<String> = elements.iter().filter_map(|element| read_recipient(element, faults)).collect();
    (recipients.len() == elements.len()).then_some(recipients)
}

/// One public key; its checksum is part of it, so a slip is found here. Never shown: it may be a secret key.
fn read_recipient(item: &Item<'_>, faults: &mut Faults<'_>) -> Option<String> {
    let text = item.text(faults)?;
    if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
        faults.add(item.at(), Fault::PlainSecret { key: "identity".to_owned(), place: item.place() });
        return None;
    }
    if let Err(why) = text.parse::<age::x25519::Recipient>() {
        let (why, hint) = if text.starts_with("ssh-") {
            ("is a key of ssh".to_owned(), "make a key of age with `age-keygen`, and write the public key it prints")
        } else if text.starts_with("age1") {
            (
                format!("is not a public key of age: {why}"),
                "copy the whole public key again, as `age-keygen -y` prints it",
            )
        } else {
            (
                "is not a public key of age".to_owned(),
                "write the line that begins with age1, as `age-keygen -y` prints it",
            )
        };
        item.refuse(faults, why, hint);
        return None;
    }
    Some(text.to_owned())
}
