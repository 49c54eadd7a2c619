//! `retention` of a policy: a duration, or a table of rules.

use windlass_core::retention::Retention;

use super::cursor::{Faults, Item};
use super::keys;

/// Reads what is kept.
pub(super) fn read(item: &Item<'_>, faults: &mut Faults<'_>) -> Option<Retention> {
    if item.as_text().is_some() {
        let within = item.positive_duration(faults)?;
        return Some(Retention { within: Some(within), ..Retention::default() });
    }
    if !item.is_table() {
        let hint = "write for example \"30d\" or { daily = 30, monthly = 12 }";
        item.wrong_type(faults, "a length of time or a table", hint);
        return None;
    }
    let before = faults.count();
    let table = item.table(&[&keys::RETENTION], faults)?;
    let within = table.get("within").and_then(|item| item.positive_duration(faults));
    let pitr = table.get("pitr").and_then(|item| item.positive_duration(faults));
    let mut number = |key: &str| table.get(key).and_then(|item| item.whole_number(faults));
    let (daily, weekly, monthly, yearly) = (number("daily"), number("weekly"), number("monthly"), number("yearly"));
    let max_delete = table.get("max_delete").and_then(|item| read_percentage(&item, faults));
    let keeps_some =
        within.is_some() || pitr.is_some() || [daily, weekly, monthly, yearly].iter().flatten().any(|count| *count > 0);
    if !keeps_some && faults.count() == before {
        let hint = "add a rule such as `daily = 30`, or take `retention` out to keep everything";
        item.refuse(faults, "keeps nothing but the newest point", hint);
    }
    (faults.count() == before).then_some(Retention { within, daily, weekly, monthly, yearly, pitr, max_delete })
}

fn read_percentage(item: &Item<'_>, faults: &mut Faults<'_>) -> Option<u8> {
    let number = item.as_text().and_then(|text| text.strip_suffix('%')?.trim_end().parse::<u8>().ok());
    let percentage = number.filter(|number| *number <= 100);
    if percentage.is_none() {
        item.refuse(faults, "is not a percentage", "write whole percents from \"0%\" to \"100%\", such as \"20%\"");
    }
    percentage
}
