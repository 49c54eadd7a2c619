//! The steps of one reconciliation, and what starts one.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::{Map, json};

use super::dereference::{Dereferenced, users_of};
use super::validate::{self, Valid};
use super::{apply, build, deletion, hold, names, outdated, preflight, release, snapshots};
use crate::api::kryton::Kryton;
use crate::api::restore::Restore;
use crate::backoff::{self, Backoff};
use crate::context::Context;
use crate::error::OperatorError;
use crate::status::{self, Now};
use crate::turns::{self, Turn};

/// Reconciliations at once: one that waits for an answer holds up no other.
const AT_ONCE: u16 = 16;

/// When a `Kryton` is looked at again though nothing happened.
const AGAIN: Duration = Duration::from_hours(6);

/// Reconciles every `Kryton`, until the future is dropped.
pub(crate) async fn run(context: Arc<Context>) {
    let all: Api<DeserializeGuard<Kryton>> = Api::all(context.watching.clone());
    let controller =
        Controller::new(all, watcher::Config::default()).with_config(Config::default().concurrency(AT_ONCE));
    let store = controller.store();
    let secrets: Api<PartialObjectMeta<Secret>> = Api::all(context.watching.clone());
    let crons: Api<PartialObjectMeta<CronJob>> = Api::all(context.watching.clone());
    let tasks: Api<PartialObjectMeta<ConfigMap>> = Api::all(context.watching.clone());
    let jobs: Api<PartialObjectMeta<Job>> = Api::all(context.watching.clone());
    let pods: Api<PartialObjectMeta<Pod>> = Api::all(context.watching.clone());
    let deployments: Api<PartialObjectMeta<Deployment>> = Api::all(context.watching.clone());
    let stateful_sets: Api<PartialObjectMeta<StatefulSet>> = Api::all(context.watching.clone());
    let services: Api<PartialObjectMeta<Service>> = Api::all(context.watching.clone());
    let restores: Api<DeserializeGuard<Restore>> = Api::all(context.watching.clone());
    let of_helm =
        || watcher::Config::default().labels("app.kubernetes.io/managed-by=Helm,app.kubernetes.io/name=kryton");
    let made = || watcher::Config::default().labels(names::FOR);
    let of_jobs = || watcher::Config::default().labels("app.kubernetes.io/component in (preflight,snapshot)");
    let controller = controller
        .watches(secrets, watcher::Config::default(), move |secret| users_of(&store, &secret))
        .watches(restores, watcher::Config::default(), |restore| of_restore(&restore))
        .owns(crons, made())
        .owns(tasks, made())
        .watches(jobs, of_jobs(), |job| names::labelled_for(&job))
        .watches(pods, of_jobs(), |pod| names::labelled_for(&pod))
        .watches(deployments, of_helm(), |made| of_release(&made))
        .watches(stateful_sets, of_helm(), |made| of_release(&made))
        .watches(services, of_helm(), |made| of_release(&made));
    let turn: Turn<Kryton> = |guarded, context, failures| Box::pin(reconcile(guarded, context, failures));
    turns::take(controller, context, turn, "reconciliation failed").await;
}

/// The `Kryton` that a restore works on: it is held as long as that is there.
fn of_restore(restore: &DeserializeGuard<Restore>) -> Option<ObjectRef<DeserializeGuard<Kryton>>> {
    let restore = restore.0.as_ref().ok()?;
    let into = restore.spec.into.as_ref().unwrap_or(&restore.spec.from);
    Some(ObjectRef::new(&into.kryton).within(&restore.namespace().unwrap_or_default()))
}

/// The `Kryton` whose release made an object: they have the same name.
fn of_release(made: &impl ResourceExt) -> Option<ObjectRef<DeserializeGuard<Kryton>>> {
    let release = made.labels().get("app.kubernetes.io/instance")?;
    Some(ObjectRef::new(release).within(&made.namespace().unwrap_or_default()))
}

async fn reconcile(
    guarded: &DeserializeGuard<Kryton>,
    context: &Context,
    failures: &Backoff,
) -> Result<Action, OperatorError> {
    // What cannot be read was refused by the schema of today; it was written under another one. What it says of its data
    // cannot be read either, so they stay when it goes.
    let kryton = match &guarded.0 {
        Ok(kryton) => kryton,
        Err(unreadable) => {
            tracing::warn!(kryton = %guarded.name_any(), error = %unreadable.error, "it cannot be read, and is left alone");
            if unreadable.metadata.deletion_timestamp.is_some() {
                deletion::finish(context, guarded, None).await?;
            }
            return Ok(Action::await_change());
        }
    };
    let uid = kryton.uid().unwrap_or_default();
    if kryton.metadata.deletion_timestamp.is_some() {
        context.metrics.forget(kryton);
        deletion::finish(context, kryton, kryton.spec.deletion_policy).await?;
        failures.succeeded(&uid);
        return Ok(Action::await_change());
    }
    deletion::guard(context, kryton).await?;
    let found = Dereferenced::read(&context.client, kryton).await?;
    let valid = match validate::validate(kryton, &found) {
        Ok(valid) => valid,
        Err(fault) => {
            let conditions = vec![Now::fault(CONFIGURED, &fault), Now::fault(release::RELEASED, &fault)];
            status::write(context, kryton, apply::MANAGER, conditions, Map::new()).await?;
            return Ok(Action::await_change());
        }
    };
    // Neither waits for the other, and what one says is told though the other failed.
    let versions = found.versions();
    let held = hold::held(context, kryton).await?;
    let (backups, snapshots, released) = futures::join!(
        backups(context, kryton, &valid, &versions, held.by.is_some()),
        snapshots::snapshots(context, kryton, &valid),
        release::release(context, kryton, held.stopped.as_deref())
    );
    let mut conditions = Vec::new();
    let mut fields = Map::new();
    let mut again = backoff::jittered(AGAIN);
    let mut failed = None;
    match backups {
        Ok((now, looked)) => {
            conditions.push(now);
            if let Some(looked) = looked {
                conditions.push(looked.now);
                again = looked.again.unwrap_or(again);
                let before = kryton.status.as_ref().and_then(|status| status.preflight.clone());
                fields.insert("preflight".to_owned(), json!(looked.digest.or(before)));
            }
        }
        Err(error) => {
            conditions.push(Now::error(CONFIGURED, &error));
            failed = Some(error);
        }
    }
    match snapshots {
        Ok(snapshots) => {
            conditions.extend(snapshots.conditions);
            again = snapshots.again.unwrap_or(again).min(again);
        }
        Err(error) => {
            conditions.push(Now::error(snapshots::CONFIGURED, &error));
            failed = Some(error);
        }
    }
    match released {
        Ok(released) => {
            conditions.extend(released.conditions);
            again = released.again.unwrap_or(again).min(again);
            let before = kryton.status.clone().unwrap_or_default();
            let version = released.revision.map(|_| kryton.spec.version.clone()).or(before.observed_version);
            fields.insert("helmRevision".to_owned(), json!(released.revision.or(before.helm_revision)));
            fields.insert("observedVersion".to_owned(), json!(version));
        }
        Err(error) => {
            conditions.push(Now::error(release::RELEASED, &error));
            failed = Some(error);
        }
    }
    status::write(context, kryton, apply::MANAGER, conditions, fields).await?;
    if let Some(error) = failed {
        return Err(error);
    }
    failures.succeeded(&uid);
    Ok(Action::requeue(again))
}

/// Whether backups are set up.
pub(crate) const CONFIGURED: &str = "BackupConfigured";

async fn backups(
    context: &Context,
    kryton: &Kryton,
    valid: &Valid,
    versions: &str,
    held: bool,
) -> Result<(Now, Option<preflight::Looked>), OperatorError> {
    let cron = names::backup(valid.name.as_str());
    match &valid.backup {
        None => {
            apply::remove::<CronJob>(&context.client, valid, &cron).await?;
            apply::remove::<ConfigMap>(&context.client, valid, &cron).await?;
            apply::remove::<ConfigMap>(&context.client, valid, &names::preflight(valid.name.as_str())).await?;
            let message = "spec.backup is not there: nothing is backed up; dumps that are there stay";
            Ok((Now::no(CONFIGURED, "NotAsked", message), None))
        }
        // What was set up stays as it is: a Secret that is gone for a moment ends no schedule.
        Some(Err(fault)) => Ok((Now::fault(CONFIGURED, fault), None)),
        Some(Ok(backup)) => {
            let own = match &backup.own {
                Some(own) => own.clone(),
                None => apply::own(&context.client, valid).await?,
            };
            let objects = build::backup(valid, backup, own.repository, &context.image, held);
            apply::apply(&context.client, &objects.task).await?;
            apply::apply(&context.client, &objects.cron).await?;
            outdated::end(&context.client, valid, &objects.cron).await?;
            if held {
                let now = Now::no(
                    CONFIGURED,
                    "Suspended",
                    format!("CronJob {cron} begins no run while a restore is at work"),
                );
                return Ok((now, None));
            }
            let what = build::preflight(valid, backup, own.repository, versions, &context.image);
            let looked = preflight::look(context, kryton, &what).await?;
            let message = format!(
                "CronJob {cron} runs at `{}` UTC; the database's Secret is of kind {:?}",
                backup.schedule, backup.connection.preset
            );
            Ok((Now::yes(CONFIGURED, "Scheduled", message), Some(looked)))
        }
    }
}
