//! Whether the operator was granted what its stories used, and nothing else.
//!
//! What is granted stands in `config/rbac`; what was used, in the log of requests of the cluster the stories ran in
//! (`bench/cluster/audit.yaml`). A right counts as used when a request that needed it went well. Nothing here names a
//! resource: a new rule, account or story is compared as the others are.

mod granted;
mod used;

use std::fmt::Write;

use anyhow::{Result, ensure};

use self::granted::{Granted, Right};
use self::used::Log;
use crate::root;

/// What this is called where it is skipped.
pub(crate) const NAME: &str = "every right of the operator is used by a story, and no other";

/// Compares; `false` where a right is granted that no story used, or one was missing.
pub(crate) fn check() -> Result<bool> {
    let granted = Granted::read(&root()?.join("config/rbac"))?;
    let cluster = std::env::var_os("WINDLASS_CLUSTER").map_or(root()?.join(".bench/cluster"), Into::into);
    let log = Log::read(&cluster.join("requests"), &granted)?;
    ensure!(log.requests > 0, "nobody asked the cluster in {} for anything: run the stories first", cluster.display());
    let said = differences(&granted, &log);
    if said.is_empty() {
        println!("{} rights of {}, each used, in {} requests", granted.rights.len(), granted.account, log.requests);
    } else {
        eprint!("{said}");
    }
    Ok(said.is_empty())
}

/// What is granted too much, and what too little; empty where neither.
fn differences(granted: &Granted, log: &Log) -> String {
    let mut said = String::new();
    let mut tell = |what: &str, all: Vec<String>| {
        if !all.is_empty() {
            let _ = writeln!(said, "{what}\n  {}", all.join("\n  "));
        }
    };
    let all = |rights: &mut dyn Iterator<Item = &Right>| rights.map(ToString::to_string).collect::<Vec<_>>();
    tell("granted without a limit:", all(&mut granted.rights.iter().filter(|right| right.is_unlimited())));
    tell("granted, and used by no story:", all(&mut granted.rights.iter().filter(|right| !log.has_used(right))));
    tell("asked for, and not granted:", log.refused.iter().cloned().collect());
    tell("granted, but not by config/rbac:", log.elsewhere.iter().cloned().collect());
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: &str = r#"
kind: ClusterRole
metadata: {name: keeper}
rules:
  - {apiGroups: [""], resources: [secrets], verbs: [get, create, patch]}
  - {apiGroups: [""], resources: [namespaces], resourceNames: [kube-system], verbs: [get]}
  - {apiGroups: [example.com], resources: [things/status], verbs: [patch]}
  - {apiGroups: [example.com], resources: [things/finalizers], verbs: [update]}
  - {apiGroups: [storage], resources: [snapshots], verbs: [list]}
---
kind: ClusterRoleBinding
metadata: {name: keeper}
subjects: [{kind: ServiceAccount, name: keeper, namespace: home}]
---
kind: Role
metadata: {name: lead}
rules: [{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get]}]
"#;

    const ALL: [&str; 6] = [
        r#"{"verb": "get", "objectRef": {"resource": "secrets", "name": "a"}}"#,
        r#"{"verb": "patch", "objectRef": {"resource": "secrets", "name": "b"}, "responseStatus": {"code": 201}}"#,
        r#"{"verb": "get", "objectRef": {"resource": "namespaces", "name": "kube-system"}}"#,
        r#"{"verb": "patch", "objectRef": {"resource": "things", "subresource": "status", "apiGroup": "example.com"}}"#,
        r#"{"verb": "get", "objectRef": {"resource": "leases", "apiGroup": "coordination.k8s.io"}, "role": "Role lead"}"#,
        r#"{"verb": "list", "objectRef": {"resource": "snapshots", "apiGroup": "storage"}, "user": "far/shelf", "role": "Role shelf"}"#,
    ];

    /// An account that the operator made.
    const MADE: &str = r#"{"verb": "patch", "objectRef": {"resource": "serviceaccounts", "namespace": "far", "name": "shelf"}, "responseStatus": {"code": 201}}"#;

    /// A line as the API server writes it; what is not said is as it usually is.
    fn line(short: &str) -> String {
        let mut event: serde_json::Value = serde_json::from_str(short).unwrap_or_default();
        let mut take = |key: &str, usual: &str| match event[key].take() {
            serde_json::Value::String(said) => said,
            _ => usual.to_owned(),
        };
        let (user, role, decision) =
            (take("user", "home/keeper"), take("role", "ClusterRole keeper"), take("decision", "allow"));
        let (kind, name) = role.split_once(' ').unwrap_or_default();
        let reason = format!("RBAC: allowed by {kind}Binding \"x\" of {kind} \"{name}\" to ServiceAccount \"y\"");
        event["user"] = serde_json::json!({ "username": format!("system:serviceaccount:{}", user.replace('/', ":")) });
        event["annotations"] =
            serde_json::json!({ "authorization.k8s.io/decision": decision, "authorization.k8s.io/reason": reason });
        if event["responseStatus"].is_null() {
            event["responseStatus"] = serde_json::json!({ "code": 200 });
        }
        event.to_string()
    }

    fn compared(short: &[&str]) -> Result<String> {
        let granted = Granted::of(&[ROLES.to_owned()])?;
        let lines: Vec<String> = short.iter().map(|short| line(short)).collect();
        Ok(differences(&granted, &Log::of(&lines.join("\n"), &granted)?))
    }

    #[test]
    fn nothing_is_said_where_all_was_used_and_each_right_that_was_not_is_named() -> Result<()> {
        let all = [ALL.as_slice(), &[MADE]].concat();
        let without_the_account = compared(&ALL)?;
        assert!(without_the_account.contains("list snapshots.storage"), "nobody's use: {without_the_account}");
        assert_eq!(compared(&all)?, "");
        let unused = [
            "ClusterRole keeper: get secrets",
            "ClusterRole keeper: patch secrets",
            "ClusterRole keeper: get namespaces `kube-system`",
            "ClusterRole keeper: patch things/status.example.com",
            "Role lead: get leases.coordination.k8s.io",
            "ClusterRole keeper: list snapshots.storage",
        ];
        for (at, right) in unused.iter().enumerate() {
            let mut fewer = all.clone();
            fewer.remove(at);
            let said = compared(&fewer)?;
            assert!(said.contains("used by no story") && said.contains(right), "{right}: {said}");
        }
        Ok(())
    }

    #[test]
    fn what_failed_or_is_of_another_name_role_or_account_is_no_use() -> Result<()> {
        let said = compared(&[
            r#"{"verb": "get", "objectRef": {"resource": "secrets"}, "responseStatus": {"code": 404}}"#,
            r#"{"verb": "get", "objectRef": {"resource": "namespaces", "name": "other"}}"#,
            r#"{"verb": "get", "objectRef": {"resource": "leases", "apiGroup": "coordination.k8s.io"}}"#,
            r#"{"verb": "list", "objectRef": {"resource": "snapshots", "apiGroup": "storage"}, "user": "far/stranger"}"#,
        ])?;
        for right in ["get secrets", "`kube-system`", "Role lead: get leases", "list snapshots"] {
            assert!(said.contains(right), "{right}: {said}");
        }
        Ok(())
    }

    #[test]
    fn what_was_refused_or_granted_by_another_role_is_told() -> Result<()> {
        let said = compared(&[
            r#"{"verb": "delete", "objectRef": {"resource": "secrets"}, "decision": "forbid", "responseStatus": {"code": 403}}"#,
            r#"{"verb": "list", "objectRef": {"resource": "nodes"}, "role": "ClusterRole cluster-admin"}"#,
            r#"{"verb": "create", "objectRef": {"resource": "reviews"}, "role": "ClusterRole system:basic-user"}"#,
            r#"{"verb": "create", "objectRef": {"resource": "secrets"}, "responseStatus": {"code": 403}}"#,
        ])?;
        assert!(said.contains("asked for, and not granted:\n  home/keeper: delete secrets\n"), "{said}");
        assert!(said.contains("not by config/rbac:\n  ClusterRole cluster-admin: list nodes\n"), "{said}");
        Ok(())
    }

    #[test]
    fn a_grant_without_a_limit_is_told() -> Result<()> {
        let roles = ROLES.replace("[get, create, patch]", "[\"*\"]");
        let granted = Granted::of(&[roles])?;
        let said = differences(&granted, &Log::of(&line(ALL[0]), &granted)?);
        assert!(said.starts_with("granted without a limit:\n  ClusterRole keeper: * secrets\n"), "{said}");
        Ok(())
    }
}
