//! What every reconciler needs.

use kube::Client;
use kube::runtime::events::Reporter;

use crate::metrics::Metrics;
use crate::release::Helm;

/// What every reconciler needs.
pub(crate) struct Context {
    pub(crate) client: Client,
    /// The same for watches, whose answers may take long.
    pub(crate) watching: Client,
    /// Our own image, from which the agent is copied.
    pub(crate) image: String,
    /// The cluster, by the UID of its `kube-system` namespace.
    pub(crate) cluster: String,
    /// What installs the application, where this operator does.
    pub(crate) helm: Option<Helm>,
    /// Who tells of changes by Events.
    pub(crate) reporter: Reporter,
    pub(crate) metrics: Metrics,
}
