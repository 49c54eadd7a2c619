//! Sizes for people: binary units.

use std::fmt;

/// A number of bytes as people read it: `512 B`, `1.5 GiB`. Three significant digits at most.
pub fn display(bytes: u64) -> impl fmt::Display {
    Size(bytes)
}

/// Reads a number of bytes such as `512 MiB` or `2GiB`: a whole number and a binary unit, or `B`. Never none.
pub fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let power = match unit.trim_start() {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << power).filter(|bytes| *bytes > 0)
}

struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut unit = 0;
        let mut rest = self.0;
        // In tenths of the unit below, so that 1023.96 KiB becomes 1.0 MiB and not 1024.0 KiB.
        while rest >= 1024 * 1024 - 52 && unit < UNITS.len() - 1 {
            rest /= 1024;
            unit += 1;
        }
        let tenths = (u128::from(rest) * 10 + 512) / 1024;
        if tenths < 1000 {
            write!(f, "{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
        } else {
            write!(f, "{} {}", (tenths + 5) / 10, UNITS[unit])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{display, parse};

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let cases = [("512 MiB", Some(512 << 20)), ("2GiB", Some(2 << 30)), ("1 B", Some(1))];
        for (text, bytes) in cases {
            assert_eq!(parse(text), bytes, "{text}");
        }
        for text in ["", "2", "GiB", "2GB", "-1 GiB", "0 GiB", "1.5 GiB", "99999999999 TiB"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_read_as_people_expect() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1 << 20, "1.0 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (150 << 20, "150 MiB"),
            (3 << 30, "3.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(display(bytes).to_string(), text, "{bytes}");
        }
    }
}
