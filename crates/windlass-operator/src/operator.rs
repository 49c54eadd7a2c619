//! Starts everything, and ends it in order.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::runtime::events::Reporter;
use kube::{Api, Client, Config, ResourceExt};
use windlass_server::Health;

use crate::context::Context;
use crate::error::OperatorError;
use crate::metrics::Metrics;
use crate::release::Helm;
use crate::{drill, keeper, kryton, leadership, lost, restore};

/// How the operator is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Our own image, from which the agent is copied.
    pub image: String,
    /// The operator's own namespace, where its Lease lies.
    pub namespace: String,
    /// What this instance calls itself: the name of its Pod.
    pub identity: String,
    /// The `helm` binary and the chart of the application; without it the application is installed by others.
    pub helm: Option<(PathBuf, PathBuf)>,
    /// Where metrics and health are served.
    pub listen: SocketAddr,
}

/// Runs until `stop` is done. What is under way is left as it is: whoever comes next goes on.
pub async fn run(options: Options, stop: impl Future<Output = ()> + Send) -> Result<(), OperatorError> {
    let failed = |what, source: kube::Error| OperatorError::Start { what, source: Box::new(source) };
    let config = Config::infer()
        .await
        .map_err(|source| OperatorError::Start { what: "find the API server", source: Box::new(source) })?;
    let (client, watching) = clients(config).map_err(|source| failed("find the API server", source))?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let system = namespaces.get_metadata("kube-system").await.map_err(|source| failed("ask the API server", source))?;
    let cluster = system.uid().ok_or_else(|| OperatorError::Start {
        what: "tell this cluster from others",
        source: "the namespace kube-system has no UID".into(),
    })?;
    let metrics = Metrics::new();
    let health = Health::default();
    let serving = windlass_server::serve(options.listen, metrics.registry(), health.clone());
    let reporter = Reporter { controller: "windlass-operator".to_owned(), instance: Some(options.identity.clone()) };
    let helm = options.helm.map(|(program, chart)| Helm::new(program, chart)).transpose();
    let helm = helm.map_err(|source| OperatorError::Start { what: "read the chart", source: Box::new(source) })?;
    let context =
        Arc::new(Context { helm, reporter, client: client.clone(), watching, image: options.image, cluster, metrics });
    let candidacy = leadership::stand(client, &options.namespace, &options.identity).await?;
    health.ready();
    let ended = tokio::select! {
        () = stop => Ok(()),
        served = serving => served.map_err(|source| OperatorError::Start { what: "serve metrics and health", source: Box::new(source) }),
        () = lead(candidacy.leads.clone(), context) => Err(OperatorError::Start {
            what: "take part in the election of a leader",
            source: "the Lease is no longer kept".into(),
        }),
    };
    candidacy.withdraw().await;
    ended
}

/// How long an answer may take: a connection that broke without a word is not waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The same for watches, which the API server ends after less than five minutes.
const PATIENCE_WATCHING: Duration = Duration::from_mins(5);

/// Whom to ask, and whom to have watch.
fn clients(mut config: Config) -> Result<(Client, Client), kube::Error> {
    config.reset_reader_on_write = true;
    let mut watching = config.clone();
    config.read_timeout = Some(PATIENCE);
    watching.read_timeout = Some(PATIENCE_WATCHING);
    Ok((config.try_into()?, watching.try_into()?))
}

/// Acts whenever this operator leads, and not otherwise.
async fn lead(mut leads: tokio::sync::watch::Receiver<bool>, context: Arc<Context>) {
    loop {
        if leads.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        tracing::info!("this operator leads");
        let lost = leads.wait_for(|leads| !*leads);
        tokio::select! {
            lost = lost => if lost.is_err() { return },
            () = kryton::run(context.clone()) => {}
            () = keeper::run(context.clone()) => {}
            () = restore::run(context.clone()) => {}
            () = drill::run(context.clone()) => {}
            () = lost::run(context.clone()) => {}
        }
        tracing::info!("another operator leads");
    }
}
