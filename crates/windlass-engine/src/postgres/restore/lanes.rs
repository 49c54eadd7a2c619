//! Rows restored by two `pg_restore` at once.
//!
//! One `pg_restore` fed by a stream loads one table after another, and most of its time it waits for the server. So
//! tables are dealt out to two lanes, about the same bytes to each, and each lane is fed the whole dump by a reader of
//! its own: it takes what is on its list and passes over the rest. Nothing is staged; the dump is read twice. A lane whose
//! rows are in goes on with the indexes of its tables, while the other still loads. Two sessions are at work at a time,
//! never more: each has half of the memory for building indexes.

use std::collections::{BTreeMap, BTreeSet};

use windlass_core::point::TableCount;
use windlass_repo::format::dump::{Entry, Toc};

/// Lanes, as many as jobs for indexes.
const LANES: usize = 2;

/// Indexes of so many bytes of tables are worth a `pg_restore` of their own.
const LARGE: u64 = 64 << 20;

/// Below this one lane is as quick.
const WORTH_IT: u64 = 8 << 20;

/// Entries whose data belong to one table, dealt out; whatever else there is goes with the first lane. One lane where it
/// is not worth it, or nothing is known of the tables' sizes.
pub(super) fn deal(toc: &Toc, wanted: Option<&BTreeSet<i64>>, tables: &[TableCount]) -> Vec<BTreeSet<i64>> {
    let sizes = sizes(tables);
    let is_wanted = |id: &i64| wanted.is_none_or(|wanted| wanted.contains(id));
    let mut data: Vec<(u64, i64)> = toc
        .entries
        .iter()
        .filter(|entry| entry.kind == "TABLE DATA" && is_wanted(&entry.id))
        .map(|entry| (sizes.get(&(entry.schema.as_str(), entry.tag.as_str())).copied().unwrap_or(0), entry.id))
        .collect();
    let others = toc.entries.iter().map(|entry| entry.id).filter(is_wanted);
    let mut first: BTreeSet<i64> = others.collect();
    data.sort_unstable_by(|a, b| b.cmp(a));
    let beside: u64 = data.iter().skip(1).map(|(size, _)| size).sum();
    if beside < WORTH_IT {
        return vec![first];
    }
    // The largest first, each to the lane that has least.
    let mut lanes = vec![(0u64, BTreeSet::new()); LANES];
    for (size, id) in data {
        first.remove(&id);
        if let Some(lane) = lanes.iter_mut().min_by_key(|(sum, _)| *sum) {
            lane.0 = lane.0.saturating_add(size.max(1));
            lane.1.insert(id);
        }
    }
    let mut lanes: Vec<BTreeSet<i64>> = lanes.into_iter().map(|(_, ids)| ids).collect();
    if let Some(lane) = lanes.first_mut() {
        lane.append(&mut first);
    }
    lanes
}

/// Indexes, and keys that make some, of tables whose rows a lane loads: those that need nothing else that comes behind
/// the rows. An index of something that is no table with rows waits for the rest.
pub(super) fn indexes(toc: &Toc, wanted: Option<&BTreeSet<i64>>, lane: &BTreeSet<i64>) -> BTreeSet<i64> {
    let is_data = |entry: &&Entry| entry.kind == "TABLE DATA";
    // Entries stand in the order in which they are restored.
    let before: BTreeSet<i64> = toc.entries.iter().take_while(|entry| !is_data(entry)).map(|entry| entry.id).collect();
    let tables: BTreeSet<i64> =
        toc.entries.iter().filter(|entry| entry.kind == "TABLE").map(|entry| entry.id).collect();
    let data = toc.entries.iter().filter(is_data).filter(|entry| lane.contains(&entry.id));
    let loaded: BTreeSet<i64> =
        data.flat_map(|entry| &entry.depends_on).copied().filter(|id| tables.contains(id)).collect();
    let is_ready = |id: &i64| loaded.contains(id) || before.contains(id) && !tables.contains(id);
    let may_go = |entry: &&Entry| {
        matches!(entry.kind.as_str(), "INDEX" | "CONSTRAINT")
            && wanted.is_none_or(|wanted| wanted.contains(&entry.id))
            && entry.depends_on.iter().any(|id| loaded.contains(id))
            && entry.depends_on.iter().all(is_ready)
    };
    toc.entries.iter().filter(may_go).map(|entry| entry.id).collect()
}

/// Parts of the indexes of a lane, to be built one after the other: those of large tables alone and first, the others
/// together. So a lane soon sees that the other has come to its end.
pub(super) fn parts(toc: &Toc, indexes: &BTreeSet<i64>, tables: &[TableCount]) -> Vec<BTreeSet<i64>> {
    let sizes = sizes(tables);
    let named: BTreeMap<i64, u64> = toc
        .entries
        .iter()
        .filter(|entry| entry.kind == "TABLE")
        .map(|entry| (entry.id, sizes.get(&(entry.schema.as_str(), entry.tag.as_str())).copied().unwrap_or(0)))
        .collect();
    let size = |entry: &&Entry| entry.depends_on.iter().filter_map(|id| named.get(id)).max().copied().unwrap_or(0);
    let mut wanted: Vec<(u64, i64)> =
        toc.entries.iter().filter(|entry| indexes.contains(&entry.id)).map(|entry| (size(&entry), entry.id)).collect();
    wanted.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    let (mut parts, mut part, mut sum) = (Vec::new(), BTreeSet::new(), 0u64);
    for (size, id) in wanted {
        part.insert(id);
        sum = sum.saturating_add(size);
        if sum >= LARGE {
            parts.push(std::mem::take(&mut part));
            sum = 0;
        }
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

fn sizes(tables: &[TableCount]) -> BTreeMap<(&str, &str), u64> {
    tables.iter().map(|table| ((table.schema.as_str(), table.table.as_str()), table.bytes)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use windlass_core::point::TableCount;
    use windlass_repo::format::dump::{Entry, Toc};

    use super::{deal, indexes, parts};

    fn table(name: &str, mib: u64) -> TableCount {
        TableCount { schema: "s".into(), table: name.into(), rows: 1, exact: true, bytes: mib << 20 }
    }

    fn toc(names: &[&str]) -> Toc {
        let entry = |id: usize, kind: &str, tag: &str| Entry {
            id: i64::try_from(id).unwrap(),
            has_data: true,
            kind: kind.into(),
            tag: tag.into(),
            schema: "s".into(),
            ..Entry::default()
        };
        let mut entries: Vec<Entry> =
            names.iter().enumerate().map(|(id, name)| entry(id + 1, "TABLE DATA", name)).collect();
        entries.push(entry(100, "BLOBS", "BLOBS"));
        Toc { entries, ..Toc::default() }
    }

    #[test]
    fn tables_are_dealt_out_evenly_and_everything_has_one_lane() {
        let toc = toc(&["a", "b", "c", "d"]);
        let sizes = [table("a", 100), table("b", 60), table("c", 50), table("d", 1)];
        let lanes = deal(&toc, None, &sizes);
        assert_eq!(lanes, [[1, 4, 100].into(), [2, 3].into()]);
        assert_eq!(deal(&toc, Some(&[2, 3].into()), &sizes), [[2].into(), [3].into()]);
    }

    #[test]
    fn one_lane_will_do_for_one_large_table_and_where_nothing_is_known() {
        let toc = toc(&["a", "b"]);
        assert_eq!(deal(&toc, None, &[table("a", 1000), table("b", 1)]).len(), 1);
        assert_eq!(deal(&toc, None, &[table("a", 0), table("b", 0)]).len(), 1);
    }

    #[test]
    fn indexes_of_large_tables_are_built_one_by_one_and_the_others_together() {
        let entry = |id: i64, kind: &str, tag: &str, depends_on: &[i64]| Entry {
            id,
            kind: kind.into(),
            tag: tag.into(),
            schema: "s".into(),
            depends_on: depends_on.to_vec(),
            ..Entry::default()
        };
        let entries = vec![
            entry(1, "TABLE", "a", &[]),
            entry(2, "TABLE", "b", &[]),
            entry(3, "TABLE", "c", &[]),
            entry(10, "INDEX", "a_1", &[1]),
            entry(11, "INDEX", "b_1", &[2]),
            entry(12, "INDEX", "b_2", &[2]),
            entry(13, "CONSTRAINT", "c_1", &[3]),
        ];
        let toc = Toc { entries, ..Toc::default() };
        let sizes = [table("a", 1), table("b", 100), table("c", 2)];
        let all = [10, 11, 12, 13].into();
        assert_eq!(parts(&toc, &all, &sizes), [[11].into(), [12].into(), [10, 13].into()] as [BTreeSet<i64>; 3]);
        assert_eq!(parts(&toc, &[10, 13].into(), &[]), [[10, 13].into()] as [BTreeSet<i64>; 1]);
        assert!(parts(&toc, &BTreeSet::new(), &sizes).is_empty());
    }

    #[test]
    fn a_lane_goes_on_with_what_needs_its_tables_alone() {
        let entry = |id: i64, kind: &str, depends_on: &[i64]| Entry {
            id,
            kind: kind.into(),
            depends_on: depends_on.to_vec(),
            ..Entry::default()
        };
        let entries = vec![
            entry(1, "TABLE", &[]),
            entry(2, "TABLE", &[]),
            entry(3, "FUNCTION", &[]),
            entry(4, "MATERIALIZED VIEW", &[1]),
            entry(5, "TABLE", &[]), // a parent of partitions
            entry(11, "TABLE DATA", &[1]),
            entry(12, "TABLE DATA", &[2, 11]),
            entry(20, "CONSTRAINT", &[1]),
            entry(21, "INDEX", &[1, 3]),
            entry(22, "INDEX", &[2]),
            entry(23, "INDEX", &[4]),
            entry(24, "INDEX", &[5]),
            entry(25, "CONSTRAINT", &[1, 24]),
            entry(26, "INDEX", &[1, 2]),
            entry(27, "FK CONSTRAINT", &[1, 20]),
            entry(28, "TRIGGER", &[1]),
        ];
        let toc = Toc { entries, ..Toc::default() };
        assert_eq!(indexes(&toc, None, &[11].into()), [20, 21].into());
        assert_eq!(indexes(&toc, None, &[12].into()), [22].into());
        assert_eq!(indexes(&toc, None, &[11, 12].into()), [20, 21, 22, 26].into());
        assert_eq!(indexes(&toc, Some(&[21].into()), &[11].into()), [21].into());
    }
}
