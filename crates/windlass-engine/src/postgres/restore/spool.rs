//! The head of a dump on disk, and the pieces that were read to get it.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::stream::{Stream, StreamExt};
use tokio::io::{AsyncWriteExt, BufWriter};
use windlass_repo::format::dump::{Toc, Walker};

use super::PostgresError;

pub(super) struct Spool {
    /// The head: a dump of its own to `pg_restore`, as long as no data are asked of it.
    pub(super) path: PathBuf,
    pub(super) toc: Toc,
    pub(super) beginning: Vec<Bytes>,
}

impl Spool {
    /// Reads a dump as far as its head goes.
    pub(super) async fn begin(
        folder: &Path,
        database: &str,
        dump: &mut (impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin),
    ) -> Result<Self, PostgresError> {
        let path = folder.join("head.dump");
        let failed = |source| PostgresError::File { path: path.clone(), source };
        let unreadable = |source| PostgresError::Dump { database: database.to_owned(), source };
        let mut file = BufWriter::new(tokio::fs::File::create(&path).await.map_err(failed)?);
        let mut walker = Walker::new();
        let mut beginning = Vec::new();
        let head = loop {
            if let Some(head) = walker.head() {
                break head;
            }
            let Some(piece) = dump.next().await else {
                return Err(unreadable(std::io::Error::other("it ends within its head")));
            };
            let piece = piece.map_err(unreadable)?;
            walker.feed(&piece).map_err(|error| unreadable(std::io::Error::other(error)))?;
            file.write_all(&piece).await.map_err(failed)?;
            beginning.push(piece);
        };
        file.flush().await.map_err(failed)?;
        file.get_ref().set_len(head).await.map_err(failed)?;
        let toc = walker.toc().cloned().unwrap_or_default();
        Ok(Self { path, toc, beginning })
    }
}
