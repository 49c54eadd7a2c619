//! What can go wrong with a task on this machine.

use std::path::PathBuf;

use windlass_core::diagnose::{Diagnose, Outcome, Retry};
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
    #[error("find a recovery point of {application}: there is no complete one{}", if *before { " at or before that time" } else { "" })]
    NoPoint {
        /// The application.
        application: Name,
        /// Whether a time was asked for.
        before: bool,
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
    /// Another restore or undo of the application is at work.
    #[error("restore {application} in place: another restore or undo of it is at work on this machine")]
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
    /// The application could not be stopped or started.
    #[error("{verb} the application")]
    Control {
        /// `stop` or `start`.
        verb: &'static str,
        /// Why not.
        source: ProcessError,
    },
    /// What was restored is not what it should be.
    #[error("check what was restored: {}", findings.join("; "))]
    Checks {
        /// What was found.
        findings: Vec<String>,
    },
    /// It failed, and what was there is back.
    #[error("restore in place: it failed, and what was there was put back")]
    PutBack(#[source] Box<Self>),
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

impl TaskError {
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
            Self::Checks { .. } => "WDL-3021",
            Self::PutBack(_) => "WDL-3022",
            Self::Stuck { .. } => "WDL-3023",
            Self::Unproven { .. } => "WDL-3024",
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
            Self::Checks { .. } => "ChecksFailed",
            Self::PutBack(_) => "RestorePutBack",
            Self::Stuck { .. } => "RestoreStuck",
            Self::Unproven { .. } => "RestoreUnproven",
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
            | Self::Checks { .. }
            | Self::PutBack(_)
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
            Self::Unsettled { restore, .. } => {
                format!(
                    "if nothing is at work, run the same restore again to finish it, or `windlass undo {restore}` to put back what was there"
                )
            }
            Self::NoUndo { .. } => "`windlass undo` alone lists the restores of this machine".to_owned(),
            Self::Exchange(_) => {
                "check the space and the rights there, and whether something is mounted over it".to_owned()
            }
            Self::Control { .. } => "run the command of `control` by hand as the user Windlass runs as".to_owned(),
            Self::Checks { .. } => "look at the point with a restore aside, or restore another one".to_owned(),
            Self::PutBack(source) => {
                let mut hints = source.hints();
                hints.push("nothing was lost: the next restore can be begun".to_owned());
                return hints;
            }
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
