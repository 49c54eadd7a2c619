//! Fetches the contents of many files, span of a pack by span of a pack.
//!
//! Blobs that lie side by side in a pack are read by one request, whatever files they belong to; each is written where
//! it belongs, in any order. A few threads do that, each holding one span and one blob.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustic_core::repofile::{Node, PackId};
use rustic_core::{DataId, FileType, ReadBackend};

use super::FilesError;
use super::ahead;
use super::backend::Backend;

/// Threads that fetch. A span and a blob of at most 8 MiB each, the latter twice while it is unpacked: 80 MiB in flight.
const THREADS: usize = 4;

/// The longest span of a pack read at once, unless one blob is longer.
const SPAN: u32 = 4 << 20;

/// Bytes between two blobs that are read rather than asked for anew.
const GAP: u32 = 64 << 10;

/// Runs of zeros this long become holes.
const HOLE: usize = 64 << 10;

/// How blobs are found and had.
pub(super) struct Source<'a> {
    /// Where a blob lies.
    pub(super) locate: &'a (dyn Fn(&DataId) -> Result<Located, FilesError> + Sync),
    /// A blob, opened and compared with its name and the bytes it should have.
    pub(super) blob: &'a (dyn Fn(&DataId, u32) -> Result<Bytes, FilesError> + Sync),
    /// Reads packs.
    pub(super) backend: &'a Backend,
}

/// Where a blob lies.
pub(super) struct Located {
    /// The pack.
    pub(super) pack: PackId,
    /// Its first byte there.
    pub(super) offset: u32,
    /// Its bytes there.
    pub(super) length: u32,
    /// Its bytes once it is opened.
    pub(super) plain: u32,
}

/// What is done with files.
pub(super) struct Sink<'a> {
    /// Makes a file.
    pub(super) make: &'a (dyn Fn(&Path) -> std::io::Result<File> + Sync),
    /// Hears of a file whose content is there.
    pub(super) done: &'a (dyn Fn(&Path, &Node) + Sync),
    /// Hears of bytes written.
    pub(super) moved: &'a (dyn Fn(u64) + Sync),
}

/// Part of a file's content.
struct Piece<'a> {
    id: &'a DataId,
    file: usize,
    offset: u64,
    at: u32,
    length: u32,
    plain: u32,
}

/// Blobs of a pack that are read at once.
struct Span<'a> {
    pack: PackId,
    pieces: Vec<Piece<'a>>,
}

impl Span<'_> {
    fn start(&self) -> u32 {
        self.pieces.first().map_or(0, |piece| piece.at)
    }

    fn end(&self) -> u32 {
        self.pieces.iter().map(|piece| piece.at.saturating_add(piece.length)).max().unwrap_or(0)
    }
}

/// A file on its way.
struct Growing {
    /// Open from its first piece to its last.
    file: Mutex<Option<Arc<File>>>,
    left: AtomicUsize,
    size: u64,
}

/// Writes the contents of files. Returns their bytes.
pub(super) fn write(files: &[(PathBuf, Node)], source: &Source<'_>, sink: &Sink<'_>) -> Result<u64, FilesError> {
    let (spans, growing) = plan(files, source)?;
    let (next, bytes, stop) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let failure: Mutex<Option<FilesError>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(spans.len() + growing.len()) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    let done = if let Some(span) = spans.get(turn) {
                        fetch(span, files, &growing, source, sink)
                    } else if let Some(((path, node), file)) =
                        files.get(turn - spans.len()).zip(growing.get(turn - spans.len()))
                    {
                        // What has no content is not part of any span.
                        if file.left.load(Ordering::Relaxed) == 0 && node.content.iter().flatten().next().is_none() {
                            finish(path, node, file, sink).map(|()| 0)
                        } else {
                            Ok(0)
                        }
                    } else {
                        break;
                    };
                    match done {
                        Ok(more) => {
                            bytes.fetch_add(more, Ordering::Relaxed);
                        }
                        Err(error) => {
                            stop.store(true, Ordering::Relaxed);
                            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(bytes.into_inner()), Err)
}

/// The spans to read, about in the order of the files, and the files.
fn plan<'a>(files: &'a [(PathBuf, Node)], source: &Source<'_>) -> Result<(Vec<Span<'a>>, Vec<Growing>), FilesError> {
    let mut packs: BTreeMap<PackId, Vec<Piece<'a>>> = BTreeMap::new();
    let mut growing = Vec::with_capacity(files.len());
    for (file, (_, node)) in files.iter().enumerate() {
        let (mut offset, mut count) = (0, 0);
        for id in node.content.iter().flatten() {
            let Located { pack, offset: at, length, plain } = (source.locate)(id)?;
            packs.entry(pack).or_default().push(Piece { id, file, offset, at, length, plain });
            offset += u64::from(plain);
            count += 1;
        }
        growing.push(Growing { file: Mutex::default(), left: AtomicUsize::new(count), size: offset });
    }
    let mut spans: Vec<Span<'a>> = Vec::new();
    for (pack, mut pieces) in packs {
        pieces.sort_by_key(|piece| (piece.at, piece.file, piece.offset));
        for piece in pieces {
            match spans.last_mut() {
                Some(span)
                    if span.pack == pack
                        && piece.at <= span.end().saturating_add(GAP)
                        && piece.at.saturating_add(piece.length).saturating_sub(span.start()) <= SPAN =>
                {
                    span.pieces.push(piece);
                }
                _ => spans.push(Span { pack, pieces: vec![piece] }),
            }
        }
    }
    spans.sort_by_key(|span| span.pieces.iter().map(|piece| (piece.file, piece.offset)).min());
    Ok((spans, growing))
}

/// Reads a span and writes its pieces. Returns their bytes.
fn fetch(
    span: &Span<'_>,
    files: &[(PathBuf, Node)],
    growing: &[Growing],
    source: &Source<'_>,
    sink: &Sink<'_>,
) -> Result<u64, FilesError> {
    let pack = *span.pack;
    let length = span.end().saturating_sub(span.start());
    // Where the span cannot be read, each blob is asked for by itself, and the error names it.
    let read = source.backend.read_partial(FileType::Pack, &pack, false, span.start(), length).unwrap_or_default();
    ahead::reading(pack, span.start(), read, || {
        let (mut written, mut last): (u64, Option<(&DataId, Bytes)>) = (0, None);
        for piece in &span.pieces {
            let blob = match &last {
                Some((id, blob)) if *id == piece.id => blob.clone(),
                _ => (source.blob)(piece.id, piece.plain)?,
            };
            let ((path, node), file) = (&files[piece.file], &growing[piece.file]);
            let failed = |source| FilesError::Target { path: path.clone(), source };
            let open = opened(path, file, sink).map_err(failed)?;
            write_at(&open, &blob, piece.offset).map_err(failed)?;
            (sink.moved)(blob.len() as u64);
            written += blob.len() as u64;
            last = Some((piece.id, blob));
            if file.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                finish(path, node, file, sink)?;
            }
        }
        Ok(written)
    })
}

fn opened(path: &Path, growing: &Growing, sink: &Sink<'_>) -> std::io::Result<Arc<File>> {
    let mut file = growing.file.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(file) = &*file {
        return Ok(Arc::clone(file));
    }
    let made = Arc::new((sink.make)(path)?);
    *file = Some(Arc::clone(&made));
    Ok(made)
}

/// The content is there: the end is set, which may be a hole, and the file gets what else belongs to it.
fn finish(path: &Path, node: &Node, growing: &Growing, sink: &Sink<'_>) -> Result<(), FilesError> {
    let file = opened(path, growing, sink);
    let done = file.and_then(|file| file.set_len(growing.size));
    done.map_err(|source| FilesError::Target { path: path.to_owned(), source })?;
    *growing.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
    (sink.done)(path, node);
    Ok(())
}

/// Writes bytes at an offset, leaving long runs of zeros out.
fn write_at(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    for (index, piece) in bytes.chunks(HOLE).enumerate() {
        if piece.len() < HOLE || piece.iter().any(|byte| *byte != 0) {
            file.write_all_at(piece, offset + (index * HOLE) as u64)?;
        }
    }
    Ok(())
}
