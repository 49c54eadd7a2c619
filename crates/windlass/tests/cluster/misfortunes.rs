//! What befalls the Pods of backups: each is told, and over once its cause is gone.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use windlass_testkit::s3::BUCKET;

use crate::pods::{dumps_in, files};
use crate::stage::{DUMPER, LATER, SOON, Stage, kryton, store};

/// The minute of the first run of a story; the next has the next.
const FIRST: u64 = 29_395_860;

pub(crate) fn prefix(name: &str) -> PathBuf {
    store().folder().join(BUCKET).join(name).join("shelf")
}

/// Waits until the last run is told to fail for a reason.
pub(crate) fn failing(stage: &Stage, job: &str, because: &str) -> Result<String> {
    let mut told = String::new();
    stage.namespace.wait(&format!("{job} to be told to fail: {because}"), LATER, || {
        let now = stage.namespace.condition("kryton", "shelf", "BackedUp")?;
        let Some((status, reason, message)) = now else { return Ok(false) };
        told = format!("{reason}: {message}");
        Ok(status == "False" && reason == "BackupFailing" && message.contains(job) && message.contains(because))
    })?;
    stage.tells("BackupFailing", because)?;
    Ok(told)
}

/// Waits until a run is told to have failed for a reason.
fn failed(stage: &Stage, job: &str, because: &str) -> Result<()> {
    ensure!(!stage.ended(job)?, "{job} ended well");
    stage.namespace.wait(&format!("{job} to be told to have failed: {because}"), LATER, || {
        let now = stage.namespace.condition("kryton", "shelf", "BackedUp")?;
        Ok(now.is_some_and(|(status, reason, message)| {
            status == "False" && reason == "BackupFailed" && message.contains(job) && message.contains(because)
        }))
    })?;
    stage.tells("BackupFailed", because)
}

#[test]
fn k40_an_image_that_is_not_there_is_told_at_once_and_what_waits_for_it_ends_with_it() -> Result<()> {
    let stage = Stage::new("k40")?;
    let wrong = "docker.io/library/nowhere:1";
    stage.namespace.apply(&kryton("shelf", "k40/shelf", "").replace(DUMPER, wrong))?;
    stage.condition("shelf", "Ready", "True", LATER)?;
    let (reason, message) = stage.condition("shelf", "DatabaseReachable", "False", LATER)?;
    assert_eq!(reason, "NotReachable", "{message}");
    assert!(message.contains("ImagePull") && message.contains(wrong), "{message}");
    let job = stage.run_now("shelf-backup", FIRST)?;
    stage.namespace.wait("the Pod to wait for its image", LATER, || {
        Ok(stage.pod_of(&job)?.is_some_and(|pod| pod["status"].to_string().contains("ImagePull")))
    })?;
    let began = Instant::now();
    let told = failing(&stage, &job, "ImagePull")?;
    assert!(told.contains(wrong), "{told}");
    assert!(began.elapsed() < SOON, "it took {:?} to be told", began.elapsed());

    let patch = json!({ "spec": { "backup": { "image": DUMPER } } }).to_string();
    stage.namespace.kubectl(&["patch", "kryton", "shelf", "--type=merge", "--patch", &patch])?;
    stage.condition("shelf", "DatabaseReachable", "True", LATER)?;
    // It would have waited for a day, and no other run would have begun meanwhile.
    stage
        .namespace
        .wait("what waits for the old image to end", SOON, || Ok(stage.namespace.get("job", &job)?.is_none()))?;
    let looks = ["get", "jobs", "--output=name", "--selector=app.kubernetes.io/component=preflight"];
    assert_eq!(stage.namespace.kubectl(&looks)?.lines().count(), 1, "one look, and none that waits for ever");
    stage.backs_up(FIRST + 1)?;
    stage.has_exactly(1, &prefix("k40"))
}

#[test]
fn k41_a_backup_that_the_kernel_killed_for_its_memory_is_told_so() -> Result<()> {
    let stage = Stage::new("k41")?;
    stage.ready(&kryton("shelf", "k41/shelf", ""))?;
    // One value of 100 MB: pg_dump holds all of it at once.
    stage.sql("create table heavy as select repeat('x', 100000000) as text")?;
    stage.namespace.apply(
        "apiVersion: v1\nkind: LimitRange\nmetadata:\n  name: tight\nspec:\n  limits:\n    - type: Container\n      default:\n        memory: 80Mi\n",
    )?;
    let job = stage.run_now("shelf-backup", FIRST)?;
    failing(&stage, &job, "OOMKilled")?;
    // Its Pod is gone with its last attempt, and what it said is not.
    failed(&stage, &job, "OOMKilled")?;
    stage.has_exactly(0, &prefix("k41"))?;
    stage.namespace.kubectl(&["delete", "limitrange", "tight"])?;
    stage.backs_up(FIRST + 1)?;
    stage.has_exactly(1, &prefix("k41"))
}

fn superuser(sql: &str) -> [&str; 9] {
    ["exec", "shelf-postgresql-0", "--", "psql", "-U", "postgres", "kryton", "-c", sql]
}

#[test]
fn k42_a_backup_that_hangs_or_may_not_read_is_told_why_and_leaves_no_session_behind() -> Result<()> {
    let stage = Stage::new("k42")?;
    stage.ready(&kryton("shelf", "k42/shelf", ""))?;
    let gate = "begin; lock table notes in access exclusive mode; select pg_sleep(300)";
    let (namespace, cluster) = (stage.namespace.name.clone(), stage.namespace.cluster.clone());
    let locked = std::thread::spawn(move || {
        let exec =
            ["--namespace", &namespace, "exec", "shelf-postgresql-0", "--", "psql", "-U", "kryton", "kryton", "-c"];
        cluster.kubectl(&[&exec[..], &[gate]].concat())
    });
    let locks = "select count(*) from pg_locks where mode = 'AccessExclusiveLock' and relation = 'notes'::regclass";
    stage.namespace.wait("the lock", SOON, || Ok(stage.sql(locks)? == "1"))?;
    let job = stage.run_altered(FIRST, |spec| spec["activeDeadlineSeconds"] = json!(8))?;
    failed(&stage, &job, "DeadlineExceeded")?;
    stage.sql("select pg_terminate_backend(pid) from pg_stat_activity where query like '%access exclusive%' and pid <> pg_backend_pid()")?;
    let _ = locked.join();
    let ours = "select count(*) from pg_stat_activity where datname = 'kryton' and application_name in ('windlass', 'psql', 'pg_dump') and pid <> pg_backend_pid()";
    stage.namespace.wait("no session to be left", LATER, || Ok(stage.sql(ours)? == "0"))?;
    stage.has_exactly(0, &prefix("k42"))?;

    stage.namespace.kubectl(&superuser("create table forbidden ()"))?;
    let job = stage.run_altered(FIRST + 2, |spec| spec["backoffLimit"] = json!(0))?;
    failed(&stage, &job, "permission denied for table forbidden")?;
    stage.namespace.kubectl(&superuser("drop table forbidden"))?;
    stage.backs_up(FIRST + 3)?;
    stage.has_exactly(1, &prefix("k42"))
}

#[test]
fn k43_a_pod_that_is_gone_after_its_upload_and_before_its_end_makes_no_second_point() -> Result<()> {
    let stage = Stage::new("k43")?;
    stage.ready(&kryton("shelf", "k43/shelf", ""))?;
    // The agent is done, and its Pod not yet.
    let job = stage.run_altered(FIRST, |spec| {
        let container = &mut spec["template"]["spec"]["containers"][0];
        container["command"] =
            json!(["sh", "-c", "/windlass/windlass agent run /etc/windlass/task/task.json && sleep 7"]);
    })?;
    let manifest = || files(&prefix("k43").join(".windlass"), "/component.");
    stage.namespace.wait("the manifest", LATER, || Ok(manifest()? == 1))?;
    let first = stage.pod_of(&job)?.context("the Pod")?;
    let name = first["metadata"]["name"].as_str().context("its name")?;
    stage.namespace.kubectl(&["delete", "pod", name, "--force", "--grace-period=0"])?;
    ensure!(stage.ended(&job)?, "the second attempt failed");
    let second = stage.pod_of(&job)?.context("the second Pod")?;
    assert_ne!(first["metadata"]["uid"], second["metadata"]["uid"]);
    stage.committed(&job)?;
    stage.has_exactly(1, &prefix("k43"))
}

#[test]
fn k44_an_evicted_backup_is_tried_again_and_leaves_one_point() -> Result<()> {
    let stage = Stage::new("k44")?;
    stage.ready(&kryton("shelf", "k44/shelf", ""))?;
    stage.fill()?;
    let job = stage.run_now("shelf-backup", FIRST)?;
    let (dump, pod) = stage.dump_stopped(&job)?;
    let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": pod } }).to_string();
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", stage.namespace.name);
    let (taken, said) = stage.namespace.cluster.kubectl_with(&["create", "--raw", &path, "--filename=-"], &eviction)?;
    ensure!(taken, "{said}");
    stage
        .namespace
        .wait("the Pod to go", LATER, || Ok(!std::path::Path::new(&format!("/proc/{}", dump.pid)).exists()))?;
    assert_eq!(dumps_in(&prefix("k44"))?.len(), 0, "nothing half is to be seen");
    ensure!(stage.ended(&job)?, "the second attempt failed");
    stage.committed(&job)?;
    stage.has_exactly(1, &prefix("k44"))
}

#[test]
fn k83_a_backup_that_the_node_ends_for_want_of_disk_is_told_why_and_tried_again() -> Result<()> {
    let stage = Stage::new("k83")?;
    stage.ready(&kryton("shelf", "k83/shelf", ""))?;
    stage.fill()?;
    // Less than our own binary takes in the Pod.
    stage.namespace.apply(
        "apiVersion: v1\nkind: LimitRange\nmetadata:\n  name: cramped\nspec:\n  limits:\n    - type: Container\n      default:\n        ephemeral-storage: 1Mi\n",
    )?;
    let job = stage.run_now("shelf-backup", FIRST)?;
    let (dump, _) = stage.dump_stopped(&job)?;
    failing(&stage, &job, "ephemeral local storage usage exceeds")?;
    stage.namespace.kubectl(&["delete", "limitrange", "cramped"])?;
    stage
        .namespace
        .wait("the dump to be ended", LATER, || Ok(!std::path::Path::new(&format!("/proc/{}", dump.pid)).exists()))?;
    ensure!(stage.ended(&job)?, "the second attempt failed");
    stage.committed(&job)?;
    stage.has_exactly(1, &prefix("k83"))
}

#[test]
fn k46_a_backup_for_which_no_pod_can_be_made_or_placed_is_told_why() -> Result<()> {
    let stage = Stage::new("k46")?;
    // What we make, and the chart, keep the strictest of the standard rules.
    let strict = "pod-security.kubernetes.io/enforce=restricted";
    stage.namespace.cluster.kubectl(&["label", "namespace", &stage.namespace.name, strict])?;
    stage.ready(&kryton("shelf", "k46/shelf", ""))?;
    stage
        .namespace
        .apply("apiVersion: v1\nkind: ResourceQuota\nmetadata:\n  name: full\nspec:\n  hard:\n    pods: \"1\"\n")?;
    stage.namespace.wait("the quota to be counted", SOON, || {
        Ok(stage
            .namespace
            .get("resourcequota", "full")?
            .is_some_and(|quota| quota["status"]["used"]["pods"].is_string()))
    })?;
    let job = stage.run_now("shelf-backup", FIRST)?;
    let told = failing(&stage, &job, "exceeded quota: full")?;
    assert!(told.contains("no Pod is made for it"), "{told}");
    stage.namespace.kubectl(&["delete", "resourcequota", "full"])?;
    ensure!(stage.ended(&job)?, "it did not begin when there was room");
    stage.committed(&job)?;

    let label = format!("misfortune-{}", stage.namespace.name);
    let job =
        stage.run_altered(FIRST + 1, |spec| spec["template"]["spec"]["nodeSelector"] = json!({ &label: "yes" }))?;
    failing(&stage, &job, "Unschedulable")?;
    stage.namespace.cluster.kubectl(&["label", "node", "node", &format!("{label}=yes")])?;
    let ended = stage.ended(&job);
    stage.namespace.cluster.kubectl(&["label", "node", "node", &format!("{label}-")])?;
    ensure!(ended?, "it did not begin when there was a node");
    stage.committed(&job)?;
    stage.has_exactly(2, &prefix("k46"))
}
