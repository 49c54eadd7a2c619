//! Where recovery points come from: a `Kryton`, and its repository.

use jiff::Timestamp;
use kube::ResourceExt;
use windlass_core::id::PointId;
use windlass_core::point::ComponentData;
use windlass_repo::catalog::Catalog;

use crate::api::kryton::Kryton;
use crate::context::Context;
use crate::keeper::{Opened, Shut, open};
use crate::kryton::dereference::Dereferenced;
use crate::kryton::validate::{Backup, Fault, Own, Valid, validate};
use crate::objects;

/// A `Kryton` that has a repository.
pub(crate) struct Source {
    pub(crate) kryton: Kryton,
    pub(crate) valid: Valid,
    pub(crate) backup: Backup,
    pub(crate) own: Own,
}

/// A point that was chosen.
pub(crate) struct Chosen {
    pub(crate) id: PointId,
    /// The moment it stands for.
    pub(crate) at: Timestamp,
    /// The major version of the server that was dumped.
    pub(crate) major: u32,
}

impl Source {
    /// Reads it.
    pub(crate) async fn of(context: &Context, namespace: &str, name: &str) -> Result<Self, Shut> {
        let kryton = kryton(context, namespace, name).await?;
        let found = Dereferenced::read(&context.client, &kryton).await?;
        let mut valid = validate(&kryton, &found).map_err(Shut::Fault)?;
        let backup = valid.backup.take().ok_or_else(|| {
            let message = format!("Kryton {name} has no spec.backup: there is nothing to restore from");
            Shut::Fault(Fault::new("NoBackup", message))
        })?;
        let backup = backup.map_err(Shut::Fault)?;
        let own = backup
            .own
            .clone()
            .ok_or_else(|| Shut::Fault(Fault::new("NoRepository", format!("Kryton {name} has no repository yet"))))?;
        Ok(Self { kryton, valid, backup, own })
    }

    /// Opens its repository.
    pub(crate) async fn open(&self, context: &Context) -> Result<Opened, Shut> {
        open(context, &self.kryton, &self.backup, &self.own).await
    }

    /// Chooses a point: this one, or the newest complete one, at or before a time where one is given.
    pub(crate) async fn choose(
        &self,
        context: &Context,
        point: Option<&str>,
        at: Option<&str>,
    ) -> Result<Chosen, Shut> {
        let opened = self.open(context).await?;
        let catalog = Catalog::load(&opened.vault).await?;
        let refused = |message: String| Shut::Fault(Fault::new("NoPoint", message));
        let until = at.map(str::parse::<Timestamp>).transpose();
        let until = until.map_err(|error| refused(format!("spec.at: {error}")))?;
        let mut complete = catalog.live().rev().filter(|entry| entry.point.is_complete());
        let found = match point {
            Some(point) => catalog.live().find(|entry| entry.point.id.to_string() == point),
            None => complete.find(|entry| until.is_none_or(|until| entry.point.at <= until)),
        };
        let found = found.ok_or_else(|| {
            let wanted = match (point, at) {
                (Some(point), _) => format!("no recovery point {point}"),
                (_, Some(at)) => format!("no complete recovery point at or before {at}"),
                _ => "no complete recovery point".to_owned(),
            };
            let place = opened.vault.store().location();
            refused(format!("Kryton {} has {wanted} in {place}", self.kryton.name_any()))
        })?;
        let mut major = 0;
        for summary in &found.point.components {
            let manifest = opened.vault.component(&found.point, summary).await?;
            if let ComponentData::Postgres(data) = &manifest.data {
                major = data.server_version / 10_000;
            }
        }
        Ok(Chosen { id: found.point.id, at: found.point.at, major })
    }
}

/// A `Kryton`, which has to be there.
pub(super) async fn kryton(context: &Context, namespace: &str, name: &str) -> Result<Kryton, Shut> {
    let found = objects::find::<Kryton>(&context.client, namespace, name).await?;
    let missing = || Fault::new("NoApplication", format!("there is no Kryton {name} in namespace {namespace}"));
    found.ok_or_else(|| Shut::Fault(missing()))
}
