//! The agent: carries out one task where the data are, and leaves what came of it in the repository.
//!
//! It asks no cluster for anything: what it needs is in the task, secrets in variables and files that the task names. A
//! task may be carried out again, by another process, at any time: what is there already is not done twice.

mod replace;

use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use windlass_core::application::{Application, Component, Databases, Hooks, Postgres, Strategy};
use windlass_core::diagnose::{Diagnose, Outcome, Retry};
use windlass_core::id::PointId;
use windlass_core::name::Name;
use windlass_core::point::ComponentManifest;
use windlass_core::task::{Capture, Database, Done, FORMAT, Part, Run, Task, Work};
use windlass_repo::error::RepositoryError;
use windlass_repo::keyring::Unlock;
use windlass_repo::repository::Repository;
use windlass_repo::secret::{self, SecretError};
use windlass_repo::store::open::{OpenError, open_bucket};
use windlass_repo::vault::Vault;
use windlass_repo::writer::Writer;

use crate::backup::{Backup, BackupError, Naming, capture};
use crate::postgres::PostgresError;
use crate::postgres::inspect;
use crate::postgres::tools::Tools;
use crate::progress::Progress;
use crate::restore::RestoreError;

/// How long a server that is not there yet is waited for: as long as one takes that starts beside us.
const STARTING: Duration = Duration::from_secs(30);

/// A task that was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The task is of a later version.
    #[error("read the task: it is of version {0}, and this agent knows {FORMAT}")]
    TooNew(u32),
    /// The task needs a repository and names none.
    #[error("read the task: it names no repository")]
    NoRepository,
    /// Something the task names is not to be had.
    #[error(transparent)]
    Secret(SecretError),
    /// The writer's key is none.
    #[error("read the writer's key: it holds none")]
    Writer,
    /// The store.
    #[error(transparent)]
    Open(OpenError),
    /// The repository.
    #[error(transparent)]
    Repository(RepositoryError),
    /// The database.
    #[error(transparent)]
    Database(PostgresError),
    /// The capture.
    #[error(transparent)]
    Backup(BackupError),
    /// The restore.
    #[error(transparent)]
    Restore(RestoreError),
    /// The point cannot be read back whole.
    #[error("read {point} back before anything is written: {}", findings.join("; "))]
    Damaged {
        /// The point.
        point: PointId,
        /// What is wrong with it.
        findings: Vec<String>,
    },
    /// What was restored is not as it should be.
    #[error("check what was restored: {}", findings.join("; "))]
    Checks {
        /// What did not hold.
        findings: Vec<String>,
    },
}

impl AgentError {
    fn inner(&self) -> Option<&dyn Diagnose> {
        match self {
            Self::TooNew(_) | Self::NoRepository | Self::Writer | Self::Damaged { .. } | Self::Checks { .. } => None,
            Self::Secret(error) => Some(error),
            Self::Open(error) => Some(error),
            Self::Repository(error) => Some(error),
            Self::Database(error) => Some(error),
            Self::Backup(error) => Some(error),
            Self::Restore(error) => Some(error),
        }
    }
}

impl Diagnose for AgentError {
    fn code(&self) -> &'static str {
        match self {
            Self::Damaged { .. } => "WDL-2401",
            Self::Checks { .. } => "WDL-2402",
            other => other.inner().map_or("WDL-2400", Diagnose::code),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Damaged { .. } => "PointDamaged",
            Self::Checks { .. } => "ChecksFailed",
            other => other.inner().map_or("TaskUnusable", Diagnose::reason),
        }
    }

    fn retry(&self) -> Retry {
        self.inner().map_or(Retry::Never, Diagnose::retry)
    }

    fn outcome(&self) -> Outcome {
        match self {
            // It would be the same another time.
            Self::Damaged { .. } | Self::Checks { .. } | Self::Database(PostgresError::Moved { .. }) => Outcome::Failed,
            // What was begun is begun anew.
            Self::Restore(_) => Outcome::CouldNotRun,
            other => other.inner().map_or(Outcome::CouldNotRun, Diagnose::outcome),
        }
    }

    fn hints(&self) -> Vec<String> {
        match (self, self.inner()) {
            (_, Some(error)) => error.hints(),
            (Self::Damaged { .. }, _) => vec!["restore another point; `windlass points` lists them".into()],
            (Self::Checks { .. }, _) => {
                vec!["what was there before is put back; compare the point with the checks".into()]
            }
            (_, None) => vec!["let the operator write the task anew, and use the agent of its own version".into()],
        }
    }
}

/// Carries out a task. `program` is this binary, started again for hooks.
pub async fn run(task: &Task, program: &Path, progress: &dyn Progress) -> Result<Done, AgentError> {
    if task.format > FORMAT {
        return Err(AgentError::TooNew(task.format));
    }
    match &task.work {
        Work::Check(database) => {
            open(task).await?;
            check(database).await
        }
        Work::Capture(what) => captured(task, what, program, progress).await,
        Work::Plan(what) => replace::ask(&open(task).await?.0, what).await.map(Done::Asked),
        Work::LayDown(what) => replace::lay_down(&open(task).await?.0, what, progress).await,
        // These ask no repository: it may be away.
        Work::Switch(what) => replace::switch(what).await,
        Work::Answer(urls) => replace::answer(urls).await,
        Work::PutBack(what) => replace::put_back(what).await,
        Work::Forget(what) => replace::forget(what).await,
    }
}

async fn captured(task: &Task, what: &Capture, program: &Path, progress: &dyn Progress) -> Result<Done, AgentError> {
    let (vault, writer) = open(task).await?;
    let component = component_of(&what.component, source(&what.database)?);
    let run = run_of(&vault, what).await?;
    let backup = Backup {
        application: &application(&task.application, component.clone()),
        components: vec![&component],
        naming: Naming::Beside(run.scheduled),
        vault: &vault,
        writer: &writer,
        host: &task.host,
        program,
        progress,
    };
    let captured = capture(&backup, run.point).await.map_err(AgentError::Backup)?;
    Ok(Done::Captured {
        point: run.point,
        objects: captured.iter().flat_map(ComponentManifest::objects).map(|o| o.key.clone()).collect(),
        stored_bytes: captured.iter().map(ComponentManifest::stored_bytes).sum(),
    })
}

/// The repository the task names, and no other.
async fn open(task: &Task) -> Result<(Vault, Writer), AgentError> {
    let location = task.repository.as_ref().ok_or(AgentError::NoRepository)?;
    let writer = secret::resolve(&location.writer).map_err(AgentError::Secret)?;
    let writer = Writer::read(&writer).ok_or(AgentError::Writer)?;
    let store = open_bucket(&location.place).map_err(AgentError::Open)?;
    let repository = Repository::open(store, Some(location.id)).await.map_err(AgentError::Repository)?;
    let repository = repository.probed().await.map_err(AgentError::Repository)?;
    let vault = Vault::open(&repository, &task.application, &Unlock::Open).await.map_err(AgentError::Repository)?;
    if vault.writers().is_retired(writer.id) {
        let error = RepositoryError::Retired { application: task.application.clone(), writer: writer.id };
        return Err(AgentError::Repository(error));
    }
    Ok((vault, writer))
}

/// Whether everything can be dumped. A server that is not there yet, because its application is being installed, is waited for.
async fn check(database: &Database) -> Result<Done, AgentError> {
    let source = source(database)?;
    let until = Instant::now() + STARTING;
    let tools = loop {
        match Tools::find(&source).await {
            Err(error @ PostgresError::Connect { .. }) if error.retry() == Retry::Soon && Instant::now() < until => {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            found => break found.map_err(AgentError::Database)?,
        }
    };
    inspect::readable(&tools).await.map_err(AgentError::Database)?;
    Ok(Done::Checked { server_version: tools.server_version, tools: tools.major })
}

fn application(name: &Name, component: Component) -> Application {
    Application {
        name: name.clone(),
        repository: name.clone(),
        policy: None,
        control: None,
        hooks: Hooks::default(),
        checks: Vec::new(),
        undo: None,
        components: vec![component],
    }
}

fn component_of(name: &Name, source: Postgres) -> Component {
    Component {
        name: name.clone(),
        after: Vec::new(),
        policy: None,
        hooks: Hooks::default(),
        strategy: Strategy::Postgres(source),
    }
}

/// The run of this Job, as an earlier attempt may have begun it.
async fn run_of(vault: &Vault, what: &Capture) -> Result<Run, AgentError> {
    let run = Run::of_job(&variable(&what.run.job)?, &variable(&what.run.uid)?, Timestamp::now());
    let begun = windlass_repo::run::begun(vault).await.map_err(AgentError::Repository)?;
    Ok(begun.into_iter().find(|point| run.is_of_same_job(*point)).map_or(run, |point| run.begun_as(point)))
}

/// The server, as libpq is told of it.
fn source(database: &Database) -> Result<Postgres, AgentError> {
    let encoded = |part: &Part| part_of(part).map(|text| windlass_repo::store::Key::encode(&text));
    let host = part_of(&database.host)?;
    // An address of IPv6 stands in brackets, and a folder of sockets is encoded.
    let host = if host.contains(':') { format!("[{host}]") } else { windlass_repo::store::Key::encode(&host) };
    let port = database.port.as_ref().map(part_of).transpose()?.unwrap_or_else(|| "5432".to_owned());
    let url = format!("postgresql://{}@{host}:{port}/{}", encoded(&database.user)?, encoded(&database.name)?);
    let (password, databases) = (database.password.clone(), Databases::Named);
    Ok(Postgres { url, password, databases, owners: false, via: Vec::new() })
}

fn part_of(part: &Part) -> Result<String, AgentError> {
    match part {
        Part::Value(text) => Ok(text.clone()),
        Part::Env(name) => variable(name),
    }
}

fn variable(name: &str) -> Result<String, AgentError> {
    let found = std::env::var(name).map_err(|_| SecretError::Env { name: name.to_owned() });
    found.map_err(AgentError::Secret)
}
