//! `[application.NAME.component.NAME]`: one part of an application, of one of three kinds.

use std::collections::BTreeSet;
use std::path::PathBuf;

use jiff::SignedDuration;
use windlass_core::application::{Action, Component, Databases, Disk, Hook, Hooks, Physical, Postgres, Strategy};
use windlass_core::name::Name;
use windlass_core::wal::Compression;

use super::application::read_control;
use super::cursor::{Faults, Item, Table};
use super::keys::{self, Spec};
use super::postgres_url::{self, Refusal};
use super::problem::Fault;
use super::reference_to::{self, Known};
use super::{secret, suggest};

const KINDS: [&str; 3] = ["postgres", "disk", "action"];
const LATER_KINDS: [&str; 3] = ["mariadb", "mongodb", "neo4j"];
const HOOK_TIMEOUT: SignedDuration = SignedDuration::from_mins(10);
const ACTION_TIMEOUT: SignedDuration = SignedDuration::from_hours(6);

/// Reads a component; `siblings` are the names of all components of the application.
pub(super) fn read(
    name: Name,
    item: &Item<'_>,
    siblings: &[&str],
    known: &Known<'_>,
    faults: &mut Faults<'_>,
) -> Option<Component> {
    let table = item.open(faults)?;
    let kind = read_kind(&table, faults)?;
    table.check_keys(&[&keys::COMPONENT, kind.keys()], faults);
    let after = read_after(&name, &table, siblings, faults);
    let policy = table.get("policy").and_then(|item| reference_to::policy(&item, known, faults));
    let hooks = read_hooks(&table, faults);
    let strategy = match kind {
        Kind::Postgres => read_postgres(&table, faults),
        Kind::Disk => read_disk(&table, faults).map(Strategy::Disk),
        Kind::Action => read_action(&table, faults).map(Strategy::Action),
    };
    Some(Component { name, after, policy, hooks, strategy: strategy? })
}

#[derive(Clone, Copy)]
enum Kind {
    Postgres,
    Disk,
    Action,
}

impl Kind {
    fn keys(self) -> &'static Spec {
        match self {
            Self::Postgres => &keys::POSTGRES,
            Self::Disk => &keys::DISK,
            Self::Action => &keys::ACTION,
        }
    }
}

fn read_kind(table: &Table<'_>, faults: &mut Faults<'_>) -> Option<Kind> {
    let item = table.require(&keys::COMPONENT, "kind", faults)?;
    match item.text(faults)? {
        "postgres" => Some(Kind::Postgres),
        "disk" => Some(Kind::Disk),
        "action" => Some(Kind::Action),
        later if LATER_KINDS.contains(&later) => {
            let what = format!("kind = \"{later}\" {}", item.place());
            let hint = "until then, kind = \"action\" takes what a dump command of yours prints".to_owned();
            faults.add(item.at(), Fault::NotSupportedYet { what, hint });
            None
        }
        other => {
            let guess =
                suggest::nearest(other, KINDS).map_or(String::new(), |near| format!("did you mean \"{near}\"? "));
            let hint = format!("{guess}known kinds: {}", KINDS.join(", "));
            let kind = other.escape_debug().to_string();
            faults.add(item.at(), Fault::UnknownKind { kind, place: item.place(), hint });
            None
        }
    }
}

fn read_after(name: &Name, table: &Table<'_>, siblings: &[&str], faults: &mut Faults<'_>) -> Vec<Name> {
    let Some(elements) =
        table.get("after").and_then(|item| item.elements(faults, "an array of names", "write [\"NAME\"]"))
    else {
        return Vec::new();
    };
    let mut after = Vec::new();
    for element in elements {
        let Some(other) = element.name(faults) else { continue };
        if other == *name {
            element.refuse(faults, "names the component itself", "take it out");
        } else if after.contains(&other) {
            element.refuse(faults, format!("names `{other}` a second time"), "take it out");
        } else if siblings.contains(&other.as_str()) {
            after.push(other);
        } else {
            reference_to::unknown(&element, "component", &other, siblings, faults);
        }
    }
    after
}

/// Reads the hooks of an application or a component.
pub(super) fn read_hooks(owner: &Table<'_>, faults: &mut Faults<'_>) -> Hooks {
    let Some(table) = owner.get("hooks").and_then(|item| item.table(&[&keys::HOOKS], faults)) else {
        return Hooks::default();
    };
    let mut read = |key: &str| -> Vec<Hook> {
        let shape = "write [{ run = [\"PROGRAM\"], timeout = \"30s\" }]";
        let elements = table.get(key).and_then(|item| item.elements(faults, "an array of tables", shape));
        elements.unwrap_or_default().iter().filter_map(|element| read_hook(element, faults)).collect()
    };
    Hooks { before: read("before"), after: read("after") }
}

fn read_hook(item: &Item<'_>, faults: &mut Faults<'_>) -> Option<Hook> {
    let table = item.table(&[&keys::HOOK], faults)?;
    let run = table.require(&keys::HOOK, "run", faults).and_then(|item| item.command(faults));
    let timeout = table.get("timeout").map_or(Some(HOOK_TIMEOUT), |item| item.positive_duration(faults));
    Some(Hook { run: run?, timeout: timeout? })
}

fn read_postgres(table: &Table<'_>, faults: &mut Faults<'_>) -> Option<Strategy> {
    let is_physical = match table.get("mode") {
        None => Some(false),
        Some(mode) => match mode.text(faults)? {
            "logical" => Some(false),
            "physical" => Some(true),
            _ => {
                mode.refuse(
                    faults,
                    "is an unknown mode",
                    "write \"logical\" for dumps, or \"physical\" for base backups",
                );
                None
            }
        },
    };
    let (others, mode): (&[_], _) = if is_physical? {
        (&["databases", "via"], "logical")
    } else {
        (&["data_directory", "wal", "spool", "compression", "control"], "physical")
    };
    for item in others.iter().filter_map(|key| table.get(key)) {
        item.refuse(faults, format!("goes with mode = \"{mode}\""), "take it out, or write that mode");
    }
    let databases = match table.get("databases") {
        _ if is_physical? => Some(Databases::All),
        None => Some(Databases::Named),
        Some(item) => match item.text(faults) {
            Some("named") => Some(Databases::Named),
            Some("all") => Some(Databases::All),
            Some(_) => {
                let hint = "write \"named\" for the database that the url names, or \"all\"; several single ones are several components";
                item.refuse(faults, "is neither \"named\" nor \"all\"", hint);
                None
            }
            None => None,
        },
    };
    let url = table
        .require(&keys::POSTGRES, "url", faults)
        .and_then(|item| read_url(&item, databases == Some(Databases::Named), faults));
    let password = table.get("password").map(|item| secret::read(&item, faults));
    let via = table.get("via").map(|item| item.command(faults));
    let data_directory = table.get("data_directory").map(|item| item.path(faults));
    let archives = table.get("wal").map_or(Some(false), |item| {
        let is_known = item.text(faults)? == "archive";
        if !is_known {
            item.refuse(faults, "is no way for WAL to reach the repository", "write \"archive\": by `archive_command`");
        }
        is_known.then_some(true)
    });
    let spool = table.get("spool").map_or(Some(0), |item| {
        if table.get("wal").is_none() {
            item.refuse(faults, "is for WAL that is archived", "take it out, or add `wal = \"archive\"`");
        }
        item.size(faults)
    });
    let compression = table.get("compression").map_or(Some(Compression::default()), |item| {
        let read = item.text(faults)?.parse();
        if read.is_err() {
            let hint = "write \"zstd\", \"zstd:3\" with a level from 1 to 19, or \"lz4\"";
            item.refuse(faults, "is no way to compress", hint);
        }
        read.ok()
    });
    let control = table.get("control").map(|item| read_control(&item, faults));
    let server = Postgres {
        url: url?,
        password: password.map_or(Some(None), |secret| secret.map(Some))?,
        databases: databases?,
        owners: true,
        via: via.map_or(Some(Vec::new()), |via| via)?,
    };
    let data_directory = data_directory.map_or(Some(None), |path| path.map(Some))?;
    let control = control.map_or(Some(None), |control| control.map(Some))?;
    Some(if is_physical? {
        let (archives, spool, compression) = (archives?, spool?, compression?);
        Strategy::Physical(Physical { server, data_directory, archives, spool, compression, control })
    } else {
        Strategy::Postgres(server)
    })
}

fn read_url(item: &Item<'_>, named: bool, faults: &mut Faults<'_>) -> Option<String> {
    let text = item.text(faults)?;
    match postgres_url::check(text, named) {
        Ok(()) => return Some(text.to_owned()),
        Err(Refusal::Password) => {
            let hint = "take it out of the url and write `password = { file = \"/etc/windlass/…\" }`; \
                        and change it, since others may have read this file";
            let fault = Fault::SecretInUrl { key: item.key.clone(), place: item.place(), hint: hint.to_owned() };
            faults.add(item.at(), fault);
        }
        Err(Refusal::Invalid(why, hint)) => item.refuse(faults, why, hint),
    }
    None
}

fn read_disk(table: &Table<'_>, faults: &mut Faults<'_>) -> Option<Disk> {
    let Some(item) = table.get("paths") else {
        let what = format!("the disk component [{}] has no `paths`", table.name);
        let hint = "add for example `paths = [\"/srv/shop/uploads\"]`".to_owned();
        faults.add(table.at, Fault::NothingToProtect { what, hint });
        return None;
    };
    let elements = item.elements(faults, "an array of paths", "write [\"/PATH\"]")?;
    if elements.is_empty() {
        let what = format!("`paths` {} is empty", item.place());
        let hint = "name at least one folder or file, such as [\"/srv/shop/uploads\"]".to_owned();
        faults.add(item.at(), Fault::NothingToProtect { what, hint });
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut seen = BTreeSet::new();
    for element in &elements {
        let Some(path) = element.path(faults) else { continue };
        if path.components().any(|part| matches!(part, std::path::Component::ParentDir)) {
            element.refuse(faults, "goes up by `..`", "write the path without `..`");
        } else if seen.insert(path.clone()) {
            paths.push(path);
        } else {
            element.refuse(faults, "is named a second time", "take it out");
        }
    }
    let exclude = table.get("exclude").map(|item| read_patterns(&item, faults));
    let exclude = exclude.map_or(Some(Vec::new()), |patterns| patterns);
    (!elements.is_empty() && paths.len() == elements.len()).then_some(Disk { paths, exclude: exclude? })
}

fn read_patterns(item: &Item<'_>, faults: &mut Faults<'_>) -> Option<Vec<String>> {
    let elements = item.elements(faults, "an array of patterns", "write [\"*.tmp\"]")?;
    let mut patterns = Vec::new();
    for element in &elements {
        let Some(text) = element.text(faults) else { continue };
        if text.starts_with('!') {
            let hint = "name what is left out; what no pattern matches is kept";
            element.refuse(faults, "begins with `!`, which would take back another pattern", hint);
            continue;
        }
        match globset::GlobBuilder::new(text).literal_separator(true).build() {
            Ok(_) => patterns.push(text.to_owned()),
            Err(error) => {
                let hint = "`*` is any part of a name, `**` any folders, `?` one character, `[a-z]` one of these; put `\\` before one that is meant as it is";
                element.refuse(faults, format!("is not a pattern: {}", error.kind()), hint);
            }
        }
    }
    (patterns.len() == elements.len()).then_some(patterns)
}

fn read_action(table: &Table<'_>, faults: &mut Faults<'_>) -> Option<Action> {
    let backup = table.require(&keys::ACTION, "backup", faults).and_then(|item| item.command(faults));
    let restore = table.get("restore").map(|item| item.command(faults));
    let rehearse = table.get("rehearse").map(|item| item.command(faults));
    let timeout = table.get("timeout").map_or(Some(ACTION_TIMEOUT), |item| item.positive_duration(faults));
    Some(Action {
        backup: backup?,
        restore: restore.map_or(Some(None), |command| command.map(Some))?,
        rehearse: rehearse.map_or(Some(None), |command| command.map(Some))?,
        timeout: timeout?,
    })
}
