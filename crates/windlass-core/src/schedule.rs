//! When something is due: cron expressions that lose no day and double none.
//!
//! Five fields and an optional time zone (UTC where none is named): `0 2 * * * Europe/Zurich`. `H` stands for a
//! value that is the same for ever but differs from application to application, so that not all run at once; it
//! also takes a step or a range, `H/6`, `H(0-29)`. An expression with fixed hours is evaluated in civil time: a run at
//! an hour that a clock change skips happens right after it, and one at an hour that comes twice happens once. One
//! with `*` hours follows real time.

use cronexpr::{FallbackTimezoneOption, ParseOptions};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use ring::digest::{SHA256, digest};

/// Text that is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a schedule: {why}")]
pub struct InvalidSchedule {
    text: String,
    why: String,
}

impl InvalidSchedule {
    /// What is wrong with it.
    pub fn why(&self) -> &str {
        &self.why
    }
}

/// When something is due.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The five fields in UTC, which stands for civil time where hours are fixed.
    cron: cronexpr::Crontab,
    zone: TimeZone,
    civil: bool,
}

/// The smallest and the greatest value of each field.
const RANGES: [(u64, u64); 5] = [(0, 59), (0, 23), (1, 28), (1, 12), (0, 6)];

impl Schedule {
    /// Reads a schedule; `seed` decides what `H` becomes.
    pub fn parse(text: &str, seed: &str) -> Result<Self, InvalidSchedule> {
        let invalid = |why: String| InvalidSchedule { text: text.to_owned(), why };
        let words: Vec<&str> = text.split_whitespace().collect();
        let (fields, zone) = match words.as_slice() {
            [fields @ .., zone] if fields.len() == 5 => (fields, *zone),
            fields if fields.len() == 5 => (fields, "UTC"),
            _ => {
                return Err(invalid(
                    "five fields are expected - minute, hour, day, month, weekday - and a time zone may follow".into(),
                ));
            }
        };
        let zone = TimeZone::get(zone).map_err(|_| invalid(format!("there is no time zone `{zone}`")))?;
        let mut expanded = Vec::new();
        for (index, field) in fields.iter().enumerate() {
            expanded.push(expand(field, index, seed).ok_or_else(|| invalid(format!("`{field}` is not a value of H")))?);
        }
        let civil = !expanded[1].starts_with('*');
        let mut options = ParseOptions::default();
        options.fallback_timezone_option = FallbackTimezoneOption::UTC;
        let joined = expanded.join(" ");
        let joined = if civil { joined } else { format!("{joined} {}", zone.iana_name().unwrap_or("UTC")) };
        let cron = cronexpr::parse_crontab_with(&joined, options).map_err(|error| {
            let error = error.to_string();
            invalid(error.lines().last().unwrap_or_default().trim_start_matches([' ', '^']).to_owned())
        })?;
        Ok(Self { cron, zone, civil })
    }

    /// The first moment after `now` at which it is due; none where there never is one.
    pub fn next_after(&self, now: Timestamp) -> Option<Timestamp> {
        if !self.civil {
            return self.cron.find_next(now).ok().map(|next| next.timestamp());
        }
        // Civil time, as if it were UTC; started early enough that a clock change cannot hide a run.
        let civil_now = now.to_zoned(self.zone.clone()).datetime();
        let mut from = civil_now.to_zoned(TimeZone::UTC).ok()?.timestamp() - jiff::SignedDuration::from_hours(3);
        loop {
            let next = self.cron.find_next(from).ok()?.timestamp();
            let civil = next.to_zoned(TimeZone::UTC).datetime();
            let due = self.zone.to_ambiguous_zoned(civil).compatible().ok()?.timestamp();
            if due > now {
                return Some(due);
            }
            from = next;
        }
    }
}

/// A field with its `H` replaced; other fields stay as they are.
fn expand(field: &str, index: usize, seed: &str) -> Option<String> {
    let Some(rest) = field.strip_prefix('H') else { return Some(field.to_owned()) };
    let (low, high) = *RANGES.get(index)?;
    let value = hash(seed, index);
    if rest.is_empty() {
        return Some((low + value % (high - low + 1)).to_string());
    }
    if let Some(step) = rest.strip_prefix('/') {
        let step: u64 = step.parse().ok().filter(|step| (1..=high).contains(step))?;
        return Some(format!("{}-{high}/{step}", low + value % step));
    }
    let (from, to) = rest.strip_prefix('(')?.strip_suffix(')')?.split_once('-')?;
    let (from, to): (u64, u64) = (from.parse().ok()?, to.parse().ok()?);
    (low <= from && from <= to && to <= high).then(|| (from + value % (to - from + 1)).to_string())
}

/// A number that is the same for ever for a seed and a field.
fn hash(seed: &str, index: usize) -> u64 {
    let digest = digest(&SHA256, format!("{index}/{seed}").as_bytes());
    digest.as_ref().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::Schedule;
    use jiff::{SignedDuration, Timestamp};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn following(schedule: &str, now: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(schedule, "seed").unwrap();
        let mut now = at(now);
        let mut next = || {
            now = schedule.next_after(now).unwrap();
            now.to_string()
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn a_daily_run_is_neither_skipped_nor_doubled_by_a_clock_change() {
        // Spring: 02:30 does not exist on 2027-03-28 in Berlin; the run comes at 03:30, which is 01:30 UTC.
        assert_eq!(
            following("30 2 * * * Europe/Berlin", "2027-03-27T12:00:00Z", 2),
            ["2027-03-28T01:30:00Z", "2027-03-29T00:30:00Z"]
        );
        // Autumn: 02:30 comes twice on 2026-10-25; the run comes once.
        assert_eq!(
            following("30 2 * * * Europe/Berlin", "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
    }

    #[test]
    fn an_hourly_run_follows_real_time() {
        let runs = following("0 * * * * Europe/Berlin", "2026-10-24T22:00:00Z", 5);
        let times: Vec<Timestamp> = runs.iter().map(|text| at(text)).collect();
        assert!(times.windows(2).all(|pair| pair[1].duration_since(pair[0]) == SignedDuration::from_hours(1)));
    }

    #[test]
    fn h_is_the_same_for_ever_and_differs_by_seed_and_field() {
        let next = |text: &str, seed: &str| {
            Schedule::parse(text, seed).unwrap().next_after(at("2026-01-01T00:00:00Z")).unwrap()
        };
        assert_eq!(next("H H * * *", "shop"), next("H H * * *", "shop"));
        let differ = (0..20).map(|i| next("H H * * *", &i.to_string())).collect::<std::collections::BTreeSet<_>>();
        assert!(differ.len() > 15, "{differ:?}");
        for seed in ["a", "b", "c"] {
            let minute = next("H(10-19) 3 * * *", seed).to_zoned(jiff::tz::TimeZone::UTC).minute();
            assert!((10..20).contains(&minute));
            let day = following("0 H/6 * * * UTC", "2026-01-01T00:00:00Z", 4);
            assert_eq!(day.len(), 4, "{seed}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in [
            "",
            "0 2 * *",
            "0 2 * * * Nowhere/Here",
            "61 2 * * *",
            "H(5-99) 2 * * *",
            "H/0 * * * *",
            "0 2 * * * UTC extra",
        ] {
            assert!(Schedule::parse(text, "seed").is_err(), "{text}");
        }
    }
}
