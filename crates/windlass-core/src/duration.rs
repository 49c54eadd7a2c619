//! Durations: one grammar wherever people write one.
//!
//! A number and a unit, several of them from large to small, with or without spaces: `30d`, `12h`, `1h30m`,
//! `2w 3d`. Units are `y` (365 days), `w`, `d` (24 hours), `h`, `m` (minutes), `s` and `ms`. A month is none of
//! them: it has no fixed length, and `1m` is a minute.

use std::fmt;

use jiff::SignedDuration;

/// Text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a duration: {why}; write 30d, 12h, 10m, 45s or sums of them such as 1h30m (units: y, w, d, h, m, s, ms)"
)]
pub struct InvalidDuration {
    text: String,
    why: &'static str,
}

impl InvalidDuration {
    /// What is wrong with it.
    pub fn why(&self) -> &'static str {
        self.why
    }
}

/// Milliseconds of each unit, the largest first.
const UNITS: [(&str, i64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// Reads a duration; it is greater than zero.
pub fn parse(text: &str) -> Result<SignedDuration, InvalidDuration> {
    let invalid = |why| InvalidDuration { text: text.to_owned(), why };
    let mut rest = text.trim();
    let mut total: i64 = 0;
    let mut next_unit = 0;
    if rest.is_empty() {
        return Err(invalid("it is empty"));
    }
    while !rest.is_empty() {
        let digits =
            rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(|| invalid("a number stands without a unit"))?;
        let (number, behind) = rest.split_at(digits);
        let number: i64 = number.parse().map_err(|_| invalid("a number is expected before each unit"))?;
        let letters = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(letters);
        let index = UNITS.iter().position(|(name, _)| *name == unit).ok_or_else(|| invalid("a unit is not known"))?;
        if index < next_unit {
            return Err(invalid("units stand from large to small, each once"));
        }
        next_unit = index + 1;
        total = number
            .checked_mul(UNITS[index].1)
            .and_then(|more| total.checked_add(more))
            .ok_or_else(|| invalid("it is too long"))?;
        rest = behind.trim_start();
    }
    if total == 0 { Err(invalid("it is zero")) } else { Ok(SignedDuration::from_millis(total)) }
}

/// A duration as people read it: its two largest units, `3d 4h`, `1m 5s`, `0.25s`.
pub fn display(duration: SignedDuration) -> impl fmt::Display {
    Short(duration)
}

struct Short(SignedDuration);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis().unsigned_abs();
        if self.0.is_negative() {
            f.write_str("-")?;
        }
        if millis < 10_000 {
            return write!(f, "{}.{:02}s", millis / 1000, millis % 1000 / 10);
        }
        let seconds = millis / 1000;
        let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
        match (days, hours, minutes) {
            (0, 0, 0) => write!(f, "{seconds}s"),
            (0, 0, _) => write!(f, "{minutes}m {}s", seconds % 60),
            (0, _, 0) => write!(f, "{hours}h"),
            (0, _, _) => write!(f, "{hours}h {minutes}m"),
            (_, 0, _) => write!(f, "{days}d"),
            _ => write!(f, "{days}d {hours}h"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{display, parse};
    use jiff::SignedDuration;

    #[test]
    fn durations_are_sums_from_large_to_small() {
        for (text, seconds) in
            [("30d", 30 * 86_400), ("12h", 43_200), ("1h30m", 5400), ("1h 30m", 5400), ("2w", 14 * 86_400), ("45s", 45)]
        {
            assert_eq!(parse(text).unwrap(), SignedDuration::from_secs(seconds), "{text}");
        }
        assert_eq!(parse("250ms").unwrap(), SignedDuration::from_millis(250));
    }

    #[test]
    fn what_could_be_meant_otherwise_is_refused() {
        for text in ["", "30", "d", "-1d", "1.5h", "10m1h", "1h1h", "0s", "5 apples", "99999999999999999d", "1mo", "²d"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_read_as_people_expect() {
        for (millis, text) in
            [(250, "0.25s"), (65_000, "1m 5s"), (5_400_000, "1h 30m"), (273_600_000, "3d 4h"), (12_000, "12s")]
        {
            assert_eq!(display(SignedDuration::from_millis(millis)).to_string(), text);
        }
    }
}
