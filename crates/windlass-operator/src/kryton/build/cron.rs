//! What every scheduled Job has, whatever it does.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, JobSpec, JobTemplateSpec};
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use windlass_core::hex;

use crate::kryton::names;
use crate::kryton::outdated::TEMPLATE;
use crate::kryton::validate::Valid;

/// Of an object that belongs to one part of a `Kryton`, and goes with it.
pub(super) fn metadata(valid: &Valid, component: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(valid.namespace.clone()),
        owner_references: valid.owner.clone().map(|owner| vec![owner]),
        ..labelled(valid, component)
    }
}

/// Of what is made of a template: labels alone.
pub(super) fn labelled(valid: &Valid, component: &str) -> ObjectMeta {
    ObjectMeta { labels: Some(names::labels(valid.name.as_str(), component)), ..ObjectMeta::default() }
}

/// Runs a Pod at each time of a schedule in UTC, one at a time, for `deadline` seconds at most.
pub(super) fn scheduled(
    valid: &Valid,
    component: &str,
    name: &str,
    schedule: &str,
    deadline: i64,
    pod: PodSpec,
) -> CronJob {
    let job = JobSpec {
        backoff_limit: Some(2),
        active_deadline_seconds: Some(deadline),
        template: PodTemplateSpec { metadata: Some(labelled(valid, component)), spec: Some(pod) },
        ..JobSpec::default()
    };
    let made_of: String =
        serde_json::to_vec(&job).map(|job| hex::sha256(&job).chars().take(12).collect()).unwrap_or_default();
    let annotations = BTreeMap::from([(TEMPLATE.to_owned(), made_of)]);
    CronJob {
        metadata: metadata(valid, component, name),
        spec: Some(CronJobSpec {
            schedule: schedule.to_owned(),
            time_zone: Some("Etc/UTC".to_owned()),
            concurrency_policy: Some("Forbid".to_owned()),
            successful_jobs_history_limit: Some(3),
            failed_jobs_history_limit: Some(3),
            job_template: JobTemplateSpec {
                metadata: Some(ObjectMeta { annotations: Some(annotations), ..labelled(valid, component) }),
                spec: Some(job),
            },
            ..CronJobSpec::default()
        }),
        ..CronJob::default()
    }
}
