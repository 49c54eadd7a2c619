//! Messages: cut out of the stream of bytes, one at a time, with a bound on their size
//! (<https://www.postgresql.org/docs/current/protocol-message-formats.html>).
//!
//! What the server says unasked is taken in here: notices are kept, up to a number, and its version is.
//! An end of the stream is [`ReplicationError::Closed`], wherever it comes: there is no end that is in order but the one
//! of a command. Reading can be given up at any await and gone on with later; nothing is lost.

use std::io;

use bytes::{Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, ErrorFields, ErrorResponseBody, Header, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::ReplicationError;
use crate::stream::Wire;

/// No server announces more before it knows who asks.
const STRANGER: usize = 64 << 10;
/// Far above all that servers send: pieces of 32 KiB, rows of a few hundred bytes.
pub(crate) const LARGEST: usize = 64 << 20;
/// Room that is asked for at once.
const ROOM: usize = 256 << 10;
/// Notices that are kept, and letters of each.
const NOTICES: usize = 100;
const LETTERS: usize = 2000;

/// Something the server said unasked, such as which page has a wrong checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// `WARNING`, `NOTICE` and the like, not translated.
    pub severity: String,
    /// The SQLSTATE.
    pub code: String,
    /// The server's words, cut off where they are very long.
    pub message: String,
}

/// Everything the server said unasked; the first hundred of it in its words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notices {
    /// The first, in order.
    pub first: Vec<Notice>,
    /// How many there were beyond those.
    pub more: u64,
}

/// A connection as messages.
pub(crate) struct Channel {
    wire: Box<dyn Wire>,
    buffer: BytesMut,
    limit: usize,
    /// What is being done, for errors.
    pub(crate) doing: &'static str,
    pub(crate) notices: Notices,
    /// The last thing that was said unasked.
    last: Option<String>,
    pub(crate) server_version: Option<String>,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What is in the buffer may be anybody's data.
        f.debug_struct("Channel").field("doing", &self.doing).finish_non_exhaustive()
    }
}

impl Channel {
    /// With a stranger.
    pub(crate) fn new(wire: Box<dyn Wire>, doing: &'static str) -> Self {
        let buffer = BytesMut::new();
        Self { wire, buffer, limit: STRANGER, doing, notices: Notices::default(), last: None, server_version: None }
    }

    /// From now on with a server that is known.
    pub(crate) fn trust(&mut self) {
        self.limit = LARGEST;
    }

    pub(crate) async fn send(&mut self, message: &[u8]) -> Result<(), ReplicationError> {
        let sent = async {
            self.wire.write_all(message).await?;
            self.wire.flush().await
        };
        sent.await.map_err(|error| self.broken(error))
    }

    /// The next message that is an answer.
    pub(crate) async fn read(&mut self) -> Result<Message, ReplicationError> {
        loop {
            match self.read_any().await? {
                Message::NoticeResponse(body) => {
                    let notice = notice(body.fields()).map_err(|error| self.garbled(&error))?;
                    self.last = Some(notice.message.clone());
                    if self.notices.first.len() < NOTICES {
                        self.notices.first.push(notice);
                    } else {
                        self.notices.more += 1;
                    }
                }
                Message::ParameterStatus(body) => {
                    if body.name().is_ok_and(|name| name == "server_version") {
                        self.server_version = body.value().ok().map(str::to_owned);
                    }
                }
                message => return Ok(message),
            }
        }
    }

    async fn read_any(&mut self) -> Result<Message, ReplicationError> {
        loop {
            let missing = match Header::parse(&self.buffer).map_err(|error| self.garbled(&error))? {
                None => 5 - self.buffer.len(),
                Some(header) => {
                    let length = usize::try_from(header.len()).unwrap_or(usize::MAX);
                    if length > self.limit {
                        let (bytes, limit) = (length as u64, self.limit as u64);
                        return Err(ReplicationError::TooLarge { doing: self.doing, bytes, limit });
                    }
                    // The length counts itself and not the letter before it.
                    (length + 1).saturating_sub(self.buffer.len())
                }
            };
            if missing == 0 {
                let message = Message::parse(&mut self.buffer).map_err(|error| self.garbled(&error))?;
                return message.ok_or_else(|| self.wrong("a message is cut off"));
            }
            // Small reads are dear. Yet nothing is made room for that is only announced.
            if self.buffer.capacity() - self.buffer.len() < missing.min(ROOM / 8) {
                self.buffer.reserve(ROOM);
            }
            match self.wire.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(self.closed()),
                Ok(_) => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    fn closed(&self) -> ReplicationError {
        ReplicationError::Closed { doing: self.doing, last: self.last.clone() }
    }

    fn broken(&self, error: io::Error) -> ReplicationError {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        // With TLS an end without a farewell is one that is unexpected.
        match error.kind() {
            UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe => self.closed(),
            _ => ReplicationError::Io { doing: self.doing, source: error },
        }
    }

    fn garbled(&self, error: &io::Error) -> ReplicationError {
        self.wrong(error.to_string())
    }

    pub(crate) fn wrong(&self, why: impl Into<String>) -> ReplicationError {
        ReplicationError::Protocol { doing: self.doing, why: why.into() }
    }

    /// An answer that does not belong here: the server's refusal, or something out of turn.
    pub(crate) fn refusal(&self, message: Message) -> ReplicationError {
        match message {
            Message::ErrorResponse(body) => self.server_error(&body).unwrap_or_else(|error| self.garbled(&error)),
            other => self.wrong(format!("{} is out of turn", called(&other))),
        }
    }

    fn server_error(&self, body: &ErrorResponseBody) -> io::Result<ReplicationError> {
        let (mut code, mut message) = (String::new(), String::new());
        let (mut detail, mut hint) = (None, None);
        let mut fields = body.fields();
        while let Some(field) = fields.next()? {
            // Before the encodings of both sides are known, anything may come.
            let text = shortened(field.value_bytes());
            match field.type_() {
                b'C' => code = text,
                b'M' => message = text,
                b'D' => detail = Some(text),
                b'H' => hint = Some(text),
                _ => {}
            }
        }
        Ok(ReplicationError::Server { doing: self.doing, code, message, detail, hint })
    }

    /// The columns of a row, as text or as what they are.
    pub(crate) fn columns(&self, row: &DataRowBody) -> Result<Vec<Option<Bytes>>, ReplicationError> {
        let whole = row.buffer_bytes();
        let columns = row.ranges().map(|range| Ok(range.map(|range| whole.slice(range)))).collect();
        columns.map_err(|error| self.garbled(&error))
    }
}

fn notice(mut fields: ErrorFields<'_>) -> io::Result<Notice> {
    let mut notice = Notice { severity: String::new(), code: String::new(), message: String::new() };
    while let Some(field) = fields.next()? {
        let text = || shortened(field.value_bytes());
        match field.type_() {
            b'V' => notice.severity = text(),
            b'C' => notice.code = text(),
            b'M' => notice.message = text(),
            _ => {}
        }
    }
    Ok(notice)
}

fn shortened(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    if text.len() <= LETTERS { text.into_owned() } else { text.chars().take(LETTERS).chain(['…']).collect() }
}

/// A message's name in the protocol's documentation.
fn called(message: &Message) -> &'static str {
    match message {
        Message::AuthenticationOk => "AuthenticationOk",
        Message::CommandComplete(_) => "CommandComplete",
        Message::CopyData(_) => "CopyData",
        Message::CopyDone => "CopyDone",
        Message::CopyOutResponse(_) => "CopyOutResponse",
        Message::DataRow(_) => "DataRow",
        Message::ReadyForQuery(_) => "ReadyForQuery",
        Message::RowDescription(_) => "RowDescription",
        _ => "its message",
    }
}

#[cfg(test)]
pub(crate) mod tests;
