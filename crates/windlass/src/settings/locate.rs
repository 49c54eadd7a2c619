//! Where in the file something stands: offsets into lines and columns, dotted keys into both.

use std::collections::BTreeMap;
use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A place in a text file, both numbers counted from 1; the column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character in the line.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A text and where its lines begin.
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    /// The position of a byte offset; one beyond the end is taken as the end.
    pub(super) fn position(&self, offset: usize) -> Position {
        let offset = self.text.floor_char_boundary(offset);
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = line.checked_sub(1).and_then(|i| self.starts.get(i)).copied().unwrap_or(0);
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        Position { line, column }
    }
}

/// The position of every value of a settings file by its dotted key, such as
/// `application.shop.component.uploads.paths[0]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Locations(BTreeMap<String, Position>);

impl Locations {
    pub(super) fn of(document: &DeTable<'_>, lines: &Lines<'_>) -> Self {
        let mut locations = Self::default();
        locations.add_table("", document, lines);
        locations
    }

    pub(super) fn get(&self, key: &str) -> Option<Position> {
        self.0.get(key).copied()
    }

    fn add_table(&mut self, prefix: &str, table: &DeTable<'_>, lines: &Lines<'_>) {
        for (key, value) in table {
            self.add(join(prefix, key.get_ref()), value, lines);
        }
    }

    fn add(&mut self, key: String, value: &Spanned<DeValue<'_>>, lines: &Lines<'_>) {
        match value.get_ref() {
            DeValue::Table(table) => self.add_table(&key, table, lines),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.add(format!("{key}[{index}]"), item, lines);
                }
            }
            _ => {}
        }
        self.0.insert(key, lines.position(value.span().start));
    }
}

/// `a` and `b` as `a.b`.
pub(super) fn join(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}
