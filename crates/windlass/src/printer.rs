//! All that people and programs see: text and progress on standard error, results on standard output.

use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use comfy_table::{ContentArrangement, Table, presets};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use windlass_core::diagnose::{Diagnose, chain};
use windlass_core::size;

use crate::cli::Output;
use crate::failure::Failure;

/// Where words go.
#[derive(Clone, Debug)]
pub(crate) struct Printer {
    output: Output,
    quiet: bool,
    color: bool,
    /// Looked for when it is wanted: what PostgreSQL runs for every segment has no time for that.
    zone: Arc<LazyLock<TimeZone>>,
}

impl Printer {
    /// A printer; colour where standard error is a terminal and `NO_COLOR` is not set.
    pub(crate) fn new(output: Output, quiet: bool) -> Self {
        let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self { output, quiet, color, zone: Arc::new(LazyLock::new(TimeZone::system)) }
    }

    /// Whether JSON is wanted.
    pub(crate) fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    /// Whether a person looks at progress.
    pub(crate) fn shows_bars(&self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }

    /// Whether progress is wanted at all.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// A result: text for people, or the value as JSON.
    pub(crate) fn result<T: Serialize>(&self, value: &T, text: impl FnOnce(&Self) -> String) {
        if self.is_json() {
            match serde_json::to_string_pretty(value) {
                Ok(json) => say(&format!("{json}\n")),
                Err(error) => tell(&format!("error: write JSON: {error}")),
            }
        } else {
            let text = text(self);
            say(&format!("{}\n", tame(&text).trim_end_matches('\n')));
        }
    }

    /// The result of something that was to be done. Where it was done and nobody wants to hear of it, nothing is said.
    pub(crate) fn done<T: Serialize>(&self, good: bool, value: &T, text: impl FnOnce(&Self) -> String) {
        if !(self.quiet && good) || self.is_json() {
            self.result(value, text);
        }
    }

    /// A text that is the result itself, whatever the format: completions.
    pub(crate) fn raw(text: &str) {
        say(text);
    }

    /// A page: as it stands, or as the one value of a document.
    pub(crate) fn page(&self, name: &str, text: &str) {
        if self.is_json() {
            self.result(&serde_json::json!({ name: text }), |_| String::new());
        } else {
            say(text);
        }
    }

    /// Something on the way, for people.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            tell(&tame(text));
        }
    }

    /// Something a person should know.
    pub(crate) fn warning(&self, text: &str) {
        tell(&format!("{}: {}", self.paint("warning", "33;1"), tame(text)));
    }

    /// An error: what happened, why, what to do. With JSON also as a document on standard output.
    pub(crate) fn failure(&self, failure: &Failure) {
        let error = &*failure.0;
        let details = error.details();
        for detail in &details {
            tell(detail);
        }
        if details.is_empty() {
            self.cause(error);
        }
        if self.is_json() {
            self.result(&json_of(error), |_| String::new());
        }
    }

    fn cause(&self, error: &(dyn Diagnose + Send + Sync)) {
        tell(&format!("{}[{}]: {}", self.paint("error", "31;1"), error.code(), tame(&error.to_string())));
        let mut source = std::error::Error::source(error);
        let mut said = error.to_string();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !said.contains(&text) {
                tell(&format!("  caused by: {}", tame(&text).replace('\n', "\n             ")));
            }
            said = text;
            source = cause.source();
        }
        for hint in error.hints() {
            tell(&format!("  {}: {hint}", self.paint("hint", "36")));
        }
    }

    /// A table without lines.
    pub(crate) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(head);
        for row in rows {
            table.add_row(row);
        }
        let text = table.to_string();
        text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }

    /// A moment in the reader's zone, with the zone.
    pub(crate) fn time(&self, at: Timestamp) -> String {
        at.to_zoned(TimeZone::clone(&self.zone)).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
    }

    /// A moment in the reader's zone and in UTC, where both matter.
    pub(crate) fn both_times(&self, at: Timestamp) -> String {
        let here = self.time(at);
        let utc = at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        if here == utc { here } else { format!("{here} ({utc})") }
    }

    /// The reader's zone.
    pub(crate) fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// A size in binary units.
    pub(crate) fn size(bytes: u64) -> String {
        size::display(bytes).to_string()
    }

    fn paint(&self, text: &str, code: &str) -> String {
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Whether a result could not be written to standard output: the disk behind it is full, for one.
static UNWRITTEN: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Why results could not be written, if so. Whoever reads them may have seen enough and be gone: that is no failure.
pub(crate) fn unwritten() -> Option<std::io::Error> {
    UNWRITTEN.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Writes to standard output.
fn say(text: &str) {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            *UNWRITTEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
        _ => {}
    }
}

/// Writes a line to standard error. What cannot be told ends nothing that is under way.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A text without what would steer the terminal: it may hold what a command said.
fn tame(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

fn json_of(error: &dyn Diagnose) -> serde_json::Value {
    let message = match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    };
    serde_json::json!({ "error": {
        "code": error.code(),
        "reason": error.reason(),
        "message": message,
        "hints": error.hints(),
        "details": error.details(),
    }})
}
