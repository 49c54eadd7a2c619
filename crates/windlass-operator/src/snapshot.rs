//! Snapshots of a volume: one for each time the schedule names, and the old ones away.
//!
//! It runs in a Pod with an account that may do this in one namespace and nothing else. The name of a snapshot is that of
//! its moment, so a run that is tried again makes no second one. Promised: the newest that can be used is never deleted;
//! nothing is deleted that was not made here; what never came to be usable does not stay behind.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use windlass_core::diagnose::{Diagnose, Retry};
use windlass_core::task;

use crate::kryton::names;

/// What to snapshot.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The Kryton.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The claim of the volume.
    pub claim: String,
    /// The class; the cluster's default where none is named.
    pub class: Option<String>,
    /// How long snapshots are kept; for ever where nothing is said.
    pub retention: Option<SignedDuration>,
    /// How long it may take until it can be used.
    pub patience: SignedDuration,
    /// The Job this runs in, by name and unique identifier.
    pub job: (String, String),
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapped {
    /// The snapshot.
    pub snapshot: String,
    /// Older ones that were deleted.
    pub deleted: Vec<String>,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The API server.
    #[error("{doing}")]
    Api {
        /// What was tried.
        doing: String,
        /// Why it did not work.
        source: Box<kube::Error>,
    },
    /// This process cannot be told to end.
    #[error("wait for the signal to end")]
    Signal(#[source] std::io::Error),
    /// The driver says so.
    #[error("take snapshot {name}: {why}")]
    Failed {
        /// The snapshot.
        name: String,
        /// What the driver says.
        why: String,
    },
    /// Its Job is over, or its Pod has to leave the node.
    #[error("take snapshot {name}: told to end before it could be used")]
    Ended {
        /// The snapshot.
        name: String,
    },
    /// It takes too long.
    #[error("take snapshot {name}: it cannot be used after {patience:#}, and no driver says why")]
    Late {
        /// The snapshot.
        name: String,
        /// How long was waited.
        patience: SignedDuration,
    },
}

impl Diagnose for SnapshotError {
    fn code(&self) -> &'static str {
        match self {
            Self::Api { .. } => "WDL-4101",
            Self::Failed { .. } => "WDL-4102",
            Self::Late { .. } => "WDL-4103",
            Self::Ended { .. } => "WDL-4104",
            Self::Signal(_) => "WDL-4105",
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Api { .. } => "SnapshotRefused",
            Self::Failed { .. } => "SnapshotFailed",
            Self::Late { .. } => "SnapshotLate",
            Self::Ended { .. } => "SnapshotEnded",
            Self::Signal(_) => "NoSignal",
        }
    }

    fn retry(&self) -> Retry {
        Retry::Soon
    }

    fn hints(&self) -> Vec<String> {
        vec!["check that the cluster has the snapshot controller, the class, and the class's driver".into()]
    }
}

/// Takes a snapshot, waits until it can be used, and deletes what is older than the retention.
pub async fn take(what: &Snapshot) -> Result<Snapped, SnapshotError> {
    let doing = |doing: &str| {
        let doing = doing.to_owned();
        move |source: kube::Error| SnapshotError::Api { doing: doing.clone(), source: Box::new(source) }
    };
    // From here on: what is begun is not left behind.
    let mut end = signal(SignalKind::terminate()).map_err(SnapshotError::Signal)?;
    let client = Client::try_default().await.map_err(doing("find the API server"))?;
    let api = all(client, &what.namespace);
    let run = task::Run::of_job(&what.job.0, &what.job.1, Timestamp::now());
    let object = object(what, run.scheduled);
    let name = object.name_any();
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => {}
        // An earlier attempt of this run made it.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(doing(&format!("make VolumeSnapshot {name}"))(error)),
    }
    let usable = tokio::select! {
        usable = usable(&api, &name, what.patience) => usable,
        _ = end.recv() => Err(SnapshotError::Ended { name: name.clone() }),
    };
    if let Err(error) = usable {
        // Nobody can use it, and the next attempt would wait for it in vain.
        if !matches!(error, SnapshotError::Api { .. }) {
            remove(&api, &name).await?;
        }
        return Err(error);
    }
    let listed = api.list(&ListParams::default().labels(&labels_of(&what.name))).await;
    let listed = listed.map_err(doing("list VolumeSnapshots"))?;
    let mut deleted = Vec::new();
    for old in doomed(&listed.items, what.retention, Timestamp::now()) {
        if remove(&api, &old).await? {
            deleted.push(old);
        }
    }
    Ok(Snapped { snapshot: name, deleted })
}

/// Deletes a snapshot; whether it was there.
async fn remove(api: &Api<DynamicObject>, name: &str) -> Result<bool, SnapshotError> {
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(source) => {
            let doing = format!("delete VolumeSnapshot {name}");
            Err(SnapshotError::Api { doing, source: Box::new(source) })
        }
    }
}

/// The label by which snapshots of a Kryton are found.
pub(crate) fn labels_of(kryton: &str) -> String {
    format!("{}={kryton},app.kubernetes.io/component=snapshot", names::FOR)
}

/// The VolumeSnapshots of a namespace.
pub(crate) fn all(client: Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client, namespace, &kind())
}

/// What the snapshot controller calls a snapshot.
fn kind() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("snapshot.storage.k8s.io", "v1", "VolumeSnapshot"))
}

fn object(what: &Snapshot, scheduled: Timestamp) -> DynamicObject {
    let mut spec = json!({ "source": { "persistentVolumeClaimName": what.claim } });
    if let Some(class) = &what.class {
        spec["volumeSnapshotClassName"] = json!(class);
    }
    let mut object = DynamicObject::new(&name_of(&what.name, scheduled), &kind());
    object.metadata.labels = Some(names::labels(&what.name, "snapshot"));
    object.data = json!({ "spec": spec });
    object
}

/// The name of a Kryton's snapshot of a moment.
pub(crate) fn name_of(kryton: &str, scheduled: Timestamp) -> String {
    format!("{kryton}-{}", scheduled.strftime("%Y%m%dt%H%M%Sz"))
}

/// Why the driver, or who chooses it, says that a snapshot cannot be taken now.
pub(crate) fn refused(snapshot: &DynamicObject) -> Option<&str> {
    snapshot.data["status"]["error"]["message"].as_str()
}

async fn usable(api: &Api<DynamicObject>, name: &str, patience: SignedDuration) -> Result<(), SnapshotError> {
    let end = tokio::time::Instant::now() + patience.unsigned_abs();
    loop {
        let found = api.get(name).await;
        let found = found
            .map_err(|e| SnapshotError::Api { doing: format!("look at VolumeSnapshot {name}"), source: Box::new(e) })?;
        if is_ready(&found) {
            return Ok(());
        }
        if tokio::time::Instant::now() > end {
            return Err(match refused(&found) {
                Some(why) => SnapshotError::Failed { name: name.to_owned(), why: why.to_owned() },
                None => SnapshotError::Late { name: name.to_owned(), patience },
            });
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn is_ready(snapshot: &DynamicObject) -> bool {
    snapshot.data["status"]["readyToUse"] == Value::Bool(true)
}

/// Snapshots that are older than the retention; never the newest that can be used. Pure.
fn doomed(all: &[DynamicObject], retention: Option<SignedDuration>, now: Timestamp) -> Vec<String> {
    let Some(retention) = retention else { return Vec::new() };
    let made = |snapshot: &DynamicObject| snapshot.creation_timestamp().map(|time| time.0);
    let newest = all.iter().filter(|snapshot| is_ready(snapshot)).max_by_key(|snapshot| made(snapshot));
    let newest = newest.map(ResourceExt::name_any);
    all.iter()
        .filter(|snapshot| made(snapshot).is_some_and(|made| now.duration_since(made) > retention))
        .map(ResourceExt::name_any)
        .filter(|name| Some(name) != newest.as_ref())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn what() -> Snapshot {
        Snapshot {
            name: "team-a".into(),
            namespace: "n".into(),
            claim: "team-a-data".into(),
            class: None,
            retention: None,
            patience: SignedDuration::from_mins(30),
            job: (String::new(), String::new()),
        }
    }

    fn made(hours_ago: i64, ready: bool) -> DynamicObject {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let mut object = object(&what(), now - SignedDuration::from_hours(hours_ago));
        object.metadata.creation_timestamp = Some(Time(now - SignedDuration::from_hours(hours_ago)));
        object.data["status"] = json!({ "readyToUse": ready });
        object
    }

    #[test]
    fn names_are_those_of_the_moment_and_allowed() {
        let object = object(&what(), "2026-11-20T08:15:47Z".parse().unwrap());
        assert_eq!(object.name_any(), "team-a-20261120t081547z");
        assert!(object.data["spec"].get("volumeSnapshotClassName").is_none());
    }

    #[test]
    fn what_is_too_old_goes_but_never_the_newest_that_can_be_used() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let day = Some(SignedDuration::from_hours(24));
        let all = [made(1, true), made(30, true), made(50, true)];
        assert_eq!(doomed(&all, day, now).len(), 2);
        assert!(doomed(&all, None, now).is_empty());
        let broken = [made(1, false), made(30, true), made(50, true)];
        assert_eq!(doomed(&broken, day, now), [made(50, true).name_any()]);
    }
}
