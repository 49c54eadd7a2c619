//! The Helm release: what has to be done about it, and what it says.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, ResourceExt};
use serde_json::Value;

use super::{build, hold};
use crate::api::kryton::Kryton;
use crate::context::Context;
use crate::error::OperatorError;
use crate::release::{Desired, Record, State, desired, drift, records};
use crate::status::Now;

/// Whether the release is what it should be.
pub(crate) const RELEASED: &str = "Released";

/// Whether the application answers.
pub(crate) const READY: &str = "Ready";

/// A revision that has been pending for so long was left by a helm that died: ours waits for nothing.
const DEAD: SignedDuration = SignedDuration::from_mins(3);

/// What has to be done about a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is what was asked for.
    Nothing,
    /// It was never installed, is something else, or failed.
    Upgrade,
    /// A helm died half-way: back to this revision first.
    RollBack(i64),
    /// A helm died half-way, and nothing ever worked: away with it first.
    Remove,
    /// Somebody else's helm is at work.
    Wait,
}

/// Decides. Pure; `records` are the newest first.
pub(crate) fn decide(records: &[Record], digest: &str, now: Timestamp) -> Step {
    let Some(newest) = records.first() else { return Step::Upgrade };
    match newest.state {
        State::Deployed if newest.digest.as_deref() == Some(digest) => Step::Nothing,
        State::Pending | State::Uninstalling if now.duration_since(newest.since) < DEAD => Step::Wait,
        State::Pending => {
            let good = records.iter().skip(1).find(|r| matches!(r.state, State::Deployed | State::Superseded));
            good.map_or(Step::Remove, |record| Step::RollBack(record.revision))
        }
        State::Uninstalling => Step::Remove,
        State::Deployed | State::Superseded | State::Failed | State::Other => Step::Upgrade,
    }
}

/// What came of it.
pub(crate) struct Released {
    pub(crate) conditions: Vec<Now>,
    /// The revision that is deployed.
    pub(crate) revision: Option<i64>,
    /// Look again so soon.
    pub(crate) again: Option<Duration>,
}

/// Makes the release what the `Kryton` asks for.
pub(crate) async fn release(context: &Context, kryton: &Kryton, held: Option<&str>) -> Result<Released, OperatorError> {
    let Some(helm) = &context.helm else {
        let now =
            Now::unknown(RELEASED, "NoHelm", "this operator runs without helm: the application is installed by others");
        return Ok(Released { conditions: vec![now], revision: None, again: None });
    };
    let (namespace, name) = (kryton.namespace().unwrap_or_default(), kryton.name_any());
    let mut more = build::plugins(kryton, &context.image);
    more.append(&mut hold::values(kryton, held.is_some()));
    let Desired { values, digest } = desired(kryton, helm.chart_digest(), more);
    let found = records(&context.client, &namespace, &name).await?;
    let step = decide(&found, &digest, Timestamp::now());
    let drifted = match (&step, found.first()) {
        (Step::Nothing, Some(newest)) => {
            let noted = match &newest.applied {
                Some(noted) => noted.clone(),
                None => drift::note(&context.client, &namespace, &name, newest).await?,
            };
            let made = drift::look(&context.client, &namespace, &name).await?;
            drift::differences(&noted, &made, scales(&values))
        }
        _ => Vec::new(),
    };
    let is_as_asked = step == Step::Nothing && drifted.is_empty();
    let done = match step {
        Step::Nothing if is_as_asked => Ok(()),
        Step::Wait => {
            let now = Now::unknown(RELEASED, "Pending", "another helm is at work on the release");
            return Ok(Released { conditions: vec![now], revision: None, again: Some(Duration::from_secs(10)) });
        }
        Step::Nothing | Step::Upgrade => helm.upgrade(&namespace, &name, &values, &digest).await,
        Step::RollBack(revision) => match helm.roll_back(&namespace, &name, revision).await {
            Ok(()) => helm.upgrade(&namespace, &name, &values, &digest).await,
            Err(error) => Err(error),
        },
        Step::Remove => match helm.uninstall(&namespace, &name).await {
            Ok(()) => helm.upgrade(&namespace, &name, &values, &digest).await,
            Err(error) => Err(error),
        },
    };
    if let Err(error) = done {
        let conditions = vec![Now::error(RELEASED, &error), ready(context, &namespace, &name, held).await?];
        return Ok(Released { conditions, revision: None, again: Some(Duration::from_secs(30)) });
    }
    let found = if is_as_asked { found } else { records(&context.client, &namespace, &name).await? };
    let unnoted = |newest: &&Record| !is_as_asked && newest.applied.is_none();
    let mut again = None;
    if let Some(newest) = found.first().filter(unnoted) {
        let noted = drift::note(&context.client, &namespace, &name, newest).await?;
        again = drift::is_changed(&noted).then_some(Duration::from_secs(1));
    }
    let revision = found.iter().find(|record| record.state == State::Deployed).map(|record| record.revision);
    let message =
        format!("revision {} of release {name}, version {}", revision.unwrap_or_default(), kryton.spec.version);
    let released = if drifted.is_empty() {
        Now::yes(RELEASED, "Deployed", message)
    } else {
        Now::yes(RELEASED, "Repaired", format!("{message}; put right: {}", drifted.join(", ")))
    };
    let conditions = vec![released, ready(context, &namespace, &name, held).await?];
    Ok(Released { conditions, revision, again })
}

/// Whether an autoscaler changes the Deployment.
fn scales(values: &Value) -> bool {
    values["autoscaling"]["enabled"] == Value::Bool(true)
}

/// Whether the application's Deployment is available.
pub(crate) async fn ready(
    context: &Context,
    namespace: &str,
    name: &str,
    held: Option<&str>,
) -> Result<Now, OperatorError> {
    if let Some(restore) = held {
        return Ok(Now::no(READY, "Stopped", format!("Restore {restore} has stopped it")));
    }
    let deployments: Api<Deployment> = Api::namespaced(context.client.clone(), namespace);
    let found = deployments.get_opt(name).await.map_err(|e| OperatorError::read("Deployment", namespace, name, e))?;
    let Some(deployment) = found else {
        return Ok(Now::no(READY, "NoDeployment", format!("there is no Deployment `{name}`")));
    };
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let current = status.observed_generation == deployment.metadata.generation;
    let (updated, available) = (status.updated_replicas.unwrap_or(0), status.available_replicas.unwrap_or(0));
    if current && updated >= wanted && available >= wanted {
        return Ok(Now::yes(READY, "Available", format!("{available} of {wanted} replicas are available")));
    }
    let why = status.conditions.iter().flatten().find(|condition| condition.status == "False");
    let why =
        why.and_then(|condition| condition.message.clone()).unwrap_or_else(|| "it is being rolled out".to_owned());
    Ok(Now::no(READY, "NotAvailable", format!("{available} of {wanted} replicas are available: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(revision: i64, state: State, digest: &str, seconds_ago: i64) -> Record {
        let since = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_000_000 - seconds_ago);
        Record { revision, state, digest: Some(digest.into()), since, began: since, applied: None }
    }

    fn step(records: &[Record]) -> Step {
        decide(records, "wanted", Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_000_000))
    }

    #[test]
    fn what_was_asked_for_is_left_alone_and_anything_else_is_upgraded() {
        assert_eq!(step(&[]), Step::Upgrade);
        assert_eq!(step(&[record(1, State::Deployed, "wanted", 5)]), Step::Nothing);
        assert_eq!(step(&[record(1, State::Deployed, "before", 5)]), Step::Upgrade);
        assert_eq!(
            step(&[record(2, State::Failed, "wanted", 5), record(1, State::Deployed, "before", 9)]),
            Step::Upgrade
        );
    }

    #[test]
    fn a_helm_that_died_is_told_from_one_at_work() {
        let at_work = [record(2, State::Pending, "wanted", 5), record(1, State::Deployed, "before", 900)];
        assert_eq!(step(&at_work), Step::Wait);
        let died = [
            record(3, State::Pending, "wanted", 900),
            record(2, State::Failed, "x", 901),
            record(1, State::Superseded, "x", 999),
        ];
        assert_eq!(step(&died), Step::RollBack(1));
        assert_eq!(step(&[record(1, State::Pending, "wanted", 900)]), Step::Remove);
        assert_eq!(step(&[record(1, State::Uninstalling, "wanted", 900)]), Step::Remove);
    }
}
