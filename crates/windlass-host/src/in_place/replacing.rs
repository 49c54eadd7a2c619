//! What one step of a plan replaces, and by which names.

use windlass_core::application::{Application, Postgres};
use windlass_core::restore::{FilesPlace, Plan, Step};
use windlass_engine::exchange::Exchange;
use windlass_engine::postgres::replace::Names;
use windlass_engine::postgres::tools::Tools;
use windlass_engine::restore::tools_for;
use windlass_repo::format::restic::Excludes;

use super::journal::Journal;
use super::look::source_of;
use crate::error::TaskError;

/// What a step replaces.
pub(super) enum Replacing {
    /// A database.
    Database(Database),
    /// Folders and files.
    Files(Vec<Exchange>),
}

/// A database that is replaced.
pub(super) struct Database {
    pub(super) names: Names,
    /// The identifier of what was there.
    pub(super) oid: Option<u32>,
    source: Postgres,
}

impl Database {
    /// Client tools at its server.
    pub(super) async fn tools(&self) -> Result<Tools, TaskError> {
        tools_for(&self.source.url, Some(&self.source)).await.map_err(TaskError::Postgres)
    }
}

impl Replacing {
    pub(super) fn of(
        application: &Application,
        journal: &Journal,
        index: usize,
        step: &Step,
    ) -> Result<Option<Self>, TaskError> {
        match step {
            Step::ReplaceDatabase(step) => {
                let Some(source) = source_of(application, &step.fill.component) else {
                    return Err(gone(&journal.plan, step.fill.component.as_str()));
                };
                let names = Names::of(journal.id, index, &step.fill.database);
                Ok(Some(Self::Database(Database { names, oid: step.oid, source: source.clone() })))
            }
            Step::ReplaceFiles(step) => {
                let excludes = Excludes::new(&step.exclude).map_err(TaskError::Files)?;
                let exchange = |(number, place): (usize, &FilesPlace)| {
                    Exchange::new(journal.id, &format!("{index}-{number}"), place, excludes.clone())
                };
                Ok(Some(Self::Files(step.places.iter().enumerate().map(exchange).collect())))
            }
            _ => Ok(None),
        }
    }
}

fn gone(plan: &Plan, component: &str) -> TaskError {
    let what = format!("{component}, whose database is at work in the restore of {}", plan.application);
    TaskError::Refused(windlass_core::restore::Refusal::NotInSettings { what })
}
