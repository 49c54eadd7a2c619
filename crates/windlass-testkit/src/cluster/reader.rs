//! Reads objects of a cluster by one connection that stays open. Stories ask so often how things stand that a kubectl for
//! each question would take most of the machine.

use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use anyhow::{Context, Result};
use kube::api::{Api, DynamicObject, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::discovery::{ApiGroup, ApiResource, Discovery};
use kube::{Client, Config};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

/// Where all connections of this process live.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.unwrap_or_else(|error| panic!("a runtime for tests: {error}"))
});

/// Reads as the administrator; connects when first asked.
#[derive(Clone, Default)]
pub(super) struct Reader(Arc<Mutex<Option<Known>>>);

/// A connection, and what kinds the cluster has.
#[derive(Clone)]
struct Known {
    client: Client,
    kinds: Vec<ApiResource>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl Reader {
    pub(super) fn get(&self, kubeconfig: &Path, namespace: &str, kind: &str, name: &str) -> Result<Option<Value>> {
        let api = self.api(kubeconfig, namespace, kind)?;
        let found = RUNTIME.block_on(api.get_opt(name)).with_context(|| format!("get {kind}/{name}"))?;
        Ok(found.map(serde_json::to_value).transpose()?)
    }

    pub(super) fn list(&self, kubeconfig: &Path, namespace: &str, kind: &str, selector: &str) -> Result<Vec<Value>> {
        let api = self.api(kubeconfig, namespace, kind)?;
        let selected = ListParams::default().labels(selector);
        let found = RUNTIME.block_on(api.list(&selected)).with_context(|| format!("list {kind} of {selector}"))?;
        Ok(found.items.into_iter().map(serde_json::to_value).collect::<Result<_, _>>()?)
    }

    fn api(&self, kubeconfig: &Path, namespace: &str, kind: &str) -> Result<Api<DynamicObject>> {
        let (client, kind) = self.kind(kubeconfig, kind)?;
        Ok(match namespace {
            "" => Api::all_with(client, &kind),
            _ => Api::namespaced_with(client, namespace, &kind),
        })
    }

    /// A kind by its name in one word, singular or plural. A definition may have come since the cluster was last asked.
    fn kind(&self, kubeconfig: &Path, name: &str) -> Result<(Client, ApiResource)> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = |known: &Known| {
            let is_it = |kind: &&ApiResource| kind.plural == name || kind.kind.to_lowercase() == name;
            known.kinds.iter().find(is_it).map(|kind| (known.client.clone(), kind.clone()))
        };
        if let Some(found) = known.as_ref().and_then(found) {
            return Ok(found);
        }
        let asked = RUNTIME.block_on(ask(kubeconfig))?;
        let found = found(&asked).with_context(|| format!("the cluster knows no {name}"))?;
        *known = Some(asked);
        Ok(found)
    }
}

async fn ask(kubeconfig: &Path) -> Result<Known> {
    // Another test of the process may have been faster.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let groups = Discovery::new(client.clone()).run().await?;
    let kinds = groups.groups().flat_map(ApiGroup::recommended_resources).map(|(kind, _)| kind).collect();
    Ok(Known { client, kinds })
}
