//! A task: what an agent does where the data are, written down by whoever started it.
//!
//! It is a JSON file. It holds no secret, only the names of the variables and files that do; and nothing that the
//! agent would have to ask a cluster for.

use std::path::PathBuf;

use jiff::Timestamp;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::id::{PointId, RepositoryId, RestoreId};
use crate::name::Name;
use crate::repository::S3;
use crate::restore::{CommandStep, Impact, Plan, ReplaceDatabase};
use crate::secret::SecretRef;

/// The version of the document. An agent refuses a greater one.
pub const FORMAT: u32 = 1;

/// The environment variable that names the file into which what came of a task is written, as JSON.
pub const RESULT: &str = "WINDLASS_RESULT";

/// A task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// [`FORMAT`].
    pub format: u32,
    /// The application.
    pub application: Name,
    /// Who had it done, in manifests: `namespace/name` of the object it is for.
    pub host: String,
    /// Where the application's repository is; absent where none is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<Location>,
    /// What is to be done.
    pub work: Work,
}

/// Where a repository is, and who writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// The repository that must be there; any other is refused.
    pub id: RepositoryId,
    /// The folder in the bucket.
    pub place: S3,
    /// The writer and its signing key.
    pub writer: SecretRef,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// See whether a capture would succeed; nothing is written.
    Check(Database),
    /// Capture a database and leave its manifest; the point is committed by whoever reads it.
    Capture(Capture),
    /// Plan a restore in the place of what is there; nothing is written.
    Plan(Ask),
    /// Set a database aside and lay a restored one down beside it, checked.
    LayDown(LayDown),
    /// Give the restored database the name.
    Switch(Switch),
    /// Ask addresses of the application whether it works; nothing is written.
    Answer(Vec<String>),
    /// Put back what was there before a restore, whatever has been done so far.
    PutBack(PutBack),
    /// Drop what was there before a restore: it can no longer be put back.
    Forget(Replaced),
}

/// What a plan of a restore is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// The point.
    pub point: PointId,
    /// The component.
    pub component: Name,
    /// The database that is to be replaced.
    #[serde(flatten)]
    pub database: Database,
    /// How the application is stopped and started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<(CommandStep, CommandStep)>,
    /// How long the old copy stays, in seconds; until somebody removes it where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_seconds: Option<i64>,
}

/// The answer to [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// The plan, and what it does to what is there.
    Planned(Box<Plan>, Box<Impact>),
    /// Why there is none: in words, with what to do.
    Refused(String),
}

/// A database that a restore replaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// The restore.
    pub restore: RestoreId,
    /// How its server is reached.
    #[serde(flatten)]
    pub database: Database,
    /// The step of the plan that was confirmed.
    pub step: ReplaceDatabase,
    /// The restored database by its identifier in the server, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<u32>,
}

/// The way back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutBack {
    /// What is replaced.
    #[serde(flatten)]
    pub replaced: Replaced,
    /// Whether what had been restored stays, under another name: somebody may have worked with it.
    pub keep: bool,
}

/// The first half of a replacement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayDown {
    /// What is replaced.
    #[serde(flatten)]
    pub replaced: Replaced,
    /// The point it is replaced from.
    pub point: PointId,
    /// Queries whose first column of their first row must be true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sql: Vec<String>,
}

/// The second half of a replacement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// What is replaced.
    #[serde(flatten)]
    pub replaced: Replaced,
    /// Files that the restored database mentions, where they are to be looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mentioned: Option<Mentioned>,
}

/// Files that a database mentions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mentioned {
    /// The query that names them in its first column, the newest first.
    pub sql: String,
    /// Where paths that are not absolute begin.
    pub folder: PathBuf,
}

/// What came of a task. Where it is told by the message that a container ends with, it has to fit into 4 KiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// A capture would succeed.
    Checked {
        /// `server_version_num`.
        server_version: u32,
        /// The major version of `pg_dump`.
        tools: u32,
    },
    /// Everything is in the repository, and was read back.
    Captured {
        /// The point it is to become.
        point: PointId,
        /// The objects, by key below the repository's folder.
        objects: Vec<String>,
        /// Their bytes as stored.
        stored_bytes: u64,
    },
    /// A restore was planned, or why there is no plan.
    Asked(Asked),
    /// The database of the point lies beside the one it is to replace.
    LaidDown {
        /// Its identifier in the server.
        oid: u32,
        /// What held.
        checked: Vec<String>,
        /// What was left out, in words.
        left_out: Vec<String>,
    },
    /// The restored database has the name.
    Switched {
        /// What held.
        checked: Vec<String>,
        /// What a person should know: files that are missing.
        notes: Vec<String>,
    },
    /// The application answers.
    Answered {
        /// What held.
        checked: Vec<String>,
    },
    /// What was there before is there again.
    PutBack {
        /// The name under which a database is kept: what had been restored, or what somebody made meanwhile.
        beside: Option<String>,
    },
    /// What was there before is gone.
    Forgotten,
}

/// The most of one line of a result, in characters.
const LINE: usize = 240;

/// The most lines of one kind in a result.
const LINES: usize = 4;

impl Done {
    /// The same, so short that it fits into the message a container ends with: what is left out is counted.
    #[must_use]
    pub fn shortened(mut self) -> Self {
        match &mut self {
            Self::Asked(Asked::Planned(plan, _)) => shorten(&mut plan.warnings),
            Self::Asked(Asked::Refused(why)) => *why = line(why, 8 * LINE),
            Self::LaidDown { checked, left_out: other, .. } | Self::Switched { checked, notes: other } => {
                shorten(checked);
                shorten(other);
            }
            Self::Answered { checked } => shorten(checked),
            Self::Captured { objects, .. } => shorten(objects),
            Self::Checked { .. } | Self::PutBack { .. } | Self::Forgotten => {}
        }
        self
    }
}

fn shorten(lines: &mut Vec<String>) {
    let more = lines.len().saturating_sub(LINES);
    lines.truncate(LINES);
    for text in lines.iter_mut() {
        *text = line(text, LINE);
    }
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
}

fn line(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most).collect();
    format!("{kept}…")
}

/// The capture of one database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// The component.
    pub component: Name,
    /// The database.
    #[serde(flatten)]
    pub database: Database,
    /// The environment variables that name the run.
    pub run: RunNames,
}

/// A database and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// The server's name or address.
    pub host: Part,
    /// Its port; 5432 where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Part>,
    /// The role.
    pub user: Part,
    /// Its password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// The database.
    pub name: Part,
}

/// A part of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// As it stands.
    Value(String),
    /// The value of an environment variable where the agent runs.
    Env(String),
}

/// Environment variables that name a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunNames {
    /// Holds the name of the Job, which ends with the minute it was scheduled for where a CronJob made it.
    pub job: String,
    /// Holds the unique identifier of the Job, the same for each of its attempts.
    pub uid: String,
}

/// One run of a scheduled capture: told apart from every other, and the same for each of its attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The point it is to become.
    pub point: PointId,
    /// The moment it stands for.
    pub scheduled: Timestamp,
}

impl Run {
    /// The run of a Job that a CronJob made: the minutes since 1970 of its schedule are the end of its name. A Job that
    /// someone else made has none, and stands for `created`, to the second.
    pub fn of_job(name: &str, uid: &str, created: Timestamp) -> Self {
        let made = || Timestamp::from_second(created.as_second()).unwrap_or(created);
        let scheduled = scheduled(name).unwrap_or_else(made);
        let mut hash = Context::new(&SHA256);
        hash.update(uid.as_bytes());
        let random = hash.finish().as_ref().iter().take(10).fold(0u128, |all, byte| (all << 8) | u128::from(*byte));
        Self { point: PointId::new(scheduled, random), scheduled }
    }

    /// Whether a point is of the same Job: of one made by hand, each attempt may take another second for its own.
    pub fn is_of_same_job(&self, point: PointId) -> bool {
        self.point.random() == point.random()
    }

    /// The same run, as an earlier attempt has begun it.
    #[must_use]
    pub fn begun_as(self, point: PointId) -> Self {
        Self { point, scheduled: point.made_at() }
    }
}

/// Minutes since 1970 that are believed, of the years 2008 to 2160: names end with digits for other reasons too.
const PLAUSIBLE: std::ops::Range<i64> = 20_000_000..100_000_000;

fn scheduled(name: &str) -> Option<Timestamp> {
    let (_, minutes) = name.rsplit_once('-')?;
    let minutes: i64 = minutes.parse().ok()?;
    PLAUSIBLE.contains(&minutes).then(|| Timestamp::from_second(minutes * 60).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_fits_into_the_message_of_a_container() {
        let long = || (0..50).map(|_| "\"é".repeat(4096)).collect::<Vec<String>>();
        let done = Done::LaidDown { oid: u32::MAX, checked: long(), left_out: long() }.shortened();
        let text = serde_json::to_string(&done).unwrap();
        assert!(text.len() <= 4096, "{}", text.len());
        assert!(text.contains("and 46 more"));
    }

    #[test]
    fn a_run_is_named_by_its_job_and_the_same_for_every_attempt() {
        let now: Timestamp = "2026-11-21T10:00:00.5Z".parse().unwrap();
        let run = Run::of_job("kryton-sample-backup-29395860", "6f1c", now);
        assert_eq!(run.scheduled.to_string(), "2025-11-21T19:00:00Z");
        assert_eq!(run.point.made_at(), run.scheduled);
        assert_eq!(Run::of_job("kryton-sample-backup-29395860", "6f1c", Timestamp::UNIX_EPOCH), run);
        assert_ne!(Run::of_job("kryton-sample-backup-29395860", "77aa", now).point, run.point);
    }

    #[test]
    fn a_job_made_by_hand_stands_for_the_second_it_was_made() {
        let now: Timestamp = "2026-11-21T10:00:00.5Z".parse().unwrap();
        for name in ["by-hand", "by-hand-2", "x-99999999999", "backup--1"] {
            assert_eq!(Run::of_job(name, "6f1c", now).scheduled.to_string(), "2026-11-21T10:00:00Z", "{name}");
        }
    }
}
