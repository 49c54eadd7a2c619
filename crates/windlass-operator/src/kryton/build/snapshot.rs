//! Snapshots: the CronJob, and the account it runs under, which may handle VolumeSnapshots of its namespace and nothing
//! else.

use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{Container, PodSpec, ServiceAccount};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};

use super::agent::{JOB, JOB_UID};
use super::cron::{metadata, scheduled};
use super::pod::{confined, of_field, of_label, requests, unprivileged, words};
use crate::kryton::names;
use crate::kryton::validate::{self, Valid};

/// Nobody that any image knows.
const USER: i64 = 65532;

/// Longer than three attempts that each lose their patience, in seconds.
const DEADLINE: i64 = 2 * 3600;

/// What is made for snapshots.
pub(crate) struct Snapshot {
    pub(crate) account: ServiceAccount,
    pub(crate) role: Role,
    pub(crate) binding: RoleBinding,
    pub(crate) cron: CronJob,
}

/// The objects of snapshots of a claim.
pub(crate) fn snapshot(valid: &Valid, snapshot: &validate::Snapshot, claim: &str, image: &str) -> Snapshot {
    let name = names::snapshot(valid.name.as_str());
    let metadata = metadata(valid, "snapshot", &name);
    let pod = pod(valid, snapshot, claim, &name, image);
    Snapshot {
        cron: scheduled(valid, "snapshot", &name, &snapshot.schedule, DEADLINE, pod),
        account: ServiceAccount {
            metadata: metadata.clone(),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        },
        role: Role {
            metadata: metadata.clone(),
            rules: Some(vec![PolicyRule {
                api_groups: Some(words(&["snapshot.storage.k8s.io"])),
                resources: Some(words(&["volumesnapshots"])),
                verbs: words(&["get", "list", "create", "delete"]),
                ..PolicyRule::default()
            }]),
        },
        binding: RoleBinding {
            metadata,
            role_ref: RoleRef {
                api_group: "rbac.authorization.k8s.io".to_owned(),
                kind: "Role".to_owned(),
                name: name.clone(),
            },
            subjects: Some(vec![Subject {
                kind: "ServiceAccount".to_owned(),
                name,
                namespace: Some(valid.namespace.clone()),
                ..Subject::default()
            }]),
        },
    }
}

fn pod(valid: &Valid, snapshot: &validate::Snapshot, claim: &str, account: &str, image: &str) -> PodSpec {
    let mut command = words(&["/windlass", "agent", "snapshot", "--name", valid.name.as_str(), "--claim", claim]);
    if let Some(class) = &snapshot.class {
        command.extend(words(&["--class", class]));
    }
    if let Some(retention) = &snapshot.retention {
        command.extend(words(&["--retention", retention]));
    }
    PodSpec {
        restart_policy: Some("OnFailure".to_owned()),
        service_account_name: Some(account.to_owned()),
        // The one agent that has a token: it speaks to the API server and to nobody else.
        automount_service_account_token: Some(true),
        enable_service_links: Some(false),
        security_context: Some(unprivileged(USER)),
        containers: vec![Container {
            name: "snapshot".to_owned(),
            image: Some(image.to_owned()),
            command: Some(command),
            env: Some(vec![
                of_label(JOB, "batch.kubernetes.io/job-name"),
                of_label(JOB_UID, "batch.kubernetes.io/controller-uid"),
                of_field("POD_NAMESPACE", "metadata.namespace"),
            ]),
            security_context: Some(confined()),
            resources: Some(requests("32Mi")),
            termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
            ..Container::default()
        }],
        ..PodSpec::default()
    }
}
