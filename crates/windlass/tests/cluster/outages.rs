//! A store that is away, Secrets that are wrong or change, and who may see them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use windlass_testkit::cluster::HOST;
use windlass_testkit::s3::{ACCESS_KEY, BUCKET, Kind, S3Server, SECRET_KEY};

use crate::pods::{Process, dumps_in, processes, running};
use crate::stage::{LATER, SOON, Stage, kryton, store};

/// The minute of the first run of a story; the next has the next.
const FIRST: u64 = 29_395_860;

#[test]
fn k47_a_store_that_is_away_is_told_delays_nobody_else_and_its_return_is_noticed() -> Result<()> {
    let stage = Stage::new("k47")?;
    let mut server = S3Server::start_at(Kind::Versitygw, HOST)?;
    stage.ready(&kryton("shelf", "k47/shelf", "").replace(&store().endpoint(), &server.endpoint()))?;
    // One with another store, and without an application of its own.
    stage
        .namespace
        .secret("other-postgresql", &[("PGHOST", "db"), ("PGUSER", "u"), ("PGPASSWORD", "p"), ("PGDATABASE", "d")])?;
    stage.namespace.apply(&kryton("other", "k47/other", "  values:\n    ingress:\n      host: refused\n"))?;
    stage.condition("other", "RepositoryReady", "True", LATER)?;
    stage.backs_up(FIRST)?;

    server.down();
    // What an hour would bring: two runs that fail, each without a second attempt.
    let mut jobs = Vec::new();
    for minute in [FIRST + 1, FIRST + 2] {
        jobs.push(stage.run_altered(minute, |spec| spec["backoffLimit"] = json!(0))?);
    }
    let (reason, message) = stage.condition("shelf", "RepositoryReady", "False", LATER)?;
    assert_eq!(reason, "StoreUnreachable", "{message}");
    assert!(message.contains(&server.address()), "{message}");
    let (reason, message) = stage.condition("shelf", "Protected", "Unknown", SOON)?;
    assert_eq!(reason, "RepositoryUnreadable");
    assert!(message.contains(&server.address()), "{message}");
    others_are_acted_upon_at_once(&stage)?;
    for job in &jobs {
        ensure!(!stage.ended(job)?, "{job} ended well");
    }
    stage.namespace.wait("the failed run to be told", LATER, || {
        let now = stage.namespace.condition("kryton", "shelf", "BackedUp")?;
        Ok(now.is_some_and(|(status, reason, message)| {
            status == "Unknown"
                && reason == "RepositoryUnreadable"
                && message.contains(jobs.last().map_or("", String::as_str))
        }))
    })?;
    let status = stage.status("shelf")?;
    assert_eq!(status["backup"]["points"], 1, "what was known stays: {status}");

    server.up()?;
    stage.condition("shelf", "RepositoryReady", "True", LATER)?;
    let (reason, _) = stage.condition("shelf", "BackedUp", "False", SOON)?;
    assert_eq!(reason, "BackupFailed");
    let prefix = server.folder().join(BUCKET).join("k47/shelf");
    assert_eq!(dumps_in(&prefix)?.len(), 1, "nothing half: {:?}", dumps_in(&prefix)?);
    stage.backs_up(FIRST + 3)?;
    stage.has_exactly(2, &prefix)
}

/// The same in real time.
#[cfg(feature = "hours")]
#[test]
fn k84_a_store_that_is_away_for_an_hour_costs_its_own_runs_and_nothing_else() -> Result<()> {
    let stage = Stage::new("k84")?;
    let mut server = S3Server::start_at(Kind::Versitygw, HOST)?;
    let often = |name: &str| kryton(name, &format!("k84/{name}"), "").replace("0 3 * * *", "*/10 * * * *");
    stage.ready(&often("shelf").replace(&store().endpoint(), &server.endpoint()))?;
    stage.namespace.apply(&often("other"))?;
    stage.condition("other", "DatabaseReachable", "True", LATER)?;
    let points = |kryton: &str| Ok::<_, anyhow::Error>(stage.status(kryton)?["backup"]["points"].as_i64().unwrap_or(0));
    stage
        .namespace
        .wait("a point of each", Duration::from_mins(12), || Ok(points("shelf")? > 0 && points("other")? > 0))?;
    let (before, others) = (points("shelf")?, points("other")?);

    server.down();
    let began = std::time::Instant::now();
    let mut most = 0;
    while began.elapsed() < Duration::from_hours(1) {
        let jobs =
            stage.namespace.kubectl(&["get", "jobs", "--selector=kryton.azrtydxb.io/name=shelf", "--output=json"])?;
        let jobs: serde_json::Value = serde_json::from_str(&jobs)?;
        let active = |job: &&serde_json::Value| job["status"]["active"].as_i64().unwrap_or(0) > 0;
        most = most.max(jobs["items"].as_array().context("a list")?.iter().filter(active).count());
        std::thread::sleep(Duration::from_secs(5));
    }
    let (reason, _) = stage.condition("shelf", "RepositoryReady", "False", SOON)?;
    assert_eq!(reason, "StoreUnreachable");
    stage.condition("shelf", "Protected", "Unknown", SOON)?;
    let next = || Ok::<_, anyhow::Error>(stage.status("shelf")?["backup"]["nextTime"].as_str().map(str::to_owned));
    let told_next = next()?;
    stage.namespace.wait("a later run to be told as the next", Duration::from_mins(16), || Ok(next()? > told_next))?;
    let events =
        stage.namespace.kubectl(&["get", "events", "--field-selector=involvedObject.name=shelf", "--no-headers"])?;
    let told = events.lines().count();
    assert!(most <= 1, "{most} runs at once");
    assert!(told <= 60, "{told} Events in an hour:\n{events}");
    assert!(points("other")? >= others + 5, "the other had {others} points, and has {}", points("other")?);
    assert_eq!(points("shelf")?, before, "what was known stays");

    server.up()?;
    stage.condition("shelf", "RepositoryReady", "True", Duration::from_mins(7))?;
    stage.namespace.wait("the next run", Duration::from_mins(12), || Ok(points("shelf")? > before))?;
    stage.condition("shelf", "BackedUp", "True", SOON)?;
    let prefix = server.folder().join(BUCKET).join("k84/shelf");
    let dumps = i64::try_from(dumps_in(&prefix)?.len())?;
    assert_eq!(dumps, points("shelf")?, "nothing half: {:?}", dumps_in(&prefix)?);
    println!("{told} Events, {most} run at once");
    Ok(())
}

/// A change to who uses another store: of what is made in the cluster, and of what is seen in the store.
fn others_are_acted_upon_at_once(stage: &Stage) -> Result<()> {
    let patch = json!({ "spec": { "backup": { "schedule": "7 7 * * *", "retention": "9d" } } }).to_string();
    stage.namespace.kubectl(&["patch", "kryton", "other", "--type=merge", "--patch", &patch])?;
    stage.namespace.wait("the schedule and the retention of another", Duration::from_secs(5), || {
        let cron = stage.namespace.get("cronjob", "other-backup")?.context("its CronJob")?;
        let now = stage.namespace.condition("kryton", "other", "RetentionApplied")?;
        let applied = now.is_some_and(|(status, _, message)| status == "True" && message.starts_with("0 kept"));
        Ok(cron["spec"]["schedule"] == "7 7 * * *" && applied)
    })
}

#[test]
fn k48_secrets_that_are_no_text_gone_or_changed_under_way_are_survived() -> Result<()> {
    let stage = Stage::new("k48")?;
    stage.ready(&kryton("shelf", "k48/shelf", ""))?;
    stage.fill()?;
    let credentials = [("OBJECT_STORE_ACCESS_KEY", ACCESS_KEY), ("OBJECT_STORE_SECRET_KEY", SECRET_KEY)];
    let patch = |secret: &str, patch: &serde_json::Value| {
        stage.namespace.kubectl(&["patch", "secret", secret, "--type=merge", "--patch", &patch.to_string()])
    };
    let no_text = BASE64_STANDARD.encode([0xff, 0xfe]);
    patch("kryton-backup-creds", &json!({ "data": { "OBJECT_STORE_SECRET_KEY": no_text } }))?;
    let (reason, message) = stage.condition("shelf", "BackupConfigured", "False", SOON)?;
    assert_eq!(reason, "SecretMalformed", "{message}");
    assert!(message.contains("`OBJECT_STORE_SECRET_KEY`") && message.contains("is no text"), "{message}");

    // A run whose time comes while there is none begins when there is one.
    stage.namespace.kubectl(&["delete", "secret", "kryton-backup-creds"])?;
    let (reason, _) = stage.condition("shelf", "BackupConfigured", "False", SOON)?;
    assert!(["SecretMissing", "SecretMalformed"].contains(&reason.as_str()), "{reason}");
    let job = stage.run_now("shelf-backup", FIRST)?;
    stage.namespace.wait("the Pod to wait for its Secret", SOON, || {
        Ok(stage.pod_of(&job)?.is_some_and(|pod| pod["status"].to_string().contains("CreateContainerConfigError")))
    })?;
    stage.namespace.secret("kryton-backup-creds", &credentials)?;
    ensure!(stage.ended(&job)?, "it did not begin when the Secret was there");
    stage.condition("shelf", "BackupConfigured", "True", SOON)?;
    stage.committed(&job)?;

    let job = stage.run_now("shelf-backup", FIRST + 1)?;
    let (dump, _) = stage.dump_stopped(&job)?;
    stage.sql("alter role kryton password 'another one'")?;
    patch("shelf-postgresql", &json!({ "stringData": { "PGPASSWORD": "another one", "password": "another one" } }))?;
    dump.go_on()?;
    ensure!(stage.ended(&job)?, "whoever was let in before stays in");
    stage.committed(&job)?;
    stage.condition("shelf", "DatabaseReachable", "True", LATER)?;
    stage.backs_up(FIRST + 2)?;
    stage.has_exactly(3, &store().folder().join(BUCKET).join("k48/shelf"))
}

#[test]
fn k49_no_secret_is_to_be_seen_of_what_runs() -> Result<()> {
    const PASSWORD: &str = "a-password-of-the-values";
    let stage = Stage::new("k49")?;
    let values = format!("  values:\n    postgresql:\n      auth:\n        password: {PASSWORD}\n");
    stage.namespace.apply(&kryton("shelf", "k49/shelf", &values))?;
    let mut helm = Vec::new();
    stage.namespace.wait("Helm", LATER, || {
        for _ in 0..50 {
            helm.extend(
                running()?.into_iter().filter(|process| process.is("helm") && process.arguments.contains("upgrade")),
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(!helm.is_empty())
    })?;
    stage.condition("shelf", "Ready", "True", LATER)?;
    stage.condition("shelf", "DatabaseReachable", "True", LATER)?;
    stage.fill()?;
    let job = stage.run_now("shelf-backup", FIRST)?;
    let (dump, pod) = stage.dump_stopped(&job)?;
    let of_pod = processes(&stage.pod_of(&job)?.context("the Pod")?)?;
    for program in ["windlass", "psql", "pg_dump"] {
        ensure!(of_pod.iter().any(|process| process.is(program)), "{program} does not run");
    }
    let arguments =
        |all: &[Process]| all.iter().map(|process| process.arguments.clone()).collect::<Vec<_>>().join("\n");
    let read = |what: &[&str]| stage.namespace.kubectl(what);
    let everything = [
        arguments(&helm),
        arguments(&of_pod),
        read(&["get", "cronjobs,jobs,pods,events,configmaps,deployments,statefulsets", "--output=json"])?,
        stage.status("shelf")?.to_string(),
        read(&["logs", &pod, "--all-containers"])?,
        read(&["logs", "deployment/shelf", "--all-containers"])?,
        stage.namespace.cluster.kubectl(&["--namespace=windlass-system", "logs", "deployment/windlass-operator"])?,
    ];
    dump.go_on()?;
    for text in everything {
        for secret in [PASSWORD, SECRET_KEY] {
            assert!(!text.contains(secret), "a secret in:\n{text}");
            assert!(!text.contains(&BASE64_STANDARD.encode(secret)), "a secret in:\n{text}");
        }
    }
    ensure!(stage.ended(&job)?, "the Job failed");
    stage.committed(&job)
}
