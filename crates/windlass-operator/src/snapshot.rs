//! Snapshots of a volume: one for each time the schedule names, and the old ones away.
//!
//! It runs in a Pod with an account that may do this in one namespace and nothing else. The name of a snapshot is that of
//! its moment, so a run that is tried again makes no second one. Promised: the newest that can be used is never deleted;
//! nothing is deleted that was not made here.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use windlass_core::diagnose::{Diagnose, Retry};
use windlass_core::task;

use crate::kryton::names;

/// How long a snapshot may take until it can be used.
const PATIENCE: Duration = Duration::from_mins(30);

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
    /// The driver says so.
    #[error("take snapshot {name}: {why}")]
    Failed {
        /// The snapshot.
        name: String,
        /// What the driver says.
        why: String,
    },
    /// It takes too long.
    #[error("take snapshot {name}: it cannot be used after {PATIENCE:?}")]
    Late {
        /// The snapshot.
        name: String,
    },
}

impl Diagnose for SnapshotError {
    fn code(&self) -> &'static str {
        match self {
            Self::Api { .. } => "WDL-4101",
            Self::Failed { .. } => "WDL-4102",
            Self::Late { .. } => "WDL-4103",
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Api { .. } => "SnapshotRefused",
            Self::Failed { .. } => "SnapshotFailed",
            Self::Late { .. } => "SnapshotLate",
        }
    }

    fn retry(&self) -> Retry {
        Retry::Soon
    }

    fn hints(&self) -> Vec<String> {
        vec!["look at the VolumeSnapshot and its VolumeSnapshotContent, and at the class and its driver".into()]
    }
}

/// Takes a snapshot, waits until it can be used, and deletes what is older than the retention.
pub async fn take(what: &Snapshot) -> Result<Snapped, SnapshotError> {
    let doing = |doing: &str| {
        let doing = doing.to_owned();
        move |source: kube::Error| SnapshotError::Api { doing: doing.clone(), source: Box::new(source) }
    };
    let client = Client::try_default().await.map_err(doing("find the API server"))?;
    let api: Api<DynamicObject> = Api::namespaced_with(client, &what.namespace, &kind());
    let run = task::Run::of_job(&what.job.0, &what.job.1, Timestamp::now());
    let object = object(what, run.scheduled);
    let name = object.name_any();
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => {}
        // An earlier attempt of this run made it.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(doing(&format!("make VolumeSnapshot {name}"))(error)),
    }
    usable(&api, &name).await?;
    let listed = api.list(&ListParams::default().labels(&labels_of(&what.name))).await;
    let listed = listed.map_err(doing("list VolumeSnapshots"))?;
    let mut deleted = Vec::new();
    for old in doomed(&listed.items, what.retention, Timestamp::now()) {
        match api.delete(&old, &DeleteParams::default()).await {
            Ok(_) => deleted.push(old),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(doing(&format!("delete VolumeSnapshot {old}"))(error)),
        }
    }
    Ok(Snapped { snapshot: name, deleted })
}

/// The label by which snapshots of a Kryton are found.
pub(crate) fn labels_of(kryton: &str) -> String {
    format!("{}={kryton},app.kubernetes.io/component=snapshot", names::FOR)
}

/// What snapshots are to the API server.
pub(crate) fn kind() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("snapshot.storage.k8s.io", "v1", "VolumeSnapshot"))
}

fn object(what: &Snapshot, scheduled: Timestamp) -> DynamicObject {
    let mut spec = json!({ "source": { "persistentVolumeClaimName": what.claim } });
    if let Some(class) = &what.class {
        spec["volumeSnapshotClassName"] = json!(class);
    }
    let stamp = scheduled.strftime("%Y%m%dt%H%M%Sz");
    let mut object = DynamicObject::new(&format!("{}-{stamp}", what.name), &kind());
    object.metadata.labels = Some(names::labels(&what.name, "snapshot"));
    object.data = json!({ "spec": spec });
    object
}

async fn usable(api: &Api<DynamicObject>, name: &str) -> Result<(), SnapshotError> {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = api.get(name).await;
        let found = found
            .map_err(|e| SnapshotError::Api { doing: format!("look at VolumeSnapshot {name}"), source: Box::new(e) })?;
        if is_ready(&found) {
            return Ok(());
        }
        if tokio::time::Instant::now() > end {
            return Err(match found.data["status"]["error"]["message"].as_str() {
                Some(why) => SnapshotError::Failed { name: name.to_owned(), why: why.to_owned() },
                None => SnapshotError::Late { name: name.to_owned() },
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
