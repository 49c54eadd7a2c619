//! The objects made for a `Kryton`. Pure, and nothing here can fail: what could was seen before.

mod backup;

pub(crate) use self::backup::{backup, component};
