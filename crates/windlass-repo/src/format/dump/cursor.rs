//! Reads the head's integers and texts from bytes that may not all be there yet.

use super::DumpError;

/// The longest text of an entry, in bytes; a view or function is rarely a thousandth of it.
pub(super) const MAX_TEXT: usize = 64 << 20;

/// Why nothing could be read.
pub(super) enum Stop {
    /// More bytes must arrive first.
    NeedMore,
    /// It is no dump.
    Wrong(DumpError),
}

pub(super) type Read<T> = Result<T, Stop>;

/// A place in the bytes at hand.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The offset of the first of the bytes in the dump.
    base: u64,
    int_size: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], base: u64, int_size: usize) -> Self {
        Self { bytes, at: 0, base, int_size }
    }

    /// How many bytes were read.
    pub(super) fn read(&self) -> usize {
        self.at
    }

    pub(super) fn offset(&self) -> u64 {
        self.base + self.at as u64
    }

    pub(super) fn set_int_size(&mut self, size: usize) {
        self.int_size = size;
    }

    pub(super) fn wrong<T>(&self, why: &'static str) -> Read<T> {
        Err(Stop::Wrong(DumpError::Malformed { offset: self.offset(), why }))
    }

    pub(super) fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let end = self.at.checked_add(count).ok_or(Stop::NeedMore)?;
        let found = self.bytes.get(self.at..end).ok_or(Stop::NeedMore)?;
        self.at = end;
        Ok(found)
    }

    pub(super) fn byte(&mut self) -> Read<u8> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    /// A sign byte and `int_size` bytes, the lowest first.
    pub(super) fn int(&mut self) -> Read<i64> {
        let size = self.int_size;
        let bytes = self.take(size + 1)?;
        let (sign, digits) = bytes.split_first().ok_or(Stop::NeedMore)?;
        if *sign > 1 {
            return self.wrong("an integer's sign is neither 0 nor 1");
        }
        let mut value: i64 = 0;
        for (place, digit) in digits.iter().enumerate() {
            if place < 7 {
                value |= i64::from(*digit) << (8 * place);
            } else if *digit != 0 {
                return self.wrong("an integer is too large");
            }
        }
        Ok(if *sign == 1 { -value } else { value })
    }

    /// A length and bytes; a negative length stands for no text.
    pub(super) fn text(&mut self) -> Read<Option<&'a [u8]>> {
        let length = self.int()?;
        let Ok(length) = usize::try_from(length) else { return Ok(None) };
        if length > MAX_TEXT {
            return Err(Stop::Wrong(DumpError::TooLarge { offset: self.offset(), what: "a text", limit: MAX_TEXT }));
        }
        self.take(length).map(Some)
    }

    /// A text that must be there, as UTF-8 where it is.
    pub(super) fn string(&mut self) -> Read<String> {
        Ok(self.text()?.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default())
    }
}
