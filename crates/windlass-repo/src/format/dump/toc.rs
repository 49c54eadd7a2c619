//! The table of contents: what a dump holds, without the definitions themselves.

use std::collections::BTreeSet;

use super::cursor::{Cursor, Read};
use super::roles;

/// What a dump holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Toc {
    /// The database it was taken of.
    pub database: String,
    /// The server's version, as text.
    pub server_version: String,
    /// The version of `pg_dump`, as text.
    pub dump_version: String,
    /// Its entries, in the order they are restored.
    pub entries: Vec<Entry>,
}

/// One entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its number, by which `pg_restore --use-list` names it.
    pub id: i64,
    /// Whether data of its own follow.
    pub has_data: bool,
    /// What it is: `TABLE`, `TABLE DATA`, `INDEX` and so on.
    pub kind: String,
    /// Whether it is restored behind the data: `--section=post-data` of `pg_restore`.
    pub behind_data: bool,
    /// Its name; with some kinds the name of what it belongs to as well.
    pub tag: String,
    /// The schema it is in; empty where it is in none.
    pub schema: String,
    /// Its owner; empty where it has none.
    pub owner: String,
    /// The entries that must be restored before it.
    pub depends_on: Vec<i64>,
    /// The roles it names besides its owner, where it is a privilege, a policy or a user mapping.
    pub roles: BTreeSet<String>,
}

/// Entries whose definitions name roles.
const WITH_ROLES: [&str; 4] = ["ACL", "DEFAULT ACL", "POLICY", "USER MAPPING"];

/// What the head says of the layout of the rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) minor: u8,
    pub(super) int_size: usize,
    pub(super) offset_size: usize,
}

/// Sections as the format numbers them: an entry of none is restored with those before it.
const NO_SECTION: i64 = 1;
const POST_DATA: i64 = 4;

impl Entry {
    /// Reads the entry that stands behind another.
    pub(super) fn read(cursor: &mut Cursor<'_>, layout: Layout, before: Option<&Self>) -> Read<Self> {
        let id = cursor.int()?;
        if id <= 0 {
            return cursor.wrong("an entry's number is not positive");
        }
        let has_data = cursor.int()? != 0;
        cursor.text()?; // table oid
        cursor.text()?; // oid
        let tag = cursor.string()?;
        let kind = cursor.string()?;
        let section = cursor.int()?;
        let behind_data = section == POST_DATA || section == NO_SECTION && before.is_some_and(|e| e.behind_data);
        let definition = cursor.text()?;
        let roles = match definition {
            Some(text) if WITH_ROLES.contains(&kind.as_str()) => roles::read(&String::from_utf8_lossy(text)),
            _ => BTreeSet::new(),
        };
        cursor.text()?; // drop statement
        cursor.text()?; // copy statement
        let schema = cursor.string()?;
        cursor.text()?; // tablespace
        if layout.minor >= 14 {
            cursor.text()?; // table access method
        }
        if layout.minor >= 16 {
            cursor.int()?; // relkind
        }
        let owner = cursor.string()?;
        cursor.text()?; // with oids
        let mut depends_on = Vec::new();
        while let Some(text) = cursor.text()? {
            match std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()) {
                Some(id) => depends_on.push(id),
                None => return cursor.wrong("a dependency is not a number"),
            }
        }
        let state = cursor.byte()?;
        cursor.take(layout.offset_size)?;
        match (state, has_data) {
            (1 | 2, true) | (3, false) => {}
            (1..=3, _) => return cursor.wrong("an entry contradicts itself about having data"),
            _ => return cursor.wrong("an entry's state of data is not known"),
        }
        Ok(Self { id, has_data, kind, behind_data, tag, schema, owner, depends_on, roles })
    }
}

impl Toc {
    /// The roles that own something or have a privilege. Those of the database itself are settings of it, which are
    /// applied as far as they can be.
    pub fn owners(&self) -> BTreeSet<&str> {
        let owners = self.entries.iter().map(|entry| entry.owner.as_str()).filter(|owner| !owner.is_empty());
        let meant = |entry: &&Entry| entry.kind.ends_with("ACL") && !entry.tag.starts_with("DATABASE ");
        owners
            .chain(self.entries.iter().filter(meant).flat_map(|entry| entry.roles.iter().map(String::as_str)))
            .collect()
    }

    /// The roles without which some of the wanted entries cannot be restored at all: those of policies and user mappings.
    pub fn required_roles(&self, wanted: &BTreeSet<i64>) -> BTreeSet<&str> {
        let meant =
            |entry: &&Entry| matches!(entry.kind.as_str(), "POLICY" | "USER MAPPING") && wanted.contains(&entry.id);
        self.entries.iter().filter(meant).flat_map(|entry| entry.roles.iter().map(String::as_str)).collect()
    }
}
