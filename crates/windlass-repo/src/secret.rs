//! Fetches a secret from where the settings say it is.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use secrecy::SecretString;
use windlass_core::diagnose::{Diagnose, Outcome};
use windlass_core::secret::SecretRef;

/// A secret that could not be fetched. Never holds the secret or any part of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The variable is not set, or not UTF-8.
    #[error("read the secret from the environment variable `{name}`: it is not set")]
    Env {
        /// The variable.
        name: String,
    },
    /// The file cannot be read.
    #[error("read the secret from the file `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The command did not start, failed, or printed what is not UTF-8.
    #[error("read the secret from the command `{program}`: {why}")]
    Command {
        /// The program, without its arguments.
        program: String,
        /// What went wrong.
        why: String,
    },
    /// Nothing was there.
    #[error("read the secret from {place}: it is empty")]
    Empty {
        /// Where it was looked for.
        place: String,
    },
}

impl Diagnose for SecretError {
    fn code(&self) -> &'static str {
        "WDL-1001"
    }

    fn reason(&self) -> &'static str {
        "SecretUnavailable"
    }

    fn outcome(&self) -> Outcome {
        Outcome::CouldNotRun
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Env { name } => format!("set `{name}` in the environment Windlass is started with"),
            Self::File { path, .. } => {
                format!("check that `{}` exists and that the user Windlass runs as may read it", path.display())
            }
            Self::Command { program, .. } => format!("run `{program}` by hand as the user Windlass runs as"),
            Self::Empty { .. } => "put the secret there".to_owned(),
        };
        vec![hint]
    }
}

/// Fetches the secret; one trailing line break is not part of it.
pub fn resolve(reference: &SecretRef) -> Result<SecretString, SecretError> {
    let (text, place) = match reference {
        SecretRef::Env(name) => (
            std::env::var(name).map_err(|_| SecretError::Env { name: name.clone() })?,
            format!("the environment variable `{name}`"),
        ),
        SecretRef::File(path) => (
            std::fs::read_to_string(path).map_err(|source| SecretError::File { path: path.clone(), source })?,
            format!("the file `{}`", path.display()),
        ),
        SecretRef::Command(argv) => from_command(argv)?,
    };
    let text = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
    if text.is_empty() {
        return Err(SecretError::Empty { place });
    }
    Ok(SecretString::from(text))
}

fn from_command(argv: &[String]) -> Result<(String, String), SecretError> {
    let program = argv.first().cloned().unwrap_or_default();
    let failed = |why: String| SecretError::Command { program: program.clone(), why };
    let output = Command::new(&program)
        .args(argv.iter().skip(1))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!("it ended with {}", output.status)));
    }
    let text = String::from_utf8(output.stdout).map_err(|_| failed("it printed bytes that are not UTF-8".into()))?;
    Ok((text, format!("the command `{program}`")))
}
