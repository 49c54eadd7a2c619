//! `windlass agent`: what runs in the Pods of a cluster.

use std::path::Path;

use windlass_core::diagnose::{Diagnose, Outcome};
use windlass_core::plugin::Plugin;
use windlass_core::task::{self, Asked, Done, Task};
use windlass_engine::agent::{AgentError, run as carry_out};
use windlass_engine::backup::BackupError;
use windlass_engine::plugins::fetch;
use windlass_operator::snapshot::{Snapped, Snapshot, take};

use super::backup::say_failed;
use crate::cli;
use crate::failure::{Result, Status};
use crate::printer::Printer;
use crate::watch::Watch;

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
enum AgentFile {
    #[error("read the task `{path}`")]
    Read { path: String, source: std::io::Error },
    #[error("read the task `{path}`")]
    Parse { path: String, source: serde_json::Error },
    #[error("write the result to `{path}`")]
    Result { path: String, source: std::io::Error },
    #[error("copy the agent to `{path}`")]
    Copy { path: String, source: std::io::Error },
}

impl Diagnose for AgentFile {
    fn code(&self) -> &'static str {
        "WDL-0401"
    }

    fn reason(&self) -> &'static str {
        "AgentFile"
    }

    fn outcome(&self) -> Outcome {
        Outcome::CouldNotRun
    }

    fn hints(&self) -> Vec<String> {
        vec!["the operator writes the task and mounts the folders: look at the Pod's volumes".into()]
    }
}

/// Carries out a task.
pub(crate) async fn run(printer: &Printer, path: &Path) -> Result {
    let shown = || path.display().to_string();
    let text = std::fs::read(path).map_err(|source| AgentFile::Read { path: shown(), source })?;
    let task: Task = serde_json::from_slice(&text).map_err(|source| AgentFile::Parse { path: shown(), source })?;
    let program =
        std::env::current_exe().map_err(|source| AgentFile::Read { path: "/proc/self/exe".into(), source })?;
    let watch = Watch::new(printer);
    let done = carry_out(&task, &program, &watch).await;
    drop(watch);
    if let Err(AgentError::Backup(BackupError::AllFailed { failed })) = &done {
        for failure in failed {
            say_failed(printer, &failure.name, &failure.code, &failure.message);
        }
    }
    let done = done?;
    if let Some(path) = std::env::var_os(task::RESULT) {
        let told = serde_json::to_vec(&done.clone().shortened())
            .map_err(|source| AgentFile::Parse { path: shown(), source })?;
        let failed = |source| AgentFile::Result { path: path.display().to_string(), source };
        std::fs::write(&path, told).map_err(failed)?;
    }
    printer.result(&done, |_| in_words(&done));
    Ok(Status::Done)
}

fn in_words(done: &Done) -> String {
    match done {
        Done::Checked { server_version, tools } => {
            format!("a capture would succeed: server {server_version}, pg_dump {tools}")
        }
        Done::Captured { point, objects, stored_bytes } => {
            format!("captured {point}: {}, {}, read back", objects.join(", "), Printer::size(*stored_bytes))
        }
        Done::Asked(Asked::Planned(plan, _)) => format!("planned: {}", plan.digest()),
        Done::Asked(Asked::Refused(why)) => why.clone(),
        Done::LaidDown { checked, left_out, .. } => {
            format!("restored beside: {}", [&checked[..], left_out].concat().join("; "))
        }
        Done::Switched { checked, notes } => format!("switched: {}", [&checked[..], notes].concat().join("; ")),
        Done::Answered { checked } => checked.join("; "),
        Done::PutBack { beside: None } => "put back".to_owned(),
        Done::PutBack { beside: Some(other) } => format!("put back; what had its name meanwhile is now called {other}"),
        Done::Forgotten => "the old copy is dropped".to_owned(),
    }
}

/// Copies this binary, so that another image can run it, and the authorities it knows, which that image may lack.
pub(crate) fn install(to: &Path) -> Result {
    let failed = |source| AgentFile::Copy { path: to.display().to_string(), source };
    let from = std::env::current_exe().map_err(failed)?;
    std::fs::copy(from, to).map_err(failed)?;
    if let Some(authorities) = std::env::var_os("SSL_CERT_FILE") {
        std::fs::copy(authorities, to.with_file_name("ca-certificates.crt")).map_err(failed)?;
    }
    Ok(Status::Done)
}

/// Takes a snapshot of a volume.
pub(crate) async fn snapshot(printer: &Printer, arguments: &cli::SnapshotOf) -> Result {
    let what = Snapshot {
        name: arguments.name.clone(),
        namespace: arguments.namespace.clone(),
        claim: arguments.claim.clone(),
        class: arguments.class.clone(),
        retention: arguments.retention,
        patience: arguments.patience,
        job: (arguments.job.clone(), arguments.uid.clone()),
    };
    let Snapped { snapshot, deleted } = take(&what).await?;
    printer.note(&format!("VolumeSnapshot {snapshot} can be used"));
    for old in deleted {
        printer.note(&format!("VolumeSnapshot {old} deleted: it is older than the retention"));
    }
    Ok(Status::Done)
}

/// Fetches plugins.
pub(crate) async fn plugins(printer: &Printer, folder: &Path, list: &str) -> Result {
    let unreadable = |source| AgentFile::Parse { path: "PLUGINS".into(), source };
    let plugins: Vec<Plugin> = serde_json::from_str(list).map_err(unreadable)?;
    fetch(&plugins, folder).await?;
    for plugin in &plugins {
        printer.note(&format!("{} is there, and what it should be", plugin.name));
    }
    Ok(Status::Done)
}
