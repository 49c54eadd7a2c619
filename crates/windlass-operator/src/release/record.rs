//! What Helm keeps of a release: a Secret for each revision, whose labels tell its state.
//! (`sh.helm.release.v1.<release>.v<revision>`; `pkg/storage/driver/secrets.go` of Helm 3.)

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::drift::{APPLIED, Made};
use crate::error::OperatorError;

/// The label with the digest of what was asked for.
pub(crate) const DIGEST: &str = "windlass.dev/digest";

/// One revision of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) revision: i64,
    pub(crate) state: State,
    /// The digest of what was asked for, where we asked.
    pub(crate) digest: Option<String>,
    pub(crate) since: Timestamp,
    /// When helm began with it: nothing of it was made before.
    pub(crate) began: Timestamp,
    /// What there was of it after it was applied, where that was noted.
    pub(crate) applied: Option<Made>,
}

/// How a revision stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Deployed,
    Superseded,
    Failed,
    /// Helm is at work, or was and died.
    Pending,
    Uninstalling,
    Other,
}

/// The revisions of a release, the newest first.
pub(crate) async fn records(client: &Client, namespace: &str, release: &str) -> Result<Vec<Record>, OperatorError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let of_it = ListParams::default().labels(&format!("owner=helm,name={release}"));
    let listed = secrets.list_metadata(&of_it).await;
    let listed = listed.map_err(|error| OperatorError::read("Secrets of release", namespace, release, error))?;
    let mut records: Vec<Record> = listed.iter().filter_map(record).collect();
    records.sort_by_key(|record| std::cmp::Reverse(record.revision));
    Ok(records)
}

fn record(secret: &impl ResourceExt) -> Option<Record> {
    let label = |name: &str| secret.labels().get(name).map(String::as_str);
    let state = match label("status")? {
        "deployed" => State::Deployed,
        "superseded" => State::Superseded,
        "failed" => State::Failed,
        "uninstalling" => State::Uninstalling,
        pending if pending.starts_with("pending-") => State::Pending,
        _ => State::Other,
    };
    let changed = label("modifiedAt").or_else(|| label("createdAt")).and_then(|text| text.parse().ok());
    let changed = changed.and_then(|seconds| Timestamp::from_second(seconds).ok());
    let began = secret.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    Some(Record {
        revision: label("version")?.parse().ok()?,
        state,
        digest: label(DIGEST).map(str::to_owned),
        applied: secret.annotations().get(APPLIED).and_then(|text| serde_json::from_str(text).ok()),
        since: changed.unwrap_or(began),
        began,
    })
}
