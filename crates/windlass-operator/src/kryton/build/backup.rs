//! Backups: the CronJob, and the ConfigMap with the task of its agent.
//!

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::ConfigMap;
use windlass_core::id::RepositoryId;
use windlass_core::name::Name;
use windlass_core::point::LONGEST_RUN;
use windlass_core::task::{Capture, RunNames, Work};

use super::agent::{Agent, JOB, JOB_UID, task};
use super::cron::{metadata, scheduled};
use crate::kryton::names;
use crate::kryton::validate::{self, Valid};

/// The component's name, in recovery points.
pub(crate) const DATABASE: &str = "database";

/// What is made for backups.
pub(crate) struct Backup {
    pub(crate) task: ConfigMap,
    pub(crate) cron: CronJob,
}

/// The objects of backups, into a repository that is known by its identifier. While they are suspended no run is begun.
pub(crate) fn backup(
    valid: &Valid,
    backup: &validate::Backup,
    repository: RepositoryId,
    agent: &str,
    suspended: bool,
) -> Backup {
    let name = names::backup(valid.name.as_str());
    let capture = Work::Capture(Capture {
        component: component(),
        database: backup.connection.database.clone(),
        run: RunNames { job: JOB.to_owned(), uid: JOB_UID.to_owned() },
    });
    let task = serde_json::to_string_pretty(&task(&valid.name, &valid.namespace, Some((backup, repository)), capture))
        .unwrap_or_default();
    let pod = Agent::of_backups(valid, backup, &name, agent, "OnFailure").pod();
    let mut cron = scheduled(valid, "backup", &name, &backup.schedule, LONGEST_RUN.as_secs(), pod);
    if let Some(spec) = &mut cron.spec {
        spec.suspend = Some(suspended);
    }
    Backup {
        task: ConfigMap {
            metadata: metadata(valid, "backup", &name),
            data: Some(BTreeMap::from([("task.json".to_owned(), task)])),
            ..ConfigMap::default()
        },
        cron,
    }
}

/// The component's name.
pub(crate) fn component() -> Name {
    #[expect(clippy::expect_used, reason = "it is written above")]
    DATABASE.parse().expect("a name")
}
