//! Snapshots of the notes.

use anyhow::{Context, Result, ensure};
use serde_json::json;

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
        ensure!(stage.ended(&job)?, "{}", stage.namespace.kubectl(&["logs", &format!("job/{job}")])?);
        stage.namespace.kubectl(&["delete", "job", &job])?;
    }
    let all = stage.namespace.kubectl(&["get", "volumesnapshots", "--output=name"])?;
    assert_eq!(all.trim(), "volumesnapshot.snapshot.storage.k8s.io/shelf-20251121t190000z");
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
        ensure!(stage.ended(&job)?, "{}", stage.namespace.kubectl(&["logs", &format!("job/{job}")])?);
        let all = stage.namespace.kubectl(&["get", "volumesnapshots", "--output=name"])?;
        assert_eq!(all.trim(), format!("volumesnapshot.snapshot.storage.k8s.io/{only}"));
        std::thread::sleep(std::time::Duration::from_secs(2));
    }
    Ok(())
}
