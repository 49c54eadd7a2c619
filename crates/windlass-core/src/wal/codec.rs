//! How archived objects are compressed: known by their names, read in every way that `wal-g` writes, written in two.

use std::fmt;
use std::str::FromStr;

/// A way to compress, which an object's name ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// LZ4 frames.
    Lz4,
    /// Zstandard frames.
    Zstd,
    /// Brotli: read only.
    Brotli,
    /// LZMA with the header of `.lzma` files: read only.
    Lzma,
    /// gzip: read only.
    Gzip,
    /// As it is.
    None,
}

impl Codec {
    /// All of them, the usual ones first.
    pub const ALL: [Self; 6] = [Self::Zstd, Self::Lz4, Self::Brotli, Self::Lzma, Self::Gzip, Self::None];

    /// Those that objects are written in.
    pub const WRITTEN: [Self; 2] = [Self::Zstd, Self::Lz4];

    const WITH_EXTENSION: [(Self, &'static str); 5] =
        [(Self::Lz4, "lz4"), (Self::Zstd, "zst"), (Self::Brotli, "br"), (Self::Lzma, "lzma"), (Self::Gzip, "gz")];

    /// What an object's name ends with, behind a dot.
    pub fn extension(self) -> Option<&'static str> {
        Self::WITH_EXTENSION.iter().find(|(codec, _)| *codec == self).map(|(_, extension)| *extension)
    }

    /// The name without its extension, and the way it stands for. Names without one of ours are taken as they are.
    pub fn split(name: &str) -> (&str, Self) {
        let known = |(codec, extension): &(Self, &'static str)| {
            Some((name.strip_suffix(extension)?.strip_suffix('.')?, *codec))
        };
        Self::WITH_EXTENSION.iter().find_map(known).unwrap_or((name, Self::None))
    }
}

/// How objects are written: `zstd`, `zstd:LEVEL` with a level from 1 to 19, or `lz4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Zstandard at a level from 1 to 19. 1 makes half of what LZ4 leaves, for two thirds more time.
    Zstd(i32),
    /// LZ4: where the store takes more than a core can compress otherwise.
    Lz4,
}

/// Something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not `zstd`, `zstd:LEVEL` with a level from 1 to 19, or `lz4`")]
pub struct InvalidCompression;

impl Compression {
    /// What the names of the objects say.
    pub fn codec(self) -> Codec {
        match self {
            Self::Zstd(_) => Codec::Zstd,
            Self::Lz4 => Codec::Lz4,
        }
    }
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd(1)
    }
}

impl FromStr for Compression {
    type Err = InvalidCompression;

    fn from_str(text: &str) -> Result<Self, InvalidCompression> {
        let level = match text {
            "lz4" => return Ok(Self::Lz4),
            "zstd" => return Ok(Self::default()),
            other => other.strip_prefix("zstd:").ok_or(InvalidCompression)?,
        };
        let is_number = level.bytes().all(|byte| byte.is_ascii_digit());
        let level = level.parse().ok().filter(|level| is_number && (1..=19).contains(level));
        level.map(Self::Zstd).ok_or(InvalidCompression)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zstd(level) => write!(f, "zstd:{level}"),
            Self::Lz4 => f.write_str("lz4"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_written_is_read_and_nothing_else() {
        for (text, is) in
            [("zstd", Compression::Zstd(1)), ("zstd:19", Compression::Zstd(19)), ("lz4", Compression::Lz4)]
        {
            assert_eq!(text.parse(), Ok(is));
            assert_eq!(is.to_string().parse(), Ok(is));
        }
        for text in ["", "zstd:", "zstd:0", "zstd:20", "zstd:+3", "zstd:-1", "ZSTD", "lz4:1", "gzip", "zstd:3 "] {
            assert_eq!(text.parse::<Compression>(), Err(InvalidCompression), "{text}");
        }
    }
}
