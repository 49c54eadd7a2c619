//! What starts a turn of a restore, and the way through its phases.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{Patch, PatchParams};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use windlass_core::duration;
use windlass_core::id::RestoreId;
use windlass_core::restore::Plan;
use windlass_repo::error::RepositoryError;
use windlass_repo::evidence::Event;
use windlass_repo::random::Fresh;

use super::build::COMPONENT;
use super::plan::{self, Planned};
use super::record::record;
use super::steps::{Confirmed, Went, next};
use super::tell::{now, tell};
use super::world::World;
use crate::api::kryton::Kryton;
use crate::api::restore::{Old, Phase, Restore, RestoreStatus, Step};
use crate::backoff::Backoff;
use crate::context::Context;
use crate::error::OperatorError;
use crate::keeper::Shut;
use crate::kryton::hold;
use crate::status::in_words;
use crate::turns::{self, Turn};

/// Restores at once.
const AT_ONCE: u16 = 16;

/// When a restore that is under way is looked at again though nothing was heard.
const SOON: Duration = Duration::from_secs(2);

/// When one that waits for somebody is.
const LATER: Duration = Duration::from_mins(1);

/// Holds the object until nothing is left half-way.
const FINALIZER: &str = "windlass.dev/restore";

/// Carries out every `Restore`, until the future is dropped.
pub(crate) async fn run(context: Arc<Context>) {
    let all: Api<DeserializeGuard<Restore>> = Api::all(context.watching.clone());
    let controller =
        Controller::new(all, watcher::Config::default()).with_config(Config::default().concurrency(AT_ONCE));
    let jobs: Api<PartialObjectMeta<Job>> = Api::all(context.watching.clone());
    let of_restores = watcher::Config::default().labels(&format!("app.kubernetes.io/component={COMPONENT}"));
    let turn: Turn<Restore> = |guarded, context, failures| Box::pin(reconcile(guarded, context, failures));
    turns::take(controller.owns(jobs, of_restores), context, turn, "the restore failed").await;
}

async fn reconcile(
    guarded: &DeserializeGuard<Restore>,
    context: &Context,
    failures: &Backoff,
) -> Result<Action, OperatorError> {
    let Ok(restore) = &guarded.0 else { return Ok(Action::await_change()) };
    let uid = restore.uid().unwrap_or_default();
    let done = if restore.metadata.deletion_timestamp.is_some() {
        Box::pin(finish(context, restore)).await
    } else {
        Box::pin(go_on(context, restore)).await
    };
    if done.is_ok() {
        failures.succeeded(&uid);
    }
    done
}

/// What has to be done before the object may go.
async fn finish(context: &Context, restore: &Restore) -> Result<Action, OperatorError> {
    if !restore.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(Action::await_change());
    }
    let phase = restore.status.as_ref().and_then(|status| status.phase);
    if matches!(phase, Some(Phase::Running | Phase::PuttingBack)) && is_into_something(context, restore).await? {
        match Box::pin(go_on(context, restore)).await {
            // Nothing can be made in a namespace that goes, and what would be put back goes with it.
            Err(OperatorError::Write { source, .. }) if is_ending(&source) => {}
            other => return other,
        }
    }
    set_finalizers(context, restore, &[]).await?;
    Ok(Action::await_change())
}

/// Whether the application it restores into is there to stay: what goes need not be put back.
async fn is_into_something(context: &Context, restore: &Restore) -> Result<bool, OperatorError> {
    let into = restore.spec.into.as_ref().unwrap_or(&restore.spec.from);
    let namespace = restore.namespace().unwrap_or_default();
    let api: Api<Kryton> = Api::namespaced(context.client.clone(), &namespace);
    let found = api.get_metadata_opt(&into.kryton).await;
    let found = found.map_err(|error| OperatorError::read("Kryton", &namespace, &into.kryton, error))?;
    Ok(found.is_some_and(|kryton| kryton.metadata.deletion_timestamp.is_none()))
}

fn is_ending(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403 && status.message.contains("being terminated"))
}

/// Takes a restore as far as it goes without waiting.
async fn go_on(context: &Context, restore: &Restore) -> Result<Action, OperatorError> {
    let status = restore.status.clone().unwrap_or_default();
    let said = match status.phase {
        None => return begin(context, restore).await,
        Some(Phase::Refused | Phase::Failed | Phase::PutBack | Phase::Final) => return Ok(Action::await_change()),
        Some(Phase::Restored) if !is_over(restore, &status) => return Ok(Action::requeue(LATER)),
        Some(Phase::Planned) if !is_confirmed(restore, &status) => {
            tell(context, restore, &status, "").await?;
            return Ok(Action::await_change());
        }
        Some(_) => match World::of(context, restore).await {
            Ok(world) => turn(context, restore, &world, status.clone()).await,
            Err(shut) => Err(shut),
        },
    };
    match said {
        Ok(action) => Ok(action),
        Err(Shut::Error(OperatorError::Repository(error))) => {
            tell(context, restore, &status, &in_words(&*error)).await?;
            Err(OperatorError::Repository(error))
        }
        Err(Shut::Error(error)) => Err(error),
        Err(Shut::Fault(fault)) => {
            let mut status = status;
            match status.phase {
                Some(Phase::Planning) => status.phase = Some(Phase::Refused),
                Some(Phase::Running | Phase::PuttingBack) if fault.reason == "NoApplication" => {
                    status.phase = Some(Phase::Failed);
                    status.failure = Some(fault.message.clone());
                }
                _ => {}
            }
            tell(context, restore, &status, &fault.message).await?;
            Ok(Action::requeue(LATER))
        }
    }
}

async fn begin(context: &Context, restore: &Restore) -> Result<Action, OperatorError> {
    let id = RestoreId::fresh().map_err(RepositoryError::Randomness)?;
    let status = RestoreStatus { id: Some(id.to_string()), phase: Some(Phase::Planning), ..RestoreStatus::default() };
    tell(context, restore, &status, "the recovery point is being chosen").await?;
    Ok(Action::requeue(SOON))
}

/// One turn: what it finds stands in the status before anything else is done.
async fn turn(context: &Context, restore: &Restore, world: &World, mut status: RestoreStatus) -> Result<Action, Shut> {
    match status.phase {
        Some(Phase::Planning) => planning(context, restore, world, status).await,
        Some(Phase::Planned) => {
            guard(context, restore).await?;
            status.phase = Some(Phase::Running);
            status.started = Some(now());
            status.claim_before = hold::claim(&world.into).map(str::to_owned);
            enter(&mut status, Step::Stop);
            told(context, restore, &status).await
        }
        Some(Phase::Restored) => {
            guard(context, restore).await?;
            turn_round(restore, &mut status);
            told(context, restore, &status).await
        }
        Some(Phase::Running) if is_broken_off(restore) => {
            let why = "it was broken off";
            status.failure.get_or_insert_with(|| why.to_owned());
            status.phase = Some(Phase::PuttingBack);
            enter(&mut status, Step::StopAgain);
            told(context, restore, &status).await
        }
        _ => stepping(context, restore, world, status).await,
    }
}

async fn told(context: &Context, restore: &Restore, status: &RestoreStatus) -> Result<Action, Shut> {
    tell(context, restore, status, "").await?;
    Ok(Action::requeue(SOON))
}

fn enter(status: &mut RestoreStatus, step: Step) {
    status.step = Some(step);
    status.step_started = Some(now());
}

/// What becomes of a restore that is done, by somebody's word or because its time is over.
fn turn_round(restore: &Restore, status: &mut RestoreStatus) {
    if restore.spec.old == Some(Old::PutBack) {
        status.phase = Some(Phase::PuttingBack);
        enter(status, Step::StopAgain);
    } else {
        status.phase = Some(Phase::Running);
        enter(status, Step::Remove);
    }
}

fn is_over(restore: &Restore, status: &RestoreStatus) -> bool {
    let until: Option<Timestamp> = status.undo_until.as_ref().and_then(|text| text.parse().ok());
    restore.spec.old.is_some() || until.is_some_and(|until| until <= Timestamp::now())
}

fn is_confirmed(restore: &Restore, status: &RestoreStatus) -> bool {
    restore.spec.confirm.is_some() && restore.spec.confirm == status.digest
}

fn is_broken_off(restore: &Restore) -> bool {
    let asked = restore.spec.old == Some(Old::PutBack) || restore.metadata.deletion_timestamp.is_some();
    let step = restore.status.as_ref().and_then(|status| status.step);
    asked && step != Some(Step::Remove)
}

async fn planning(
    context: &Context,
    restore: &Restore,
    world: &World,
    mut status: RestoreStatus,
) -> Result<Action, Shut> {
    let Some(point) = status.point.as_ref().and_then(|point| point.parse().ok()) else {
        let spec = &restore.spec;
        let chosen = world.source.choose(context, spec.point.as_deref(), spec.at.as_deref()).await?;
        status.point = Some(chosen.id.to_string());
        status.point_time = Some(chosen.at.to_string());
        return told(context, restore, &status).await;
    };
    match plan::make(context, restore, world, point).await? {
        Planned::Pending(why) => {
            tell(context, restore, &status, &why).await?;
        }
        Planned::Refused(why) => {
            status.phase = Some(Phase::Refused);
            tell(context, restore, &status, &why).await?;
        }
        Planned::Made(plan, impact) => {
            status.digest = Some(plan.digest());
            status.plan = object(json!(plan));
            status.impact = object(json!(impact));
            status.phase = Some(Phase::Planned);
            tell(context, restore, &status, "").await?;
        }
    }
    Ok(Action::requeue(SOON))
}

fn object(value: Value) -> Option<serde_json::Map<String, Value>> {
    match value {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

async fn stepping(
    context: &Context,
    restore: &Restore,
    world: &World,
    mut status: RestoreStatus,
) -> Result<Action, Shut> {
    let plan: Option<Plan> = status.plan.clone().and_then(|plan| serde_json::from_value(Value::Object(plan)).ok());
    // Whoever may write the status may not choose what is done: what was confirmed stands in the spec.
    let plan = plan.filter(|plan| Some(plan.digest()) == restore.spec.confirm);
    let (Some(plan), Some(step)) = (plan, status.step) else {
        tell(context, restore, &status, "the plan in the status is not the one that was confirmed").await?;
        return Ok(Action::requeue(LATER));
    };
    let confirmed = Confirmed { context, restore, world, plan: &plan };
    match confirmed.step(step, &mut status).await? {
        Went::On(why) => {
            tell(context, restore, &status, &why).await?;
        }
        Went::Done => match next(step) {
            Some(next) => {
                enter(&mut status, next);
                tell(context, restore, &status, "").await?;
            }
            None => ended(context, restore, world, &plan, status).await?,
        },
        Went::Wrong(why) if status.phase == Some(Phase::Running) && step != Step::Remove => {
            status.failure = Some(why);
            status.phase = Some(Phase::PuttingBack);
            // What does not even stop was not touched.
            enter(&mut status, if step == Step::Stop { Step::StartAgain } else { Step::StopAgain });
            tell(context, restore, &status, "").await?;
        }
        Went::Wrong(why) if step == Step::PutBack && restore.spec.old == Some(Old::Remove) => {
            status.given_up = true;
            status.notes.push(format!("what was set aside was given up: {why}"));
            enter(&mut status, Step::StartAgain);
            tell(context, restore, &status, "").await?;
        }
        // On the way back there is no other way: somebody has to look, and it is tried again.
        Went::Wrong(why) => {
            let why = match step {
                Step::PutBack => format!("{why}; it is tried again, and `spec.old: Remove` gives it up"),
                _ => format!("{why}; it is tried again"),
            };
            tell(context, restore, &status, &why).await?;
            confirmed.again(step).await?;
            return Ok(Action::requeue(LATER));
        }
    }
    Ok(Action::requeue(SOON))
}

/// After the last step of a way.
async fn ended(
    context: &Context,
    restore: &Restore,
    world: &World,
    plan: &Plan,
    mut status: RestoreStatus,
) -> Result<(), Shut> {
    let started = status.started.as_ref().and_then(|text| text.parse().ok()).unwrap_or_else(Timestamp::now);
    let id = status.id.as_ref().and_then(|id| id.parse().ok());
    let digest = plan.digest();
    let step = status.step.take();
    status.step_started = None;
    status.finished = Some(now());
    let event = match (step, &status.failure) {
        (Some(Step::Remove), _) => {
            status.phase = Some(Phase::Final);
            status.undo_until = None;
            None
        }
        (Some(Step::StartAgain), None) => {
            status.phase = Some(Phase::PutBack);
            status.undo_until = None;
            id.map(|restore| Event::Undo { restore, point: plan.point, started, failure: None })
        }
        (Some(Step::StartAgain), Some(why)) => {
            status.phase = Some(Phase::Failed);
            let failure = Some(windlass_core::diagnose::without_output(why).to_owned());
            Some(Event::Restore { point: plan.point, plan: digest, started, failure, restore: id })
        }
        _ => {
            status.phase = Some(Phase::Restored);
            let undo = restore.spec.undo.as_deref().and_then(|text| duration::parse(text).ok());
            status.undo_until = undo.map(|undo: SignedDuration| (Timestamp::now() + undo).to_string());
            Some(Event::Restore { point: plan.point, plan: digest, started, failure: None, restore: id })
        }
    };
    if let Some(event) = event
        && let Err(shut) = record(context, world, event).await
    {
        // What was done must not depend on the store; it is said that it is not on record.
        let why = match shut {
            Shut::Fault(fault) => fault.message,
            Shut::Error(error) => in_words(&error),
        };
        status.notes.push(format!("not put on record: {why}"));
    }
    tell(context, restore, &status, "").await?;
    Ok(())
}

/// Sees to it that the object does not go half-way.
async fn guard(context: &Context, restore: &Restore) -> Result<(), OperatorError> {
    if restore.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(());
    }
    set_finalizers(context, restore, &[FINALIZER]).await
}

async fn set_finalizers(context: &Context, restore: &Restore, ours: &[&str]) -> Result<(), OperatorError> {
    let (namespace, name) = (restore.namespace().unwrap_or_default(), restore.name_any());
    let others = restore.finalizers().iter().map(String::as_str).filter(|finalizer| *finalizer != FINALIZER);
    let all: Vec<&str> = others.chain(ours.iter().copied()).collect();
    let api: Api<Restore> = Api::namespaced(context.client.clone(), &namespace);
    let patch = json!({ "metadata": { "finalizers": all, "uid": restore.uid() } });
    match api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(OperatorError::write("Restore", &namespace, &name, error)),
    }
}
