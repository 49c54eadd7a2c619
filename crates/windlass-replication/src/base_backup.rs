//! `BASE_BACKUP`: a whole server as tar archives, one for the data folder and one for each tablespace, as one stream
//! (<https://www.postgresql.org/docs/current/protocol-replication.html#PROTOCOL-REPLICATION-BASE-BACKUP>).
//!
//! ```text
//! 15 to 18   start, tablespaces, one copy of all:  n archive … d bytes … d bytes … p progress … n archive …   end
//! 13, 14     start, tablespaces, one copy for each:  bytes … bytes …                                          end
//! ```
//!
//! Which of the two is spoken is not seen from outside. The main data folder comes last. Servers before 15 leave out
//! the two blocks of zeros that end an archive; they are put in here, so that the bytes of an archive are always those of
//! a whole one.
//!
//! Success is told by [`BaseBackup::finish`] alone: behind the last byte, and behind the end's LSN, a server may refuse, and says
//! there whether it found wrong checksums.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use bytes::{Buf, Bytes};
use postgres_protocol::message::backend::Message;
use windlass_core::wal::{Lsn, Timeline};

use crate::connection::{Row, quoted};
use crate::{Connection, Notices, ReplicationError};

const DOING: &str = "take a base backup";

/// Two blocks of zeros, the end of a tar archive.
const END_OF_ARCHIVE: [u8; 1024] = [0; 1024];

/// What the server is asked for. It is never asked to wait until its WAL is archived, and writes no manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseBackupOptions {
    /// What the backup is called, in `backup_label` and in the server's log.
    pub label: String,
    /// Whether to begin with a checkpoint at once; else the server takes its time, minutes by default, to do it quietly.
    pub fast: bool,
    /// Whether the WAL between start and end comes with it, at the end of the main archive.
    pub wal: bool,
    /// Whether the server looks at the checksum of every page, where it has them.
    pub verify_checksums: bool,
    /// A bound on the server's speed, in KiB/s; 32 to 1048576.
    pub max_rate: Option<u32>,
}

impl BaseBackupOptions {
    /// The command, in the grammar of a version.
    fn command(&self, version: u32) -> String {
        let Self { label, fast, wal, verify_checksums, max_rate } = self;
        let mut words = vec![format!("LABEL {}", quoted(label)), "PROGRESS".to_owned(), "TABLESPACE_MAP".to_owned()];
        let mut say = |is_so: bool, word: &str| words.extend(is_so.then(|| word.to_owned()));
        if version < 150_000 {
            say(*fast, "FAST");
            say(*wal, "WAL");
            say(true, "NOWAIT");
            say(!verify_checksums, "NOVERIFY_CHECKSUMS");
        } else {
            say(*fast, "CHECKPOINT 'fast'");
            say(*wal, "WAL");
            say(true, "WAIT false");
            say(true, "MANIFEST 'no'");
            say(!verify_checksums, "VERIFY_CHECKSUMS false");
        }
        words.extend(max_rate.map(|rate| format!("MAX_RATE {rate}")));
        if version < 150_000 {
            format!("BASE_BACKUP {}", words.join(" "))
        } else {
            format!("BASE_BACKUP ({})", words.join(", "))
        }
    }
}

/// A tablespace outside the data folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tablespace {
    /// Its number, the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Where it is on the server.
    pub location: PathBuf,
    /// About how large it is, in KiB, if the server says.
    pub size_kib: Option<u64>,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The bytes from now on are those of another archive.
    Archive {
        /// Of which tablespace; `None` for the main data folder, which comes last.
        tablespace: Option<u32>,
    },
    /// Bytes of the archive, 32 KiB or so; never none. They share memory with the few that came with them.
    Bytes(Bytes),
}

/// Where a base backup ends: with the WAL up to there it can be made consistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The first byte of WAL that is not needed.
    pub lsn: Lsn,
    /// On which timeline.
    pub timeline: Timeline,
    /// Whether the server found pages whose checksums are wrong: [`Connection::notices`] names them, in its words. What it read of
    /// them is in the archives.
    pub is_corrupt: bool,
}

/// A base backup under way. Dropped before its end, it leaves the connection of no use.
#[derive(Debug)]
pub struct BaseBackup<'a> {
    connection: &'a mut Connection,
    start: (Lsn, Timeline),
    tablespaces: Vec<Tablespace>,
    main_size_kib: Option<u64>,
    /// The archives that have not begun, in the order they are announced.
    awaited: Vec<Option<u32>>,
    state: State,
    has_types: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first archive, or between two.
    Between,
    Inside,
    /// Behind the last.
    Done,
}

impl Connection {
    /// Begins a base backup: waits for the server's checkpoint, and reads what it announces.
    pub async fn base_backup(&mut self, options: &BaseBackupOptions) -> Result<BaseBackup<'_>, ReplicationError> {
        let version = self.server_version();
        if version < 130_000 {
            return Err(ReplicationError::TooOld { doing: DOING, version });
        }
        if options.label.chars().any(char::is_control) {
            // It becomes a line of a file that recovery reads.
            return Err(ReplicationError::Argument { doing: DOING, why: "its label is not one line of text" });
        }
        self.begin(DOING, &options.command(version)).await?;
        let start = self.rows().await?;
        let start = self.position(&start)?;
        let (mut tablespaces, mut main, mut awaited) = (Vec::new(), None, Vec::new());
        for row in self.rows().await? {
            let is_said = |column: usize| row.get(column).is_some_and(Option::is_some);
            let size_kib = if is_said(2) { Some(self.parsed(&row, 2, "size")?) } else { None };
            if !is_said(0) {
                main = Some(size_kib);
                awaited.push(None);
                continue;
            }
            let oid = self.parsed(&row, 0, "number of a tablespace")?;
            let location =
                row.get(1).cloned().flatten().ok_or_else(|| self.channel.wrong("a tablespace is nowhere"))?;
            let location = PathBuf::from(OsString::from_vec(location.into()));
            tablespaces.push(Tablespace { oid, location, size_kib });
            awaited.push(Some(oid));
        }
        let main_size_kib = main.ok_or_else(|| self.channel.wrong("the main data folder is not announced"))?;
        let has_types = version >= 150_000;
        if has_types {
            match self.channel.read().await? {
                Message::CopyOutResponse(_) => {}
                other => return Err(self.refused(other).await),
            }
        }
        let state = State::Between;
        Ok(BaseBackup { connection: self, start, tablespaces, main_size_kib, awaited, state, has_types })
    }

    /// A result that is one place in the log.
    fn position(&self, rows: &[Row]) -> Result<(Lsn, Timeline), ReplicationError> {
        let [row] = rows else { return Err(self.channel.wrong("it is not one place in the log")) };
        Ok((self.parsed(row, 0, "place in the log")?, Timeline(self.parsed(row, 1, "timeline")?)))
    }
}

impl BaseBackup<'_> {
    /// Where replay of WAL has to begin, and on which timeline.
    pub fn start(&self) -> (Lsn, Timeline) {
        self.start
    }

    /// The tablespaces outside the data folder.
    pub fn tablespaces(&self) -> &[Tablespace] {
        &self.tablespaces
    }

    /// About how large the main data folder is, in KiB, if the server says; without its WAL.
    pub fn main_size_kib(&self) -> Option<u64> {
        self.main_size_kib
    }

    /// What the server said unasked on this connection, such as which page has a wrong checksum.
    pub fn notices(&self) -> &Notices {
        self.connection.notices()
    }

    /// The next archive or bytes; `None` behind the last of all, when [`BaseBackup::finish`] is to be called. May be
    /// given up and called again.
    pub async fn next(&mut self) -> Result<Option<Event>, ReplicationError> {
        if self.state == State::Done {
            return Ok(None);
        }
        let next = if self.has_types { self.next_of_one_copy().await } else { self.next_of_many_copies().await };
        if matches!(next, Ok(None)) {
            self.state = State::Done;
        }
        next
    }

    /// Since 15: one copy whose messages begin with a letter.
    async fn next_of_one_copy(&mut self) -> Result<Option<Event>, ReplicationError> {
        loop {
            let mut bytes = match self.connection.channel.read().await? {
                Message::CopyData(body) => body.into_bytes(),
                Message::CopyDone if self.awaited.is_empty() => return Ok(None),
                Message::CopyDone => return Err(self.wrong("it ends before all archives have come")),
                other => return Err(self.connection.refused(other).await),
            };
            let letter = bytes.first().copied();
            bytes.advance(usize::from(letter.is_some()));
            match letter {
                Some(b'd') if self.state == State::Inside => {
                    if !bytes.is_empty() {
                        return Ok(Some(Event::Bytes(bytes)));
                    }
                }
                Some(b'd') => return Err(self.wrong("bytes of no archive")),
                Some(b'n') => return self.archive(&bytes).map(Some),
                Some(b'p') => {}
                Some(letter) => {
                    return Err(
                        self.wrong(&format!("a message `{}` is not known", char::from(letter).escape_default()))
                    );
                }
                None => return Err(self.wrong("a message with nothing in it")),
            }
        }
    }

    /// An archive by its name: `16385.tar`, `base.tar`.
    fn archive(&mut self, announced: &[u8]) -> Result<Event, ReplicationError> {
        let name = announced.split(|byte| *byte == 0).next().and_then(|name| std::str::from_utf8(name).ok());
        let tablespace = match name.and_then(|name| name.strip_suffix(".tar")) {
            Some("base") => None,
            Some(oid) => Some(oid.parse().map_err(|_| self.wrong("an archive of no tablespace"))?),
            None => return Err(self.wrong("an archive without a name")),
        };
        let found = self.awaited.iter().position(|awaited| *awaited == tablespace);
        let index = found.ok_or_else(|| self.wrong("an archive that was not announced, or comes again"))?;
        self.awaited.remove(index);
        self.state = State::Inside;
        Ok(Event::Archive { tablespace })
    }

    /// Before 15: a copy for each tablespace, in the order they were announced.
    async fn next_of_many_copies(&mut self) -> Result<Option<Event>, ReplicationError> {
        loop {
            if self.state == State::Between && self.awaited.is_empty() {
                return Ok(None);
            }
            match (self.connection.channel.read().await?, self.state) {
                (Message::CopyOutResponse(_), State::Between) => {
                    self.state = State::Inside;
                    return Ok(Some(Event::Archive { tablespace: self.awaited.remove(0) }));
                }
                (Message::CopyData(body), State::Inside) => {
                    let bytes = body.into_bytes();
                    if !bytes.is_empty() {
                        return Ok(Some(Event::Bytes(bytes)));
                    }
                }
                (Message::CopyDone, State::Inside) => {
                    self.state = State::Between;
                    return Ok(Some(Event::Bytes(Bytes::from_static(&END_OF_ARCHIVE))));
                }
                (other, _) => return Err(self.connection.refused(other).await),
            }
        }
    }

    /// The end, behind all archives: only now the backup is known to be whole.
    pub async fn finish(self) -> Result<End, ReplicationError> {
        if self.state != State::Done {
            return Err(ReplicationError::Busy { doing: DOING });
        }
        let rows = self.connection.rows().await?;
        let (lsn, timeline) = self.connection.position(&rows)?;
        let is_corrupt = match self.connection.end().await {
            Ok(()) => false,
            Err(error) if error.is_corrupt() => true,
            Err(error) => return Err(error),
        };
        Ok(End { lsn, timeline, is_corrupt })
    }

    fn wrong(&self, why: &str) -> ReplicationError {
        self.connection.channel.wrong(why)
    }
}

#[cfg(test)]
mod tests;
