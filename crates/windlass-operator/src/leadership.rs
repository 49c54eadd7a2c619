//! Who acts: one operator at a time, by a Lease.
//!
//! A lease is no fence. Two that act at once, for as long as one has not noticed that it lost, do no harm: what lies in a
//! repository is written create-only, and objects are applied, not toggled.

use kube::Client;
use kube_lease_manager::LeaseManagerBuilder;
use tokio::sync::watch;

use crate::error::OperatorError;

/// The Lease.
const LEASE: &str = "windlass-operator";

/// Seconds for which it holds, and seconds before its end by which it is renewed.
const DURATION: u64 = 15;
const GRACE: u64 = 5;

/// Takes part in the election. The receiver tells whether this operator leads; it is closed where it cannot take part.
pub(crate) async fn stand(
    client: Client,
    namespace: &str,
    identity: &str,
) -> Result<watch::Receiver<bool>, OperatorError> {
    let manager = LeaseManagerBuilder::new(client, LEASE)
        .with_namespace(namespace)
        .with_identity(identity)
        .with_duration(DURATION)
        .with_grace(GRACE)
        .with_field_manager("windlass-operator-lease")
        .build()
        .await
        .map_err(|source| OperatorError::Start { what: "take part in the election of a leader", source: Box::new(source) })?;
    let (leads, _task) = manager.watch().await;
    Ok(leads)
}
