//! `windlass operator`: reconcile the custom resources of a cluster. `windlass crds`: their definitions.

use windlass_operator::{Options, run as operate};

use crate::cli;
use crate::failure::{Failure, Result, Status};
use crate::printer::Printer;

pub(crate) async fn run(arguments: &cli::Operator) -> Result {
    let options = Options {
        image: arguments.image.clone(),
        namespace: arguments.namespace.clone(),
        identity: arguments.identity.clone(),
        helm: arguments.helm.clone().zip(arguments.chart.clone()),
        listen: arguments.listen,
    };
    operate(options, stopped()).await?;
    Ok(Status::Done)
}

/// Prints the definitions, each a document of its own.
pub(crate) fn definitions() -> Result {
    let files = windlass_operator::api::files().map_err(|error| Failure::usage(error.to_string(), "report it"))?;
    Printer::raw(&files.into_iter().map(|(_, text)| text).collect::<String>());
    Ok(Status::Done)
}

/// Returns when somebody wants it to end.
pub(crate) async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
