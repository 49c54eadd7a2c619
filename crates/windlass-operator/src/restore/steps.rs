//! The steps of a restore. Each looks at how things are and does what is missing.

use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use windlass_core::id::RestoreId;
use windlass_core::restore::{Plan, ReplaceDatabase, ReplaceVolume, Step as Planned};
use windlass_core::task::{Done, LayDown, Mentioned, PutBack, Replaced, Switch, Work};

use super::build::{Order, RESTORE, claim, job};
use super::jobs::{self, Ran};
use super::plan;
use super::tell::now;
use super::world::World;
use crate::api::restore::{Restore, RestoreStatus, Step};
use crate::context::Context;
use crate::error::OperatorError;
use crate::kryton::{NOTES, apply, claim as notes, hold};
use crate::objects;

/// How long an application may take to stop, or to start.
const PATIENCE: SignedDuration = SignedDuration::from_mins(15);

/// Seconds that laying a database down may take.
const LONG: i64 = 24 * 3600;

/// Seconds that everything else may take.
const SHORT: i64 = 3600;

/// The files of the notes, where nothing else is said.
const FILES: &str = "select path from notes order by updated_at desc";

/// What the server must answer, where nothing else is said.
const VERSION: &str = "/api/version";

/// What came of a step.
pub(super) enum Went {
    /// It is under way: in words.
    On(String),
    /// It is done.
    Done,
    /// Something before it has to be done again.
    Back(Step),
    /// It failed: why.
    Wrong(String),
}

/// A restore that was confirmed.
pub(super) struct Confirmed<'a> {
    pub(super) context: &'a Context,
    pub(super) restore: &'a Restore,
    pub(super) world: &'a World,
    pub(super) id: RestoreId,
    pub(super) plan: &'a Plan,
}

impl Confirmed<'_> {
    /// Does what is missing of a step. What it learns goes into the status.
    pub(super) async fn step(&self, step: Step, status: &mut RestoreStatus) -> Result<Went, OperatorError> {
        if matches!(step, Step::LayDown | Step::Switch | Step::PutBack)
            && hold::stopper(&self.world.into) != Some(&self.name())
        {
            // Somebody took the word away by which it is stopped.
            return Ok(Went::Back(if step == Step::PutBack { Step::StopAgain } else { Step::Stop }));
        }
        match step {
            Step::Look => self.look(status).await,
            Step::Volume => self.volume().await,
            Step::Stop | Step::StopAgain => self.stop(status).await,
            Step::LayDown => self.lay_down(status).await,
            Step::Switch => self.switch(status).await,
            Step::Start => self.start(self.new_claim(), status).await,
            Step::Check => self.check(status).await,
            Step::PutBack => self.put_back(status).await,
            Step::StartAgain => self.start_again(status).await,
            Step::Remove => self.remove(status).await,
        }
    }

    fn name(&self) -> String {
        self.restore.name_any()
    }

    /// The plan is made once more: what it was made for has to be there still.
    async fn look(&self, status: &RestoreStatus) -> Result<Went, OperatorError> {
        let source = match &self.world.source {
            Ok(source) => source,
            Err(shut) => return Ok(Went::On(shut.to_string())),
        };
        let context = self.context;
        Ok(match plan::make(context, self.restore, self.world, source, self.plan.point, "look").await? {
            plan::Planned::Waiting(why) if is_late(status) => Went::Wrong(why),
            plan::Planned::Waiting(why) | plan::Planned::Pending(why) => Went::On(why),
            plan::Planned::Refused(why) => Went::Wrong(why),
            plan::Planned::Made(plan, _) if plan.digest() == self.plan.digest() => Went::Done,
            plan::Planned::Made(..) => Went::Wrong(
                "what the plan was made for has changed since: make another Restore, and look at its plan".into(),
            ),
        })
    }

    async fn volume(&self) -> Result<Went, OperatorError> {
        let Some(step) = self.replaced_volume() else { return Ok(Went::Done) };
        if let Some(found) = self.claim(&step.new).await? {
            return Ok(if is_ours(&found, self.restore) {
                Went::Done
            } else {
                Went::Wrong(format!("PersistentVolumeClaim {} is there and is not of this restore", step.new))
            });
        }
        let like = match &step.old {
            Some(old) => self.claim(old).await?.and_then(|claim| claim.spec),
            None => None,
        };
        let claim = claim(self.restore, &self.world.into.name_any(), step, like.as_ref());
        objects::create(&self.context.client, &claim, apply::MANAGER).await?;
        Ok(Went::On("it is being made".to_owned()))
    }

    async fn stop(&self, status: &mut RestoreStatus) -> Result<Went, OperatorError> {
        let (into, name) = (&self.world.into, self.name());
        if let Some(other) = hold::holder(into).filter(|holder| *holder != name)
            && hold::is_there(self.context, into, other).await?
        {
            // Its time begins when its turn comes.
            status.step_started = Some(now());
            return Ok(Went::On(format!("Restore {other} is at work on it")));
        }
        if hold::stopper(into) != Some(&name) {
            status.held = true;
            hold::stop(self.context, into, &name).await?;
            return Ok(Went::On("the application is being stopped".to_owned()));
        }
        status.held = true;
        match hold::still_running(self.context, into).await? {
            None => Ok(Went::Done),
            // Putting back ends every session: it does not depend on the application.
            Some(why) if is_late(status) && status.step == Some(Step::StopAgain) => {
                status.notes.push(format!("it was put back though it had not stopped: {why}"));
                Ok(Went::Done)
            }
            Some(why) if is_late(status) => Ok(Went::Wrong(format!("it did not stop within {PATIENCE:#}: {why}"))),
            Some(why) => Ok(Went::On(why)),
        }
    }

    async fn lay_down(&self, status: &mut RestoreStatus) -> Result<Went, OperatorError> {
        let Some(replaced) = self.replaced(None) else { return Ok(Went::Done) };
        let sql = self.restore.spec.checks.clone().unwrap_or_default().sql;
        let work = Work::LayDown(LayDown { replaced, point: self.plan.point, sql });
        let done = match self.run("lay-down", work, LONG, None, status).await? {
            Ok(done) => done,
            Err(went) => return Ok(went),
        };
        let Done::LaidDown { oid, checked, left_out } = done else { return Ok(unexpected(&done)) };
        status.database = Some(i64::from(oid));
        status.checked.extend(checked);
        status.notes.extend(left_out.into_iter().map(|what| format!("left out: {what}")));
        Ok(Went::Done)
    }

    async fn switch(&self, status: &mut RestoreStatus) -> Result<Went, OperatorError> {
        let Some(replaced) = self.replaced(status.database) else { return Ok(Went::Done) };
        let namespace = self.restore.namespace().unwrap_or_default();
        let volume = match self.new_claim() {
            Some(claim) => Some(claim),
            None => notes::of_notes(&self.context.client, &namespace, &self.world.into.name_any()).await?,
        };
        let sql = self.restore.spec.checks.as_ref().and_then(|checks| checks.files.clone());
        let mentioned = volume.as_ref().map(|_| Mentioned {
            sql: sql.unwrap_or_else(|| FILES.to_owned()),
            folder: PathBuf::from(NOTES).join(hold::folder_of_notes(&self.world.into)),
        });
        let work = Work::Switch(Switch { replaced, mentioned });
        let done = match self.run("switch", work, SHORT, volume.as_deref(), status).await? {
            Ok(done) => done,
            Err(went) => return Ok(went),
        };
        let Done::Switched { checked, notes } = done else { return Ok(unexpected(&done)) };
        status.checked.extend(checked);
        status.notes.extend(notes);
        Ok(Went::Done)
    }

    async fn start(&self, claim: Option<String>, status: &mut RestoreStatus) -> Result<Went, OperatorError> {
        let into = &self.world.into;
        if hold::stopper(into) == Some(&self.name()) || hold::claim(into) != claim.as_deref() {
            status.used |= status.step == Some(Step::Start);
            hold::start(self.context, into, claim.as_deref()).await?;
            return Ok(Went::On("the application is being started".to_owned()));
        }
        if !hold::is_to_run(into) {
            return Ok(Went::Done);
        }
        match hold::not_up(self.context, into).await? {
            None => Ok(Went::Done),
            Some(why) if is_late(status) => Ok(Went::Wrong(format!("it did not start within {PATIENCE:#}: {why}"))),
            Some(why) => Ok(Went::On(why)),
        }
    }

    async fn check(&self, status: &mut RestoreStatus) -> Result<Went, OperatorError> {
        if !hold::is_to_run(&self.world.into) {
            status.notes.push("the application runs no replica: it was not asked whether it works".to_owned());
            return self.released().await;
        }
        let said = self.restore.spec.checks.clone().unwrap_or_default().http;
        let paths = if said.is_empty() { vec![VERSION.to_owned()] } else { said };
        let address = hold::address(&self.world.into);
        let urls = paths.iter().map(|path| format!("{address}{path}")).collect();
        let done = match self.run("check", Work::Answer(urls), SHORT, None, status).await? {
            Ok(done) => done,
            Err(went) => return Ok(went),
        };
        let Done::Answered { checked } = done else { return Ok(unexpected(&done)) };
        status.checked.extend(checked);
        self.released().await
    }

    async fn released(&self) -> Result<Went, OperatorError> {
        hold::release(self.context, &self.world.into).await?;
        Ok(Went::Done)
    }

    async fn put_back(&self, status: &mut RestoreStatus) -> Result<Went, OperatorError> {
        // What is still at work would do it all again.
        for what in ["lay-down", "switch", "check"] {
            if let Some(why) = jobs::end(self.context, self.restore, what).await? {
                return Ok(Went::On(why));
            }
        }
        let Some(replaced) = self.replaced(status.database) else { return Ok(Went::Done) };
        let work = Work::PutBack(PutBack { replaced, keep: status.used });
        // It is tried for as long as it takes: there is no other way.
        let done = match self.run("put-back", work, SHORT, None, &RestoreStatus::default()).await? {
            Ok(done) => done,
            Err(went) => return Ok(went),
        };
        let Done::PutBack { beside } = done else { return Ok(unexpected(&done)) };
        if let Some(beside) = beside {
            status.kept = true;
            status.notes.push(format!("what had been restored is kept as the database {beside}"));
        }
        Ok(Went::Done)
    }

    async fn start_again(&self, status: &mut RestoreStatus) -> Result<Went, OperatorError> {
        if let Some(step) = self.replaced_volume() {
            if status.used {
                status.kept = true;
            } else {
                self.remove_claim(&step.new).await?;
            }
        }
        if !status.held {
            return Ok(Went::Done);
        }
        match self.start(status.claim_before.clone(), status).await? {
            Went::Done => self.released().await,
            // There is nothing left to be put back.
            Went::Wrong(why) => {
                status.notes.push(why);
                self.released().await
            }
            other => Ok(other),
        }
    }

    /// A claim, where it is there.
    async fn claim(&self, name: &str) -> Result<Option<PersistentVolumeClaim>, OperatorError> {
        objects::find(&self.context.client, &self.restore.namespace().unwrap_or_default(), name).await
    }

    /// Removes the volume that was made for the restore.
    async fn remove_claim(&self, name: &str) -> Result<(), OperatorError> {
        let Some(found) = self.claim(name).await? else { return Ok(()) };
        if !is_ours(&found, self.restore) || hold::claim(&self.world.into) == Some(name) {
            return Ok(());
        }
        let namespace = self.restore.namespace().unwrap_or_default();
        objects::delete::<PersistentVolumeClaim>(&self.context.client, &namespace, name, found.uid()).await
    }

    async fn remove(&self, status: &mut RestoreStatus) -> Result<Went, OperatorError> {
        let Some(replaced) = self.replaced(status.database) else { return Ok(Went::Done) };
        match self.run("remove", Work::Forget(replaced), SHORT, None, &RestoreStatus::default()).await? {
            Err(went) => return Ok(went),
            Ok(done) if done != Done::Forgotten => return Ok(unexpected(&done)),
            Ok(_) => {}
        }
        if let Some(step) = self.replaced_volume() {
            if status.kept {
                self.remove_claim(&step.new).await?;
            } else if let Some(old) = &step.old {
                status.notes.push(format!("the volume {old} stays: remove it when nobody needs it any more"));
            }
        }
        Ok(Went::Done)
    }

    /// Has the Job of a step that failed made anew at the next turn.
    pub(super) async fn again(&self, step: Step) -> Result<(), OperatorError> {
        let what = match step {
            Step::PutBack => "put-back",
            Step::Remove => "remove",
            _ => return Ok(()),
        };
        jobs::remove(self.context, self.restore, what).await
    }

    /// Has a Job carry out a part; what came of it, or how the step stands.
    async fn run(
        &self,
        what: &'static str,
        work: Work,
        deadline: i64,
        notes: Option<&str>,
        status: &RestoreStatus,
    ) -> Result<Result<Done, Went>, OperatorError> {
        let source = match (&work, &self.world.source) {
            (Work::LayDown(_), Ok(source)) => Some(source),
            (Work::LayDown(_), Err(shut)) => return Ok(Err(Went::On(shut.to_string()))),
            _ => None,
        };
        let order = Order { what, work, deadline, notes };
        let job = job(self.restore, self.world, order, source, &self.context.image);
        Ok(match jobs::run(self.context, self.restore, &job).await? {
            Ran::Waiting(why) if is_late(status) => {
                Err(Went::Wrong(format!("it did not begin within {PATIENCE:#}: {why}")))
            }
            Ran::Waiting(why) | Ran::Pending(why) => Err(Went::On(why)),
            Ran::Failed(why) => Err(Went::Wrong(why)),
            Ran::Done(done) => Ok(*done),
        })
    }

    /// The database that is replaced, where the plan has one.
    fn replaced(&self, restored: Option<i64>) -> Option<Replaced> {
        let step = self.plan.steps.iter().find_map(|step| match step {
            Planned::ReplaceDatabase(step) => Some(step),
            _ => None,
        });
        let step: &ReplaceDatabase = step?;
        Some(Replaced {
            restore: self.id,
            database: self.world.connection.database.clone(),
            step: step.clone(),
            restored: restored.and_then(|oid| u32::try_from(oid).ok()),
        })
    }

    fn replaced_volume(&self) -> Option<&ReplaceVolume> {
        self.plan.steps.iter().find_map(|step| match step {
            Planned::ReplaceVolume(step) => Some(step),
            _ => None,
        })
    }

    /// The claim that the application has afterwards: that of the plan, or the one that an earlier restore gave it.
    fn new_claim(&self) -> Option<String> {
        let planned = self.replaced_volume().map(|step| step.new.clone());
        planned.or_else(|| hold::claim(&self.world.into).map(str::to_owned))
    }
}

/// The step after another one; `None` after the last of its way.
pub(super) fn next(step: Step) -> Option<Step> {
    match step {
        Step::Look => Some(Step::Volume),
        Step::Volume => Some(Step::Stop),
        Step::Stop => Some(Step::LayDown),
        Step::LayDown => Some(Step::Switch),
        Step::Switch => Some(Step::Start),
        Step::Start => Some(Step::Check),
        Step::StopAgain => Some(Step::PutBack),
        Step::PutBack => Some(Step::StartAgain),
        Step::Check | Step::StartAgain | Step::Remove => None,
    }
}

/// The first step of the way back from another one.
pub(super) fn back_from(step: Option<Step>) -> Step {
    match step {
        // Nothing has been touched yet.
        None | Some(Step::Look | Step::Volume | Step::Stop) => Step::StartAgain,
        Some(_) => Step::StopAgain,
    }
}

fn is_late(status: &RestoreStatus) -> bool {
    let since: Option<Timestamp> = status.step_started.as_ref().and_then(|text| text.parse().ok());
    since.is_some_and(|since| Timestamp::now().duration_since(since) > PATIENCE)
}

fn is_ours(claim: &PersistentVolumeClaim, restore: &Restore) -> bool {
    claim.labels().get(RESTORE).is_some_and(|name| *name == restore.name_any())
}

fn unexpected(done: &Done) -> Went {
    Went::Wrong(format!("the agent did something else: {done:?}"))
}

#[cfg(test)]
mod tests {
    use super::{Step, back_from, next};

    fn way(first: Step) -> Vec<Step> {
        std::iter::successors(Some(first), |step| next(*step)).collect()
    }

    #[test]
    fn nothing_is_touched_before_the_application_is_stopped_nor_told_before_it_was_asked() {
        let forward = [Step::Look, Step::Volume, Step::Stop, Step::LayDown, Step::Switch, Step::Start, Step::Check];
        assert_eq!(way(Step::Look), forward);
        assert_eq!(way(Step::StopAgain), [Step::StopAgain, Step::PutBack, Step::StartAgain]);
        assert_eq!(back_from(Some(Step::Stop)), Step::StartAgain, "what was not touched is not put back");
        assert_eq!(back_from(Some(Step::LayDown)), Step::StopAgain);
    }
}
