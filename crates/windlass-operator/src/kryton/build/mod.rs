//! The objects made for a `Kryton`. Pure, and nothing here can fail: what could was seen before.

mod agent;
mod backup;
mod cron;
mod plugins;
mod pod;
mod preflight;
mod snapshot;

pub(crate) use self::agent::{Agent, NOTES, task};
pub(crate) use self::backup::{backup, component};
pub(crate) use self::plugins::plugins;
pub(crate) use self::pod::of_secret;
pub(crate) use self::preflight::{Preflight, preflight};
pub(crate) use self::snapshot::snapshot;
