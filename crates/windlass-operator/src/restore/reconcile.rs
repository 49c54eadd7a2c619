//! What starts a turn of a restore, and the way through its phases.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use windlass_core::id::RestoreId;
use windlass_core::restore::Plan;
use windlass_repo::error::RepositoryError;
use windlass_repo::evidence::Event;
use windlass_repo::random::Fresh;

use super::build::COMPONENT;
use super::plan::{self, Planned};
use super::record::record;
use super::steps::{Confirmed, Went, back_from, next};
use super::tell::{now, tell};
use super::world::World;
use crate::api::kryton::Kryton;
use crate::api::restore::{Old, Phase, Restore, RestoreStatus, Step};
use crate::backoff::Backoff;
use crate::context::Context;
use crate::error::OperatorError;
use crate::keeper::Shut;
use crate::kryton::hold;
use crate::objects;
use crate::status::in_words;
use crate::turns::{self, Turn};

/// Restores at once.
const AT_ONCE: u16 = 16;

/// When a restore that is under way is looked at again though nothing was heard.
const SOON: Duration = Duration::from_secs(2);

/// When one that waits for somebody is.
const LATER: Duration = Duration::from_mins(1);

/// Faults that no waiting mends.
const FINAL: [&str; 2] = ["NoPoint", "NoBackup"];

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
    if !objects::is_held(restore, FINALIZER) {
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
    rest(context, restore).await
}

/// Whether the application it restores into is there to stay: what goes need not be put back.
async fn is_into_something(context: &Context, restore: &Restore) -> Result<bool, OperatorError> {
    let into = restore.spec.into.as_ref().unwrap_or(&restore.spec.from);
    let namespace = restore.namespace().unwrap_or_default();
    let found = objects::find_metadata::<Kryton>(&context.client, &namespace, &into.kryton).await?;
    Ok(found.is_some_and(|kryton| kryton.metadata.deletion_timestamp.is_none()))
}

fn is_ending(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403 && status.message.contains("being terminated"))
}

/// Whether the API server will refuse the same the next time: by a quota, a rule, or for want of a right.
fn is_refused(error: &OperatorError) -> bool {
    let OperatorError::Write { source, .. } = error else { return false };
    matches!(&**source, kube::Error::Api(status) if [400, 403, 422].contains(&status.code) && !is_ending(source))
}

/// Takes a restore as far as it goes without waiting.
async fn go_on(context: &Context, restore: &Restore) -> Result<Action, OperatorError> {
    let status = restore.status.clone().unwrap_or_default();
    match status.phase {
        None => return begin(context, restore).await,
        Some(Phase::Refused | Phase::Final) => return rest(context, restore).await,
        Some(Phase::Failed | Phase::PutBack) if !is_to_be_removed(restore, &status) => {
            return rest(context, restore).await;
        }
        Some(Phase::Restored) if !is_over(restore, &status) => {
            rest(context, restore).await?;
            return Ok(Action::requeue(LATER));
        }
        Some(Phase::Planned) if !is_confirmed(restore, &status) => {
            tell(context, restore, &status, "").await?;
            return Ok(Action::await_change());
        }
        Some(_) => {}
    }
    let went = match World::of(context, restore).await {
        Ok(world) => turn(context, restore, &world, status.clone()).await,
        Err(shut) => Err(shut),
    };
    match went {
        Ok(action) => Ok(action),
        Err(Shut::Error(error)) => {
            tell(context, restore, &status, &in_words(&error)).await?;
            Err(error)
        }
        Err(Shut::Fault(fault)) => {
            let mut status = status;
            let is_gone = fault.reason == "NoApplication" && !is_into_something(context, restore).await?;
            match status.phase {
                Some(Phase::Planning) if is_gone || FINAL.contains(&fault.reason) => {
                    status.phase = Some(Phase::Refused);
                }
                // Nothing is left that it could be put back into.
                Some(Phase::Running | Phase::PuttingBack) if is_gone => {
                    status.phase = Some(Phase::Failed);
                    status.given_up = true;
                    status.failure.get_or_insert_with(|| fault.message.clone());
                }
                _ => {}
            }
            tell(context, restore, &status, &fault.message).await?;
            Ok(Action::requeue(LATER))
        }
    }
}

/// What nothing is left to be done about goes when somebody deletes it.
async fn rest(context: &Context, restore: &Restore) -> Result<Action, OperatorError> {
    objects::let_go::<Restore>(&context.client, restore, FINALIZER).await?;
    Ok(Action::await_change())
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
            objects::hold(&context.client, restore, FINALIZER).await?;
            status.phase = Some(Phase::Running);
            status.started = Some(now());
            status.claim_before = hold::claim(&world.into).map(str::to_owned);
            enter(&mut status, Step::Look);
            told(context, restore, &status).await
        }
        Some(Phase::Restored | Phase::Failed | Phase::PutBack) => {
            objects::hold(&context.client, restore, FINALIZER).await?;
            turn_round(restore, &mut status);
            told(context, restore, &status).await
        }
        Some(Phase::Running) if is_broken_off(restore) => {
            status.phase = Some(Phase::PuttingBack);
            let first = back_from(status.step);
            enter(&mut status, first);
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
    let is_done = status.phase == Some(Phase::Restored);
    if is_done && restore.spec.old == Some(Old::PutBack) {
        status.phase = Some(Phase::PuttingBack);
        status.held = true;
        enter(status, Step::StopAgain);
    } else {
        status.phase = Some(if is_done { Phase::Running } else { Phase::PuttingBack });
        enter(status, Step::Remove);
    }
}

/// Whether what had been restored, and is kept since it was put back, is to go.
fn is_to_be_removed(restore: &Restore, status: &RestoreStatus) -> bool {
    status.kept && restore.spec.old == Some(Old::Remove)
}

fn is_over(restore: &Restore, status: &RestoreStatus) -> bool {
    let until: Option<Timestamp> = status.undo_until.as_ref().and_then(|text| text.parse().ok());
    matches!(restore.spec.old, Some(Old::PutBack | Old::Remove)) || until.is_some_and(|until| until <= Timestamp::now())
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
    let source = match &world.source {
        Ok(source) => source,
        Err(Shut::Fault(fault)) => return Err(Shut::Fault(fault.clone())),
        Err(shut) => {
            tell(context, restore, &status, &shut.to_string()).await?;
            return Ok(Action::requeue(LATER));
        }
    };
    let Some(point) = status.point.as_ref().and_then(|point| point.parse().ok()) else {
        let spec = &restore.spec;
        let chosen = source.choose(context, spec.point.as_deref(), spec.at.as_deref()).await?;
        status.point = Some(chosen.id.to_string());
        status.point_time = Some(chosen.at.to_string());
        return told(context, restore, &status).await;
    };
    match plan::make(context, restore, world, source, point, "plan").await? {
        Planned::Waiting(why) | Planned::Pending(why) => {
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
    let id: Option<RestoreId> = status.id.as_ref().and_then(|id| id.parse().ok());
    let (Some(plan), Some(id), Some(step)) = (plan, id, status.step) else {
        tell(context, restore, &status, "the plan in the status is not the one that was confirmed").await?;
        return Ok(Action::requeue(LATER));
    };
    let confirmed = Confirmed { context, restore, world, id, plan: &plan };
    let is_forward = status.phase == Some(Phase::Running) && step != Step::Remove;
    let went = match confirmed.step(step, &mut status).await {
        // Else it would stand still, and the application with it.
        Err(error) if is_forward && is_refused(&error) => Went::Wrong(in_words(&error)),
        went => went?,
    };
    match went {
        Went::On(why) => {
            tell(context, restore, &status, &why).await?;
        }
        Went::Back(step) => {
            enter(&mut status, step);
            tell(context, restore, &status, "").await?;
        }
        Went::Done => match next(step) {
            Some(next) => {
                enter(&mut status, next);
                tell(context, restore, &status, "").await?;
            }
            None => ended(context, restore, world, &confirmed, status).await?,
        },
        Went::Wrong(why) if is_forward => {
            status.failure = Some(why);
            status.phase = Some(Phase::PuttingBack);
            enter(&mut status, back_from(Some(step)));
            tell(context, restore, &status, "").await?;
        }
        Went::Wrong(why) if step == Step::PutBack && restore.spec.old == Some(Old::GiveUp) => {
            status.given_up = true;
            status.failure.get_or_insert_with(|| "it was to be put back".to_owned());
            status.notes.push(format!("putting back was given up: {why}"));
            enter(&mut status, Step::StartAgain);
            tell(context, restore, &status, "").await?;
        }
        // On the way back there is no other way: somebody has to look, and it is tried again.
        Went::Wrong(why) => {
            let why = match step {
                Step::PutBack => format!("{why}; it is tried again, and `spec.old: GiveUp` gives it up"),
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
    confirmed: &Confirmed<'_>,
    mut status: RestoreStatus,
) -> Result<(), Shut> {
    let (plan, id) = (confirmed.plan, confirmed.id);
    let started = status.started.as_ref().and_then(|text| text.parse().ok()).unwrap_or_else(Timestamp::now);
    let was_broken_off = status.failure.is_none() && restore.metadata.deletion_timestamp.is_some();
    let failure = was_broken_off.then(|| "it was deleted while it was under way".to_owned()).or(status.failure.clone());
    let step = status.step.take();
    status.step_started = None;
    status.finished = Some(now());
    status.undo_until = None;
    let event = match step {
        Some(Step::Remove) if status.phase == Some(Phase::Running) => {
            status.phase = Some(Phase::Final);
            None
        }
        Some(Step::Remove) => {
            status.kept = false;
            status.phase = Some(if failure.is_some() { Phase::Failed } else { Phase::PutBack });
            None
        }
        Some(Step::StartAgain) => {
            status.phase = Some(if failure.is_some() { Phase::Failed } else { Phase::PutBack });
            let failure = failure.map(|why| windlass_core::diagnose::without_output(&why).to_owned());
            Some(match failure {
                None => Event::Undo { restore: id, point: plan.point, started, failure: None },
                failure => {
                    Event::Restore { point: plan.point, plan: plan.digest(), started, failure, restore: Some(id) }
                }
            })
        }
        _ => {
            status.phase = Some(Phase::Restored);
            let undo = plan::undo(restore).ok().flatten();
            status.undo_until =
                undo.and_then(|undo| Timestamp::now().checked_add(undo).ok()).map(|until| until.to_string());
            Some(Event::Restore { point: plan.point, plan: plan.digest(), started, failure: None, restore: Some(id) })
        }
    };
    if let Some(event) = event {
        let recorded = match &world.source {
            Ok(source) => record(context, source, event).await.map_err(|shut| shut.to_string()),
            Err(shut) => Err(shut.to_string()),
        };
        // What was done must not depend on the store; it is said that it is not on record.
        if let Err(why) = recorded {
            status.notes.push(format!("not put on record: {why}"));
        }
    }
    tell(context, restore, &status, "").await?;
    Ok(())
}
