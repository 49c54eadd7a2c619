//! The throw-away copy of an application, and the restore into it. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};
use serde_json::{Map, Value, json};
use windlass_core::id::PointId;

use crate::api::drill::Drill;
use crate::api::kryton::{DeletionPolicy, Kryton, KrytonSpec};
use crate::api::restore::{Application, Restore, RestoreSpec};

/// The label with the drill that made an object.
pub(super) const DRILL: &str = "windlass.dev/drill";

/// What else belongs to one instance of the application is labelled with.
const INSTANCE: &str = "app.kubernetes.io/instance";

/// Settings by which a server would reach people or other services.
const OUTWARD: [&str; 11] = [
    "SMTP_HOST",
    "SMTP_PORT",
    "SMTP_SECURE",
    "SMTP_USER",
    "SMTP_PASS",
    "SMTP_FROM",
    "GOOGLE_CLIENT_ID",
    "GOOGLE_CLIENT_SECRET",
    "GITHUB_CLIENT_ID",
    "GITHUB_CLIENT_SECRET",
    "POSTGRES_URL",
];

/// The name of the copy, of the restore into it, and of what keeps it apart: nobody else gives such a one.
pub(super) fn name(drill: &Drill) -> String {
    let end: String = drill.uid().unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    let head: String = drill.name_any().chars().take(30).collect();
    format!("{}-{end}", head.trim_end_matches('-'))
}

fn metadata(drill: &Drill) -> ObjectMeta {
    ObjectMeta {
        name: Some(name(drill)),
        namespace: drill.namespace(),
        labels: Some(BTreeMap::from([(DRILL.to_owned(), drill.name_any())])),
        owner_references: drill.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// A copy of an application, with a database of its own for a dump of this major version.
pub(super) fn kryton(drill: &Drill, from: &Kryton, major: u32) -> Kryton {
    let mut values = from.spec.values.clone().unwrap_or_default();
    let has_own = values.get("postgresql").and_then(|of| of.get("enabled")) != Some(&Value::Bool(false));
    let has_notes = drill.spec.notes.is_some();
    set(&mut values, &["replicaCount"], json!(1));
    for part in ["autoscaling", "ingress", "serviceMonitor"] {
        set(&mut values, &[part, "enabled"], json!(false));
    }
    set(&mut values, &["service", "type"], json!("ClusterIP"));
    set(&mut values, &["service", "annotations"], json!({}));
    set(&mut values, &["persistence", "enabled"], json!(has_notes));
    set(&mut values, &["persistence", "existingClaim"], json!(""));
    set(&mut values, &["postgresql", "enabled"], json!(true));
    set(&mut values, &["postgresql", "auth", "existingSecret"], json!(""));
    set(&mut values, &["postgresql", "primary", "persistence", "existingClaim"], json!(""));
    if !has_own {
        set(&mut values, &["postgresql", "image", "tag"], json!(format!("pg{major}")));
    }
    let said = |values: &Map<String, Value>, variable: &str| {
        values.get("env").and_then(|env| env.get("config")?.get(variable)).is_some()
    };
    for variable in OUTWARD {
        set(&mut values, &["env", "secret", variable], json!(""));
        if said(&values, variable) {
            set(&mut values, &["env", "config", variable], json!(""));
        }
    }
    // Labels and annotations by which others find the application, or do something to it.
    set(&mut values, &["podLabels"], json!({}));
    set(&mut values, &["podAnnotations"], json!({}));
    without_claims(&mut values);
    let spec = KrytonSpec {
        version: from.spec.version.clone(),
        values: Some(values),
        backup: None,
        // They are fetched from outside, which the copy does not reach.
        plugins: Vec::new(),
        snapshot: None,
        deletion_policy: Some(DeletionPolicy::Delete),
    };
    Kryton { metadata: metadata(drill), spec, status: None }
}

/// Volumes that production has mounted are empty ones in the copy.
fn without_claims(values: &mut Map<String, Value>) {
    let Some(Value::Array(volumes)) = values.get_mut("extraVolumes") else { return };
    for volume in volumes.iter_mut().filter(|volume| volume.get("persistentVolumeClaim").is_some()) {
        *volume = json!({ "name": volume["name"], "emptyDir": {} });
    }
}

/// What of the application the copy has all the same, and a person should know of.
pub(super) fn shared(from: &Kryton) -> Vec<String> {
    let values = from.spec.values.as_ref();
    let existing = values.and_then(|values| values.get("env")?.get("existingSecret")?.as_str());
    let existing = existing.filter(|name| !name.is_empty());
    let told = existing.map(|name| {
        format!(
            "the copy had the variables of Secret {name} as they are, with whatever of mail and sign-in is among them"
        )
    });
    told.into_iter().collect()
}

fn set(values: &mut Map<String, Value>, path: &[&str], value: Value) {
    match path {
        [] => {}
        [last] => {
            values.insert((*last).to_owned(), value);
        }
        [first, rest @ ..] => {
            let below = values.entry((*first).to_owned()).or_insert_with(|| json!({}));
            if !below.is_object() {
                *below = json!({});
            }
            if let Value::Object(below) = below {
                set(below, rest, value);
            }
        }
    }
}

/// The restore into the copy.
pub(super) fn restore(drill: &Drill, point: PointId) -> Restore {
    let spec = RestoreSpec {
        from: drill.spec.from.clone(),
        into: Some(Application { kryton: name(drill) }),
        point: Some(point.to_string()),
        at: None,
        notes: drill.spec.notes.clone(),
        checks: drill.spec.checks.clone(),
        undo: None,
        confirm: None,
        old: None,
    };
    Restore { metadata: metadata(drill), spec, status: None }
}

/// Keeps the copy's servers to themselves: nothing but names is asked of anybody outside, and nobody else asks them.
pub(super) fn apart(drill: &Drill) -> NetworkPolicy {
    let of_copy = || LabelSelector {
        match_labels: Some(BTreeMap::from([(INSTANCE.to_owned(), name(drill))])),
        ..LabelSelector::default()
    };
    let servers = LabelSelector {
        match_expressions: Some(vec![LabelSelectorRequirement {
            key: "app.kubernetes.io/component".to_owned(),
            operator: "In".to_owned(),
            values: Some(vec!["server".to_owned(), "database".to_owned()]),
        }]),
        ..of_copy()
    };
    let peers = || Some(vec![NetworkPolicyPeer { pod_selector: Some(of_copy()), ..NetworkPolicyPeer::default() }]);
    let names = ["UDP", "TCP"].map(|protocol| NetworkPolicyPort {
        port: Some(IntOrString::Int(53)),
        protocol: Some(protocol.to_owned()),
        end_port: None,
    });
    NetworkPolicy {
        metadata: metadata(drill),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(servers),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule { from: peers(), ports: None }]),
            egress: Some(vec![
                NetworkPolicyEgressRule { to: peers(), ports: None },
                NetworkPolicyEgressRule { to: None, ports: Some(names.to_vec()) },
            ]),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::drill::DrillSpec;

    #[test]
    fn a_copy_reaches_nobody_and_keeps_what_makes_it_the_application() {
        let spec: DrillSpec = serde_json::from_value(json!({ "from": { "kryton": "shelf" } })).unwrap();
        let drill = Drill::new("monday", spec);
        let values = json!({
            "replicaCount": 3, "ingress": { "enabled": true, "hosts": [] }, "resources": { "limits": { "memory": "1Gi" } },
            "env": {
                "secret": { "SMTP_HOST": "mail.example.com", "BETTER_AUTH_SECRET": "kept" },
                "config": { "SMTP_FROM": "us@example.com", "LOG_LEVEL": "debug" },
            },
            "postgresql": { "enabled": false },
            "extraVolumes": [{ "name": "shared", "persistentVolumeClaim": { "claimName": "production" } }],
        });
        let from =
            json!({ "version": "4.6.0", "values": values, "plugins": [], "snapshot": { "schedule": "0 4 * * *" } });
        let copy = kryton(&drill, &Kryton::new("shelf", serde_json::from_value(from).unwrap()), 17);
        assert_eq!((copy.spec.version.as_str(), copy.spec.deletion_policy), ("4.6.0", Some(DeletionPolicy::Delete)));
        assert!(copy.spec.backup.is_none() && copy.spec.snapshot.is_none());
        let values = Value::Object(copy.spec.values.unwrap());
        assert_eq!(values["replicaCount"], 1);
        assert_eq!(values["ingress"]["enabled"], false);
        assert_eq!(values["env"]["secret"]["SMTP_HOST"], "");
        assert_eq!(values["env"]["secret"]["BETTER_AUTH_SECRET"], "kept");
        assert_eq!(values["env"]["config"], json!({ "SMTP_FROM": "", "LOG_LEVEL": "debug" }));
        assert_eq!(values["extraVolumes"], json!([{ "name": "shared", "emptyDir": {} }]));
        assert_eq!(values["postgresql"]["enabled"], true);
        assert_eq!(values["postgresql"]["image"]["tag"], "pg17", "as new as the server that was dumped");
        assert_eq!(values["resources"]["limits"]["memory"], "1Gi");
    }
}
