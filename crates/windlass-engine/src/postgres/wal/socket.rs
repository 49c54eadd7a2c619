//! The side of who listens: takes calls, and says whose they are.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, shutdown,
    socket_with,
};
use tokio::sync::mpsc;
use windlass_core::diagnose::{Diagnose, Outcome};

use super::wire::{self, Answer, Request, Said};

/// Calls that may wait to be taken.
const BACKLOG: i32 = 64;

/// How long who calls may take to say what is asked, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);
const BRIEFLY: Duration = Duration::from_secs(1);

/// Why one cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody does, or it is no socket.
    #[error("listen at `{}`: another listens there already, or it is no socket", path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// It cannot be made.
    #[error("listen at `{}`", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Diagnose for ListenError {
    fn code(&self) -> &'static str {
        match self {
            Self::Taken { .. } => "WDL-2140",
            Self::Socket { .. } => "WDL-2141",
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Taken { .. } => "SocketTaken",
            Self::Socket { .. } => "SocketNotMade",
        }
    }

    fn outcome(&self) -> Outcome {
        Outcome::CouldNotRun
    }

    fn hints(&self) -> Vec<String> {
        vec![match self {
            Self::Taken { .. } => "end the other one first, or give `--socket` another path".to_owned(),
            Self::Socket { .. } => {
                "make its folder for the user Windlass runs as, or give `--socket` another path, of at most 107 bytes"
                    .to_owned()
            }
        }]
    }
}

/// Takes calls at a socket; with it goes the socket.
pub struct Listener {
    socket: Arc<OwnedFd>,
    path: PathBuf,
    /// The number of its entry: another may have taken its place.
    made: u64,
    calls: mpsc::Receiver<OwnedFd>,
}

/// Somebody who called, and was not heard yet.
pub struct Caller {
    stream: OwnedFd,
}

/// What somebody asks.
pub struct Call {
    /// What.
    pub request: Request,
    /// The files that came with it.
    pub files: Vec<OwnedFd>,
    /// The user who asks, by the kernel's word.
    pub user: u32,
    stream: OwnedFd,
}

impl Caller {
    /// The user who calls, by the kernel's word.
    pub fn user(&self) -> Option<u32> {
        socket_peercred(&self.stream).ok().map(|peer| peer.uid.as_raw())
    }

    /// Sends whoever it is away. What was said is taken, for a word to get through, and not looked at.
    pub async fn refuse(self) {
        let what = "this user may not ask for WAL here: it is not the one of the server".to_owned();
        let said = Said { code: "WDL-3402".to_owned(), what, hints: vec!["run it as the server's user".to_owned()] };
        let sent = tokio::task::spawn_blocking(move || {
            set_socket_timeout(&self.stream, Timeout::Recv, Some(BRIEFLY))?;
            let _ = wire::receive::<serde_json::Value>(&self.stream);
            wire::send(&self.stream, &Answer::Failed(said), &[])
        });
        if let Ok(Err(error)) = sent.await {
            tracing::debug!(%error, "who was refused did not wait for the answer");
        }
    }

    /// Hears what is asked; `None` where nothing is.
    pub async fn hear(self) -> io::Result<Option<Call>> {
        let heard = tokio::task::spawn_blocking(move || {
            let stream = self.stream;
            for which in [Timeout::Recv, Timeout::Send] {
                set_socket_timeout(&stream, which, Some(PATIENCE))?;
            }
            let user = socket_peercred(&stream)?.uid.as_raw();
            let received = wire::receive::<Request>(&stream)?;
            Ok(received.map(|(request, files)| Call { request, files, user, stream }))
        });
        heard.await.map_err(io::Error::other)?
    }
}

impl Call {
    /// Answers. Who asked may be gone; that is theirs to tell.
    pub fn answer(self, answer: &Answer) {
        if let Err(error) = wire::send(&self.stream, answer, &[]) {
            tracing::debug!(%error, "who asked for WAL did not wait for the answer");
        }
    }
}

impl Listener {
    /// Makes the socket. One that nobody listens at any more is replaced.
    pub fn open(path: &Path) -> Result<Self, ListenError> {
        let failed = |source: io::Error| ListenError::Socket { path: path.to_owned(), source };
        let of_system = |error: rustix::io::Errno| failed(error.into());
        let address = SocketAddrUnix::new(path).map_err(of_system)?;
        let new = || socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let socket = new().map_err(of_system)?;
        match bind_for_all(&socket, &address) {
            Err(rustix::io::Errno::ADDRINUSE) => {
                let is_socket = path.symlink_metadata().map_err(failed)?.file_type().is_socket();
                match connect(new().map_err(of_system)?, &address) {
                    Err(rustix::io::Errno::CONNREFUSED) if is_socket => {}
                    _ => return Err(ListenError::Taken { path: path.to_owned() }),
                }
                std::fs::remove_file(path).map_err(failed)?;
                bind_for_all(&socket, &address).map_err(of_system)?;
            }
            other => other.map_err(of_system)?,
        }
        let made = path.symlink_metadata().map_err(failed)?.ino();
        listen(&socket, BACKLOG).map_err(of_system)?;
        let (socket, (taken, calls)) = (Arc::new(socket), mpsc::channel(1));
        let accepts = Arc::clone(&socket);
        let thread = std::thread::Builder::new().name("wal-socket".to_owned());
        thread.spawn(move || accept(&accepts, &taken)).map_err(failed)?;
        Ok(Self { socket, path: path.to_owned(), made, calls })
    }

    /// The next one who calls; `None` where no more can.
    pub async fn next(&mut self) -> Option<Caller> {
        Some(Caller { stream: self.calls.recv().await? })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Ends the thread that waits at it.
        let _ = shutdown(&*self.socket, Shutdown::Both);
        if self.path.symlink_metadata().is_ok_and(|there| there.ino() == self.made) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Makes the entry of a socket that everybody may call at: who may ask is looked at with every call, for the server's user is
/// another one than ours. Not by changing its mode when it is there: its folder may be somebody else's.
fn bind_for_all(socket: &OwnedFd, address: &SocketAddrUnix) -> rustix::io::Result<()> {
    let before = rustix::process::umask(Mode::from_raw_mode(0o111));
    let bound = bind(socket, address);
    rustix::process::umask(before);
    bound
}

fn accept(socket: &OwnedFd, taken: &mpsc::Sender<OwnedFd>) {
    loop {
        match accept_with(socket, SocketFlags::CLOEXEC) {
            Ok(stream) => {
                if taken.blocking_send(stream).is_err() {
                    return;
                }
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
            // Too many files are open, for one: that passes.
            Err(error) if error != rustix::io::Errno::INVAL => {
                tracing::warn!(%error, "a call at the socket could not be taken");
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(_) => return,
        }
    }
}
