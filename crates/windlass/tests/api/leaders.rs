//! Two operators that both believe they lead.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::operator::{Operator, Options};
use crate::stage::{LATER, Stage, is_set_up, place, root};
use crate::world::{differences, worlds};

#[test]
fn a02_two_operators_that_both_lead_make_what_one_makes_and_then_rest() -> Result<()> {
    let stage = Stage::new("a02")?;
    stage.cluster.kubectl(&["create", "namespace", "elsewhere"])?;
    let rights = root().join("config/rbac/leader_election.yaml").display().to_string();
    stage.cluster.kubectl(&["--namespace=elsewhere", "apply", "--filename", &rights])?;

    let versions = ["4.5.0", "4.6.0"];
    let ask = |namespaces: &[&str], version: &str| {
        let krytons = namespaces.iter().map(|namespace| {
            let mut kryton = stage.kryton(namespace, "Retain");
            kryton["spec"]["version"] = json!(version);
            kryton
        });
        stage.apply(&krytons.collect::<Vec<_>>())
    };
    let are = |namespaces: &[&str], version: &str| {
        stage.wait(&format!("{namespaces:?} to be of version {version}"), LATER, || {
            for namespace in namespaces {
                if !is_set_up(&stage.get(namespace)?, version) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    };

    stage.apply(&place("alone"))?;
    let alone = Operator::start(&stage, &Options::default())?;
    for version in versions {
        ask(&["alone"], version)?;
        are(&["alone"], version)?;
    }
    stage.rests()?;
    alone.kill()?;

    let both = ["left", "right"];
    stage.apply(&both.iter().flat_map(|namespace| place(namespace)).collect::<Vec<_>>())?;
    let mut one = Operator::start(&stage, &Options { identity: "one", ..Options::default() })?;
    let mut other = Operator::start(&stage, &Options { identity: "other", lease_in: "elsewhere", helm: true })?;
    for version in versions {
        ask(&both, version)?;
        are(&both, version)?;
    }
    // One of two helms that met has failed, and is tried again after half a minute.
    let mut left = Vec::new();
    let same = stage.wait("all to be as they are with one operator", LATER, || {
        let worlds = worlds(&stage)?;
        let alone = worlds.get("alone").context("the one")?;
        left = both.iter().flat_map(|name| differences(&worlds[*name], alone)).collect();
        Ok(left.is_empty())
    });
    same.with_context(|| left.join("\n"))?;
    stage.rests()?;
    let before = stage.proxy.writes().len();
    std::thread::sleep(Duration::from_secs(5));
    // Jobs never run here: a look at them may be due, of each operator once.
    let mut again = std::collections::BTreeMap::new();
    for write in stage.proxy.writes().split_off(before) {
        *again.entry(format!("{write:?}")).or_insert(0) += 1;
    }
    again.retain(|_, times| *times > 2);
    assert!(again.is_empty(), "they do not rest: {again:?}");
    for operator in [&mut one, &mut other] {
        operator.lives()?;
        assert!(operator.said()?.contains("this operator leads"), "it did not lead");
    }
    for namespace in both {
        stage.has_one_repository_and_one_writer(namespace)?;
    }
    stage.nothing_was_forbidden();
    Ok(())
}
