//! Plugins: files fetched before an application starts, each told by what its bytes must be.

use serde::{Deserialize, Serialize};

/// A plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plugin {
    /// The name of its file.
    pub name: String,
    /// Where it is fetched from.
    pub url: String,
    /// The SHA-256 of its bytes, in hex of either case.
    pub sha256: String,
}

impl Plugin {
    /// What is wrong with it, in words; `None` where nothing is.
    pub fn fault(&self) -> Option<String> {
        let letters = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if !self.name.bytes().all(letters)
            || !self.name.starts_with(|c: char| c.is_ascii_alphanumeric())
            || self.name.len() > 128
        {
            return Some(format!(
                "`{}` is not the name of a file: A-Z, a-z, 0-9 and `._-`, the first a letter or digit",
                self.name
            ));
        }
        if !(self.url.starts_with("https://") || self.url.starts_with("http://"))
            || self.url.contains(char::is_whitespace)
        {
            return Some(format!("{}: its url does not begin with https:// or http://", self.name));
        }
        if self.sha256.len() != 64 || !self.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Some(format!("{}: its sha256 is not 64 characters of hex", self.name));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(name: &str, url: &str, sha256: &str) -> Plugin {
        Plugin { name: name.into(), url: url.into(), sha256: sha256.into() }
    }

    #[test]
    fn names_that_leave_their_folder_and_digests_that_are_none_are_refused() {
        let good = "Ab".repeat(32);
        assert_eq!(plugin("example-1.2.tar.gz", "https://example.com/p", &good).fault(), None);
        for name in ["", "../x", "a/b", ".hidden", "$(id)", "a b"] {
            assert!(plugin(name, "https://example.com/p", &good).fault().is_some(), "{name}");
        }
        assert!(plugin("a", "file:///etc/passwd", &good).fault().is_some());
        assert!(plugin("a", "https://example.com/p", &good[..63]).fault().is_some());
    }
}
