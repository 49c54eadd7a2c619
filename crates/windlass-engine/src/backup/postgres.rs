//! Captures a `postgres` component: every database a dump of its own, roles and settings beside them.
//!
//! While a dump streams, it is walked ([`Stream`]): what `pg_dump` called success and is not whole is a failure.

use windlass_core::application::{Component, Postgres};
use windlass_core::diagnose::{Diagnose, Outcome};
use windlass_core::id::PointId;
use windlass_core::point::{ComponentData, Consistency, DatabaseDump, Globals, PostgresData, Window};
use windlass_repo::keyring::KeyError;
use windlass_repo::layout;
use windlass_repo::object::{ObjectError, ObjectWriter};
use windlass_repo::store::Key;
use windlass_repo::vault::ObjectOrKeyError;

use super::{Backup, Part};
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
}

impl Diagnose for PostgresCaptureError {
    fn code(&self) -> &'static str {
        match self {
            Self::Source { source, .. } => source.code(),
            Self::Object(error) => error.code(),
            Self::Key(error) => error.code(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Source { source, .. } => source.reason(),
            Self::Object(error) => error.reason(),
            Self::Key(error) => error.reason(),
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
        }
    }
}

type Result<T> = std::result::Result<T, PostgresCaptureError>;

pub(super) async fn capture(task: &Backup<'_>, id: PointId, component: &Component, source: &Postgres) -> Result<Part> {
    let of_server = |source| PostgresCaptureError::Source { database: String::new(), source };
    let tools = Tools::find(source).await.map_err(of_server)?;
    let names = inspect::databases(&tools, source.databases).await.map_err(of_server)?;
    let mut warnings = Vec::new();
    let mut databases = Vec::new();
    for name in &names {
        databases.push(database(task, id, component, &tools, name, &mut warnings).await?);
    }
    let globals = globals(task, id, component, &tools, &mut warnings).await?;
    let moments = || databases.iter().map(|dump: &DatabaseDump| dump.snapshot_at);
    let now = jiff::Timestamp::now();
    let window = Window { from: moments().min().unwrap_or(now), to: moments().max().unwrap_or(now) };
    Ok(Part {
        window,
        consistency: Consistency::Component,
        tools: vec![format!("pg_dump {}", tools.major)],
        warnings,
        data: ComponentData::Postgres(PostgresData {
            server_version: tools.server_version,
            databases,
            globals: Some(globals),
        }),
    })
}

async fn database(
    task: &Backup<'_>,
    id: PointId,
    component: &Component,
    tools: &Tools,
    name: &str,
    warnings: &mut Vec<String>,
) -> Result<DatabaseDump> {
    let of_it = |source| PostgresCaptureError::Source { database: name.to_owned(), source };
    let mut capture = capture::begin(tools, name).await.map_err(of_it)?;
    let text = format!("dump database {name}");
    task.progress.event(Event::Step { component: &component.name, text: &text, total: None });
    let file = format!("{}-{}.dump", Key::encode(name), stamp(capture.snapshot_at));
    let mut object = begin(task, id, component, &file)?;
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
    let mut object = begin(task, id, component, &format!("globals-{}.sql", stamp(jiff::Timestamp::now())))?;
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

fn begin(task: &Backup<'_>, id: PointId, component: &Component, file: &str) -> Result<ObjectWriter> {
    let sealed = task.vault.recipient().map_err(PostgresCaptureError::Key)?.is_some();
    let file = if sealed { format!("{file}.age") } else { file.to_owned() };
    let key = layout::dump(task.vault.application(), &component.name, id, &file);
    task.vault.write(&key).map_err(|error| match error {
        ObjectOrKeyError::Object(error) => PostgresCaptureError::Object(error),
        ObjectOrKeyError::Key(error) => PostgresCaptureError::Key(error),
    })
}

/// `20260301T020000Z`
fn stamp(at: jiff::Timestamp) -> String {
    at.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string()
}
