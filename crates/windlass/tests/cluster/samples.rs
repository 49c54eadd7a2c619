//! What `config/samples` shows, as a user would apply it; and a store that speaks TLS.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use windlass_core::hex;
use windlass_testkit::cluster::HOST;
use windlass_testkit::s3::{BUCKET, Kind, S3Server};

use crate::plugins::{PLUGIN, served};
use crate::pods::dumps_in;
use crate::stage::{DUMPER, LATER, SOON, Stage, kryton, store};

const FIRST: u64 = 29_395_860;

/// A sample, with what it asks its user to put in.
fn sample(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/samples").join(name);
    let text = std::fs::read_to_string(path)?;
    // The server of the cluster for tests is newer than its image `postgres:16`.
    let image = format!("  backup:\n    image: {DUMPER}\n");
    Ok(text
        .replace("  backup:\n", &image)
        .replace("bucket: kryton-backups", &format!("bucket: {BUCKET}"))
        .replace("https://minio.kw.local", &store().endpoint())
        .replace("https://example.com/plugins", &served()?)
        .replace(&"0".repeat(64), &hex::sha256(PLUGIN)))
}

#[test]
fn k50_the_samples_run_and_leave_what_they_should() -> Result<()> {
    let stage = Stage::new("k50")?;
    for name in ["kryton", "kryton_minimal", "kryton_multi", "kryton_with_plugins"] {
        stage.namespace.apply(&sample(&format!("kryton_v1alpha1_{name}.yaml"))?)?;
    }
    let all = ["kryton-sample", "kryton-minimal", "kryton-team-a", "kryton-team-b", "kryton-with-plugins"];
    for name in all {
        stage.condition(name, "Ready", "True", LATER)?;
    }
    stage.condition("kryton-sample", "RepositoryReady", "True", SOON)?;
    // One of them is to leave nothing.
    let patch = r#"{"spec": {"deletionPolicy": "Delete", "snapshot": {"schedule": "0 4 * * *"}}}"#;
    stage.namespace.kubectl(&["patch", "kryton", "kryton-minimal", "--type=merge", "--patch", patch])?;
    stage.condition("kryton-minimal", "SnapshotConfigured", "True", SOON)?;
    for cron in ["kryton-sample-backup", "kryton-sample-snapshot", "kryton-minimal-snapshot"] {
        let job = stage.run_now(cron, FIRST)?;
        ensure!(stage.ended(&job)?, "{}", stage.namespace.of_job(&job));
    }
    stage.condition("kryton-sample", "BackedUp", "True", SOON)?;
    let dumps = || dumps_in(&store().folder().join(BUCKET).join("kryton-sample"));
    assert_eq!(dumps()?, ["kryton-20251121T190000Z.dump"]);
    let listed = |kinds: &str| stage.namespace.kubectl(&["get", kinds, "--output=name"]);
    let all_data = listed("pvc,volumesnapshots")?;
    let of_minimal = |data: &&str| data.contains("kryton-minimal");
    assert_eq!(all_data.lines().filter(of_minimal).count(), 3, "two volumes and a snapshot: {all_data}");
    let kept: Vec<&str> = all_data.lines().filter(|data| !of_minimal(data)).collect();
    assert!(kept.iter().any(|data| data.contains("/kryton-sample-20251121t190000z")), "{kept:?}");

    stage.namespace.kubectl(&[&["delete", "kryton", "--timeout=120s"], &all[..]].concat())?;
    stage.namespace.wait("what was made of them to go", LATER, || {
        Ok(listed("deployments,statefulsets,services,ingresses,cronjobs,jobs,roles")?.trim().is_empty())
    })?;
    stage.namespace.wait("what was to go with its object", SOON, || {
        Ok(!listed("pvc,volumesnapshots,secrets")?.contains("kryton-minimal"))
    })?;
    assert_eq!(listed("pvc,volumesnapshots")?.lines().collect::<Vec<_>>(), kept, "data stay");
    assert_eq!(dumps()?.len(), 1, "data stay");
    Ok(())
}

#[test]
fn k51_a_store_of_another_region_that_speaks_tls_is_asked_as_it_is_said() -> Result<()> {
    let stage = Stage::new("k51")?;
    let server = S3Server::start_with_tls_at(Kind::Versitygw, HOST)?;
    let plain = kryton("shelf", "k51/shelf", "").replace(&store().endpoint(), &server.endpoint());
    stage.namespace.apply(&plain)?;
    let (_, message) = stage.condition("shelf", "RepositoryReady", "False", LATER)?;
    assert!(message.contains("certificate"), "{message}");
    let ca = std::fs::read_to_string(server.ca().context("an authority")?)?;
    stage.namespace.secret("authority", &[("ours.pem", &ca)])?;
    let said = "      caSecretRef:\n        name: authority\n        key: ours.pem\n      region: eu-nowhere-1\n";
    stage.namespace.apply(&plain.replace("      prefix:", &format!("{said}      prefix:")))?;
    stage.namespace.wait("the region to be the wrong one", SOON, || {
        let now = stage.namespace.condition("kryton", "shelf", "RepositoryReady")?;
        Ok(now.is_some_and(|(_, _, message)| message.contains("region")))
    })?;
    stage
        .namespace
        .apply(&plain.replace("      prefix:", &format!("{said}      prefix:").replace("eu-nowhere-1", "us-east-1")))?;
    stage.condition("shelf", "RepositoryReady", "True", LATER)?;
    stage.condition("shelf", "Ready", "True", LATER)?;
    stage.backs_up(FIRST)?;
    stage.has_exactly(1, &server.folder().join(BUCKET).join("k51/shelf"))
}
