//! What is served over HTTP: metrics, and whether the process lives and is ready. It knows nothing of clusters or hosts.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// Whether the process is ready. That it lives is seen by its answering at all.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<AtomicBool>);

impl Health {
    /// From now on it is ready.
    pub fn ready(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone)]
struct Served {
    metrics: Arc<Mutex<Registry>>,
    health: Health,
}

/// Serves `/metrics`, `/livez` and `/readyz` until the future is dropped.
pub async fn serve(listen: SocketAddr, metrics: Arc<Mutex<Registry>>, health: Health) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(listen).await?;
    let router = Router::new()
        .route("/metrics", get(metrics_now))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(is_ready))
        .with_state(Served { metrics, health });
    axum::serve(listener, router).await
}

async fn is_ready(State(served): State<Served>) -> Response {
    if served.health.0.load(Ordering::Relaxed) {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metrics in the OpenMetrics format where it is asked for, else in that of Prometheus, which knows no end mark.
async fn metrics_now(State(served): State<Served>, headers: HeaderMap) -> Response {
    let mut text = String::new();
    {
        let registry = served.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        if encode(&mut text, &registry).is_err() {
            return (StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n").into_response();
        }
    }
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepts.contains("application/openmetrics-text") {
        ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response()
    } else {
        let text: String = text
            .lines()
            .filter(|line| *line != "# EOF" && !line.starts_with("# UNIT"))
            .map(|line| format!("{line}\n"))
            .collect();
        ([(header::CONTENT_TYPE, PROMETHEUS)], text).into_response()
    }
}
