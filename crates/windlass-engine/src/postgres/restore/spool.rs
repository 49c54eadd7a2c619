//! The head of a dump on disk, and the pieces that were read to get it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bytes::Bytes;
use futures::stream::{Stream, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};
use windlass_repo::format::dump::{Entry, Selection, Toc, Walker};

use super::{PostgresError, Tools};
use crate::postgres::child::Running;

/// The most that is printed of definitions.
const PRINTED: u64 = 64 << 20;

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

    /// Writes a list of entries for `pg_restore --use-list` beside the head.
    pub(super) async fn list(&self, name: &str, ids: BTreeSet<i64>) -> Result<PathBuf, PostgresError> {
        let path = self.path.with_file_name(name);
        let list = Selection { ids, tables: BTreeSet::new(), left_out: Vec::new() }.to_list(&self.toc);
        let written = tokio::fs::write(&path, list).await;
        written.map_err(|source| PostgresError::File { path: path.clone(), source })?;
        Ok(path)
    }

    /// Prints the definitions of entries. The tools must see the files of this machine.
    pub(super) async fn script(
        &self,
        tools: &Tools,
        entries: &[&Entry],
        options: &[&str],
    ) -> Result<String, PostgresError> {
        let list = self.list("printed", entries.iter().map(|entry| entry.id).collect()).await?;
        let mut command = tools.command("pg_restore");
        command.args(options).arg("--file=-").arg(format!("--use-list={}", list.display())).arg(&self.path);
        let mut running = Running::start("pg_restore --file=-", command.stdout(Stdio::piped()))?;
        let mut script = Vec::new();
        let read = running.stdout()?.take(PRINTED).read_to_end(&mut script).await;
        read.map_err(|source| running.failed(source))?;
        running.finish().await?;
        // It comes in the dump's own encoding.
        Ok(String::from_utf8_lossy(&script).into_owned())
    }
}
