//! The `helm` binary. Values go to its standard input: they may hold secrets.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Semaphore;
use windlass_core::hex;

use super::record::DIGEST;
use crate::error::OperatorError;

/// Processes at once: each takes some 60 MiB.
const AT_ONCE: usize = 2;

/// The longest one may take. It waits for no rollout, only for the API server.
const PATIENCE: Duration = Duration::from_mins(2);

/// Revisions that are kept of a release.
const HISTORY: &str = "--history-max=5";

/// The `helm` binary and the chart it installs.
#[derive(Clone, Debug)]
pub(crate) struct Helm {
    program: PathBuf,
    chart: PathBuf,
    digest: String,
    turns: Arc<Semaphore>,
}

impl Helm {
    /// A chart in a folder, and who installs it.
    pub(crate) fn new(program: PathBuf, chart: PathBuf) -> std::io::Result<Self> {
        let mut files = Vec::new();
        list(&chart, &mut files)?;
        files.sort();
        let mut all = String::new();
        for file in files {
            let name = file.strip_prefix(&chart).unwrap_or(&file).display().to_string();
            all.push_str(&format!("{name} {}\n", hex::sha256(&std::fs::read(&file)?)));
        }
        Ok(Self { program, chart, digest: hex::sha256(all.as_bytes()), turns: Arc::new(Semaphore::new(AT_ONCE)) })
    }

    /// Of every file of the chart.
    pub(crate) fn chart_digest(&self) -> &str {
        &self.digest
    }

    /// Installs a release, or upgrades the one that is there.
    pub(crate) async fn upgrade(
        &self,
        namespace: &str,
        release: &str,
        values: &Value,
        digest: &str,
    ) -> Result<(), OperatorError> {
        let chart = self.chart.display().to_string();
        let label = format!("--labels={DIGEST}={digest}");
        let arguments = ["upgrade", release, &chart, "--install", HISTORY, "--values=-", &label];
        self.run(namespace, &arguments, &values.to_string()).await
    }

    /// Goes back to an earlier revision, whatever the newest is doing.
    pub(crate) async fn roll_back(&self, namespace: &str, release: &str, revision: i64) -> Result<(), OperatorError> {
        self.run(namespace, &["rollback", release, &revision.to_string(), HISTORY], "").await
    }

    /// Removes a release; what carries Helm's policy to keep it stays.
    pub(crate) async fn uninstall(&self, namespace: &str, release: &str) -> Result<(), OperatorError> {
        self.run(namespace, &["uninstall", release, "--ignore-not-found"], "").await
    }

    async fn run(&self, namespace: &str, arguments: &[&str], input: &str) -> Result<(), OperatorError> {
        let verb = arguments.first().copied().unwrap_or_default();
        let failed = |why: String| OperatorError::Helm { verb: verb.to_owned(), namespace: namespace.to_owned(), why };
        let _turn = self.turns.acquire().await.map_err(|error| failed(error.to_string()))?;
        let mut command = Command::new(&self.program);
        command.args(arguments).arg(format!("--namespace={namespace}")).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child =
            command.spawn().map_err(|error| failed(format!("start `{}`: {error}", self.program.display())))?;
        let (stdin, values) = (child.stdin.take(), input.to_owned());
        let finished = async {
            if let Some(mut stdin) = stdin {
                // It may have ended before it read them: how it ended tells more.
                let _ = stdin.write_all(values.as_bytes()).await;
            }
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(PATIENCE, finished).await;
        let output = output.map_err(|_| failed(format!("it did not end within {PATIENCE:?}")))?;
        let output = output.map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed(last_line(&String::from_utf8_lossy(&output.stderr))))
    }
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// What helm says last is why; before it stand warnings.
fn last_line(said: &str) -> String {
    said.lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing")
        .trim_start_matches("Error: ")
        .to_owned()
}
