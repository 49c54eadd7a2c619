//! Rows restored by two `pg_restore` at once.
//!
//! One `pg_restore` fed by a stream loads one table after another, and most of its time it waits for the server. So
//! tables are dealt out to two lanes, about the same bytes to each, and each lane is fed the whole dump by a reader of
//! its own: it takes what is on its list and passes over the rest. Nothing is staged; the dump is read twice. A lane whose
//! rows are in goes on with the indexes of its tables, while the other still loads.

use std::collections::{BTreeMap, BTreeSet};

use windlass_core::point::TableCount;
use windlass_repo::format::dump::{Entry, Toc};

/// Lanes, as many as jobs for indexes.
const LANES: usize = 2;

/// Below this one lane is as quick.
const WORTH_IT: u64 = 8 << 20;

/// Entries whose data belong to one table, dealt out; whatever else there is goes with the first lane. One lane where it
/// is not worth it, or nothing is known of the tables' sizes.
pub(super) fn deal(toc: &Toc, wanted: Option<&BTreeSet<i64>>, tables: &[TableCount]) -> Vec<BTreeSet<i64>> {
    let sizes: BTreeMap<(&str, &str), u64> =
        tables.iter().map(|table| ((table.schema.as_str(), table.table.as_str()), table.bytes)).collect();
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

#[cfg(test)]
mod tests {
    use windlass_core::point::TableCount;
    use windlass_repo::format::dump::{Entry, Toc};

    use super::{deal, indexes};

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
