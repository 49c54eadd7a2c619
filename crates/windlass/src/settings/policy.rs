//! `[policy.NAME]`: how often, how long, and how well proved.

use jiff::SignedDuration;
use windlass_core::name::Name;
use windlass_core::retention::Retention;
use windlass_core::schedule::Schedule;

use super::cursor::{Faults, Item};
use super::keys;
use super::retention;

/// How often recovery points are taken, how long they stay, and how often they are proved.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its name in the settings.
    pub name: Name,
    /// When a recovery point is due: a cron expression that was found right, whatever its `H` becomes.
    pub schedule: Option<String>,
    /// How old the newest recovery point may get before the application counts as not protected.
    pub rpo: Option<SignedDuration>,
    /// What is kept; everything if nothing is said.
    pub retention: Option<Retention>,
    /// How often stored data must be proved.
    pub verify: Verify,
    /// How often a restore must be rehearsed.
    pub drill: Option<SignedDuration>,
}

/// How often stored data must be proved; nothing said, nothing asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verify {
    /// How often all bytes must be read back and hashed.
    pub every: Option<SignedDuration>,
    /// How often a point must be restored and checked.
    pub deep: Option<SignedDuration>,
}

/// Reads a policy.
pub(super) fn read(name: Name, item: &Item<'_>, faults: &mut Faults<'_>) -> Option<Policy> {
    let table = item.table(&[&keys::POLICY], faults)?;
    let schedule = table.get("schedule").and_then(|item| read_schedule(&item, faults));
    let rpo = table.get("rpo").and_then(|item| item.positive_duration(faults));
    let retention = table.get("retention").and_then(|item| retention::read(&item, faults));
    let verify = table.get("verify").and_then(|item| read_verify(&item, faults)).unwrap_or_default();
    let drill = table.get("drill").and_then(|item| item.positive_duration(faults));
    Some(Policy { name, schedule, rpo, retention, verify, drill })
}

fn read_verify(item: &Item<'_>, faults: &mut Faults<'_>) -> Option<Verify> {
    let table = item.table(&[&keys::VERIFY], faults)?;
    let mut duration = |key: &str| table.get(key).and_then(|item| item.positive_duration(faults));
    Some(Verify { every: duration("every"), deep: duration("deep") })
}

fn read_schedule(item: &Item<'_>, faults: &mut Faults<'_>) -> Option<String> {
    let text = item.text(faults)?;
    // Whatever `H` becomes, the same schedules are right.
    let Err(error) = Schedule::parse(text, "") else { return Some(text.to_owned()) };
    let why = error.why();
    let hint = "write minute, hour, day of month, month, day of week and, if it is not UTC, a time zone: \"0 2 * * * Europe/Zurich\"";
    item.refuse(faults, format!("is not a schedule, `{}`: {why}", text.escape_debug()), hint);
    None
}
