//! The password file (<https://www.postgresql.org/docs/current/libpq-pgpass.html>): `host:port:database:user:password`,
//! one a line, `*` for anything, `\` before a colon or another `\`. The first line that fits counts.
//!
//! A file that others may read is passed over, as by libpq.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use crate::address::{Host, Place, SOCKETS};

/// What was found.
pub(crate) enum Found {
    Password(SecretString),
    /// No file, or no line of it.
    Nothing,
    /// The file is there and is passed over, and why.
    PassedOver(String),
}

/// Who is looked for.
pub(crate) struct Wanted<'a> {
    pub(crate) host: &'a Host,
    /// Any of these will do: `replication`, and what the URL names.
    pub(crate) databases: [&'a str; 2],
    pub(crate) user: &'a str,
}

/// Looks into the file, or into `~/.pgpass`.
pub(crate) fn look(file: Option<&Path>, wanted: &Wanted<'_>) -> Found {
    let usual = || std::env::home_dir().map(|home| home.join(".pgpass"));
    let Some(path) = file.map(PathBuf::from).or_else(usual) else { return Found::Nothing };
    let passed_over = |why: &str| Found::PassedOver(format!("{} is passed over: {why}", path.display()));
    let about = match std::fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing,
        Err(error) => return passed_over(&error.to_string()),
        Ok(about) => about,
    };
    if !about.is_file() {
        return passed_over("it is no file");
    }
    if about.mode() & 0o077 != 0 {
        return passed_over("others may read it; its permissions should be 0600");
    }
    let text = match std::fs::read_to_string(&path) {
        Err(error) => return passed_over(&error.to_string()),
        Ok(text) => SecretString::from(text),
    };
    text.expose_secret().lines().find_map(|line| password(line, wanted)).map_or(Found::Nothing, Found::Password)
}

/// The password of a line, if the line is about who is looked for.
fn password(line: &str, wanted: &Wanted<'_>) -> Option<SecretString> {
    if line.starts_with('#') {
        return None;
    }
    let (host, rest) = field(line)?;
    let (port, rest) = field(rest)?;
    let (database, rest) = field(rest)?;
    let (user, rest) = field(rest)?;
    // Behind the last colon another one need not be hidden.
    let password = field(rest).map_or_else(|| plain(rest), |(password, _)| password);
    let fits = |field: &str, value: &str| field == "*" || field == value;
    let named = match &wanted.host.place {
        Place::Folder(folder) if folder == Path::new(SOCKETS) => "localhost".to_owned(),
        Place::Folder(folder) => folder.display().to_string(),
        Place::Name(name) | Place::Address(_, Some(name)) => name.clone(),
        Place::Address(address, None) => address.to_string(),
    };
    let is_it = fits(&host, &named)
        && fits(&port, &wanted.host.port.to_string())
        && wanted.databases.iter().any(|name| fits(&database, name))
        && fits(&user, wanted.user);
    (is_it && !password.is_empty()).then(|| password.into())
}

/// What is before the next colon that is not hidden, and what is behind it.
fn field(text: &str) -> Option<(String, &str)> {
    let mut is_hidden = false;
    for (at, letter) in text.char_indices() {
        match letter {
            ':' if !is_hidden => return Some((plain(&text[..at]), &text[at + 1..])),
            _ => is_hidden = letter == '\\' && !is_hidden,
        }
    }
    None
}

fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => plain.extend(letters.next()),
            _ => plain.push(letter),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use secrecy::ExposeSecret;

    use super::{Found, Wanted, look, password};
    use crate::Address;

    fn found(line: &str, url: &str) -> Option<String> {
        let address = Address::parse(url).unwrap();
        let databases = ["replication", address.database.as_str()];
        let wanted = Wanted { host: &address.hosts[0], databases, user: &address.user };
        password(line, &wanted).map(|password| password.expose_secret().to_owned())
    }

    #[test]
    fn a_line_counts_where_all_of_it_fits() {
        let url = "postgresql://u@h:6000/db";
        let cases = [
            ("h:6000:replication:u:x", Some("x")),
            ("h:6000:db:u:x", Some("x")),
            ("*:*:*:*:x", Some("x")),
            (r"h:*:*:u:a\:b\\c", Some(r"a:b\c")),
            ("h:6000:*:u:a:b", Some("a")),
            ("h:6000:other:u:x", None),
            ("h:5432:*:u:x", None),
            ("i:*:*:*:x", None),
            ("*:*:*:v:x", None),
            ("#h:6000:*:u:x", None),
            ("h:6000:*:u:", None),
            ("h:6000:*:u", None),
            ("", None),
        ];
        for (line, expected) in cases {
            assert_eq!(found(line, url).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn sockets_addresses_and_odd_names_are_called_as_libpq_calls_them() {
        let cases = [
            ("localhost:5432:*:*:x", "postgresql://u@"),
            ("/run/pg:5432:*:*:x", "postgresql://u@?host=/run/pg"),
            (r"\:\:1:5432:*:*:x", "postgresql://u@[::1]"),
            (r"\:\:1:5432:*:*:x", "postgresql://u@?hostaddr=::1"),
            ("h:5432:*:*:x", "postgresql://u@h?hostaddr=::1"),
            (r"*:*:*:a\:b\\:x", "postgresql://a%3Ab%5C@h"),
        ];
        for (line, url) in cases {
            assert_eq!(found(line, url).as_deref(), Some("x"), "{line}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_passed_over() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# mine\n*:*:*:v:other\n*:*:*:u:s3cret\n").unwrap();
        let address = Address::parse("postgresql://u@h").unwrap();
        let wanted = Wanted { host: &address.hosts[0], databases: ["replication", "u"], user: "u" };
        let set = |mode| std::fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
        set(0o600);
        let Found::Password(password) = look(Some(file.path()), &wanted) else { panic!("not found") };
        assert_eq!(password.expose_secret(), "s3cret");
        for mode in [0o640, 0o604] {
            set(mode);
            let Found::PassedOver(why) = look(Some(file.path()), &wanted) else { panic!("taken") };
            assert!(why.contains("0600") && !why.contains("s3cret"), "{why}");
        }
        assert!(matches!(look(Some(&file.path().join("x")), &wanted), Found::PassedOver(_)));
        assert!(matches!(look(Some("/nonexistent".as_ref()), &wanted), Found::Nothing));
    }
}
