//! A restic repository.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;
use windlass_core::repository::{Format, Repository};
use windlass_core::restore::Moment;
use windlass_engine::progress::{Event, Progress};
use windlass_repo::format::restic::{Files, SnapshotInfo, Target, Verified};
use windlass_repo::hex::sha256;
use windlass_repo::store::open::open;

use crate::cli;
use crate::commands::confirm::confirmed;
use crate::commands::restore::moment;
use crate::context::Context;
use crate::failure::{Failure, Result, Status};
use crate::printer::Printer;
use crate::watch::Watch;

fn files(repository: &Repository) -> Result<Files> {
    let store = open(&repository.place)?;
    match &repository.format {
        Format::Restic { password } => Ok(Files::foreign(&store, &windlass_repo::secret::resolve(password)?)),
        Format::WalG { .. } | Format::Windlass(_) => Err(super::ours(repository)),
    }
}

/// `points REPOSITORY`.
pub(super) async fn points(context: &Context, repository: &Repository) -> Result {
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
pub(super) async fn verify(context: &Context, repository: &Repository, arguments: &cli::Verify) -> Result {
    let files = files(repository)?;
    let snapshots = files.snapshots().await?;
    let wanted: Vec<&SnapshotInfo> = match &arguments.point {
        None if arguments.all => snapshots.iter().collect(),
        wanted => vec![choose(&snapshots, wanted.as_deref(), None)?],
    };
    let mut checked = Vec::new();
    for snapshot in wanted {
        let verified = read_back(&context.printer, repository, &files, &snapshot.id).await?;
        let Verified { packs, bytes, damage } = verified;
        checked.push(Checked { snapshot: snapshot.id.clone(), packs, bytes, damage });
    }
    let line = |c: &Checked| {
        let verdict = super::verdict(&c.damage);
        format!("snapshot {}: {} packs, {}: {verdict}", c.snapshot, c.packs, Printer::size(c.bytes))
    };
    context.printer.result(&checked, |_| checked.iter().map(line).collect::<Vec<_>>().join("\n"));
    Ok(if checked.iter().all(|c| c.damage.is_empty()) { Status::Done } else { Status::Failed })
}

async fn read_back(printer: &Printer, repository: &Repository, files: &Files, snapshot: &str) -> Result<Verified> {
    let watch = Watch::new(printer);
    let component = &repository.name;
    watch.event(Event::Step { component, text: "read back", total: None });
    Ok(files.verify(snapshot, &|more| watch.event(Event::Bytes { component, more })).await?)
}

/// What a restore would do; its digest is what is confirmed.
#[derive(Serialize)]
struct Plan {
    snapshot: String,
    at: Timestamp,
    paths: Vec<String>,
    target: PathBuf,
}

#[derive(Serialize)]
struct Report<'a> {
    digest: &'a str,
    plan: &'a Plan,
    done: bool,
    files: Option<u64>,
    bytes: Option<u64>,
    warnings: Vec<String>,
}

/// `restore REPOSITORY --into files=FOLDER`.
pub(super) async fn restore(context: &Context, repository: &Repository, arguments: &cli::Restore) -> Result {
    let printer = &context.printer;
    let folder = target(arguments)?;
    let files = files(repository)?;
    let at = match moment(printer, arguments)? {
        None | Some(Moment::Newest) => None,
        Some(Moment::Time(time)) => Some(time),
        Some(other) => {
            let why = format!("a repository of restic knows nothing of {other}");
            return Err(Failure::usage(why, "name a time by `--at`"));
        }
    };
    let snapshots = files.snapshots().await?;
    let chosen = choose(&snapshots, arguments.point.as_deref(), at)?;
    let plan =
        Plan { snapshot: chosen.id.clone(), at: chosen.time, paths: chosen.paths.clone(), target: folder.clone() };
    let digest = sha256(&serde_json::to_vec(&plan).unwrap_or_default());
    let mut report = Report { digest: &digest, plan: &plan, done: false, files: None, bytes: None, warnings: vec![] };
    let words = format!(
        "Restore of snapshot {}, taken {}\n  lay down {} in {}\n\
         Every byte is read back before the first is written. Nothing that exists is overwritten or deleted.\n\
         Digest: {digest}\n",
        plan.snapshot,
        printer.both_times(plan.at),
        plan.paths.join(", "),
        folder.display()
    );
    if arguments.plan {
        printer.result(&report, |_| words);
        return Ok(Status::Done);
    }
    if arguments.confirm.is_none() {
        printer.note(&words);
    }
    confirmed(&digest, arguments.confirm.as_deref(), arguments.yes, "Run this plan?")?;
    let damage = read_back(printer, repository, &files, &plan.snapshot).await?.damage;
    if !damage.is_empty() {
        for damage in &damage {
            printer.warning(damage);
        }
        printer.warning("the snapshot is damaged, and nothing was written: restore an older one by `--point`");
        return Ok(Status::Failed);
    }
    let target = Target::new(folder, None);
    let restored = files.restore(&plan.snapshot, target).await?;
    for warning in &restored.warnings {
        printer.warning(warning);
    }
    (report.done, report.files, report.bytes) = (true, Some(restored.files), Some(restored.bytes));
    report.warnings = restored.warnings;
    printer.done(true, &report, |_| {
        format!("{} files, {}, restored to {}", restored.files, Printer::size(restored.bytes), plan.target.display())
    });
    Ok(Status::Done)
}

/// The one folder everything goes into; it must be empty.
fn target(arguments: &cli::Restore) -> Result<PathBuf> {
    if arguments.only.is_some() {
        let hint = "leave `--only` out, and take what is wanted from the folder; or use `restic restore --include`";
        return Err(Failure::usage("a restic snapshot is restored whole", hint));
    }
    let [into] = arguments.into.as_slice() else {
        return Err(Failure::usage("a restic snapshot goes into one folder", "write `--into files=/FOLDER`"));
    };
    let Some(folder) = into.strip_prefix("files=") else {
        let why = format!("`{into}` does not say where the files go");
        return Err(Failure::usage(why, "write `--into files=/FOLDER`"));
    };
    let folder = PathBuf::from(folder);
    super::is_empty(&folder)?;
    Ok(folder)
}

/// The one snapshot whose identifier begins so, or the newest (at or before a time).
fn choose<'a>(snapshots: &'a [SnapshotInfo], wanted: Option<&str>, at: Option<Timestamp>) -> Result<&'a SnapshotInfo> {
    let hint = "run `windlass points REPOSITORY` to see those there are";
    let none = || Failure::usage("there is no such snapshot", hint);
    let Some(text) = wanted else {
        return snapshots.iter().rev().find(|s| at.is_none_or(|at| s.time <= at)).ok_or_else(none);
    };
    let mut found = snapshots.iter().filter(|s| !text.is_empty() && s.id.starts_with(text));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(Failure::usage(format!("several snapshots begin with `{text}`"), hint)),
        (None, _) => Err(none()),
    }
}
