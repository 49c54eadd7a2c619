//! The steps of one look at a repository, and what starts one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::{Map, json};
use windlass_core::id::PointId;
use windlass_core::protection::{Goals, Protection};
use windlass_core::verification::{Verdict, Verification};
use windlass_repo::catalog::Catalog;
use windlass_repo::error::RepositoryError;
use windlass_repo::retention;
use windlass_repo::standing::assess_loaded;
use windlass_repo::verify;

use super::open::{Opened, Shut, open};
use super::runs::{self, Attempted};
use crate::api::drill::Drill;
use crate::api::kryton::{BackupStatus, Kryton};
use crate::backoff::{self, Backoff};
use crate::context::Context;
use crate::drill;
use crate::error::OperatorError;
use crate::job::State;
use crate::kryton::dereference::{Dereferenced, users_of};
use crate::kryton::validate::{self, Backup, Fault};
use crate::kryton::{component, names};
use crate::status::{self, Now};
use crate::turns::{self, Turn};

/// Whose fields they are: not those of the reconciler of workloads.
const MANAGER: &str = "windlass-operator-repository";

/// Looks at once: a store that does not answer holds each for a minute.
const AT_ONCE: u16 = 32;

/// When a repository is looked at again though nothing happened.
const AGAIN: Duration = Duration::from_mins(30);

/// The same while a Job is under way, and where none of its Pods is there yet: nothing tells that none can be made.
const UNDER_WAY: Duration = Duration::from_mins(2);
const NOT_BEGUN: Duration = Duration::from_secs(5);

/// For how long a schedule is looked ahead.
const MONTH: SignedDuration = SignedDuration::from_hours(31 * 24);

/// The most runs that are looked at: of a schedule that comes more often, the longest gap is found among them.
const RUNS: usize = 2000;

/// After how long a `Kryton` whose own Secret was not there is looked at again, whatever is told of it.
const NOT_MADE: Duration = Duration::from_mins(2);

const REPOSITORY: &str = "RepositoryReady";
const BACKED_UP: &str = "BackedUp";
const RETENTION: &str = "RetentionApplied";
const PROTECTED: &str = "Protected";

/// Looks after every `Kryton`'s repository, until the future is dropped.
pub(crate) async fn run(context: Arc<Context>) {
    let all: Api<DeserializeGuard<Kryton>> = Api::all(context.watching.clone());
    let controller =
        Controller::new(all, watcher::Config::default()).with_config(Config::default().concurrency(AT_ONCE));
    let store = controller.store();
    let secrets: Api<PartialObjectMeta<Secret>> = Api::all(context.watching.clone());
    let of_backups =
        || watcher::Config::default().labels(&format!("{},app.kubernetes.io/component=backup", names::FOR));
    let jobs: Api<PartialObjectMeta<Job>> = Api::all(context.watching.clone());
    // A Pod that cannot start changes nothing of its Job.
    let pods: Api<PartialObjectMeta<Pod>> = Api::all(context.watching.clone());
    let drills: Api<DeserializeGuard<Drill>> = Api::all(context.watching.clone());
    let controller = controller
        .watches(secrets, watcher::Config::default(), move |secret| users_of(&store, &secret))
        .watches(jobs, of_backups(), |job| names::labelled_for(&job))
        .watches(pods, of_backups(), |pod| names::labelled_for(&pod))
        .watches(drills, watcher::Config::default(), |drill| of_drill(&drill));
    let turn: Turn<Kryton> = |guarded, context, failures| Box::pin(reconcile(guarded, context, failures));
    turns::take(controller, context, turn, "the look at the repository failed").await;
}

/// The `Kryton` that a drill has just proven, or not.
fn of_drill(drill: &DeserializeGuard<Drill>) -> Option<ObjectRef<DeserializeGuard<Kryton>>> {
    let drill = drill.0.as_ref().ok().filter(|drill| drill::is_over(drill))?;
    Some(ObjectRef::new(&drill.spec.from.kryton).within(&drill.namespace().unwrap_or_default()))
}

async fn reconcile(
    guarded: &DeserializeGuard<Kryton>,
    context: &Context,
    failures: &Backoff,
) -> Result<Action, OperatorError> {
    let Ok(kryton) = &guarded.0 else { return Ok(Action::await_change()) };
    if kryton.metadata.deletion_timestamp.is_some() {
        context.metrics.forget(kryton);
        return Ok(Action::await_change());
    }
    let uid = kryton.uid().unwrap_or_default();
    let found = Dereferenced::read(&context.client, kryton).await?;
    let backup = match validate::validate(kryton, &found).map(|valid| valid.backup) {
        Ok(Some(Ok(backup))) => backup,
        // Whoever sets it up tells what is wrong; what was said of the repository before is not known to hold.
        Ok(Some(Err(fault))) => {
            let why = format!("it is not looked at while backups cannot be set up: {}", fault.message);
            unread(context, kryton, None, Now::unknown(REPOSITORY, fault.reason, why), &fault.message).await?;
            return Ok(Action::requeue(backoff::jittered(AGAIN)));
        }
        Err(_) => return Ok(Action::requeue(backoff::jittered(AGAIN))),
        Ok(None) => {
            context.metrics.forget(kryton);
            status::write(context, kryton, MANAGER, Vec::new(), Map::new()).await?;
            return Ok(Action::await_change());
        }
    };
    // It is made with the CronJob, and what is then told of that in the status brings us back: to ask meanwhile, for each of
    // a thousand, would keep those from being made.
    let Some(own) = &backup.own else { return Ok(Action::requeue(backoff::jittered(NOT_MADE))) };
    let look = match open(context, kryton, &backup, own).await {
        Ok(opened) => look(context, kryton, &backup, &opened).await,
        Err(Shut::Fault(fault)) => return shut(context, kryton, &backup, &fault, failures.failed(&uid)).await,
        Err(Shut::Error(error)) => Err(error),
    };
    match look {
        Ok(again) => {
            failures.succeeded(&uid);
            Ok(Action::requeue(again))
        }
        Err(OperatorError::Repository(error)) => {
            // `s3://bucket/prefix` is what it is called; who was asked for it is what has to be mended.
            let at = |said: &str| format!("{}: {said}", backup.place.endpoint.as_deref().unwrap_or_default());
            let now = Now::error(REPOSITORY, &*error);
            let now = Now { message: at(&now.message), ..now };
            unread(context, kryton, Some(&backup), now, &at(&error.to_string())).await?;
            Ok(Action::requeue(failures.failed(&uid)))
        }
        Err(error) => Err(error),
    }
}

async fn shut(
    context: &Context,
    kryton: &Kryton,
    backup: &Backup,
    fault: &Fault,
    again: Duration,
) -> Result<Action, OperatorError> {
    unread(context, kryton, Some(backup), Now::fault(REPOSITORY, fault), &fault.message).await?;
    Ok(Action::requeue(again))
}

/// Tells that the repository could not be looked at. What was known of it stays, except of a run that failed meanwhile.
async fn unread(
    context: &Context,
    kryton: &Kryton,
    backup: Option<&Backup>,
    repository: Now,
    why: &str,
) -> Result<(), OperatorError> {
    let (namespace, name) = (kryton.namespace().unwrap_or_default(), kryton.name_any());
    context.metrics.unproven(kryton);
    let mut conditions = vec![repository, unprotected(why)];
    let jobs = runs::jobs(&context.client, &namespace, &name).await?;
    match jobs.last() {
        Some(Attempted { name, state: State::Failed(said), .. }) => {
            let message = format!("what Job {name} left cannot be seen: {why}; the Job: {said}");
            conditions.push(Now::unknown(BACKED_UP, "RepositoryUnreadable", message));
        }
        _ => conditions.extend(Now::before(kryton, BACKED_UP)),
    }
    conditions.extend(Now::before(kryton, RETENTION));
    let mut known = kryton.status.as_ref().and_then(|status| status.backup.clone());
    if let (Some(known), Some(backup)) = (&mut known, backup) {
        // The schedule goes on without the store.
        known.next_time = backup.next(Timestamp::now()).map(seconds);
    }
    let fields = Map::from_iter(known.map(|known| ("backup".to_owned(), json!(known))));
    status::write(context, kryton, MANAGER, conditions, fields).await
}

/// What nobody could look at is not known to be protected.
fn unprotected(why: &str) -> Now {
    Now::unknown(PROTECTED, "RepositoryUnreadable", format!("the repository cannot be looked at: {why}"))
}

/// One look: commit, retention, standing.
async fn look(context: &Context, kryton: &Kryton, backup: &Backup, opened: &Opened) -> Result<Duration, OperatorError> {
    let (namespace, name) = (kryton.namespace().unwrap_or_default(), kryton.name_any());
    let jobs = runs::jobs(&context.client, &namespace, &name).await?;
    runs::commit_whole(opened).await?;
    let retention = sweep(kryton, backup, opened).await;
    let catalog = Catalog::load(&opened.vault).await?;
    let goals = BTreeMap::from([(component(), goals(backup))]);
    let (verifications, _) = verify::load(&opened.vault).await?;
    let protection = assess_loaded(&catalog, &verifications, &goals);
    let committed: Vec<PointId> = catalog.entries.iter().map(|entry| entry.point.id).collect();
    let mut conditions = vec![
        Now::yes(
            REPOSITORY,
            "Open",
            format!("{} is repository {}", opened.vault.store().location(), opened.vault.repository().id()),
        ),
        backed_up(&jobs, &committed, &catalog),
        protected(&protection),
    ];
    conditions.push(match &retention {
        Ok(message) => Now::yes(RETENTION, "Applied", message.clone()),
        Err(error) => Now::error(RETENTION, error),
    });
    context.metrics.looked(kryton, &catalog, &protection, retention.is_ok());
    let status = standing(backup, opened, &catalog, &verifications).await?;
    let fields = Map::from_iter([("backup".to_owned(), json!(status))]);
    status::write(context, kryton, MANAGER, conditions, fields).await?;
    let is = |of: fn(&State) -> bool| jobs.iter().any(|job| of(&job.state));
    Ok(match () {
        () if is(|state| *state == State::Waiting(None)) => NOT_BEGUN,
        () if is(|state| matches!(state, State::Waiting(_) | State::Running(_))) => UNDER_WAY,
        () => backoff::jittered(AGAIN),
    })
}

/// A day and a bit for daily backups: the longest between two that are due, and two hours.
fn goals(backup: &Backup) -> Goals {
    // Of a month, in which every weekday comes.
    let (mut at, mut every) = (backup.next(Timestamp::now()), None::<SignedDuration>);
    let end = Timestamp::now() + MONTH;
    for _ in 0..RUNS {
        let Some(next) = at.filter(|at| *at < end).and_then(|at| backup.next(at)) else { break };
        every = every.max(at.map(|at| next.duration_since(at)));
        at = Some(next);
    }
    let rpo = every.map_or(Goals::default().rpo, |every| every + SignedDuration::from_hours(2));
    Goals { rpo, ..Goals::default() }
}

async fn sweep(kryton: &Kryton, backup: &Backup, opened: &Opened) -> Result<String, windlass_repo::sweep::SweepError> {
    let failed = windlass_repo::sweep::SweepError::Repository;
    let Some(rules) = &backup.retention else {
        return Ok("spec.backup.retention is not there: everything is kept".to_owned());
    };
    let catalog = Catalog::load(&opened.vault).await.map_err(failed)?;
    let plan = retention::decide(&catalog, Some(rules), Timestamp::now(), &TimeZone::UTC);
    let host = names::full(kryton);
    let applied = retention::apply(&opened.vault, &opened.writer, &host, catalog, Some(rules), &plan).await?;
    if let Some(key) = applied.swept.denied.first() {
        return Ok(format!(
            "the store refuses to delete `{key}` and {} more: they stay, and are listed",
            applied.swept.denied.len() - 1
        ));
    }
    Ok(format!(
        "{} kept, {} marked, deleted {} a day later",
        plan.keep.len(),
        plan.delete.len() + applied.swept.waiting.len(),
        retention::GRACE
    ))
}

fn backed_up(jobs: &[Attempted], committed: &[PointId], catalog: &Catalog) -> Now {
    let newest = catalog.entries.iter().rev().find(|entry| entry.point.is_complete());
    let Some(last) = jobs.last() else {
        return match newest {
            Some(entry) => Now::yes(BACKED_UP, "Committed", format!("point {} of {}", entry.point.id, entry.point.at)),
            None => Now::unknown(BACKED_UP, "NotYet", "no backup has run yet"),
        };
    };
    let point = last.run.point;
    match &last.state {
        _ if runs::is_committed(committed, &last.run) => {
            Now::yes(BACKED_UP, "Committed", format!("Job {} left point {point} of {}", last.name, last.run.scheduled))
        }
        State::Waiting(Some(why)) | State::Running(Some(why)) => {
            Now::no(BACKED_UP, "BackupFailing", format!("Job {} tries again: {why}", last.name))
        }
        State::Waiting(None) | State::Running(None) => match newest {
            Some(entry) => Now::yes(
                BACKED_UP,
                "Running",
                format!("Job {} runs; the newest point is {}", last.name, entry.point.id),
            ),
            None => Now::unknown(BACKED_UP, "Running", format!("Job {} runs", last.name)),
        },
        State::Ended => Now::no(
            BACKED_UP,
            "NothingThere",
            format!("Job {} ended well, but the repository holds nothing of its run {point}", last.name),
        ),
        State::Failed(why) => Now::no(BACKED_UP, "BackupFailed", format!("Job {}: {why}", last.name)),
    }
}

fn protected(protection: &Protection) -> Now {
    if protection.protected {
        return Now::yes(
            PROTECTED,
            "Proven",
            "the newest point is young enough, was read back, and one was restored and checked",
        );
    }
    let reasons: Vec<String> = protection.reasons.iter().map(ToString::to_string).collect();
    Now::no(PROTECTED, "NotProven", reasons.join("; "))
}

async fn standing(
    backup: &Backup,
    opened: &Opened,
    catalog: &Catalog,
    verifications: &[Verification],
) -> Result<BackupStatus, RepositoryError> {
    let newest = catalog.live().rev().find(|entry| entry.point.is_complete());
    let verified = verifications.iter().rev().find(|v| v.verdict == Verdict::Passed);
    let mut last_object = None;
    if let Some(entry) = newest {
        let run = windlass_repo::run::Run::load(&opened.vault, entry.point.id).await?;
        let manifests = run.map(|run| run.captured).unwrap_or_default();
        let key =
            manifests.values().flat_map(|(manifest, _)| manifest.objects()).map(|object| object.key.clone()).next();
        last_object = key.map(|key| key.trim_start_matches("../").to_owned());
    }
    Ok(BackupStatus {
        repository: Some(opened.vault.repository().id().to_string()),
        location: Some(opened.vault.store().location().to_owned()),
        points: i64::try_from(catalog.live().count()).ok(),
        last_point: newest.map(|entry| entry.point.id.to_string()),
        last_point_time: newest.map(|entry| seconds(entry.point.at)),
        last_object,
        last_verified_time: verified.map(|verification| seconds(verification.finished)),
        last_verified_level: verified.map(|verification| verification.level.to_string()),
        next_time: backup.next(Timestamp::now()).map(seconds),
    })
}

/// As Kubernetes writes times.
fn seconds(at: Timestamp) -> String {
    status::whole_second(at).to_string()
}
