//! A helm that was killed at work, and what is left of a release.

use anyhow::Result;
use serde_json::{Value, json};
use windlass_testkit::api_proxy::{Stop, When};

use crate::operator::{Operator, Options};
use crate::stage::{LATER, NAME, SOON, Stage, is_set_up, place};

#[test]
fn a30_an_upgrade_whose_helm_was_killed_is_rolled_back_and_done_again_and_data_go_as_asked() -> Result<()> {
    let stage = Stage::new("a30")?;
    let names = ["kept", "gone"];
    stage.apply(&names.iter().flat_map(|namespace| place(namespace)).collect::<Vec<_>>())?;
    let ask = |version: &str| {
        let krytons = [("kept", "Retain"), ("gone", "Delete")].map(|(namespace, deletion)| {
            let mut kryton = stage.kryton(namespace, deletion);
            kryton["spec"]["version"] = json!(version);
            kryton
        });
        stage.apply(&krytons)
    };
    let are = |version: &str| {
        names.iter().try_for_each(|namespace| {
            stage.wait("the release", LATER, || Ok(is_set_up(&stage.get(namespace)?, version)))
        })
    };
    let operator = Operator::start(&stage, &Options::default())?;
    ask("4.5.0")?;
    are("4.5.0")?;

    let amid = |namespace: &&str| Stop {
        namespace: (*namespace).to_owned(),
        name: format!("PATCH deployments/{NAME} by helm"),
        nth: 1,
        when: When::After,
    };
    stage.proxy.stop(names.iter().map(amid).collect());
    ask("4.6.0")?;
    stage.wait("both helms to be amid their work", LATER, || Ok(stage.proxy.stopped().len() == names.len()))?;
    operator.kill()?;
    stage.proxy.stop(Vec::new());
    assert_eq!(revisions(&stage, "kept")?, ["1 deployed", "2 pending-upgrade"]);

    // Somebody's helm may be at work: nobody takes that from it.
    let operator = Operator::start(&stage, &Options::default())?;
    stage.condition("kept", ("Released", "Unknown", "Pending"), SOON)?;
    assert_eq!(revisions(&stage, "kept")?, ["1 deployed", "2 pending-upgrade"]);
    operator.kill()?;
    stage.three_minutes_pass()?;
    let operator = Operator::start(&stage, &Options::default())?;
    are("4.6.0")?;
    stage.rests()?;
    for namespace in names {
        // Back to the first, and on from there. Helm leaves the record of the one that died as it was.
        let revisions = revisions(&stage, namespace)?;
        assert_eq!(revisions, ["1 superseded", "2 pending-upgrade", "3 superseded", "4 deployed"], "{namespace}");
    }

    for namespace in names {
        stage.apply(&[snapshot(namespace, "taken", NAME), snapshot(namespace, "foreign", "another")])?;
    }
    for namespace in names {
        stage.cluster.kubectl(&["--namespace", namespace, "delete", "kryton", NAME, "--timeout=60s"])?;
    }
    let left = |namespace: &str| -> Result<String> {
        let kinds = "persistentvolumeclaims,volumesnapshots,deployments,statefulsets";
        let names = stage.cluster.kubectl(&[
            "--namespace",
            namespace,
            "get",
            kinds,
            "--output=jsonpath={.items[*].metadata.name}",
        ])?;
        let mut names: Vec<&str> = names.split_whitespace().collect();
        names.sort_unstable();
        Ok(names.join(" "))
    };
    stage.wait("everything of `gone` to go", SOON, || Ok(left("gone")? == "foreign"))?;
    stage.wait("the data of `kept` to be all there is", SOON, || {
        Ok(left("kept")? == "data-shelf-postgresql-0 foreign shelf-data taken")
    })?;
    assert_eq!(revisions(&stage, "kept")?, [""; 0]);
    operator.kill()?;
    stage.nothing_was_forbidden();
    Ok(())
}

/// The revisions of a namespace's release: number and state.
fn revisions(stage: &Stage, namespace: &str) -> Result<Vec<String>> {
    let secrets = stage.cluster.list(namespace, "secrets", "owner=helm")?;
    let told = |secret: &Value| {
        let label = |key: &str| secret["metadata"]["labels"][key].as_str().unwrap_or_default().to_owned();
        format!("{} {}", label("version"), label("status"))
    };
    let mut all: Vec<String> = secrets.iter().map(told).collect();
    all.sort();
    Ok(all)
}

fn snapshot(namespace: &str, name: &str, of: &str) -> Value {
    let labels = json!({ "kryton.azrtydxb.io/name": of, "app.kubernetes.io/component": "snapshot" });
    json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
        "metadata": { "name": name, "namespace": namespace, "labels": labels },
        "spec": { "source": { "persistentVolumeClaimName": format!("{NAME}-data") } },
    })
}
