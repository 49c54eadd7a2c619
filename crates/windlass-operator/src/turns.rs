//! Has a reconciler take its turns: one at a time for each object, and a failure waits by itself.

use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use kube::ResourceExt;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Controller};
use windlass_core::diagnose::chain;

use crate::backoff::Backoff;
use crate::context::Context;
use crate::error::OperatorError;
use crate::status::{Told, kind};

/// One turn of a reconciler.
pub(crate) type Turn<K> =
    for<'a> fn(&'a DeserializeGuard<K>, &'a Context, &'a Backoff) -> BoxFuture<'a, Result<Action, OperatorError>>;

/// Runs a controller until the future is dropped; `failed` is what the log says of a turn that failed.
pub(crate) async fn take<K: Told + Send + Sync + 'static>(
    controller: Controller<DeserializeGuard<K>>,
    context: Arc<Context>,
    turn: Turn<K>,
    failed: &'static str,
) {
    controller
        .run(
            move |guarded, both: Arc<(Arc<Context>, Backoff)>| async move { turn(&guarded, &both.0, &both.1).await },
            move |guarded, error, both| {
                tracing::warn!(kind = kind::<K>(), name = %guarded.name_any(), error = chain(error), "{failed}");
                Action::requeue(both.1.failed(&guarded.uid().unwrap_or_default()))
            },
            Arc::new((context, Backoff::default())),
        )
        .for_each(|_| std::future::ready(()))
        .await;
}
