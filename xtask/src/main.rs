//! Tasks of the workspace: `cargo run -p xtask -- TASK`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool that talks to its user")]

mod dependencies;
mod docs;
mod image;
mod rights;
mod test;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["test"] => test::run(),
        ["docs"] => docs::write(),
        ["docs", "--check"] => docs::check(),
        ["dependencies"] => dependencies::check(),
        ["rights"] => rights::check(),
        ["image", options @ ..] => match image::Options::read(options) {
            Some(options) => image::write(&options),
            None => return usage(),
        },
        _ => return usage(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn usage() -> ExitCode {
    eprintln!(
        "usage: xtask test | docs [--check] | dependencies | rights | image [--binary FILE] [--helm FILE] [--output FILE] [--folder FOLDER] [--tag NAME]"
    );
    ExitCode::from(2)
}

/// The root of the workspace.
fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("find the workspace")
}
