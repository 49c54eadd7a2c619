//! Secrets are named, never held: settings say where a secret is, and only what uses it fetches it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a secret is to be found. Its value never appears in settings, arguments, logs, errors or JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretRef {
    /// The value of an environment variable.
    Env(String),
    /// The content of a file, without one trailing line break.
    File(PathBuf),
    /// What a command prints on its standard output, without one trailing line break.
    Command(Vec<String>),
}
