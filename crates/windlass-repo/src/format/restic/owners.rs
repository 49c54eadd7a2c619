//! Names of users and groups, as this machine knows them.

use std::collections::HashMap;

/// Names by number.
#[derive(Debug, Default)]
pub(super) struct Owners {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Owners {
    /// Reads `/etc/passwd` and `/etc/group`; what is not there has no name.
    pub(super) fn read() -> Self {
        Self { users: table("/etc/passwd"), groups: table("/etc/group") }
    }

    pub(super) fn user(&self, id: u32) -> Option<String> {
        self.users.get(&id).cloned()
    }

    pub(super) fn group(&self, id: u32) -> Option<String> {
        self.groups.get(&id).cloned()
    }
}

/// `name:password:number:…`
fn table(path: &str) -> HashMap<u32, String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let entry = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    text.lines().filter_map(entry).collect()
}
