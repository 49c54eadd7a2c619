//! Two hundred deletions at once, namespaces that end, and quotas.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::operator::{Operator, Options};
use crate::stage::{LATER, SOON, Stage, namespace_of, place};

const NAMESPACES: usize = 10;
const IN_EACH: usize = 20;

/// Holds a Kryton until its release is gone.
const FINALIZER: &str = "kryton.azrtydxb.io/release";

#[test]
fn a20_two_hundred_deleted_at_once_are_gone_and_leave_what_their_policy_keeps() -> Result<()> {
    let stage = Stage::new("a20")?;
    let mut objects: Vec<Value> = (0..NAMESPACES).flat_map(|n| place(&namespace(n))).collect();
    for (n, k) in (0..NAMESPACES).flat_map(|n| (0..IN_EACH).map(move |k| (n, k))) {
        objects.extend(with_data(&stage, &namespace(n), &format!("k{k:02}"), deletion(k)));
    }
    stage.apply(&objects)?;
    let dump = |n: usize| stage.dumps(&namespace(n)).join("kryton-20260101T000000Z.dump");
    for n in 0..NAMESPACES {
        let dump = dump(n);
        std::fs::create_dir_all(dump.parent().context("a folder")?)?;
        std::fs::write(dump, "a dump")?;
    }
    // No operator is there yet: all of it comes at once when one is. Every other namespace ends as well.
    stage.cluster.kubectl(&["delete", "krytons", "--all", "--all-namespaces", "--wait=false"])?;
    for n in (0..NAMESPACES).filter(|n| n % 2 == 1) {
        stage.cluster.kubectl(&["delete", "namespace", &namespace(n), "--wait=false"])?;
    }
    ensure!(stage.list("krytons")?.len() == NAMESPACES * IN_EACH, "they are held until the operator lets them go");
    let mut operator = Operator::start(&stage, &Options::default())?;
    stage.wait("all two hundred to be gone", LATER, || Ok(stage.list("krytons")?.is_empty()))?;
    stage.wait("the namespaces to end", LATER, || {
        let all = stage.list("namespaces")?;
        Ok(all.iter().all(|namespace| namespace["metadata"]["deletionTimestamp"].is_null()))
    })?;
    operator.lives()?;

    let mut there: Vec<(String, String)> = stage
        .list("persistentvolumeclaims,volumesnapshots")?
        .iter()
        .map(|object| (namespace_of(object), format!("{} {}", object["kind"], object["metadata"]["name"])))
        .collect();
    there.sort();
    let mut kept = Vec::new();
    for (n, k) in (0..NAMESPACES).step_by(2).flat_map(|n| (0..IN_EACH).map(move |k| (n, k))) {
        if deletion(k) == "Retain" {
            kept.push((namespace(n), format!("\"PersistentVolumeClaim\" \"k{k:02}-data\"")));
            kept.push((namespace(n), format!("\"VolumeSnapshot\" \"k{k:02}-20260101t000000z\"")));
        }
    }
    kept.sort();
    assert_eq!(there, kept);
    for n in 0..NAMESPACES {
        assert!(dump(n).is_file(), "a dump is gone with namespace {n}");
    }
    stage.nothing_was_forbidden();
    Ok(())
}

#[test]
fn a21_a_quota_that_refuses_is_told_and_its_end_noticed() -> Result<()> {
    let stage = Stage::new("a21")?;
    stage.apply(&place("tight"))?;
    stage.apply(&[json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "none", "namespace": "tight" },
        "spec": { "hard": { "count/cronjobs.batch": "0" } },
    })])?;
    stage.wait("the quota to count", SOON, || {
        let quota = stage.cluster.get("tight", "resourcequota", "none")?.unwrap_or_default();
        Ok(!quota["status"]["hard"].is_null())
    })?;
    let mut operator = Operator::start(&stage, &Options { helm: false, ..Options::default() })?;
    stage.apply(&stage.backup_only("tight"))?;
    let message = stage.condition("tight", ("BackupConfigured", "False", "WriteFailed"), SOON)?;
    assert!(message.contains("CronJob") && message.contains("exceeded quota"), "{message}");
    stage.cluster.kubectl(&["--namespace=tight", "delete", "resourcequota", "none"])?;
    stage.condition("tight", ("BackupConfigured", "True", "Scheduled"), SOON)?;
    operator.lives()?;
    stage.nothing_was_forbidden();
    Ok(())
}

fn namespace(n: usize) -> String {
    format!("crowd-{n}")
}

fn deletion(k: usize) -> &'static str {
    if k.is_multiple_of(2) { "Retain" } else { "Delete" }
}

/// A Kryton with an operator's hold on it, a volume and a snapshot: what is left when its operator went away.
fn with_data(stage: &Stage, namespace: &str, name: &str, deletion: &str) -> [Value; 3] {
    let mut kryton = stage.kryton(namespace, deletion);
    kryton["metadata"] = json!({ "name": name, "namespace": namespace, "finalizers": [FINALIZER] });
    let labels = json!({ "app.kubernetes.io/instance": name });
    let snapshot = json!({ "kryton.azrtydxb.io/name": name, "app.kubernetes.io/component": "snapshot" });
    [
        kryton,
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": { "name": format!("{name}-data"), "namespace": namespace, "labels": labels },
            "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
        }),
        json!({
            "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
            "metadata": { "name": format!("{name}-20260101t000000z"), "namespace": namespace, "labels": snapshot },
            "spec": { "source": { "persistentVolumeClaimName": format!("{name}-data") } },
        }),
    ]
}
