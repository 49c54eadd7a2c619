//! Takes one recovery point: hooks, the capture of each component, the commit.
//!
//! ```text
//! intent → supervisor armed → before-hooks → components, in order → after-hooks → commit record
//! ```
//!
//! A component that fails does not stop the others; the point is then partial, and the run a failure. What a run
//! that dies leaves behind is not named by any commit record and is swept later. After-hooks are run by the
//! [`Supervisor`], also when this process is killed.

mod action;
mod disk;
mod physical;
mod postgres;

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use windlass_core::application::{Application, Component, Hooks, Strategy};
use windlass_core::diagnose::{Diagnose, Outcome, chain, without_output};
use windlass_core::id::PointId;
use windlass_core::point::{
    ComponentFailure, ComponentManifest, ComponentSummary, Consistency, FORMAT, LONGEST_RUN, RecoveryPoint, Window,
    span,
};
use windlass_repo::catalog::Intent;
use windlass_repo::error::RepositoryError;
use windlass_repo::evidence;
use windlass_repo::layout;
use windlass_repo::live;
use windlass_repo::object::ObjectError;
use windlass_repo::run::Run;
use windlass_repo::store::StoreError;
use windlass_repo::vault::Vault;
use windlass_repo::verify;
use windlass_repo::writer::Writer;

use crate::process::{self, ProcessError};
use crate::progress::{Event, Progress};
use crate::supervisor::{Orders, Report, Supervisor, SupervisorError};

pub use self::disk::{DiskError, files};
pub(crate) use self::disk::{tally, with_progress};
pub use self::physical::PhysicalCaptureError;
pub use self::postgres::PostgresCaptureError;

/// What a run needs.
pub struct Backup<'a> {
    /// The application.
    pub application: &'a Application,
    /// The components to capture, in order; usually all.
    pub components: Vec<&'a Component>,
    /// How dumps of databases are named.
    pub naming: Naming,
    /// Where its points go.
    pub vault: &'a Vault,
    /// Who signs.
    pub writer: &'a Writer,
    /// This host's name.
    pub host: &'a str,
    /// The binary that becomes the supervisor.
    pub program: &'a Path,
    /// Whoever watches.
    pub progress: &'a dyn Progress,
}

/// How dumps of databases are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// In the repository's own folders, by the moment of their snapshot.
    Within,
    /// Beside the repository's folder, by the moment they were scheduled for: `<database>-<YYYYMMDDTHHMMSSZ>.dump`. Where
    /// that is taken, by the next second that is not.
    Beside(Timestamp),
}

/// Why a run made no complete point.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The repository.
    #[error(transparent)]
    Repository(RepositoryError),
    /// A before-hook.
    #[error("run the hooks before the capture")]
    Before(#[source] ProcessError),
    /// The supervisor, without which nothing may be paused.
    #[error(transparent)]
    Supervisor(SupervisorError),
    /// No component could be captured: there is no point.
    #[error("take a recovery point: no component could be captured")]
    AllFailed {
        /// Each component's failure.
        failed: Vec<ComponentFailure>,
    },
    /// The run took longer than [`LONGEST_RUN`].
    #[error("take a recovery point: it took longer than {LONGEST_RUN:#}, and what it stored may have been swept")]
    Overdue,
}

impl Diagnose for BackupError {
    fn code(&self) -> &'static str {
        match self {
            Self::Repository(error) => error.code(),
            Self::Before(_) => "WDL-2310",
            Self::Supervisor(_) => "WDL-2311",
            Self::AllFailed { .. } => "WDL-2001",
            Self::Overdue => "WDL-2002",
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Repository(error) => error.reason(),
            Self::Before(_) => "HookFailed",
            Self::Supervisor(_) => "NoSupervisor",
            Self::AllFailed { .. } => "NothingCaptured",
            Self::Overdue => "RunOverdue",
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Repository(error) => error.outcome(),
            _ => Outcome::Failed,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Repository(error) => error.hints(),
            Self::Before(_) => vec![
                "run the hook by hand as the user Windlass runs as; nothing was captured, and the after-hooks were run"
                    .into(),
            ],
            Self::Supervisor(_) => {
                vec!["check that the windlass binary may be started again by the user it runs as".into()]
            }
            Self::AllFailed { .. } => vec!["mend the components' errors above; older points are untouched".into()],
            Self::Overdue => vec!["capture less in one application, or from a faster source".into()],
        }
    }
}

/// A point was committed.
#[derive(Debug)]
pub struct Taken {
    /// The point.
    pub point: RecoveryPoint,
    /// Why the run is a failure nevertheless: an after-hook failed, and the application may still be paused.
    pub hook_failures: Vec<String>,
    /// The components that could not be captured, with what their commands said: the point itself keeps nothing of that.
    pub failed: Vec<ComponentFailure>,
    /// Why its record of evidence could not be written; the point itself is there.
    pub unrecorded: Option<RepositoryError>,
}

impl Taken {
    /// Whether all went well.
    pub fn is_success(&self) -> bool {
        self.point.is_complete() && self.hook_failures.is_empty() && self.unrecorded.is_none()
    }
}

/// Takes a recovery point.
pub async fn run(task: &Backup<'_>, id: PointId) -> Result<Taken, BackupError> {
    let started = Timestamp::now();
    begin(task, id, started).await?;
    let supervisor = arm(task, &task.application.hooks).await?;
    let limit = Duration::from_secs(LONGEST_RUN.as_secs().unsigned_abs());
    let captured = tokio::time::timeout(limit, capture_all(task, id, supervisor.is_some())).await;
    let mut hook_failures = disarm(supervisor).await?;
    for failure in &hook_failures {
        task.progress.event(Event::Warning { text: &format!("after-hook: {failure}") });
    }
    let captured = captured.map_err(|_| BackupError::Overdue)??;
    if captured.summaries.is_empty() {
        return Err(BackupError::AllFailed { failed: captured.failed });
    }
    hook_failures.extend(captured.hook_failures.iter().cloned());
    let failed = captured.failed.clone();
    let mut point = assemble(task, id, started, captured, &hook_failures);
    point.evidence = evidence::heads(task.vault).await.map_err(BackupError::Repository)?;
    if live::age_of_run(task.vault, id).await.map_err(BackupError::Repository)? > LONGEST_RUN {
        return Err(BackupError::Overdue);
    }
    let sha256 = task.vault.commit(task.writer, &point).await.map_err(BackupError::Repository)?;
    let event = evidence::Event::Backup { point: id, complete: point.is_complete(), sha256 };
    let unrecorded = evidence::append(task.vault, task.writer, task.host, event).await.err();
    Ok(Taken { point, hook_failures, failed, unrecorded })
}

/// Captures the components of a run whose point someone else commits, and reads back what was stored. The same run may be
/// tried again: what an earlier attempt finished is not done twice.
pub async fn capture(task: &Backup<'_>, id: PointId) -> Result<Vec<ComponentManifest>, BackupError> {
    let failed = BackupError::Repository;
    match begin(task, id, Timestamp::now()).await {
        Ok(()) | Err(BackupError::Repository(RepositoryError::Store(StoreError::Occupied { .. }))) => {}
        Err(error) => return Err(error),
    }
    let earlier = Run::load(task.vault, id).await.map_err(failed)?;
    let mut captured = Vec::new();
    let mut failures = Vec::new();
    for component in &task.components {
        let done = earlier.as_ref().and_then(|run| run.captured.get(&component.name));
        if let Some((manifest, _)) = done {
            captured.push(manifest.clone());
            continue;
        }
        let (part, hooks) = capture_one(task, id, component, false).await;
        let part = match part {
            Ok(manifest) => read_back(task, manifest).await,
            Err(error) => Err(error),
        };
        match part {
            Ok(mut manifest) => {
                manifest.warnings.extend(hooks.iter().map(|failure| format!("after-hook: {failure}")));
                task.vault.put_component(task.writer, &manifest).await.map_err(failed)?;
                captured.push(manifest);
            }
            Err(error) => failures.push(ComponentFailure {
                name: component.name.clone(),
                code: error.code().to_owned(),
                message: chain(&*error),
            }),
        }
    }
    if failures.is_empty() { Ok(captured) } else { Err(BackupError::AllFailed { failed: failures }) }
}

/// Reads every object of a component back from the store, before anyone is told that it is there.
async fn read_back(task: &Backup<'_>, manifest: ComponentManifest) -> Result<ComponentManifest, AnyError> {
    let component = &manifest.component;
    let total = manifest.objects().iter().map(|object| object.size).sum();
    task.progress.event(Event::Step { component, text: "read back", total: Some(total) });
    let moved = |more| task.progress.event(Event::Bytes { component, more });
    let verdict = verify::objects(task.vault, &manifest, &moved).await.map_err(boxed)?;
    match verdict.findings.into_iter().next() {
        None => Ok(ComponentManifest { read_back: Some(Timestamp::now()), ..manifest }),
        Some(why) => Err(boxed(ObjectError::Damaged {
            key: manifest.objects().first().map_or_else(String::new, |o| o.key.clone()),
            why,
        })),
    }
}

async fn begin(task: &Backup<'_>, id: PointId, started: Timestamp) -> Result<(), BackupError> {
    let intent = Intent {
        format: FORMAT,
        point: id,
        application: task.application.name.clone(),
        components: task.components.iter().map(|c| c.name.clone()).collect(),
        host: task.host.to_owned(),
        started,
    };
    let bytes = task.writer.sign(&intent).map_err(BackupError::Repository)?;
    let key = layout::intent(&task.application.name, id);
    let stored = task.vault.store().create(&key, bytes).await;
    stored.map(drop).map_err(|e| BackupError::Repository(RepositoryError::Store(e)))
}

/// What was captured, and what was not.
struct Captured {
    summaries: Vec<ComponentSummary>,
    failed: Vec<ComponentFailure>,
    consistency: Consistency,
    warnings: Vec<String>,
    /// After-hooks of components that failed.
    hook_failures: Vec<String>,
}

async fn capture_all(task: &Backup<'_>, id: PointId, supervised: bool) -> Result<Captured, BackupError> {
    run_before(&task.application.hooks).await?;
    let mut all = Captured {
        summaries: Vec::new(),
        failed: Vec::new(),
        consistency: Consistency::Coordinated,
        warnings: Vec::new(),
        hook_failures: Vec::new(),
    };
    for component in &task.components {
        let (part, hook_failures) = capture_one(task, id, component, supervised).await;
        for failure in &hook_failures {
            let text = format!("{}: after-hook: {failure}", component.name);
            task.progress.event(Event::Warning { text: &text });
            all.hook_failures.push(text);
        }
        match part {
            Ok(manifest) => {
                let text = format!("captured, {} new", windlass_core::size::display(manifest.stored_bytes()));
                all.consistency = all.consistency.min(manifest.consistency);
                all.warnings.extend(manifest.warnings.iter().map(|w| format!("{}: {w}", component.name)));
                let summary = task.vault.put_component(task.writer, &manifest).await;
                all.summaries.push(summary.map_err(BackupError::Repository)?);
                task.progress.event(Event::Done { component: &component.name, text: &text });
            }
            Err(error) => {
                let message = chain(&*error);
                task.progress.event(Event::Done { component: &component.name, text: "failed" });
                all.failed.push(ComponentFailure {
                    name: component.name.clone(),
                    code: error.code().to_owned(),
                    message,
                });
            }
        }
    }
    // Components of one point stand at one moment only if there is one of them, or nothing moved meanwhile.
    let held_still = !task.application.hooks.before.is_empty();
    all.consistency = match all.consistency {
        _ if held_still => Consistency::Quiesced,
        Consistency::Coordinated | Consistency::Quiesced => Consistency::Component,
        lesser => lesser,
    };
    Ok(all)
}

type AnyError = Box<dyn Diagnose + Send + Sync>;

/// Captures one component; says also which of its after-hooks failed, whatever became of the capture.
async fn capture_one(
    task: &Backup<'_>,
    id: PointId,
    component: &Component,
    held_still: bool,
) -> (Result<ComponentManifest, AnyError>, Vec<String>) {
    let started = Timestamp::now();
    let supervisor = match arm(task, &component.hooks).await {
        Ok(supervisor) => supervisor,
        Err(error) => return (Err(boxed(error)), Vec::new()),
    };
    let result = async {
        run_before(&component.hooks).await.map_err(boxed)?;
        match &component.strategy {
            Strategy::Postgres(source) => postgres::capture(task, id, component, source).await.map_err(boxed),
            Strategy::Physical(source) => Box::pin(physical::capture(task, id, component, source)).await.map_err(boxed),
            Strategy::Disk(source) => disk::capture(task, id, component, source).await.map_err(boxed),
            Strategy::Action(source) => action::capture(task, id, component, source).await,
        }
    };
    let result = result.await;
    let hook_failures = match disarm(supervisor).await {
        Ok(failures) => failures,
        Err(error) => return (Err(boxed(error)), Vec::new()),
    };
    let quiesced = held_still || !component.hooks.before.is_empty();
    let manifest = result.map(|part| ComponentManifest {
        format: FORMAT,
        point: id,
        application: task.application.name.clone(),
        component: component.name.clone(),
        window: part.window,
        consistency: if quiesced { part.consistency.max(Consistency::Quiesced) } else { part.consistency },
        started,
        finished: Timestamp::now(),
        read_back: None,
        tools: part.tools,
        warnings: part.warnings,
        data: part.data,
    });
    (manifest, hook_failures)
}

/// What a strategy gives of one component.
struct Part {
    window: Window,
    consistency: Consistency,
    tools: Vec<String>,
    warnings: Vec<String>,
    data: windlass_core::point::ComponentData,
}

fn boxed(error: impl Diagnose + Send + Sync + 'static) -> AnyError {
    Box::new(error)
}

fn assemble(task: &Backup<'_>, id: PointId, started: Timestamp, captured: Captured, hooks: &[String]) -> RecoveryPoint {
    let window = span(&captured.summaries).unwrap_or(Window { from: started, to: started });
    let mut warnings = captured.warnings;
    warnings.extend(hooks.iter().map(|failure| format!("after-hook: {failure}")));
    RecoveryPoint {
        format: FORMAT,
        id,
        application: task.application.name.clone(),
        at: window.from,
        started,
        finished: Timestamp::now(),
        consistency: captured.consistency,
        skew_ms: window.skew_ms(),
        components: captured.summaries,
        failed: captured
            .failed
            .into_iter()
            .map(|failure| ComponentFailure { message: without_output(&failure.message).to_owned(), ..failure })
            .collect(),
        warnings: warnings.iter().map(|warning| without_output(warning).to_owned()).collect(),
        evidence: std::collections::BTreeMap::new(),
    }
}

async fn run_before(hooks: &Hooks) -> Result<(), BackupError> {
    for hook in &hooks.before {
        process::run(&hook.run, hook.timeout).await.map_err(BackupError::Before)?;
    }
    Ok(())
}

/// Starts the supervisor where there is something it would have to do.
async fn arm(task: &Backup<'_>, hooks: &Hooks) -> Result<Option<Supervisor>, BackupError> {
    if hooks.is_empty() {
        return Ok(None);
    }
    let deadline = u64::try_from(LONGEST_RUN.as_secs()).unwrap_or(u64::MAX);
    let orders = Orders { after: hooks.after.iter().map(Into::into).collect(), teardown: Vec::new(), deadline };
    Supervisor::start(task.program, &orders).await.map(Some).map_err(BackupError::Supervisor)
}

/// Has the after-hooks run, and says which failed.
async fn disarm(supervisor: Option<Supervisor>) -> Result<Vec<String>, BackupError> {
    let Some(supervisor) = supervisor else { return Ok(Vec::new()) };
    let Report { overdue, failures } = supervisor.act().await.map_err(BackupError::Supervisor)?;
    if overdue { Err(BackupError::Overdue) } else { Ok(failures) }
}
