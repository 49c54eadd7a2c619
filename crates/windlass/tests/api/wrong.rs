//! Secrets that are wrong, and objects that nobody can read.

use anyhow::{Result, ensure};
use serde_json::json;
use windlass_testkit::s3::SECRET_KEY;

use crate::operator::{Operator, Options};
use crate::stage::{LATER, NAME, SOON, Stage, credentials, place, root};

#[test]
fn a40_a_secret_that_is_missing_malformed_wrong_or_changed_is_told_and_needs_no_restart() -> Result<()> {
    let stage = Stage::new("a40")?;
    stage.apply(&place("one")[..1])?;
    stage.apply(&stage.backup_only("one"))?;
    let mut operator = Operator::start(&stage, &Options { helm: false, ..Options::default() })?;
    let stands = |type_: &'static str, status: &'static str, reason: &'static str| {
        stage.condition("one", (type_, status, reason), SOON)
    };
    let cron = || stage.cluster.get("one", "cronjob", &format!("{NAME}-backup"));

    let message = stands("BackupConfigured", "False", "SecretMissing")?;
    assert!(message.contains("`creds`"), "{message}");
    ensure!(cron()?.is_none(), "a schedule without credentials");
    let mut malformed = credentials("one", SECRET_KEY);
    malformed["stringData"] = json!({ "OBJECT_STORE_ACCESS_KEY": "a", "OBJECT_STORE_SECRET_KEY": "" });
    stage.apply(&[malformed])?;
    let message = stands("BackupConfigured", "False", "SecretMalformed")?;
    assert!(message.contains("OBJECT_STORE_SECRET_KEY"), "{message}");
    stage.apply(&[credentials("one", SECRET_KEY)])?;
    stands("BackupConfigured", "True", "Scheduled")?;
    stands("RepositoryReady", "True", "Open")?;

    // Gone for a while: what is scheduled stays scheduled, and nobody says of the repository what nobody can know.
    stage.cluster.kubectl(&["--namespace=one", "delete", "secret", "creds"])?;
    stands("BackupConfigured", "False", "SecretMissing")?;
    stands("RepositoryReady", "Unknown", "SecretMissing")?;
    stands("Protected", "Unknown", "")?;
    ensure!(cron()?.is_some(), "the schedule is gone with the Secret");
    stage.apply(&[credentials("one", SECRET_KEY)])?;
    stands("BackupConfigured", "True", "Scheduled")?;
    stands("RepositoryReady", "True", "Open")?;

    // Changed in the wrong order: the Secret first, and then the store.
    stage.apply(&[credentials("one", "of-tomorrow")])?;
    let message = stands("RepositoryReady", "False", "")?;
    assert!(!message.contains("of-tomorrow"), "{message}");
    ensure!(cron()?.is_some(), "the schedule is gone with the key");
    stage.apply(&[credentials("one", SECRET_KEY)])?;
    stands("RepositoryReady", "True", "Open")?;
    stage.has_one_repository_and_one_writer("one")?;
    operator.lives()?;
    stage.nothing_was_forbidden();
    Ok(())
}

#[test]
fn a41_an_object_that_cannot_be_read_keeps_nobody_from_anything_and_can_be_deleted() -> Result<()> {
    let stage = Stage::new("a41")?;
    let crd = "krytons.kryton.azrtydxb.io";
    let anything = json!([{
        "op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec",
        "value": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
    }]);
    stage.cluster.kubectl(&["patch", "crd", crd, "--type=json", "--patch", &anything.to_string()])?;
    stage.apply(&[place("poisoned"), place("sound")].concat())?;
    let poisoned = json!({
        "apiVersion": "kryton.azrtydxb.io/v1alpha1", "kind": "Kryton",
        "metadata": { "name": NAME, "namespace": "poisoned", "finalizers": ["kryton.azrtydxb.io/release"] },
        "spec": { "version": 4.5, "backup": "often", "deletionPolicy": "Burn" },
    });
    // The API server takes a moment to go by another schema.
    stage.wait("the wrong object to be taken", SOON, || Ok(stage.apply(std::slice::from_ref(&poisoned)).is_ok()))?;
    stage.cluster.kubectl(&["apply", "--kustomize", &root().join("config/crd").display().to_string()])?;
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": { "name": "shelf-data", "namespace": "poisoned", "labels": { "app.kubernetes.io/instance": NAME } },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
    });
    stage.apply(&[claim])?;

    let mut operator = Operator::start(&stage, &Options::default())?;
    stage.apply(&[stage.kryton("sound", "Delete")])?;
    stage.condition("sound", ("Released", "True", ""), LATER)?;
    stage.condition("sound", ("BackupConfigured", "True", ""), LATER)?;
    stage.condition("sound", ("RepositoryReady", "True", ""), LATER)?;
    ensure!(stage.get("poisoned")?["status"].is_null(), "something was said of what nobody could read");
    stage.cluster.kubectl(&["--namespace=poisoned", "delete", "kryton", NAME, "--timeout=60s"])?;
    let claim = stage.cluster.get("poisoned", "persistentvolumeclaim", "shelf-data")?;
    ensure!(claim.is_some(), "the data are gone by a policy that nobody could read");
    operator.lives()?;
    stage.nothing_was_forbidden();
    Ok(())
}
