//! Snapshots of the notes: their schedule, and how the newest run stands.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::{Api, Client, ResourceExt};
use windlass_core::task::Run;

use super::validate::{self, Valid};
use super::{apply, build, claim, names};
use crate::api::kryton::Kryton;
use crate::context::Context;
use crate::error::OperatorError;
use crate::job::{State, state};
use crate::objects::remembered;
use crate::snapshot;
use crate::status::Now;

/// Whether snapshots are set up.
pub(super) const CONFIGURED: &str = "SnapshotConfigured";

/// Whether the last run left a snapshot that can be used.
const TAKEN: &str = "SnapshotTaken";

/// The reason where no snapshots are asked for.
const NOT_ASKED: &str = "NotAsked";

/// The reason of a run that is not given up.
const FAILING: &str = "SnapshotFailing";

/// How soon a run is looked at again that the cluster's drivers keep waiting: what they say changes no object we watch.
const SOON: Duration = Duration::from_secs(15);

/// How snapshots stand.
pub(super) struct Snapshots {
    pub(super) conditions: Vec<Now>,
    /// Look again so soon.
    pub(super) again: Option<Duration>,
}

impl From<Now> for Snapshots {
    fn from(now: Now) -> Self {
        Self { conditions: vec![now], again: None }
    }
}

/// Sets up what takes them, and tells of the last run.
pub(super) async fn snapshots(context: &Context, kryton: &Kryton, valid: &Valid) -> Result<Snapshots, OperatorError> {
    let asked = match &valid.snapshot {
        None => {
            // Told once, it was removed before that.
            if Now::before(kryton, CONFIGURED).is_none_or(|told| told.reason != NOT_ASKED) {
                remove(context, valid).await?;
            }
            let message = "spec.snapshot is not there: no snapshots are taken; those that are there stay";
            return Ok(Now::no(CONFIGURED, NOT_ASKED, message).into());
        }
        Some(Err(fault)) => return Ok(Now::fault(CONFIGURED, fault).into()),
        Some(Ok(asked)) => asked,
    };
    let configured = set_up(context, valid, asked).await?;
    let Some((name, run, state)) = last(&context.client, valid).await? else {
        let taken = Now::unknown(TAKEN, "NotYet", "no run is there");
        return Ok(Snapshots { conditions: vec![configured, taken], again: None });
    };
    let made = snapshot::name_of(valid.name.as_str(), run.scheduled);
    let mut again = None;
    let taken = match state {
        State::Ended => Now::yes(TAKEN, "Taken", format!("Job {name} took VolumeSnapshot {made}")),
        State::Failed(why) => {
            // Its last Pod, which said why, may be gone before it was heard; what was told while it tried is known.
            let told = Now::before(kryton, TAKEN).filter(|told| told.reason == FAILING);
            let told = told.as_ref().and_then(|told| told.message.strip_prefix(&trying(&name)));
            let told = told.filter(|told| !why.contains(told)).map_or(String::new(), |told| format!("; {told}"));
            Now::no(TAKEN, "SnapshotFailed", format!("Job {name}: {why}{told}"))
        }
        State::Waiting(why) | State::Running(why) => {
            again = Some(SOON);
            match refused(&context.client, &valid.namespace, &made).await?.or(why) {
                Some(why) => Now::no(TAKEN, FAILING, trying(&name) + &why),
                None => Now::unknown(TAKEN, "Running", format!("Job {name} takes VolumeSnapshot {made}")),
            }
        }
    };
    Ok(Snapshots { conditions: vec![configured, taken], again })
}

fn trying(job: &str) -> String {
    format!("Job {job} goes on trying: ")
}

async fn remove(context: &Context, valid: &Valid) -> Result<(), OperatorError> {
    let name = names::snapshot(valid.name.as_str());
    apply::remove::<CronJob>(&context.client, valid, &name).await?;
    apply::remove::<RoleBinding>(&context.client, valid, &name).await?;
    apply::remove::<Role>(&context.client, valid, &name).await?;
    apply::remove::<ServiceAccount>(&context.client, valid, &name).await
}

async fn set_up(context: &Context, valid: &Valid, asked: &validate::Snapshot) -> Result<Now, OperatorError> {
    let Some(claim) = claim::of_notes(&context.client, &valid.namespace, valid.name.as_str()).await? else {
        let message = format!(
            "the volume of the notes is not there yet: a claim `{0}-data` or `{0}`, or the one that Deployment `{0}` mounts",
            valid.name
        );
        return Ok(Now::no(CONFIGURED, "NoVolume", message));
    };
    let objects = build::snapshot(valid, asked, &claim, &context.image);
    apply::apply(&context.client, &objects.account).await?;
    apply::apply(&context.client, &objects.role).await?;
    apply::apply(&context.client, &objects.binding).await?;
    apply::apply(&context.client, &objects.cron).await?;
    let name = names::snapshot(valid.name.as_str());
    let message = format!("CronJob {name} takes snapshots of {claim} at `{}` UTC", asked.schedule);
    Ok(Now::yes(CONFIGURED, "Scheduled", message))
}

/// The newest Job that takes one: its name, its run, and how it stands.
async fn last(client: &Client, valid: &Valid) -> Result<Option<(String, Run, State)>, OperatorError> {
    let api: Api<Job> = Api::namespaced(client.clone(), &valid.namespace);
    let listed = api.list(&remembered(&snapshot::labels_of(valid.name.as_str()))).await;
    let listed = listed.map_err(|e| OperatorError::read("Jobs of Kryton", &valid.namespace, valid.name.as_str(), e))?;
    let run = |job: &Job| {
        let created = job.metadata.creation_timestamp.as_ref().map_or_else(Timestamp::now, |time| time.0);
        Run::of_job(&job.name_any(), &job.uid().unwrap_or_default(), created)
    };
    let Some(job) = listed.items.iter().max_by_key(|job| run(job).scheduled) else { return Ok(None) };
    let state = state(client, &valid.namespace, job).await?;
    Ok(Some((job.name_any(), run(job), state)))
}

/// What the cluster's drivers say of a snapshot that is not usable yet.
async fn refused(client: &Client, namespace: &str, name: &str) -> Result<Option<String>, OperatorError> {
    match snapshot::all(client.clone(), namespace).get_opt(name).await {
        Ok(found) => Ok(found.as_ref().and_then(snapshot::refused).map(str::to_owned)),
        Err(error) => Err(OperatorError::read("VolumeSnapshot", namespace, name, error)),
    }
}
