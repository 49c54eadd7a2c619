//! Lengths of time: a whole number and one unit of `s`, `m`, `h`, `d` (24 hours) and `w`, as in `30d`.

use jiff::SignedDuration;

/// Reads a length of time; the error continues "is not a length of time: …".
pub(super) fn parse(text: &str) -> Result<SignedDuration, String> {
    let unit = text.chars().next_back().unwrap_or_default();
    let number = text.strip_suffix(unit).unwrap_or_default();
    let seconds: i64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        'w' => 7 * 24 * 3600,
        _ => return Err(format!("`{text}` has no unit")),
    };
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("`{text}` has no whole number before its unit"));
    }
    let total = number.parse::<i64>().ok().and_then(|number| number.checked_mul(seconds));
    total.map(SignedDuration::from_secs).ok_or_else(|| format!("`{text}` is too long"))
}
