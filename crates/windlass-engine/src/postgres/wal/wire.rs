//! What goes over the socket: one message each way, of JSON, the first with open files beside it.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::str::FromStr;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use windlass_core::diagnose::{Diagnose, chain};
use windlass_core::name::{InvalidName, Name};

/// The longest message.
const LONGEST: usize = 64 << 10;

/// Files that are handed over at once, at most.
pub(super) const FILES: usize = 16;

/// Whose WAL it is: `APPLICATION/COMPONENT`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// The application.
    pub application: Name,
    /// Its component.
    pub component: Name,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.application, self.component)
    }
}

impl FromStr for Owner {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (application, component) = text.split_once('/').unwrap_or((text, ""));
        Ok(Self { application: application.parse()?, component: component.parse()? })
    }
}

/// What is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Store files.
    Push(Push),
    /// Write a file of the archive into the one that is handed over.
    Fetch(Fetch),
}

/// Store files, which are handed over in this order. The first is waited for; of the others it is known that they will be asked for
/// next.
#[derive(Debug, Serialize, Deserialize)]
pub struct Push {
    /// Whose they are.
    pub owner: Owner,
    /// The identifier of the cluster that wrote them.
    pub cluster: u64,
    /// Their names.
    pub names: Vec<String>,
}

/// Write a file of the archive.
#[derive(Debug, Serialize, Deserialize)]
pub struct Fetch {
    /// Whose it is.
    pub owner: Owner,
    /// The identifier of the cluster.
    pub cluster: u64,
    /// Its name.
    pub name: String,
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It was done.
    Done,
    /// The archive does not hold it, and nothing behind it.
    NotThere,
    /// It was not done, and why.
    Failed(Said),
}

/// An error, as it is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Said {
    /// Its code.
    pub code: String,
    /// What happened and why.
    pub what: String,
    /// What can be done.
    pub hints: Vec<String>,
}

impl Answer {
    /// Tells of an error.
    pub fn failed(error: &(impl Diagnose + 'static)) -> Self {
        Self::Failed(Said { code: error.code().to_owned(), what: chain(error), hints: error.hints() })
    }
}

/// Sends a message, and files with it.
pub(super) fn send(socket: impl AsFd, message: &impl Serialize, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > LONGEST || files.len() > FILES {
        return Err(io::Error::other("it does not fit into a message"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("there is no room for the files"));
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a message, and the files with it; `None` where the other side is gone.
pub(super) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    let mut files = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            files.extend(more);
        }
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::other("the message is longer than one can be"));
    }
    let message = serde_json::from_slice(bytes.get(..got.bytes).unwrap_or_default())?;
    Ok(Some((message, files)))
}
