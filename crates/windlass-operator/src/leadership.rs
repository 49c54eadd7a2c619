//! Who acts: one operator at a time, by a Lease.
//!
//! A lease is no fence. Two that act at once, for as long as one has not noticed that it lost, do no harm: what lies in a
//! repository is written create-only, and objects are applied, not toggled.

use std::time::Duration;

use kube::Client;
use kube_lease_manager::LeaseManagerBuilder;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::OperatorError;

/// The Lease.
const LEASE: &str = "windlass-operator";

/// Seconds for which it holds, and seconds before its end by which it is renewed.
const DURATION: u64 = 15;
const GRACE: u64 = 5;

/// A part in the election.
pub(crate) struct Candidacy {
    /// Whether this operator leads; closed where it takes part no more.
    pub(crate) leads: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Candidacy {
    /// Gives the Lease up, so that the next one need not wait for its end.
    pub(crate) async fn withdraw(self) {
        drop(self.leads);
        let _ = tokio::time::timeout(Duration::from_secs(GRACE), self.task).await;
    }
}

/// Takes part in the election.
pub(crate) async fn stand(client: Client, namespace: &str, identity: &str) -> Result<Candidacy, OperatorError> {
    let manager = LeaseManagerBuilder::new(client, LEASE)
        .with_namespace(namespace)
        .with_identity(identity)
        .with_duration(DURATION)
        .with_grace(GRACE)
        .with_field_manager("windlass-operator-lease")
        .build()
        .await
        .map_err(|source| OperatorError::Start {
            what: "take part in the election of a leader",
            source: Box::new(source),
        })?;
    let (leads, task) = manager.watch().await;
    let task = tokio::spawn(async move {
        if let Ok(Err(error)) = task.await {
            tracing::warn!(%error, "the Lease is no longer kept");
        }
    });
    Ok(Candidacy { leads, task })
}
