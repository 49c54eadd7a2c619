//! Which recovery points are kept, and why: a plan that is shown before it is carried out.
//!
//! A point stays if any rule keeps it. `within` keeps every point younger than it; `daily = n` keeps the newest
//! complete point of each of the last n days *that have one* - so a machine that slept for a month loses nothing by
//! it - and `weekly`, `monthly`, `yearly` likewise (ISO weeks). Days begin at midnight in the zone given.
//!
//! Whatever the rules: without rules everything stays; so do the newest complete point of each set of components,
//! what is held, and what lies in the future. A partial point fills no slot; it goes once `within` (or, where that
//! is not said, a week) has passed and a complete point of its components is newer.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::hex;
use crate::id::PointId;
use crate::name::Name;

/// How long a partial point stays where `within` is not said.
const PARTIAL: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Retention {
    /// Every point younger than this.
    #[serde(serialize_with = "seconds")]
    pub within: Option<SignedDuration>,
    /// The newest point of each of that many days.
    pub daily: Option<u32>,
    /// The newest point of each of that many weeks.
    pub weekly: Option<u32>,
    /// The newest point of each of that many months.
    pub monthly: Option<u32>,
    /// The newest point of each of that many years.
    pub yearly: Option<u32>,
    /// How far back every moment can be restored of servers whose WAL is archived.
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    pub pitr: Option<SignedDuration>,
    /// The most of an application's points that one plan may let go, in percent.
    pub max_delete: Option<u8>,
}

#[expect(clippy::ref_option, reason = "the shape serde asks for")]
fn seconds<S: serde::Serializer>(duration: &Option<SignedDuration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|d| d.as_secs()).serialize(serializer)
}

/// One point, as far as retention must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The point.
    pub id: PointId,
    /// The moment it stands for.
    pub at: Timestamp,
    /// Whether all its components are there.
    pub complete: bool,
    /// Whether nothing of it was damaged already when it was captured.
    pub sound: bool,
    /// The components it set out to hold.
    pub components: BTreeSet<Name>,
    /// Whether it holds a base backup, behind which servers are brought to any moment.
    pub is_base: bool,
    /// Bytes it added to the repository.
    pub bytes: u64,
    /// Why it must stay whatever the rules say: legal holds.
    pub holds: Vec<String>,
}

/// What stays and what goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RetentionPlan {
    /// Points that stay, the newest first.
    pub keep: Vec<Kept>,
    /// Points that go, the newest first.
    pub delete: Vec<Doomed>,
    /// WAL that goes at once: nothing that is there needs it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wal: Vec<DoomedWal>,
    /// Whether more goes than `max_delete` allows, and how much it allows, in percent.
    pub exceeds: Option<u8>,
}

/// WAL of a cluster that goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DoomedWal {
    /// The component.
    pub component: Name,
    /// The identifier of its cluster.
    pub cluster: String,
    /// The first segment that stays.
    pub before: String,
    /// When the base backup was taken that begins in it: every moment since can be restored, as far as the WAL is there.
    pub since: Timestamp,
    /// Files that go.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A point that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// The point.
    pub id: PointId,
    /// The moment it stands for.
    pub at: Timestamp,
    /// Why; at least one reason.
    pub reasons: Vec<String>,
}

/// A point that goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Doomed {
    /// The point.
    pub id: PointId,
    /// The moment it stands for.
    pub at: Timestamp,
    /// Bytes it added to the repository; what other points use as well stays.
    pub bytes: u64,
    /// Why it goes.
    pub reason: String,
}

impl RetentionPlan {
    /// The plan's digest: SHA-256 of what stays and what goes, in hex. The same decision has the same digest.
    pub fn digest(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        for kept in &self.keep {
            let _ = writeln!(text, "keep {}", kept.id);
        }
        for doomed in &self.delete {
            let _ = writeln!(text, "delete {}", doomed.id);
        }
        for DoomedWal { component, cluster, before, .. } in &self.wal {
            let _ = writeln!(text, "delete WAL of {component} {cluster} before {before}");
        }
        hex::sha256(text.as_bytes())
    }
}

/// Plans what stays and what goes.
pub fn plan(points: &[Subject], rules: Option<&Retention>, now: Timestamp, zone: &TimeZone) -> RetentionPlan {
    let mut newest_first: Vec<&Subject> = points.iter().collect();
    newest_first.sort_by_key(|point| std::cmp::Reverse((point.at, point.id)));
    let mut reasons: BTreeMap<PointId, Vec<String>> = BTreeMap::new();
    for point in &newest_first {
        let of_it = reasons.entry(point.id).or_default();
        of_it.extend(point.holds.iter().map(|hold| format!("held: {hold}")));
        match rules {
            None => of_it.push("no retention is set: everything stays".into()),
            Some(_) if point.at > now => of_it.push("it lies in the future: a clock is wrong".into()),
            Some(rules) => of_it.extend(young(point, rules, now)),
        }
    }
    for components in points.iter().map(|p| &p.components).collect::<BTreeSet<_>>() {
        let complete = || newest_first.iter().filter(|p| p.complete && p.components == *components);
        if let Some(newest) = complete().next() {
            reasons.entry(newest.id).or_default().push("it is the newest complete point".into());
            // Its source lost pages: what they were is in an older one.
            if let Some(sound) = complete().find(|point| point.sound).filter(|sound| sound.id != newest.id) {
                reasons.entry(sound.id).or_default().push("it is the newest whose source was not damaged".into());
            }
        }
        if let Some(pitr) = rules.and_then(|rules| rules.pitr) {
            // Those in the window stay until one of them is as old as that: each is the one that the next days reach back to.
            let window = crate::duration::display(pitr).to_string();
            for base in complete().filter(|point| point.is_base) {
                reasons
                    .entry(base.id)
                    .or_default()
                    .push(format!("every moment of the last {window} is reached from it"));
                if now.duration_since(base.at) >= pitr {
                    break;
                }
            }
        }
        for (id, reason) in rules.map(|rules| slots(complete().copied(), rules, zone)).unwrap_or_default() {
            reasons.entry(id).or_default().push(reason);
        }
    }
    for point in newest_first.iter().filter(|p| !p.complete) {
        let superseded = points
            .iter()
            .any(|other| other.complete && other.at > point.at && other.components.is_superset(&point.components));
        if !superseded {
            reasons.entry(point.id).or_default().push("partial, and no complete point is newer".into());
        }
    }
    let (mut keep, mut delete) = (Vec::new(), Vec::new());
    for point in newest_first {
        let reasons = reasons.remove(&point.id).unwrap_or_default();
        if reasons.is_empty() {
            let reason =
                if point.complete { "no rule keeps it" } else { "partial, and superseded by a complete point" };
            delete.push(Doomed { id: point.id, at: point.at, bytes: point.bytes, reason: reason.into() });
        } else {
            keep.push(Kept { id: point.id, at: point.at, reasons });
        }
    }
    let cap = rules.and_then(|rules| rules.max_delete);
    let exceeds = cap.filter(|percent| delete.len() * 100 > points.len() * usize::from(*percent));
    RetentionPlan { keep, delete, wal: Vec::new(), exceeds }
}

/// Kept for its age alone.
fn young(point: &Subject, rules: &Retention, now: Timestamp) -> Option<String> {
    let age = now.duration_since(point.at);
    let within = if point.complete { rules.within? } else { rules.within.unwrap_or(PARTIAL) };
    let until = point.at.checked_add(within).map(|until| until.to_string()).unwrap_or_default();
    (age <= within).then(|| format!("younger than {}, until {until}", crate::duration::display(within)))
}

/// The newest point of each day, week, month and year, as far as they are asked for.
fn slots<'a>(
    newest_first: impl Iterator<Item = &'a Subject>,
    rules: &Retention,
    zone: &TimeZone,
) -> Vec<(PointId, String)> {
    let mut kept = Vec::new();
    let mut filled: [BTreeSet<String>; 4] = Default::default();
    for point in newest_first {
        let date = point.at.to_zoned(zone.clone()).date();
        let week = date.iso_week_date();
        let slots = [
            (rules.daily, date.to_string(), "day"),
            (rules.weekly, format!("{}-W{:02}", week.year(), week.week()), "week"),
            (rules.monthly, format!("{}-{:02}", date.year(), date.month()), "month"),
            (rules.yearly, date.year().to_string(), "year"),
        ];
        for ((count, slot, name), filled) in slots.into_iter().zip(&mut filled) {
            let room = filled.len() < count.map_or(0, |count| count as usize);
            if room && filled.insert(slot.clone()) {
                kept.push((
                    point.id,
                    format!("the newest of the {name} {slot} ({} of {})", filled.len(), count.unwrap_or(0)),
                ));
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn now() -> Timestamp {
        "2026-06-15T12:00:00Z".parse().unwrap()
    }

    fn point(hours_ago: i64, number: u128) -> Subject {
        let at = now() - SignedDuration::from_hours(hours_ago);
        Subject {
            id: PointId::new(at, number),
            at,
            complete: true,
            sound: true,
            components: ["db".parse().unwrap()].into(),
            is_base: false,
            bytes: 10,
            holds: Vec::new(),
        }
    }

    fn kept(points: &[Subject], rules: &Retention) -> usize {
        plan(points, Some(rules), now(), &TimeZone::UTC).keep.len()
    }

    #[test]
    fn the_rules_of_the_guide_keep_what_it_says() {
        let hourly: Vec<Subject> = (0..24 * 400).map(|hour| point(hour, hour.unsigned_abs().into())).collect();
        assert_eq!(kept(&hourly, &Retention { daily: Some(30), ..Retention::default() }), 30);
        assert_eq!(
            kept(&hourly, &Retention { within: Some(SignedDuration::from_hours(24)), ..Retention::default() }),
            25
        );
        assert_eq!(kept(&hourly, &Retention { weekly: Some(13), ..Retention::default() }), 13);
        assert_eq!(kept(&hourly, &Retention { monthly: Some(12), ..Retention::default() }), 12);
        assert_eq!(kept(&hourly, &Retention { yearly: Some(5), ..Retention::default() }), 2);
    }

    #[test]
    fn a_window_of_any_moment_keeps_the_base_backup_it_begins_with() {
        let points: Vec<Subject> =
            (0..10).map(|day| Subject { is_base: true, ..point(day * 24, day.unsigned_abs().into()) }).collect();
        let rules =
            Retention { daily: Some(1), pitr: Some(SignedDuration::from_hours(24 * 5 - 1)), ..Retention::default() };
        let made = plan(&points, Some(&rules), now(), &TimeZone::UTC);
        let kept: Vec<PointId> = made.keep.iter().map(|kept| kept.id).collect();
        assert_eq!(kept, points[..=5].iter().map(|point| point.id).collect::<Vec<_>>());
    }

    #[test]
    fn a_window_of_any_moment_is_there_after_years_of_daily_plans() {
        let rules =
            Retention { daily: Some(1), pitr: Some(SignedDuration::from_hours(24 * 7)), ..Retention::default() };
        let mut points: Vec<Subject> = Vec::new();
        for day in 0..40_u32 {
            let today = now() + SignedDuration::from_hours(24 * i64::from(day));
            let base = Subject { is_base: true, at: today, id: PointId::new(today, day.into()), ..point(0, 0) };
            points.push(base);
            let made = plan(&points, Some(&rules), today, &TimeZone::UTC);
            points.retain(|point| made.keep.iter().any(|kept| kept.id == point.id));
            let oldest = points.iter().map(|point| today.duration_since(point.at)).max().unwrap();
            assert!(day < 7 || oldest >= SignedDuration::from_hours(24 * 7), "day {day}: {oldest:?}");
        }
        assert_eq!(points.len(), 8);
    }

    #[test]
    fn days_without_points_use_up_no_slot() {
        let points = [point(0, 1), point(24 * 40, 2), point(24 * 80, 3), point(24 * 120, 4)];
        assert_eq!(kept(&points, &Retention { daily: Some(3), ..Retention::default() }), 3);
    }

    #[test]
    fn a_point_of_a_damaged_source_lets_the_newest_good_one_stay() {
        let damaged = |hours, number| Subject { sound: false, ..point(hours, number) };
        let points = [damaged(0, 1), damaged(30, 2), point(60, 3), point(90, 4)];
        let rules = Retention { daily: Some(1), ..Retention::default() };
        let made = plan(&points, Some(&rules), now(), &TimeZone::UTC);
        let kept: Vec<PointId> = made.keep.iter().map(|kept| kept.id).collect();
        assert_eq!(kept, [points[0].id, points[2].id]);
    }

    #[test]
    fn days_begin_at_midnight_in_the_zone() {
        let points = [point(1, 1), point(3, 2), point(13, 3)];
        let rules = Retention { daily: Some(10), ..Retention::default() };
        assert_eq!(plan(&points, Some(&rules), now(), &TimeZone::UTC).keep.len(), 2);
        // 12:00 UTC is 22:00 in Brisbane, where 13 hours ago was the same day.
        let brisbane = TimeZone::get("Australia/Brisbane").unwrap();
        assert_eq!(plan(&points, Some(&rules), now(), &brisbane).keep.len(), 1);
    }

    #[test]
    fn a_component_of_its_own_policy_keeps_its_own_newest() {
        let mut config = point(5000, 7);
        config.components = ["config".parse().unwrap()].into();
        let points = [point(0, 1), config.clone()];
        let plan = plan(&points, Some(&Retention { daily: Some(1), ..Retention::default() }), now(), &TimeZone::UTC);
        assert!(plan.delete.is_empty(), "{plan:?}");
    }

    #[test]
    fn a_partial_point_goes_once_it_is_old_and_superseded() {
        let rules = Retention { daily: Some(1), ..Retention::default() };
        let partial = Subject { complete: false, ..point(24 * 8, 1) };
        assert_eq!(kept(std::slice::from_ref(&partial), &rules), 1, "nothing is newer");
        assert_eq!(kept(&[point(1, 2), partial.clone()], &rules), 1);
        assert_eq!(
            kept(&[point(1, 2), Subject { at: now() - SignedDuration::from_hours(24), ..partial }], &rules),
            2,
            "it is young"
        );
    }

    #[test]
    fn more_than_the_cap_is_said() {
        let points: Vec<Subject> = (0..10).map(|day| point(day * 24, day.unsigned_abs().into())).collect();
        let rules = |max| Retention { daily: Some(7), max_delete: Some(max), ..Retention::default() };
        assert_eq!(plan(&points, Some(&rules(20)), now(), &TimeZone::UTC).exceeds, Some(20));
        assert_eq!(plan(&points, Some(&rules(30)), now(), &TimeZone::UTC).exceeds, None);
    }

    prop_compose! {
        fn any_point()(hours in -50i64..20_000, number: u64, complete: bool, held: bool, set in 0usize..3) -> Subject {
            let components = [vec!["db"], vec!["files"], vec!["db", "files"]];
            Subject {
                complete,
                components: components[set].iter().map(|name| name.parse().unwrap()).collect(),
                holds: if held && number.is_multiple_of(7) { vec!["audit".into()] } else { vec![] },
                ..point(hours, number.into())
            }
        }
    }

    prop_compose! {
        fn any_rules()(within in proptest::option::of(1i64..9000), daily in proptest::option::of(0u32..40), weekly in proptest::option::of(0u32..20),
                       monthly in proptest::option::of(0u32..20), yearly in proptest::option::of(0u32..5)) -> Retention {
            Retention { within: within.map(SignedDuration::from_hours), daily, weekly, monthly, yearly, ..Retention::default() }
        }
    }

    proptest! {
        #[test]
        fn whatever_the_rules_what_must_stay_stays(points in proptest::collection::vec(any_point(), 0..60), rules in any_rules()) {
            let made = plan(&points, Some(&rules), now(), &TimeZone::UTC);
            prop_assert_eq!(made.keep.len() + made.delete.len(), points.len());
            prop_assert!(made.keep.iter().all(|kept| !kept.reasons.is_empty()));
            for doomed in &made.delete {
                let subject = points.iter().find(|p| p.id == doomed.id).unwrap();
                prop_assert!(subject.holds.is_empty());
                prop_assert!(subject.at <= now());
                if subject.complete {
                    prop_assert!(points.iter().any(|p| p.complete && p.components == subject.components && p.at >= subject.at && p.id != subject.id));
                }
            }
            // Without rules nothing goes.
            prop_assert!(plan(&points, None, now(), &TimeZone::UTC).delete.is_empty());
        }

        #[test]
        fn a_second_plan_lets_nothing_more_go_and_order_does_not_matter(points in proptest::collection::vec(any_point(), 0..60), rules in any_rules()) {
            let first = plan(&points, Some(&rules), now(), &TimeZone::UTC);
            let left: Vec<Subject> = points.iter().filter(|p| first.keep.iter().any(|k| k.id == p.id)).cloned().collect();
            prop_assert!(plan(&left, Some(&rules), now(), &TimeZone::UTC).delete.is_empty());
            let mut turned = points.clone();
            turned.reverse();
            prop_assert_eq!(plan(&turned, Some(&rules), now(), &TimeZone::UTC).digest(), first.digest());
        }
    }
}
