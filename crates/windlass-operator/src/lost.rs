//! Lets go of Pods of runs whose node does not answer.
//!
//! A Pod that is to go stays until its node says that it has ended, which a node that burnt down never does; as long as it is
//! there its Job is not over, and its CronJob, which has one run at a time, begins no other. What it may still be at, should it
//! only be cut off, makes no second point: a run's objects have the run's names. A restore's Pods are not let go of: whoever
//! removes the node says that nothing of them works on the database any more.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Preconditions};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};

use crate::backoff::Backoff;
use crate::context::Context;
use crate::error::OperatorError;
use crate::turns::{self, Turn};

/// Pods at once.
const AT_ONCE: u16 = 4;

/// The Pods that are let go of.
const RUNS: &str = "kryton.azrtydxb.io/name,app.kubernetes.io/component in (backup,snapshot)";

/// How long after a Pod's time to end is up its node does not answer: a kubelet that does has killed it by then.
const SILENCE: SignedDuration = SignedDuration::from_mins(1);

/// For how long a Pod has been there after it had to have ended; nothing, where it was not told to.
fn overdue(pod: &impl ResourceExt) -> Option<SignedDuration> {
    pod.meta().deletion_timestamp.as_ref().map(|end| Timestamp::now().duration_since(end.0))
}

/// Whether the node of a Pod that was told to end tells nothing of it.
pub(crate) fn is_silent(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let is_over = matches!(phase, Some("Succeeded" | "Failed"));
    !is_over && overdue(pod).is_some_and(|silent| silent >= SILENCE)
}

/// Lets go of Pods until the future is dropped.
pub(crate) async fn run(context: Arc<Context>) {
    let runs: Api<DeserializeGuard<PartialObjectMeta<Pod>>> = Api::all(context.watching.clone());
    let controller = Controller::new(runs, watcher::Config::default().labels(RUNS))
        .with_config(Config::default().concurrency(AT_ONCE));
    let turn: Turn<PartialObjectMeta<Pod>> =
        |guarded, context, failures| Box::pin(reconcile(guarded, context, failures));
    turns::take(controller, context, turn, "a Pod whose node does not answer could not be let go of").await;
}

async fn reconcile(
    guarded: &DeserializeGuard<PartialObjectMeta<Pod>>,
    context: &Context,
    failures: &Backoff,
) -> Result<Action, OperatorError> {
    let Some(silent) = overdue(guarded) else { return Ok(Action::await_change()) };
    if let Ok(left) = Duration::try_from(SILENCE - silent)
        && !left.is_zero()
    {
        return Ok(Action::requeue(left));
    }
    let (namespace, name) = (guarded.namespace().unwrap_or_default(), guarded.name_any());
    let uid = guarded.uid();
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    let same = Preconditions { uid: uid.clone(), resource_version: None };
    match pods.delete(&name, &DeleteParams::default().grace_period(0).preconditions(same)).await {
        Ok(_) => tracing::warn!(namespace, pod = name, "its node did not tell that it has ended, and it is let go of"),
        // It ended meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
        Err(error) => return Err(OperatorError::write("Pod", &namespace, &name, error)),
    }
    failures.succeeded(&uid.unwrap_or_default());
    Ok(Action::await_change())
}
