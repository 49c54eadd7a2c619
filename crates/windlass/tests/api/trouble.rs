//! An API server that misbehaves. The operator goes on, asks no more than it must, and comes right when the server does.
//!
//! There is no helm in these: a release that its API server failed is put right after three minutes, which is `releases`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use windlass_testkit::api_proxy::Day;

use crate::operator::{Operator, Options};
use crate::stage::{LATER, NAME, SOON, Stage, condition, place};

#[test]
fn a10_a_server_that_refuses_is_slow_or_has_conflicts_is_asked_again_in_moderation() -> Result<()> {
    let (stage, mut operator) = begin("a10")?;
    let many: Vec<String> = (0..6).map(|n| format!("overloaded-{n}")).collect();
    stage.proxy.set(Day::Overloaded(30));
    many.iter().try_for_each(|namespace| create(&stage, namespace))?;
    let asked = during(&stage, &mut operator, Duration::from_secs(10))?;
    assert!(asked < 1500, "{asked} requests of six objects, of which a third was refused");
    stage.proxy.set(Day::Good);
    many.iter().try_for_each(|namespace| is_set_up(&stage, namespace))?;

    stage.proxy.set(Day::Slow(Duration::from_secs(2)));
    create(&stage, "slow")?;
    is_set_up(&stage, "slow")?;

    stage.proxy.set(Day::Conflicts);
    create(&stage, "contended")?;
    is_set_up(&stage, "contended")?;
    // A last word, after which nothing happens that would have it said again.
    let job = |verb: &[&str]| stage.cluster.kubectl(&[&["--namespace=contended"], verb].concat());
    job(&["create", "job", &format!("--from=cronjob/{NAME}-backup"), "now"])?;
    stage.condition("contended", ("BackedUp", "Unknown", "Running"), SOON)?;
    stage.rests()?;
    stage.proxy.set(Day::Conflicts);
    job(&["delete", "job", "now"])?;
    stage.condition("contended", ("BackedUp", "Unknown", "NotYet"), SOON)?;
    operator.lives()?;
    stage.nothing_was_forbidden();
    Ok(())
}

#[test]
fn a11_watches_that_are_cut_or_expire_are_taken_up_again_and_nothing_is_missed() -> Result<()> {
    let (stage, mut operator) = begin("a11")?;
    create(&stage, "one")?;
    is_set_up(&stage, "one")?;
    for (day, minute) in [(Day::CutsWatches(Duration::from_secs(1)), 7), (Day::Compacts(Duration::from_secs(1)), 8)] {
        // The watches that are open are of a better day.
        stage.proxy.set(Day::Away);
        std::thread::sleep(Duration::from_secs(1));
        stage.proxy.set(day);
        let asked = during(&stage, &mut operator, Duration::from_secs(10))?;
        // A dozen watches, each of which may list and watch once a second.
        assert!((10..400).contains(&asked), "{asked} requests while {day:?}");
        reschedule(&stage, "one", minute)?;
        is_rescheduled(&stage, "one", minute, SOON * 2)?;
    }
    operator.lives()?;
    stage.nothing_was_forbidden();
    Ok(())
}

#[test]
fn a12_a_server_that_was_away_finds_the_operator_alive_and_at_work_again_at_once() -> Result<()> {
    let (stage, mut operator) = begin("a12")?;
    create(&stage, "one")?;
    is_set_up(&stage, "one")?;
    let renewed = lease(&stage)?["spec"]["renewTime"].clone();
    stage.proxy.set(Day::Away);
    reschedule(&stage, "one", 7)?;
    let asked = during(&stage, &mut operator, Duration::from_mins(1))?;
    assert!((1..600).contains(&asked), "{asked} requests in the minute in which nobody answered");
    assert_eq!(schedule(&stage, "one")?, json!("0 3 1 1 *"));
    let metrics = operator.metrics()?;
    assert!(metrics.contains(r#"windlass_kryton_protected{namespace="one",name="shelf"} 0"#), "{metrics}");
    stage.proxy.set(Day::Good);
    // No pause between two attempts is longer than half a minute, and a bit.
    is_rescheduled(&stage, "one", 7, Duration::from_secs(45))?;
    stage.wait("the Lease to be kept again", SOON, || {
        let now = lease(&stage)?["spec"].clone();
        Ok(now["holderIdentity"] == "operator" && now["renewTime"].as_str() > renewed.as_str())
    })?;
    stage.nothing_was_forbidden();
    Ok(())
}

#[test]
fn a13_an_answer_that_never_comes_is_not_waited_for() -> Result<()> {
    let (stage, mut operator) = begin("a13")?;
    create(&stage, "one")?;
    is_set_up(&stage, "one")?;
    stage.rests()?;
    stage.proxy.set(Day::Silent);
    let before = stage.proxy.requests();
    reschedule(&stage, "one", 7)?;
    stage.wait("the operator to ask", SOON, || Ok(stage.proxy.requests() > before + 1))?;
    stage.proxy.set(Day::Good);
    is_rescheduled(&stage, "one", 7, Duration::from_mins(1))?;
    operator.lives()?;
    stage.nothing_was_forbidden();
    Ok(())
}

fn begin(name: &'static str) -> Result<(Stage, Operator)> {
    let stage = Stage::new(name)?;
    let operator = Operator::start(&stage, &Options { helm: false, ..Options::default() })?;
    Ok((stage, operator))
}

fn create(stage: &Stage, namespace: &str) -> Result<()> {
    stage.apply(&[place(namespace), stage.backup_only(namespace)].concat())
}

/// Everything is told as it is: the schedule is there, the repository made, and a Job looks at the database.
fn is_set_up(stage: &Stage, namespace: &str) -> Result<()> {
    stage.wait(&format!("{namespace} to be set up"), LATER, || {
        let kryton = stage.get(namespace)?;
        let stands = |type_: &str, status: &str| condition(&kryton, type_)["status"] == status;
        let looks = stage.cluster.kubectl(&["--namespace", namespace, "get", "jobs", "--output=name"])?;
        Ok(stands("BackupConfigured", "True")
            && stands("RepositoryReady", "True")
            && stands("DatabaseReachable", "Unknown")
            && stands("Protected", "False")
            && !looks.trim().is_empty())
    })?;
    ensure!(schedule(stage, namespace)? == json!("0 3 1 1 *"), "the schedule is another");
    stage.has_one_repository_and_one_writer(namespace)
}

/// How many requests there are in a while, in which the operator is alive all the time.
fn during(stage: &Stage, operator: &mut Operator, a_while: Duration) -> Result<u64> {
    let (before, began) = (stage.proxy.requests(), Instant::now());
    while began.elapsed() < a_while {
        operator.lives()?;
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(stage.proxy.requests() - before)
}

fn reschedule(stage: &Stage, namespace: &str, minute: u8) -> Result<()> {
    let patch = json!({ "spec": { "backup": { "schedule": format!("{minute} 3 1 1 *") } } }).to_string();
    let arguments = ["--namespace", namespace, "patch", "kryton", NAME, "--type=merge", "--patch", &patch];
    stage.cluster.kubectl(&arguments).map(drop)
}

fn is_rescheduled(stage: &Stage, namespace: &str, minute: u8, limit: Duration) -> Result<()> {
    stage.wait("the other schedule", limit, || Ok(schedule(stage, namespace)? == json!(format!("{minute} 3 1 1 *"))))
}

fn schedule(stage: &Stage, namespace: &str) -> Result<Value> {
    let cron = stage.cluster.get(namespace, "cronjob", &format!("{NAME}-backup"))?;
    Ok(cron.context("the CronJob")?["spec"]["schedule"].clone())
}

fn lease(stage: &Stage) -> Result<Value> {
    let lease = stage.cluster.get("windlass-system", "lease", "windlass-operator")?;
    lease.context("the Lease")
}
