//! URLs of repositories: `s3://BUCKET/PREFIX` and `file:///FOLDER`, and the endpoint of a store.
//!
//! A `file` URL is decoded as RFC 8089 has it (`%20` is a space); an `s3` URL is taken as it is.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::cursor::{Faults, Item};
use super::problem::Fault;

/// What a repository's URL says.
pub(super) enum Url {
    /// A folder of this machine.
    Directory(PathBuf),
    /// A prefix of a bucket.
    Bucket { bucket: String, prefix: String },
}

const SHAPES: &str = "write s3://BUCKET/PREFIX, or file:///FOLDER for a folder of this machine";

/// Reads a repository's URL.
pub(super) fn read(item: &Item<'_>, faults: &mut Faults<'_>) -> Option<Url> {
    let text = item.text(faults)?;
    if let Some(rest) = text.strip_prefix("s3://") {
        bucket(item, rest, faults)
    } else if let Some(rest) = text.strip_prefix("file://") {
        directory(item, rest, faults)
    } else {
        let (why, hint) = match text.split_once("://") {
            _ if text.starts_with('/') => ("is a path, not a URL", "write file:// before it: file:///FOLDER"),
            Some(("http" | "https", _)) => (
                "is the address of a server, not of a repository",
                "write url = \"s3://BUCKET/PREFIX\" and the server as endpoint = \"https://…\"",
            ),
            Some(_) => ("is of a kind of place that Windlass does not know", SHAPES),
            None => ("is not a URL", SHAPES),
        };
        item.refuse(faults, why, hint);
        None
    }
}

fn bucket(item: &Item<'_>, rest: &str, faults: &mut Faults<'_>) -> Option<Url> {
    if rest.contains('@') {
        let hint = "take user and password out; write `access_key` and `secret_key` as secrets".to_owned();
        faults.add(item.at(), Fault::SecretInUrl { key: item.key.clone(), place: item.place(), hint });
        return None;
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_matches('/');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let refused = if bucket.is_empty() {
        Some(("names no bucket", "write s3://BUCKET/PREFIX"))
    } else if !bucket.chars().all(plain) {
        Some(("has no bucket's name before the first `/`", "a bucket's name is letters, digits, `.`, `-` and `_`"))
    } else if prefix.split('/').any(|part| matches!(part, "." | "..") || part.is_empty() && !prefix.is_empty()) {
        Some(("has a prefix with an empty part, `.` or `..`", "write plain names between single slashes"))
    } else if prefix.contains(['?', '#', '%', '\\']) || prefix.chars().any(char::is_control) {
        Some(("has a prefix with `?`, `#`, `%`, `\\` or a control character", "choose another prefix"))
    } else {
        None
    };
    if let Some((why, hint)) = refused {
        item.refuse(faults, why, hint);
        return None;
    }
    Some(Url::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

fn directory(item: &Item<'_>, rest: &str, faults: &mut Faults<'_>) -> Option<Url> {
    let path = rest.strip_prefix("localhost").filter(|path| path.starts_with('/')).unwrap_or(rest);
    if !path.starts_with('/') {
        let why = "names no absolute path: what stands between `file://` and the next `/` is a host";
        item.refuse(faults, why, "write three slashes: file:///FOLDER");
        return None;
    }
    let path = percent_decoded(path).filter(|bytes| !bytes.contains(&0));
    let Some(path) = path else {
        item.refuse(faults, "has a `%` that is not followed by two hexadecimal digits", "write `%25` for a `%`");
        return None;
    };
    let path = PathBuf::from(OsString::from_vec(path));
    if path.components().any(|part| matches!(part, std::path::Component::ParentDir)) {
        item.refuse(faults, "goes up by `..`", "write the path without `..`");
        return None;
    }
    Some(Url::Directory(path))
}

/// Reads the address of a store's server: `http` or `https`, host and port, nothing more.
pub(super) fn endpoint(item: &Item<'_>, faults: &mut Faults<'_>) -> Option<String> {
    let url = http(item, faults)?;
    let url = url.trim_end_matches('/');
    let (_, host) = url.split_once("://")?;
    if host.contains(['/', '?', '#']) {
        item.refuse(
            faults,
            "is more than a server's address",
            "write the server alone, such as \"https://s3.example.net\"",
        );
        return None;
    }
    Some(url.to_owned())
}

/// Reads a URL of `http` or `https`.
pub(super) fn http(item: &Item<'_>, faults: &mut Faults<'_>) -> Option<String> {
    let text = item.text(faults)?;
    let Some(("http" | "https", rest)) = text.split_once("://") else {
        item.refuse(faults, "is not a URL of http or https", "begin it with http:// or https://");
        return None;
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.contains('@') {
        let hint = "take user and password out of it".to_owned();
        faults.add(item.at(), Fault::SecretInUrl { key: item.key.clone(), place: item.place(), hint });
        return None;
    }
    if host.is_empty() || host.starts_with(':') || rest.contains(char::is_whitespace) {
        item.refuse(faults, "names no server", "write for example \"https://s3.example.net\"");
        return None;
    }
    Some(text.to_owned())
}

/// The bytes of a percent-encoded text, or nothing where a `%` is not followed by two hexadecimal digits.
pub(super) fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
            let value = digit()? * 16 + digit()?;
            bytes.push(u8::try_from(value).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    Some(bytes)
}
