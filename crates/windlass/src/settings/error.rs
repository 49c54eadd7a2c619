//! Why settings cannot be used.

use std::fmt::Write as _;
use std::path::PathBuf;

use windlass_core::diagnose::{Diagnose, Outcome, chain};
use windlass_core::name::Name;

use super::problem::Problem;
use super::suggest;

/// Settings that cannot be used. Nothing has been touched.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// There is no settings file.
    #[error("find the settings: there is no {}", list(looked, " and no "))]
    NotFound {
        /// Where they were looked for.
        looked: Vec<PathBuf>,
    },
    /// The file is there but cannot be read.
    #[error("read the settings file `{}`", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("use the settings file `{}`: {}", file.display(), count(problems))]
    Invalid {
        /// The file.
        file: PathBuf,
        /// What is wrong, in the order of the file; at least one.
        problems: Vec<Problem>,
    },
    /// The application that was asked for is not in it.
    #[error("find the application `{}` in `{}`: it is not there", name.escape_debug(), file.display())]
    UnknownApplication {
        /// The file.
        file: PathBuf,
        /// What was asked for.
        name: String,
        /// What is there.
        known: Vec<Name>,
    },
}

impl SettingsError {
    /// The error as people read it: each mistake with its place and its remedy.
    pub fn report(&self) -> String {
        if let Self::Invalid { problems, .. } = self {
            return problems.iter().map(Problem::report).collect::<Vec<_>>().join("\n\n");
        }
        let mut text = format!("error[{}]: {}", self.code(), chain(self));
        for hint in self.hints() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n  hint: {hint}");
        }
        text
    }

    fn first(&self) -> Option<&Problem> {
        match self {
            Self::Invalid { problems, .. } => problems.first(),
            _ => None,
        }
    }
}

impl Diagnose for SettingsError {
    fn details(&self) -> Vec<String> {
        match self {
            Self::Invalid { problems, .. } => problems.iter().map(Problem::report).collect(),
            _ => Vec::new(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "WDL-0101",
            Self::Read { .. } => "WDL-0102",
            Self::UnknownApplication { .. } => "WDL-0118",
            Self::Invalid { .. } => self.first().map_or("WDL-0104", Diagnose::code),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "SettingsNotFound",
            Self::Read { .. } => "SettingsUnreadable",
            Self::UnknownApplication { .. } => "UnknownApplication",
            Self::Invalid { .. } => self.first().map_or("InvalidToml", Diagnose::reason),
        }
    }

    fn outcome(&self) -> Outcome {
        Outcome::CouldNotRun
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::NotFound { looked } if looked.len() == 1 => {
                vec!["check the path behind --config, or write a settings file with `windlass init`".to_owned()]
            }
            Self::NotFound { .. } => vec![
                "write one for what is found on this machine with `windlass init`, or name one with --config FILE"
                    .to_owned(),
            ],
            Self::Read { file, .. } => {
                vec![format!("check that `{}` is a file that the user Windlass runs as may read", file.display())]
            }
            Self::UnknownApplication { name, known, .. } => {
                let near = suggest::nearest(name, known.iter().map(Name::as_str));
                let hint = match near {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if known.is_empty() => {
                        "the file has no application: add a table [application.NAME]".to_owned()
                    }
                    None => {
                        format!("known applications: {}", known.iter().map(Name::as_str).collect::<Vec<_>>().join(", "))
                    }
                };
                vec![hint]
            }
            Self::Invalid { .. } => self.first().map(Diagnose::hints).unwrap_or_default(),
        }
    }
}

fn list(places: &[PathBuf], between: &str) -> String {
    places.iter().map(|place| format!("`{}`", place.display())).collect::<Vec<_>>().join(between)
}

fn count(problems: &[Problem]) -> String {
    match problems.len() {
        1 => "there is a mistake in it".to_owned(),
        many => format!("there are {many} mistakes in it"),
    }
}
