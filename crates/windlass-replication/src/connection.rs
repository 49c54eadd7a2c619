//! A replication connection and its commands
//! (<https://www.postgresql.org/docs/current/protocol-replication.html>).

use std::fmt::Write;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use secrecy::SecretString;
use windlass_core::wal::{Lsn, SegmentSize, Timeline, WalFile};

use crate::dial::dial;
use crate::message::{Channel, LARGEST, Notices};
use crate::{Address, ReplicationError};

/// How long it is waited for the end of a command that the server refused.
const REFUSED: Duration = Duration::from_secs(10);

/// Which server answers, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's number, which its copies and standbys share.
    pub system_identifier: u64,
    /// The timeline it is on.
    pub timeline: Timeline,
    /// The end of its log, as far as it is on disk; on a standby, as far as it was received or replayed.
    pub xlogpos: Lsn,
}

/// A file that tells how a timeline came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    /// Its name, such as `00000002.history`.
    pub name: String,
    /// What is in it.
    pub content: Vec<u8>,
}

/// A session for physical replication. Dropped, it closes the socket, and the server ends what it was doing.
///
/// A command that was given up before its end, or whose end is not known, leaves the connection
/// [`ReplicationError::Busy`] for good. Futures may be dropped at any time.
#[derive(Debug)]
pub struct Connection {
    pub(crate) channel: Channel,
    /// Whether a command is on its way.
    is_busy: bool,
    version: u32,
}

/// One row: its columns as text, or as what they are.
pub(crate) type Row = Vec<Option<Bytes>>;

impl Connection {
    /// Connects and logs in. Hosts are tried in turn until one answers, each with TLS and without as `sslmode` says. The
    /// password, if none is given, is looked for in the password file. A name in the URL goes before `application_name`.
    pub async fn open(
        address: &Address,
        password: Option<SecretString>,
        application_name: &str,
    ) -> Result<Self, ReplicationError> {
        let channel = dial(address, password, application_name).await?;
        let version = channel.server_version.as_deref().and_then(version_number);
        let version = version.ok_or_else(|| channel.wrong("it does not tell its version"))?;
        Ok(Self { channel, is_busy: false, version })
    }

    /// With a server that a test plays.
    #[cfg(test)]
    pub(crate) fn of(channel: Channel, version: u32) -> Self {
        Self { channel, is_busy: false, version }
    }

    /// The server's version, as `server_version_num` has it: 150018 for 15.18, 170000 for 17rc1.
    pub fn server_version(&self) -> u32 {
        self.version
    }

    /// What the server said unasked since the connection was made.
    pub fn notices(&self) -> &Notices {
        &self.channel.notices
    }

    /// `IDENTIFY_SYSTEM`.
    pub async fn identify(&mut self) -> Result<Identity, ReplicationError> {
        let row = self.one_row("ask which server it is", "IDENTIFY_SYSTEM").await?;
        Ok(Identity {
            system_identifier: self.parsed(&row, 0, "system identifier")?,
            timeline: Timeline(self.parsed(&row, 1, "timeline")?),
            xlogpos: self.parsed(&row, 2, "place in the log")?,
        })
    }

    /// `SHOW`: a setting's value as the server prints it, such as `16MB` for `wal_segment_size`.
    pub async fn show(&mut self, name: &str) -> Result<String, ReplicationError> {
        let doing = "ask for a setting";
        let is_name = (1..=63).contains(&name.len())
            && name.split('.').all(|part| {
                !part.starts_with(|letter: char| letter.is_ascii_digit())
                    && !part.is_empty()
                    && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            });
        if !is_name {
            return Err(ReplicationError::Argument { doing, why: "that is not the name of a setting" });
        }
        let row = self.one_row(doing, &format!("SHOW {name}")).await?;
        self.parsed(&row, 0, "setting")
    }

    /// Makes a physical slot that keeps the WAL from now on, and is gone with the connection.
    pub async fn create_temporary_slot(&mut self, name: &str) -> Result<(), ReplicationError> {
        let doing = "create a replication slot";
        let is_name = (1..=63).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if !is_name {
            let why = "its name must be of 1 to 63 letters a to z, digits and underscores";
            return Err(ReplicationError::Argument { doing, why });
        }
        // Since 15 there is another grammar; this one is understood by all.
        let command = format!("CREATE_REPLICATION_SLOT \"{name}\" TEMPORARY PHYSICAL RESERVE_WAL");
        self.one_row(doing, &command).await?;
        Ok(())
    }

    /// The history of a timeline. The first has none, which the server says with SQLSTATE 58P01.
    pub async fn timeline_history(&mut self, timeline: Timeline) -> Result<TimelineHistory, ReplicationError> {
        let row = self.one_row("ask for a timeline's history", &format!("TIMELINE_HISTORY {timeline}")).await?;
        let name: String = self.parsed(&row, 0, "file name")?;
        // The size of a segment is of no matter to a history.
        if name != WalFile::History(timeline).name(SegmentSize::LEAST) {
            return Err(self.channel.wrong("the file is that of another timeline"));
        }
        let content = row.into_iter().nth(1).flatten().ok_or_else(|| self.channel.wrong("the file is not there"))?;
        Ok(TimelineHistory { name, content: content.into() })
    }

    /// Says farewell and closes. What is only dropped the server finds out by itself, and puts into its log.
    pub async fn close(mut self) {
        let mut out = BytesMut::new();
        frontend::terminate(&mut out);
        // Whether it is heard makes no difference.
        let _ = self.channel.send(&out).await;
    }

    /// Sends a command.
    pub(crate) async fn begin(&mut self, doing: &'static str, command: &str) -> Result<(), ReplicationError> {
        if self.is_busy {
            return Err(ReplicationError::Busy { doing });
        }
        let mut out = BytesMut::new();
        let zero = |_| ReplicationError::Argument { doing, why: "there is a zero byte in it" };
        frontend::query(command, &mut out).map_err(zero)?;
        self.is_busy = true;
        self.channel.doing = doing;
        self.channel.send(&out).await
    }

    /// The rows of the next result.
    pub(crate) async fn rows(&mut self) -> Result<Vec<Row>, ReplicationError> {
        match self.channel.read().await? {
            Message::RowDescription(_) => {}
            other => return Err(self.refused(other).await),
        }
        let (mut rows, mut bytes) = (Vec::new(), 0);
        loop {
            match self.channel.read().await? {
                Message::DataRow(body) => {
                    bytes += body.buffer().len();
                    if bytes > LARGEST {
                        return Err(self.channel.wrong("its rows have no end"));
                    }
                    rows.push(self.channel.columns(&body)?);
                }
                Message::CommandComplete(_) => return Ok(rows),
                other => return Err(self.refused(other).await),
            }
        }
    }

    /// The end of the command. Nothing is known to have succeeded before this.
    pub(crate) async fn end(&mut self) -> Result<(), ReplicationError> {
        loop {
            match self.channel.read().await? {
                Message::CommandComplete(_) => {}
                Message::ReadyForQuery(_) => {
                    self.is_busy = false;
                    return Ok(());
                }
                other => return Err(self.refused(other).await),
            }
        }
    }

    /// An answer that was not hoped for. Behind a refusal the connection can be used again.
    pub(crate) async fn refused(&mut self, message: Message) -> ReplicationError {
        let error = self.channel.refusal(message);
        if matches!(error, ReplicationError::Server { .. }) {
            let end = async {
                loop {
                    match self.channel.read().await {
                        Ok(Message::ReadyForQuery(_)) => return true,
                        Ok(_) => {}
                        Err(_) => return false,
                    }
                }
            };
            self.is_busy = !tokio::time::timeout(REFUSED, end).await.unwrap_or(false);
        }
        error
    }

    async fn one_row(&mut self, doing: &'static str, command: &str) -> Result<Row, ReplicationError> {
        self.begin(doing, command).await?;
        let rows = self.rows().await?;
        self.end().await?;
        let [row]: [Row; 1] = rows.try_into().map_err(|_| self.channel.wrong("it is not one row"))?;
        Ok(row)
    }

    /// A column that must be there.
    pub(crate) fn parsed<T: std::str::FromStr>(
        &self,
        row: &Row,
        column: usize,
        what: &str,
    ) -> Result<T, ReplicationError> {
        let text = row.get(column).and_then(Option::as_ref).and_then(|text| std::str::from_utf8(text).ok());
        text.and_then(|text| text.parse().ok()).ok_or_else(|| self.channel.wrong(format!("there is no {what} in it")))
    }
}

/// `15.18 (Debian 15.18-1)` as 150018; what is not released yet has no second number.
fn version_number(text: &str) -> Option<u32> {
    let mut parts = text.split(|letter: char| !letter.is_ascii_digit() && letter != '.').next()?.split('.');
    let major: u32 = parts.next()?.parse().ok()?;
    let minor = parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0);
    // Before 10 there were three numbers.
    let number = if major >= 10 {
        u64::from(major) * 10_000 + minor
    } else {
        u64::from(major) * 10_000 + minor * 100 + parts.next().and_then(|patch| patch.parse().ok()).unwrap_or(0)
    };
    u32::try_from(number).ok()
}

/// A string as the server's grammar has it.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from("'");
    for letter in text.chars() {
        let _ = write!(quoted, "{}{letter}", if letter == '\'' { "'" } else { "" });
    }
    quoted + "'"
}

#[cfg(test)]
mod tests {
    use super::{Connection, quoted, version_number};
    use crate::{Address, BaseBackupOptions};

    #[test]
    fn versions_are_those_of_server_version_num() {
        let cases = [
            ("15.18 (Debian 15.18-0+deb12u1)", Some(150_018)),
            ("13.0", Some(130_000)),
            ("17rc1", Some(170_000)),
            ("18beta2", Some(180_000)),
            ("19devel", Some(190_000)),
            ("14.5 (EnterpriseDB 14.5.0)", Some(140_005)),
            ("9.6.24", Some(90_624)),
            ("", None),
            ("devel", None),
        ];
        for (text, number) in cases {
            assert_eq!(version_number(text), number, "{text}");
        }
    }

    #[test]
    fn a_connection_can_go_to_another_thread() {
        fn is_free<T: Send>(_: T) {}
        let address = Address::parse("postgresql://u@h").unwrap();
        is_free(Connection::open(&address, None, "x"));
        is_free(async {
            let mut connection = Connection::open(&address, None, "x").await.unwrap();
            let options = BaseBackupOptions {
                label: String::new(),
                fast: true,
                wal: true,
                verify_checksums: true,
                max_rate: None,
            };
            let mut backup = connection.base_backup(&options).await.unwrap();
            backup.next().await.unwrap();
            backup.finish().await.unwrap();
        });
    }

    #[test]
    fn a_quote_is_written_twice() {
        assert_eq!(quoted("it's"), "'it''s'");
    }
}
