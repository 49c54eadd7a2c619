//! Captures a `disk` component: a snapshot in the application's restic repository.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use windlass_core::application::{Component, Disk};
use windlass_core::diagnose::{Diagnose, Outcome};
use windlass_core::id::PointId;
use windlass_core::point::{ComponentData, Consistency, DiskData, Window};
use windlass_repo::format::restic::{Captured, Files, FilesError, Report, Source};
use windlass_repo::keyring::KeyError;
use windlass_repo::layout;
use windlass_repo::vault::Vault;

use super::{Backup, Part};
use crate::progress::Event;

/// Problems named in an error; more are counted.
const NAMED: usize = 5;

/// Why folders could not be captured.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The restic repository.
    #[error(transparent)]
    Files(FilesError),
    /// The keyring, which its password is in.
    #[error(transparent)]
    Key(KeyError),
    /// Some of it could not be read.
    #[error("capture the folders: {count} entries could not be read:\n{}{}", named.join("\n"), if *count > named.len() as u64 { "\n…" } else { "" })]
    Unreadable {
        /// How many.
        count: u64,
        /// Some of them, with the reason.
        named: Vec<String>,
    },
    /// There is nothing in it.
    #[error("capture the folders: there is nothing in them to protect{}", if *excluded > 0 { ", once the excluded is left out" } else { "" })]
    Nothing {
        /// How many entries patterns left out.
        excluded: u64,
    },
    /// The snapshot holds less than was met on the way.
    #[error("capture the folders: {count} entries that were met are not in the snapshot")]
    Lost {
        /// How many.
        count: u64,
    },
}

impl Diagnose for DiskError {
    fn code(&self) -> &'static str {
        match self {
            Self::Files(error) => error.code(),
            Self::Key(error) => error.code(),
            Self::Unreadable { .. } => "WDL-2201",
            Self::Nothing { .. } => "WDL-2202",
            Self::Lost { .. } => "WDL-2203",
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Files(error) => error.reason(),
            Self::Key(error) => error.reason(),
            Self::Unreadable { .. } => "Unreadable",
            Self::Nothing { .. } => "NothingToProtect",
            Self::Lost { .. } => "EntriesLost",
        }
    }

    fn outcome(&self) -> Outcome {
        Outcome::Failed
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Files(error) => return error.hints(),
            Self::Key(error) => return error.hints(),
            Self::Unreadable { .. } => "let the user Windlass runs as read them, or leave them out with `exclude`",
            Self::Nothing { .. } => "check the component's paths and patterns; a file system may not be mounted",
            Self::Lost { .. } => "run it again; entries may have come and gone meanwhile",
        };
        vec![hint.to_owned()]
    }
}

/// The application's restic repository.
pub fn files(vault: &Vault) -> Result<Files, KeyError> {
    let password = vault.keyring()?.restic_password();
    Ok(Files::ours(vault.store(), &layout::files(vault.application()), password))
}

pub(super) async fn capture(
    task: &Backup<'_>,
    id: PointId,
    component: &Component,
    source: &Disk,
) -> Result<Part, DiskError> {
    let files = files(task.vault).map_err(DiskError::Key)?;
    files.create().await.map_err(DiskError::Files)?;
    task.progress.event(Event::Step { component: &component.name, text: "read the folders", total: None });
    let from = Timestamp::now();
    let (tally, mut moved) = tally();
    let running = files.capture(Source {
        paths: source.paths.clone(),
        exclude: source.exclude.clone(),
        host: task.host.to_owned(),
        tags: vec!["windlass".into(), task.application.name.to_string(), component.name.to_string(), id.to_string()],
        moved: tally,
    });
    let captured = with_progress(running, &mut moved, |more| {
        task.progress.event(Event::Bytes { component: &component.name, more });
    });
    let captured = captured.await.map_err(DiskError::Files)?;
    judge(&captured)?;
    let Captured { snapshot, added_bytes, report, .. } = captured;
    Ok(Part {
        window: Window { from, to: Timestamp::now() },
        consistency: Consistency::Crash,
        tools: Vec::new(),
        warnings: warnings(&report),
        data: ComponentData::Disk(DiskData {
            snapshot,
            paths: source.paths.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
            files: report.files,
            folders: report.folders,
            bytes: report.bytes,
            added_bytes,
        }),
    })
}

fn judge(captured: &Captured) -> Result<(), DiskError> {
    let report = &captured.report;
    if report.unreadable_count > 0 {
        let named = report.unreadable.iter().take(NAMED).cloned().collect();
        return Err(DiskError::Unreadable { count: report.unreadable_count, named });
    }
    if captured.lost > 0 {
        return Err(DiskError::Lost { count: captured.lost });
    }
    if report.files == 0 {
        return Err(DiskError::Nothing { excluded: report.excluded });
    }
    Ok(())
}

fn warnings(report: &Report) -> Vec<String> {
    let mut warnings = Vec::new();
    if report.sockets > 0 {
        warnings.push(format!("{} sockets were left out: they hold no data", report.sockets));
    }
    if report.vanished > 0 {
        warnings.push(format!("{} entries went away before they could be read", report.vanished));
    }
    for path in report.changed.iter().take(NAMED) {
        warnings
            .push(format!("`{}` changed while it was read: what was captured may be of two moments", path.display()));
    }
    if report.changed.len() > NAMED {
        warnings.push(format!("{} more files changed while they were read", report.changed.len() - NAMED));
    }
    warnings
}

/// Bytes moved on another thread, taken note of here.
pub(crate) type Moved = Arc<Mutex<u64>>;

/// A counter for another thread, and the place to read it.
pub(crate) fn tally() -> (Arc<dyn Fn(u64) + Send + Sync>, Moved) {
    let moved: Moved = Arc::default();
    let counted = Arc::clone(&moved);
    (Arc::new(move |more| *counted.lock().unwrap_or_else(PoisonError::into_inner) += more), moved)
}

/// Waits for work on another thread, telling a few times a second what it moved.
pub(crate) async fn with_progress<T>(work: impl Future<Output = T>, moved: &mut Moved, mut tell: impl FnMut(u64)) -> T {
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(250));
    loop {
        let done = tokio::select! {
            done = &mut work => Some(done),
            _ = ticks.tick() => None,
        };
        let more = std::mem::take(&mut *moved.lock().unwrap_or_else(PoisonError::into_inner));
        if more > 0 {
            tell(more);
        }
        if let Some(done) = done {
            return done;
        }
    }
}
