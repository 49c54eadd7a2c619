//! `[policy.NAME]`: how often, how long, and how well proved.

use jiff::SignedDuration;
use windlass_core::name::Name;

use super::cursor::{Faults, Item};
use super::keys;

/// How often recovery points are taken, how long they stay, and how often they are proved.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its name in the settings.
    pub name: Name,
    /// The schedule as written, parsed.
    pub schedule: Option<String>,
    /// How old the newest recovery point may get before the application counts as not protected.
    pub rpo: Option<SignedDuration>,
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
    let schedule = table.get("schedule").and_then(|item| item.text(faults)).map(str::to_owned);
    let rpo = table.get("rpo").and_then(|item| item.positive_duration(faults));
    let verify = table.get("verify").map_or_else(|| Some(Verify::default()), |item| read_verify(&item, faults));
    let drill = table.get("drill").and_then(|item| item.positive_duration(faults));
    Some(Policy { name, schedule, rpo, verify: verify?, drill })
}

fn read_verify(item: &Item<'_>, faults: &mut Faults<'_>) -> Option<Verify> {
    let table = item.table(&[&keys::VERIFY], faults)?;
    let mut duration = |key: &str| table.get(key).and_then(|item| item.positive_duration(faults));
    Some(Verify { every: duration("every"), deep: duration("deep") })
}
