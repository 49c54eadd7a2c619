//! Backups: from the object that asks for them to the dump that stock tools read.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use windlass_testkit::s3::{ACCESS_KEY, SECRET_KEY};

use crate::stage::{LATER, SOON, Stage, dumps, kryton, listed};

#[test]
fn k02_one_object_is_left_by_a_run_and_stock_pg_restore_reads_it() -> Result<()> {
    let stage = Stage::new("k02")?;
    stage.namespace.apply(&kryton("shelf", "k02/shelf", "  values: {}\n"))?;
    stage.condition("shelf", "BackupConfigured", "True", LATER)?;
    let cron = stage.namespace.get("cronjob", "shelf-backup")?.context("the CronJob")?;
    let owner = &cron["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["name"], &owner["controller"]),
        (&json!("Kryton"), &json!("shelf"), &json!(true))
    );
    let spec = &cron["spec"];
    assert_eq!(spec["schedule"], "0 3 * * *");
    assert_eq!(spec["timeZone"], "Etc/UTC");
    assert_eq!(spec["concurrencyPolicy"], "Forbid");
    assert_eq!((&spec["successfulJobsHistoryLimit"], &spec["failedJobsHistoryLimit"]), (&json!(3), &json!(3)));
    assert_eq!(spec["jobTemplate"]["spec"]["backoffLimit"], 2);
    let pod = &spec["jobTemplate"]["spec"]["template"]["spec"];
    assert_eq!(pod["restartPolicy"], "OnFailure");
    assert_eq!(pod["automountServiceAccountToken"], false);
    stage.condition("shelf", "Ready", "True", LATER)?;
    stage.condition("shelf", "DatabaseReachable", "True", LATER)?;

    let job = stage.run_now("shelf-backup", 29_395_860)?;
    ensure!(stage.ended(&job)?, "the Job failed: {}", stage.namespace.of_job(&job));
    // The moment it was scheduled for, not the one it ran.
    assert_eq!(dumps("k02/shelf")?, ["kryton-20251121T190000Z.dump"]);
    match listed("k02/shelf", "kryton-20251121T190000Z.dump") {
        Ok(list) => assert!(list.contains("notes"), "{list}"),
        // A dump of a server that is newer than this machine's tools: they say so, and read no further.
        Err(error) => assert!(format!("{error:#}").contains("unsupported version"), "{error:#}"),
    }

    let (reason, message) = stage.condition("shelf", "BackedUp", "True", SOON)?;
    assert_eq!(reason, "Committed", "{message}");
    let status = stage.status("shelf")?;
    assert_eq!(status["backup"]["lastObject"], "kryton-20251121T190000Z.dump");
    assert_eq!(status["backup"]["lastVerifiedLevel"], "read");
    assert_eq!(status["backup"]["points"], 1);
    // Read back, but never restored: that is not protected.
    let (reason, message) = stage.condition("shelf", "Protected", "False", SOON)?;
    assert_eq!(reason, "NotProven", "{message}");

    stage.namespace.kubectl(&["delete", "kryton", "shelf", "--timeout=90s"])?;
    stage
        .namespace
        .wait("the CronJob to go", SOON, || Ok(stage.namespace.get("cronjob", "shelf-backup")?.is_none()))?;
    assert_eq!(dumps("k02/shelf")?, ["kryton-20251121T190000Z.dump"], "data stay");
    Ok(())
}

#[test]
fn k03_two_never_share_a_prefix_and_one_that_begins_alike_is_another() -> Result<()> {
    let stage = Stage::new("k03")?;
    let values = "  values: {}\n";
    stage.namespace.apply(&kryton("one", "k03/shared", values))?;
    stage.condition("one", "RepositoryReady", "True", LATER)?;
    stage.namespace.apply(&kryton("two", "k03/shared", values))?;
    let (reason, message) = stage.condition("two", "RepositoryReady", "False", LATER)?;
    assert_eq!(reason, "PrefixTaken", "{message}");
    assert!(message.contains("/one"), "{message}");
    stage.namespace.apply(&kryton("three", "k03/shared2", values))?;
    stage.condition("three", "RepositoryReady", "True", LATER)?;
    Ok(())
}

#[test]
fn k04_a_secret_that_is_missing_or_malformed_is_named_and_its_coming_noticed_at_once() -> Result<()> {
    let stage = Stage::new("k04")?;
    let kryton = kryton("shelf", "k04/shelf", "").replace("kryton-backup-creds", "late");
    stage.namespace.apply(&kryton)?;
    let (reason, message) = stage.condition("shelf", "BackupConfigured", "False", SOON)?;
    assert_eq!(reason, "SecretMissing", "{message}");
    assert!(message.contains("`late`"), "{message}");
    stage.namespace.secret("late", &[("OBJECT_STORE_ACCESS_KEY", ACCESS_KEY), ("SECRET", SECRET_KEY)])?;
    stage.namespace.wait("the fault to be another", SOON, || {
        let now = stage.namespace.condition("kryton", "shelf", "BackupConfigured")?;
        Ok(now.is_some_and(|(_, reason, message)| {
            reason == "SecretMalformed" && message.contains("OBJECT_STORE_SECRET_KEY")
        }))
    })?;
    stage
        .namespace
        .secret("late", &[("OBJECT_STORE_ACCESS_KEY", ACCESS_KEY), ("OBJECT_STORE_SECRET_KEY", SECRET_KEY)])?;
    stage.condition("shelf", "BackupConfigured", "True", LATER)?;
    stage.condition("shelf", "RepositoryReady", "True", SOON)?;
    // Wrong ones are told from an outage, and nothing else of the object suffers.
    stage.namespace.secret("late", &[("OBJECT_STORE_ACCESS_KEY", ACCESS_KEY), ("OBJECT_STORE_SECRET_KEY", "wrong")])?;
    let (_, message) = stage.condition("shelf", "RepositoryReady", "False", SOON)?;
    assert!(!message.contains("wrong"), "{message}");
    stage.condition("shelf", "Released", "True", SOON)?;
    Ok(())
}

#[test]
fn k07_a_database_that_cannot_be_reached_is_told_before_the_first_schedule_and_looked_at_again() -> Result<()> {
    let stage = Stage::new("k07")?;
    stage.namespace.apply(&kryton("shelf", "k07/shelf", ""))?;
    stage.condition("shelf", "DatabaseReachable", "True", LATER)?;
    let patch = r#"{"spec": {"backup": {"connection": {"database": "elsewhere"}}}}"#;
    stage.namespace.kubectl(&["patch", "kryton", "shelf", "--type=merge", "--patch", patch])?;
    let (reason, message) = stage.condition("shelf", "DatabaseReachable", "False", LATER)?;
    assert_eq!(reason, "NotReachable", "{message}");
    assert!(message.contains("elsewhere"), "{message}");

    let of_looks = "--selector=app.kubernetes.io/component=preflight";
    let looks = stage.namespace.kubectl(&["get", "jobs", of_looks, "--output=json"])?;
    let looks: Value = serde_json::from_str(&looks)?;
    let unfinished = |job: &&Value| job["status"]["completionTime"].is_null();
    let look = looks["items"].as_array().and_then(|all| all.iter().find(unfinished)).context("the look")?;
    let job = look["metadata"]["name"].as_str().context("its name")?;
    // As it is a quarter of an hour after its last attempt.
    let ended = |type_: &str| json!({ "type": type_, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" });
    let status =
        json!({ "active": 0, "ready": 0, "terminating": 0, "conditions": [ended("FailureTarget"), ended("Failed")] });
    let patch = json!({ "status": status }).to_string();
    // Not while an attempt that has ended is being counted.
    stage.namespace.wait("the look to be taken for over", SOON, || {
        let patch = ["patch", "job", job, "--subresource=status", "--type=merge", "--patch", &patch];
        Ok(stage.namespace.kubectl(&patch).is_ok())
    })?;
    stage.namespace.wait("another look", SOON, || {
        let now = stage.namespace.get("job", job)?;
        Ok(now.is_some_and(|now| now["metadata"]["uid"] != look["metadata"]["uid"]))
    })
}

#[test]
fn k05_clearing_backup_removes_what_was_made_for_it_and_no_data() -> Result<()> {
    let stage = Stage::new("k05")?;
    stage.namespace.apply(&kryton("shelf", "k05/shelf", ""))?;
    stage.condition("shelf", "Ready", "True", LATER)?;
    stage.condition("shelf", "DatabaseReachable", "True", LATER)?;
    let job = stage.run_now("shelf-backup", 29_395_860)?;
    ensure!(stage.ended(&job)?, "the Job failed");
    let patch = r#"[{"op": "remove", "path": "/spec/backup"}]"#;
    stage.namespace.kubectl(&["patch", "kryton", "shelf", "--type=json", "--patch", patch])?;
    for kind in ["cronjob", "configmap"] {
        stage
            .namespace
            .wait(&format!("the {kind} to go"), SOON, || Ok(stage.namespace.get(kind, "shelf-backup")?.is_none()))?;
    }
    assert_eq!(dumps("k05/shelf")?.len(), 1);
    Ok(())
}

#[test]
fn k06_no_secret_is_in_arguments_logs_events_or_status() -> Result<()> {
    let stage = Stage::new("k06")?;
    stage.namespace.apply(&kryton("shelf", "k06/shelf", ""))?;
    stage.condition("shelf", "Ready", "True", LATER)?;
    stage.condition("shelf", "DatabaseReachable", "True", LATER)?;
    let job = stage.run_now("shelf-backup", 29_395_860)?;
    ensure!(stage.ended(&job)?, "the Job failed");
    let secret =
        stage.namespace.kubectl(&["get", "secret", "shelf-postgresql", "--output=jsonpath={.data.password}"])?;
    let password = base64(&secret)?;
    ensure!(password.len() >= 8, "a password");
    let everything = [
        stage.namespace.kubectl(&["get", "krytons,cronjobs,jobs,pods,events,configmaps", "--output=json"])?,
        stage.namespace.kubectl(&["logs", &format!("job/{job}"), "--all-containers"])?,
        stage.namespace.cluster.kubectl(&["--namespace=windlass-system", "logs", "deployment/windlass-operator"])?,
    ];
    for text in everything {
        for secret in [password.as_str(), SECRET_KEY] {
            assert!(!text.contains(secret), "a secret in:\n{text}");
        }
    }
    Ok(())
}

fn base64(text: &str) -> Result<String> {
    use ::base64::Engine;
    Ok(String::from_utf8(::base64::prelude::BASE64_STANDARD.decode(text.trim())?)?)
}
