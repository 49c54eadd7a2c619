//! What can go wrong with PostgreSQL.

use std::path::PathBuf;

use windlass_core::diagnose::{Diagnose, Outcome, Retry};
use windlass_repo::secret::SecretError;

/// An operation on a PostgreSQL server that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// The password is not to be had.
    #[error(transparent)]
    Secret(SecretError),
    /// A tool is not installed.
    #[error("find `{tool}`: it is not installed{}", if *major > 0 { format!(" in version {major} or newer (found: {found})") } else { String::new() })]
    NoTool {
        /// The tool.
        tool: String,
        /// The major version it must have; 0 for any.
        major: u32,
        /// The versions found, in words.
        found: String,
    },
    /// A tool did not start, or its pipes broke.
    #[error("run `{tool}`")]
    Start {
        /// The tool.
        tool: String,
        /// Why.
        source: std::io::Error,
    },
    /// A tool ended with a failure.
    #[error("run `{tool}`: it ended with {status}, saying:\n{}", stderr.trim_end())]
    Tool {
        /// The tool.
        tool: String,
        /// How it ended.
        status: String,
        /// The end of its standard error.
        stderr: String,
    },
    /// A statement failed, or the server went away.
    #[error("ask {database}: {}", why.trim_end())]
    Statement {
        /// The database.
        database: String,
        /// What the server said.
        why: String,
    },
    /// The server answered something unexpected.
    #[error("ask {database}: {why}")]
    Answer {
        /// The database.
        database: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// The URL cannot be used.
    #[error("use the database URL `{url}`: {why}")]
    Url {
        /// The URL, which holds no password.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is no database to capture.
    #[error("capture {url}: {why}")]
    Nothing {
        /// The URL.
        url: String,
        /// Why there is nothing.
        why: &'static str,
    },
    /// A scratch server cannot be made here.
    #[error("start a scratch server in `{}`: {why}", place.display())]
    Scratch {
        /// Where.
        place: PathBuf,
        /// Why not.
        why: String,
    },
    /// A file of ours.
    #[error("use the file `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The dump that was to be restored cannot be read.
    #[error("read the dump of {database}")]
    Dump {
        /// The database.
        database: String,
        /// Why.
        source: std::io::Error,
    },
}

impl Diagnose for PostgresError {
    fn code(&self) -> &'static str {
        match self {
            Self::Secret(error) => error.code(),
            Self::NoTool { .. } => "WDL-2101",
            Self::Start { .. } => "WDL-2102",
            Self::Tool { .. } => "WDL-2103",
            Self::Statement { .. } => "WDL-2104",
            Self::Answer { .. } => "WDL-2105",
            Self::Url { .. } => "WDL-2106",
            Self::Nothing { .. } => "WDL-2107",
            Self::Scratch { .. } => "WDL-2108",
            Self::File { .. } => "WDL-2109",
            Self::Dump { .. } => "WDL-2110",
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Secret(error) => error.reason(),
            Self::NoTool { .. } => "ToolMissing",
            Self::Start { .. } => "ToolNotStarted",
            Self::Tool { .. } => "ToolFailed",
            Self::Statement { .. } => "StatementFailed",
            Self::Answer { .. } => "UnexpectedAnswer",
            Self::Url { .. } => "InvalidUrl",
            Self::Nothing { .. } => "NothingToProtect",
            Self::Scratch { .. } => "NoScratchServer",
            Self::File { .. } => "FileError",
            Self::Dump { .. } => "DumpUnreadable",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Statement { .. } | Self::Tool { .. } => Retry::Soon,
            _ => Retry::Never,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Secret(_) | Self::NoTool { .. } | Self::Url { .. } | Self::Start { .. } | Self::Scratch { .. } => {
                Outcome::CouldNotRun
            }
            _ => Outcome::Failed,
        }
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Secret(error) => return error.hints(),
            Self::NoTool { major: 0, .. } => {
                "install PostgreSQL's client tools: apt-get install postgresql-client".to_owned()
            }
            Self::NoTool { major, .. } => format!(
                "install PostgreSQL {major}'s tools: apt-get install postgresql-client-{major} (and postgresql-{major} for scratch servers)"
            ),
            Self::Start { .. } => "check that it may be run by the user Windlass runs as".into(),
            Self::Tool { .. } | Self::Statement { .. } | Self::Answer { .. } => {
                "check the server's log, and the rights of the role in the component's url".into()
            }
            Self::Url { .. } => "write postgresql://USER@HOST:PORT/DATABASE, without a password".into(),
            Self::Nothing { .. } => "name a database in the component's url, or say `databases = \"all\"`".into(),
            Self::Scratch { .. } => "install the server's package of the same major version or a newer one".into(),
            Self::File { .. } => "check the space and the rights there".into(),
            Self::Dump { .. } => "run `windlass verify`; restore from another point".into(),
        };
        vec![hint]
    }
}
