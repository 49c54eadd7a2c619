//! Pieces of Pods that more than one is made of.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, EmptyDirVolumeSource, EnvVar, EnvVarSource, KeyToPath, ObjectFieldSelector, PodSecurityContext,
    ResourceRequirements, SeccompProfile, SecretKeySelector, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

pub(super) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

pub(super) fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

pub(super) fn empty(name: &str) -> Volume {
    let limit = Quantity("256Mi".to_owned());
    let empty = EmptyDirVolumeSource { size_limit: Some(limit), ..EmptyDirVolumeSource::default() };
    Volume { name: name.to_owned(), empty_dir: Some(empty), ..Volume::default() }
}

pub(super) fn secret(volume: &str, name: &str, key: &str, path: &str) -> Volume {
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

pub(crate) fn of_secret(variable: &str, secret: &str, key: &str) -> EnvVar {
    let selector = SecretKeySelector { name: secret.to_owned(), key: key.to_owned(), optional: None };
    from(variable, EnvVarSource { secret_key_ref: Some(selector), ..EnvVarSource::default() })
}

pub(super) fn of_label(variable: &str, label: &str) -> EnvVar {
    of_field(variable, &format!("metadata.labels['{label}']"))
}

pub(super) fn of_field(variable: &str, path: &str) -> EnvVar {
    let selector = ObjectFieldSelector { field_path: path.to_owned(), api_version: None };
    from(variable, EnvVarSource { field_ref: Some(selector), ..EnvVarSource::default() })
}

/// A variable as it stands.
pub(super) fn value(variable: &str, value: &str) -> EnvVar {
    EnvVar { name: variable.to_owned(), value: Some(value.to_owned()), ..EnvVar::default() }
}

pub(super) fn from(variable: &str, source: EnvVarSource) -> EnvVar {
    EnvVar { name: variable.to_owned(), value_from: Some(source), ..EnvVar::default() }
}

/// What is asked for; there is no limit, for what a database needs to be dumped nobody knows before.
pub(super) fn requests(memory: &str) -> ResourceRequirements {
    let requests = [("memory", memory), ("cpu", "10m")];
    let requests = requests.map(|(name, size)| (name.to_owned(), Quantity(size.to_owned())));
    ResourceRequirements { requests: Some(BTreeMap::from(requests)), ..ResourceRequirements::default() }
}

pub(super) fn confined() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}

/// Nobody in particular, and nothing more than any Pod may do.
pub(super) fn unprivileged(user: i64) -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(user),
        run_as_group: Some(user),
        fs_group: Some(user),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}
