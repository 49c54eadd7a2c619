//! A socket, and TLS on it if that is wanted.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::ReplicationError;
use crate::address::{Host, Place, TlsChoice};
use crate::certificate::Certificate;
use crate::tls::server_name;

/// A peer that is gone without a word is noticed after about a minute and a half of silence.
const SILENCE: Duration = Duration::from_secs(30);
const BETWEEN: Duration = Duration::from_secs(10);
const UNANSWERED: u32 = 6;

/// Bytes there and back.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Wire for T {}

/// Who could listen.
pub(crate) enum Privacy {
    /// Nobody outside this machine.
    Local,
    /// Everybody between.
    Open,
    /// Nobody; with what a login can be bound to, if the certificate has it.
    Tls { end_point: Option<Vec<u8>> },
}

/// Where a host's name leads.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Socket(PathBuf),
    Tcp(SocketAddr),
}

/// Looks up where a host is.
pub(crate) async fn look_up(host: &Host) -> Result<Vec<Target>, ReplicationError> {
    match &host.place {
        Place::Folder(folder) => Ok(vec![Target::Socket(folder.join(format!(".s.PGSQL.{}", host.port)))]),
        Place::Address(address, _) => Ok(vec![Target::Tcp((*address, host.port).into())]),
        Place::Name(name) => {
            let found = tokio::net::lookup_host((name.as_str(), host.port)).await;
            let targets: Vec<Target> = found.map_err(|source| unreachable(host, source))?.map(Target::Tcp).collect();
            if targets.is_empty() {
                return Err(unreachable(host, io::Error::new(io::ErrorKind::NotFound, "its name has no address")));
            }
            Ok(targets)
        }
    }
}

fn unreachable(host: &Host, source: io::Error) -> ReplicationError {
    ReplicationError::Unreachable { place: host.to_string(), source }
}

/// Connects, with TLS if there is a configuration for it.
pub(crate) async fn connect(
    host: &Host,
    target: &Target,
    tls: Option<(&Arc<ClientConfig>, &TlsChoice)>,
) -> Result<(Box<dyn Wire>, Privacy), ReplicationError> {
    let socket = match target {
        Target::Socket(path) => {
            let socket = UnixStream::connect(path).await.map_err(|source| unreachable(host, source))?;
            return Ok((Box::new(socket), Privacy::Local));
        }
        Target::Tcp(address) => TcpStream::connect(address).await.map_err(|source| unreachable(host, source))?,
    };
    prepare(&socket).map_err(|source| unreachable(host, source))?;
    match tls {
        None => Ok((Box::new(socket), Privacy::Open)),
        Some((config, choice)) => encrypt(host, target, socket, config, choice).await,
    }
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, SILENCE)?;
    sockopt::set_tcp_keepintvl(socket, BETWEEN)?;
    sockopt::set_tcp_keepcnt(socket, UNANSWERED)?;
    Ok(())
}

async fn encrypt(
    host: &Host,
    target: &Target,
    mut socket: TcpStream,
    config: &Arc<ClientConfig>,
    choice: &TlsChoice,
) -> Result<(Box<dyn Wire>, Privacy), ReplicationError> {
    let place = host.to_string();
    let mut request = bytes::BytesMut::new();
    postgres_protocol::message::frontend::ssl_request(&mut request);
    let answer = async {
        socket.write_all(&request).await?;
        // One byte and no more: what follows in the clear was put there by somebody else, and fails as TLS.
        socket.read_u8().await
    };
    match answer.await.map_err(|source| ReplicationError::Tls { place: place.clone(), source })? {
        b'S' => {}
        b'N' => return Err(ReplicationError::TlsRefused { place }),
        // What an error would say is not repeated: nobody knows yet who says it.
        _ => {
            let source = io::Error::new(io::ErrorKind::InvalidData, "it answers neither yes nor no to TLS");
            return Err(ReplicationError::Tls { place, source });
        }
    }
    let name = match (&host.place, target) {
        (Place::Name(name) | Place::Address(_, Some(name)), _) => name.clone(),
        (_, Target::Tcp(address)) => address.ip().to_string(),
        (_, Target::Socket(_)) => String::new(),
    };
    let agreed = async {
        let name = server_name(&name, choice)?;
        TlsConnector::from(Arc::clone(config)).connect(name, socket).await
    };
    let stream = agreed.await.map_err(|source| ReplicationError::Tls { place, source })?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let end_point = shown.and_then(|certificate| Certificate::read(certificate)?.end_point());
    Ok((Box::new(stream), Privacy::Tls { end_point }))
}
