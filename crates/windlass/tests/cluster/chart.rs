//! The operator's own chart: it installs an operator that starts, under the rights of the chart alone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use windlass_testkit::cluster::Cluster;

use crate::stage::{SOON, cluster, root};

const HOME: &str = "windlass-system";

/// A release beside the operator of the stories. It takes part in the same election, and so only stands by.
struct Release {
    cluster: Cluster,
}

impl Release {
    fn install() -> Result<Self> {
        let release = Self { cluster: cluster()? };
        release.wait_until_it_would_not_lead()?;
        let chart = root().join("charts/windlass").display().to_string();
        release.helm(&["install", "standby", &chart, "--set=nameOverride=standby", "--wait", "--timeout=90s"])?;
        Ok(release)
    }

    fn helm(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.helm(&[&["--namespace", HOME], arguments].concat())
    }

    /// The operator of before has given the Lease up when it ended, and whoever asks first gets it.
    fn wait_until_it_would_not_lead(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            let lease = self.cluster.get(HOME, "lease", "windlass-operator")?.unwrap_or_default();
            let leader = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
            let pod = self.cluster.get(HOME, "pod", leader).ok().flatten().unwrap_or_default();
            if pod["kind"] == "Pod" && pod["metadata"]["deletionTimestamp"].is_null() {
                return Ok(());
            }
            ensure!(began.elapsed() < SOON, "nobody leads: {lease}");
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// What it answers at a path of the Service of its metrics.
    fn answer(&self, path: &str) -> Result<String> {
        let service = format!("/api/v1/namespaces/{HOME}/services/standby-operator-metrics:metrics/proxy{path}");
        self.cluster.kubectl(&["get", "--raw", &service])
    }

    fn definition(&self) -> Result<String> {
        let found = self
            .cluster
            .get("", "customresourcedefinition", "krytons.kryton.azrtydxb.io")?
            .context("the definition")?;
        Ok(found["metadata"]["uid"].to_string())
    }

    /// Whatever carries its label, by name.
    fn left(&self) -> Result<String> {
        let kinds =
            "deployments,services,serviceaccounts,networkpolicies,roles,rolebindings,clusterroles,clusterrolebindings";
        let of_it = "--selector=app.kubernetes.io/instance=standby";
        self.cluster.kubectl(&["--namespace", HOME, "get", kinds, of_it, "--output=name"])
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        let _ = self.helm(&["uninstall", "standby", "--ignore-not-found", "--wait"]);
    }
}

#[test]
fn k60_the_chart_installs_an_operator_that_stands_by_and_leaves_the_definitions_when_it_goes() -> Result<()> {
    let release = Release::install()?;
    let definition = release.definition()?;
    ensure!(release.left()?.lines().count() == 8, "one of each kind:\n{}", release.left()?);
    // Ready is who asked the API server and takes part in the election: under the rights of the chart.
    assert_eq!(release.answer("/readyz")?.trim(), "ok");
    assert_eq!(release.answer("/livez")?.trim(), "ok");
    release.answer("/metrics")?;
    let logs = release.cluster.kubectl(&["--namespace", HOME, "logs", "deployment/standby-operator"])?;
    ensure!(!logs.contains("this operator leads"), "two act:\n{logs}");

    release.helm(&["uninstall", "standby", "--wait"])?;
    assert_eq!(release.left()?.trim(), "");
    assert_eq!(release.definition()?, definition, "the definition stays, and every Kryton with it");
    Ok(())
}
