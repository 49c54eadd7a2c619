//! Log sequence numbers.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Text that is no LSN.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no LSN: two hexadecimal numbers of at most 8 digits are expected, as in `0/2000028`")]
pub struct InvalidLsn {
    text: String,
}

/// A place in the write-ahead log: bytes since its beginning. Its text is PostgreSQL's, `0/2000028`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Lsn(pub u64);

impl Lsn {
    /// Bytes from another place to this one; 0 where that one is not before it.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<u64> for Lsn {
    type Output = Self;

    /// The last LSN there is stands for all beyond it.
    fn add(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }
}

impl Sub<u64> for Lsn {
    type Output = Self;

    /// Nothing is before the first.
    fn sub(self, bytes: u64) -> Self {
        Self(self.0.saturating_sub(bytes))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let half = |digits: &str| {
            let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            is_number.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| InvalidLsn { text: text.to_owned() })
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

impl TryFrom<String> for Lsn {
    type Error = InvalidLsn;

    fn try_from(text: String) -> Result<Self, InvalidLsn> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Lsn;

    #[test]
    fn reads_and_prints_as_postgresql_does() {
        for (text, number) in [("0/0", 0), ("0/2000028", 0x0200_0028), ("16/B374D848", 0x16_B374_D848)] {
            assert_eq!(text.parse(), Ok(Lsn(number)));
            assert_eq!(Lsn(number).to_string(), text);
        }
        for text in ["", "/", "0", "0/", "/0", "0/G", "0/123456789", "+1/0", "0/1/2", "0 /1"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    #[test]
    fn ends_at_both_ends_of_the_log() {
        assert_eq!(Lsn(1) - 2, Lsn(0));
        assert_eq!(Lsn(u64::MAX) + 2, Lsn(u64::MAX));
        assert_eq!(Lsn(7).since(Lsn(3)), 4);
        assert_eq!(Lsn(3).since(Lsn(7)), 0);
    }

    proptest! {
        #[test]
        fn comes_back_from_its_text(number: u64) {
            prop_assert_eq!(Lsn(number).to_string().parse(), Ok(Lsn(number)));
        }
    }
}
