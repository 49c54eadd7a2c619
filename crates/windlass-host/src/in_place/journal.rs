//! What a restore in place has done so far, kept on this machine: `<state>/restores/<restore>.json`.
//!
//! The list of tasks is written before the first is begun, and each task's beginning and end before and after it: on
//! disk, and in one piece. So whoever comes after a kill knows which tasks are done, which one may be half done, and how
//! to go on or back. A lock, which ends with its process, tells two restores of one application apart.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use windlass_core::application::Application;
use windlass_core::hex;
use windlass_core::id::RestoreId;
use windlass_core::name::Name;
use windlass_core::restore::{CommandStep, Measured, Moment, Plan, Request};
use windlass_core::wal::Timeline;
use windlass_engine::moment;
use windlass_engine::postgres::inspect::Written;
use windlass_repo::random::Fresh;

use super::tasks::{self, Back, Forward};
use crate::error::TaskError;

/// The version of this document.
const FORMAT: u32 = 1;

/// A restore in place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Journal {
    /// The version of this document, 1.
    pub format: u32,
    /// The restore.
    pub id: RestoreId,
    /// Its place among those of this machine, from 1: clocks are set back.
    #[serde(default)]
    pub number: u64,
    /// The application.
    pub application: Name,
    /// The digest of the plan that was confirmed.
    pub digest: String,
    /// The plan.
    pub plan: Plan,
    /// What was asked for: the parts, as they are written, and whether it may go without undo.
    pub only: Vec<String>,
    /// Whether what cannot be kept may go.
    pub without_undo: bool,
    /// The moment that servers are brought to.
    #[serde(default)]
    pub moment: Option<Moment>,
    /// The timeline it was to be looked for on.
    #[serde(default)]
    pub timeline: Option<Timeline>,
    /// Whether servers go with the databases of others.
    #[serde(default)]
    pub cluster: bool,
    /// When it began.
    pub started: Timestamp,
    /// When it came to its end, whatever that was.
    pub finished: Option<Timestamp>,
    /// How far it is.
    pub state: State,
    /// Why it failed, where it did.
    pub failure: Option<String>,
    /// When the old copies may go; until they are removed by hand where absent.
    pub until: Option<Timestamp>,
    /// What is done for the restore.
    pub tasks: Vec<Task<Forward>>,
    /// What is done to put back what was there.
    pub back: Vec<Task<Back>>,
    /// By step of the plan, the databases that were restored.
    pub restored: BTreeMap<usize, RestoredDatabase>,
    /// What was found when what was there was put back.
    #[serde(default)]
    pub returned: Returned,
    #[serde(skip)]
    path: PathBuf,
}

/// How far a restore is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// At work, or interrupted.
    Running,
    /// Done and checked; what was there is kept.
    Restored,
    /// Done, but the application did not start or a check failed; what was there is kept.
    Unproven,
    /// It failed, and what was there is being put back; or that was interrupted.
    PuttingBack,
    /// It failed, and what was there is back.
    PutBack,
    /// It is being undone, or that was interrupted.
    Undoing,
    /// It was undone; what was restored is kept.
    Undone,
    /// What was kept is being removed, or that was interrupted.
    Removing,
    /// What was kept has been removed.
    Over,
    /// Somebody gave it up as it was.
    Abandoned,
}

impl State {
    /// Whether it has to be finished or undone before the next restore.
    pub fn is_unsettled(self) -> bool {
        matches!(self, Self::Running | Self::PuttingBack | Self::Undoing)
    }

    /// Whether it can be undone.
    pub fn can_be_undone(self) -> bool {
        self.is_unsettled() || matches!(self, Self::Restored | Self::Unproven)
    }

    /// Whether something may be kept that can be removed.
    pub fn keeps(self) -> bool {
        matches!(self, Self::Restored | Self::Unproven | Self::Undone | Self::PutBack | Self::Removing)
    }

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "interrupted",
            Self::Restored => "restored",
            Self::Unproven => "restored, not proven",
            Self::PuttingBack => "interrupted while it was put back",
            Self::PutBack => "failed, put back",
            Self::Undoing => "interrupted while it was undone",
            Self::Undone => "undone",
            Self::Removing => "interrupted while what it kept was removed",
            Self::Over => "over",
            Self::Abandoned => "given up",
        }
    }
}

/// One task. Each can be carried out again after it was interrupted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task<W> {
    /// What is done.
    #[serde(flatten)]
    pub what: W,
    /// When it was begun, first.
    pub begun: Option<Timestamp>,
    /// Whether it was interrupted, and begun again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
    /// When it was done.
    pub done: Option<Timestamp>,
}

impl<W> Task<W> {
    /// A task that was not begun.
    pub fn new(what: W) -> Self {
        Self { what, begun: None, again: false, done: None }
    }

    /// Begins it, or begins it again.
    pub fn begin(&mut self) {
        self.again = self.begun.is_some();
        self.begun.get_or_insert(Timestamp::now());
    }

    /// It is done.
    pub fn end(&mut self) {
        self.done = Some(Timestamp::now());
    }
}

/// A database that was restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredDatabase {
    /// Its identifier in the server.
    pub oid: u32,
    /// What was written to it until it got its name.
    pub written: Written,
}

/// What came of putting back what was there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Returned {
    /// What could not come back, in words.
    pub gone: Vec<String>,
    /// Why the application did not start again.
    pub unstarted: Option<String>,
    /// Whether something of what was restored is kept, because it was changed since.
    pub kept: bool,
}

/// What tells apart those at work with one application on this machine: one restore or undo, or backups.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock for a restore or undo; it ends with the process, however that ends.
    pub fn take(state: &Path, application: &Name) -> Result<Self, TaskError> {
        Self::with(state, application, FlockOperation::NonBlockingLockExclusive)
    }

    /// Takes the lock for a backup: beside other backups, and no restore or undo.
    pub fn share(state: &Path, application: &Name) -> Result<Self, TaskError> {
        Self::with(state, application, FlockOperation::NonBlockingLockShared)
    }

    fn with(state: &Path, application: &Name, operation: FlockOperation) -> Result<Self, TaskError> {
        let folder = folder(state)?;
        let path = folder.join(format!("{application}.lock"));
        let failed = |source| TaskError::State { path: path.clone(), source };
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match rustix::fs::flock(&file, operation) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(TaskError::AtWork { application: application.clone() }),
            Err(error) => Err(failed(error.into())),
        }
    }
}

impl Journal {
    /// Begins the journal of a restore: from here on it is told apart from all others.
    pub fn begin(state: &Path, plan: &Plan, digest: &str, request: &Request) -> Result<Self, TaskError> {
        let id = RestoreId::fresh()
            .map_err(|error| TaskError::Repository(windlass_repo::error::RepositoryError::Randomness(error)))?;
        let number = Self::all(state, None)?.last().map_or(0, |last| last.number) + 1;
        let journal = Self {
            format: FORMAT,
            id,
            number,
            application: plan.application.clone(),
            digest: digest.to_owned(),
            plan: plan.clone(),
            only: request.only.iter().map(ToString::to_string).collect(),
            without_undo: request.without_undo,
            moment: request.moment.clone(),
            timeline: request.timeline,
            cluster: request.cluster,
            started: Timestamp::now(),
            finished: None,
            state: State::Running,
            failure: None,
            until: None,
            tasks: tasks::forward(plan),
            back: Vec::new(),
            restored: BTreeMap::new(),
            returned: Returned::default(),
            path: folder(state)?.join(format!("{id}.json")),
        };
        journal.save()?;
        Ok(journal)
    }

    /// The journals of an application, the oldest first; of all where none is named.
    pub fn all(state: &Path, application: Option<&Name>) -> Result<Vec<Self>, TaskError> {
        let folder = state.join("restores");
        let failed = |path: &Path, source| TaskError::State { path: path.to_owned(), source };
        let mut all: Vec<Self> = Vec::new();
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(all),
            entries => entries.map_err(|e| failed(&folder, e))?,
        };
        for entry in entries {
            let path = entry.map_err(|e| failed(&folder, e))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                all.push(Self::load(path)?);
            }
        }
        all.retain(|journal| application.is_none_or(|name| journal.application == *name));
        all.sort_by_key(|journal| (journal.number, journal.id));
        Ok(all)
    }

    fn load(path: PathBuf) -> Result<Self, TaskError> {
        let text = std::fs::read(&path).map_err(|source| TaskError::State { path: path.clone(), source })?;
        match serde_json::from_slice::<Self>(&text) {
            Ok(journal) if journal.format == FORMAT => Ok(Self { path, ..journal }),
            Ok(journal) => Err(TaskError::Journal { path, why: format!("it is of version {}", journal.format) }),
            Err(error) => Err(TaskError::Journal { path, why: error.to_string() }),
        }
    }

    /// A restore as it is on disk now: whoever took the lock looks again.
    pub fn again(&self) -> Result<Self, TaskError> {
        Self::load(self.path.clone())
    }

    /// The one that has to be finished or undone before the next restore of the application.
    pub fn unsettled(state: &Path, application: &Name) -> Result<Option<Self>, TaskError> {
        Ok(Self::all(state, Some(application))?.into_iter().rev().find(|journal| journal.state.is_unsettled()))
    }

    /// Whether somebody is at work with the restore, where it is one that was not ended.
    pub fn is_at_work(&self, state: &Path) -> bool {
        self.state.is_unsettled() && matches!(Lock::take(state, &self.application), Err(TaskError::AtWork { .. }))
    }

    /// What has to be run again to go on with it.
    pub fn command(&self) -> String {
        let mut command = format!("windlass restore {} --in-place", self.application);
        if !self.only.is_empty() {
            command.push_str(&format!(" --only '{}'", self.only.join(",")));
        }
        if self.without_undo {
            command.push_str(" --without-undo");
        }
        if self.cluster {
            command.push_str(" --cluster");
        }
        match self.moment.as_ref().filter(|_| self.plan.replaces_servers()) {
            Some(Moment::Newest) => command.push_str(" --at latest"),
            Some(Moment::Time(time)) => command.push_str(&format!(" --at {time}")),
            Some(Moment::Lsn(lsn)) => command.push_str(&format!(" --at-lsn {lsn}")),
            Some(Moment::Transaction(number)) => command.push_str(&format!(" --at-xid {number}")),
            Some(Moment::Named(name)) => command.push_str(&format!(" --at-name '{}'", name.replace('\'', r"'\''"))),
            None => {}
        }
        if let Some(timeline) = self.timeline {
            command.push_str(&format!(" --timeline {timeline}"));
        }
        command
    }

    /// Whether a request is the one this restore was begun for.
    pub fn is_of(&self, request: &Request) -> bool {
        let only: Vec<String> = request.only.iter().map(ToString::to_string).collect();
        let is_alike = self.only == only && self.without_undo == request.without_undo && request.in_place;
        // Where there is no server, a time only says which point is meant.
        let is_then =
            !self.plan.replaces_servers() || self.moment == request.moment && self.timeline == request.timeline;
        is_alike && is_then && self.cluster == request.cluster
    }

    /// Whether a task of the restore was begun.
    pub fn has_begun(&self, what: Forward) -> bool {
        self.begun(what).is_some()
    }

    /// When a task of the restore was begun, first.
    pub fn begun(&self, what: Forward) -> Option<Timestamp> {
        self.tasks.iter().find(|task| task.what == what)?.begun
    }

    /// Whether a task of the restore was done.
    pub fn has_done(&self, what: Forward) -> bool {
        self.tasks.iter().any(|task| task.what == what && task.done.is_some())
    }

    /// Whether a step's database was deleted, as the plan said, and cannot come back.
    pub fn has_deleted(&self, step: usize) -> bool {
        self.has_done(Forward::Delete(step))
    }

    /// Writes down a change.
    pub fn note(&mut self, change: impl FnOnce(&mut Self)) -> Result<(), TaskError> {
        change(self);
        self.save()
    }

    /// The time it took to bring the data of a component, where it came to its end.
    pub fn measured(&self, component: &Name) -> Option<Measured> {
        let of_it = |(_, step): &(usize, &windlass_core::restore::Step)| step.component() == Some(component);
        let mut sum = Measured::default();
        for (index, step) in self.plan.steps.iter().enumerate().filter(of_it) {
            for task in self.tasks.iter().filter(|task| {
                [
                    Forward::LayDown(index),
                    Forward::Halt(index),
                    Forward::Launch(index),
                    Forward::TakeOut(index),
                    Forward::PutIn(index),
                    Forward::Command(index),
                ]
                .contains(&task.what)
            }) {
                // What was interrupted took the time of the interruption as well.
                let begun = task.begun.filter(|_| !task.again)?;
                let took = task.done?.duration_since(begun).as_millis();
                sum.ms += u64::try_from(took).ok()?;
            }
            sum.bytes += step.bytes();
        }
        (sum.bytes > 0).then_some(sum)
    }

    fn save(&self) -> Result<(), TaskError> {
        moment::pass();
        let failed = |source| TaskError::State { path: self.path.clone(), source };
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let new = self.path.with_extension("new");
        let text = serde_json::to_vec_pretty(self).map_err(|e| failed(e.into()))?;
        let mut file = private(&new).map_err(failed)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&new, &self.path).map_err(failed)?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        moment::pass();
        Ok(())
    }
}

/// A file that is written anew, for us alone.
fn private(path: &Path) -> std::io::Result<File> {
    File::options().create(true).write(true).truncate(true).mode(0o600).open(path)
}

/// Where the list of what a restore in place would do to files is written.
pub fn list_of_differences(state: &Path, application: &Name, component: &Name) -> Result<PathBuf, TaskError> {
    Ok(folder(state)?.join(format!("{application}.{component}.diff")))
}

fn folder(state: &Path) -> Result<PathBuf, TaskError> {
    let folder = state.join("restores");
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.map_err(|source| TaskError::State { path: folder.clone(), source })?;
    Ok(folder)
}

/// The digest of what is done with a restore that was made: of what is done, to which, how far that is, and the commands
/// that stop and start the application now.
pub fn digest_of(verb: &str, journal: &Journal, application: &Application) -> String {
    let argv = |argv: &[String]| CommandStep::of(argv).command;
    let control = application.control.as_ref().map(|control| (argv(&control.stop), argv(&control.start)));
    hex::sha256(format!("{verb} {} {:?} {control:?}", journal.id, journal.state).as_bytes())
}
