//! Takes a recovery point on this machine.

use windlass_core::application::Component;
use windlass_core::name::Name;
use windlass_engine::backup::{Backup, BackupError, Naming, Taken, run};
use windlass_engine::progress::Progress;
use windlass_repo::error::RepositoryError;
use windlass_repo::evidence;
use windlass_repo::random::Fresh;

use crate::host::{Host, Site};

/// Takes a point of all components, or of those named.
pub async fn take(host: &Host, site: &Site, only: &[Name], progress: &dyn Progress) -> Result<Taken, BackupError> {
    let wanted = |component: &&Component| only.is_empty() || only.contains(&component.name);
    let task = Backup {
        application: &site.application,
        components: site.application.components.iter().filter(wanted).collect(),
        naming: Naming::Within,
        vault: &site.vault,
        writer: &site.writer,
        host: &host.name,
        program: &host.program,
        progress,
    };
    let id = Fresh::fresh().map_err(|e| BackupError::Repository(RepositoryError::Randomness(e)))?;
    evidence::catch_up(&site.vault, &site.writer, &host.name).await.map_err(BackupError::Repository)?;
    run(&task, id).await
}
