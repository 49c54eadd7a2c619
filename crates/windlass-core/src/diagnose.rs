//! What every error of Windlass can say about itself.
//!
//! An error's `Display` says what was being done and to what; its source says why it did not work; and
//! [`Diagnose`] adds what a machine or a person needs next: a stable code, a reason in one word, whether
//! trying again can help, and hints. The command line, exit codes, JSON and later conditions, events and
//! metrics are all fed from this one trait.

use std::error::Error;

/// Whether, and when, the same attempt may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Not without a change by a person: settings, credentials, data.
    Never,
    /// The cause is expected to pass: an outage, a throttle, a race.
    Soon,
}

/// How the attempt ended, in the terms of the command line's contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ran and failed: exit code 1.
    Failed,
    /// It could not run - usage, settings, an unreachable server - and nothing was touched: exit code 2.
    CouldNotRun,
}

/// The machine-readable half of an error.
pub trait Diagnose: Error {
    /// A stable identifier such as `WDL-1203`, the key of `docs/reference/errors.md`. Never reused.
    fn code(&self) -> &'static str;

    /// The error in one CamelCase word, such as `RepositoryVanished`.
    fn reason(&self) -> &'static str;

    /// Whether the same attempt may succeed later.
    fn retry(&self) -> Retry {
        Retry::Never
    }

    /// Which exit code the command line gives.
    fn outcome(&self) -> Outcome {
        Outcome::Failed
    }

    /// What to do about it, most useful first; each a sentence without a full stop.
    fn hints(&self) -> Vec<String> {
        Vec::new()
    }

    /// Where the error is several at once: each as people read it, with its place and its remedy.
    fn details(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What comes before the words of a command in an error's text.
pub const SAYING: &str = ", saying:\n";

/// An error's text without what a command said: that may hold anything, secrets too, and is for the screen only.
pub fn without_output(text: &str) -> &str {
    text.split(SAYING).next().unwrap_or(text)
}

/// An error and all its sources, joined as `what: why: why`.
///
/// A source whose text its parent already ends with is not repeated.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
