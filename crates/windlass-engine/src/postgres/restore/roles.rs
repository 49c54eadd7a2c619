//! Roles that a dump needs and its target's server lacks.

use std::collections::{BTreeMap, BTreeSet};

use windlass_repo::format::dump::Toc;

use super::{PostgresError, Session, Tools};

/// What entries need that the server lacks, by entry.
pub(super) async fn missing(
    tools: &Tools,
    toc: &Toc,
    privileges: bool,
) -> Result<BTreeMap<i64, BTreeSet<String>>, PostgresError> {
    #[derive(serde::Deserialize)]
    struct Role {
        rolname: String,
    }
    let mut named: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
    for entry in toc.entries.iter().filter(|entry| !entry.roles.is_empty()) {
        // Those of the database itself are settings of it, and applied at the end.
        let privilege = entry.kind.ends_with("ACL");
        if !privilege || (privileges && !entry.tag.starts_with("DATABASE ")) {
            named.insert(entry.id, entry.roles.clone());
        }
    }
    if named.is_empty() {
        return Ok(named);
    }
    let mut session = Session::beside(tools, &[]).await?;
    let known: BTreeSet<String> =
        session.all::<Role>("select rolname from pg_roles").await?.into_iter().map(|role| role.rolname).collect();
    session.close().await;
    for roles in named.values_mut() {
        roles.retain(|role| !known.contains(role));
    }
    named.retain(|_, roles| !roles.is_empty());
    Ok(named)
}
