//! What is wrong with a file that is not TOML. Only the first mistake is told: what follows an unclosed
//! quote or bracket cannot be judged.

use std::path::Path;

use toml::de::DeTable;

use super::locate::{Lines, Locations, Position};
use super::problem::{Fault, Problem};

/// The content as text, without a byte order mark.
pub(super) fn text<'c>(file: &Path, content: &'c [u8]) -> Result<&'c str, Box<Problem>> {
    match std::str::from_utf8(content) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(error) => {
            let before = String::from_utf8_lossy(content.get(..error.valid_up_to()).unwrap_or_default()).into_owned();
            let at = Lines::new(&before).position(before.len());
            let why = "there is a byte that is not UTF-8".to_owned();
            Err(Box::new(Problem::new(file, at, Fault::Syntax { why, hint: "save the file as UTF-8".to_owned() })))
        }
    }
}

/// The first mistake of a text that the parser refuses.
pub(super) fn first_mistake(file: &Path, text: &str, lines: &Lines<'_>) -> Problem {
    let (recovered, errors) = DeTable::parse_recoverable(text);
    let start = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
    let first = errors.iter().min_by_key(|error| start(error));
    let at = lines.position(first.map_or(0, start));
    let message = first.map_or("it cannot be parsed", toml::de::Error::message);
    let why = first_line(message);
    let hint = match message {
        _ if why.starts_with("duplicate key") => {
            let locations = Locations::of(recovered.get_ref(), lines);
            let earlier = first.and_then(|error| earlier(text, start(error), at, &locations));
            let before = earlier
                .map_or_else(|| "is there already".to_owned(), |at| format!("stands in line {} already", at.line));
            format!("this name {before}: a key or table may be there once; rename one of them, or make one of both")
        }
        _ if why.starts_with("string values must be quoted") => "write text between double quotes: \"…\"".to_owned(),
        _ if why.starts_with("key with no value") => {
            "write `key = value`; text stands between double quotes, and the header of a table between [ and ]"
                .to_owned()
        }
        _ if ["unclosed", "missing comma", "unexpected `=` in array"].iter().any(|w| why.starts_with(w)) => {
            "look at this line and those above it for a quote, bracket or brace that is not closed, or a missing comma"
                .to_owned()
        }
        _ if why.starts_with("invalid basic string") || why.starts_with("missing escaped") => {
            "close the quote on the same line; write `\\\\` for a backslash, or put the text between single quotes"
                .to_owned()
        }
        _ => "https://toml.io shows how it is written".to_owned(),
    };
    Problem::new(file, at, Fault::Syntax { why, hint })
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}

/// Where the key at this offset stood first. It is found by the headers as they are commonly written; for
/// others there is no answer.
fn earlier(text: &str, offset: usize, at: Position, locations: &Locations) -> Option<Position> {
    let line_start = text.get(..offset)?.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text.get(line_start..)?.lines().next()?.trim();
    let header = |line: &str| line.trim().strip_prefix('[')?.split(']').next().map(|name| name.trim().to_owned());
    let key = if let Some(name) = header(line) {
        name
    } else {
        let table = text.get(..line_start)?.lines().rev().find_map(header);
        let key = line.split('=').next()?.trim();
        table.map_or_else(|| key.to_owned(), |table| format!("{table}.{key}"))
    };
    locations.get(&key).filter(|earlier| *earlier < at)
}
