//! An operator that is killed at each of its writes, and a fresh one that finishes what it left.
//!
//! One Kryton is led through its life by an operator that nobody kills: the names of its writes, and what there is in the
//! end, are the measure. Others are stopped at those writes, before they reach the API server or when they have and the
//! answer is not there yet; when all of a wave are stopped the operator and its helm are killed, and the next one goes on.
//!
//! Each of helm's writes has a Kryton of its own; the operator's are spread over a few, which are killed again and again. Of
//! helm's writes, which follow each other, only the first is stopped before it is made: the others are where the answer to
//! the one before them was lost. What is applied is applied again, so it does not matter whether it was. An Event changes
//! nothing, so the first stands for all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use windlass_testkit::api_proxy::{Stop, When, Write};

use crate::operator::{Operator, Options};
use crate::stage::{LATER, Stage, condition, is_set_up, namespace_of, place};
use crate::world::{World, differences, worlds};

/// The Krytons that nobody disturbs: one whose volumes go with it, and one whose volumes stay.
const CALM: &str = "calm";
const KEPT: &str = "kept";

/// As many helms as an operator runs at once: a third would wait for one that is stopped.
const HELMS: usize = 2;

/// The Krytons over which the operator's own writes are spread.
const OTHERS: usize = 11;

#[test]
fn a01_an_operator_killed_at_any_write_of_a_life_leaves_what_the_next_one_finishes() -> Result<()> {
    let stage = Stage::new("a01")?;
    let created = calm_life(&stage, begin, |stage| Ok(is_set_up(&stage.get(CALM)?, "4.5.0")))?;
    let points = created.points().len();
    ensure!(points > 30, "the life has {points} points");
    let lives: Vec<String> = (0..points).map(|n| format!("life-{n:02}")).collect();
    let all = killed_at_each(&stage, &created, &lives, begin)?;
    converges(&stage, &all, &created.worlds, "created")?;
    for namespace in &all {
        stage.has_one_repository_and_one_writer(namespace)?;
    }

    let is_reached = |stage: &Stage| Ok(condition(&stage.get(CALM)?, "DatabaseReachable")["status"] == "True");
    let reached = calm_life(&stage, databases_were_reached, is_reached)?;
    killed_at_each(&stage, &reached, &all, databases_were_reached)?;
    databases_were_reached(&stage, &all.iter().map(String::as_str).collect::<Vec<_>>())?;
    converges(&stage, &all, &reached.worlds, "found reachable")?;

    let is_gone = |stage: &Stage| {
        let there = worlds(stage)?;
        let gone = |namespace| there.get(namespace).is_none_or(|world| !world.keys().any(|key| is_made_for_it(key)));
        Ok(gone(CALM) && gone(KEPT))
    };
    let ended = calm_life(&stage, delete, is_gone)?;
    let (going, staying): (Vec<_>, Vec<_>) = all.into_iter().partition(|namespace| policy(namespace) == "Delete");
    let mut killed = killed_at_each(&stage, &ended, &going, delete)?;
    // Of those whose volumes stay helm makes no more of it.
    let mut last = ended;
    last.writes.retain(|write| write.name.contains("krytons/"));
    killed.extend(killed_at_each(&stage, &last, &staying, delete)?);
    converges(&stage, &killed, &last.worlds, "gone")?;
    stage.nothing_was_forbidden();
    Ok(())
}

/// The namespaces are there, and a Kryton in each.
fn begin(stage: &Stage, namespaces: &[&str]) -> Result<()> {
    stage.apply(&namespaces.iter().flat_map(|namespace| place(namespace)).collect::<Vec<_>>())?;
    stage.apply(&namespaces.iter().map(|name| stage.kryton(name, policy(name))).collect::<Vec<_>>())
}

fn delete(stage: &Stage, namespaces: &[&str]) -> Result<()> {
    let krytons: Vec<_> = namespaces.iter().map(|name| stage.kryton(name, policy(name))).collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": krytons });
    let (good, said) = stage
        .cluster
        .kubectl_with(&["delete", "--wait=false", "--ignore-not-found", "--filename=-"], &list.to_string())?;
    ensure!(good, "{said}");
    Ok(())
}

/// What becomes of the volumes of a namespace's Kryton when it is deleted: of every eighth they stay.
fn policy(namespace: &str) -> &'static str {
    let number = namespace.rsplit_once('-').and_then(|(_, number)| number.parse::<usize>().ok());
    if namespace == KEPT || number.is_some_and(|number| number % 8 == 7) { "Retain" } else { "Delete" }
}

/// What neither policy keeps: all but volumes, what the user made, and what every namespace has.
fn is_made_for_it(key: &str) -> bool {
    let kept = [
        "PersistentVolumeClaim/",
        "Secret/creds",
        "Secret/shelf-postgresql",
        "Secret/shelf-secret",
        "ServiceAccount/default",
        "ConfigMap/kube-root-ca.crt",
    ];
    !kept.iter().any(|kept| key.starts_with(kept))
}

/// An act of a life that nobody disturbs.
struct Act {
    writes: Vec<Write>,
    /// What there was at its end.
    worlds: BTreeMap<String, World>,
}

impl Act {
    /// Where it can be disturbed: the first write of each name, and before or after. With each, whether it is helm's.
    fn points(&self) -> Vec<(bool, String, When)> {
        let mut points: Vec<(bool, String, When)> = Vec::new();
        for write in &self.writes {
            // A Job's name ends in a digest that no other has.
            let name = match write.name.split_once("-preflight-") {
                Some((beginning, _)) => format!("{beginning}-preflight-*"),
                None => write.name.clone(),
            };
            if points.iter().any(|(_, known, _)| *known == name) {
                continue;
            }
            let matters = if write.by_helm {
                points.iter().all(|(by_helm, ..)| !by_helm)
            } else {
                !name.ends_with(" by windlass-operator") || is_told_once(&name)
            };
            if matters {
                points.push((write.by_helm, name.clone(), When::Before));
            }
            points.push((write.by_helm, name, When::After));
        }
        points
    }

    /// The points in groups at which one operator can be stopped together, each in one of these namespaces.
    fn waves(&self, lives: &[String]) -> Vec<Vec<Stop>> {
        let (helm, mut others): (Vec<_>, Vec<_>) = self.points().into_iter().partition(|(by_helm, ..)| *by_helm);
        // What is done once in a life comes first in a life.
        others.sort_by_key(|(_, name, _)| {
            let again = name.contains(" by windlass-operator") && !name.starts_with("POST ");
            again && !name.contains("configmaps/shelf-preflight")
        });
        let stop = |((_, name, when), namespace): (&(bool, String, When), &String)| Stop {
            namespace: namespace.clone(),
            name: name.clone(),
            nth: 1,
            when: *when,
        };
        let of_helm = helm.iter().zip(lives.iter().skip(OTHERS)).map(stop).collect::<Vec<_>>();
        assert_eq!(of_helm.len(), helm.len(), "too few lives");
        let others = others.chunks(OTHERS).map(|wave| wave.iter().zip(lives).map(stop).collect());
        others.chain(of_helm.chunks(HELMS).map(<[Stop]>::to_vec)).collect()
    }
}

/// Whether it matters that it was written: a status tells what comes next, and two must not be made.
fn is_told_once(name: &str) -> bool {
    name.contains("/status") || name.starts_with("POST ")
}

/// Leads the calm Krytons through an act.
fn calm_life(
    stage: &Stage,
    act: impl Fn(&Stage, &[&str]) -> Result<()>,
    is_done: impl Fn(&Stage) -> Result<bool>,
) -> Result<Act> {
    let before = stage.proxy.writes().len();
    act(stage, &[CALM, KEPT])?;
    let operator = Operator::start(stage, &Options::default())?;
    stage.wait("the calm one", LATER, || is_done(stage))?;
    stage.rests()?;
    operator.kill()?;
    let writes = stage.proxy.writes().into_iter().skip(before);
    Ok(Act { writes: writes.filter(|write| write.namespace == CALM).collect(), worlds: worlds(stage)? })
}

/// Leads Krytons through an act, and kills the operator at each of its points; returns those that went through it.
fn killed_at_each(
    stage: &Stage,
    act: &Act,
    lives: &[String],
    begin: impl Fn(&Stage, &[&str]) -> Result<()>,
) -> Result<Vec<String>> {
    let mut begun = BTreeSet::new();
    let mut missed = Vec::new();
    for stops in act.waves(lives) {
        begin(stage, &stops.iter().map(|stop| stop.namespace.as_str()).collect::<Vec<_>>())?;
        begun.extend(stops.iter().map(|stop| stop.namespace.clone()));
        stage.proxy.stop(stops.clone());
        let operator = Operator::start(stage, &Options::default())?;
        let began = Instant::now();
        while stage.proxy.stopped().len() < stops.len() && began.elapsed() < LATER {
            std::thread::sleep(Duration::from_millis(20));
        }
        operator.kill()?;
        let stopped = stage.proxy.stopped();
        missed.extend(stops.into_iter().filter(|stop| !stopped.contains(stop)));
        stage.proxy.stop(Vec::new());
    }
    assert_eq!(missed, [], "never written");
    Ok(begun.into_iter().collect())
}

/// The last operator is left alone: each life becomes what the calm one was, and nothing is written any more.
fn converges(stage: &Stage, namespaces: &[String], calm: &BTreeMap<String, World>, what: &str) -> Result<()> {
    stage.three_minutes_pass()?;
    let operator = Operator::start(stage, &Options::default())?;
    let mut left = Vec::new();
    let done = stage.wait(&format!("all to be {what} as the calm one is"), LATER, || {
        let worlds = worlds(stage)?;
        left.clear();
        for namespace in namespaces {
            let should = calm.get(if policy(namespace) == "Retain" { KEPT } else { CALM }).context("the calm one")?;
            let differences = differences(worlds.get(namespace).unwrap_or(&World::new()), should);
            if !differences.is_empty() {
                left.push(format!("{namespace}:\n  {}", differences.join("\n  ")));
            }
        }
        Ok(left.is_empty())
    });
    done.with_context(|| left.join("\n"))?;
    stage.rests()?;
    operator.kill()
}

/// What the Jobs that look at the databases would say: nothing runs them.
fn databases_were_reached(stage: &Stage, namespaces: &[&str]) -> Result<()> {
    let jobs = stage.list("jobs")?;
    let ended = jobs.iter().filter(|job| namespaces.contains(&namespace_of(job).as_str())).map(|job| {
        let began = &job["status"]["startTime"];
        let holds = |type_: &str| json!({ "type": type_, "status": "True", "lastTransitionTime": began, "reason": "CompletionsReached" });
        json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": { "name": job["metadata"]["name"], "namespace": job["metadata"]["namespace"] },
            "status": {
                "startTime": began, "completionTime": began, "succeeded": 1, "active": 0, "ready": 0, "terminating": 0,
                "uncountedTerminatedPods": {}, "conditions": [holds("SuccessCriteriaMet"), holds("Complete")],
            },
        })
    });
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": ended.collect::<Vec<_>>() });
    let apply = ["apply", "--server-side", "--force-conflicts", "--subresource=status", "--filename=-"];
    let (good, said) = stage.cluster.kubectl_with(&apply, &list.to_string())?;
    ensure!(good, "{said}");
    Ok(())
}
