//! Has a reconciler take its turns: one at a time for each object, and a failure waits by itself.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use kube::ResourceExt;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::utils::Backoff as Pauses;
use windlass_core::diagnose::chain;

use crate::backoff::{self, Backoff};
use crate::context::Context;
use crate::error::OperatorError;
use crate::objects::{Kind, kind};

/// One turn of a reconciler.
pub(crate) type Turn<K> =
    for<'a> fn(&'a DeserializeGuard<K>, &'a Context, &'a Backoff) -> BoxFuture<'a, Result<Action, OperatorError>>;

/// How long nothing is watched after a watch has failed. All watches of a controller share these pauses, one for each failure:
/// were they longer each time, as kube has them, an operator would be deaf for minutes after a short outage, and half of the
/// time behind a proxy that ends idle connections.
struct Steady;

impl Iterator for Steady {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(backoff::jittered(Duration::from_secs(1)))
    }
}

impl Pauses for Steady {
    fn reset(&mut self) {}
}

/// Runs a controller until the future is dropped; `failed` is what the log says of a turn that failed.
pub(crate) async fn take<K: Kind + Send + Sync + 'static>(
    controller: Controller<DeserializeGuard<K>>,
    context: Arc<Context>,
    turn: Turn<K>,
    failed: &'static str,
) {
    let mut deaf = false;
    controller
        .trigger_backoff(Steady)
        .run(
            move |guarded, both: Arc<(Arc<Context>, Backoff)>| async move {
                // One object that is the end of a turn must not be the end of all.
                let went = AssertUnwindSafe(turn(&guarded, &both.0, &both.1)).catch_unwind().await;
                went.unwrap_or_else(|_| Err(OperatorError::Panicked { kind: kind::<K>(), name: guarded.name_any() }))
            },
            move |guarded, error, both| {
                tracing::warn!(kind = kind::<K>(), name = %guarded.name_any(), error = chain(error), "{failed}");
                Action::requeue(both.1.failed(&guarded.uid().unwrap_or_default()))
            },
            Arc::new((context, Backoff::default())),
        )
        .for_each(move |turn| {
            let error = if let Err(controller::Error::QueueError(error)) = &turn { Some(error) } else { None };
            if let Some(error) = error.filter(|_| !deaf) {
                tracing::warn!(error = chain(error), "the API server cannot be watched; it is tried every second");
            }
            deaf = error.is_some();
            std::future::ready(())
        })
        .await;
}
