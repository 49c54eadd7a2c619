//! What can go wrong with PostgreSQL.

use std::path::PathBuf;

use windlass_core::diagnose::{Diagnose, Outcome, Retry};
use windlass_repo::format::dump::DumpError;
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
    /// There is no session: the server is not there, or does not let us in, or went away.
    #[error("connect to {database}: {why}")]
    Connect {
        /// The database.
        database: String,
        /// What libpq said.
        why: String,
    },
    /// A statement failed.
    #[error("ask {database}: {why}{}", state(sqlstate.as_deref()))]
    Statement {
        /// The database.
        database: String,
        /// The SQLSTATE.
        sqlstate: Option<String>,
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
    /// A tool ended well and wrote nothing.
    #[error("run `{tool}`: it ended well and wrote nothing, which is not a whole dump")]
    Empty {
        /// The tool.
        tool: String,
    },
    /// What a tool wrote is no whole dump.
    #[error("run `{tool}`: what it wrote is not a whole dump")]
    NotWhole {
        /// The tool.
        tool: String,
        /// What is wrong with it.
        source: DumpError,
    },
    /// The target's server cannot have a database with the source's locale.
    #[error("create the database {database}: {why}")]
    Locale {
        /// The database.
        database: String,
        /// Which locale, and what is wrong with it.
        why: String,
    },
    /// The target's server lacks roles that privileges, policies or user mappings of the dump name.
    #[error("restore into {database}: it lacks the roles {roles}")]
    Roles {
        /// The database.
        database: String,
        /// The roles, in words.
        roles: String,
    },
    /// A restore failed and something of it is still there.
    #[error("restore into {database}: {remains}")]
    LeftBehind {
        /// The database.
        database: String,
        /// What is still there.
        remains: String,
        /// Why the restore failed.
        source: Box<Self>,
    },
    /// Databases are not as a restore in place left them.
    #[error("replace the database {database}: {why}")]
    Moved {
        /// The database.
        database: String,
        /// How they are.
        why: String,
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
            Self::Connect { .. } => "WDL-2111",
            Self::Empty { .. } => "WDL-2112",
            Self::Locale { .. } => "WDL-2113",
            Self::Roles { .. } => "WDL-2114",
            Self::Moved { .. } => "WDL-2115",
            Self::NotWhole { source, .. } => source.code(),
            Self::LeftBehind { source, .. } => source.code(),
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
            Self::Connect { .. } => "ServerUnreachable",
            Self::Empty { .. } => "NothingWritten",
            Self::Locale { .. } => "LocaleMissing",
            Self::Roles { .. } => "RolesMissing",
            Self::Moved { .. } => "DatabasesMoved",
            Self::NotWhole { source, .. } => source.reason(),
            Self::LeftBehind { source, .. } => source.reason(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Connect { why, .. } if refusal(why).is_some() => Retry::Never,
            Self::Connect { .. } | Self::Tool { .. } | Self::Empty { .. } => Retry::Soon,
            Self::Statement { sqlstate, .. } if passes(sqlstate.as_deref()) => Retry::Soon,
            _ => Retry::Never,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Secret(_)
            | Self::NoTool { .. }
            | Self::Url { .. }
            | Self::Start { .. }
            | Self::Scratch { .. }
            | Self::Connect { .. }
            | Self::Locale { .. }
            | Self::Roles { .. } => Outcome::CouldNotRun,
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
            Self::Connect { why, .. } => refusal(why)
                .unwrap_or("check that the server runs, and the host and port in the component's url")
                .into(),
            Self::Empty { .. } | Self::NotWhole { .. } => {
                "run it by hand; a wrapper or a full disk on its side may cut what it writes".into()
            }
            Self::Locale { .. } => {
                "install the locale on the server's machine, or create an empty database with another locale and restore into that".into()
            }
            Self::Roles { .. } => {
                "create the roles at the target first; the point holds them as roles and settings, a script for psql".into()
            }
            Self::LeftBehind { source, .. } => {
                let mut hints = vec!["drop or empty the database before the next attempt".to_owned()];
                hints.extend(source.hints());
                return hints;
            }
            Self::Moved { .. } => {
                "look at the databases with `psql --list`; those of a restore are named windlass_<restore>_<number>_old, _new and _undone".into()
            }
            Self::Start { .. } => "check that it may be run by the user Windlass runs as".into(),
            Self::Tool { .. } | Self::Statement { .. } | Self::Answer { .. } => {
                "check the server's log, and the rights of the role in the component's url".into()
            }
            Self::Url { .. } => {
                "write postgresql://USER@HOST:PORT/DATABASE; a password comes from `password` in the settings, from PGPASSWORD or from ~/.pgpass".into()
            },
            Self::Nothing { .. } => "name a database in the component's url, or say `databases = \"all\"`".into(),
            Self::Scratch { .. } => "install the server's package of the same major version or a newer one".into(),
            Self::File { .. } => "check the space and the rights there".into(),
            Self::Dump { .. } => "run `windlass verify`; restore from another point".into(),
        };
        vec![hint]
    }
}

/// What to do where a server is there and says no; its words are those of libpq and of the server in English.
fn refusal(why: &str) -> Option<&'static str> {
    let says = |words: &[&str]| words.iter().any(|word| why.contains(word));
    if says(&["no password supplied"]) {
        Some(
            "give the component a `password` (with `via`, let PGPASSWORD through); a restore takes it where its target names the same server and user, else from PGPASSWORD or ~/.pgpass",
        )
    } else if says(&["authentication failed"]) {
        Some("check the component's user and `password` against the server's")
    } else if says(&["no pg_hba.conf entry"]) {
        Some("allow the user, database and address in the server's pg_hba.conf")
    } else if says(&["does not exist", "permission denied for database", "not permitted to log in"]) {
        Some("check the user and the database in the component's url, and its right to connect")
    } else {
        None
    }
}

/// Whether a statement that failed so may succeed later: the classes for conflicts, resources and intervention
/// (<https://www.postgresql.org/docs/current/errcodes-appendix.html>), and locks that were not to be had in time.
fn passes(sqlstate: Option<&str>) -> bool {
    sqlstate.is_some_and(|state| ["08", "40", "53", "57", "58", "55P03"].iter().any(|class| state.starts_with(class)))
}

fn state(sqlstate: Option<&str>) -> String {
    sqlstate.map_or_else(String::new, |state| format!(" (SQLSTATE {state})"))
}
