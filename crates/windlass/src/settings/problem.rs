//! What can be wrong with a settings file, each with its place and its remedy.
//!
//! No message holds a value that is or may be a secret, and no line of the file is ever quoted: a line
//! that has one mistake may hold a secret as well.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use windlass_core::diagnose::{Diagnose, Outcome};

use super::locate::Position;

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The settings file.
    pub file: PathBuf,
    /// The place in it.
    pub at: Position,
    /// What is wrong there.
    pub fault: Fault,
}

impl Problem {
    pub(super) fn new(file: &Path, at: Position, fault: Fault) -> Self {
        Self { file: file.to_owned(), at, fault }
    }

    /// Whether this is worth saying but no reason to stop.
    pub fn is_warning(&self) -> bool {
        matches!(self.fault, Fault::NoRestore { .. } | Fault::ExposedSecret { .. } | Fault::UnmatchedPattern { .. })
    }

    /// The problem as people read it: what, where, and what to do, each on its own line.
    pub fn report(&self) -> String {
        let level = if self.is_warning() { "warning" } else { "error" };
        let mut text = format!("{level}[{}]: {self}\n  --> {}:{}", self.code(), self.file.display(), self.at);
        for hint in self.hints() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n  hint: {hint}");
        }
        text
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

impl std::error::Error for Problem {}

/// What is wrong. `key` is a key as written, `place` where it stands, such as `in [repository.main]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are the words of the message, shown right above them")]
pub enum Fault {
    /// The text is not TOML, so nothing after this place can be judged.
    #[error("the file is not valid TOML: {why}")]
    Syntax { why: String, hint: String },
    /// A key nobody knows.
    #[error("unknown key `{key}` {place}")]
    UnknownKey { key: String, place: String, hint: String },
    /// A value of another type.
    #[error("`{key}` {place} is {found}; {expected} is expected")]
    WrongType { key: String, place: String, found: &'static str, expected: &'static str, hint: String },
    /// A key that must be there is not.
    #[error("`{key}` is missing {place}")]
    MissingKey { key: String, place: String, hint: String },
    /// A name of a repository, policy, application or component of the wrong shape.
    #[error("{why}")]
    InvalidName { why: String, hint: String },
    /// A value of the right type that cannot be used.
    #[error("`{key}` {place} {why}")]
    InvalidValue { key: String, place: String, why: String, hint: String },
    /// A name of something the file does not have.
    #[error("`{key}` {place} names the {what} `{name}`, but there is none of that name")]
    UnknownReference { key: String, place: String, what: &'static str, name: String, hint: String },
    /// Components that wait for each other.
    #[error("the components of [application.{application}] wait for each other: {circle}")]
    Cycle { application: String, circle: String },
    /// A secret written into the file.
    #[error("`{key}` {place} is a secret in plain text")]
    PlainSecret { key: String, place: String },
    /// A secret inside a URL.
    #[error("`{key}` {place} holds a user or a password")]
    SecretInUrl { key: String, place: String, hint: String },
    /// Something of the documented settings that this version does not do.
    #[error("{what} is not supported yet")]
    NotSupportedYet { what: String, hint: String },
    /// A kind of component nobody knows.
    #[error("unknown kind `{kind}` {place}")]
    UnknownKind { kind: String, place: String, hint: String },
    /// Something that would protect nothing.
    #[error("{what}: there is nothing to protect")]
    NothingToProtect { what: String, hint: String },
    /// Keys that do not go together.
    #[error("{why}")]
    Conflict { why: String, hint: String },
    /// A path that depends on where Windlass is started.
    #[error("`{key}` {place} is not an absolute path")]
    RelativePath { key: String, place: String, hint: String },

    /// A file or folder that is not there, or cannot be looked at.
    #[error("`{key}` {place} names `{}`: {why}", path.display())]
    MissingPath { key: String, place: String, path: PathBuf, why: String, hint: String },
    /// A program that is not there.
    #[error("`{key}` {place} runs `{program}`, which is {why}")]
    MissingProgram { key: String, place: String, program: String, why: &'static str },
    /// An environment variable that is not set.
    #[error("`{key}` {place} names the environment variable `{variable}`, which is not set")]
    MissingVariable { key: String, place: String, variable: String },
    /// A secret's file that others on this machine can read.
    #[error("the secret file `{}` can be read by other users of this machine (mode {mode:03o})", path.display())]
    ExposedSecret { path: PathBuf, mode: u32 },
    /// A pattern that leaves nothing out. Only a warning: there may be no such file today.
    #[error("`{key}` {place} matches nothing")]
    UnmatchedPattern { key: String, place: String },
    /// An action that can be backed up but not restored.
    #[error("{place} has no `restore`: its backup can be read back, but nothing can bring it back")]
    NoRestore { place: String },
}

impl Fault {
    /// Every code and reason of this area, in order, for the reference of errors.
    pub const CODES: &'static [(&'static str, &'static str)] = &[
        ("WDL-0101", "SettingsNotFound"),
        ("WDL-0102", "SettingsUnreadable"),
        ("WDL-0103", "UnknownKey"),
        ("WDL-0104", "InvalidToml"),
        ("WDL-0105", "WrongType"),
        ("WDL-0106", "MissingKey"),
        ("WDL-0107", "InvalidName"),
        ("WDL-0108", "InvalidValue"),
        ("WDL-0109", "UnknownReference"),
        ("WDL-0110", "CaptureOrderCycle"),
        ("WDL-0111", "SecretInPlainText"),
        ("WDL-0112", "SecretInUrl"),
        ("WDL-0113", "NotSupportedYet"),
        ("WDL-0114", "UnknownKind"),
        ("WDL-0115", "NothingToProtect"),
        ("WDL-0116", "ConflictingKeys"),
        ("WDL-0117", "RelativePath"),
        ("WDL-0118", "UnknownApplication"),
        ("WDL-0121", "PathMissing"),
        ("WDL-0122", "ProgramMissing"),
        ("WDL-0123", "SecretExposed"),
        ("WDL-0124", "ActionWithoutRestore"),
        ("WDL-0125", "VariableMissing"),
        ("WDL-0126", "PatternUnmatched"),
    ];

    fn code_and_reason(&self) -> (&'static str, &'static str) {
        match self {
            Self::UnknownKey { .. } => ("WDL-0103", "UnknownKey"),
            Self::Syntax { .. } => ("WDL-0104", "InvalidToml"),
            Self::WrongType { .. } => ("WDL-0105", "WrongType"),
            Self::MissingKey { .. } => ("WDL-0106", "MissingKey"),
            Self::InvalidName { .. } => ("WDL-0107", "InvalidName"),
            Self::InvalidValue { .. } => ("WDL-0108", "InvalidValue"),
            Self::UnknownReference { .. } => ("WDL-0109", "UnknownReference"),
            Self::Cycle { .. } => ("WDL-0110", "CaptureOrderCycle"),
            Self::PlainSecret { .. } => ("WDL-0111", "SecretInPlainText"),
            Self::SecretInUrl { .. } => ("WDL-0112", "SecretInUrl"),
            Self::NotSupportedYet { .. } => ("WDL-0113", "NotSupportedYet"),
            Self::UnknownKind { .. } => ("WDL-0114", "UnknownKind"),
            Self::NothingToProtect { .. } => ("WDL-0115", "NothingToProtect"),
            Self::Conflict { .. } => ("WDL-0116", "ConflictingKeys"),
            Self::RelativePath { .. } => ("WDL-0117", "RelativePath"),
            Self::MissingPath { .. } => ("WDL-0121", "PathMissing"),
            Self::MissingProgram { .. } => ("WDL-0122", "ProgramMissing"),
            Self::ExposedSecret { .. } => ("WDL-0123", "SecretExposed"),
            Self::NoRestore { .. } => ("WDL-0124", "ActionWithoutRestore"),
            Self::MissingVariable { .. } => ("WDL-0125", "VariableMissing"),
            Self::UnmatchedPattern { .. } => ("WDL-0126", "PatternUnmatched"),
        }
    }
}

impl Diagnose for Problem {
    fn details(&self) -> Vec<String> {
        vec![self.report()]
    }

    fn code(&self) -> &'static str {
        self.fault.code_and_reason().0
    }

    fn reason(&self) -> &'static str {
        self.fault.code_and_reason().1
    }

    fn outcome(&self) -> Outcome {
        Outcome::CouldNotRun
    }

    fn hints(&self) -> Vec<String> {
        let hint = match &self.fault {
            Fault::Syntax { hint, .. }
            | Fault::WrongType { hint, .. }
            | Fault::InvalidName { hint, .. }
            | Fault::UnknownKey { hint, .. }
            | Fault::MissingKey { hint, .. }
            | Fault::InvalidValue { hint, .. }
            | Fault::UnknownReference { hint, .. }
            | Fault::SecretInUrl { hint, .. }
            | Fault::NotSupportedYet { hint, .. }
            | Fault::UnknownKind { hint, .. }
            | Fault::NothingToProtect { hint, .. }
            | Fault::Conflict { hint, .. }
            | Fault::RelativePath { hint, .. }
            | Fault::MissingPath { hint, .. } => hint.clone(),
            Fault::Cycle { .. } => "take one of them out of an `after`".to_owned(),
            Fault::PlainSecret { key, .. } => format!(
                "put it into a file that only the user of Windlass can read and write `{key} = {{ file = \"/etc/windlass/…\" }}`; \
                 or use {{ env = \"…\" }} or {{ command = [\"…\"] }}; and change the secret, since others may have read this file"
            ),
            Fault::MissingProgram { .. } => {
                "install it, or name it by its full path; it is run without a shell".to_owned()
            }
            Fault::MissingVariable { variable, .. } => {
                format!("set `{variable}` in the environment Windlass is started with")
            }
            Fault::UnmatchedPattern { .. } => {
                "correct it if it has a slip: what it was to leave out is captured; else leave it as it is".to_owned()
            }
            Fault::ExposedSecret { path, .. } => format!("chmod 600 {}", path.display()),
            Fault::NoRestore { .. } => {
                "add `restore = [\"…\"]`, a command that takes the backup on its standard input".to_owned()
            }
        };
        vec![hint]
    }
}
