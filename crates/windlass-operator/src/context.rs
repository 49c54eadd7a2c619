//! What every reconciler needs.

use kube::Client;
use kube::runtime::events::Recorder;

use crate::metrics::Metrics;

/// What every reconciler needs.
pub(crate) struct Context {
    pub(crate) client: Client,
    /// Our own image, from which the agent is copied.
    pub(crate) image: String,
    /// The cluster, by the UID of its `kube-system` namespace.
    pub(crate) cluster: String,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Metrics,
}
