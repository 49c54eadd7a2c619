//! Backups: the CronJob, and the ConfigMap with the task of its agent.
//!
//! An init container copies our binary, which is static, into the database's own image, so that `pg_dump` fits the server.
//! The agent has no token of the cluster; secrets reach it as variables and files, by reference.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{ConfigMap, ConfigMapVolumeSource, Container, PodSpec, Volume, VolumeMount};
use windlass_core::id::RepositoryId;
use windlass_core::name::Name;
use windlass_core::point::LONGEST_RUN;
use windlass_core::secret::SecretRef;
use windlass_core::task::{self, Capture, Location, RunNames, Task, Work};

use super::cron::{metadata, scheduled};
use super::pod::{confined, empty, mount, of_label, of_secret, requests, secret, unprivileged, value, words};
use crate::kryton::names;
use crate::kryton::validate::{self, ACCESS_KEY, SECRET_KEY, Valid, WRITER};

/// The component's name, in recovery points.
pub(crate) const DATABASE: &str = "database";

/// The user of the official image of PostgreSQL, and of ours.
const USER: i64 = 999;

const TASK: &str = "/etc/windlass/task";
const WRITER_FILE: &str = "/etc/windlass/writer/writer";

/// The variables by which the agent knows its run.
pub(super) const JOB: &str = "JOB_NAME";
pub(super) const JOB_UID: &str = "JOB_UID";

/// What is made for backups.
pub(crate) struct Backup {
    pub(crate) task: ConfigMap,
    pub(crate) cron: CronJob,
}

/// The objects of backups, into a repository that is known by its identifier.
pub(crate) fn backup(valid: &Valid, backup: &validate::Backup, repository: RepositoryId, agent: &str) -> Backup {
    let name = names::backup(valid.name.as_str());
    let capture = Work::Capture(Capture {
        component: component(),
        database: backup.connection.database.clone(),
        run: RunNames { job: JOB.to_owned(), uid: JOB_UID.to_owned() },
    });
    let task = serde_json::to_string_pretty(&task(valid, backup, repository, capture)).unwrap_or_default();
    Backup {
        task: ConfigMap {
            metadata: metadata(valid, "backup", &name),
            data: Some(BTreeMap::from([("task.json".to_owned(), task)])),
            ..ConfigMap::default()
        },
        cron: scheduled(
            valid,
            "backup",
            &name,
            &backup.schedule,
            LONGEST_RUN.as_secs(),
            pod(valid, backup, &name, agent, "OnFailure"),
        ),
    }
}

/// A task of an agent.
pub(super) fn task(valid: &Valid, backup: &validate::Backup, repository: RepositoryId, work: Work) -> Task {
    Task {
        format: task::FORMAT,
        application: valid.name.clone(),
        host: format!("{}/{}", valid.namespace, valid.name),
        repository: Location {
            id: repository,
            place: backup.place.clone(),
            writer: SecretRef::File(WRITER_FILE.into()),
        },
        work,
    }
}

/// The component's name.
pub(crate) fn component() -> Name {
    #[expect(clippy::expect_used, reason = "it is written above")]
    DATABASE.parse().expect("a name")
}

/// The Pod of an agent that carries out a task, which lies in a ConfigMap.
pub(super) fn pod(valid: &Valid, backup: &validate::Backup, task: &str, agent: &str, restart: &str) -> PodSpec {
    let binary = || mount("windlass", "/windlass", false);
    let mut env = vec![
        of_secret(ACCESS_KEY, &backup.credentials_secret, ACCESS_KEY),
        of_secret(SECRET_KEY, &backup.credentials_secret, SECRET_KEY),
        of_label(JOB, "batch.kubernetes.io/job-name"),
        of_label(JOB_UID, "batch.kubernetes.io/controller-uid"),
    ];
    // Copied beside the agent: the image of a database seldom has them.
    env.push(value("SSL_CERT_FILE", "/windlass/ca-certificates.crt"));
    env.extend(backup.connection.variables.iter().cloned());
    let mut mounts = vec![
        VolumeMount { read_only: Some(true), ..binary() },
        mount("task", TASK, true),
        mount("writer", "/etc/windlass/writer", true),
        mount("scratch", "/tmp", false),
    ];
    let mut volumes = vec![
        empty("windlass"),
        empty("scratch"),
        Volume {
            name: "task".to_owned(),
            config_map: Some(ConfigMapVolumeSource { name: task.to_owned(), ..ConfigMapVolumeSource::default() }),
            ..Volume::default()
        },
        secret("writer", &names::own_secret(valid.name.as_str()), WRITER, "writer"),
    ];
    if let Some((ca, _)) = &backup.ca {
        mounts.push(mount("ca", "/etc/windlass/ca", true));
        volumes.push(secret("ca", &ca.name, &ca.key, "ca.crt"));
    }
    PodSpec {
        restart_policy: Some(restart.to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(unprivileged(USER)),
        init_containers: Some(vec![Container {
            name: "install".to_owned(),
            image: Some(agent.to_owned()),
            command: Some(words(&["/windlass", "agent", "install", "/windlass-bin/windlass"])),
            volume_mounts: Some(vec![mount("windlass", "/windlass-bin", false)]),
            security_context: Some(confined()),
            resources: Some(requests("16Mi")),
            ..Container::default()
        }]),
        containers: vec![Container {
            name: "backup".to_owned(),
            image: Some(backup.image.clone()),
            command: Some(words(&["/windlass/windlass", "agent", "run", "/etc/windlass/task/task.json"])),
            env: Some(env),
            volume_mounts: Some(mounts),
            security_context: Some(confined()),
            resources: Some(requests("64Mi")),
            termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
            ..Container::default()
        }],
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}
