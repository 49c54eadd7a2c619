//! The steps of a restore. Each looks at how things are and does what is missing.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use windlass_core::restore::{Plan, ReplaceDatabase, ReplaceVolume, Step as Planned};
use windlass_core::task::{Done, LayDown, Mentioned, Replaced, Switch, Work};

use super::build::{Order, RESTORE, claim, job};
use super::jobs::{self, Ran};
use super::plan::claim_of;
use super::world::World;
use crate::api::restore::{Restore, RestoreStatus, Step};
use crate::context::Context;
use crate::error::OperatorError;
use crate::kryton::{NOTES, claim as notes, hold};

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
    /// It failed: why.
    Wrong(String),
}

/// A restore that was confirmed.
pub(super) struct Confirmed<'a> {
    pub(super) context: &'a Context,
    pub(super) restore: &'a Restore,
    pub(super) world: &'a World,
    pub(super) plan: &'a Plan,
}

impl Confirmed<'_> {
    /// Does what is missing of a step. What it learns goes into the status.
    pub(super) async fn step(&self, step: Step, status: &mut RestoreStatus) -> Result<Went, OperatorError> {
        match step {
            Step::Stop | Step::StopAgain => self.stop(status).await,
            Step::LayDown => self.lay_down(status).await,
            Step::Volume => self.volume().await,
            Step::Switch => self.switch(status).await,
            Step::Start => self.start(self.new_claim(), status).await,
            Step::Check => self.check(status).await,
            Step::PutBack => self.put_back(status).await,
            Step::StartAgain => self.start(status.claim_before.clone(), status).await,
            Step::Remove => self.remove(status).await,
        }
    }

    async fn stop(&self, status: &mut RestoreStatus) -> Result<Went, OperatorError> {
        let (into, name) = (&self.world.into, self.restore.name_any());
        match hold::holder(into) {
            Some(holder) if holder == name => {}
            Some(other) if hold::is_there(self.context, into, other).await? => {
                return Ok(Went::On(format!("Restore {other} is at work on it")));
            }
            _ => {
                hold::stop(self.context, into, &name).await?;
                return Ok(Went::On("the application is being stopped".to_owned()));
            }
        }
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
        match self.run("lay-down", work, LONG, None).await? {
            Ran::Pending(why) => Ok(Went::On(why)),
            Ran::Failed(why) => Ok(Went::Wrong(why)),
            Ran::Done(done) => match *done {
                Done::LaidDown { oid, checked, left_out } => {
                    status.database = Some(i64::from(oid));
                    status.checked.extend(checked);
                    status.notes.extend(left_out.into_iter().map(|what| format!("left out: {what}")));
                    Ok(Went::Done)
                }
                other => Ok(unexpected(&other)),
            },
        }
    }

    async fn volume(&self) -> Result<Went, OperatorError> {
        let Some(step) = self.replaced_volume() else { return Ok(Went::Done) };
        let namespace = self.restore.namespace().unwrap_or_default();
        if let Some(found) = claim_of(self.context, &namespace, &step.new).await? {
            return Ok(if is_ours(&found, self.restore) {
                Went::Done
            } else {
                Went::Wrong(format!("PersistentVolumeClaim {} is there and is not of this restore", step.new))
            });
        }
        let like = match &step.old {
            Some(old) => claim_of(self.context, &namespace, old).await?.and_then(|claim| claim.spec),
            None => None,
        };
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), &namespace);
        let claim = claim(self.restore, &self.world.into.name_any(), step, like.as_ref());
        match claims.create(&PostParams::default(), &claim).await {
            Ok(_) => Ok(Went::Done),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Went::On("it is being made".to_owned())),
            Err(error) => Err(OperatorError::write("PersistentVolumeClaim", &namespace, &step.new, error)),
        }
    }

    async fn switch(&self, status: &mut RestoreStatus) -> Result<Went, OperatorError> {
        let Some(replaced) = self.replaced(status.database) else { return Ok(Went::Done) };
        let namespace = self.restore.namespace().unwrap_or_default();
        let volume = match self.new_claim() {
            Some(claim) => Some(claim),
            None => notes::of_notes(&self.context.client, &namespace, &self.world.into.name_any()).await?,
        };
        let sql = self.restore.spec.checks.as_ref().and_then(|checks| checks.files.clone());
        let mentioned =
            volume.as_ref().map(|_| Mentioned { sql: sql.unwrap_or_else(|| FILES.to_owned()), folder: NOTES.into() });
        let work = Work::Switch(Switch { replaced, mentioned });
        match self.run("switch", work, SHORT, volume.as_deref()).await? {
            Ran::Pending(why) => Ok(Went::On(why)),
            Ran::Failed(why) => Ok(Went::Wrong(why)),
            Ran::Done(done) => match *done {
                Done::Switched { checked, notes } => {
                    status.checked.extend(checked);
                    status.notes.extend(notes);
                    Ok(Went::Done)
                }
                other => Ok(unexpected(&other)),
            },
        }
    }

    async fn start(&self, claim: Option<String>, status: &RestoreStatus) -> Result<Went, OperatorError> {
        let into = &self.world.into;
        if hold::holder(into) == Some(self.restore.name_any().as_str()) {
            hold::start(self.context, into, claim.as_deref()).await?;
            return Ok(Went::On("the application is being started".to_owned()));
        }
        if !hold::is_to_run(into) {
            return Ok(Went::Done);
        }
        match hold::not_up(self.context, into).await? {
            None => Ok(Went::Done),
            // On the way back there is nothing left to be put back: it is said, and that is all.
            Some(_) if is_late(status) && status.step == Some(Step::StartAgain) => Ok(Went::Done),
            Some(why) if is_late(status) => Ok(Went::Wrong(format!("it did not start within {PATIENCE:#}: {why}"))),
            Some(why) => Ok(Went::On(why)),
        }
    }

    async fn check(&self, status: &mut RestoreStatus) -> Result<Went, OperatorError> {
        if !hold::is_to_run(&self.world.into) {
            status.notes.push("the application runs no replica: it was not asked whether it works".to_owned());
            return Ok(Went::Done);
        }
        let said = self.restore.spec.checks.clone().unwrap_or_default().http;
        let paths = if said.is_empty() { vec![VERSION.to_owned()] } else { said };
        let address = hold::address(&self.world.into);
        let urls = paths.iter().map(|path| format!("{address}{path}")).collect();
        match self.run("check", Work::Answer(urls), SHORT, None).await? {
            Ran::Pending(why) => Ok(Went::On(why)),
            Ran::Failed(why) => Ok(Went::Wrong(why)),
            Ran::Done(done) => match *done {
                Done::Answered { checked } => {
                    status.checked.extend(checked);
                    Ok(Went::Done)
                }
                other => Ok(unexpected(&other)),
            },
        }
    }

    async fn put_back(&self, status: &mut RestoreStatus) -> Result<Went, OperatorError> {
        if let Some(replaced) = self.replaced(status.database) {
            match self.run("put-back", Work::PutBack(replaced), SHORT, None).await? {
                Ran::Pending(why) => return Ok(Went::On(why)),
                Ran::Failed(why) => return Ok(Went::Wrong(why)),
                Ran::Done(done) => match *done {
                    Done::PutBack { beside: None } => {}
                    Done::PutBack { beside: Some(other) } => {
                        status.notes.push(format!("a database that was made meanwhile is now called {other}"));
                    }
                    other => return Ok(unexpected(&other)),
                },
            }
        }
        if let Some(step) = self.replaced_volume() {
            self.remove_claim(&step.new).await?;
        }
        Ok(Went::Done)
    }

    /// Removes the volume that was made for the restore: its data are in the snapshot.
    async fn remove_claim(&self, name: &str) -> Result<(), OperatorError> {
        let namespace = self.restore.namespace().unwrap_or_default();
        let Some(found) = claim_of(self.context, &namespace, name).await? else { return Ok(()) };
        if !is_ours(&found, self.restore) {
            return Ok(());
        }
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), &namespace);
        let only_it = Preconditions { uid: found.uid(), resource_version: None };
        match claims.delete(name, &DeleteParams::default().preconditions(only_it)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            Err(error) => Err(OperatorError::write("PersistentVolumeClaim", &namespace, name, error)),
        }
    }

    async fn remove(&self, status: &mut RestoreStatus) -> Result<Went, OperatorError> {
        let Some(replaced) = self.replaced(status.database) else { return Ok(Went::Done) };
        match self.run("remove", Work::Forget(replaced), SHORT, None).await? {
            Ran::Pending(why) => Ok(Went::On(why)),
            Ran::Failed(why) => Ok(Went::Wrong(why)),
            Ran::Done(_) => {
                if let Some(old) = self.replaced_volume().and_then(|step| step.old.as_ref()) {
                    status.notes.push(format!("the volume {old} stays: remove it when nobody needs it any more"));
                }
                Ok(Went::Done)
            }
        }
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

    async fn run(
        &self,
        what: &'static str,
        work: Work,
        deadline: i64,
        notes: Option<&str>,
    ) -> Result<Ran, OperatorError> {
        let order = Order { what, work, deadline, notes };
        jobs::run(self.context, self.restore, &job(self.restore, self.world, order, &self.context.image)).await
    }

    /// The database that is replaced.
    fn replaced(&self, restored: Option<i64>) -> Option<Replaced> {
        let step = self.plan.steps.iter().find_map(|step| match step {
            Planned::ReplaceDatabase(step) => Some(step),
            _ => None,
        });
        let step: &ReplaceDatabase = step?;
        let id = self.restore.status.as_ref()?.id.as_ref()?.parse().ok()?;
        Some(Replaced {
            restore: id,
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
        Step::Stop => Some(Step::LayDown),
        Step::LayDown => Some(Step::Volume),
        Step::Volume => Some(Step::Switch),
        Step::Switch => Some(Step::Start),
        Step::Start => Some(Step::Check),
        Step::StopAgain => Some(Step::PutBack),
        Step::PutBack => Some(Step::StartAgain),
        Step::Check | Step::StartAgain | Step::Remove => None,
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
    use super::{Step, next};

    fn way(first: Step) -> Vec<Step> {
        std::iter::successors(Some(first), |step| next(*step)).collect()
    }

    #[test]
    fn nothing_is_touched_before_the_application_is_stopped_nor_told_before_it_was_asked() {
        let forward = [Step::Stop, Step::LayDown, Step::Volume, Step::Switch, Step::Start, Step::Check];
        assert_eq!(way(Step::Stop), forward);
        assert_eq!(way(Step::StopAgain), [Step::StopAgain, Step::PutBack, Step::StartAgain]);
    }
}
