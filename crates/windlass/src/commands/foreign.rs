//! Someone else's restic repository: listed, verified and restored, never written.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use windlass_core::repository::{Format, Repository};
use windlass_repo::format::restic::{Files, SnapshotInfo, Target};
use windlass_repo::store::open::open;

use crate::cli;
use crate::context::Context;
use crate::failure::{Failure, Result, Status};
use crate::printer::Printer;

fn files(repository: &Repository) -> Result<Files> {
    let store = open(&repository.place)?;
    match &repository.format {
        Format::Restic { password } => Ok(Files::foreign(&store, &windlass_repo::secret::resolve(password)?)),
        Format::Windlass(_) => {
            Err(Failure::usage(format!("`{}` is our own repository", repository.name), "name an application"))
        }
    }
}

/// `points REPOSITORY`.
pub(crate) async fn points(context: &Context, repository: &Repository) -> Result {
    let snapshots = files(repository)?.snapshots().await?;
    context.printer.result(&snapshots, |printer| {
        let row = |s: &SnapshotInfo| {
            vec![
                s.id.get(..16).unwrap_or(&s.id).to_owned(),
                printer.time(s.time),
                s.host.clone(),
                s.paths.join(","),
                s.tags.join(","),
                s.bytes.map_or("-".to_owned(), Printer::size),
            ]
        };
        Printer::table(&["SNAPSHOT", "AT", "HOST", "PATHS", "TAGS", "DATA"], snapshots.iter().rev().map(row).collect())
    });
    Ok(Status::Done)
}

#[derive(Serialize)]
struct Checked {
    snapshot: String,
    packs: u64,
    bytes: u64,
    damage: Vec<String>,
}

/// `verify REPOSITORY`.
pub(crate) async fn verify(context: &Context, repository: &Repository, snapshot: Option<&str>) -> Result {
    let files = files(repository)?;
    let snapshot = choose(&files, snapshot).await?;
    let verified = files.verify(&snapshot, &|_| {}).await?;
    let checked = Checked { snapshot, packs: verified.packs, bytes: verified.bytes, damage: verified.damage };
    context.printer.result(&checked, |_| {
        let verdict = if checked.damage.is_empty() {
            "read - passed".to_owned()
        } else {
            format!("DAMAGED:\n  {}", checked.damage.join("\n  "))
        };
        format!("snapshot {}: {} packs, {}: {verdict}", checked.snapshot, checked.packs, Printer::size(checked.bytes))
    });
    Ok(if checked.damage.is_empty() { Status::Done } else { Status::Failed })
}

#[derive(Serialize)]
struct Laid {
    snapshot: String,
    target: PathBuf,
    files: u64,
    bytes: u64,
    warnings: Vec<String>,
}

/// `restore REPOSITORY --into files=FOLDER`.
pub(crate) async fn restore(context: &Context, repository: &Repository, arguments: &cli::Restore) -> Result {
    let [into] = arguments.into.as_slice() else {
        return Err(Failure::usage("a restic snapshot goes into one folder", "write `--into files=/FOLDER`"));
    };
    let Some(folder) = into.strip_prefix("files=") else {
        return Err(Failure::usage(
            format!("`{into}` does not say where the files go"),
            "write `--into files=/FOLDER`",
        ));
    };
    let folder = PathBuf::from(folder);
    if folder.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::usage(
            format!("the folder `{}` is not empty", folder.display()),
            "name one that does not exist yet",
        ));
    }
    let files = files(repository)?;
    let snapshot = choose(&files, arguments.point.map(|p| p.to_string()).as_deref()).await?;
    let words = format!("Restores snapshot {snapshot} into {}: nothing that exists is overwritten.", folder.display());
    if arguments.plan {
        context.printer.note(&words);
        return Ok(Status::Done);
    }
    if !arguments.yes {
        context.printer.note(&words);
        return Err(Failure::usage("nothing was confirmed", "add `--yes` to run it"));
    }
    let target = Target { folder: folder.clone(), strip: None, moved: Arc::new(|_| {}) };
    let restored = files.restore(&snapshot, target).await?;
    let laid =
        Laid { snapshot, target: folder, files: restored.files, bytes: restored.bytes, warnings: restored.warnings };
    for warning in &laid.warnings {
        context.printer.warning(warning);
    }
    context.printer.result(&laid, |_| {
        format!("{} files, {}, restored to {}", laid.files, Printer::size(laid.bytes), laid.target.display())
    });
    Ok(Status::Done)
}

/// The snapshot whose identifier begins so, or the newest.
async fn choose(files: &Files, wanted: Option<&str>) -> Result<String> {
    let snapshots = files.snapshots().await?;
    let found = match wanted {
        None => snapshots.last(),
        Some(text) => snapshots.iter().find(|s| s.id.starts_with(text)),
    };
    let hint = "run `windlass points REPOSITORY` to see those there are";
    found.map(|s| s.id.clone()).ok_or_else(|| Failure::usage("there is no such snapshot", hint))
}
