//! What is wrong with a file that is not TOML. Only the first mistake is told: what follows an unclosed
//! quote or bracket cannot be judged.

use std::path::Path;

use toml::de::DeTable;

use super::locate::Lines;
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
    let (_, errors) = DeTable::parse_recoverable(text);
    let start = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
    let first = errors.iter().min_by_key(|error| start(error));
    let at = lines.position(first.map_or(0, start));
    let message = first.map_or("it cannot be parsed", toml::de::Error::message);
    let (why, hint) = if first.is_some_and(|error| is_bare_text(text, start(error))) {
        ("there is text without quotes", "write text between double quotes: \"…\"".to_owned())
    } else if message.starts_with("duplicate key") {
        let earlier = first.and_then(|error| earlier(text, start(error)));
        let before =
            earlier.map_or_else(|| "is there already".to_owned(), |line| format!("stands in line {line} already"));
        (
            message,
            format!("this name {before}: a key or table may be there once; rename one of them, or make one of both"),
        )
    } else {
        let known = REMEDIES.iter().find(|(beginning, _)| message.starts_with(beginning));
        (message, known.map_or("https://toml.io shows how it is written", |(_, hint)| hint).to_owned())
    };
    let why = why.lines().next().unwrap_or_default().to_owned();
    Problem::new(file, at, Fault::Syntax { why, hint })
}

const UNCLOSED: &str =
    "look at this line and those above it for a quote, bracket or brace that is not closed, or a missing comma";
const QUOTE: &str =
    "close the quote on the same line; write `\\\\` for a backslash, or put the text between single quotes";
const KEY: &str = "write `key = value`; text stands between double quotes, and the header of a table between [ and ]";

/// How the parser's messages begin, and what to do.
const REMEDIES: [(&str, &str); 7] = [
    ("unclosed", UNCLOSED),
    ("missing comma", UNCLOSED),
    ("unexpected `=` in array", UNCLOSED),
    ("invalid basic string", QUOTE),
    ("missing escaped", QUOTE),
    ("key with no value", KEY),
    ("unexpected key or value", "write one `key = value` on each line, and text between double quotes"),
];

/// Whether the value that the offset is in, or behind, begins like a word or a path.
fn is_bare_text(text: &str, offset: usize) -> bool {
    let line_start = text.get(..offset).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let line = text.get(line_start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
    let Some((key, value)) = line.split_once('=') else { return false };
    let value = value.trim_start();
    let words = ["true", "false", "inf", "nan"];
    !key.trim_start().starts_with(['[', '"', '\''])
        && line_start + key.len() < offset
        && value.starts_with(|c: char| c.is_alphabetic() || matches!(c, '/' | '~' | '$' | '.'))
        && !words.iter().any(|word| value.split([' ', '#']).next() == Some(word))
}

/// The line in which the header or key at this offset stood first, as far as it is written the common way.
fn earlier(text: &str, offset: usize) -> Option<usize> {
    let line_start = text.get(..offset)?.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text.get(line_start..)?.lines().next()?;
    let before: Vec<&str> = text.get(..line_start)?.lines().collect();
    let header = |line: &str| line.trim().strip_prefix('[')?.split(']').next().map(|name| name.trim().to_owned());
    let key = |line: &str| line.split_once('=').map(|(key, _)| key.trim().to_owned());
    let found = if let Some(name) = header(line) {
        before.iter().position(|line| header(line).as_ref() == Some(&name))
    } else {
        let name = key(line).filter(|name| text.get(offset..).is_some_and(|rest| rest.starts_with(name.as_str())))?;
        let table = before.iter().rposition(|line| header(line).is_some()).map_or(0, |index| index + 1);
        before.iter().skip(table).position(|line| key(line).as_ref() == Some(&name)).map(|index| index + table)
    };
    found.map(|index| index + 1)
}
