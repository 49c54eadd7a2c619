//! Chooses the entries that some tables need, for `pg_restore --use-list`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use windlass_core::restore::Relation;

use super::{Entry, Toc};

/// Relations, which can be chosen by name.
const RELATIONS: [&str; 5] = ["TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW", "SEQUENCE"];

/// What belongs to a relation and comes with it.
const ATTACHED: [&str; 20] = [
    "TABLE DATA",
    "MATERIALIZED VIEW DATA",
    "SEQUENCE SET",
    "SEQUENCE OWNED BY",
    "SEQUENCE",
    "DEFAULT",
    "CONSTRAINT",
    "CHECK CONSTRAINT",
    "FK CONSTRAINT",
    "INDEX",
    "INDEX ATTACH",
    "TABLE ATTACH",
    "STATISTICS",
    "TRIGGER",
    "RULE",
    "POLICY",
    "ROW SECURITY",
    "COMMENT",
    "ACL",
    "SECURITY LABEL",
];

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The entries, by number.
    pub ids: BTreeSet<i64>,
    /// Those of them that are tables whose rows come along: others are there because something needs them.
    pub tables: BTreeSet<i64>,
    /// Foreign keys left out, since the tables they point to were not chosen.
    pub left_out: Vec<String>,
}

impl Selection {
    /// The list for `pg_restore --use-list`; only the numbers count there, the rest is for people.
    pub fn to_list(&self, toc: &Toc) -> String {
        let mut list = String::new();
        for entry in toc.entries.iter().filter(|entry| self.ids.contains(&entry.id)) {
            let plain = |text: &str| text.replace(['\n', '\r'], " ");
            let _ = writeln!(list, "{}; 0 0 {} {} {}", entry.id, entry.kind, plain(&entry.schema), plain(&entry.tag));
        }
        list
    }
}

/// Chooses the relations, what belongs to them, and what they need; or says which relation is not there.
pub fn select(toc: &Toc, relations: &[Relation]) -> Result<Selection, Relation> {
    let by_id: BTreeMap<i64, &Entry> = toc.entries.iter().map(|entry| (entry.id, entry)).collect();
    let mut chosen = BTreeSet::new();
    for relation in relations {
        let before = chosen.len();
        let is_meant = |entry: &&Entry| {
            entry.schema == relation.schema && relation.table.as_deref().is_none_or(|table| table == entry.tag)
        };
        let of_kind = |entry: &&Entry| RELATIONS.contains(&entry.kind.as_str());
        chosen.extend(toc.entries.iter().filter(of_kind).filter(is_meant).map(|entry| entry.id));
        if chosen.len() == before {
            return Err(relation.clone());
        }
    }
    let mut left_out = Vec::new();
    // What belongs to the chosen may have something of its own: an index its comment, a sequence its position.
    loop {
        let before = chosen.len();
        for entry in &toc.entries {
            let attached =
                ATTACHED.contains(&entry.kind.as_str()) && entry.depends_on.iter().any(|id| chosen.contains(id));
            let partition = entry.kind == "TABLE" && depends_on_chosen_table(entry, &chosen, &by_id);
            if (attached && belongs(entry, &chosen, &by_id)) || partition {
                chosen.insert(entry.id);
            }
        }
        if chosen.len() == before {
            break;
        }
    }
    for entry in toc.entries.iter().filter(|e| e.kind == "FK CONSTRAINT" && !chosen.contains(&e.id)) {
        if entry.depends_on.iter().any(|id| chosen.contains(id)) {
            left_out.push(format!("{}.{}", entry.schema, entry.tag));
        }
    }
    let is_table = |id: &i64| by_id.get(id).is_some_and(|entry| entry.kind == "TABLE");
    let tables = chosen.iter().copied().filter(is_table).collect();
    need(&mut chosen, &by_id);
    // A sequence that is needed is where it was: otherwise it would give numbers that are in use.
    let is_position =
        |entry: &&Entry| entry.kind == "SEQUENCE SET" && entry.depends_on.iter().any(|id| chosen.contains(id));
    let positions: Vec<i64> = toc.entries.iter().filter(is_position).map(|entry| entry.id).collect();
    chosen.extend(positions);
    Ok(Selection { ids: chosen, tables, left_out })
}

/// A partition or child comes with its parent.
fn depends_on_chosen_table(entry: &Entry, chosen: &BTreeSet<i64>, by_id: &BTreeMap<i64, &Entry>) -> bool {
    entry.depends_on.iter().any(|id| chosen.contains(id) && by_id.get(id).is_some_and(|e| e.kind == "TABLE"))
}

/// Whether everything an attached entry ties together was chosen.
fn belongs(entry: &Entry, chosen: &BTreeSet<i64>, by_id: &BTreeMap<i64, &Entry>) -> bool {
    let ties = |id: &&i64| by_id.get(id).is_some_and(|e| matches!(e.kind.as_str(), "TABLE" | "FOREIGN TABLE"));
    entry.depends_on.iter().filter(ties).all(|id| chosen.contains(id))
}

/// Adds what the chosen depend on: schemas, types, functions, extensions, parents.
fn need(chosen: &mut BTreeSet<i64>, by_id: &BTreeMap<i64, &Entry>) {
    let mut open: Vec<i64> = chosen.iter().copied().collect();
    while let Some(id) = open.pop() {
        let Some(entry) = by_id.get(&id) else { continue };
        open.extend(entry.depends_on.iter().filter(|id| chosen.insert(**id)));
    }
}
