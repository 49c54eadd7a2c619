//! `windlass completions`: completions for a shell.

use clap::CommandFactory;

use crate::cli::Cli;
use crate::failure::Status;
use crate::printer::Printer;

pub(crate) fn run(shell: clap_complete::Shell) -> Status {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "windlass", &mut text);
    Printer::raw(&String::from_utf8_lossy(&text));
    Status::Done
}
