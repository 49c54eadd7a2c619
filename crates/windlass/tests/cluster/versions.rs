//! Definitions that change while work is under way: newer ones, and those of before again.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use windlass_testkit::cluster::Cluster;

use crate::misfortunes::prefix;
use crate::restores::restore;
use crate::stage::{LATER, SOON, Stage, kryton, root};

/// The minute of the first run of a story; the next has the next.
const FIRST: u64 = 29_395_860;

const DEFINITIONS: [&str; 2] = ["krytons.kryton.azrtydxb.io", "restores.windlass.dev"];

/// Definitions as a later version might bring them: fields nobody knows yet, and one more version of each kind.
struct Tomorrow<'a>(&'a Cluster);

impl<'a> Tomorrow<'a> {
    fn comes(cluster: &'a Cluster) -> Result<Self> {
        let tomorrow = Self(cluster);
        for name in DEFINITIONS {
            let definition = cluster.kubectl(&["get", "customresourcedefinition", name, "--output=json"])?;
            let mut spec = serde_json::from_str::<Value>(&definition)?["spec"].take();
            let versions = spec["versions"].as_array_mut().context("its versions")?;
            let version = versions.first_mut().context("a version")?;
            for part in ["spec", "status"] {
                let properties = &mut version["schema"]["openAPIV3Schema"]["properties"][part]["properties"];
                ensure!(properties.is_object(), "{name} has no {part}");
                properties["tomorrow"] = json!({ "type": "string" });
            }
            let mut next = version.clone();
            next["name"] = json!("v1alpha2");
            next["storage"] = json!(false);
            versions.push(next);
            let patch = json!({ "spec": { "versions": versions } }).to_string();
            cluster.kubectl(&["patch", "customresourcedefinition", name, "--type=merge", "--patch", &patch])?;
        }
        Ok(tomorrow)
    }

    /// Has the definitions of today again.
    fn goes(&self) -> Result<()> {
        let bases = root().join("config/crd/bases");
        self.0.kubectl(&["replace", "--filename", &bases.display().to_string()]).map(drop)
    }
}

impl Drop for Tomorrow<'_> {
    fn drop(&mut self) {
        let _ = self.goes();
    }
}

#[test]
fn k82_what_is_under_way_ends_well_though_definitions_change_and_what_is_not_known_stays() -> Result<()> {
    let stage = Stage::alone("k82")?;
    stage.ready(&kryton("shelf", "k82/shelf", ""))?;
    stage.write("shelf", "monday")?;
    stage.fill()?;
    stage.backed_up("shelf", FIRST)?;
    stage.write("shelf", "tuesday")?;
    stage.namespace.apply(&restore("back", ""))?;
    stage.confirm("back")?;
    stage.namespace.wait("the step LayDown", LATER, || {
        Ok(stage.namespace.get("restore", "back")?.context("the Restore")?["status"]["step"] == "LayDown")
    })?;

    let cluster = stage.namespace.cluster.clone();
    let tomorrow = Tomorrow::comes(&cluster)?;
    for (kind, name) in [("kryton", "shelf"), ("restore", "back")] {
        for (part, how) in [("spec", &[][..]), ("status", &["--subresource=status"])] {
            let patch = json!({ part: { "tomorrow": "kept" } }).to_string();
            // It takes a moment until a definition holds.
            stage.namespace.wait("the field to be known", SOON, || {
                let patch = ["patch", kind, name, "--type=merge", "--patch", &patch];
                stage.namespace.kubectl(&[&patch[..], how].concat())?;
                Ok(stage.namespace.get(kind, name)?.context("it")?[part]["tomorrow"] == "kept")
            })?;
        }
    }
    stage.phase("back", "Restored")?;
    assert_eq!(stage.titles("shelf")?, ["monday"]);
    stage.condition("shelf", "Ready", "True", LATER)?;
    let job = stage.run_now("shelf-backup", FIRST + 1)?;
    let (dump, _) = stage.dump_stopped(&job)?;
    for (group, kind, name) in [("kryton.azrtydxb.io", "krytons", "shelf"), ("windlass.dev", "restores", "back")] {
        // Not by name: kubectl would ask for the newer version ever after.
        let path = format!("/apis/{group}/v1alpha2/namespaces/{}/{kind}/{name}", stage.namespace.name);
        let found: Value = serde_json::from_str(&stage.namespace.kubectl(&["get", "--raw", &path])?)?;
        assert_eq!((&found["spec"]["tomorrow"], &found["status"]["tomorrow"]), (&json!("kept"), &json!("kept")));
    }

    tomorrow.goes()?;
    dump.go_on()?;
    ensure!(stage.ended(&job)?, "the Job failed");
    stage.committed(&job)?;
    let patch = json!({ "spec": { "backup": { "schedule": "7 7 * * *" } } }).to_string();
    stage.namespace.kubectl(&["patch", "kryton", "shelf", "--type=merge", "--patch", &patch])?;
    stage.namespace.wait("the schedule", SOON, || {
        Ok(stage.namespace.get("cronjob", "shelf-backup")?.context("its CronJob")?["spec"]["schedule"] == "7 7 * * *")
    })?;
    stage.set("back", "old", "PutBack")?;
    stage.phase("back", "PutBack")?;
    assert_eq!(stage.titles("shelf")?, ["monday", "tuesday"]);
    stage.has_exactly(2, &prefix("k82"))
}
