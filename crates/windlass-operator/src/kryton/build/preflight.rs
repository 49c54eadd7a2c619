//! The look before the first schedule: a Job that does what a backup does up to the dump itself, and writes nothing.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{ConfigMap, PodTemplateSpec};
use windlass_core::hex;
use windlass_core::id::RepositoryId;
use windlass_core::task::Work;

use super::agent::{Agent, task};
use super::cron::{labelled, metadata};
use crate::kryton::names;
use crate::kryton::validate::{self, Valid};

/// How often it is tried: a database that is only just starting takes a few minutes.
const ATTEMPTS: i32 = 6;

/// Seconds for which it stays to be looked at.
const STAYS: i32 = 900;

/// What is made for one look.
pub(crate) struct Preflight {
    /// Of everything that the look depends on, in hex: another one is another look.
    pub(crate) digest: String,
    pub(crate) task: ConfigMap,
    pub(crate) job: Job,
}

/// The look at a database as it is reached now; `versions` tell the Secrets it depends on.
pub(crate) fn preflight(
    valid: &Valid,
    backup: &validate::Backup,
    repository: RepositoryId,
    versions: &str,
    agent: &str,
) -> Preflight {
    let work = Work::Check(backup.connection.database.clone());
    let task = serde_json::to_string_pretty(&task(&valid.name, &valid.namespace, Some((backup, repository)), work))
        .unwrap_or_default();
    let digest: String =
        hex::sha256(format!("{task}\n{}\n{versions}", backup.image).as_bytes()).chars().take(12).collect();
    let name = names::preflight(valid.name.as_str());
    let data = BTreeMap::from([("task.json".to_owned(), task)]);
    Preflight {
        task: ConfigMap { metadata: metadata(valid, "preflight", &name), data: Some(data), ..ConfigMap::default() },
        job: Job {
            metadata: metadata(valid, "preflight", &format!("{name}-{digest}")),
            spec: Some(JobSpec {
                backoff_limit: Some(ATTEMPTS),
                ttl_seconds_after_finished: Some(STAYS),
                template: PodTemplateSpec {
                    metadata: Some(labelled(valid, "preflight")),
                    spec: Some(Agent::of_backups(valid, backup, &name, agent, "Never").pod()),
                },
                ..JobSpec::default()
            }),
            ..Job::default()
        },
        digest,
    }
}
