//! Captures a `postgres` component physically: a base backup in the layout of WAL-G, with the WAL that makes it consistent.

use serde::Deserialize;
use windlass_core::application::{Component, Physical};
use windlass_core::diagnose::{Diagnose, Outcome, Retry};
use windlass_core::id::PointId;
use windlass_core::point::{ComponentData, Consistency, ObjectRef, PhysicalData};
use windlass_repo::error::RepositoryError;
use windlass_repo::format::walg::BackupName;
use windlass_repo::keyring::KeyError;
use windlass_repo::layout;
use windlass_repo::run::Attempt;

use super::{Backup, Part, tally, with_progress};
use crate::postgres::PostgresError;
use crate::postgres::physical::base_backup::{PART, Task, begin};
use crate::postgres::physical::{PhysicalError, Source, streamed};
use crate::postgres::session::Session;
use crate::postgres::tools::Tools;
use crate::progress::Event;

/// Wrong pages named in a warning.
const NAMED: usize = 5;

/// Why a server could not be captured.
#[derive(Debug, thiserror::Error)]
pub enum PhysicalCaptureError {
    /// Its tools.
    #[error("capture the server")]
    Tools(#[source] PostgresError),
    /// The base backup.
    #[error(transparent)]
    Backup(PhysicalError),
    /// The key it is sealed with.
    #[error(transparent)]
    Key(KeyError),
    /// The note of what is about to be written.
    #[error(transparent)]
    Repository(RepositoryError),
}

impl PhysicalCaptureError {
    fn inner(&self) -> &dyn Diagnose {
        match self {
            Self::Tools(error) => error,
            Self::Backup(error) => error,
            Self::Key(error) => error,
            Self::Repository(error) => error,
        }
    }
}

impl Diagnose for PhysicalCaptureError {
    fn code(&self) -> &'static str {
        self.inner().code()
    }

    fn reason(&self) -> &'static str {
        self.inner().reason()
    }

    fn retry(&self) -> Retry {
        self.inner().retry()
    }

    fn outcome(&self) -> Outcome {
        Outcome::Failed
    }

    fn hints(&self) -> Vec<String> {
        self.inner().hints()
    }
}

pub(super) async fn capture(
    run: &Backup<'_>,
    id: PointId,
    component: &Component,
    source: &Physical,
) -> Result<Part, PhysicalCaptureError> {
    let name = &component.name;
    let failed = PhysicalCaptureError::Backup;
    let tools = Tools::find(&source.server).await.map_err(PhysicalCaptureError::Tools)?;
    let server = Source::open(&tools, source).await.map_err(failed)?;
    let system_identifier = server.system_identifier().to_string();
    let place = layout::cluster(run.vault.application(), name, &system_identifier);
    let sealed = run.vault.seals().map_err(PhysicalCaptureError::Key)?;
    let archive = run.vault.cluster(name, &system_identifier, sealed).map_err(PhysicalCaptureError::Key)?;
    let (moved, mut counted) = tally();
    let (compression, host) = (source.compression, run.host.to_owned());
    let task = Task { archive: &archive, compression, part: PART, host, moved };
    // Its objects do not say which run they are of: should it die, this tells.
    let begun = async |name: &BackupName, how: &str| {
        let folder = layout::base_backup(&place, name.as_str());
        Attempt::note(run.vault, run.writer, id, &folder).await.map_err(PhysicalCaptureError::Repository)?;
        let text = format!("base backup {name}{how}");
        run.progress.event(Event::Step { component: &component.name, text: &text, total: None });
        Ok(())
    };
    let count = |more| run.progress.event(Event::Bytes { component: name, more });
    let backup = match server {
        Source::Folder(server) => {
            let backup = begin(*server, &task).await.map_err(failed)?;
            begun(backup.name(), "").await?;
            Box::pin(with_progress(backup.take(), &mut counted, count)).await
        }
        Source::Protocol(remote) => {
            let mut connection = remote.connect().await.map_err(failed)?;
            let backup = streamed::begin(*remote, &mut connection, &task).await.map_err(failed)?;
            begun(backup.name(), ", by the replication protocol").await?;
            Box::pin(with_progress(backup.take(), &mut counted, count)).await
        }
    };
    let backup = backup.map_err(failed)?;
    let mut warnings = backup.warnings;
    for (file, blocks) in backup.corrupt.iter().take(NAMED) {
        let of = match relation_of(&tools, file).await {
            Ok(Some(relation)) => format!(", which is {relation}"),
            Ok(None) | Err(_) => String::new(),
        };
        warnings.push(format!(
            "the pages {blocks:?} of `{file}`{of} are not what their checksums say: the server's disk lost them"
        ));
    }
    if backup.corrupt.len() > NAMED {
        warnings.push(format!("{} more files have such pages", backup.corrupt.len() - NAMED));
    }
    let tablespaces = backup.sentinel.spec.iter().flat_map(|spec| &spec.tablespaces);
    let in_repository = |object: ObjectRef| ObjectRef { key: format!("{place}/{}", object.key), ..object };
    Ok(Part {
        window: backup.window,
        consistency: Consistency::Component,
        tools: Vec::new(),
        warnings,
        data: ComponentData::Physical(PhysicalData {
            server_version: backup.sentinel.pg_version,
            system_identifier,
            backup: backup.name.to_string(),
            timeline: backup.timeline,
            start: backup.sentinel.start.unwrap_or_default(),
            stop: backup.sentinel.finish.unwrap_or_default(),
            segment_size: backup.segment_size,
            superuser: backup.superuser,
            databases: backup.databases,
            sealed,
            objects: backup.objects.into_iter().map(in_repository).collect(),
            wal: backup.wal.into_iter().map(in_repository).collect(),
            data_bytes: u64::try_from(backup.sentinel.data_size).unwrap_or_default(),
            tablespaces: tablespaces.map(|(oid, place)| (*oid, place.location.clone())).collect(),
            settings: backup.settings,
            corrupt: backup.corrupt,
        }),
    })
}

/// What a file of a base backup is called in its database: `shop: public.orders`.
async fn relation_of(tools: &Tools, file: &str) -> Result<Option<String>, PostgresError> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    // `/base/16384/16385.1`: database, number of the file, gigabyte of it.
    let Some((database, number)) =
        file.trim_start_matches('/').strip_prefix("base/").and_then(|rest| rest.split_once('/'))
    else {
        return Ok(None);
    };
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    let (Ok(database), Ok(number)) = (database.parse::<u32>(), digits(number).parse::<u32>()) else { return Ok(None) };
    let mut any = Session::open_any(tools).await?;
    let asked = format!("select datname as name from pg_catalog.pg_database where oid = {database}");
    let found: Vec<Named> = any.all(&asked).await?;
    any.close().await;
    let Some(Named { name: database }) = found.into_iter().next() else { return Ok(None) };
    let mut session = Session::open(tools, &database).await?;
    let asked = format!("select pg_catalog.pg_filenode_relation(0, {number})::text as name");
    let relation: Vec<Named> = session.all(&asked).await?;
    session.close().await;
    Ok(relation.into_iter().next().map(|Named { name }| format!("{database}: {name}")))
}
