//! An application with keys and a writer, in a store that can be made to misbehave.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use object_store::memory::InMemory;
use windlass_core::id::PointId;
use windlass_core::name::Name;
use windlass_core::point::{
    ActionData, ComponentData, ComponentFailure, ComponentManifest, Consistency, FORMAT, RecoveryPoint, Window,
};
use windlass_core::repository::Encryption;
use windlass_core::secret::SecretRef;
use windlass_repo::evidence::{self, Event};
use windlass_repo::keyring::Unlock;
use windlass_repo::layout;
use windlass_repo::random::Fresh;
use windlass_repo::repository::Repository;
use windlass_repo::store::Store;
use windlass_repo::sweep::Rules;
use windlass_repo::vault::Vault;
use windlass_repo::writer::Writer;

pub(crate) const AT_ONCE: Rules = Rules { grace: SignedDuration::ZERO, longest_run: SignedDuration::ZERO };

pub(crate) fn shop() -> Name {
    "shop".parse().unwrap()
}

pub(crate) fn memory() -> Store {
    Store::over(Arc::new(InMemory::new()), "some/where", "memory://test")
}

pub(crate) fn sealed(state: &Path) -> Encryption {
    let file = state.join("passphrase");
    std::fs::write(&file, "correct horse\n").unwrap();
    Encryption::Passphrase(SecretRef::File(file))
}

/// An application with keys and a writer, whose only component is the output of a command.
pub(crate) struct Bench {
    pub(crate) vault: Vault,
    pub(crate) writer: Writer,
    _state: tempfile::TempDir,
}

impl Bench {
    pub(crate) async fn new(store: Store) -> Result<Self> {
        let state = tempfile::tempdir()?;
        let encryption = sealed(state.path());
        let repository = Repository::init(store, "host-1").await?;
        Vault::create(&repository, &shop(), &encryption).await?;
        let mut vault = Vault::open(&repository, &shop(), &Unlock::resolve(&encryption)?).await?;
        let writer = Writer::load(state.path(), repository.id(), &shop())?;
        writer.introduce(vault.store(), &shop(), "host-1", Some(vault.keyring()?)).await?;
        vault.reload_writers().await?;
        Ok(Self { vault, writer, _state: state })
    }

    pub(crate) async fn dump(&self, id: PointId, content: &[u8]) -> Result<ComponentManifest> {
        let component: Name = "index".parse()?;
        let mut object = self.vault.write(&layout::dump(&shop(), &component, id, "action.out.age"))?;
        object.write(content).await?;
        let now = Timestamp::now();
        Ok(ComponentManifest {
            read_back: None,
            format: FORMAT,
            point: id,
            application: shop(),
            component,
            window: Window { from: now, to: now },
            consistency: Consistency::Component,
            started: now,
            finished: now,
            tools: vec![],
            warnings: vec![],
            data: ComponentData::Action(ActionData { object: object.finish().await? }),
        })
    }

    pub(crate) async fn take(&self, content: &[u8]) -> Result<RecoveryPoint> {
        self.take_with(content, vec![]).await
    }

    pub(crate) async fn take_with(&self, content: &[u8], failed: Vec<ComponentFailure>) -> Result<RecoveryPoint> {
        let id = PointId::fresh()?;
        let manifest = self.dump(id, content).await?;
        self.commit(id, manifest, failed).await
    }

    /// Commits a point of one component.
    pub(crate) async fn commit(
        &self,
        id: PointId,
        manifest: ComponentManifest,
        failed: Vec<ComponentFailure>,
    ) -> Result<RecoveryPoint> {
        let summary = self.vault.put_component(&self.writer, &manifest).await?;
        let point = RecoveryPoint {
            format: FORMAT,
            id,
            application: shop(),
            at: manifest.started,
            started: manifest.started,
            finished: manifest.finished,
            consistency: Consistency::Component,
            skew_ms: 0,
            components: vec![summary],
            failed,
            warnings: vec![],
            evidence: evidence::heads(&self.vault).await?,
        };
        let sha256 = self.vault.commit(&self.writer, &point).await?;
        let event = Event::Backup { point: id, complete: point.is_complete(), sha256 };
        evidence::append(&self.vault, &self.writer, "host-1", event).await?;
        Ok(point)
    }

    pub(crate) async fn content(&self, point: &RecoveryPoint) -> Result<Vec<u8>> {
        let manifest = self.vault.component(point, &point.components[0]).await?;
        let mut reader = self.vault.read(manifest.objects()[0]).await?;
        let mut all = Vec::new();
        while let Some(piece) = reader.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    pub(crate) async fn keys(&self) -> Result<Vec<String>> {
        Ok(self.vault.store().list_all(None).await?.into_iter().map(|o| o.key.to_string()).collect())
    }
}
