//! Restores and drills as a person at a command line orders them: objects are made, watched, confirmed.
//!
//! Everything is done by the operator; whoever ends this command ends nothing that was confirmed.

use std::fmt::Debug;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use windlass_core::diagnose::{Diagnose, Outcome};
use windlass_core::id::RestoreId;

use crate::api::drill::{COMPLETE, Drill, DrillPhase, DrillSpec};
use crate::api::restore::{Old, Phase, Restore, RestoreSpec};

/// How often an object is looked at.
const EACH: Duration = Duration::from_secs(1);

/// How long an operator may take to say anything.
const PATIENCE: SignedDuration = SignedDuration::from_mins(1);

/// What could not be ordered.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The API server.
    #[error("{doing}")]
    Api {
        /// What was tried.
        doing: String,
        /// Why it did not work.
        source: Box<kube::Error>,
    },
    /// Nobody says anything.
    #[error("{kind} {name} was made, and no operator has looked at it for {PATIENCE:#}")]
    Silent {
        /// What was made.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// It is not there, or not any more.
    #[error("there is no {what} in namespace {namespace}")]
    Missing {
        /// What was looked for.
        what: String,
        /// Where.
        namespace: String,
    },
}

impl Diagnose for ClientError {
    fn code(&self) -> &'static str {
        match self {
            Self::Api { .. } => "WDL-4201",
            Self::Silent { .. } => "WDL-4202",
            Self::Missing { .. } => "WDL-4203",
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Api { .. } => "ClusterRefused",
            Self::Silent { .. } => "NoOperator",
            Self::Missing { .. } => "NotThere",
        }
    }

    fn outcome(&self) -> Outcome {
        Outcome::CouldNotRun
    }

    fn hints(&self) -> Vec<String> {
        vec![match self {
            Self::Api { .. } => {
                "look at the kubeconfig and its context (`kubectl config current-context`), and at what its user may do"
                    .into()
            }
            Self::Silent { .. } => "look whether the operator runs: `kubectl -n windlass-system get pods`".into(),
            Self::Missing { .. } => "name another, or the namespace it is in with --namespace".into(),
        }]
    }
}

/// A namespace of a cluster.
pub struct Cluster {
    client: Client,
    /// Its name.
    pub namespace: String,
}

impl Cluster {
    /// The cluster of the kubeconfig; the namespace of its context where none is named.
    pub async fn find(namespace: Option<&str>) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Api { doing: "find the cluster".to_owned(), source: Box::new(source) };
        let client = Client::try_default().await.map_err(failed)?;
        let namespace = namespace.map_or_else(|| client.default_namespace().to_owned(), str::to_owned);
        Ok(Self { client, namespace })
    }

    /// Makes a restore; nothing is touched before it is confirmed.
    pub async fn restore(&self, name: &str, spec: RestoreSpec) -> Result<(), ClientError> {
        self.create(name, &Restore::new(name, spec)).await
    }

    /// Makes a drill.
    pub async fn drill(&self, name: &str, spec: DrillSpec) -> Result<(), ClientError> {
        self.create(name, &Drill::new(name, spec)).await
    }

    /// Confirms a plan.
    pub async fn confirm(&self, name: &str, digest: &str) -> Result<(), ClientError> {
        self.patch(name, json!({ "spec": { "confirm": digest } })).await
    }

    /// Says what is to become of what was there before a restore.
    pub async fn set_old(&self, name: &str, old: Old) -> Result<(), ClientError> {
        self.patch(name, json!({ "spec": { "old": old } })).await
    }

    /// Removes a restore of which nothing was carried out.
    pub async fn drop_restore(&self, name: &str) -> Result<(), ClientError> {
        let api: Api<Restore> = Api::namespaced(self.client.clone(), &self.namespace);
        let deleted = api.delete(name, &DeleteParams::background()).await;
        deleted.map(drop).map_err(|source| self.failed(&format!("delete Restore {name}"), source))
    }

    /// The restore of an identifier.
    pub async fn find_restore(&self, id: RestoreId) -> Result<Restore, ClientError> {
        let api: Api<Restore> = Api::namespaced(self.client.clone(), &self.namespace);
        let all = api.list(&kube::api::ListParams::default()).await;
        let all = all.map_err(|source| self.failed("list Restores", source))?;
        let is_it = |restore: &Restore| {
            restore.status.as_ref().and_then(|status| status.id.as_deref()) == Some(id.to_string().as_str())
        };
        let missing = || ClientError::Missing { what: format!("Restore {id}"), namespace: self.namespace.clone() };
        all.into_iter().find(is_it).ok_or_else(missing)
    }

    /// Waits until a restore is in one of these phases; hears of each step on the way.
    pub async fn until(
        &self,
        name: &str,
        wanted: &[Phase],
        heard: &mut dyn FnMut(&str),
    ) -> Result<Restore, ClientError> {
        let looked = |restore: &Restore| {
            let status = restore.status.clone().unwrap_or_default();
            let said = status.conditions.iter().rev().find(|condition| condition.status == "Unknown");
            let said = said.map(|condition| format!("{}: {}", condition.reason, condition.message));
            (restore.status.is_some(), status.phase.is_some_and(|phase| wanted.contains(&phase)), said)
        };
        self.wait(name, "Restore", looked, heard).await
    }

    /// Waits until a drill is over.
    pub async fn drilled(&self, name: &str, heard: &mut dyn FnMut(&str)) -> Result<Drill, ClientError> {
        let looked = |drill: &Drill| {
            let status = drill.status.clone().unwrap_or_default();
            let said = status.conditions.iter().find(|condition| condition.type_ == COMPLETE);
            let said = said.map(|condition| condition.message.clone()).filter(|said| !said.is_empty());
            (drill.status.is_some(), status.phase == Some(DrillPhase::Complete), said)
        };
        self.wait(name, "Drill", looked, heard).await
    }

    async fn wait<K>(
        &self,
        name: &str,
        kind: &'static str,
        looked: impl Fn(&K) -> (bool, bool, Option<String>),
        heard: &mut dyn FnMut(&str),
    ) -> Result<K, ClientError>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        let (began, mut last, mut failures) = (Timestamp::now(), String::new(), 0);
        loop {
            let found = match api.get_opt(name).await {
                Ok(found) => found,
                // The operator goes on meanwhile; so an answer that does not come is waited for.
                Err(_) if failures < PATIENCE.as_secs() => {
                    failures += 1;
                    tokio::time::sleep(EACH).await;
                    continue;
                }
                Err(source) => return Err(self.failed(&format!("read {kind} {name}"), source)),
            };
            failures = 0;
            let missing = || ClientError::Missing { what: format!("{kind} {name}"), namespace: self.namespace.clone() };
            let found = found.ok_or_else(missing)?;
            let (is_seen, is_there, said) = looked(&found);
            if is_there {
                return Ok(found);
            }
            if !is_seen && Timestamp::now().duration_since(began) > PATIENCE {
                return Err(ClientError::Silent { kind, name: name.to_owned() });
            }
            if let Some(said) = said.filter(|said| *said != last) {
                heard(&said);
                last = said;
            }
            tokio::time::sleep(EACH).await;
        }
    }

    async fn create<K>(&self, name: &str, object: &K) -> Result<(), ClientError>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        let doing = format!("create {} {}/{name}", K::kind(&()), self.namespace);
        api.create(&PostParams::default(), object).await.map(drop).map_err(|source| self.failed(&doing, source))
    }

    async fn patch(&self, name: &str, patch: Value) -> Result<(), ClientError> {
        let api: Api<Restore> = Api::namespaced(self.client.clone(), &self.namespace);
        let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.map(drop).map_err(|source| self.failed(&format!("change Restore {name}"), source))
    }

    #[expect(clippy::unused_self, reason = "every failure is one of this cluster")]
    fn failed(&self, doing: &str, source: kube::Error) -> ClientError {
        ClientError::Api { doing: doing.to_owned(), source: Box::new(source) }
    }
}
