//! The `action` strategy: a command whose standard output is the backup, and one that takes it back.

use std::process::Stdio;

use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use windlass_core::application::Action;
use windlass_core::diagnose::{Diagnose, Outcome};
use windlass_core::name::Name;
use windlass_core::point::{ActionData, ObjectRef, Window};
use windlass_repo::object::{ObjectError, ObjectReader, ObjectWriter};

use crate::process::{Process, ProcessError};
use crate::progress::{Event, Progress};

/// Why an action failed.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// The command.
    #[error(transparent)]
    Process(ProcessError),
    /// It ended well and printed nothing.
    #[error("run `{program}`: it ended well, but its standard output, which is the backup, was empty")]
    Empty {
        /// The program.
        program: String,
    },
    /// The settings name no command that takes the backup back.
    #[error("restore {component}: the settings name no `restore` command for it")]
    NoRestore {
        /// The component.
        component: Name,
    },
    /// The object.
    #[error(transparent)]
    Object(ObjectError),
}

impl Diagnose for ActionError {
    fn code(&self) -> &'static str {
        match self {
            Self::Process(_) => "WDL-2301",
            Self::Empty { .. } => "WDL-2302",
            Self::NoRestore { .. } => "WDL-2303",
            Self::Object(error) => error.code(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Process(_) => "ActionFailed",
            Self::Empty { .. } => "NothingToProtect",
            Self::NoRestore { .. } => "NoRestoreCommand",
            Self::Object(error) => error.reason(),
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::NoRestore { .. } => Outcome::CouldNotRun,
            _ => Outcome::Failed,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Process(_) => vec!["run the command by hand as the user Windlass runs as".into()],
            Self::Empty { .. } => vec!["the command must write what is to be kept to its standard output".into()],
            Self::NoRestore { .. } => vec!["add `restore = [ … ]` to the component, or restore its object by hand: README.txt of the repository says how".into()],
            Self::Object(error) => error.hints(),
        }
    }
}

/// Runs the backup command and stores what it prints.
pub async fn capture(
    component: &Name,
    action: &Action,
    mut object: ObjectWriter,
    progress: &dyn Progress,
) -> Result<(ActionData, Window, Vec<String>), ActionError> {
    let from = Timestamp::now();
    let result = async {
        let mut process =
            Process::start(&action.backup, Stdio::null(), Stdio::piped()).map_err(ActionError::Process)?;
        let pumped = tokio::time::timeout(wait(action), pump_out(component, &mut process, &mut object, progress)).await;
        conclude(process, action, pumped).await
    };
    let stderr = match result.await {
        Ok(_) if object.size() == 0 => {
            Err(ActionError::Empty { program: action.backup.first().cloned().unwrap_or_default() })
        }
        other => other,
    };
    match stderr {
        Ok(stderr) => {
            let object = object.finish().await.map_err(ActionError::Object)?;
            let warnings = stderr.lines().map(|line| format!("it said: {line}")).collect();
            Ok((ActionData { object }, Window { from, to: Timestamp::now() }, warnings))
        }
        Err(error) => {
            object.abort().await;
            Err(error)
        }
    }
}

async fn pump_out(
    component: &Name,
    process: &mut Process,
    object: &mut ObjectWriter,
    progress: &dyn Progress,
) -> Result<(), ActionError> {
    if let Some(mut stdout) = process.child().stdout.take() {
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = stdout.read(&mut buffer).await.map_err(|e| ActionError::Process(process.pipe_error(e)))?;
            if read == 0 {
                break;
            }
            object.write(&buffer[..read]).await.map_err(ActionError::Object)?;
            progress.event(Event::Bytes { component, more: read as u64 });
        }
    }
    process.child().wait().await.map_err(|e| ActionError::Process(process.pipe_error(e)))?;
    Ok(())
}

/// Gives the stored output to the restore command.
pub async fn restore(
    component: &Name,
    action: &Action,
    object: &ObjectRef,
    mut reader: ObjectReader,
    progress: &dyn Progress,
) -> Result<(), ActionError> {
    let argv = action.restore.as_ref().ok_or_else(|| ActionError::NoRestore { component: component.clone() })?;
    progress.event(Event::Step { component, text: "give it to the restore command", total: Some(object.plain_size) });
    let mut process = Process::start(argv, Stdio::piped(), Stdio::null()).map_err(ActionError::Process)?;
    let pumped = tokio::time::timeout(wait(action), pump_in(component, &mut process, &mut reader, progress)).await;
    conclude(process, action, pumped).await.map(drop)
}

async fn pump_in(
    component: &Name,
    process: &mut Process,
    reader: &mut ObjectReader,
    progress: &dyn Progress,
) -> Result<(), ActionError> {
    if let Some(mut stdin) = process.child().stdin.take() {
        while let Some(piece) = reader.next().await.map_err(ActionError::Object)? {
            if let Err(error) = stdin.write_all(&piece).await {
                // A command that stops reading tells why by how it ends; one that ends well has read too little.
                drop(stdin);
                let status = process.child().wait().await;
                return match status {
                    Ok(status) if !status.success() => Ok(()),
                    _ => Err(ActionError::Process(process.pipe_error(error))),
                };
            }
            progress.event(Event::Bytes { component, more: piece.len() as u64 });
        }
    }
    process.child().wait().await.map_err(|e| ActionError::Process(process.pipe_error(e)))?;
    Ok(())
}

/// How the command ended: at its limit, with broken pipes, or by itself, well or not.
async fn conclude(
    process: Process,
    action: &Action,
    pumped: Result<Result<(), ActionError>, tokio::time::error::Elapsed>,
) -> Result<String, ActionError> {
    match pumped {
        Err(_) => Err(ActionError::Process(process.time_out(action.timeout).await)),
        Ok(Err(error)) => Err(error),
        Ok(Ok(())) => process.wait().await.map_err(ActionError::Process),
    }
}

fn wait(action: &Action) -> std::time::Duration {
    std::time::Duration::try_from(action.timeout).unwrap_or_default()
}
