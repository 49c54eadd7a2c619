//! Restores in the place of what is there, with undo.
//!
//! ```text
//! stop → set aside → lay down beside → check → switch → start → check → (undo until the grace ends)
//! ```
//!
//! Promised: what is done is exactly the confirmed plan, as a list of tasks that is on disk before the first is begun
//! ([`journal`]); a failure before the end puts back what was there; a kill at any moment leaves a restore that the same
//! command finishes, and that `windlass undo` puts back; nothing that was there is deleted before its grace has ended, but
//! where the plan says so. Not promised: that data written between the point and the restore are merged, or that an
//! application which nothing stops does not write meanwhile.

mod back;
mod forward;
pub mod journal;
mod kept;
pub mod look;
mod lost;
mod replaced;
mod run;
mod server;
mod server_look;
mod tasks;

use windlass_core::application::Application;
use windlass_core::point::ComponentManifest;
use windlass_engine::progress::Progress;
use windlass_repo::vault::Vault;

use self::journal::Journal;
use crate::error::TaskError;
use crate::host::Host;

pub use self::back::{Undone, look_before, undo};
pub use self::kept::{abandon, expire, forget, may_abandon, may_forget};
pub use self::lost::{DatabaseLoss, UndoImpact, impact_of_undo};
pub use self::run::{finish, run};

/// What a restore in place works with.
pub struct Work<'a> {
    /// The application's part of the repository; none where only what is there is put back.
    pub vault: Option<&'a Vault>,
    /// The manifests of the point.
    pub manifests: &'a [ComponentManifest],
    /// The application.
    pub application: &'a Application,
    /// This machine.
    pub host: &'a Host,
    /// Whether the application is stopped already, and its command to stop it is not run.
    pub stopped: bool,
    /// Whoever watches.
    pub progress: &'a dyn Progress,
}

impl<'a> Work<'a> {
    /// The repository, for what is restored from it.
    fn vault(&self) -> Result<&'a Vault, TaskError> {
        self.vault.ok_or(TaskError::NoVault)
    }
}

/// What came of a restore in place.
pub struct Done {
    /// Its journal.
    pub journal: Journal,
    /// What a person should know.
    pub notes: Vec<String>,
}
