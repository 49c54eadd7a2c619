//! A dump that is compressed here: `pg_dump` writes, and a thread reads, compresses and counts.
//!
//! ```text
//! pg_dump --compress=0 → large pipe → thread: Packer → pieces of the compressed dump
//! ```
//!
//! Few pieces are under way at any time. When it is dropped half-way, the thread ends at the next piece, or with the tool
//! that writes; nobody waits for it.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::fcntl_setpipe_size;
use tokio::process::ChildStdout;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use windlass_repo::format::dump::{DumpError, Packer, Rows};

/// Bytes that are compressed at once.
const PIECE: usize = 256 << 10;

/// Pieces of the compressed dump under way.
const UNDER_WAY: usize = 4;

/// What the pipe may hold: what is written while a piece is compressed, and more.
const PIPE: usize = 1 << 20;

/// How long little is left in a large pipe to become more. `pg_dump` writes 4 KiB at a time, and to be woken for each
/// of them costs both sides more than the copy.
const PAUSE: Duration = Duration::from_millis(1);

/// The compressed dump as it comes.
pub(super) struct Packed {
    pieces: Receiver<Vec<u8>>,
    /// The piece that is being given away, and how much of it has been.
    piece: Vec<u8>,
    given: usize,
    ended: oneshot::Receiver<Ended>,
}

/// What became of a dump: its rows, unless it is not whole.
pub(super) type Ended = std::io::Result<Result<Rows, DumpError>>;

impl Packed {
    pub(super) fn start(stdout: ChildStdout) -> std::io::Result<Self> {
        let pipe = stdout.into_owned_fd()?;
        // Where it may not be enlarged, the pipe holds what it holds.
        let large = fcntl_setpipe_size(&pipe, PIPE).is_ok();
        fcntl_setfl(&pipe, fcntl_getfl(&pipe)? - OFlags::NONBLOCK)?;
        let (to, pieces) = channel(UNDER_WAY);
        let (tell, ended) = oneshot::channel();
        let pack = move || {
            let _ = tell.send(pack(pipe.into(), large, &to));
        };
        std::thread::Builder::new().name("pack".into()).spawn(pack)?;
        Ok(Self { pieces, piece: Vec::new(), given: 0, ended })
    }

    /// Gives the next bytes away; 0 at the end.
    pub(super) async fn read(&mut self, buffer: &mut [u8]) -> usize {
        if self.given == self.piece.len() {
            self.piece = self.pieces.recv().await.unwrap_or_default();
            self.given = 0;
        }
        let rest = self.piece.get(self.given..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.given += count;
        count
    }

    /// What became of it, once no more bytes came.
    pub(super) async fn end(self) -> Ended {
        drop(self.pieces);
        self.ended.await.map_err(std::io::Error::other)?
    }
}

/// Packs to the end of the pipe, or until nobody wants more.
fn pack(mut pipe: File, large: bool, to: &Sender<Vec<u8>>) -> Ended {
    let (mut packer, mut buffer) = (Packer::new(), vec![0; PIECE]);
    loop {
        let read = pipe.read(&mut buffer)?;
        if read == 0 {
            return Ok(packer.finish());
        }
        let packed = match packer.feed(buffer.get(..read).unwrap_or_default()) {
            Ok(packed) => packed,
            Err(error) => return Ok(Err(error)),
        };
        // Nothing comes yet of many a piece.
        if !packed.is_empty() && to.blocking_send(packed).is_err() {
            return Ok(packer.finish());
        }
        if large && read < PIECE / 2 {
            std::thread::sleep(PAUSE);
        }
    }
}
