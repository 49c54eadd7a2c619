//! Captures a `postgres` component: every database a dump of its own, roles and settings beside them.
//!
//! While a dump streams, it is walked ([`Stream`]): what `pg_dump` called success and is not whole is a failure.

use jiff::{SignedDuration, Timestamp};
use windlass_core::application::{Component, Postgres};
use windlass_core::diagnose::{Diagnose, Outcome};
use windlass_core::id::PointId;
use windlass_core::point::{ComponentData, Consistency, DatabaseDump, Globals, PostgresData, Window};
use windlass_repo::error::RepositoryError;
use windlass_repo::keyring::KeyError;
use windlass_repo::layout;
use windlass_repo::object::{ObjectError, ObjectWriter};
use windlass_repo::run::Attempt;
use windlass_repo::store::{Key, StoreError};
use windlass_repo::vault::ObjectOrKeyError;

use super::{Backup, Naming, Part};
use crate::postgres::PostgresError;
use crate::postgres::capture::{self, Stream};
use crate::postgres::inspect;
use crate::postgres::tools::Tools;
use crate::progress::Event;

/// Why databases could not be captured.
#[derive(Debug, thiserror::Error)]
pub enum PostgresCaptureError {
    /// The server or its tools.
    #[error("capture {}", if database.is_empty() { "the server" } else { database })]
    Source {
        /// The database; empty where it concerns the server.
        database: String,
        /// Why.
        source: PostgresError,
    },
    /// The repository.
    #[error(transparent)]
    Object(ObjectError),
    /// The key to seal to.
    #[error(transparent)]
    Key(KeyError),
    /// The note of what is about to be written.
    #[error(transparent)]
    Repository(RepositoryError),
}

impl Diagnose for PostgresCaptureError {
    fn code(&self) -> &'static str {
        match self {
            Self::Source { source, .. } => source.code(),
            Self::Object(error) => error.code(),
            Self::Key(error) => error.code(),
            Self::Repository(error) => error.code(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Source { source, .. } => source.reason(),
            Self::Object(error) => error.reason(),
            Self::Key(error) => error.reason(),
            Self::Repository(error) => error.reason(),
        }
    }

    fn outcome(&self) -> Outcome {
        Outcome::Failed
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Source { source, .. } => source.hints(),
            Self::Object(error) => error.hints(),
            Self::Key(error) => error.hints(),
            Self::Repository(error) => error.hints(),
        }
    }
}

/// Seconds after the scheduled one that a dump may be named by where names are taken.
const SECONDS: i64 = 60;

type Result<T> = std::result::Result<T, PostgresCaptureError>;

pub(super) async fn capture(task: &Backup<'_>, id: PointId, component: &Component, source: &Postgres) -> Result<Part> {
    let of_server = |source| PostgresCaptureError::Source { database: String::new(), source };
    let tools = Tools::find(source).await.map_err(of_server)?;
    let names = inspect::databases(&tools, source.databases).await.map_err(of_server)?;
    let mut warnings = Vec::new();
    let mut databases = Vec::new();
    for name in &names {
        let captured = database(task, id, component, (&tools, source.owners), name, &mut warnings).await?;
        databases.push(captured);
    }
    let globals = if source.owners { Some(globals(task, id, component, &tools, &mut warnings).await?) } else { None };
    let moments = || databases.iter().map(|dump: &DatabaseDump| dump.snapshot_at);
    let now = Timestamp::now();
    let window = Window { from: moments().min().unwrap_or(now), to: moments().max().unwrap_or(now) };
    Ok(Part {
        window,
        consistency: Consistency::Component,
        tools: vec![format!("pg_dump {}", tools.major)],
        warnings,
        data: ComponentData::Postgres(PostgresData { server_version: tools.server_version, databases, globals }),
    })
}

async fn database(
    task: &Backup<'_>,
    id: PointId,
    component: &Component,
    (tools, owners): (&Tools, bool),
    name: &str,
    warnings: &mut Vec<String>,
) -> Result<DatabaseDump> {
    let of_it = |source| PostgresCaptureError::Source { database: name.to_owned(), source };
    let mut capture = capture::begin(tools, name, owners).await.map_err(of_it)?;
    let text = format!("dump database {name}");
    task.progress.event(Event::Step { component: &component.name, text: &text, total: None });
    let key = match task.naming {
        Naming::Within => {
            within(task, id, component, &format!("{}-{}.dump", Key::encode(name), stamp(capture.snapshot_at)))?
        }
        Naming::Beside(scheduled) => beside(task, id, name, scheduled).await?,
    };
    let mut object = begin(task, &key)?;
    let streamed = stream(task, component, &mut capture.dump, &mut object).await;
    let finished = match streamed {
        // Only once the tool has ended well is it known that this was all.
        Ok(()) => {
            async {
                let (database, snapshot_at) = (capture.database.clone(), capture.snapshot_at);
                let (said, tables) = capture.finish().await.map_err(of_it)?;
                Ok((database, snapshot_at, said, tables))
            }
            .await
        }
        Err(error) => Err(error),
    };
    let (database, snapshot_at, said, tables) = match finished {
        Ok(finished) => finished,
        Err(error) => {
            object.abort().await;
            return Err(error);
        }
    };
    warnings.extend(said.lines().map(|line| format!("{name}: {line}")));
    let object = object.finish().await.map_err(PostgresCaptureError::Object)?;
    Ok(database.into_dump(name, object, snapshot_at, tables))
}

async fn globals(
    task: &Backup<'_>,
    id: PointId,
    component: &Component,
    tools: &Tools,
    warnings: &mut Vec<String>,
) -> Result<Globals> {
    let of_server = |source| PostgresCaptureError::Source { database: String::new(), source };
    let (mut script, passwords) = capture::globals(tools).await.map_err(of_server)?;
    task.progress.event(Event::Step { component: &component.name, text: "dump roles and settings", total: None });
    let key = within(task, id, component, &format!("globals-{}.sql", stamp(Timestamp::now())))?;
    let mut object = begin(task, &key)?;
    let streamed = stream(task, component, &mut script, &mut object).await;
    let finished = match streamed {
        Ok(()) => script.finish().await.map_err(of_server),
        Err(error) => Err(error),
    };
    match finished {
        Ok(said) => warnings.extend(said.lines().map(|line| format!("roles and settings: {line}"))),
        Err(error) => {
            object.abort().await;
            return Err(error);
        }
    }
    if !passwords {
        warnings.push("the passwords of roles are not in it: reading them takes a superuser".into());
    }
    Ok(Globals { object: object.finish().await.map_err(PostgresCaptureError::Object)?, passwords })
}

/// Sends everything a tool prints into an object.
async fn stream(task: &Backup<'_>, component: &Component, from: &mut Stream, object: &mut ObjectWriter) -> Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = from.read(&mut buffer).await;
        let read = read.map_err(|source| PostgresCaptureError::Source { database: String::new(), source })?;
        if read == 0 {
            return Ok(());
        }
        object.write(buffer.get(..read).unwrap_or_default()).await.map_err(PostgresCaptureError::Object)?;
        task.progress.event(Event::Bytes { component: &component.name, more: read as u64 });
    }
}

/// The key of a dump in the component's own folder.
fn within(task: &Backup<'_>, id: PointId, component: &Component, file: &str) -> Result<Key> {
    Ok(layout::dump(task.vault.application(), &component.name, id, &sealed(task, file)?))
}

/// The first key beside the repository that is free, from the scheduled second on; an attempt is noted under the run
/// before anything is written there, so that what it leaves when it dies is known to be ours.
async fn beside(task: &Backup<'_>, id: PointId, database: &str, scheduled: Timestamp) -> Result<Key> {
    let store = task.vault.store();
    let failed = |error| PostgresCaptureError::Object(ObjectError::Store(error));
    for second in 0..SECONDS {
        let at = scheduled + SignedDuration::from_secs(second);
        let key = layout::beside(&sealed(task, &format!("{}-{}.dump", Key::encode(database), stamp(at)))?);
        match store.head(&key).await {
            Ok(_) => continue,
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
        let noted = Attempt::note(task.vault, task.writer, id, &key).await;
        noted.map_err(PostgresCaptureError::Repository)?;
        return Ok(key);
    }
    let key = layout::beside(&format!("{}-{}.dump", Key::encode(database), stamp(scheduled)));
    Err(failed(StoreError::Occupied { key, store: store.location().to_owned() }))
}

/// The name of a file that is sealed, where dumps are.
fn sealed(task: &Backup<'_>, file: &str) -> Result<String> {
    let sealed = task.vault.recipient().map_err(PostgresCaptureError::Key)?.is_some();
    Ok(if sealed { format!("{file}.age") } else { file.to_owned() })
}

fn begin(task: &Backup<'_>, key: &Key) -> Result<ObjectWriter> {
    task.vault.write(key).map_err(|error| match error {
        ObjectOrKeyError::Object(error) => PostgresCaptureError::Object(error),
        ObjectOrKeyError::Key(error) => PostgresCaptureError::Key(error),
    })
}

/// `20260301T020000Z`
fn stamp(at: Timestamp) -> String {
    at.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string()
}
