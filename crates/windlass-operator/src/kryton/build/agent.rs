//! The Pod of an agent that carries out a task, which lies in a ConfigMap.
//!
//! An init container copies our binary, which is static, into the database's own image, so that its tools fit the server.
//! The agent has no token of the cluster; secrets reach it as variables and files, by reference.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, EnvVar, PersistentVolumeClaimVolumeSource, PodSpec, Volume, VolumeMount,
};
use windlass_core::id::RepositoryId;
use windlass_core::name::Name;
use windlass_core::secret::SecretRef;
use windlass_core::task::{self, Location, Task, Work};

use super::pod::{confined, empty, mount, of_label, of_secret, requests, secret, unprivileged, value, words};
use crate::kryton::names;
use crate::kryton::validate::{self, ACCESS_KEY, SECRET_KEY, Valid, WRITER};

/// The user of the official image of PostgreSQL, and of ours.
const USER: i64 = 999;

/// The user of the application, whose files are read as theirs.
const APPLICATION: i64 = 1000;

const TASK: &str = "/etc/windlass/task";
const WRITER_FILE: &str = "/etc/windlass/writer/writer";

/// Where the notes are mounted, to be read.
pub(crate) const NOTES: &str = "/notes";

/// Where what came of the task is written: the message that the container ends with.
const RESULT: &str = "/dev/termination-log";

/// The variables by which the agent knows its run.
pub(super) const JOB: &str = "JOB_NAME";
pub(super) const JOB_UID: &str = "JOB_UID";

/// An agent.
pub(crate) struct Agent<'a> {
    /// What its container is called.
    pub(crate) container: &'static str,
    /// The Kryton whose repository it opens.
    pub(crate) kryton: &'a str,
    /// How that is opened; absent where the task needs none.
    pub(crate) store: Option<&'a validate::Backup>,
    /// The variables by which a database is reached.
    pub(crate) variables: &'a [EnvVar],
    /// The image with PostgreSQL's tools.
    pub(crate) image: &'a str,
    /// The ConfigMap with its task.
    pub(crate) task: &'a str,
    /// The Pod's `restartPolicy`.
    pub(crate) restart: &'static str,
    /// Our own image, from which the binary is copied.
    pub(crate) binary: &'a str,
    /// The claim of the notes, where they are read.
    pub(crate) notes: Option<&'a str>,
}

impl<'a> Agent<'a> {
    /// The agent that captures a database, or sees whether it could.
    pub(super) fn of_backups(
        valid: &'a Valid,
        backup: &'a validate::Backup,
        task: &'a str,
        binary: &'a str,
        restart: &'static str,
    ) -> Self {
        Self {
            container: "backup",
            kryton: valid.name.as_str(),
            store: Some(backup),
            variables: &backup.connection.variables,
            image: &backup.image,
            task,
            restart,
            binary,
            notes: None,
        }
    }

    /// Its Pod.
    pub(crate) fn pod(&self) -> PodSpec {
        let binary = || mount("windlass", "/windlass", false);
        let mut env = vec![
            of_label(JOB, "batch.kubernetes.io/job-name"),
            of_label(JOB_UID, "batch.kubernetes.io/controller-uid"),
            value(task::RESULT, RESULT),
            // Copied beside the agent: the image of a database seldom has them.
            value("SSL_CERT_FILE", "/windlass/ca-certificates.crt"),
        ];
        env.extend(self.variables.iter().cloned());
        let mut mounts = vec![
            VolumeMount { read_only: Some(true), ..binary() },
            mount("task", TASK, true),
            mount("scratch", "/tmp", false),
        ];
        let mut volumes = vec![
            empty("windlass"),
            empty("scratch"),
            Volume {
                name: "task".to_owned(),
                config_map: Some(ConfigMapVolumeSource {
                    name: self.task.to_owned(),
                    ..ConfigMapVolumeSource::default()
                }),
                ..Volume::default()
            },
        ];
        if let Some(store) = self.store {
            env.push(of_secret(ACCESS_KEY, &store.credentials_secret, ACCESS_KEY));
            env.push(of_secret(SECRET_KEY, &store.credentials_secret, SECRET_KEY));
            mounts.push(mount("writer", "/etc/windlass/writer", true));
            volumes.push(secret("writer", &names::own_secret(self.kryton), WRITER, "writer"));
            if let Some((ca, _)) = &store.ca {
                mounts.push(mount("ca", "/etc/windlass/ca", true));
                volumes.push(secret("ca", &ca.name, &ca.key, "ca.crt"));
            }
        }
        let mut user = unprivileged(USER);
        if let Some(claim) = self.notes {
            mounts.push(mount("notes", NOTES, true));
            volumes.push(claimed("notes", claim));
            user = unprivileged(APPLICATION);
            // They belong to the application, and nothing of them is changed for being read.
            user.fs_group_change_policy = Some("OnRootMismatch".to_owned());
        }
        PodSpec {
            restart_policy: Some(self.restart.to_owned()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            security_context: Some(user),
            init_containers: Some(vec![Container {
                name: "install".to_owned(),
                image: Some(self.binary.to_owned()),
                command: Some(words(&["/windlass", "agent", "install", "/windlass-bin/windlass"])),
                volume_mounts: Some(vec![mount("windlass", "/windlass-bin", false)]),
                security_context: Some(confined()),
                resources: Some(requests("16Mi")),
                ..Container::default()
            }]),
            containers: vec![Container {
                name: self.container.to_owned(),
                image: Some(self.image.to_owned()),
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
}

fn claimed(volume: &str, claim: &str) -> Volume {
    Volume {
        name: volume.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.to_owned(),
            read_only: None,
        }),
        ..Volume::default()
    }
}

/// A task of an agent, for the application of this name.
pub(crate) fn task(name: &Name, namespace: &str, store: Option<(&validate::Backup, RepositoryId)>, work: Work) -> Task {
    Task {
        format: task::FORMAT,
        application: name.clone(),
        host: format!("{namespace}/{name}"),
        repository: store.map(|(backup, id)| Location {
            id,
            place: backup.place.clone(),
            writer: SecretRef::File(WRITER_FILE.into()),
        }),
        work,
    }
}
