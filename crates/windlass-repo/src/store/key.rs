//! The key of an object, relative to the root of its repository.

use std::fmt;
use std::str::FromStr;

/// Text that cannot be a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a key: segments of A-Z, a-z, 0-9 and `.-_=~%` joined by `/` are expected")]
pub struct InvalidKey(String);

/// A key: segments of `A-Z a-z 0-9 . - _ = ~ %` joined by `/`, none of them empty, `.` or `..`.
///
/// So narrow that it means the same to every store and file system; a name from outside is
/// percent-encoded ([`Key::encode`]) before it becomes a segment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// Everything but letters, digits and `-_.~` is encoded.
const SEGMENT: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The folder of a repository whose dumps lie beside it: the keys of those begin with `../`.
pub const BESIDE: &str = ".windlass";

impl Key {
    /// The root itself; only for listings and messages.
    pub(crate) fn root() -> Self {
        Self(String::new())
    }

    /// A key found in a listing, which may be none of ours; it can be shown, read and deleted all the same.
    pub(crate) fn foreign(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// An object right above the repository's root, where that is a folder beside it ([`BESIDE`]).
    pub(crate) fn above(file: &str) -> Self {
        Self(format!("../{file}"))
    }

    /// The name of an object right above the root, where it is one.
    pub(crate) fn name_above(&self) -> Option<&str> {
        self.0.strip_prefix("../").filter(|name| !name.is_empty() && !name.contains('/') && *name != "..")
    }

    /// Any text as one segment: `my db` becomes `my%20db`.
    pub fn encode(name: &str) -> String {
        match name {
            "." => "%2E".to_owned(),
            ".." => "%2E%2E".to_owned(),
            _ => percent_encoding::utf8_percent_encode(name, SEGMENT).to_string(),
        }
    }

    /// The text of a segment made by [`Key::encode`], or `None` where it is not UTF-8.
    pub fn decode(segment: &str) -> Option<String> {
        percent_encoding::percent_decode_str(segment).decode_utf8().ok().map(std::borrow::Cow::into_owned)
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its segments.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Its last segment.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Key {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let segment = |s: &str| {
            !s.is_empty()
                && s != "."
                && s != ".."
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_=~%".contains(&b))
        };
        if text.split('/').all(segment) { Ok(Self(text.to_owned())) } else { Err(InvalidKey(text.to_owned())) }
    }
}
