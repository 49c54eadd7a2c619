//! What starts a turn of a drill, and the way through its phases.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use windlass_core::duration;
use windlass_core::id::{EntryId, PointId};
use windlass_core::verification::Verdict;
use windlass_repo::error::RepositoryError;
use windlass_repo::random::Fresh;

use super::copy;
use super::verdict::{Measured, judge, record};
use crate::api::drill::{COMPLETE, Drill, DrillPhase, DrillStatus, DrillVerdict};
use crate::api::kryton::Kryton;
use crate::api::restore::{Phase, RESTORED, Restore};
use crate::backoff::Backoff;
use crate::context::Context;
use crate::error::OperatorError;
use crate::keeper::Shut;
use crate::kryton::{apply, release};
use crate::objects::{self, Kind, kind};
use crate::restore::source::Source;
use crate::status::{self, Now, Told, in_words};
use crate::turns::{self, Turn};

/// Drills at once.
const AT_ONCE: u16 = 8;

/// When one that is under way is looked at again though nothing was heard.
const SOON: Duration = Duration::from_secs(2);

/// When one that waits for somebody is.
const LATER: Duration = Duration::from_mins(1);

/// How long it may take where nothing is said.
const DEADLINE: SignedDuration = SignedDuration::from_hours(1);

const PASSED: &str = "Passed";

impl Told for Drill {
    const EXACT: bool = true;

    fn told(&self) -> Value {
        json!(self.status)
    }

    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
    }
}

/// Whether a drill is over, and on record.
pub(crate) fn is_over(drill: &Drill) -> bool {
    drill.status.as_ref().and_then(|status| status.phase) == Some(DrillPhase::Complete)
}

/// Carries out every `Drill`, until the future is dropped.
pub(crate) async fn run(context: Arc<Context>) {
    let all: Api<DeserializeGuard<Drill>> = Api::all(context.watching.clone());
    let controller =
        Controller::new(all, watcher::Config::default()).with_config(Config::default().concurrency(AT_ONCE));
    let turn: Turn<Drill> = |guarded, context, failures| Box::pin(reconcile(guarded, context, failures));
    turns::take(controller, context, turn, "the drill failed").await;
}

async fn reconcile(
    guarded: &DeserializeGuard<Drill>,
    context: &Context,
    failures: &Backoff,
) -> Result<Action, OperatorError> {
    let Ok(drill) = &guarded.0 else { return Ok(Action::await_change()) };
    // What was made for it goes with it: it is owned.
    if drill.metadata.deletion_timestamp.is_some() || is_over(drill) {
        return Ok(Action::await_change());
    }
    let status = drill.status.clone().unwrap_or_default();
    let went = match Box::pin(go_on(context, drill, status.clone())).await {
        // It may pass; but not for ever.
        Err(Shut::Error(error)) if is_under_way(&status) && is_late(drill, &status) => {
            let mut status = status.clone();
            expire(drill, &mut status, &in_words(&error))?;
            tell(context, drill, &status, "").await?;
            Ok(Action::requeue(SOON))
        }
        went => went,
    };
    match went {
        Ok(action) => {
            failures.succeeded(&drill.uid().unwrap_or_default());
            Ok(action)
        }
        Err(Shut::Fault(fault)) => {
            let mut status = status;
            if status.phase.is_none() {
                // Nothing was made: that is all there is to say.
                status.phase = Some(DrillPhase::Complete);
                status.verdict = Some(DrillVerdict::Inconclusive);
                status.findings = vec![fault.message.clone()];
            } else if is_under_way(&status) && is_late(drill, &status) {
                expire(drill, &mut status, &fault.message)?;
            }
            tell(context, drill, &status, &fault.message).await?;
            Ok(Action::requeue(LATER))
        }
        Err(Shut::Error(error)) => {
            tell(context, drill, &status, &in_words(&error)).await?;
            Err(error)
        }
    }
}

fn is_under_way(status: &DrillStatus) -> bool {
    matches!(status.phase, Some(DrillPhase::Preparing | DrillPhase::Restoring))
}

/// Breaks off what takes too long.
fn expire(drill: &Drill, status: &mut DrillStatus, said: &str) -> Result<(), OperatorError> {
    let doing = if status.phase == Some(DrillPhase::Preparing) { "setting up the copy" } else { "restoring into it" };
    let why = format!("it did not come to its end within {:#}: {doing}: {said}", deadline(drill));
    close(status, DrillVerdict::Inconclusive, vec![why])
}

async fn go_on(context: &Context, drill: &Drill, mut status: DrillStatus) -> Result<Action, Shut> {
    let said = match status.phase {
        None => begin(context, drill, &mut status).await?,
        Some(DrillPhase::Preparing) => prepare(context, drill, &mut status).await?,
        Some(DrillPhase::Restoring) => restore(context, drill, &mut status).await?,
        Some(DrillPhase::TearingDown) => tear_down(context, drill, &mut status).await?,
        Some(DrillPhase::Complete) => String::new(),
    };
    if is_under_way(&status) && is_late(drill, &status) {
        expire(drill, &mut status, &said)?;
    }
    tell(context, drill, &status, &said).await?;
    Ok(Action::requeue(SOON))
}

/// Chooses the point: from here on the time is measured.
async fn begin(context: &Context, drill: &Drill, status: &mut DrillStatus) -> Result<String, Shut> {
    let started = Timestamp::now();
    let source = source(context, drill).await?;
    let chosen = source.choose(context, drill.spec.point.as_deref(), None).await?;
    status.started = Some(started.to_string());
    status.point = Some(chosen.id.to_string());
    status.point_time = Some(chosen.at.to_string());
    status.copy = Some(copy::name(drill));
    status.phase = Some(DrillPhase::Preparing);
    Ok("the point is chosen".to_owned())
}

async fn source(context: &Context, drill: &Drill) -> Result<Source, Shut> {
    Source::of(context, &drill.namespace().unwrap_or_default(), &drill.spec.from.kryton).await
}

/// Sets up the copy, and waits until it runs: with an empty database.
async fn prepare(context: &Context, drill: &Drill, status: &mut DrillStatus) -> Result<String, Shut> {
    let namespace = drill.namespace().unwrap_or_default();
    let name = copy::name(drill);
    let found = objects::find::<Kryton>(&context.client, &namespace, &name).await?;
    let Some(found) = found else {
        let source = source(context, drill).await?;
        let chosen = source.choose(context, status.point.as_deref(), None).await?;
        objects::create(&context.client, &copy::apart(drill), apply::MANAGER).await?;
        status.notes = copy::shared(&source.kryton);
        objects::create(&context.client, &copy::kryton(drill, &source.kryton, chosen.major), apply::MANAGER).await?;
        return Ok("the copy is being set up".to_owned());
    };
    if !is_of(drill, &found) {
        let why = format!("there is a Kryton {name} already, which is no drill's: give the drill another name");
        close(status, DrillVerdict::Inconclusive, vec![why])?;
        return Ok(String::new());
    }
    let ready = found.conditions().iter().find(|condition| condition.type_ == release::READY);
    if ready.is_none_or(|ready| ready.status != "True") {
        let why = ready.map_or_else(|| "it is being installed".to_owned(), |ready| ready.message.clone());
        return Ok(format!("the copy is not up yet: {why}"));
    }
    objects::create(&context.client, &copy::restore(drill, point(status)?), apply::MANAGER).await?;
    status.phase = Some(DrillPhase::Restoring);
    Ok("the point is restored into the copy".to_owned())
}

/// Confirms the plan of the restore, and waits for its end.
async fn restore(context: &Context, drill: &Drill, status: &mut DrillStatus) -> Result<String, Shut> {
    let (namespace, name) = (drill.namespace().unwrap_or_default(), copy::name(drill));
    let found = objects::find::<Restore>(&context.client, &namespace, &name).await?;
    let Some(restore) = found.filter(|restore| is_of(drill, restore)) else {
        close(status, DrillVerdict::Inconclusive, vec![format!("the Restore {name} is gone, or another's")])?;
        return Ok(String::new());
    };
    let Some(told) = restore.status.clone() else { return Ok("the restore is being planned".to_owned()) };
    if told.phase == Some(Phase::Planned) && restore.spec.confirm.is_none() {
        let patch = json!({ "spec": { "confirm": told.digest } });
        let restores: Api<Restore> = Api::namespaced(context.client.clone(), &namespace);
        let patched = restores.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.map_err(|error| OperatorError::write("Restore", &namespace, &name, error))?;
        return Ok("the plan is confirmed".to_owned());
    }
    let Some((verdict, findings)) = judge(&told) else {
        let step = told.conditions.iter().find(|condition| condition.type_ == RESTORED);
        return Ok(step.map(|step| format!("{}: {}", step.reason, step.message)).unwrap_or_default());
    };
    status.checked = told.checked;
    status.notes.extend(told.notes);
    close(status, verdict.into(), findings)?;
    Ok(String::new())
}

/// Ends the measuring: what follows is putting things away.
fn close(status: &mut DrillStatus, verdict: DrillVerdict, findings: Vec<String>) -> Result<(), OperatorError> {
    let finished = Timestamp::now();
    status.finished = Some(finished.to_string());
    status.verdict = Some(verdict);
    status.findings = findings;
    status.phase = Some(DrillPhase::TearingDown);
    status.record = Some(EntryId::fresh().map_err(RepositoryError::Randomness)?.to_string());
    if let Some(measured) = measured(status) {
        let shown = |duration: SignedDuration| duration::display(SignedDuration::from_secs(duration.as_secs().max(1)));
        status.rto = Some(shown(measured.rto()).to_string());
        status.rpo = Some(shown(measured.rpo()).to_string());
    }
    Ok(())
}

fn measured(status: &DrillStatus) -> Option<Measured> {
    let time = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<Timestamp>().ok());
    let (started, finished) = (time(&status.started)?, time(&status.finished)?);
    Some(Measured { started, finished, at: time(&status.point_time)? })
}

/// Removes the copy; then puts the drill on record, which must not hold up the first.
async fn tear_down(context: &Context, drill: &Drill, status: &mut DrillStatus) -> Result<String, Shut> {
    let mut left = Vec::new();
    left.extend(remove::<Restore>(context, drill).await?);
    left.extend(remove::<Kryton>(context, drill).await?);
    if !left.is_empty() {
        return Ok(format!("the copy is being removed: {} left", left.join(" and ")));
    }
    remove::<NetworkPolicy>(context, drill).await?;
    let source = source(context, drill).await?;
    let opened = source.open(context).await?;
    let id = status.record.as_ref().and_then(|id| id.parse().ok());
    if let (Some(id), Some(measured)) = (id, measured(status)) {
        let verdict = status.verdict.map_or(Verdict::Inconclusive, Verdict::from);
        record(&opened, &source.kryton, status, id, point(status)?, verdict, measured).await?;
    }
    status.phase = Some(DrillPhase::Complete);
    Ok(String::new())
}

fn point(status: &DrillStatus) -> Result<PointId, Shut> {
    let parsed = status.point.as_ref().and_then(|point| point.parse().ok());
    let fault = || crate::kryton::validate::Fault::new("StatusMalformed", "status.point is no recovery point");
    parsed.ok_or_else(|| Shut::Fault(fault()))
}

fn deadline(drill: &Drill) -> SignedDuration {
    drill.spec.deadline.as_deref().and_then(|text| duration::parse(text).ok()).unwrap_or(DEADLINE)
}

fn is_late(drill: &Drill, status: &DrillStatus) -> bool {
    let started: Option<Timestamp> = status.started.as_ref().and_then(|text| text.parse().ok());
    started.is_some_and(|started| Timestamp::now().duration_since(started) > deadline(drill))
}

fn is_of(drill: &Drill, object: &impl ResourceExt) -> bool {
    objects::is_owned_by(object, drill.uid().as_deref())
}

/// Deletes what was made for a drill; its kind, while it is there.
async fn remove<K: Kind>(context: &Context, drill: &Drill) -> Result<Option<&'static str>, OperatorError> {
    let (namespace, name) = (drill.namespace().unwrap_or_default(), copy::name(drill));
    let found = objects::find_metadata::<K>(&context.client, &namespace, &name).await?;
    let Some(found) = found.filter(|found| is_of(drill, found)) else { return Ok(None) };
    if found.metadata.deletion_timestamp.is_none() {
        objects::delete::<K>(&context.client, &namespace, &name, found.uid()).await?;
    }
    Ok(Some(kind::<K>()))
}

async fn tell(context: &Context, drill: &Drill, status: &DrillStatus, said: &str) -> Result<(), OperatorError> {
    let findings = status.findings.join("; ");
    let took = format!(
        "RTO {}, RPO {}",
        status.rto.as_deref().unwrap_or("not measured"),
        status.rpo.as_deref().unwrap_or("not measured")
    );
    let passed = match status.verdict {
        None => Now::unknown(PASSED, "UnderWay", said),
        Some(DrillVerdict::Passed) => Now::yes(PASSED, "Passed", format!("restored, started and checked: {took}")),
        Some(DrillVerdict::Failed) => Now::no(PASSED, "Failed", findings),
        Some(DrillVerdict::Inconclusive) => Now::unknown(PASSED, "Inconclusive", findings),
    };
    let complete = match status.phase {
        Some(DrillPhase::Complete) => {
            Now::yes(COMPLETE, "Complete", "it is on record, and nothing of the copy is left")
        }
        Some(DrillPhase::TearingDown) => Now::no(COMPLETE, "TearingDown", said),
        _ => Now::no(COMPLETE, "UnderWay", said),
    };
    let Value::Object(mut fields) = json!(status) else { return Ok(()) };
    fields.remove("conditions");
    status::write(context, drill, apply::MANAGER, vec![passed, complete], fields).await
}
