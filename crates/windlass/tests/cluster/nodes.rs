//! Nodes that are cut off, come back, or never do.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use windlass_testkit::cluster::Namespace;
use windlass_testkit::process::run;

use crate::misfortunes::{failing, prefix};
use crate::pods::files;
use crate::restores::restore;
use crate::stage::{LATER, SOON, Stage, kryton};

/// The minute of the first run of a story; the next has the next.
const FIRST: u64 = 29_395_860;

/// The kubelet does not answer for a while, as that of a node which is cut off; what runs on the node goes on.
struct CutOff(u32);

impl CutOff {
    fn node() -> Result<Self> {
        let found = run(Command::new("pgrep").args(["--exact", "kubelet"]))?;
        let pid = found.trim().parse().context("one kubelet")?;
        run(Command::new("kill").args(["-STOP", found.trim()]))?;
        Ok(Self(pid))
    }
}

impl Drop for CutOff {
    fn drop(&mut self) {
        let _ = run(Command::new("kill").args(["-CONT", &self.0.to_string()]));
    }
}

#[test]
fn k45_a_node_that_is_given_up_and_finishes_all_the_same_makes_no_second_point() -> Result<()> {
    let stage = Stage::new("k45")?;
    stage.ready(&kryton("shelf", "k45/shelf", ""))?;
    stage.fill()?;
    let job = stage.run_now("shelf-backup", FIRST)?;
    let (dump, pod) = stage.dump_stopped(&job)?;
    {
        let _cut_off = CutOff::node()?;
        // What the garbage collector does to the Pods of a node that is no more.
        stage.namespace.kubectl(&["delete", "pod", &pod, "--force", "--grace-period=0"])?;
        dump.go_on()?;
        let manifest = || files(&prefix("k45").join(".windlass"), "/component.");
        stage.namespace.wait("the manifest of who was given up", LATER, || Ok(manifest()? == 1))?;
    }
    ensure!(stage.ended(&job)?, "the second attempt failed");
    let second = stage.pod_of(&job)?.context("the second Pod")?;
    assert_ne!(second["metadata"]["name"], Value::String(pod));
    stage.committed(&job)?;
    stage.has_exactly(1, &prefix("k45"))
}

/// A node of which there is but the entry: as one whose machine burnt down. Pods come to it by name, and nothing of them runs.
struct Ghost<'a> {
    namespace: &'a Namespace,
    name: String,
}

impl<'a> Ghost<'a> {
    fn appear(namespace: &'a Namespace) -> Result<Self> {
        let ghost = Self { namespace, name: format!("ghost-{}", namespace.name) };
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": ghost.name, "labels": { "ghost": ghost.name } },
            // Other stories have nothing to do with it.
            "spec": { "taints": [{ "key": "ghost", "effect": "NoSchedule" }] },
        });
        namespace.cluster.kubectl_with(&["create", "--filename=-"], &node.to_string())?;
        let room = json!({ "cpu": "4", "memory": "8Gi", "pods": "10", "ephemeral-storage": "10Gi" });
        let ready = json!([{ "type": "Ready", "status": "True", "reason": "KubeletReady" }]);
        let status = json!({ "status": { "capacity": room, "allocatable": room, "conditions": ready } }).to_string();
        namespace.cluster.kubectl(&["patch", "node", &ghost.name, "--subresource=status", "--patch", &status])?;
        Ok(ghost)
    }

    /// Has a Pod go there rather than anywhere else, and stay for five seconds once nobody answers there.
    fn lure(&self, spec: &mut Value) {
        let pod = &mut spec["template"]["spec"];
        let on = json!({ "matchExpressions": [{ "key": "ghost", "operator": "In", "values": [self.name] }] });
        pod["affinity"]["nodeAffinity"] =
            json!({ "preferredDuringSchedulingIgnoredDuringExecution": [{ "weight": 100, "preference": on }] });
        let away =
            |key: &str| json!({ "key": key, "effect": "NoExecute", "operator": "Exists", "tolerationSeconds": 5 });
        pod["tolerations"] = json!([
            { "key": "ghost", "operator": "Exists" },
            away("node.kubernetes.io/unreachable"),
            away("node.kubernetes.io/not-ready"),
        ]);
    }

    /// Says what its kubelet would have said before the machine was gone: the Pod's containers run.
    fn pretend(&self, pod: &str) -> Result<()> {
        let now = "2026-11-21T10:00:00Z";
        let running = json!({ "name": "backup", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "state": { "running": { "startedAt": now } } });
        let conditions = json!([
            { "type": "PodScheduled", "status": "True" },
            { "type": "ContainersReady", "status": "True" },
            { "type": "Ready", "status": "True" },
        ]);
        let status =
            json!({ "status": { "phase": "Running", "conditions": conditions, "containerStatuses": [running] } });
        self.namespace.kubectl(&["patch", "pod", pod, "--subresource=status", "--patch", &status.to_string()]).map(drop)
    }
}

impl Drop for Ghost<'_> {
    fn drop(&mut self) {
        let _ = self.namespace.cluster.kubectl(&["delete", "node", &self.name, "--ignore-not-found"]);
    }
}

#[test]
fn k80_a_backup_whose_node_never_comes_back_is_told_so_and_holds_up_no_other() -> Result<()> {
    let stage = Stage::new("k80")?;
    stage.ready(&kryton("shelf", "k80/shelf", ""))?;
    let ghost = Ghost::appear(&stage.namespace)?;
    let job = stage.run_altered(FIRST, |spec| ghost.lure(spec))?;
    let mut first = Value::Null;
    stage.namespace.wait("the Pod to be placed", SOON, || {
        first = stage.pod_of(&job)?.unwrap_or_default();
        Ok(first["spec"]["nodeName"] == ghost.name.as_str())
    })?;
    let name = first["metadata"]["name"].as_str().context("its name")?;
    ghost.pretend(name)?;
    let told = failing(&stage, &job, "does not answer")?;
    assert!(told.contains(&ghost.name), "{told}");
    // Another attempt is made elsewhere.
    stage.committed(&job)?;
    // As long as the Pod is there the Job is not over, and no other run would begin.
    ensure!(stage.ended(&job)?, "the second attempt failed");
    stage.backs_up(FIRST + 1)?;
    stage.has_exactly(2, &prefix("k80"))
}

/// The private databases of restores. The one that is replaced need not be there.
fn databases(stage: &Stage) -> Result<String> {
    let psql = ["psql", "--no-psqlrc", "--tuples-only", "--no-align", "--username=postgres", "--dbname=postgres"];
    let command = ["--command", "select datname from pg_database where datname like 'windlass%'"];
    stage.namespace.kubectl(&[&["exec", "shelf-postgresql-0", "--"], &psql[..], &command].concat())
}

#[test]
fn k81_a_node_that_is_given_up_while_a_database_is_laid_down_on_it_is_no_end_of_the_restore() -> Result<()> {
    let stage = Stage::alone("k81")?;
    stage.ready(&kryton("shelf", "k81/shelf", ""))?;
    stage.write("shelf", "monday")?;
    stage.fill()?;
    stage.backed_up("shelf", FIRST)?;
    stage.write("shelf", "tuesday")?;
    stage.namespace.apply(&restore("back", ""))?;
    stage.confirm("back")?;
    let mut first = Value::Null;
    stage.namespace.wait("the database to be laid down", LATER, || {
        first = stage.pod_of("back-lay-down")?.unwrap_or_default();
        Ok(first["status"]["phase"] == "Running" && databases(&stage)?.lines().any(|name| name.ends_with("new")))
    })?;
    let pod = first["metadata"]["name"].as_str().context("its name")?;
    {
        let _cut_off = CutOff::node()?;
        stage.namespace.kubectl(&["delete", "pod", pod, "--wait=false"])?;
        // A second one might work on the database beside the first.
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(stage.pod_of("back-lay-down")?.context("the Pod")?["metadata"]["name"], pod);
        // What the garbage collector does to the Pods of a node that somebody has removed.
        let failed = json!({ "status": { "phase": "Failed" } }).to_string();
        stage.namespace.kubectl(&["patch", "pod", pod, "--subresource=status", "--patch", &failed])?;
        stage.namespace.kubectl(&["delete", "pod", pod, "--force", "--grace-period=0"])?;
    }
    let restored = stage.phase("back", "Restored")?;
    let second = stage.pod_of("back-lay-down")?.context("the second Pod")?;
    assert_ne!(second["metadata"]["name"], first["metadata"]["name"]);
    assert_eq!(stage.titles("shelf")?, ["monday"], "{restored:#}");
    let private = databases(&stage)?;
    assert!(private.trim().ends_with("old") && private.lines().count() == 1, "of the first attempt is left: {private}");
    stage.set("back", "old", "PutBack")?;
    stage.phase("back", "PutBack")?;
    assert_eq!(stage.titles("shelf")?, ["monday", "tuesday"]);
    stage.namespace.kubectl(&["delete", "restore", "back", "--timeout=60s"]).map(drop)
}
