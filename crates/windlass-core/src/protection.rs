//! Whether an application is protected: judged by evidence, never by how a job ended.
//!
//! An application is protected only while
//!
//! - (a) the newest restorable moment of every component is younger than its RPO,
//! - (b) every object that needs was read back within `verify.every`, or is younger than that and confirmed stored,
//! - (c) a point of these components was restored and checked within `verify.deep`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::coverage::Reached;
use crate::duration::display;
use crate::id::PointId;
use crate::name::Name;
use crate::verification::{Level, Verdict, Verification};

/// What must hold, where a policy does not say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goals {
    /// How old the newest restorable moment may get.
    pub rpo: SignedDuration,
    /// How often all bytes must be read back.
    pub every: SignedDuration,
    /// How often a point must be restored and checked.
    pub deep: SignedDuration,
}

impl Default for Goals {
    /// A daily point, read back every week, restored every month.
    fn default() -> Self {
        Self {
            rpo: SignedDuration::from_hours(26),
            every: SignedDuration::from_hours(7 * 24),
            deep: SignedDuration::from_hours(30 * 24),
        }
    }
}

/// One point, as far as protection must know it.
#[derive(Clone, Debug)]
pub struct PointSummary {
    /// The point.
    pub id: PointId,
    /// When all of it was confirmed stored.
    pub stored: Timestamp,
    /// The components it holds, with the moment each stands for.
    pub components: BTreeMap<Name, Timestamp>,
    /// Those of them that were damaged already when they were captured.
    pub corrupt: BTreeSet<Name>,
}

/// Why an application is not protected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// Nothing holds the component.
    NoPoint {
        /// The component.
        component: Name,
    },
    /// The newest restorable moment is too old.
    TooOld {
        /// The component.
        component: Name,
        /// The newest restorable moment.
        newest: Timestamp,
        /// Its age, in words.
        age: String,
        /// The RPO, in words.
        rpo: String,
    },
    /// The source was damaged already when the newest point was taken.
    SourceCorrupt {
        /// The point.
        point: PointId,
        /// The component.
        component: Name,
    },
    /// WAL is missing: moments behind it cannot be restored.
    Gap {
        /// The component.
        component: Name,
        /// The segment that is missing.
        segment: String,
    },
    /// What the server writes is not archived behind the newest point.
    Elsewhere {
        /// The component.
        component: Name,
        /// Where it is, in words.
        why: String,
    },
    /// A point is damaged; an older one counts instead.
    Damaged {
        /// The point.
        point: PointId,
        /// The component.
        component: Name,
    },
    /// It was not read back in time.
    NotRead {
        /// The component.
        component: Name,
        /// When it was last, if ever.
        last: Option<Timestamp>,
        /// How often it must be, in words.
        every: String,
    },
    /// It was not restored and checked in time.
    NotRestored {
        /// The component.
        component: Name,
        /// When it was last, if ever.
        last: Option<Timestamp>,
        /// How often it must be, in words.
        every: String,
    },
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ago = |last: &Option<Timestamp>| last.map_or("never".to_owned(), |at| format!("last at {at}"));
        match self {
            Self::NoPoint { component } => write!(f, "{component}: no recovery point holds it: run `windlass backup`"),
            Self::TooOld { component, age, rpo, .. } => {
                write!(
                    f,
                    "{component}: its newest restorable moment is {age} old, and the RPO is {rpo}: run `windlass backup`"
                )
            }
            Self::SourceCorrupt { point, component } => {
                write!(
                    f,
                    "{component}: its source had lost pages when {point} was taken: `windlass points` shows the newest point before that"
                )
            }
            Self::Gap { component, segment } => {
                write!(
                    f,
                    "{component}: the WAL segment {segment} is missing, and nothing behind it can be restored: run `windlass backup`"
                )
            }
            Self::Elsewhere { component, why } => write!(f, "{component}: {why}: run `windlass backup`"),
            Self::Damaged { point, component } => {
                write!(f, "{component}: the point {point} is damaged and does not count: run `windlass repo check`")
            }
            Self::NotRead { component, last, every } => {
                write!(f, "{component}: not read back within {every} ({}): run `windlass verify`", ago(last))
            }
            Self::NotRestored { component, last, every } => {
                write!(
                    f,
                    "{component}: not restored and checked within {every} ({}): run `windlass verify --deep` or `windlass drill`",
                    ago(last)
                )
            }
        }
    }
}

/// How an application stands.
#[derive(Clone, Debug, Serialize)]
pub struct Protection {
    /// The word on the screen.
    pub protected: bool,
    /// Why not, the worst first; empty where it is.
    pub reasons: Vec<Reason>,
    /// How each component stands.
    pub components: Vec<ComponentStanding>,
}

/// How one component stands.
#[derive(Clone, Debug, Serialize)]
pub struct ComponentStanding {
    /// The component.
    pub name: Name,
    /// The newest restorable moment.
    pub newest: Option<Timestamp>,
    /// The RPO now: how old that is, in seconds.
    pub rpo_seconds: Option<i64>,
    /// The point it lies in.
    pub point: Option<PointId>,
    /// How far that point is verified.
    pub verified: Option<Level>,
    /// When a point of it was last restored and checked.
    pub restored: Option<Timestamp>,
    /// How far its WAL leads on from the point, where it is archived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reached: Option<Reached>,
}

/// Judges an application by its points, what was proven about them, and how far the WAL of its servers leads on from them.
pub fn assess(
    components: &BTreeMap<Name, Goals>,
    points: &[PointSummary],
    verifications: &[Verification],
    reached: &BTreeMap<Name, Reached>,
    now: Timestamp,
) -> Protection {
    let mut reasons = Vec::new();
    let mut standings = Vec::new();
    for (name, goals) in components {
        let standing = judge(name, *goals, points, verifications, (now, reached.get(name)), &mut reasons);
        standings.push(standing);
    }
    reasons.sort_by_key(severity);
    Protection { protected: reasons.is_empty() && !components.is_empty(), reasons, components: standings }
}

fn severity(reason: &Reason) -> u8 {
    match reason {
        Reason::NoPoint { .. } => 0,
        Reason::Damaged { .. } | Reason::SourceCorrupt { .. } | Reason::Gap { .. } | Reason::Elsewhere { .. } => 1,
        Reason::TooOld { .. } => 2,
        Reason::NotRead { .. } => 3,
        Reason::NotRestored { .. } => 4,
    }
}

fn judge(
    name: &Name,
    goals: Goals,
    points: &[PointSummary],
    verifications: &[Verification],
    (now, reached): (Timestamp, Option<&Reached>),
    reasons: &mut Vec<Reason>,
) -> ComponentStanding {
    let mut holding: Vec<&PointSummary> = points.iter().filter(|p| p.components.contains_key(name)).collect();
    holding.sort_by_key(|point| point.components.get(name).copied());
    let verdicts = |point: PointId| {
        let of_it = verifications.iter().filter(move |v| v.point == point);
        of_it.filter_map(move |v| Some((v, v.components.iter().find(|c| c.name == *name)?)))
    };
    let is_damaged = |point: PointId| {
        let newest =
            verdicts(point).filter(|(_, c)| c.verdict != Verdict::Inconclusive).max_by_key(|(v, _)| v.finished);
        newest.is_some_and(|(_, c)| c.verdict == Verdict::Failed)
    };
    while let Some(newest) = holding.last()
        && is_damaged(newest.id)
    {
        reasons.push(Reason::Damaged { point: newest.id, component: name.clone() });
        holding.pop();
    }
    let passed = |point: PointId, level: Level| {
        let good = verdicts(point).filter(|(v, c)| v.level >= level && c.verdict == Verdict::Passed);
        good.map(|(v, _)| v.finished).max()
    };
    let restored = points.iter().filter_map(|point| passed(point.id, Level::Restored)).max();
    let Some(newest) = holding.last() else {
        reasons.push(Reason::NoPoint { component: name.clone() });
        return ComponentStanding {
            name: name.clone(),
            newest: None,
            rpo_seconds: None,
            point: None,
            verified: None,
            restored,
            reached: None,
        };
    };
    if newest.corrupt.contains(name) {
        reasons.push(Reason::SourceCorrupt { point: newest.id, component: name.clone() });
    }
    let moment = newest.components.get(name).copied().unwrap_or(newest.stored);
    let reached = reached.filter(|reached| reached.point == newest.id);
    let moment = reached.and_then(|reached| reached.moment).map_or(moment, |further| further.max(moment));
    if let Some(segment) = reached.and_then(|reached| reached.gap.clone()) {
        reasons.push(Reason::Gap { component: name.clone(), segment });
    }
    if let Some(why) = reached.and_then(|reached| reached.elsewhere.clone()) {
        reasons.push(Reason::Elsewhere { component: name.clone(), why });
    }
    let age = now.duration_since(moment);
    if age > goals.rpo {
        let (age, rpo) = (display(age).to_string(), display(goals.rpo).to_string());
        reasons.push(Reason::TooOld { component: name.clone(), newest: moment, age, rpo });
    }
    let read = passed(newest.id, Level::Read);
    let fresh = |at: Timestamp, limit: SignedDuration| now.duration_since(at) <= limit;
    if !fresh(newest.stored, goals.every) && !read.is_some_and(|at| fresh(at, goals.every)) {
        reasons.push(Reason::NotRead { component: name.clone(), last: read, every: display(goals.every).to_string() });
    }
    if !restored.is_some_and(|at| fresh(at, goals.deep)) {
        reasons.push(Reason::NotRestored {
            component: name.clone(),
            last: restored,
            every: display(goals.deep).to_string(),
        });
    }
    let verified = if passed(newest.id, Level::Restored).is_some() {
        Level::Restored
    } else if read.is_some() {
        Level::Read
    } else {
        Level::Stored
    };
    ComponentStanding {
        name: name.clone(),
        newest: Some(moment),
        rpo_seconds: Some(age.as_secs()),
        point: Some(newest.id),
        verified: Some(verified),
        restored,
        reached: reached.cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::EntryId;
    use crate::verification::ComponentVerdict;
    use crate::wal::{Lsn, Timeline};

    fn now() -> Timestamp {
        "2026-06-15T12:00:00Z".parse().unwrap()
    }

    fn hours_ago(hours: i64) -> Timestamp {
        now() - SignedDuration::from_hours(hours)
    }

    fn db() -> Name {
        "db".parse().unwrap()
    }

    fn point(hours: i64) -> PointSummary {
        let at = hours_ago(hours);
        PointSummary { id: PointId::new(at, 1), stored: at, components: [(db(), at)].into(), corrupt: BTreeSet::new() }
    }

    fn verification(point: &PointSummary, level: Level, verdict: Verdict, hours: i64) -> Verification {
        let component = ComponentVerdict {
            name: db(),
            verdict,
            findings: vec![],
            bytes_read: 1,
            restore_ms: None,
            left_out: vec![],
            checked: vec![],
        };
        Verification {
            format: 1,
            id: EntryId::new(hours_ago(hours), 1),
            application: "shop".parse().unwrap(),
            point: point.id,
            level,
            verdict,
            started: hours_ago(hours),
            finished: hours_ago(hours),
            host: "h".into(),
            components: vec![component],
            drill: None,
        }
    }

    fn judge(points: &[PointSummary], verifications: &[Verification]) -> Protection {
        assess(&[(db(), Goals::default())].into(), points, verifications, &BTreeMap::new(), now())
    }

    #[test]
    fn a_young_point_and_a_proven_restore_protect() {
        let (old, new) = (point(100), point(1));
        let proof = verification(&old, Level::Restored, Verdict::Passed, 50);
        assert!(judge(&[old, new], &[proof]).protected);
    }

    #[test]
    fn without_a_proven_restore_nothing_is_protected() {
        let standing = judge(&[point(1)], &[]);
        assert!(matches!(standing.reasons.as_slice(), [Reason::NotRestored { last: None, .. }]));
        let new = point(1);
        let inconclusive = verification(&new, Level::Restored, Verdict::Inconclusive, 0);
        assert!(!judge(&[new], &[inconclusive]).protected);
    }

    #[test]
    fn nothing_and_too_old_are_said() {
        assert!(matches!(judge(&[], &[]).reasons.as_slice(), [Reason::NoPoint { .. }]));
        let old = point(27);
        let proof = verification(&old, Level::Restored, Verdict::Passed, 2);
        assert!(matches!(judge(&[old], &[proof]).reasons.as_slice(), [Reason::TooOld { .. }]));
        assert!(!assess(&BTreeMap::new(), &[], &[], &BTreeMap::new(), now()).protected, "an application of nothing");
    }

    #[test]
    fn wal_leads_on_from_its_own_point_and_a_gap_is_said() {
        let old = point(27);
        let proof = verification(&old, Level::Restored, Verdict::Passed, 2);
        let judge = |reached: Reached| {
            let reached = [(db(), reached)].into();
            let points = std::slice::from_ref(&old);
            assess(&[(db(), Goals::default())].into(), points, std::slice::from_ref(&proof), &reached, now())
        };
        let further = Reached {
            point: old.id,
            cluster: "7".into(),
            timeline: Timeline(1),
            end: Lsn(0x0300_0000),
            moment: Some(hours_ago(1)),
            gap: None,
            tablespaces: Vec::new(),
            elsewhere: None,
        };
        let standing = judge(further.clone());
        assert!(standing.protected, "{:?}", standing.reasons);
        assert_eq!(standing.components[0].rpo_seconds, Some(3600));
        let of_another = Reached { point: point(3).id, ..further.clone() };
        assert!(matches!(judge(of_another).reasons.as_slice(), [Reason::TooOld { .. }]));
        let broken = Reached { gap: Some("000000010000000000000005".into()), ..further };
        assert!(matches!(judge(broken).reasons.as_slice(), [Reason::Gap { .. }]));
    }

    #[test]
    fn a_server_that_has_written_nothing_since_is_restored_to_now() {
        let reached = Reached {
            point: point(27).id,
            cluster: "7".into(),
            timeline: Timeline(2),
            end: Lsn(0x0300_0000),
            moment: Some(hours_ago(5)),
            gap: None,
            tablespaces: Vec::new(),
            elsewhere: None,
        };
        let beside = |cluster: &str, timeline, written| {
            let mut reached = reached.clone();
            reached.beside(cluster, Timeline(timeline), Lsn(written), now());
            (reached.moment, reached.elsewhere.is_some())
        };
        assert_eq!(beside("7", 2, 0x0300_0000), (Some(now()), false));
        assert_eq!(beside("7", 2, 0x0300_0028), (Some(hours_ago(5)), false), "something was written behind");
        assert_eq!(beside("7", 3, 0x0200_0000), (Some(hours_ago(5)), true), "it was promoted");
        assert_eq!(beside("7", 1, 0x0200_0000), (Some(hours_ago(5)), true), "another went on from it");
        assert_eq!(beside("8", 2, 0x0200_0000), (Some(hours_ago(5)), true), "it is another");
    }

    #[test]
    fn a_point_of_a_damaged_source_does_not_protect() {
        let new = PointSummary { corrupt: [db()].into(), ..point(1) };
        let proof = verification(&new, Level::Restored, Verdict::Passed, 0);
        assert!(matches!(judge(&[new], &[proof]).reasons.as_slice(), [Reason::SourceCorrupt { .. }]));
    }

    #[test]
    fn a_damaged_point_does_not_count_and_an_older_one_does() {
        let (old, new) = (point(20), point(1));
        let proof = verification(&old, Level::Restored, Verdict::Passed, 10);
        let damage = verification(&new, Level::Read, Verdict::Failed, 0);
        let standing = judge(&[old.clone(), new.clone()], &[proof, damage]);
        assert!(!standing.protected);
        assert_eq!(standing.components[0].point, Some(old.id));
        assert_eq!(standing.reasons, [Reason::Damaged { point: new.id, component: db() }]);
    }

    #[test]
    fn what_was_not_read_back_in_time_is_said() {
        let goals = Goals { rpo: SignedDuration::from_hours(1000), ..Goals::default() };
        let old = point(200);
        let proof = verification(&old, Level::Restored, Verdict::Passed, 190);
        let standing = assess(
            &[(db(), goals)].into(),
            std::slice::from_ref(&old),
            std::slice::from_ref(&proof),
            &BTreeMap::new(),
            now(),
        );
        assert!(matches!(standing.reasons.as_slice(), [Reason::NotRead { .. }]), "{:?}", standing.reasons);
        let read = verification(&old, Level::Read, Verdict::Passed, 5);
        assert!(assess(&[(db(), goals)].into(), &[old], &[proof, read], &BTreeMap::new(), now()).protected);
    }
}
