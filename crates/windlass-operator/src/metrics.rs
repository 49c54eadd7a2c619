//! What is measured of every object. Series of an object that is gone go with it.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};

use kube::ResourceExt;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use windlass_core::protection::Protection;
use windlass_repo::catalog::Catalog;

use crate::api::kryton::Kryton;

/// The object a series is of.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Of {
    namespace: String,
    name: String,
}

impl Of {
    fn new(kryton: &Kryton) -> Self {
        Self { namespace: kryton.namespace().unwrap_or_default(), name: kryton.name_any() }
    }
}

/// All metrics.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Mutex<Registry>>,
    protected: Family<Of, Gauge<i64, AtomicI64>>,
    points: Family<Of, Gauge<i64, AtomicI64>>,
    last_point: Family<Of, Gauge<f64, AtomicU64>>,
    stored: Family<Of, Gauge<i64, AtomicI64>>,
    retention_failures: Family<Of, Counter>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("windlass");
        let metrics = Self {
            registry: Arc::default(),
            protected: Family::default(),
            points: Family::default(),
            last_point: Family::default(),
            stored: Family::default(),
            retention_failures: Family::default(),
        };
        registry.register(
            "kryton_protected",
            "1 where it is proven that it can be restored",
            metrics.protected.clone(),
        );
        registry.register(
            "kryton_recovery_points",
            "Recovery points that are not about to be deleted",
            metrics.points.clone(),
        );
        registry.register_with_unit(
            "kryton_newest_recovery_point_timestamp",
            "The moment the newest complete recovery point stands for, since 1970",
            Unit::Seconds,
            metrics.last_point.clone(),
        );
        registry.register_with_unit(
            "kryton_stored",
            "What the recovery points take in the store",
            Unit::Bytes,
            metrics.stored.clone(),
        );
        registry.register(
            "kryton_retention_failures",
            "Times retention could not be applied",
            metrics.retention_failures.clone(),
        );
        *metrics.registry.lock().unwrap_or_else(PoisonError::into_inner) = registry;
        metrics
    }

    /// All of them, to be served.
    pub(crate) fn registry(&self) -> Arc<Mutex<Registry>> {
        self.registry.clone()
    }

    /// Notes a look at a repository.
    pub(crate) fn looked(&self, kryton: &Kryton, catalog: &Catalog, protection: &Protection, retained: bool) {
        let of = Of::new(kryton);
        self.protected.get_or_create(&of).set(i64::from(protection.protected));
        self.points.get_or_create(&of).set(i64::try_from(catalog.live().count()).unwrap_or(i64::MAX));
        let stored: u64 = catalog.entries.iter().map(|entry| entry.point.stored_bytes()).sum();
        self.stored.get_or_create(&of).set(i64::try_from(stored).unwrap_or(i64::MAX));
        if let Some(newest) = catalog.live().rev().find(|entry| entry.point.is_complete()) {
            #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
            self.last_point.get_or_create(&of).set(newest.point.at.as_second() as f64);
        }
        let failures = self.retention_failures.get_or_create(&of);
        if !retained {
            failures.inc();
        }
    }

    /// Notes that a repository could not be looked at: nothing is proven of it.
    pub(crate) fn unproven(&self, kryton: &Kryton) {
        self.protected.get_or_create(&Of::new(kryton)).set(0);
    }

    /// Drops the series of an object.
    pub(crate) fn forget(&self, kryton: &Kryton) {
        let of = Of::new(kryton);
        self.protected.remove(&of);
        self.points.remove(&of);
        self.last_point.remove(&of);
        self.stored.remove(&of);
        self.retention_failures.remove(&of);
    }
}
