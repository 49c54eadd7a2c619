//! The objects made for a `Kryton`. Pure, and nothing here can fail: what could was seen before.

mod backup;
mod pod;
mod snapshot;

pub(crate) use self::backup::{backup, component};
pub(crate) use self::snapshot::snapshot;
