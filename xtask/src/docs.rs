//! References that are written from the code, so that they cannot drift from it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::root;

fn documents() -> Result<Vec<(PathBuf, String)>> {
    let folder = root()?.join("docs/reference");
    let mut all =
        vec![(folder.join("settings.md"), windlass::settings::reference()), (folder.join("errors.md"), errors()?)];
    let (bases, chart) = (root()?.join("config/crd/bases"), root()?.join("charts/windlass"));
    let definitions = windlass_operator::api::files()?;
    all.push((
        root()?.join("config/crd/kryton-crds.yaml"),
        definitions.iter().map(|(_, text)| text.as_str()).collect(),
    ));
    let listed: String = definitions.iter().map(|(name, _)| format!("  - bases/{name}\n")).collect();
    let kustomization =
        format!("# Written by `cargo xtask docs`: the definitions of the custom resources.\nresources:\n{listed}");
    all.push((root()?.join("config/crd/kustomization.yaml"), kustomization));
    for (name, text) in definitions {
        all.extend([bases.join(&name), chart.join("crds").join(&name)].map(|path| (path, text.clone())));
    }
    for (granted, copy) in [("role.yaml", "cluster-role.yaml"), ("leader_election.yaml", "leader-role.yaml")] {
        all.push((chart.join("files").join(copy), rules(granted)?));
    }
    Ok(all)
}

/// The rules of the role that a file of `config/rbac` begins with, for the chart.
fn rules(granted: &str) -> Result<String> {
    let path = Path::new("config/rbac").join(granted);
    let text = std::fs::read_to_string(root()?.join(&path)).with_context(|| format!("read {}", path.display()))?;
    let (_, rules) = text.split_once("\nrules:\n").with_context(|| format!("{} has no rules", path.display()))?;
    let rules = rules.split("\n---").next().unwrap_or_default().trim_end();
    let rules: Vec<&str> = rules.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
    Ok(format!("# Written by `cargo xtask docs` from {}.\n{}\n", path.display(), rules.join("\n")))
}

/// Writes the references.
pub(crate) fn write() -> Result<bool> {
    for (path, text) in documents()? {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(true)
}

/// Compares the references with the code; `false` where one has drifted.
pub(crate) fn check() -> Result<bool> {
    let mut good = true;
    for (path, text) in documents()? {
        if std::fs::read_to_string(&path).unwrap_or_default() != text {
            eprintln!("{} is not what the code says: run `make docs`", path.display());
            good = false;
        }
    }
    Ok(good)
}

/// Every error code, with its reason and what the code says of it, gathered from the sources.
///
/// A code belongs to one variant: `Self::Variant { .. } => "WDL-…"`, whose reason stands in the same file and whose
/// meaning is its doc comment.
fn errors() -> Result<String> {
    let mut files = Vec::new();
    rust_files(&root()?.join("crates"), &mut files)?;
    files.sort();
    let mut entries: BTreeMap<String, (String, String)> = BTreeMap::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        for (code, variant) in codes(&text) {
            let reason = reason_of(&text, &variant).unwrap_or_else(|| variant.clone());
            let meaning = meaning_of(&text, &variant).unwrap_or_default();
            entries.entry(code).or_insert((reason, meaning));
        }
        for (code, name, reason) in errors_of_one_kind(&text) {
            let declared = ["struct", "pub struct", "enum", "pub enum"].map(|word| format!("{word} {name}"));
            let meaning = declared.iter().find_map(|declared| meaning_of(&text, declared));
            entries.entry(code).or_insert((reason, meaning.unwrap_or_default()));
        }
        for line in text.lines().filter(|line| line.trim().starts_with("(\"WDL-") && line.trim().ends_with("\"),")) {
            let words: Vec<&str> = line.split('"').collect();
            if let [_, code, _, reason, ..] = words.as_slice() {
                entries.entry((*code).to_owned()).or_insert(((*reason).to_owned(), String::new()));
            }
        }
    }
    ensure!(entries.len() > 40, "only {} error codes were found", entries.len());
    let mut page = String::from(
        "# Errors\n\nEvery error has a code that is never reused, a reason in one word for machines, and - on the screen - what to do.\n\
         Exit codes: 1 it ran and failed, 2 it could not run and nothing was touched. This page is written from the code.\n\n\
         | code | reason | what it means |\n|---|---|---|\n",
    );
    for (code, (reason, meaning)) in entries {
        writeln!(page, "| {code} | {reason} | {meaning} |")?;
    }
    Ok(page)
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("tests") {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// `Self::Variant… => "WDL-1234"`, or `=> ("WDL-1234", …)`, on one line.
fn codes(text: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        let (variant, value) = line.trim().strip_prefix("Self::")?.split_once(" => ")?;
        let code = value.trim_start_matches(['(', '"']).get(..8).filter(|code| code.starts_with("WDL-"))?;
        let name: String = variant.chars().take_while(|c| c.is_alphanumeric()).collect();
        Some((code.to_owned(), name))
    };
    text.lines().filter_map(pair).collect()
}

/// The code, the name and the reason of an error that is a structure: `impl Diagnose for Name`, whose `code` is one text.
fn errors_of_one_kind(text: &str) -> Vec<(String, String, String)> {
    let is_text = |line: &&str| line.len() > 2 && line.starts_with('"') && line.ends_with('"');
    let one = |(at, _): (usize, &str)| {
        let name = text.get(at..)?.lines().next()?.split(" for ").nth(1)?.split([' ', '<']).next()?.to_owned();
        let mut texts =
            text.get(at..)?.lines().map(str::trim).filter(is_text).map(|line| line.trim_matches('"').to_owned());
        let (code, reason) = (texts.next()?, texts.next()?);
        code.starts_with("WDL-").then_some((code, name, reason))
    };
    text.match_indices("Diagnose for ").filter_map(one).collect()
}

fn reason_of(text: &str, variant: &str) -> Option<String> {
    let wanted = format!("Self::{variant}");
    text.lines().find_map(|line| {
        let (left, value) = line.trim().split_once(" => ")?;
        let name = left.strip_prefix(&wanted)?;
        let exact = !name.starts_with(|c: char| c.is_alphanumeric());
        let reason = match value.strip_prefix('"') {
            Some(text) => text.split('"').next()?,
            None => value.strip_prefix('(')?.split('"').nth(3)?,
        };
        (exact && !reason.starts_with("WDL-") && !reason.contains(' ')).then(|| reason.to_owned())
    })
}

/// The doc comment above a variant.
fn meaning_of(text: &str, variant: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_it = |line: &str| {
        let rest = line.strip_prefix(variant);
        rest.is_some_and(|rest| rest.starts_with(" {") || rest.starts_with('(') || rest == ",")
    };
    let at = lines.iter().position(|line| is_it(line))?;
    let above: Vec<&str> = lines
        .get(..at)?
        .iter()
        .rev()
        .skip_while(|line| !line.starts_with("///"))
        .take_while(|line| line.starts_with("///"))
        .copied()
        .collect();
    let words: Vec<&str> = above.iter().rev().map(|line| line.trim_start_matches('/').trim()).collect();
    Some(words.join(" ").replace('|', "\\|"))
}
