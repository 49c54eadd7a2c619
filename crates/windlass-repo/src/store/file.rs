//! Reads a file of a directory in large pieces, ahead of whoever takes them.
//!
//! `object_store` gives a file 8 KiB at a time, each by a thread that has to be woken for it: a fifth of the speed.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, unfold};
use object_store::Error;
use tokio::sync::mpsc::channel;

/// One piece, in bytes.
const PIECE: usize = 512 << 10;

/// Pieces read ahead.
const AHEAD: usize = 2;

/// The bytes of a range, which ends where the file does.
pub(super) fn pieces(mut file: File, range: Range<u64>) -> BoxStream<'static, Result<Bytes, Error>> {
    let (send, receive) = channel(AHEAD);
    let failed = |source: std::io::Error| Error::Generic { store: "LocalFileSystem", source: source.into() };
    tokio::task::spawn_blocking(move || {
        if let Err(error) = file.seek(SeekFrom::Start(range.start)) {
            let _ = send.blocking_send(Err(failed(error)));
            return;
        }
        let mut left = range.end.saturating_sub(range.start);
        while left > 0 {
            let piece = read_piece(&mut file, usize::try_from(left).unwrap_or(PIECE).min(PIECE));
            let read = piece.as_ref().map_or(0, Bytes::len);
            left = left.saturating_sub(read as u64);
            let is_last = read == 0;
            // At the end nothing is sent; and whoever took the pieces may have gone.
            if piece.as_ref().is_ok_and(Bytes::is_empty)
                || send.blocking_send(piece.map_err(failed)).is_err()
                || is_last
            {
                break;
            }
        }
    });
    unfold(receive, |mut receive| async move { receive.recv().await.map(|piece| (piece, receive)) }).boxed()
}

fn read_piece(file: &mut File, wanted: usize) -> std::io::Result<Bytes> {
    let mut buffer = vec![0; wanted];
    loop {
        match file.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(read) => {
                buffer.truncate(read);
                return Ok(buffer.into());
            }
        }
    }
}
