//! What can go wrong with a task on this machine.

use std::path::PathBuf;

use jiff::Timestamp;
use windlass_core::diagnose::{Diagnose, Outcome, Retry, chain, without_output};
use windlass_core::id::{PointId, RestoreId};
use windlass_core::name::Name;
use windlass_core::restore::Refusal;
use windlass_engine::exchange::ExchangeError;
use windlass_engine::postgres::PostgresError;
use windlass_engine::process::ProcessError;
use windlass_engine::restore::RestoreError;
use windlass_engine::supervisor::SupervisorError;
use windlass_repo::error::RepositoryError;
use windlass_repo::format::restic::FilesError;
use windlass_repo::keyring::KeyError;
use windlass_repo::object::ObjectError;
use windlass_repo::sweep::SweepError;

use crate::in_place::journal::{Journal, State};

/// A task that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The repository.
    #[error(transparent)]
    Repository(RepositoryError),
    /// A keyring.
    #[error(transparent)]
    Key(KeyError),
    /// An object.
    #[error(transparent)]
    Object(ObjectError),
    /// The restic repository.
    #[error(transparent)]
    Files(FilesError),
    /// PostgreSQL.
    #[error(transparent)]
    Postgres(PostgresError),
    /// A plan that is not made.
    #[error(transparent)]
    Refused(Refusal),
    /// A step of a restore.
    #[error(transparent)]
    Restore(RestoreError),
    /// A sweep.
    #[error(transparent)]
    Sweep(Box<SweepError>),
    /// The supervisor, without which nothing would be torn down.
    #[error(transparent)]
    Supervisor(SupervisorError),
    /// There is no complete point.
    #[error("find a recovery point of {application}: there is no complete one{}", earlier(*before, *.earliest))]
    NoPoint {
        /// The application.
        application: Name,
        /// Whether a time was asked for.
        before: bool,
        /// What the oldest complete one stands for.
        earliest: Option<Timestamp>,
    },
    /// The point is about to be deleted.
    #[error("use the recovery point {point}: it is marked for deletion, and its grace is over")]
    Going {
        /// The point.
        point: PointId,
    },
    /// The point is damaged.
    #[error("restore from {point}: it is damaged, and nothing was written: {}", damage.join("; "))]
    Damaged {
        /// The point.
        point: PointId,
        /// What is wrong with it.
        damage: Vec<String>,
        /// The newest point that is intact, if one is.
        intact: Option<PointId>,
    },
    /// What was confirmed is not what would be done.
    #[error("run the confirmed plan: the world has changed, and the plan is now {now}, not {confirmed}")]
    Changed {
        /// The digest that was confirmed.
        confirmed: String,
        /// The digest of the plan now.
        now: String,
    },
    /// What this machine remembers cannot be read or written.
    #[error("use `{}`", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A restore that this machine remembers cannot be read.
    #[error("read the restore in `{}`: {why}", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A restore, an undo or a backup of the application is at work.
    #[error("work on {application}: a restore, an undo or a backup of it is at work on this machine")]
    AtWork {
        /// The application.
        application: Name,
    },
    /// An earlier restore was interrupted.
    #[error(
        "work on {application}: the restore {restore} in place is at work, or was interrupted and is neither finished nor undone"
    )]
    Unsettled {
        /// The application.
        application: Name,
        /// The restore.
        restore: RestoreId,
        /// Whether it is being undone, and can only be undone to its end.
        undoing: bool,
        /// What has to be run again to go on with it.
        again: String,
    },
    /// It stopped half-way.
    #[error("work on the restore {restore}: it stopped half-way")]
    Halted {
        /// The restore.
        restore: RestoreId,
        /// Why.
        source: Box<Self>,
    },
    /// The settings mean another server now.
    #[error("work on the restore {restore}: the server of {component} is not the one it was begun at, {url}")]
    OtherServer {
        /// The restore.
        restore: RestoreId,
        /// The component.
        component: Name,
        /// The server it was begun at.
        url: String,
    },
    /// The settings do not say any more how the application is stopped.
    #[error("stop the application: the plan stops it, and the settings have no `control` any more")]
    NoControl,
    /// Something is restored without a repository.
    #[error("restore from the repository: it was not opened")]
    NoVault,
    /// A thread of ours did not come to its end.
    #[error("exchange files")]
    Thread {
        /// Why not.
        source: std::io::Error,
    },
    /// It had failed before it was interrupted.
    #[error("{failure}")]
    Before {
        /// Why it had failed.
        failure: String,
    },
    /// There is no such restore, or nothing of it can be undone.
    #[error("undo {restore}: {why}")]
    NoUndo {
        /// The restore, as it was asked for.
        restore: String,
        /// Why not.
        why: String,
    },
    /// Entries could not be exchanged.
    #[error(transparent)]
    Exchange(ExchangeError),
    /// The application or a server could not be stopped or started.
    #[error("{verb} {what}")]
    Control {
        /// `stop` or `start`.
        verb: &'static str,
        /// What.
        what: &'static str,
        /// Why not.
        source: ProcessError,
    },
    /// A server works on, though its command to stop it has ended.
    #[error("stop the server of {component}: its command has ended, and a server still works in `{}`", folder.display())]
    StillRuns {
        /// The component.
        component: Name,
        /// Its data folder.
        folder: PathBuf,
    },
    /// What was restored is not what it should be.
    #[error("check what was restored: {}", findings.join("; "))]
    Checks {
        /// What was found.
        findings: Vec<String>,
    },
    /// It failed, and what was there is back.
    #[error("restore in place: it failed, and what was there was put back{}", but(gone, unstarted.as_ref()))]
    PutBack {
        /// Why it failed.
        source: Box<Self>,
        /// What a person should know.
        notes: Vec<String>,
        /// What could not come back, in words.
        gone: Vec<String>,
        /// Why the application did not start again.
        unstarted: Option<String>,
    },
    /// It failed, and what was there could not be put back.
    #[error("restore in place: it failed ({failure}), and what was there could not be put back")]
    Stuck {
        /// The restore.
        restore: RestoreId,
        /// Why it failed, in words.
        failure: String,
        /// Why it could not be put back.
        source: Box<Self>,
    },
    /// It is in place, and not proven.
    #[error("restore in place: the data are in place, but the application is not proven to work")]
    Unproven {
        /// The restore.
        restore: RestoreId,
        /// Why not.
        source: Box<Self>,
    },
    /// The plan lets more go than the policy allows.
    #[error(
        "apply retention: the plan lets {going} of {all} points go, more than the {percent}% that `max_delete` allows"
    )]
    TooMany {
        /// How many go.
        going: usize,
        /// Of how many.
        all: usize,
        /// How much is allowed.
        percent: u8,
    },
}

/// What keeps it from being as it was.
fn but(gone: &[String], unstarted: Option<&String>) -> String {
    let mut text = if gone.is_empty() { String::new() } else { format!(", but not {}", gone.join(", ")) };
    if let Some(why) = unstarted {
        text.push_str(&format!("; the application did not start again: {why}"));
    }
    text
}

impl TaskError {
    /// An earlier restore has to be finished or undone first.
    pub fn unsettled(journal: &Journal) -> Self {
        let (application, restore) = (journal.application.clone(), journal.id);
        Self::Unsettled { application, restore, undoing: journal.state == State::Undoing, again: journal.command() }
    }

    /// There is nothing of a restore to be undone, removed or given up.
    pub(crate) fn no_undo(journal: &Journal, why: String) -> Self {
        Self::NoUndo { restore: journal.id.to_string(), why }
    }

    /// The error in words, without what commands printed: as it may be kept.
    pub(crate) fn without_output(&self) -> String {
        without_output(&chain(self)).to_owned()
    }

    /// A restore stopped half-way.
    pub(crate) fn halted(journal: &Journal, source: Self) -> Self {
        match source {
            source @ Self::Halted { .. } => source,
            source => Self::Halted { restore: journal.id, source: Box::new(source) },
        }
    }

    fn inner(&self) -> Option<&dyn Diagnose> {
        Some(match self {
            Self::Repository(error) => error,
            Self::Key(error) => error,
            Self::Object(error) => error,
            Self::Files(error) => error,
            Self::Postgres(error) => error,
            Self::Refused(error) => error,
            Self::Restore(error) => error,
            Self::Sweep(error) => &**error,
            _ => return None,
        })
    }
}

fn earlier(before: bool, earliest: Option<Timestamp>) -> String {
    match (before, earliest) {
        (false, _) => String::new(),
        (true, None) => " at or before that time".to_owned(),
        (true, Some(earliest)) => format!(" at or before that time: the oldest stands for {earliest}"),
    }
}

impl Diagnose for TaskError {
    fn code(&self) -> &'static str {
        match self {
            Self::Supervisor(_) => "WDL-2311",
            Self::NoPoint { .. } => "WDL-3010",
            Self::Going { .. } => "WDL-3011",
            Self::Damaged { .. } => "WDL-3012",
            Self::Changed { .. } => "WDL-3013",
            Self::TooMany { .. } => "WDL-3014",
            Self::State { .. } => "WDL-3015",
            Self::AtWork { .. } => "WDL-3016",
            Self::Unsettled { .. } => "WDL-3017",
            Self::NoUndo { .. } => "WDL-3018",
            Self::Exchange(_) => "WDL-3019",
            Self::Control { .. } => "WDL-3020",
            Self::StillRuns { .. } => "WDL-3032",
            Self::Checks { .. } => "WDL-3021",
            Self::PutBack { .. } => "WDL-3022",
            Self::Stuck { .. } => "WDL-3023",
            Self::Unproven { .. } => "WDL-3024",
            Self::Halted { .. } => "WDL-3025",
            Self::OtherServer { .. } => "WDL-3026",
            Self::Before { .. } => "WDL-3027",
            Self::Journal { .. } => "WDL-3028",
            Self::NoControl => "WDL-3029",
            Self::NoVault => "WDL-3030",
            Self::Thread { .. } => "WDL-3031",
            other => other.inner().map_or("WDL-3000", Diagnose::code),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Supervisor(_) => "NoSupervisor",
            Self::NoPoint { .. } => "NoPoint",
            Self::Going { .. } => "PointGoing",
            Self::Damaged { .. } => "PointDamaged",
            Self::Changed { .. } => "PlanChanged",
            Self::TooMany { .. } => "TooManyDeletions",
            Self::State { .. } => "StateUnusable",
            Self::AtWork { .. } => "RestoreAtWork",
            Self::Unsettled { .. } => "RestoreUnsettled",
            Self::NoUndo { .. } => "NoUndo",
            Self::Exchange(_) => "ExchangeFailed",
            Self::Control { .. } => "ControlFailed",
            Self::StillRuns { .. } => "ServerStillRuns",
            Self::Checks { .. } => "ChecksFailed",
            Self::PutBack { .. } => "RestorePutBack",
            Self::Stuck { .. } => "RestoreStuck",
            Self::Unproven { .. } => "RestoreUnproven",
            Self::Halted { .. } => "RestoreHalted",
            Self::OtherServer { .. } => "OtherServer",
            Self::Before { .. } => "FailedBefore",
            Self::Journal { .. } => "JournalUnreadable",
            Self::NoControl => "NoControl",
            Self::NoVault => "NoRepository",
            Self::Thread { .. } => "ThreadFailed",
            other => other.inner().map_or("TaskFailed", Diagnose::reason),
        }
    }

    fn retry(&self) -> Retry {
        self.inner().map_or(Retry::Never, Diagnose::retry)
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Damaged { .. }
            | Self::Exchange(_)
            | Self::Control { .. }
            | Self::StillRuns { .. }
            | Self::Checks { .. }
            | Self::PutBack { .. }
            | Self::Halted { .. }
            | Self::Before { .. }
            | Self::Stuck { .. }
            | Self::Unproven { .. } => Outcome::Failed,
            other => other.inner().map_or(Outcome::CouldNotRun, Diagnose::outcome),
        }
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::NoPoint { .. } => "run `windlass points` to see those there are".to_owned(),
            Self::Going { .. } => "choose another point".to_owned(),
            Self::Damaged { intact: Some(intact), .. } => {
                format!("the newest intact point is {intact}: add `--point {intact}`")
            }
            Self::Damaged { intact: None, .. } => {
                "no other point is intact: `windlass repo check` shows what is left".to_owned()
            }
            Self::Changed { .. } => "look at the plan as it is now with `--plan`, and confirm that".to_owned(),
            Self::TooMany { .. } => "look at the plan; if it is meant, add `--beyond-max-delete`".to_owned(),
            Self::State { .. } => "check the space and the rights in the `state` folder of the settings".to_owned(),
            Self::AtWork { .. } => "wait for it; `windlass undo` lists the restores of this machine".to_owned(),
            Self::Journal { .. } => {
                "look at it: it tells what a restore in place had begun; once that is settled by hand, move the file away".to_owned()
            }
            Self::Unsettled { restore, undoing: true, .. } => {
                format!("if nothing is at work, `windlass undo {restore}` goes on with it")
            }
            Self::Unsettled { restore, undoing: false, again, .. } => {
                format!(
                    "if nothing is at work, `{again}` goes on with it, or `windlass undo {restore}` puts back what was there"
                )
            }
            Self::NoUndo { .. } => "`windlass undo` alone lists the restores of this machine".to_owned(),
            Self::Exchange(_) => {
                "check the space and the rights there, and whether something is mounted over it".to_owned()
            }
            Self::Control { .. } => "run the command of `control` by hand as the user Windlass runs as; it must succeed where the application is stopped or started already".to_owned(),
            Self::StillRuns { .. } => "let the `stop` of the component's `control` end only when the server has ended, and see that nothing starts it again meanwhile".to_owned(),
            Self::Checks { .. } => "look at the point with a restore aside, or restore another one".to_owned(),
            Self::PutBack { source, gone, unstarted, .. } => {
                let mut hints = source.hints();
                if unstarted.is_some() {
                    hints.push("start the application by hand".to_owned());
                }
                let lost = if gone.is_empty() { "nothing was lost: " } else { "" };
                hints.push(format!("{lost}the next restore can be begun"));
                return hints;
            }
            Self::Halted { restore, source } => {
                let mut hints = source.hints();
                if matches!(**source, Self::Control { verb: "stop", what: "the application", .. }) {
                    hints.push("if the application is stopped already, add `--stopped`".to_owned());
                }
                hints.push(format!(
                    "mend that and run the same again: it goes on from there; or `windlass undo {restore}`, which `--abandon` gives up as it is"
                ));
                return hints;
            }
            Self::OtherServer { .. } => {
                "put the former `url` back into the settings until the restore is settled; `windlass undo` lists it".to_owned()
            }
            Self::NoControl => {
                "put `control` back into the settings; or stop the application by hand and add `--stopped`".to_owned()
            }
            Self::NoVault | Self::Thread { .. } => "this is a defect of Windlass: please report it".to_owned(),
            Self::Before { .. } => return Vec::new(),
            Self::Stuck { restore, source, .. } => {
                let mut hints = source.hints();
                hints.push(format!("mend that, then run `windlass undo {restore}`: it goes on where this stopped"));
                return hints;
            }
            Self::Unproven { restore, source } => {
                let mut hints = source.hints();
                hints.push(format!("`windlass undo {restore}` puts back what was there before"));
                return hints;
            }
            Self::Supervisor(_) => {
                "check that the windlass binary may be started again by the user it runs as".to_owned()
            }
            other => return other.inner().map(Diagnose::hints).unwrap_or_default(),
        };
        vec![hint]
    }
}

impl From<RepositoryError> for TaskError {
    fn from(error: RepositoryError) -> Self {
        Self::Repository(error)
    }
}
