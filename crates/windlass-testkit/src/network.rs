//! A bad network before a real server: a proxy on the loopback address that delays, refuses, resets and flips.
//!
//! It speaks HTTP/1.1 without TLS and changes no request, so that signatures stay good. Which request is hit is told by
//! a count, not by chance: a test that fails once fails again.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt::set_socket_linger;
use tokio::net::{TcpListener, TcpStream};

/// How the network is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// As it should be.
    #[default]
    Good,
    /// So many of a hundred requests are answered with 503 SlowDown.
    Overloaded(u64),
    /// Every request waits so long, and so many of a hundred answers end in a reset, half of them amid the body.
    Slow(Duration, u64),
    /// The server does not know `If-None-Match`, and answers it with 501.
    NoConditions,
    /// One bit of every answer to a GET of more than so many bytes is another.
    FlipsBits(u64),
}

type Answer = Response<BoxBody<Bytes, std::io::Error>>;

/// The proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Debug, Default)]
struct Shared {
    network: Mutex<Network>,
    requests: AtomicU64,
    hit: AtomicU64,
}

impl Proxy {
    /// Stands before the server at an address such as `127.0.0.1:9000`.
    pub fn before(server: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let (address, shared) = (listener.local_addr()?, Arc::<Shared>::default());
        let (server, served): (Arc<str>, _) = (server.into(), shared.clone());
        runtime.spawn(async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                let (server, shared) = (server.clone(), served.clone());
                let Ok(socket) = stream.as_fd().try_clone_to_owned() else { continue };
                let socket = Arc::new(socket);
                tokio::spawn(async move {
                    let service = service_fn(|request| answer(request, server.clone(), shared.clone(), socket.clone()));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(Self { address, shared, runtime: Some(runtime) })
    }

    /// From now on the network is like this; counts begin anew.
    pub fn set(&self, network: Network) {
        *self.shared.network.lock().unwrap_or_else(PoisonError::into_inner) = network;
        self.shared.requests.store(0, Ordering::SeqCst);
        self.shared.hit.store(0, Ordering::SeqCst);
    }

    /// Requests since then, and how many of them were hit.
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.requests.load(Ordering::SeqCst), self.shared.hit.load(Ordering::SeqCst))
    }

    /// Its address, `http://127.0.0.1:…`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Whether the n-th request is one of `percent` in a hundred, spread evenly.
fn is_hit(n: u64, percent: u64) -> bool {
    (n * percent) % 100 + percent >= 100
}

async fn answer(
    request: Request<Incoming>,
    server: Arc<str>,
    shared: Arc<Shared>,
    socket: Arc<OwnedFd>,
) -> Result<Answer> {
    let n = shared.requests.fetch_add(1, Ordering::SeqCst);
    let network = *shared.network.lock().unwrap_or_else(PoisonError::into_inner);
    let hit = || shared.hit.fetch_add(1, Ordering::SeqCst);
    match network {
        Network::Good => forward(request, &server).await,
        Network::Overloaded(percent) if is_hit(n, percent) => {
            hit();
            let body = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
            refuse(StatusCode::SERVICE_UNAVAILABLE, body)
        }
        Network::Overloaded(_) => forward(request, &server).await,
        Network::Slow(delay, percent) => {
            tokio::time::sleep(delay).await;
            if !is_hit(n, percent) {
                return forward(request, &server).await;
            }
            // The connection is reset, not closed, when it is given up.
            set_socket_linger(&*socket, Some(Duration::ZERO))?;
            let amid = hit() % 2 == 1;
            let answer = forward(request, &server).await?;
            anyhow::ensure!(amid, "reset before the answer");
            Ok(answer.map(|body| BodyExt::boxed(Cut(body))))
        }
        Network::NoConditions if request.headers().contains_key("if-none-match") => {
            hit();
            let body = "<Error><Code>NotImplemented</Code><Message>A header implies functionality that is not implemented</Message></Error>";
            refuse(StatusCode::NOT_IMPLEMENTED, body)
        }
        Network::NoConditions => forward(request, &server).await,
        Network::FlipsBits(above) => {
            let is_get = request.method() == Method::GET;
            let (head, body) = forward(request, &server).await?.into_parts();
            let mut bytes = body.collect().await?.to_bytes().to_vec();
            if is_get && bytes.len() as u64 > above {
                hit();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            Ok(Response::from_parts(head, whole(bytes.into())))
        }
    }
}

async fn forward(request: Request<Incoming>, server: &str) -> Result<Answer> {
    let stream = TcpStream::connect(server).await.context("reach the server behind the proxy")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let answer = sender.send_request(request).await?;
    Ok(answer.map(|body| body.map_err(std::io::Error::other).boxed()))
}

fn refuse(status: StatusCode, body: &'static str) -> Result<Answer> {
    Ok(Response::builder().status(status).body(whole(Bytes::from_static(body.as_bytes())))?)
}

fn whole(bytes: Bytes) -> BoxBody<Bytes, std::io::Error> {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// A body that breaks off within its first piece.
struct Cut(BoxBody<Bytes, std::io::Error>);

impl Body for Cut {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match Pin::new(&mut self.0).poll_frame(context) {
            Poll::Ready(Some(_)) => Poll::Ready(Some(Err(std::io::Error::other("reset amid the body")))),
            other => other,
        }
    }
}
