//! Lengths of time: `30d`, `12h`, `10m`, `30s`, `2w`.

use jiff::SignedDuration;

/// Reads a length of time.
pub(super) fn parse(text: &str) -> Result<SignedDuration, String> {
    let unit = text.chars().next_back().unwrap_or_default();
    let number = text.strip_suffix(unit).unwrap_or_default();
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(format!("`{text}` has no unit")),
    };
    let number: i64 = number.parse().map_err(|_| format!("`{text}` has no number"))?;
    number
        .checked_mul(seconds)
        .filter(|s| *s >= 0)
        .map(SignedDuration::from_secs)
        .ok_or_else(|| format!("`{text}` is too long"))
}
