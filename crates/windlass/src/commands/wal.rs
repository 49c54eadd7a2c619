//! What PostgreSQL runs as its `archive_command` and its `restore_command`, and who answers them.
//!
//! The exit codes of `wal-fetch` are not those of other verbs: PostgreSQL takes 1 to 125 for the end of the archive, ends recovery
//! there, and would lose what is behind. So 1 means exactly that, and everything else that is not well is 126 or more.

use std::path::Path;
use std::sync::Arc;

use windlass_core::application::{Physical, Strategy};
use windlass_core::diagnose::{Diagnose, Outcome};
use windlass_core::name::Name;
use windlass_core::repository::{Format, Repository};
use windlass_engine::postgres::wal::{Answer, ClientError, FetchError, Listener, Owner, Said, cluster_of, history_of};
use windlass_engine::postgres::wal::{fetch as ask_for, push as hand_over};
use windlass_host::wal::{Served, WalService, waiting};
use windlass_repo::format::walg::{Before, WalgError};
use windlass_repo::regular;

use crate::cli::WalOf;
use crate::commands::foreign;
use crate::context::Context;
use crate::failure::{Failure, Result, Status};

/// What whoever listens at the socket said.
#[derive(Debug, thiserror::Error)]
#[error("[{}] {}", .0.code, .0.what)]
struct Told(Said);

impl Diagnose for Told {
    fn code(&self) -> &'static str {
        "WDL-0010"
    }

    fn reason(&self) -> &'static str {
        "ToldAtTheSocket"
    }

    fn outcome(&self) -> Outcome {
        Outcome::Failed
    }

    fn hints(&self) -> Vec<String> {
        self.0.hints.clone()
    }
}

/// Why nothing can be asked at the socket.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Unasked(ClientError);

impl Diagnose for Unasked {
    fn code(&self) -> &'static str {
        "WDL-0011"
    }

    fn reason(&self) -> &'static str {
        "NotAsked"
    }

    fn outcome(&self) -> Outcome {
        Outcome::Failed
    }

    fn hints(&self) -> Vec<String> {
        vec!["look whether `windlass serve` runs, and what it says".to_owned()]
    }
}

/// Asks at the socket; `None` where nobody listens there. Needs no runtime: it is started for every segment.
pub(crate) fn push_at(socket: &Path, owner: &Owner, path: &Path) -> Result<Option<Status>> {
    answered(hand_over(socket, owner, cluster(path)?, path))
}

/// The same for a file to be fetched; failed means that the archive ends before it.
pub(crate) fn fetch_at(
    socket: &Path,
    owner: &Owner,
    known: Option<u64>,
    name: &str,
    to: &Path,
) -> Result<Option<Status>> {
    let known = known.map_or_else(|| cluster(to), Ok)?;
    answered(ask_for(socket, owner, known, name, to))
}

fn answered(answer: std::result::Result<Answer, ClientError>) -> Result<Option<Status>> {
    match answer {
        Ok(Answer::Done) => Ok(Some(Status::Done)),
        Ok(Answer::NotThere) => Ok(Some(Status::Failed)),
        Ok(Answer::Failed(said)) => Err(Told(said).into()),
        Err(ClientError::Nobody { .. }) => Ok(None),
        Err(error) => Err(Unasked(error).into()),
    }
}

/// The cluster whose server runs us: it does so in its data folder, and names files below that.
fn cluster(path: &Path) -> Result<u64> {
    cluster_of(path).map_err(|error| {
        let why =
            format!("find the cluster of `{}`: read `global/pg_control` of its data folder: {error}", path.display());
        Failure::usage(why, "give PostgreSQL's `%p` as it is, and for `wal-fetch` elsewhere `--cluster`")
    })
}

/// `wal-push` where nobody listens.
pub(crate) async fn push(context: &Context, owner: &Owner, path: &Path) -> Result {
    let unread = |source| WalgError::Source { path: path.to_owned(), source };
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let file = Arc::new(regular::open(path).map_err(unread)?);
    let cluster = cluster(path)?;
    let (source, repository) = archiving(context, owner)?;
    let vault = context.host.open_to_write(repository, &owner.application).await?;
    context.host.may_archive(&vault)?;
    let archive = vault.archive(&owner.component, cluster)?;
    if let Some(history) = history_of(name)
        && let Ok(file) = regular::open(&path.with_file_name(&history))
    {
        archive.push(&history, &Arc::new(file), cluster, source.compression, Before::MayBeThere).await?;
    }
    archive.push(name, &file, cluster, source.compression, Before::MayBeThere).await?;
    Ok(Status::Done)
}

/// `wal-fetch` where nobody listens; failed means that the archive ends before it.
pub(crate) async fn fetch(context: &Context, of: &WalOf, name: &str, known: Option<u64>, to: &Path) -> Result {
    let there = match of {
        WalOf::Repository(repository) => from_foreign(context, repository, name, known, to).await?,
        WalOf::Component(owner) => {
            let known = known.map_or_else(|| cluster(to), Ok)?;
            let vault = context.host.open_vault(archiving(context, owner)?.1, &owner.application).await?;
            let archive = vault.archive(&owner.component, known)?;
            let there = archive.fetch(name, Some(known), to).await?;
            if !there && archive.goes_on_behind(name).await? {
                return Err(FetchError::Gap { name: name.to_owned() }.into());
            }
            if !there {
                nothing_waits(context, owner, name)?;
            }
            there
        }
    };
    Ok(if there { Status::Done } else { Status::Failed })
}

/// That no WAL waits on this machine: it is behind what is in the archive.
fn nothing_waits(context: &Context, owner: &Owner, name: &str) -> Result<()> {
    let why = match waiting(&context.host, owner) {
        Ok((0, _)) => return Ok(()),
        Ok(_) => format!("{name} is not in the archive, and WAL of {owner} waits in the spool of this machine"),
        Err(error) => format!(
            "{name} is not in the archive, and whether WAL of {owner} waits on this machine cannot be seen: {error}"
        ),
    };
    Err(Failure::usage(why, "start `windlass serve`: it gives and stores what waits"))
}

async fn from_foreign(context: &Context, repository: &Name, name: &str, known: Option<u64>, to: &Path) -> Result<bool> {
    let no_wal = |hint: &str| Failure::usage(format!("`{repository}` holds no WAL"), hint);
    let found = context.foreign(repository);
    let found = found.ok_or_else(|| no_wal("name APPLICATION/COMPONENT, or a repository of `format = \"wal-g\"`"))?;
    let Format::WalG { key } = &found.format else {
        return Err(no_wal("name a repository of `format = \"wal-g\"`"));
    };
    foreign::fetch(found, key.as_ref(), name, known, to).await
}

/// A component whose WAL is archived, and its repository.
fn archiving<'a>(context: &'a Context, owner: &Owner) -> Result<(&'a Physical, &'a Repository)> {
    let application = context.application(&owner.application)?;
    let found = application.components.iter().find(|component| component.name == owner.component);
    match found.map(|component| &component.strategy) {
        Some(Strategy::Physical(source)) => Ok((source, context.repository_of(application)?)),
        _ => Err(Failure::usage(
            format!("{owner} is no component with `mode = \"physical\"`"),
            "name one that is, as APPLICATION/COMPONENT",
        )),
    }
}

/// `serve`.
pub(crate) async fn serve(context: &Context, socket: &Path) -> Result {
    let mut served = Vec::new();
    for application in context.settings.applications.values() {
        for (component, source) in application.archiving() {
            let owner = Owner { application: application.name.clone(), component: component.clone() };
            let repository = context.repository_of(application)?.clone();
            served.push(Served { owner, source: source.clone(), repository });
        }
    }
    if served.is_empty() {
        let why = "there is nothing to serve: no component has `wal = \"archive\"`";
        return Err(Failure::usage(why, "give it to a component with `mode = \"physical\"`"));
    }
    let names: Vec<String> = served.iter().map(|served| served.owner.to_string()).collect();
    if let Some(folder) = socket.parent().filter(|folder| !folder.exists()) {
        // Below `/run` nothing outlives a restart of the machine. Whoever may not make it is told by the socket.
        let _ = std::fs::create_dir_all(folder);
    }
    let listener = Listener::open(socket)?;
    let service = Arc::new(WalService::new(context.host.clone(), served));
    context.printer.note(&format!("the WAL of {} is taken and given at {}", names.join(", "), socket.display()));
    tokio::select! {
        () = service.run(listener) => Err(Failure::usage("nobody can call any more", "start it again")),
        () = crate::commands::operator::stopped() => Ok(Status::Done),
    }
}
