//! Makes a data folder that was laid down recover: what it asks for, how far it goes, and nothing of what its source did.
//!
//! Promised: recovery settings are ours alone, whatever the source had; a copy archives nothing, so it can never push into its
//! source's archive, until somebody says so. Everything else stays as it was. Written last is `recovery.signal`, without which a server
//! would take the end of the WAL that lies there for the end of all.
//!
//! Source: <https://www.postgresql.org/docs/current/runtime-config-wal.html#RUNTIME-CONFIG-WAL-RECOVERY-TARGET>; of versions
//! 13 to 18.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use windlass_core::wal::{Lsn, Timeline};

use super::error::PhysicalError;
use super::server::{IN_PRODUCTION, SHUT_DOWN, state};

/// Where settings are that override those of `postgresql.conf`.
const OVERRIDES: &str = "postgresql.auto.conf";

/// What makes a server recover from an archive.
const SIGNAL: &str = "recovery.signal";

/// What makes a server a standby, and what made one of before version 12 recover.
const STANDBY: &str = "standby.signal";
const OF_BEFORE: &str = "recovery.conf";

/// What is set to nothing: `postgresql.conf` may say where else recovery is to end, or run commands of the source's.
const UNSET: [&str; 7] = [
    "archive_cleanup_command",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_end_command",
    "recovery_target",
    "recovery_target_name",
    "recovery_target_xid",
];

/// What is set otherwise.
const SET: [&str; 8] = [
    "archive_mode",
    "recovery_min_apply_delay",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_time",
    "recovery_target_timeline",
    "restore_command",
];

/// What would end another recovery where this one did.
const TARGETS: [&str; 8] = [
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
];

/// What a server is read by while it recovers: without, it ends instead of pausing.
const READABLE: &str = "hot_standby";

/// A `restore_command` where all the WAL that is wanted lies in `pg_wal`: there is no more.
pub const NOTHING_MORE: &str = "false";

/// A path as a word of a `restore_command`: for the shell, and for PostgreSQL, to which `%` means something.
pub fn word(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''").replace('%', "%%"))
}

/// How a data folder is to recover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// What fetches a file of the archive, a command for a shell in which `%f` is the file and `%p` where it goes.
    pub restore_command: String,
    /// The timeline it is brought to.
    pub timeline: Timeline,
    /// How far it goes.
    pub until: Until,
    /// Whether it stays there, to be read, until somebody has it go on by `pg_wal_replay_resume()`.
    pub paused: bool,
}

/// How far recovery goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// To the end of the WAL.
    EndOfWal,
    /// Until a transaction ended later than this. PostgreSQL ends with an error where there is none in the WAL.
    Time(Timestamp),
    /// Up to the record that begins here, which has to be in the WAL, and that one, too.
    Behind(Lsn),
    /// On and on, as a standby, on whatever timeline is the newest.
    Standby,
}

impl Recovery {
    /// By the WAL that lies in it, to its end.
    pub fn by_itself(timeline: Timeline) -> Self {
        Self { restore_command: NOTHING_MORE.to_owned(), timeline, until: Until::EndOfWal, paused: false }
    }

    /// Takes it out of a data folder again that has recovered, whose overrides these were. A `silent` one archives nothing, and
    /// asks for nothing; another does what it did before.
    pub fn settle(data: &Path, before: &[u8], silent: bool) -> io::Result<()> {
        let mut after = if silent { without(before, &[&UNSET, &SET]) } else { without(before, &[&TARGETS]) };
        if silent {
            after.extend_from_slice(b"archive_mode = 'off'\n");
        }
        replace(&data.join(OVERRIDES), &after)?;
        std::fs::File::open(data)?.sync_all()
    }

    /// Whether a server has recovered in a data folder that was laid down. One that was killed at the very end of its recovery does not
    /// know any more how far it was to go.
    pub fn is_over(data: &Path) -> Result<bool, PhysicalError> {
        if data.join(SIGNAL).exists() || data.join("backup_label").exists() {
            return Ok(false);
        }
        let path = data.join("global/pg_control");
        let control = std::fs::read(&path).map_err(|source| PhysicalError::Read { path, source })?;
        if matches!(state(&control), Some(SHUT_DOWN | IN_PRODUCTION)) {
            return Ok(true);
        }
        let why = format!(
            "the recovery in `{}` was killed at its very end, and cannot go on: remove the folder, and restore once more",
            data.display()
        );
        Err(PhysicalError::Changed { why })
    }

    /// What a data folder overrides of its settings.
    pub fn overrides(data: &Path) -> io::Result<Vec<u8>> {
        match std::fs::read(data.join(OVERRIDES)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other,
        }
    }

    /// Writes it into a data folder.
    pub fn write(&self, data: &Path) -> io::Result<()> {
        self.write_over(data, &Self::overrides(data)?)
    }

    /// The same, where these are its overrides.
    pub(super) fn write_over(&self, data: &Path, before: &[u8]) -> io::Result<()> {
        let (signal, other) = if self.until == Until::Standby { (STANDBY, SIGNAL) } else { (SIGNAL, STANDBY) };
        for signal in [other, OF_BEFORE] {
            match std::fs::remove_file(data.join(signal)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        // Not there where it was a link: no server starts without it.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data.join("pg_wal"))?;
        let readable: &[&str] = if self.paused { &[READABLE] } else { &[] };
        let mut after = without(before, &[&UNSET, &SET, readable]);
        after.extend(self.settings().into_bytes());
        replace(&data.join(OVERRIDES), &after)?;
        replace(&data.join(signal), b"")?;
        std::fs::File::open(data)?.sync_all()
    }

    fn settings(&self) -> String {
        let mut text = String::new();
        let mut set = |name: &str, value: &str| {
            let _ = writeln!(text, "{name} = '{}'", value.replace('\\', r"\\").replace('\'', "''"));
        };
        // A standby streams from whom it is told to, and archives like its source once it has taken over.
        let is_standby = self.until == Until::Standby;
        // Before the target that is set: PostgreSQL refuses one behind another, even one that is empty.
        for name in UNSET.iter().filter(|name| !(is_standby && name.starts_with("primary_"))) {
            set(name, "");
        }
        set("restore_command", &self.restore_command);
        let timeline = match self.until {
            Until::Standby => "latest".to_owned(),
            Until::EndOfWal | Until::Time(_) | Until::Behind(_) => self.timeline.0.to_string(),
        };
        set("recovery_target_timeline", &timeline);
        let in_utc = |at: Timestamp| at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string();
        let (lsn, time) = match self.until {
            Until::EndOfWal | Until::Standby => (String::new(), String::new()),
            Until::Time(time) => (String::new(), in_utc(time)),
            Until::Behind(record) => (record.to_string(), String::new()),
        };
        // The empty one before the other, as above.
        let mut targets = [("recovery_target_lsn", lsn), ("recovery_target_time", time)];
        targets.sort_by_key(|(_, value)| !value.is_empty());
        for (name, value) in &targets {
            set(name, value);
        }
        set("recovery_target_inclusive", "on");
        set("recovery_target_action", if self.paused { "pause" } else { "promote" });
        if self.paused {
            set(READABLE, "on");
        }
        if !is_standby {
            set("recovery_min_apply_delay", "0");
            set("archive_mode", "off");
        }
        text
    }
}

/// The lines that set none of these.
fn without(text: &[u8], names: &[&[&str]]) -> Vec<u8> {
    let is_one = |line: &[u8]| {
        let line = String::from_utf8_lossy(line);
        let name = line.trim_start().split(|c: char| c == '=' || c.is_whitespace()).next().unwrap_or_default();
        let name = name.to_ascii_lowercase();
        names.iter().copied().flatten().any(|one| name == *one)
    };
    let mut kept: Vec<u8> =
        text.split_inclusive(|byte| *byte == b'\n').filter(|line| !is_one(line)).flatten().copied().collect();
    if kept.last().is_some_and(|last| *last != b'\n') {
        kept.push(b'\n');
    }
    kept
}

/// Writes a file whole or not at all, for the owner of its folder alone.
pub(crate) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let part = path.with_extension("windlass");
    match std::fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // A new one: nothing is followed that somebody put there.
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    file.write_all(text)?;
    if rustix::process::geteuid().is_root() {
        let folder = path.parent().unwrap_or(Path::new("/")).metadata()?;
        std::os::unix::fs::fchown(&file, Some(folder.uid()), Some(folder.gid()))?;
    }
    file.sync_all()?;
    std::fs::rename(part, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_recovery_goes_and_everything_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let before = "# Do not edit this file manually!\nwork_mem = '8MB'\nrestore_command='cp /old/%f %p'\n  PRIMARY_CONNINFO = 'host=a'\n";
        std::fs::write(folder.path().join(OVERRIDES), before).unwrap();
        std::fs::write(folder.path().join("standby.signal"), "").unwrap();
        let recovery = Recovery {
            restore_command: "windlass wal-fetch --component 'it''s' %f %p".to_owned(),
            timeline: Timeline(3),
            until: Until::Time("2026-11-20T08:23:38.5Z".parse().unwrap()),
            paused: false,
        };
        recovery.write(folder.path()).unwrap();
        let after = std::fs::read_to_string(folder.path().join(OVERRIDES)).unwrap();
        assert_eq!(
            after,
            "# Do not edit this file manually!\nwork_mem = '8MB'\n\
             archive_cleanup_command = ''\nprimary_conninfo = ''\nprimary_slot_name = ''\nrecovery_end_command = ''\n\
             recovery_target = ''\nrecovery_target_name = ''\nrecovery_target_xid = ''\n\
             restore_command = 'windlass wal-fetch --component ''it''''s'' %f %p'\n\
             recovery_target_timeline = '3'\nrecovery_target_lsn = ''\nrecovery_target_time = '2026-11-20 08:23:38.500000+00'\n\
             recovery_target_inclusive = 'on'\nrecovery_target_action = 'promote'\nrecovery_min_apply_delay = '0'\narchive_mode = 'off'\n"
        );
        assert!(folder.path().join(SIGNAL).exists() && folder.path().join("pg_wal").is_dir());
        assert!(!folder.path().join("standby.signal").exists(), "it is to come out of recovery");
        recovery.write(folder.path()).unwrap();
        assert_eq!(
            std::fs::read_to_string(folder.path().join(OVERRIDES)).unwrap(),
            after,
            "written again it is the same"
        );
        Recovery { paused: true, ..recovery }.write(folder.path()).unwrap();
        let paused = std::fs::read_to_string(folder.path().join(OVERRIDES)).unwrap();
        assert!(paused.contains("recovery_target_action = 'pause'\nhot_standby = 'on'\n"), "{paused}");
    }
}
