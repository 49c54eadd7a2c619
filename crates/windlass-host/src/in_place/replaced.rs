//! What one step of a plan replaces, and by which names.

use windlass_core::application::{Application, Postgres};
use windlass_core::restore::{FilesPlace, Refusal, ReplaceDatabase, ReplaceFiles, ReplaceServer, Step};
use windlass_engine::exchange::Exchange;
use windlass_engine::postgres::replace::{Names, Replaced, end_what_was_left, server_identity};
use windlass_engine::postgres::tools::Tools;
use windlass_engine::restore::tools_for;
use windlass_repo::format::restic::Excludes;

use super::Work;
use super::journal::Journal;
use crate::error::TaskError;
use crate::restore::source_of;

/// A database that is replaced, and its server.
pub(super) struct Database {
    pub(super) replaced: Replaced,
    source: Postgres,
    /// What our sessions call themselves.
    called: String,
}

impl Database {
    /// What a step of a restore replaces.
    pub(super) fn of(
        application: &Application,
        journal: &Journal,
        index: usize,
        step: &ReplaceDatabase,
    ) -> Result<Self, TaskError> {
        let component = &step.fill.component;
        let Some(source) = source_of(Some(application), component) else {
            let what = format!("{component}, whose database is at work in the restore {}", journal.id);
            return Err(TaskError::Refused(Refusal::NotInSettings { what }));
        };
        let names = Names::of(journal.id, index, &step.fill.database);
        let replaced = Replaced { names, oid: step.oid, closed: step.closed };
        Ok(Self { replaced, source: source.clone(), called: format!("windlass {}", journal.id) })
    }

    pub(super) fn names(&self) -> &Names {
        &self.replaced.names
    }

    /// Client tools at its server.
    pub(super) async fn tools(&self) -> Result<Tools, TaskError> {
        let tools = tools_for(&self.source.url, Some(&self.source)).await.map_err(TaskError::Postgres)?;
        Ok(tools.called(self.called.clone()))
    }
}

/// The folders and files that a step of a restore replaces.
pub(super) fn exchanges(journal: &Journal, index: usize, step: &ReplaceFiles) -> Result<Vec<Exchange>, TaskError> {
    let excludes = Excludes::new(&step.exclude).map_err(TaskError::Files)?;
    let exchange = |(number, place): (usize, &FilesPlace)| {
        Exchange::new(journal.id, &format!("{index}-{number}"), place, excludes.clone())
    };
    Ok(step.places.iter().enumerate().map(exchange).collect())
}

/// The file without which no server starts in a folder.
const KEYSTONE: &str = "PG_VERSION";

/// The folders of a server, that of its data first.
pub(super) fn folders(journal: &Journal, index: usize, step: &ReplaceServer) -> Vec<Exchange> {
    let exchange = |(number, place): (usize, &FilesPlace)| {
        Exchange::new(journal.id, &format!("{index}-{number}"), place, Excludes::default()).with_keystone(KEYSTONE)
    };
    step.places().enumerate().map(exchange).collect()
}

/// Whether the settings still mean the servers that a restore was begun at: at another one its databases would be looked
/// for in vain.
pub(super) async fn same_servers(work: &Work<'_>, journal: &Journal) -> Result<(), TaskError> {
    for (index, step) in journal.plan.steps.iter().enumerate() {
        let Step::ReplaceDatabase(step) = step else { continue };
        let Some(then) = &step.server else { continue };
        let tools = Database::of(work.application, journal, index, step)?.tools().await?;
        let now = server_identity(&tools).await.map_err(TaskError::Postgres)?;
        if now.is_some_and(|now| now != *then) {
            let (restore, component) = (journal.id, step.fill.component.clone());
            return Err(TaskError::OtherServer { restore, component, url: step.fill.target.url.clone() });
        }
    }
    Ok(())
}

/// Ends what a restore that may have been interrupted left at its servers.
pub(super) async fn end_what_it_left(work: &Work<'_>, journal: &Journal) -> Result<(), TaskError> {
    for (index, step) in journal.plan.steps.iter().enumerate() {
        let Step::ReplaceDatabase(step) = step else { continue };
        let tools = Database::of(work.application, journal, index, step)?.tools().await?;
        end_what_was_left(&tools).await.map_err(TaskError::Postgres)?;
    }
    Ok(())
}
