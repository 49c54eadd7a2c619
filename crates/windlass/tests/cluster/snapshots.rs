//! Snapshots of the notes.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::stage::{LATER, SOON, Stage, kryton};

#[test]
fn k10_a_snapshot_is_named_by_its_moment_and_a_run_that_is_tried_again_makes_no_second() -> Result<()> {
    let stage = Stage::new("k10")?;
    let snapshot = "  snapshot:\n    schedule: \"0 4 * * *\"\n    retention: 7d\n";
    stage.namespace.apply(&kryton("shelf", "k10/shelf", snapshot))?;
    let (_, message) = stage.condition("shelf", "SnapshotConfigured", "True", LATER)?;
    assert!(message.contains("shelf-data"), "the claim is found: {message}");
    let role = stage.namespace.get("role", "shelf-snapshot")?.context("the Role")?;
    assert_eq!(
        role["rules"],
        json!([{
            "apiGroups": ["snapshot.storage.k8s.io"], "resources": ["volumesnapshots"],
            "verbs": ["get", "list", "create", "delete"],
        }])
    );
    stage.condition("shelf", "Ready", "True", LATER)?;
    for _ in 0..2 {
        let job = stage.run_now("shelf-snapshot", 29_395_860)?;
        ensure!(stage.ended(&job)?, "{}", stage.namespace.of_job(&job));
        stage.namespace.kubectl(&["delete", "job", &job])?;
    }
    assert_eq!(snapshots(&stage)?, ["shelf-20251121t190000z"]);
    let made = stage.namespace.get("volumesnapshot", "shelf-20251121t190000z")?.context("the snapshot")?;
    assert_eq!(made["spec"]["source"]["persistentVolumeClaimName"], "shelf-data");
    assert_eq!(made["status"]["readyToUse"], true);

    let patch = r#"[{"op": "remove", "path": "/spec/snapshot"}]"#;
    stage.namespace.kubectl(&["patch", "kryton", "shelf", "--type=json", "--patch", patch])?;
    for kind in ["cronjob", "role", "rolebinding", "serviceaccount"] {
        stage
            .namespace
            .wait(&format!("the {kind} to go"), SOON, || Ok(stage.namespace.get(kind, "shelf-snapshot")?.is_none()))?;
    }
    assert!(stage.namespace.get("volumesnapshot", "shelf-20251121t190000z")?.is_some(), "data stay");
    Ok(())
}

#[test]
fn k11_old_snapshots_go_and_the_newest_stays() -> Result<()> {
    let stage = Stage::new("k11")?;
    let snapshot = "  snapshot:\n    schedule: \"0 4 * * *\"\n    retention: 1s\n";
    stage.namespace.apply(&kryton("shelf", "k11/shelf", snapshot))?;
    stage.condition("shelf", "Ready", "True", LATER)?;
    stage.condition("shelf", "SnapshotConfigured", "True", SOON)?;
    for (minute, only) in [(29_395_860, "shelf-20251121t190000z"), (29_395_920, "shelf-20251121t200000z")] {
        let job = stage.run_now("shelf-snapshot", minute)?;
        ensure!(stage.ended(&job)?, "{}", stage.namespace.of_job(&job));
        assert_eq!(snapshots(&stage)?, [only]);
        std::thread::sleep(std::time::Duration::from_secs(2));
    }
    Ok(())
}

#[test]
fn k13_a_snapshot_that_cannot_be_taken_is_told_ends_in_time_and_leaves_nothing() -> Result<()> {
    let stage = Stage::new("k13")?;
    let snapshot =
        "  snapshot:\n    schedule: \"0 4 * * *\"\n    volumeSnapshotClassName: nobodys\n    retention: 1s\n";
    stage.namespace.apply(&kryton("shelf", "k13/shelf", snapshot))?;
    stage.condition("shelf", "SnapshotConfigured", "True", LATER)?;
    let (reason, _) = stage.condition("shelf", "SnapshotTaken", "Unknown", SOON)?;
    assert_eq!(reason, "NotYet");

    let name = "shelf-snapshot-29395860";
    let made = ["create", "job", "--from=cronjob/shelf-snapshot", name, "--dry-run=client", "--output=json"];
    let mut job: Value = serde_json::from_str(&stage.namespace.kubectl(&made)?)?;
    let command = job["spec"]["template"]["spec"]["containers"][0]["command"].as_array_mut().context("its command")?;
    command.push(json!("--patience=40s"));
    job["spec"]["backoffLimit"] = json!(0);
    stage.namespace.apply(&job.to_string())?;
    // While it is still hoped for, as the cluster says it.
    let (reason, message) = stage.condition("shelf", "SnapshotTaken", "False", LATER)?;
    assert!(reason == "SnapshotFailing" && message.contains("nobodys"), "{reason}: {message}");
    ensure!(!stage.ended(name)?, "there is no such class");
    stage.namespace.wait("the end to be told", SOON, || {
        let now = stage.namespace.condition("kryton", "shelf", "SnapshotTaken")?;
        Ok(now.is_some_and(|(_, reason, message)| reason == "SnapshotFailed" && message.contains("nobodys")))
    })?;
    stage.namespace.wait("what nobody can use to go", SOON, || Ok(snapshots(&stage)?.is_empty()))?;

    let patch = r#"{"spec": {"snapshot": {"volumeSnapshotClassName": null}}}"#;
    stage.namespace.kubectl(&["patch", "kryton", "shelf", "--type=merge", "--patch", patch])?;
    stage.namespace.wait("the class of the cluster", SOON, || {
        let cron = stage.namespace.get("cronjob", "shelf-snapshot")?.context("the CronJob")?;
        Ok(!cron.to_string().contains("nobodys"))
    })?;
    let job = stage.run_now("shelf-snapshot", 29_395_920)?;
    ensure!(stage.ended(&job)?, "{}", stage.namespace.of_job(&job));
    let (reason, message) = stage.condition("shelf", "SnapshotTaken", "True", SOON)?;
    assert!(reason == "Taken" && message.contains("shelf-20251121t200000z"), "{reason}: {message}");
    Ok(())
}

/// The names of the snapshots that are there.
fn snapshots(stage: &Stage) -> Result<Vec<String>> {
    let all = stage.namespace.cluster.list(&stage.namespace.name, "volumesnapshots", "")?;
    Ok(all.iter().map(|one| one["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect())
}
