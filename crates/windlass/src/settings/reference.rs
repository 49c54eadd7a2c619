//! The reference of the settings file as Markdown, made from the very table of keys the reader uses.

use std::fmt::Write as _;

use super::keys::{self, Absent, Key, Spec};

/// A whole settings file, as the reference shows it.
pub const EXAMPLE: &str = include_str!("example.toml");

const INTRODUCTION: &str = "\
# Settings

One file says what is protected, where its recovery points lie, how often they are taken and how long they
stay. It is TOML. `--config FILE` names it; otherwise it is the first that is there of `./windlass.toml` and
`/etc/windlass/windlass.toml`.

An unknown key, a wrong type, a name that leads nowhere, a missing folder: every mistake is told at once, with
its line and what to do about it, before anything runs, and the exit code is 2.

- A **duration** is a number and a unit: `30s`, `10m`, `12h`, `30d`, `2w`.
- A **name** is 1 to 63 characters of `a-z`, `0-9` and `-`, beginning with a letter and not ending with `-`.
- A **command** is an array, one string for each word. It runs without a shell.
- A **path** begins with `/`. Neither `~` nor variables are expanded.
- A **secret** is never written into the file: it says where the secret is ([below](#secret)).
";

/// The reference, `docs/reference/settings.md`.
pub fn reference() -> String {
    let mut text = String::from(INTRODUCTION);
    text += "\nA whole file:\n\n```toml\n";
    text += EXAMPLE;
    text += "```\n";
    for spec in keys::ALL {
        section(&mut text, spec);
    }
    text
}

fn section(text: &mut String, spec: &Spec) {
    let (heading, code) = match spec.table {
        "" => ("Top of the file", false),
        "SECRET" => ("Secret", false),
        "HOOK" => ("Hook", false),
        "CHECK" => ("Check", false),
        table => (table, true),
    };
    let heading = match heading.split_once(", ") {
        Some((table, kind)) => format!("`[{table}]` with `{kind}`"),
        None if code => format!("`[{heading}]`"),
        None => heading.to_owned(),
    };
    // Writing to a String cannot fail.
    let _ = write!(text, "\n## {heading}\n\n{}\n\n", spec.about);
    *text += "| Key | Value | Without it | Meaning | Example |\n|---|---|---|---|---|\n";
    let (later, now): (Vec<&Key>, Vec<&Key>) = spec.keys.iter().partition(|k| matches!(k.absent, Absent::NotYet(_)));
    for key in now {
        let absent = match key.absent {
            Absent::Means(meaning) => meaning,
            Absent::Refused | Absent::NotYet(_) => "**required**",
        };
        let example = if key.example.is_empty() { String::new() } else { format!("`{}`", key.example) };
        let shape = if key.shape == "secret" { "[secret](#secret)" } else { key.shape };
        let cells = [format!("`{}`", key.name), shape.to_owned(), absent.to_owned(), key.meaning.to_owned(), example];
        let cells = cells.map(|cell| cell.replace('|', "\\|"));
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    if !later.is_empty() {
        *text += "\nNot supported yet, and refused:\n\n";
        for key in later {
            let _ = writeln!(text, "- `{}`: {}", key.name, key.meaning);
        }
    }
}
