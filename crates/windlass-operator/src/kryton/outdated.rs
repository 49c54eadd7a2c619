//! Ends Jobs that were made of what is no longer asked for, and that would never come to an end: with an image that is not
//! there a Pod waits for as long as it may, and no other run begins meanwhile.

use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::{Api, Client, ResourceExt};

use super::names;
use super::validate::Valid;
use crate::error::OperatorError;
use crate::job::{State, has_any_begun, state};
use crate::objects::{self, remembered};

/// At what is made of a template: which it was.
pub(crate) const TEMPLATE: &str = "kryton.azrtydxb.io/template";

/// Ends the Jobs of another template than a CronJob has now, where nothing of them ever ran.
pub(super) async fn end(client: &Client, valid: &Valid, cron: &CronJob) -> Result<(), OperatorError> {
    let template = cron.spec.as_ref().and_then(|spec| spec.job_template.metadata.as_ref());
    let now = template.and_then(|metadata| metadata.annotations.as_ref()?.get(TEMPLATE));
    for job in jobs(client, &valid.namespace, valid.name.as_str(), "backup").await? {
        let is_over = job.status.as_ref().is_some_and(|status| status.completion_time.is_some());
        if is_over || job.annotations().get(TEMPLATE) == now {
            continue;
        }
        if let State::Waiting(Some(_)) = state(client, &valid.namespace, &job).await?
            && !has_any_begun(client, &valid.namespace, &job.name_any()).await?
        {
            objects::delete::<Job>(client, &valid.namespace, &job.name_any(), None).await?;
        }
    }
    Ok(())
}

/// Ends every look at a database but one.
pub(super) async fn end_looks(client: &Client, namespace: &str, name: &str, but: &str) -> Result<(), OperatorError> {
    for job in jobs(client, namespace, name, "preflight").await?.iter().filter(|job| job.name_any() != but) {
        objects::delete::<Job>(client, namespace, &job.name_any(), None).await?;
    }
    Ok(())
}

async fn jobs(client: &Client, namespace: &str, name: &str, component: &str) -> Result<Vec<Job>, OperatorError> {
    let api: Api<Job> = Api::namespaced(client.clone(), namespace);
    let of_it = format!("{}={name},app.kubernetes.io/component={component}", names::FOR);
    let listed = api.list(&remembered(&of_it)).await;
    Ok(listed.map_err(|error| OperatorError::read("Jobs of Kryton", namespace, name, error))?.items)
}
