//! What a restore works with: the repository of one `Kryton` and the database of another, which may be the same.

use kube::ResourceExt;

use super::source::{Source, kryton};
use crate::api::kryton::Kryton;
use crate::api::restore::Restore;
use crate::connection::{Connection, connection};
use crate::context::Context;
use crate::keeper::Shut;
use crate::kryton::dereference::{Found, database_secret};

/// The image with PostgreSQL's tools where nothing else is known.
const IMAGE: &str = "postgres:16";

/// What a restore works with.
pub(super) struct World {
    /// The application whose points they are; why it is not to be had, where it is not. What is put back needs none.
    pub(super) source: Result<Source, Shut>,
    /// The application they are restored into.
    pub(super) into: Kryton,
    /// How its database is reached.
    pub(super) connection: Connection,
    /// The image with PostgreSQL's tools.
    pub(super) image: String,
}

impl World {
    /// Reads it.
    pub(super) async fn of(context: &Context, restore: &Restore) -> Result<Self, Shut> {
        let namespace = restore.namespace().unwrap_or_default();
        let from = &restore.spec.from;
        let into = kryton(context, &namespace, &restore.spec.into.as_ref().unwrap_or(from).kryton).await?;
        let said = into.spec.backup.as_ref().and_then(|backup| backup.connection.as_ref());
        let secret = Found::read(&context.client, &namespace, &database_secret(&into, said)).await?;
        let connection = connection(&into, said, secret.as_ref()).map_err(Shut::Fault)?;
        let source = Source::of(context, &namespace, &from.kryton).await;
        let image = into.spec.backup.as_ref().and_then(|backup| backup.image.clone());
        let image = image.or_else(|| source.as_ref().ok().map(|source| source.backup.image.clone()));
        Ok(Self { source, into, connection, image: image.unwrap_or_else(|| IMAGE.to_owned()) })
    }
}
