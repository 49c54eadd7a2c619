//! Carries out the plan of a restore, step by step.

mod data_folder;
mod extract;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use windlass_core::application::{Action, Postgres};
use windlass_core::diagnose::{Diagnose, Outcome};
use windlass_core::name::Name;
use windlass_core::point::{ComponentData, ComponentManifest, DatabaseDump, PhysicalData};
use windlass_core::restore::{ActionStep, DataFolderStep, DatabaseStep, FolderStep, RecoverStep, Refusal, Relation};
use windlass_repo::format::dump::{Selection, Toc, Walker, select};
use windlass_repo::format::restic::{Excludes, FilesError, Restored, Target};
use windlass_repo::format::walg::{Ledger, WalgError};
use windlass_repo::keyring::KeyError;
use windlass_repo::object::ObjectError;
use windlass_repo::vault::Vault;

use crate::action::{self, ActionError};
use crate::backup::{files, tally, with_progress};
use crate::postgres::physical::recover::{Recovered, Recoverer};
use crate::postgres::physical::{LaidDown, PhysicalError};
use crate::postgres::restore::{Pieces, Restore, Roles};
use crate::postgres::tools::Tools;
use crate::postgres::{PostgresError, with_database};
use crate::progress::{Event, Progress};

pub use self::extract::extract;

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A database.
    #[error("restore the database {database}")]
    Database {
        /// The database.
        database: String,
        /// Why.
        source: PostgresError,
    },
    /// A folder.
    #[error("restore the folder `{}`", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: FilesError,
    },
    /// The data folder of a server.
    #[error(transparent)]
    DataFolder(PhysicalError),
    /// A command.
    #[error(transparent)]
    Action(ActionError),
    /// An object.
    #[error(transparent)]
    Object(ObjectError),
    /// A keyring.
    #[error(transparent)]
    Key(KeyError),
    /// What is asked for is not in the dump.
    #[error(transparent)]
    Refused(Refusal),
    /// The manifest does not hold what the plan says it does.
    #[error("restore {component}: its manifest does not hold what the plan says")]
    Mismatch {
        /// The component.
        component: Name,
    },
}

impl RestoreError {
    /// Whether it says nothing of what was to be restored: something is lacking on this machine.
    pub fn is_of_this_machine(&self) -> bool {
        match self {
            Self::Database { source, .. } => matches!(
                source,
                PostgresError::File { .. }
                    | PostgresError::Start { .. }
                    | PostgresError::NoTool { .. }
                    | PostgresError::Connect { .. }
                    | PostgresError::Scratch { .. }
            ),
            // Every pack was read back whole a moment ago: what cannot be read now is on its way here.
            Self::Folder { source, .. } => matches!(source, FilesError::Target { .. } | FilesError::Repository { .. }),
            Self::DataFolder(error) => matches!(
                error,
                PhysicalError::Write { .. }
                    | PhysicalError::NotOurs { .. }
                    | PhysicalError::Listen(_)
                    | PhysicalError::Server(PostgresError::Start { .. } | PostgresError::NoTool { .. })
                    | PhysicalError::Walg(WalgError::Read { .. } | WalgError::Target { .. })
            ),
            _ => false,
        }
    }

    /// Whether it says nothing at all: the store could not be asked.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Object(ObjectError::Store(error)) | Self::Folder { source: FilesError::Store(error), .. } => {
                error.is_outage()
            }
            // The dump is read while it is restored; what it said is in its words only.
            Self::Database { source: PostgresError::Dump { source, .. }, .. } => {
                let within = source.get_ref().and_then(|error| error.downcast_ref::<ObjectError>());
                matches!(within, Some(ObjectError::Store(error)) if error.is_outage())
            }
            _ => false,
        }
    }

    fn inner(&self) -> Option<&dyn Diagnose> {
        match self {
            Self::Database { source, .. } => Some(source),
            Self::Folder { source, .. } => Some(source),
            Self::DataFolder(error) => Some(error),
            Self::Action(error) => Some(error),
            Self::Object(error) => Some(error),
            Self::Key(error) => Some(error),
            Self::Refused(error) => Some(error),
            Self::Mismatch { .. } => None,
        }
    }
}

impl Diagnose for RestoreError {
    fn code(&self) -> &'static str {
        self.inner().map_or("WDL-2010", Diagnose::code)
    }

    fn reason(&self) -> &'static str {
        self.inner().map_or("PlanMismatch", Diagnose::reason)
    }

    fn outcome(&self) -> Outcome {
        match self {
            // Found while planning: nothing was touched.
            Self::Refused(error) => error.outcome(),
            _ => Outcome::Failed,
        }
    }

    fn hints(&self) -> Vec<String> {
        self.inner().map_or_else(|| vec!["plan it again".into()], Diagnose::hints)
    }
}

/// The dump of one database within a manifest.
pub fn dump_of<'a>(manifest: &'a ComponentManifest, database: &str) -> Result<&'a DatabaseDump, RestoreError> {
    let mismatch = || RestoreError::Mismatch { component: manifest.component.clone() };
    let ComponentData::Postgres(data) = &manifest.data else { return Err(mismatch()) };
    data.databases.iter().find(|dump| dump.name == database).ok_or_else(mismatch)
}

/// The roles a dump names, as far as the relations need them (none: all); no more of it than its head is read.
pub async fn roles_of(vault: &Vault, dump: &DatabaseDump, relations: &[Relation]) -> Result<Roles, RestoreError> {
    let roles = Roles { owners: [dump.owner.clone()].into(), required: BTreeSet::new() };
    let mut reader = match vault.read(&dump.object).await {
        // What is damaged or gone is found when all of it is read back, before the first write.
        Err(error) if windlass_repo::verify::is_damage(&error) => return Ok(roles),
        reader => reader.map_err(RestoreError::Object)?,
    };
    let mut walker = Walker::new();
    while walker.toc().is_none()
        && let Some(piece) = match reader.next().await {
            Err(error) if windlass_repo::verify::is_damage(&error) => None,
            piece => piece.map_err(RestoreError::Object)?,
        }
    {
        if walker.feed(&piece).is_err() {
            break;
        }
    }
    match walker.toc() {
        Some(toc) => {
            let wanted = wanted(toc, &dump.name, relations)?;
            Ok(Roles::of(toc, wanted.as_ref().map(|wanted| &wanted.ids), &dump.owner))
        }
        None => Ok(roles),
    }
}

/// The entries of a dump that relations need; none where all are wanted.
fn wanted(toc: &Toc, database: &str, relations: &[Relation]) -> Result<Option<Selection>, RestoreError> {
    if relations.is_empty() {
        return Ok(None);
    }
    let selection = select(toc, relations).map_err(|missing| {
        let (database, schema) = (database.to_owned(), missing.schema);
        let table = missing.table.unwrap_or_else(|| "*".to_owned());
        RestoreError::Refused(Refusal::NoRelation { database, schema, table })
    })?;
    Ok(Some(selection))
}

/// Fills a database from a dump that was read back whole before. Returns what was left out, in words.
pub async fn database(
    vault: &Vault,
    manifest: &ComponentManifest,
    step: &DatabaseStep,
    tools: &Tools,
    progress: &dyn Progress,
) -> Result<Vec<String>, RestoreError> {
    let failed = |source| RestoreError::Database { database: step.target.database.clone(), source };
    let dump = dump_of(manifest, &step.database)?;
    let spool = spool().map_err(failed)?;
    let text = format!("restore database {} as {}", step.database, step.target.database);
    progress.event(Event::Step { component: &step.component, text: &text, total: Some(dump.object.plain_size) });
    let reader = vault.read_again(&dump.object).await.map_err(RestoreError::Object)?;
    let again = || -> BoxFuture<'_, std::io::Result<Pieces>> {
        Box::pin(async {
            let reader = vault.read_again(&dump.object).await.map_err(std::io::Error::other)?;
            Ok(reader.into_stream().boxed())
        })
    };
    let restore = Restore {
        again: Some(&again),
        tools,
        database: &step.target.database,
        dump,
        create: step.create,
        owners: step.owners,
        relations: &step.relations,
        spool: spool.path(),
        moved: &|more| progress.event(Event::Bytes { component: &step.component, more }),
    };
    let left_out = restore.run(Box::pin(reader.into_stream())).await.map_err(failed)?;
    progress.event(Event::Done {
        component: &step.component,
        text: &format!("database {} restored", step.target.database),
    });
    Ok(left_out)
}

/// A folder for the head of a dump.
fn spool() -> Result<tempfile::TempDir, PostgresError> {
    let made = tempfile::Builder::new().prefix("windlass-head-").tempdir();
    made.map_err(|source| PostgresError::File { path: std::env::temp_dir(), source })
}

/// Lays a folder down. Returns what could not be set, in words.
pub async fn folder(vault: &Vault, step: &FolderStep, progress: &dyn Progress) -> Result<Vec<String>, RestoreError> {
    let target = FilesTarget {
        component: &step.component,
        snapshot: &step.snapshot,
        folder: PathBuf::from(&step.target),
        strip: step.strip.as_ref().map(PathBuf::from),
        elsewhere: HashMap::new(),
        exclude: Excludes::default(),
        shown: PathBuf::from(&step.target),
        bytes: step.bytes,
    };
    Ok(files_into(vault, target, progress).await?.warnings)
}

/// Lays down the data folder of a server.
pub async fn data_folder(
    vault: &Vault,
    manifest: &ComponentManifest,
    step: &DataFolderStep,
    recoverer: Option<Recoverer<'_>>,
    progress: &dyn Progress,
) -> Result<Vec<String>, RestoreError> {
    let ComponentData::Physical(data) = &manifest.data else {
        return Err(RestoreError::Mismatch { component: step.component.clone() });
    };
    let laid_down = data_folder::lay_down(vault, manifest, data, step, recoverer, progress);
    Box::pin(laid_down).await.map_err(RestoreError::DataFolder)
}

/// Lays down a base backup and has its server recover, up to a moment where a step says so: it runs when this returns. With a
/// ledger, what was begun before goes on.
pub async fn recovered<'a>(
    vault: &Vault,
    manifest: &ComponentManifest,
    (data, laid_down): (&'a PhysicalData, &'a LaidDown),
    step: Option<&'a RecoverStep>,
    ledger: Option<&Arc<Ledger>>,
    recoverer: Recoverer<'a>,
    progress: &dyn Progress,
) -> Result<Recovered<'a>, RestoreError> {
    let recovered = data_folder::recovered(vault, manifest, (data, laid_down), step, ledger, recoverer, progress);
    Box::pin(recovered).await.map_err(RestoreError::DataFolder)
}

/// Where files of a snapshot go.
pub struct FilesTarget<'a> {
    /// The component.
    pub component: &'a Name,
    /// The snapshot.
    pub snapshot: &'a str,
    /// The folder.
    pub folder: PathBuf,
    /// What of the snapshot goes directly into it.
    pub strip: Option<PathBuf>,
    /// What below it goes elsewhere.
    pub elsewhere: HashMap<PathBuf, PathBuf>,
    /// What is not laid down.
    pub exclude: Excludes,
    /// The folder as it is named to people.
    pub shown: PathBuf,
    /// Bytes, about.
    pub bytes: u64,
}

/// Lays files down.
pub async fn files_into(
    vault: &Vault,
    target: FilesTarget<'_>,
    progress: &dyn Progress,
) -> Result<Restored, RestoreError> {
    let FilesTarget { component, snapshot, folder, strip, elsewhere, exclude, shown, bytes } = target;
    let text = format!("restore the files to {}", shown.display());
    progress.event(Event::Step { component, text: &text, total: Some(bytes) });
    let files = files(vault).map_err(RestoreError::Key)?;
    let (tally, mut moved) = tally();
    let target = Target { folder: folder.clone(), strip, elsewhere, exclude, moved: tally };
    let restored = with_progress(files.restore(snapshot, target), &mut moved, |more| {
        progress.event(Event::Bytes { component, more });
    });
    let mut restored = restored.await.map_err(|source| {
        let source = named(source, &folder, &shown);
        RestoreError::Folder { folder: shown.clone(), source }
    })?;
    let (real, known) = (folder.to_string_lossy(), shown.to_string_lossy());
    for warning in &mut restored.warnings {
        *warning = warning.replace(&*real, &known);
    }
    let text = format!("{} files restored to {}", restored.files, shown.display());
    progress.event(Event::Done { component, text: &text });
    Ok(restored)
}

/// An error with the name of the folder that people know.
fn named(error: FilesError, folder: &Path, shown: &Path) -> FilesError {
    match error {
        FilesError::Target { path, source } => {
            let path = path.strip_prefix(folder).map(|below| shown.join(below)).unwrap_or(path);
            FilesError::Target { path, source }
        }
        error => error,
    }
}

/// Gives an object to the command that takes it.
pub async fn action(
    vault: &Vault,
    manifest: &ComponentManifest,
    step: &ActionStep,
    settings: &Action,
    progress: &dyn Progress,
) -> Result<(), RestoreError> {
    let ComponentData::Action(data) = &manifest.data else {
        return Err(RestoreError::Mismatch { component: step.component.clone() });
    };
    let reader = vault.read(&data.object).await.map_err(RestoreError::Object)?;
    action::restore(&step.component, settings, &data.object, reader, progress).await.map_err(RestoreError::Action)?;
    progress.event(Event::Done { component: &step.component, text: "given to its restore command" });
    Ok(())
}

/// Client tools for a target URL. Where it names the server and user of the component's own source, they get there as
/// to that: with its password, through its `via`. Elsewhere a password comes from `PGPASSWORD` or libpq's own file.
pub async fn tools_for(url: &str, source: Option<&Postgres>) -> Result<Tools, PostgresError> {
    let here = with_database(url, "postgres")?;
    let source = source.filter(|source| with_database(&source.url, "postgres").is_ok_and(|theirs| theirs == here));
    let at = |url: String| Postgres {
        url,
        password: source.and_then(|source| source.password.clone()),
        databases: windlass_core::application::Databases::Named,
        owners: true,
        via: source.map(|source| source.via.clone()).unwrap_or_default(),
    };
    match Tools::find(&at(here)).await {
        // It may be the very one that is replaced, or closed to us.
        Err(error @ PostgresError::Connect { .. }) => {
            Tools::find(&at(with_database(url, "template1")?)).await.map_err(|_| error)
        }
        found => found,
    }
}

/// Bytes free where a folder is, or will be.
pub fn free_bytes(folder: &Path) -> u64 {
    let there = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    rustix::fs::statvfs(there).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}
