//! A time as people write it.

use std::io::IsTerminal;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::failure::{Failure, Result};

/// Reads a time. One without an offset is in the zone the screen shows; without a terminal an offset is required,
/// since nobody would see how it was understood.
pub(crate) fn parse(text: &str, zone: &TimeZone) -> Result<Timestamp> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let hint = "write for example 2026-03-01T14:30:00+01:00 or 2026-03-01T13:30:00Z";
    let civil: DateTime = text.parse().map_err(|_| Failure::usage(format!("`{text}` is not a time"), hint))?;
    if !std::io::stderr().is_terminal() {
        return Err(Failure::usage(
            format!("`{text}` has no offset, and there is no terminal to show how it is understood"),
            hint,
        ));
    }
    let zoned = zone.to_ambiguous_zoned(civil).compatible();
    zoned
        .map(|zoned| zoned.timestamp())
        .map_err(|error| Failure::usage(format!("`{text}` cannot be used: {error}"), hint))
}
