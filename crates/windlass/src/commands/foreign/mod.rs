//! Someone else's repository: listed, verified and restored, never written.

mod restic;
mod walg;

use std::path::Path;

use windlass_core::repository::{Format, Repository};

use crate::cli;
use crate::commands::restore;
use crate::context::Context;
use crate::failure::{Failure, Result};

pub(crate) use walg::fetch;

/// `points REPOSITORY`.
pub(crate) async fn points(context: &Context, repository: &Repository) -> Result {
    match &repository.format {
        Format::Restic { .. } => restic::points(context, repository).await,
        Format::WalG { key } => walg::points(context, repository, key.as_ref()).await,
        Format::Windlass(_) => Err(ours(repository)),
    }
}

/// `verify REPOSITORY`.
pub(crate) async fn verify(context: &Context, repository: &Repository, arguments: &cli::Verify) -> Result {
    if arguments.deep {
        let hint = "leave `--deep` out: every byte is read back, as far as the format can prove it by itself";
        return Err(Failure::usage("what restores into it is not known of someone else's repository", hint));
    }
    match &repository.format {
        Format::Restic { .. } => restic::verify(context, repository, arguments).await,
        Format::WalG { key } => walg::verify(context, repository, key.as_ref(), arguments).await,
        Format::Windlass(_) => Err(ours(repository)),
    }
}

/// `restore REPOSITORY --into …`.
pub(crate) async fn restore(context: &Context, repository: &Repository, arguments: &cli::Restore) -> Result {
    cli::without(&arguments.of_ours(), "someone else's repository")?;
    cli::without(&arguments.of_cluster(), "someone else's repository")?;
    match &repository.format {
        Format::Restic { .. } => {
            cli::without(&arguments.of_wal(), "a repository of `restic`")?;
            restore::one_of_both(arguments)?;
            restic::restore(context, repository, arguments).await
        }
        Format::WalG { key } => walg::restore(context, repository, key.as_ref(), arguments).await,
        Format::Windlass(_) => Err(ours(repository)),
    }
}

/// What reading back has shown, in words.
fn verdict(damage: &[String]) -> String {
    if damage.is_empty() { "read - passed".to_owned() } else { format!("DAMAGED:\n  {}", damage.join("\n  ")) }
}

/// Refuses a folder in which something is.
fn is_empty(folder: &Path) -> Result<()> {
    if folder.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        let why = format!("the folder `{}` is not empty", folder.display());
        return Err(Failure::usage(why, "name one that does not exist yet"));
    }
    Ok(())
}

fn ours(repository: &Repository) -> Failure {
    Failure::usage(format!("`{}` is our own repository", repository.name), "name an application")
}
