//! An API server on a bad day: a proxy before the real one, through which an operator and its helm reach the cluster.
//!
//! It speaks plain HTTP on the loopback address, and to the real server as the account whose token it was given: what that
//! account may not do is refused by the real server, and noted. It knows every write by a name, and can stop one before it
//! reaches the server or before its answer is given, which is when a test kills whoever waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::SinkExt;
use futures::channel::mpsc;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::cluster::Cluster;

/// How the API server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Day {
    /// As it should be.
    #[default]
    Good,
    /// So many of a hundred requests are refused: with 500, 503 and 429 by turns.
    Overloaded(u64),
    /// Every request waits so long.
    Slow(Duration),
    /// Every watch breaks off after so long.
    CutsWatches(Duration),
    /// Every watch is told, after so long, that what it goes by was compacted: 410 Gone.
    Compacts(Duration),
    /// The operator's first attempt at each write meets somebody else's: 409 Conflict, whatever the verb.
    Conflicts,
    /// Every connection is closed without an answer, watches that are open as well.
    Away,
    /// Requests are taken, and nothing is ever answered.
    Silent,
}

/// A request that changes something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Write {
    /// Where; empty for objects of the cluster.
    pub namespace: String,
    /// What: `PATCH cronjobs/shelf-backup by windlass-operator`.
    pub name: String,
    /// Whether helm does it.
    pub by_helm: bool,
}

/// When a write is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// It never reaches the server.
    Before,
    /// It has reached the server; its answer is lost.
    After,
}

/// A write that is to be stopped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stop {
    /// Where.
    pub namespace: String,
    /// Its name; behind a `*` anything may follow.
    pub name: String,
    /// Which of them, from 1.
    pub nth: u64,
    /// Before or after it reached the server.
    pub when: When,
}

impl Stop {
    fn is_of(&self, write: &Write) -> bool {
        let named = match self.name.strip_suffix('*') {
            Some(beginning) => write.name.starts_with(beginning),
            None => write.name == self.name,
        };
        named && write.namespace == self.namespace
    }
}

type Answer = Response<BoxBody<Bytes, std::io::Error>>;

/// The proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct ApiProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Debug)]
struct Shared {
    server: String,
    client: reqwest::Client,
    day: watch::Sender<Day>,
    requests: AtomicU64,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    writes: Vec<Write>,
    /// Of each name, how many there were since the day began.
    seen: BTreeMap<Write, u64>,
    /// With each, how many of its name there were.
    stops: Vec<(Stop, u64)>,
    stopped: BTreeSet<Stop>,
    forbidden: BTreeSet<String>,
}

impl Noted {
    /// Notes a write; whether it is the first of its name.
    fn note(&mut self, write: &Write) -> bool {
        self.writes.push(write.clone());
        let seen = self.seen.entry(write.clone()).or_default();
        *seen += 1;
        *seen == 1
    }

    /// Whether something was stopped in a namespace.
    fn is_stopped(&self, namespace: &str) -> bool {
        self.stopped.iter().any(|stop| stop.namespace == namespace)
    }

    /// Whether a write is to be stopped.
    fn stop(&mut self, write: &Write) -> Option<Stop> {
        let (stop, seen) = self.stops.iter_mut().find(|(stop, _)| stop.is_of(write))?;
        *seen += 1;
        (*seen == stop.nth).then(|| stop.clone())
    }
}

impl Shared {
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ApiProxy {
    /// Stands before a cluster's API server; whoever comes acts as the account of the token.
    pub fn before(cluster: &Cluster, token: &str) -> Result<Self> {
        let config: Value = serde_json::from_str(&cluster.kubectl(&["config", "view", "--raw", "--output=json"])?)?;
        let server = &config["clusters"][0]["cluster"];
        let text = |key: &str| server[key].as_str().with_context(|| format!("no `{key}` in {server}"));
        let authority = BASE64_STANDARD.decode(text("certificate-authority-data")?)?;
        // Another test of the process may have been faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut headers = reqwest::header::HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse()?);
        let client = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&authority)?])
            .default_headers(headers)
            .http1_only()
            .no_proxy()
            .build()?;
        let shared = Arc::new(Shared {
            server: text("server")?.to_owned(),
            client,
            day: watch::Sender::new(Day::Good),
            requests: AtomicU64::new(0),
            noted: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let served = shared.clone();
        runtime.spawn(async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                let shared = served.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| answer(request, shared.clone()));
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { address, shared, runtime: Some(runtime) })
    }

    /// A kubeconfig whose server is the proxy.
    pub fn kubeconfig(&self) -> String {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{ "name": "proxy", "cluster": { "server": format!("http://{}", self.address) } }],
            "contexts": [{ "name": "proxy", "context": { "cluster": "proxy", "user": "proxy" } }],
            "users": [{ "name": "proxy", "user": {} }],
        });
        config.to_string()
    }

    /// From now on the day is like this.
    pub fn set(&self, day: Day) {
        self.shared.noted().seen.clear();
        self.shared.day.send_replace(day);
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Writes so far, as tried, without those of the Lease.
    pub fn writes(&self) -> Vec<Write> {
        self.shared.noted().writes.clone()
    }

    /// Has these writes stopped, counted from now, and no others. Where one was, the operator writes nothing more in that namespace.
    pub fn stop(&self, stops: Vec<Stop>) {
        let mut noted = self.shared.noted();
        noted.stopped.clear();
        noted.stops = stops.into_iter().map(|stop| (stop, 0)).collect();
    }

    /// Those that were stopped.
    pub fn stopped(&self) -> Vec<Stop> {
        self.shared.noted().stopped.iter().cloned().collect()
    }

    /// What the account was refused because it may not do it.
    pub fn forbidden(&self) -> Vec<String> {
        self.shared.noted().forbidden.iter().cloned().collect()
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Answer> {
    let n = shared.requests.fetch_add(1, Ordering::SeqCst);
    let day = *shared.day.borrow();
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let asked = Asked::of(&head, &body);
    let first = asked.write.as_ref().is_some_and(|write| shared.noted().note(write));
    match day {
        Day::Good | Day::CutsWatches(_) | Day::Compacts(_) => {}
        // Spread evenly, and by a count: a test that fails once fails again.
        Day::Overloaded(percent) if (n * percent) % 100 + percent >= 100 => {
            return refuse(match n % 3 {
                0 => 500,
                1 => 503,
                _ => 429,
            });
        }
        Day::Overloaded(_) => {}
        Day::Slow(delay) => tokio::time::sleep(delay).await,
        Day::Conflicts if first && !asked.write.as_ref().is_some_and(|write| write.by_helm) => return refuse(409),
        Day::Conflicts => {}
        Day::Away => bail!("away"),
        Day::Silent => std::future::pending().await,
    }
    // Whoever was stopped is as good as dead, though it has several hands. A helm is let finish: others wait for its turn.
    if asked.write.as_ref().is_some_and(|write| !write.by_helm && shared.noted().is_stopped(&write.namespace)) {
        return std::future::pending().await;
    }
    match asked.write.and_then(|write| shared.noted().stop(&write)) {
        None => forward(head, body, &shared, asked.watches.then_some(day)).await,
        Some(stop) if stop.when == When::Before => never(&shared, stop).await,
        Some(stop) => {
            // Whoever asked may be dead by then: it reaches the server all the same.
            let served = shared.clone();
            let reached = tokio::spawn(async move { forward(head, body, &served, None).await.map(drop) });
            reached.await??;
            never(&shared, stop).await
        }
    }
}

/// Notes that a write was stopped, and answers nothing.
async fn never(shared: &Shared, stop: Stop) -> Result<Answer> {
    shared.noted().stopped.insert(stop);
    std::future::pending().await
}

async fn forward(
    head: hyper::http::request::Parts,
    body: Bytes,
    shared: &Arc<Shared>,
    watched: Option<Day>,
) -> Result<Answer> {
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = shared.client.request(head.method.clone(), format!("{}{path}", shared.server));
    for (name, value) in head.headers.iter().filter(|(name, _)| *name != "host" && *name != "authorization") {
        request = request.header(name, value);
    }
    let answer: Response<reqwest::Body> = request.body(body).send().await?.into();
    let (head, body) = answer.into_parts();
    if head.status == StatusCode::FORBIDDEN {
        let body = body.collect().await?.to_bytes();
        let message = serde_json::from_slice::<Value>(&body).unwrap_or_default()["message"].to_string();
        if message.contains(" cannot ") {
            shared.noted().forbidden.insert(message);
        }
        return Ok(Response::from_parts(head, whole(body)));
    }
    let body = match watched {
        Some(day) => streamed(body, day, shared.day.subscribe()),
        None => body.map_err(std::io::Error::other).boxed(),
    };
    Ok(Response::from_parts(head, body))
}

/// The events of a watch, until it is cut.
fn streamed(mut body: reqwest::Body, day: Day, mut days: watch::Receiver<Day>) -> BoxBody<Bytes, std::io::Error> {
    let (mut sender, receiver) = mpsc::channel(0);
    let cut = || std::io::Error::other("the watch was cut");
    let limit = match day {
        Day::CutsWatches(limit) | Day::Compacts(limit) => Some(limit),
        _ => None,
    };
    tokio::spawn(async move {
        let over = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(over);
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = &mut over => {
                    let last = if let Day::Compacts(_) = day { Ok(Frame::data(GONE.into())) } else { Err(cut()) };
                    let _ = sender.send(last).await;
                    return;
                }
                () = gone(&mut days) => {
                    let _ = sender.send(Err(cut())).await;
                    return;
                }
            };
            let Some(frame) = frame else { return };
            if sender.send(frame.map_err(std::io::Error::other)).await.is_err() {
                return;
            }
        }
    });
    BodyExt::boxed(StreamBody::new(receiver))
}

/// Returns when the server goes away.
async fn gone(days: &mut watch::Receiver<Day>) {
    let _ = days.wait_for(|day| *day == Day::Away).await.map(drop);
}

const GONE: &str = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version","reason":"Expired","code":410}}
"#;

/// Refuses as an API server does.
fn refuse(code: u16) -> Result<Answer> {
    let (reason, message) = match code {
        409 => ("Conflict", "Operation cannot be fulfilled: the object has been modified"),
        429 => ("TooManyRequests", "the server has received too many requests and has asked us to try again later"),
        503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
        _ => ("InternalError", "an error on the server has prevented the request from succeeding"),
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason, "code": code, "message": message,
    });
    let mut answer = Response::builder().status(code).header("content-type", "application/json");
    if code == 429 {
        answer = answer.header("retry-after", "1");
    }
    Ok(answer.body(whole(status.to_string().into()))?)
}

fn whole(bytes: Bytes) -> BoxBody<Bytes, std::io::Error> {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// What a request asks for.
struct Asked {
    /// Where it changes something; renewals of the Lease are not counted, they come by the clock.
    write: Option<Write>,
    watches: bool,
}

impl Asked {
    fn of(head: &hyper::http::request::Parts, body: &Bytes) -> Self {
        let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
        let watches = query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1");
        let mut segments = path.trim_matches('/').split('/').skip(if path.starts_with("/api/") { 2 } else { 3 });
        let (mut namespace, mut resource) = ("", segments.next().unwrap_or_default());
        let mut rest: Vec<&str> = segments.collect();
        if resource == "namespaces" && rest.len() > 1 {
            (namespace, resource) = (rest[0], rest[1]);
            rest.drain(..2);
        }
        let changes = !head.method.is_safe() && resource != "leases";
        let write = changes.then(|| {
            let said: Value = serde_json::from_slice(body).unwrap_or_default();
            let made = said["metadata"]["name"].as_str().filter(|_| rest.is_empty() && resource != "events");
            let path: Vec<&str> = std::iter::once(resource).chain(rest).chain(made).collect();
            let agent = head.headers.get("user-agent").and_then(|agent| agent.to_str().ok()).unwrap_or_default();
            let by_helm = agent.starts_with("Helm");
            let manager = query.split('&').find_map(|pair| pair.strip_prefix("fieldManager="));
            let by = manager.unwrap_or(if by_helm { "helm" } else { "nobody" });
            let name = format!("{} {} by {by}", head.method, path.join("/"));
            Write { namespace: namespace.to_owned(), name, by_helm }
        });
        Self { write, watches }
    }
}
