//! A scratch place, and the servers of base backups that are brought up in it. It is torn down by a supervisor, also when this
//! process dies.

use std::path::{Path, PathBuf};

use jiff::SignedDuration;
use windlass_core::point::{ComponentManifest, PhysicalData};
use windlass_core::restore::{RecoverStep, Refusal};
use windlass_engine::postgres::physical::LaidDown;
use windlass_engine::postgres::physical::recover::Recoverer;
use windlass_engine::postgres::scratch::{Place, ScratchServer};
use windlass_engine::progress::{Event, Progress};
use windlass_engine::restore;
use windlass_engine::supervisor::{Orders, Supervisor};
use windlass_repo::vault::Vault;

use crate::error::TaskError;

/// A scratch place that is looked after.
pub(crate) struct Scratch {
    pub(crate) place: Place,
    program: PathBuf,
    supervisor: Supervisor,
}

impl Scratch {
    /// Makes one, for so long at the longest; `program` is the `windlass` that looks after it.
    pub(crate) async fn make(program: &Path, longest: SignedDuration) -> Result<Self, TaskError> {
        Self::make_for(program, longest, None).await
    }

    /// The same for servers that run as a certain user, where we are root.
    pub(crate) async fn make_for(
        program: &Path,
        longest: SignedDuration,
        owner: Option<(u32, u32)>,
    ) -> Result<Self, TaskError> {
        let place = Place::make_for(owner).map_err(TaskError::Postgres)?;
        let deadline = u64::try_from(longest.as_secs()).unwrap_or(u64::MAX);
        let orders = Orders { after: Vec::new(), teardown: vec![place.path.clone()], deadline };
        let supervisor = Supervisor::start(program, &orders).await.map_err(TaskError::Supervisor)?;
        Ok(Self { place, program: program.to_owned(), supervisor })
    }

    /// What recovers servers in it.
    pub(crate) fn recoverer(&self) -> Recoverer<'_> {
        Recoverer { place: &self.place, program: &self.program }
    }

    /// Lays a base backup down in it, brings its server to a moment, where one is given, and starts it.
    pub(crate) async fn server(
        &self,
        vault: &Vault,
        manifest: &ComponentManifest,
        data: &PhysicalData,
        recover: Option<&RecoverStep>,
        progress: &dyn Progress,
    ) -> Result<ScratchServer, TaskError> {
        let needed = data.data_bytes.saturating_add(recover.map_or(0, |step| step.wal_bytes));
        let free = restore::free_bytes(&self.place.path);
        if free < needed {
            let path = self.place.path.to_string_lossy().into_owned();
            return Err(TaskError::Refused(Refusal::NoSpace { path, needed, free }));
        }
        let target = self.place.path.join(format!("cluster-{}", manifest.component));
        std::fs::create_dir(&target).map_err(|source| TaskError::State { path: target.clone(), source })?;
        let laid_down = LaidDown::below(&target, data.tablespaces.keys());
        let recovered =
            restore::recovered(vault, manifest, (data, &laid_down), recover, None, self.recoverer(), progress).await;
        Ok(recovered.map_err(TaskError::Restore)?.server)
    }

    /// Tears it down.
    pub(crate) async fn end(self, progress: &dyn Progress) -> Result<(), TaskError> {
        let report = self.supervisor.act().await.map_err(TaskError::Supervisor)?;
        for failure in report.failures {
            progress.event(Event::Warning { text: &format!("tear down the scratch place: {failure}") });
        }
        Ok(())
    }
}
