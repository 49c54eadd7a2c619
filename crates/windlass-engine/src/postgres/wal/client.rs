//! The side of the server: what `wal-push` and `wal-fetch` do where somebody listens. Blocking, and short: PostgreSQL starts it for
//! every segment.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use windlass_core::wal::{SegmentSize, Timeline, WalFile};
use windlass_repo::regular;

use super::wire::{self, Answer, FILES, Fetch, Owner, Push, Request};

/// How long an answer is waited for: longer than whoever answers waits for the store.
const PATIENCE: Duration = Duration::from_mins(5);

/// Where a server notes what it wants to have archived.
const STATUS: &str = "archive_status";
const READY: &str = ".ready";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("nobody listens at `{}`", socket.display())]
    Nobody {
        /// The socket.
        socket: PathBuf,
    },
    /// A file cannot be handed over.
    #[error("open `{}`", path.display())]
    File {
        /// It.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket.
    #[error("ask at `{}`", socket.display())]
    Socket {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The identifier of the cluster whose file this is: the data folder is above its folder, as PostgreSQL names it.
pub fn cluster_of(path: &Path) -> io::Result<u64> {
    cluster_in(path.parent().and_then(Path::parent).unwrap_or(Path::new("")))
}

/// The identifier of the cluster in a data folder.
pub(super) fn cluster_in(data: &Path) -> io::Result<u64> {
    let mut bytes = [0; 8];
    regular::open(&data.join("global/pg_control"))?.read_exact_at(&mut bytes, 0)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Has a file stored, and tells of those that are going to be asked for next.
pub fn push(socket: &Path, owner: &Owner, cluster: u64, path: &Path) -> Result<Answer, ClientError> {
    let failed = |source| ClientError::File { path: path.to_owned(), source };
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| failed(io::Error::other("it is not named as a file of WAL is")))?.to_owned();
    let mut files = vec![regular::open(path).map_err(failed)?];
    let mut names = vec![name.clone()];
    let folder = path.parent().unwrap_or(Path::new(""));
    for next in history_of(&name).into_iter().chain(waiting(folder, &name)).take(FILES - 1) {
        // One that is gone was stored meanwhile.
        let Ok(file) = regular::open(&folder.join(&next)) else { continue };
        files.push(file);
        names.push(next);
    }
    ask(socket, &Request::Push(Push { owner: owner.clone(), cluster, names }), &files)
}

/// Has a file of the archive written to a path, where it becomes visible whole.
pub fn fetch(socket: &Path, owner: &Owner, cluster: u64, name: &str, to: &Path) -> Result<Answer, ClientError> {
    let failed = |source| ClientError::File { path: to.to_owned(), source };
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let part = tempfile::Builder::new().prefix(".windlass-").tempfile_in(folder).map_err(failed)?;
    let request = Request::Fetch(Fetch { owner: owner.clone(), cluster, name: name.to_owned() });
    let answer = ask(socket, &request, &[part.as_file().try_clone().map_err(failed)?]);
    if matches!(answer, Ok(Answer::Done)) {
        part.persist(to).map_err(|error| failed(error.error))?;
    }
    answer
}

/// The file that tells how the timeline of a segment came to be: a server that came back without archiving never asks for it.
pub fn history_of(name: &str) -> Option<String> {
    let Ok(WalFile::Segment(segment)) = WalFile::parse(name, SegmentSize::LEAST) else { return None };
    (segment.timeline > Timeline(1)).then(|| WalFile::History(segment.timeline).name(SegmentSize::LEAST))
}

/// The names of the oldest files that a server wants to have archived, but this one.
fn waiting(folder: &Path, but: &str) -> Vec<String> {
    let noted = std::fs::read_dir(folder.join(STATUS)).into_iter().flatten().flatten();
    let names = noted.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(READY)?.to_owned()));
    let mut names: Vec<String> =
        names.filter(|name| name != but && WalFile::parse(name, SegmentSize::LEAST).is_ok()).collect();
    names.sort_unstable();
    names.truncate(FILES - 1);
    names
}

fn ask(socket: &Path, request: &Request, files: &[File]) -> Result<Answer, ClientError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::Nobody { socket: socket.to_owned() },
        _ => ClientError::Socket { socket: socket.to_owned(), source },
    };
    let stream = dial(socket).map_err(|error| failed(error.into()))?;
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    wire::send(&stream, request, &files).map_err(failed)?;
    match wire::receive(&stream).map_err(failed)? {
        Some((answer, _)) => Ok(answer),
        None => Err(failed(io::Error::other("it ended without an answer"))),
    }
}

fn dial(socket: &Path) -> rustix::io::Result<OwnedFd> {
    let stream = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    for which in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(&stream, which, Some(PATIENCE))?;
    }
    connect(&stream, &SocketAddrUnix::new(socket)?)?;
    Ok(stream)
}
