//! Sees, before the first schedule and whenever something changed, whether the database can be dumped.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;

use super::build::Preflight;
use super::{apply, outdated};
use crate::api::kryton::Kryton;
use crate::context::Context;
use crate::error::OperatorError;
use crate::job::{State, state};
use crate::objects;
use crate::status::Now;

/// Whether the database can be reached and read.
pub(crate) const REACHABLE: &str = "DatabaseReachable";

/// After how long a look that failed is tried again, with nothing changed.
const AGAIN: Duration = Duration::from_mins(10);

/// After how long a look that has no Pod yet is asked after: that none can be made for it changes no object.
const SOON: Duration = Duration::from_secs(5);

/// What a look has found.
pub(crate) struct Looked {
    pub(crate) now: Now,
    /// The digest of what it depended on, where it went well.
    pub(crate) digest: Option<String>,
    /// Look again so soon.
    pub(crate) again: Option<Duration>,
}

/// Looks, where it was not done yet.
pub(super) async fn look(context: &Context, kryton: &Kryton, what: &Preflight) -> Result<Looked, OperatorError> {
    let before = kryton.status.as_ref().and_then(|status| status.preflight.as_deref());
    let done = || Looked {
        now: Now::yes(REACHABLE, "Reachable", "the database was reached, and everything in it may be read"),
        digest: Some(what.digest.clone()),
        again: None,
    };
    if before == Some(what.digest.as_str()) {
        return Ok(done());
    }
    let (namespace, name) = (kryton.namespace().unwrap_or_default(), what.job.name_any());
    let found = objects::find::<Job>(&context.client, &namespace, &name).await?;
    let Some(job) = found else {
        apply::apply(&context.client, &what.task).await?;
        outdated::end_looks(&context.client, &namespace, &kryton.name_any(), &name).await?;
        objects::create(&context.client, &what.job, apply::MANAGER).await?;
        return Ok(pending(&name, SOON));
    };
    match state(&context.client, &namespace, &job).await? {
        State::Ended => Ok(done()),
        // Of several attempts the first tells already what is wrong; it is tried again by itself.
        State::Waiting(Some(why)) | State::Running(Some(why)) => {
            let now = Now::no(REACHABLE, "NotReachable", format!("Job {name} tries again: {why}"));
            Ok(Looked { now, digest: None, again: None })
        }
        // What becomes of a Pod that is there is seen by the watch.
        State::Waiting(None) | State::Running(None) if has_pod(&job) => Ok(pending(&name, AGAIN)),
        State::Waiting(None) | State::Running(None) => {
            let made = job.metadata.creation_timestamp.as_ref().map(|time| time.0);
            let age = made.map(|made| jiff::Timestamp::now().duration_since(made).unsigned_abs());
            // What no Event of ours tells, such as a quota, comes up soon; what stands for long stands for longer.
            Ok(pending(&name, age.map_or(SOON, |age| (age / 2).clamp(SOON, AGAIN))))
        }
        State::Failed(why) => {
            let ended = job.status.as_ref().and_then(|status| status.conditions.as_ref()).into_iter().flatten();
            let ended = ended.filter_map(|condition| condition.last_transition_time.as_ref()).map(|time| time.0).max();
            let age = ended.map(|ended| jiff::Timestamp::now().duration_since(ended));
            if age.is_some_and(|age| age.unsigned_abs() > AGAIN) {
                objects::delete::<Job>(&context.client, &namespace, &name, None).await?;
            }
            let now = Now::no(REACHABLE, "NotReachable", format!("Job {name}: {why}"));
            Ok(Looked { now, digest: None, again: Some(AGAIN) })
        }
    }
}

fn has_pod(job: &Job) -> bool {
    job.status.as_ref().and_then(|status| status.active).is_some_and(|active| active > 0)
}

fn pending(job: &str, again: Duration) -> Looked {
    let now = Now::unknown(REACHABLE, "Looking", format!("Job {job} looks whether the database can be dumped"));
    Looked { now, digest: None, again: Some(again) }
}
