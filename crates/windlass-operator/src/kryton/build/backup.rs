//! Backups: the CronJob, and the ConfigMap with the task of its agent.
//!
//! An init container copies our binary, which is static, into the database's own image, so that `pg_dump` fits the server.
//! The agent has no token of the cluster; secrets reach it as variables and files, by reference.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, JobSpec, JobTemplateSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMap, ConfigMapVolumeSource, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    KeyToPath, ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile,
    SecretKeySelector, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use windlass_core::id::RepositoryId;
use windlass_core::name::Name;
use windlass_core::secret::SecretRef;
use windlass_core::task::{self, Capture, Location, RunNames, Task, Work};

use crate::kryton::names;
use crate::kryton::validate::{self, ACCESS_KEY, SECRET_KEY, Valid, WRITER};

/// The component's name, in recovery points.
pub(crate) const DATABASE: &str = "database";

/// The longest a run may take, in seconds: what is older is taken for left over.
const DEADLINE: i64 = 24 * 3600;

/// The user of the official image of PostgreSQL, and of ours.
const USER: i64 = 999;

const TASK: &str = "/etc/windlass/task";
const WRITER_FILE: &str = "/etc/windlass/writer/writer";

/// The variables by which the agent knows its run.
const JOB: &str = "JOB_NAME";
const JOB_UID: &str = "JOB_UID";

/// What is made for backups.
pub(crate) struct Backup {
    pub(crate) task: ConfigMap,
    pub(crate) cron: CronJob,
}

/// The objects of backups, into a repository that is known by its identifier.
pub(crate) fn backup(valid: &Valid, backup: &validate::Backup, repository: RepositoryId, agent: &str) -> Backup {
    let name = names::backup(valid.name.as_str());
    let labels = names::labels(valid.name.as_str(), "backup");
    let metadata = ObjectMeta {
        name: Some(name.clone()),
        namespace: Some(valid.namespace.clone()),
        labels: Some(labels.clone()),
        owner_references: valid.owner.clone().map(|owner| vec![owner]),
        ..ObjectMeta::default()
    };
    let task = serde_json::to_string_pretty(&capture(valid, backup, repository)).unwrap_or_default();
    Backup {
        task: ConfigMap {
            metadata: metadata.clone(),
            data: Some(BTreeMap::from([("task.json".to_owned(), task)])),
            ..ConfigMap::default()
        },
        cron: CronJob {
            metadata,
            spec: Some(CronJobSpec {
                schedule: backup.schedule.clone(),
                time_zone: Some("Etc/UTC".to_owned()),
                concurrency_policy: Some("Forbid".to_owned()),
                successful_jobs_history_limit: Some(3),
                failed_jobs_history_limit: Some(3),
                job_template: JobTemplateSpec {
                    metadata: Some(ObjectMeta { labels: Some(labels.clone()), ..ObjectMeta::default() }),
                    spec: Some(JobSpec {
                        backoff_limit: Some(2),
                        active_deadline_seconds: Some(DEADLINE),
                        template: PodTemplateSpec {
                            metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                            spec: Some(pod(valid, backup, &name, agent)),
                        },
                        ..JobSpec::default()
                    }),
                },
                ..CronJobSpec::default()
            }),
            ..CronJob::default()
        },
    }
}

fn capture(valid: &Valid, backup: &validate::Backup, repository: RepositoryId) -> Task {
    Task {
        format: task::FORMAT,
        application: valid.name.clone(),
        host: format!("{}/{}", valid.namespace, valid.name),
        repository: Location {
            id: repository,
            place: backup.place.clone(),
            writer: SecretRef::File(WRITER_FILE.into()),
        },
        work: Work::Capture(Capture {
            component: component(),
            database: backup.connection.database.clone(),
            run: RunNames { job: JOB.to_owned(), uid: JOB_UID.to_owned() },
        }),
    }
}

/// The component's name.
pub(crate) fn component() -> Name {
    #[expect(clippy::expect_used, reason = "it is written above")]
    DATABASE.parse().expect("a name")
}

fn pod(valid: &Valid, backup: &validate::Backup, task: &str, agent: &str) -> PodSpec {
    let binary = || mount("windlass", "/windlass", false);
    let mut env = vec![
        of_secret(ACCESS_KEY, &backup.credentials_secret, ACCESS_KEY),
        of_secret(SECRET_KEY, &backup.credentials_secret, SECRET_KEY),
        of_label(JOB, "batch.kubernetes.io/job-name"),
        of_label(JOB_UID, "batch.kubernetes.io/controller-uid"),
    ];
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
        restart_policy: Some("OnFailure".to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        init_containers: Some(vec![Container {
            name: "install".to_owned(),
            image: Some(agent.to_owned()),
            command: Some(words(&["/windlass", "agent", "install", "/windlass-bin/windlass"])),
            volume_mounts: Some(vec![mount("windlass", "/windlass-bin", false)]),
            security_context: Some(confined()),
            resources: Some(resources("16Mi", "64Mi")),
            ..Container::default()
        }]),
        containers: vec![Container {
            name: "backup".to_owned(),
            image: Some(backup.image.clone()),
            command: Some(words(&["/windlass/windlass", "agent", "run", "/etc/windlass/task/task.json"])),
            env: Some(env),
            volume_mounts: Some(mounts),
            security_context: Some(confined()),
            resources: Some(resources("64Mi", "512Mi")),
            termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
            ..Container::default()
        }],
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn empty(name: &str) -> Volume {
    let limit = Quantity("256Mi".to_owned());
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource { size_limit: Some(limit), ..EmptyDirVolumeSource::default() }),
        ..Volume::default()
    }
}

fn secret(volume: &str, name: &str, key: &str, path: &str) -> Volume {
    let item = KeyToPath { key: key.to_owned(), path: path.to_owned(), mode: None };
    Volume {
        name: volume.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(name.to_owned()),
            items: Some(vec![item]),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn of_secret(variable: &str, secret: &str, key: &str) -> EnvVar {
    let selector = SecretKeySelector { name: secret.to_owned(), key: key.to_owned(), optional: None };
    from(variable, EnvVarSource { secret_key_ref: Some(selector), ..EnvVarSource::default() })
}

fn of_label(variable: &str, label: &str) -> EnvVar {
    let selector = ObjectFieldSelector { field_path: format!("metadata.labels['{label}']"), api_version: None };
    from(variable, EnvVarSource { field_ref: Some(selector), ..EnvVarSource::default() })
}

fn from(variable: &str, source: EnvVarSource) -> EnvVar {
    EnvVar { name: variable.to_owned(), value_from: Some(source), ..EnvVar::default() }
}

fn resources(request: &str, limit: &str) -> ResourceRequirements {
    let memory = |size: &str| BTreeMap::from([("memory".to_owned(), Quantity(size.to_owned()))]);
    let mut requests = memory(request);
    requests.insert("cpu".to_owned(), Quantity("10m".to_owned()));
    ResourceRequirements { requests: Some(requests), limits: Some(memory(limit)), ..ResourceRequirements::default() }
}

fn confined() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}
