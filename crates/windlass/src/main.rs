//! The `windlass` command: reads arguments and settings, and hands over to one verb.

mod cli;
mod commands;
mod context;
mod failure;
mod printer;
mod time;
mod watch;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::cli::{Agent, Application, Cli, Keys, Repo, Verb, WalOf};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::printer::Printer;

/// Of a thread, in bytes: what walks folders goes down with them, and they may be thousands deep. Only what is used of it
/// is memory.
const STACK: usize = 64 << 20;

/// What `wal-fetch` ends with where anything is wrong: PostgreSQL takes 125 and less for the end of the archive.
const NOT_FETCHED: u8 = 126;

fn main() -> ExitCode {
    let fetches = std::env::args_os().any(|argument| argument == "wal-fetch");
    match std::panic::catch_unwind(|| run(fetches)) {
        Ok(code) => code,
        Err(_) => ExitCode::from(if fetches { NOT_FETCHED } else { 101 }),
    }
}

fn run(fetches: bool) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if fetches && error.use_stderr() => {
            refused(&error);
            return ExitCode::from(NOT_FETCHED);
        }
        Err(error) => return refused(&error),
    };
    let failed = ExitCode::from(if matches!(cli.verb, Verb::WalFetch { .. }) { NOT_FETCHED } else { 1 });
    if matches!(cli.verb, Verb::Supervise) {
        return match windlass_engine::supervisor::serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(2),
        };
    }
    log_to_stderr(&cli);
    let printer = Printer::new(cli.output, cli.quiet);
    let asked = match &cli.verb {
        Verb::WalPush { component, socket, path } => commands::wal::push_at(socket, component, path),
        Verb::WalFetch { component: WalOf::Component(component), cluster, socket, name, path } => {
            commands::wal::fetch_at(socket, component, *cluster, name, path)
        }
        _ => Ok(None),
    };
    match asked {
        Ok(None) => {}
        Ok(Some(status)) => return status.into(),
        Err(failure) => {
            printer.failure(&failure);
            return failed;
        }
    }
    // With none or several providers compiled in, rustls would panic at the first handshake.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(STACK).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            printer.warning(&format!("start: {error}"));
            return if fetches { failed } else { ExitCode::from(2) };
        }
    };
    allow_many_files();
    let status = runtime.block_on(async {
        tokio::select! {
            done = dispatch(&cli, &printer) => Some(done),
            () = interrupted(), if !ends_by_itself(&cli.verb) => None,
        }
    });
    // What still runs on other threads - a capture, a restore - is not waited for after an interrupt.
    runtime.shutdown_background();
    if let Some(error) = printer::unwritten() {
        printer.warning(&format!("what this command prints could not be written: {error}"));
        return failed;
    }
    match status {
        Some(Ok(status)) => status.into(),
        Some(Err(failure)) => {
            printer.failure(&failure);
            match &cli.verb {
                Verb::WalPush { socket, .. } | Verb::WalFetch { component: WalOf::Component(_), socket, .. } => {
                    printer.warning(&format!(
                        "nobody listens at {}: it was tried without `windlass serve`",
                        socket.display()
                    ));
                    failed
                }
                Verb::WalFetch { .. } => failed,
                _ => failure.exit_code(),
            }
        }
        None => {
            printer.warning(match cli.verb {
                Verb::Restore(arguments) if arguments.in_place => {
                    "interrupted: run the same again to finish it, or `windlass undo` to see how to put back what was there"
                }
                Verb::Undo(_) => "interrupted: run the same again to finish it",
                Verb::WalFetch { .. } | Verb::WalPush { .. } => "interrupted",
                Verb::Restore(_) => {
                    "interrupted: what was restored so far is left as it is, and is not whole: look at the targets, and remove them before the next attempt; of a server as a whole, the same command goes on"
                }
                _ => "interrupted: nothing was committed; after-hooks are run and scratch places removed by the supervisor",
            });
            failed
        }
    }
}

/// Whether a verb hears of signals itself, and ends in order.
fn ends_by_itself(verb: &Verb) -> bool {
    matches!(verb, Verb::Operator(_) | Verb::Serve { .. } | Verb::Agent(Agent::Snapshot(_)))
}

/// Opens as many files as the system lets us: a folder in a folder in a folder is walked by handles, one a level.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Where it is refused, what we had is enough for all but the deepest.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Says what is wrong with the arguments, or what was asked of them: help, the version. They could not be read, so
/// whether JSON is wanted is looked for in them as they stand.
fn refused(error: &clap::Error) -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let json = arguments.iter().any(|a| a == "--output=json")
        || arguments.windows(2).any(|pair| pair.iter().map(String::as_str).eq(["--output", "json"]));
    if json && error.use_stderr() {
        let words = error.render().to_string();
        let (why, hint) = words.trim_end().split_once("\n\n").unwrap_or((&words, ""));
        let failure = Failure::usage(why.trim_start_matches("error: "), hint);
        Printer::new(cli::Output::Json, true).failure(&failure);
    } else {
        let _ = error.print();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Returns at the first SIGINT, SIGTERM or SIGHUP: the last comes where a session over the network breaks.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let stays = ignores_hangup();
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv(), if !stays => {}
    }
}

/// Whether we were started so that a hangup does not end us, by `nohup` for one: bit 0 of what `/proc` says is ignored.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

fn log_to_stderr(cli: &Cli) {
    let level = match cli.verbose {
        // What runs for months tells what it does.
        0 if matches!(cli.verb, Verb::Operator(_) | Verb::Serve { .. }) => "info",
        0 => "error",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::new(format!(
        "off,windlass={level},windlass_repo={level},windlass_engine={level},windlass_host={level},windlass_operator={level}"
    ));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

async fn dispatch(cli: &Cli, printer: &Printer) -> Result {
    match &cli.verb {
        Verb::Init(arguments) => return commands::init::run(printer, arguments).await,
        Verb::Operator(arguments) => return commands::operator::run(arguments).await,
        Verb::Crds => return commands::operator::definitions(),
        Verb::Agent(Agent::Install { to }) => return commands::agent::install(to),
        Verb::Agent(Agent::Plugins { folder, plugins }) => {
            return commands::agent::plugins(printer, folder, plugins).await;
        }
        Verb::Agent(Agent::Snapshot(arguments)) => return commands::agent::snapshot(printer, arguments).await,
        Verb::Agent(Agent::Run { task }) => return commands::agent::run(printer, task).await,
        Verb::Completions { shell } => return Ok(commands::completions::run(*shell)),
        Verb::Restore(arguments) if let Some(Application::Kryton(name)) = &arguments.application => {
            return commands::cluster::restore(printer, name, arguments).await;
        }
        Verb::Drill(arguments) if let Application::Kryton(name) = &arguments.application => {
            return commands::cluster::drill(printer, name, arguments).await;
        }
        Verb::Undo(arguments) if let (Some(namespace), Some(id)) = (&arguments.namespace, arguments.restore) => {
            return commands::cluster::undo(printer, namespace, id, arguments).await;
        }
        Verb::Restore(arguments) if arguments.from.is_some() => {
            return commands::restore::from_kit(printer, arguments).await;
        }
        _ => {}
    }
    let context = Context::load(cli.config.as_deref(), printer)?;
    let context = &context;
    match &cli.verb {
        Verb::Backup(arguments) => commands::backup::run(context, arguments).await,
        Verb::Status { application } => commands::status::run(context, application.as_ref()).await,
        Verb::Points { application } => commands::points::run(context, application).await,
        Verb::Restore(arguments) => commands::restore::run(context, arguments).await,
        Verb::Undo(arguments) => commands::undo::run(context, arguments).await,
        Verb::Verify(arguments) => commands::verify::run(context, arguments).await,
        Verb::Drill(arguments) => commands::drill::run(context, arguments).await,
        Verb::Retention(verb) => commands::retention::run(context, verb).await,
        Verb::Repo(verb) => repo(context, verb).await,
        Verb::Doctor => commands::doctor::run(context).await,
        Verb::Serve { socket } => commands::wal::serve(context, socket).await,
        Verb::WalPush { component, path, .. } => commands::wal::push(context, component, path).await,
        Verb::WalFetch { component, cluster, name, path, .. } => {
            commands::wal::fetch(context, component, name, *cluster, path).await
        }
        Verb::Init(_)
        | Verb::Completions { .. }
        | Verb::Operator(_)
        | Verb::Crds
        | Verb::Agent(_)
        | Verb::Supervise => Err(Failure::usage("this verb takes no settings", "run `windlass --help`")),
    }
}

async fn repo(context: &Context, verb: &Repo) -> Result {
    match verb {
        Repo::Init { repository } => commands::repo::init(context, repository.as_ref()).await,
        Repo::Check { repository, read_data } => commands::check::run(context, repository.as_ref(), *read_data).await,
        Repo::Stats { repository } => commands::repo::stats(context, repository.as_ref()).await,
        Repo::Kit { repository, file } => commands::repo::kit(context, repository.as_ref(), file.as_deref()).await,
        Repo::Manual { repository } => commands::repo::manual(context, repository.as_ref()).await,
        Repo::Keys(Keys::List { repository }) => commands::keys::list(context, repository.as_ref()).await,
        Repo::Keys(Keys::Restore { repository, kit }) => {
            commands::keys::restore(context, repository.as_ref(), kit).await
        }
        Repo::Keys(Keys::Retire { writer, repository }) => {
            commands::keys::retire(context, *writer, repository.as_ref()).await
        }
        Repo::Keys(Keys::Enroll { writer, repository }) => {
            commands::keys::enroll(context, *writer, repository.as_ref()).await
        }
        Repo::Keys(Keys::Reseal { repository, old }) => commands::keys::reseal(context, repository.as_ref(), old).await,
    }
}
