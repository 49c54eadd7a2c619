//! The Helm release: installed, upgraded, and gone with its object; data stay.

use anyhow::{Context, Result, ensure};

use crate::stage::{LATER, SOON, Stage, dumps, kryton};

#[test]
fn k30_a_release_is_installed_upgraded_and_removed_and_volumes_stay() -> Result<()> {
    let stage = Stage::new("k30")?;
    let values = "  values:\n    fullnameOverride: other\n    podLabels:\n      colour: blue\n";
    stage.namespace.apply(&kryton("shelf", "k30/shelf", values))?;
    stage.condition("shelf", "Ready", "True", LATER)?;
    let deployment =
        stage.namespace.get("deployment", "shelf")?.context("named for the object, whatever the values say")?;
    assert_eq!(deployment["spec"]["template"]["metadata"]["labels"]["colour"], "blue");
    let status = stage.status("shelf")?;
    assert_eq!((&status["helmRevision"], &status["observedVersion"]), (&1.into(), &"4.5.0".into()));

    let patch = r#"{"spec": {"version": "4.6.0"}}"#;
    stage.namespace.kubectl(&["patch", "kryton", "shelf", "--type=merge", "--patch", patch])?;
    stage.namespace.wait("the new version", LATER, || Ok(stage.status("shelf")?["observedVersion"] == "4.6.0"))?;
    stage.condition("shelf", "Ready", "True", LATER)?;
    let deployment = stage.namespace.get("deployment", "shelf")?.context("the Deployment")?;
    assert!(deployment["spec"]["template"].to_string().contains("kryton:4.6.0"));

    stage.namespace.kubectl(&["delete", "kryton", "shelf", "--timeout=90s"])?;
    stage.namespace.wait("the Deployment to go", SOON, || Ok(stage.namespace.get("deployment", "shelf")?.is_none()))?;
    let releases = stage.namespace.kubectl(&["get", "secrets", "--selector=owner=helm", "--output=name"])?;
    assert_eq!(releases.trim(), "", "the release is gone");
    assert!(stage.namespace.get("persistentvolumeclaim", "shelf-data")?.is_some(), "the notes stay");
    Ok(())
}

#[test]
fn k33_what_values_ask_for_comes_changes_and_goes() -> Result<()> {
    let stage = Stage::new("k33")?;
    let values =
        "  values:\n    ingress: {enabled: true, hosts: [{host: a.example.com}]}\n    autoscaling: {enabled: true}\n";
    stage.namespace.apply(&kryton("shelf", "k33/shelf", values))?;
    stage.condition("shelf", "Released", "True", LATER)?;
    let ingress = || stage.namespace.get("ingress", "shelf");
    let autoscaler = || stage.namespace.get("horizontalpodautoscaler", "shelf");
    assert_eq!(ingress()?.context("the Ingress")?["spec"]["rules"][0]["host"], "a.example.com");
    assert_eq!(autoscaler()?.context("the autoscaler")?["spec"]["maxReplicas"], 5);

    let change = |values: &str| {
        let patch = format!("{{\"spec\": {{\"values\": {values}}}}}");
        stage.namespace.kubectl(&["patch", "kryton", "shelf", "--type=merge", "--patch", &patch])
    };
    change(r#"{"ingress": {"hosts": [{"host": "b.example.com"}]}, "autoscaling": {"maxReplicas": 2}}"#)?;
    stage.namespace.wait("the other host and the other limit", SOON, || {
        let (ingress, autoscaler) = (ingress()?.unwrap_or_default(), autoscaler()?.unwrap_or_default());
        Ok(ingress["spec"]["rules"][0]["host"] == "b.example.com" && autoscaler["spec"]["maxReplicas"] == 2)
    })?;

    change(r#"{"ingress": null, "autoscaling": null}"#)?;
    stage.namespace.wait("both to go", SOON, || Ok(ingress()?.is_none() && autoscaler()?.is_none()))
}

#[test]
fn k34_with_the_policy_delete_volumes_and_passwords_go_and_dumps_stay() -> Result<()> {
    let stage = Stage::new("k34")?;
    stage.namespace.apply(&kryton("shelf", "k34/shelf", "  deletionPolicy: Delete\n"))?;
    stage.condition("shelf", "Ready", "True", LATER)?;
    stage.condition("shelf", "DatabaseReachable", "True", LATER)?;
    let job = stage.run_now("shelf-backup", 29_395_860)?;
    ensure!(stage.ended(&job)?, "the Job failed");
    stage.namespace.kubectl(&["delete", "kryton", "shelf", "--timeout=90s"])?;
    stage.namespace.wait("volumes and passwords to go", LATER, || {
        let left = stage.namespace.kubectl(&["get", "pvc,secrets", "--output=name"])?;
        Ok(left.trim() == "secret/kryton-backup-creds")
    })?;
    assert_eq!(dumps("k34/shelf")?, ["kryton-20251121T190000Z.dump"]);
    Ok(())
}

#[test]
fn k31_values_the_chart_refuses_are_told_and_hold_up_no_backup() -> Result<()> {
    let stage = Stage::new("k31")?;
    let values = "  values:\n    ingress:\n      host: kryton.local\n";
    stage.namespace.apply(&kryton("shelf", "k31/shelf", values))?;
    let (reason, message) = stage.condition("shelf", "Released", "False", SOON)?;
    assert_eq!(reason, "HelmFailed", "{message}");
    assert!(message.contains("host"), "{message}");
    stage.namespace.secret(
        "shelf-postgresql",
        &[("PGHOST", "db"), ("PGUSER", "kryton"), ("PGPASSWORD", "secret"), ("PGDATABASE", "kryton")],
    )?;
    stage.condition("shelf", "BackupConfigured", "True", SOON)?;
    stage.condition("shelf", "RepositoryReady", "True", SOON)?;
    Ok(())
}

#[test]
fn k32_what_somebody_deleted_or_changed_is_put_right() -> Result<()> {
    let stage = Stage::new("k32")?;
    stage.namespace.apply(&kryton("shelf", "k32/shelf", ""))?;
    stage.condition("shelf", "Ready", "True", LATER)?;
    stage.namespace.kubectl(&["delete", "deployment", "shelf"])?;
    stage
        .namespace
        .wait("the Deployment to come back", SOON, || Ok(stage.namespace.get("deployment", "shelf")?.is_some()))?;
    stage.condition("shelf", "Ready", "True", LATER)?;
    let patch =
        r#"{"spec": {"template": {"spec": {"containers": [{"name": "kryton", "image": "elsewhere/kryton:1"}]}}}}"#;
    stage.namespace.kubectl(&["patch", "deployment", "shelf", "--patch", patch])?;
    stage.namespace.wait("the image to be the right one again", SOON, || {
        let deployment = stage.namespace.get("deployment", "shelf")?.unwrap_or_default();
        Ok(!deployment["spec"]["template"].to_string().contains("elsewhere"))
    })
}
