//! The files `archive_command` and `restore_command` are called with.

use super::segment::hex8;
use super::{InvalidWalName, Lsn, Segment, SegmentSize, Timeline};

/// A file of the archive, known by its name alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalFile {
    /// A whole segment: `000000010000000000000002`.
    Segment(Segment),
    /// What was written of a segment when its timeline ended: `000000010000000000000002.partial`.
    Partial(Segment),
    /// How a timeline came to be: `00000002.history`.
    History(Timeline),
    /// A base backup's label, for the eyes of people: `000000010000000000000002.00000028.backup`.
    Backup {
        /// The segment the backup began in.
        segment: Segment,
        /// Where in it, in bytes.
        offset: u32,
    },
}

impl WalFile {
    /// From a name without a folder. By [`SegmentSize::LEAST`] every name there can be is read.
    pub fn parse(name: &str, size: SegmentSize) -> Result<Self, InvalidWalName> {
        let invalid = || InvalidWalName { name: name.to_owned() };
        let Some((first, rest)) = name.split_once('.') else { return Segment::parse(name, size).map(Self::Segment) };
        if rest == "history" {
            return hex8(first).map(Timeline).map(Self::History).ok_or_else(invalid);
        }
        let segment = Segment::parse(first, size).map_err(|_| invalid())?;
        match rest.split_once('.') {
            None if rest == "partial" => Ok(Self::Partial(segment)),
            Some((offset, "backup")) => {
                let largest = SegmentSize::LARGEST.bytes();
                let offset = hex8(offset).filter(|offset| u64::from(*offset) < largest).ok_or_else(invalid)?;
                Ok(Self::Backup { segment, offset })
            }
            _ => Err(invalid()),
        }
    }

    /// Its name.
    pub fn name(self, size: SegmentSize) -> String {
        match self {
            Self::Segment(segment) => segment.name(size),
            Self::Partial(segment) => format!("{}.partial", segment.name(size)),
            Self::History(timeline) => format!("{:08X}.history", timeline.0),
            Self::Backup { segment, offset } => format!("{}.{offset:08X}.backup", segment.name(size)),
        }
    }

    /// The timeline it belongs to.
    pub fn timeline(self) -> Timeline {
        match self {
            Self::Segment(segment) | Self::Partial(segment) | Self::Backup { segment, .. } => segment.timeline,
            Self::History(timeline) => timeline,
        }
    }

    /// The first byte of the log it holds or stands for; `None` for a history.
    pub fn start(self, size: SegmentSize) -> Option<Lsn> {
        match self {
            Self::Segment(segment) | Self::Partial(segment) => Some(segment.start(size)),
            Self::Backup { segment, offset } => Some(segment.start(size) + u64::from(offset)),
            Self::History(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::WalFile;
    use crate::wal::{Lsn, Segment, SegmentSize, Timeline};

    const SEGMENT: Segment = Segment { timeline: Timeline(1), number: 2 };

    #[test]
    fn every_kind_is_known_by_its_name() {
        let size = SegmentSize::default();
        let cases = [
            ("000000010000000000000002", WalFile::Segment(SEGMENT)),
            ("000000010000000000000002.partial", WalFile::Partial(SEGMENT)),
            ("0000001A.history", WalFile::History(Timeline(26))),
            ("000000010000000000000002.00000028.backup", WalFile::Backup { segment: SEGMENT, offset: 0x28 }),
        ];
        for (name, file) in cases {
            assert_eq!(WalFile::parse(name, size), Ok(file));
            assert_eq!(file.name(size), name);
        }
        assert_eq!(
            WalFile::parse("000000010000000000000002.00000028.backup", size).unwrap().start(size),
            Some(Lsn(0x0200_0028))
        );
        // By the least size every name is read, wherever in a larger segment a backup began.
        assert!(WalFile::parse("000000010000000000000002.00F00028.backup", SegmentSize::LEAST).is_ok());
    }

    #[test]
    fn other_names_are_refused() {
        let names = [
            "",
            ".",
            "1.history",
            "00000001.history.tmp",
            "000000010000000000000002.ready",
            "000000010000000000000002.28.backup",
            "000000010000000000000002.40000000.backup",
            "../000000010000000000000002",
            "000000010000000000000002.partial.",
        ];
        for name in names {
            assert!(WalFile::parse(name, SegmentSize::default()).is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_for_a_file_has_that_name(name in "[0-9A-F]{8}([0-9A-F]{16})?(\\.(history|partial|[0-9A-F]{8}\\.backup))?") {
            if let Ok(file) = WalFile::parse(&name, SegmentSize::default()) {
                prop_assert_eq!(file.name(SegmentSize::default()), name);
            }
        }
    }
}
