//! Cursors over the parsed TOML: a value, or a table, together with where it stands, so that whatever is
//! read from it and found wrong can be told with its place. They read types and shapes; what a value means
//! is the business of their callers.
//!
//! A reader returns `None` after it has told what is wrong, so callers never tell it twice.

use std::path::{Path, PathBuf};

use jiff::SignedDuration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use windlass_core::name::Name;

use super::keys::{self, Absent, Key, Spec};
use super::locate::{Lines, join};
use super::problem::{Fault, Problem};
use super::suggest;

/// Collects what is wrong with one file.
pub(super) struct Faults<'a> {
    file: &'a Path,
    lines: &'a Lines<'a>,
    found: Vec<Problem>,
}

impl<'a> Faults<'a> {
    pub(super) fn new(file: &'a Path, lines: &'a Lines<'a>) -> Self {
        Self { file, lines, found: Vec::new() }
    }

    /// Notes a fault at a byte offset.
    pub(super) fn add(&mut self, offset: usize, fault: Fault) {
        self.found.push(Problem::new(self.file, self.lines.position(offset), fault));
    }

    /// How many there are so far.
    pub(super) fn count(&self) -> usize {
        self.found.len()
    }

    /// What was found, in the order of the file.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        self.found.sort_by_key(|problem| problem.at);
        self.found
    }
}

/// `in [table]`, as messages say where a key stands.
pub(super) fn place(table: &str) -> String {
    match table {
        "" => "at the top of the file".to_owned(),
        // An element of an array has no header of its own.
        inline if inline.contains('[') => format!("in `{inline}`"),
        table => format!("in [{table}]"),
    }
}

/// A value and where it stands.
#[derive(Clone)]
pub(super) struct Item<'t> {
    /// The dotted name of the table it is in.
    pub(super) table: String,
    /// Its key, with an index where it is an element of an array: `paths[0]`.
    pub(super) key: String,
    value: &'t Spanned<DeValue<'t>>,
}

impl<'t> Item<'t> {
    /// The byte offset of the value.
    pub(super) fn at(&self) -> usize {
        self.value.span().start
    }

    pub(super) fn place(&self) -> String {
        place(&self.table)
    }

    /// The value, if it is a string.
    pub(super) fn as_text(&self) -> Option<&'t str> {
        self.value.get_ref().as_str()
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.get_ref().is_table()
    }

    /// Tells that the value cannot be used; `why` continues "`key` in [table] …".
    pub(super) fn refuse(&self, faults: &mut Faults<'_>, why: impl Into<String>, hint: impl Into<String>) {
        let fault =
            Fault::InvalidValue { key: self.key.clone(), place: self.place(), why: why.into(), hint: hint.into() };
        faults.add(self.at(), fault);
    }

    pub(super) fn wrong_type(&self, faults: &mut Faults<'_>, expected: &'static str, hint: &str) {
        let found = match self.value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        let fault =
            Fault::WrongType { key: self.key.clone(), place: self.place(), found, expected, hint: hint.to_owned() };
        faults.add(self.at(), fault);
    }

    /// A string.
    pub(super) fn text(&self, faults: &mut Faults<'_>) -> Option<&'t str> {
        let text = self.as_text();
        match text {
            None => self.wrong_type(faults, "a string", "write it between double quotes"),
            Some("") => {
                self.refuse(faults, "is empty", "give it a value, or take the key out");
                return None;
            }
            Some(_) => {}
        }
        text
    }

    pub(super) fn boolean(&self, faults: &mut Faults<'_>) -> Option<bool> {
        let value = self.value.get_ref().as_bool();
        if value.is_none() {
            self.wrong_type(faults, "`true` or `false`", "write it without quotes");
        }
        value
    }

    /// A number of things, written as an integer.
    pub(super) fn whole_number(&self, faults: &mut Faults<'_>) -> Option<u32> {
        let Some(integer) = self.value.get_ref().as_integer() else {
            self.wrong_type(faults, "a whole number", "write it without quotes");
            return None;
        };
        let number = u32::from_str_radix(integer.as_str(), integer.radix()).ok();
        if number.is_none() {
            self.refuse(faults, "is no number of things", "write a whole number from 0 upwards");
        }
        number
    }

    /// A name of something else in the file.
    pub(super) fn name(&self, faults: &mut Faults<'_>) -> Option<Name> {
        let text = self.text(faults)?;
        if text.contains("://") {
            // Not shown: it may hold a password.
            self.refuse(
                faults,
                "is a URL, not a name",
                "write the URL into a table of its own, and that table's NAME here",
            );
            return None;
        }
        let name = text.parse::<Name>();
        name.map_err(|error| {
            faults.add(self.at(), Fault::InvalidName { why: error.to_string(), hint: name_hint(text) });
        })
        .ok()
    }

    /// A length of time such as `30d`; never none.
    pub(super) fn positive_duration(&self, faults: &mut Faults<'_>) -> Option<SignedDuration> {
        let expected = "a string with a length of time";
        let Some(text) = self.as_text() else {
            self.wrong_type(faults, expected, "write for example \"12h\": a number and s, m, h, d or w");
            return None;
        };
        match windlass_core::duration::parse(text) {
            Ok(duration) => Some(duration),
            Err(error) => {
                self.refuse(
                    faults,
                    format!("is not a length of time: `{}`: {}", text.escape_debug(), error.why()),
                    "write for example \"30d\", \"12h\" or \"10m\"",
                );
                None
            }
        }
    }

    /// A number of bytes such as `2GiB`; never none.
    pub(super) fn size(&self, faults: &mut Faults<'_>) -> Option<u64> {
        let hint = "write for example \"2GiB\" or \"512MiB\"";
        let Some(text) = self.as_text() else {
            self.wrong_type(faults, "a string with a number of bytes", hint);
            return None;
        };
        let bytes = windlass_core::size::parse(text);
        if bytes.is_none() {
            self.refuse(faults, format!("is not a number of bytes: `{}`", text.escape_debug()), hint);
        }
        bytes
    }

    /// An absolute path. The value is not shown when it is wrong: it may be a secret in the wrong place.
    pub(super) fn path(&self, faults: &mut Faults<'_>) -> Option<PathBuf> {
        let text = self.text(faults)?;
        let path = Path::new(text);
        if path.is_absolute() && !text.contains('\0') {
            return Some(path.to_owned());
        }
        let hint = if text.starts_with(['~', '$']) {
            "write the path in full, from `/`: neither `~` nor variables are expanded"
        } else {
            "write the path in full, from `/`: a relative one would mean another place wherever Windlass is started"
        };
        let fault = Fault::RelativePath { key: self.key.clone(), place: self.place(), hint: hint.to_owned() };
        faults.add(self.at(), fault);
        None
    }

    /// The elements of an array.
    pub(super) fn elements(&self, faults: &mut Faults<'_>, expected: &'static str, hint: &str) -> Option<Vec<Self>> {
        let DeValue::Array(elements) = self.value.get_ref() else {
            self.wrong_type(faults, expected, hint);
            return None;
        };
        let item = |(index, value)| Self { table: self.table.clone(), key: format!("{}[{index}]", self.key), value };
        Some(elements.iter().enumerate().map(item).collect())
    }

    /// An argument vector: at least the program.
    pub(super) fn command(&self, faults: &mut Faults<'_>) -> Option<Vec<String>> {
        const SHAPE: &str = "write one string for each word, such as [\"docker\", \"compose\", \"stop\", \"shop\"]: commands run without a shell";
        let words = self.elements(faults, "an array of strings", SHAPE)?;
        if words.is_empty() {
            self.refuse(faults, "is an empty command", SHAPE);
            return None;
        }
        let mut arguments = Vec::with_capacity(words.len());
        for (index, word) in words.iter().enumerate() {
            match word.as_text() {
                None => word.wrong_type(faults, "a string", SHAPE),
                Some("") if index == 0 => word.refuse(faults, "is empty, but is the program", SHAPE),
                Some(text) if text.contains('\0') => word.refuse(faults, "holds a NUL character", "take it out"),
                Some(text) => arguments.push(text.to_owned()),
            }
        }
        (arguments.len() == words.len()).then_some(arguments)
    }

    /// A table whose keys are those of `specs`; every other key is told.
    pub(super) fn table(&self, specs: &[&'static Spec], faults: &mut Faults<'_>) -> Option<Table<'t>> {
        let table = self.open(faults)?;
        table.check_keys(specs, faults);
        Some(table)
    }

    /// A table whose keys are not checked yet.
    pub(super) fn open(&self, faults: &mut Faults<'_>) -> Option<Table<'t>> {
        let DeValue::Table(entries) = self.value.get_ref() else {
            self.wrong_type(
                faults,
                "a table",
                &format!("write the header [{0}] above its keys, or {{ KEY = VALUE }}", join(&self.table, &self.key)),
            );
            return None;
        };
        Some(Table { name: join(&self.table, &self.key), at: self.at(), entries })
    }
}

/// A table and where it stands.
pub(super) struct Table<'t> {
    /// Its dotted name; empty for the file itself.
    pub(super) name: String,
    /// The byte offset of its header or opening brace.
    pub(super) at: usize,
    entries: &'t DeTable<'t>,
}

impl<'t> Table<'t> {
    pub(super) fn root(entries: &'t DeTable<'t>) -> Self {
        Self { name: String::new(), at: 0, entries }
    }

    pub(super) fn place(&self) -> String {
        place(&self.name)
    }

    /// The value of a key, if the key is there.
    pub(super) fn get(&self, key: &str) -> Option<Item<'t>> {
        let value = self.entries.get(key)?;
        Some(Item { table: self.name.clone(), key: key.to_owned(), value })
    }

    /// The value of a key that must be there.
    pub(super) fn require(&self, spec: &Spec, key: &str, faults: &mut Faults<'_>) -> Option<Item<'t>> {
        let item = self.get(key);
        if item.is_none() {
            let example = spec.key(key).map_or("…", |key| key.example);
            let hint = format!("add for example `{key} = {example}`");
            faults.add(self.at, Fault::MissingKey { key: key.to_owned(), place: self.place(), hint });
        }
        item
    }

    /// Tells every key that none of the specs has, and every one that is not supported yet.
    pub(super) fn check_keys(&self, specs: &[&'static Spec], faults: &mut Faults<'_>) {
        for key in self.entries.keys() {
            let (name, at) = (key.get_ref().as_ref(), key.span().start);
            match specs.iter().find_map(|spec| spec.key(name)) {
                Some(Key { absent: Absent::NotYet(remedy), .. }) => {
                    let what = format!("`{name}` {}", self.place());
                    faults.add(at, Fault::NotSupportedYet { what, hint: (*remedy).to_owned() });
                }
                Some(_) => {}
                None => {
                    let key = name.escape_debug().to_string();
                    faults.add(at, Fault::UnknownKey { key, place: self.place(), hint: meant(name, specs) });
                }
            }
        }
    }

    /// The entries of a table of tables, such as `[repository.NAME]`, in the order of the file.
    pub(super) fn named(&self, key: &str, faults: &mut Faults<'_>) -> Vec<(Name, Item<'t>)> {
        let Some(table) = self.get(key).and_then(|item| item.open(faults)) else { return Vec::new() };
        let mut entries: Vec<_> = table.entries.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut named = Vec::new();
        for (text, value) in entries {
            let item = Item { table: table.name.clone(), key: text.get_ref().to_string(), value };
            match text.get_ref().parse::<Name>() {
                Ok(name) => named.push((name, item)),
                Err(error) => {
                    let hint = name_hint(text.get_ref());
                    faults.add(text.span().start, Fault::InvalidName { why: error.to_string(), hint });
                }
            }
        }
        named
    }

    /// The names of a table of tables, also of those whose content is wrong.
    pub(super) fn names(&self, key: &str) -> Vec<&'t str> {
        match self.entries.get(key).map(Spanned::get_ref) {
            Some(DeValue::Table(entries)) => entries.keys().map(|key| key.get_ref().as_ref()).collect(),
            _ => Vec::new(),
        }
    }
}

/// What an unknown key may have meant, and the keys there are.
fn meant(word: &str, specs: &[&'static Spec]) -> String {
    let known: Vec<&str> = specs
        .iter()
        .flat_map(|spec| spec.keys)
        .filter(|key| !matches!(key.absent, Absent::NotYet(_)))
        .map(|key| key.name)
        .collect();
    let elsewhere = keys::ALL.iter().find(|spec| spec.table.contains('.') && spec.key(word).is_some());
    let guess = match (elsewhere, suggest::nearest(word, known.iter().copied())) {
        (_, Some(near)) => format!("did you mean `{near}`? "),
        (Some(spec), None) => match spec.table.split_once(", ") {
            Some((_, kind)) => format!("`{word}` is a key of components with {kind}; "),
            None => format!("`{word}` is a key of [{}]; ", spec.table),
        },
        (None, None) => String::new(),
    };
    format!("{guess}known keys: {}", known.join(", "))
}

/// The name that little changes make of a text, or any.
fn name_hint(text: &str) -> String {
    let near = text.to_lowercase().replace(['_', '.', ' '], "-");
    near.parse::<Name>().map_or_else(|_| "write for example `shop-db`".to_owned(), |name| format!("`{name}` would do"))
}
