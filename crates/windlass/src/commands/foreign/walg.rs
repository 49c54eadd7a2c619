//! A WAL-G repository of a PostgreSQL cluster.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;
use windlass_core::name::Name;
use windlass_core::repository::{KeyTransform, LibsodiumKey, Place, Repository};
use windlass_core::restore::Moment;
use windlass_core::secret::SecretRef;
use windlass_core::wal::Lsn;
use windlass_engine::postgres::physical::place::{self, FolderError};
use windlass_engine::postgres::physical::recovery::{Recovery, Until, word};
use windlass_engine::progress::{Event, Progress};
use windlass_repo::format::walg::{Backup, Backups, BaseBackup, Held, KeyForm, ReadBack, Replay, SealKey, Target};
use windlass_repo::hex::sha256;
use windlass_repo::secret::resolve;
use windlass_repo::store::open::open;

use crate::cli;
use crate::commands::confirm::confirmed;
use crate::commands::restore::moment;
use crate::context::Context;
use crate::failure::{Failure, Result, Status};
use crate::printer::Printer;
use crate::watch::Watch;

const POINTS: &str = "run `windlass points REPOSITORY` to see the base backups there are";

/// The part of a restore that is the data folder.
const DATA: &str = "data";

fn backups(repository: &Repository, key: Option<&LibsodiumKey>) -> Result<Backups> {
    let store = open(&repository.place)?;
    let key = match key {
        Some(LibsodiumKey { secret, transform }) => {
            use secrecy::ExposeSecret;
            let form = match transform {
                KeyTransform::None => KeyForm::Raw,
                KeyTransform::Base64 => KeyForm::Base64,
                KeyTransform::Hex => KeyForm::Hex,
            };
            Some(SealKey::parse(resolve(secret)?.expose_secret(), form)?)
        }
        None => None,
    };
    Ok(Backups::foreign(&store, key))
}

/// A base backup, as a list shows it.
#[derive(Serialize)]
struct Row {
    backup: String,
    at: Timestamp,
    timeline: u32,
    start: Option<String>,
    postgres: u32,
    stands_on: Option<String>,
    data_bytes: i64,
    stored_bytes: u64,
    /// The end of the WAL behind it; absent where it cannot even be made consistent.
    restorable_to: Option<String>,
    /// What is wrong, in words.
    trouble: Option<String>,
}

impl Row {
    fn of(held: &Held, backup: &BaseBackup) -> Self {
        let sentinel = &backup.sentinel;
        let lacks = held.lacks(&backup.name);
        let consistent = held.until_consistent(&backup.name);
        let replay = held.replay(&backup.name);
        let gap = replay.as_ref().and_then(|replay| gap(held, replay));
        let end = replay.and_then(|replay| replay.end(held.size));
        Self {
            backup: backup.name.to_string(),
            at: backup.at,
            timeline: backup.segment.timeline.0,
            start: sentinel.start.map(|lsn| lsn.to_string()),
            postgres: sentinel.major(),
            stands_on: sentinel.delta.as_ref().map(|delta| delta.from.to_string()),
            data_bytes: sentinel.data_size,
            stored_bytes: backup.stored_bytes,
            restorable_to: (lacks.is_none() && consistent.is_ok()).then_some(end).flatten().map(|lsn| lsn.to_string()),
            trouble: lacks.or(consistent.err()).or(gap),
        }
    }
}

/// Where the WAL has a gap, in words.
fn gap(held: &Held, replay: &Replay) -> Option<String> {
    let (missing, there) = replay.gap?;
    let (missing, there) = (missing.name(held.size), there.name(held.size));
    Some(format!("the WAL has a gap: {missing} is missing, and {there} is there"))
}

/// `points REPOSITORY`.
pub(super) async fn points(context: &Context, repository: &Repository, key: Option<&LibsodiumKey>) -> Result {
    let held = backups(repository, key)?.look().await?;
    let rows: Vec<Row> = held.backups.iter().map(|backup| Row::of(&held, backup)).collect();
    for said in &held.unreadable {
        context.printer.warning(&format!("left out: {said}"));
    }
    for name in &held.unfinished {
        context.printer.warning(&format!("{name} has no sentinel: it is under way, or was left by one that died"));
    }
    for row in &rows {
        if let Some(trouble) = &row.trouble {
            context.printer.warning(&format!("{}: {trouble}", row.backup));
        }
    }
    context.printer.result(&rows, |printer| {
        let cells = |row: &Row| {
            vec![
                row.backup.clone(),
                printer.time(row.at),
                if row.stands_on.is_some() { "changes" } else { "full" }.to_owned(),
                row.postgres.to_string(),
                row.restorable_to.clone().unwrap_or_else(|| "NOT RESTORABLE".to_owned()),
                u64::try_from(row.data_bytes).map_or("-".to_owned(), Printer::size),
                Printer::size(row.stored_bytes),
            ]
        };
        let head = ["BASE BACKUP", "AT", "KIND", "POSTGRESQL", "RESTORABLE TO", "DATA", "STORED"];
        Printer::table(&head, rows.iter().rev().map(cells).collect())
    });
    Ok(Status::Done)
}

#[derive(Serialize)]
struct Checked {
    backup: String,
    objects: u64,
    bytes: u64,
    damage: Vec<String>,
}

/// `verify REPOSITORY`.
pub(super) async fn verify(
    context: &Context,
    repository: &Repository,
    key: Option<&LibsodiumKey>,
    arguments: &cli::Verify,
) -> Result {
    let backups = backups(repository, key)?;
    let held = backups.look().await?;
    let wanted: Vec<&BaseBackup> = match &arguments.point {
        None if arguments.all => held.backups.iter().collect(),
        wanted => vec![choose(&held, wanted.as_deref(), None)?],
    };
    let mut checked = Vec::new();
    for backup in wanted {
        let ReadBack { objects, bytes, damage } = match backups.chain(&held, &backup.name).await {
            Ok(chain) => read_back(&context.printer, repository, &backups, &held, &chain).await?,
            Err(error) => ReadBack { damage: vec![error.to_string()], ..ReadBack::default() },
        };
        checked.push(Checked { backup: backup.name.to_string(), objects, bytes, damage });
    }
    let line = |c: &Checked| {
        let verdict = super::verdict(&c.damage);
        format!("{}: {} objects, {}: {verdict}", c.backup, c.objects, Printer::size(c.bytes))
    };
    context.printer.result(&checked, |_| checked.iter().map(line).collect::<Vec<_>>().join("\n"));
    Ok(if checked.iter().all(|c| c.damage.is_empty()) { Status::Done } else { Status::Failed })
}

async fn read_back(
    printer: &Printer,
    repository: &Repository,
    backups: &Backups,
    held: &Held,
    chain: &[Backup],
) -> Result<ReadBack> {
    let watch = Watch::new(printer);
    let component = &repository.name;
    watch.event(Event::Step { component, text: "read back", total: None });
    Ok(backups.read_back(held, chain, &|more| watch.event(Event::Bytes { component, more })).await?)
}

/// What a restore would do; its digest is what is confirmed.
#[derive(Serialize)]
struct Plan {
    backup: String,
    at: Timestamp,
    /// The full base backup first.
    chain: Vec<String>,
    postgres: u32,
    timeline: u32,
    until: Option<Timestamp>,
    /// Whether the server stays there, to be read, until somebody has it go on.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    paused: bool,
    /// Where the WAL ends to which it is brought, where that is its end.
    end_of_wal: Option<String>,
    data: PathBuf,
    tablespaces: BTreeMap<u32, PathBuf>,
    warnings: Vec<String>,
    restore_command: String,
}

#[derive(Serialize)]
struct Report<'a> {
    digest: &'a str,
    plan: &'a Plan,
    done: bool,
    files: Option<u64>,
    bytes: Option<u64>,
}

/// `restore REPOSITORY --into data=FOLDER`.
pub(super) async fn restore(
    context: &Context,
    repository: &Repository,
    key: Option<&LibsodiumKey>,
    arguments: &cli::Restore,
) -> Result {
    let printer = &context.printer;
    let (data, tablespaces) = targets(arguments)?;
    let backups = backups(repository, key)?;
    let until = match moment(printer, arguments)? {
        None | Some(Moment::Newest) => None,
        Some(Moment::Time(time)) => Some(time),
        Some(other) => {
            let why = format!("a repository of `wal-g` is not brought to {other}");
            return Err(Failure::usage(why, "name a time by `--at`"));
        }
    };
    if arguments.pause && until.is_none() {
        return Err(Failure::usage("at the end of its WAL a server does not pause", "name a time by `--at`"));
    }
    let held = backups.look().await?;
    let chosen = choose(&held, arguments.point.as_deref(), until)?;
    let chain = backups.chain(&held, &chosen.name).await?;
    let replay = held.replay(&chosen.name);
    let replay = replay.ok_or_else(|| Failure::usage(format!("there is no base backup `{}`", chosen.name), POINTS))?;
    let end = is_possible(&backups, &held, chosen, &replay, until).await?;
    let spec = chosen.sentinel.spec.as_ref();
    if let Some(oid) = tablespaces.keys().find(|oid| spec.is_none_or(|spec| !spec.tablespaces.contains_key(oid))) {
        return Err(Failure::usage(format!("the cluster has no tablespace {oid}"), "leave its `--into` out"));
    }
    for (oid, place) in spec.iter().flat_map(|spec| spec.locations()) {
        if !tablespaces.contains_key(&oid) {
            let why = format!("the cluster has the tablespace {oid}, which was in `{}`", place.display());
            return Err(Failure::usage(why, format!("say where it goes: `--into {oid}=/FOLDER`")));
        }
    }
    let timeline = replay.timeline;
    let plan = Plan {
        backup: chosen.name.to_string(),
        at: chosen.at,
        chain: chain.iter().rev().map(|backup| backup.name.to_string()).collect(),
        postgres: chosen.sentinel.major(),
        timeline: timeline.0,
        until,
        paused: arguments.pause,
        end_of_wal: until.is_none().then(|| end.to_string()),
        warnings: warnings(&held, &replay, repository, key),
        restore_command: restore_command(context, &repository.name, chosen.sentinel.system_identifier)?,
        data,
        tablespaces,
    };
    let digest = sha256(&serde_json::to_vec(&plan).unwrap_or_default());
    let mut report = Report { digest: &digest, plan: &plan, done: false, files: None, bytes: None };
    let words = words(printer, &plan, &digest);
    if arguments.plan {
        printer.result(&report, |_| words);
        return Ok(Status::Done);
    }
    if arguments.confirm.is_none() {
        printer.note(&words);
    }
    confirmed(&digest, arguments.confirm.as_deref(), arguments.yes, "Run this plan?")?;
    let damage = read_back(printer, repository, &backups, &held, &chain).await?.damage;
    if !damage.is_empty() {
        for damage in &damage {
            printer.warning(damage);
        }
        printer.warning("the base backup is damaged, and nothing was written: restore an older one by `--point`");
        return Ok(Status::Failed);
    }
    let watch = Watch::new(printer);
    let component = &repository.name;
    watch.event(Event::Step { component, text: "restore", total: None });
    let target = Target::create(&plan.data, spec, &plan.tablespaces)?;
    let progress = |more| watch.event(Event::Bytes { component, more });
    let unpacked = backups.lay_down(&held, &chain, target, None, &progress).await?;
    let until = plan.until.map_or(Until::EndOfWal, Until::Time);
    let recovery = Recovery { restore_command: plan.restore_command.clone(), timeline, until, paused: plan.paused };
    recovery.write(&plan.data).map_err(|source| FolderError { folder: plan.data.clone(), source })?;
    (report.done, report.files, report.bytes) = (true, Some(unpacked.files), Some(unpacked.bytes));
    printer.done(true, &report, |_| {
        let (files, bytes, data) = (unpacked.files, Printer::size(unpacked.bytes), plan.data.display());
        format!(
            "{files} files, {bytes}, restored to {data}\nStart PostgreSQL {} on it: it fetches the WAL it needs, and {}.",
            plan.postgres,
            if plan.paused {
                "stays there to be read until `select pg_wal_replay_resume()`"
            } else {
                "ends recovery by itself"
            }
        )
    });
    Ok(Status::Done)
}

fn words(printer: &Printer, plan: &Plan, digest: &str) -> String {
    let until = match plan.until {
        Some(until) => {
            let stays = if plan.paused { ", where it stays paused" } else { "" };
            format!("to what was committed up to {}{stays}", printer.both_times(until))
        }
        None => format!("to the end of the WAL, {}", plan.end_of_wal.as_deref().unwrap_or_default()),
    };
    let stands_on = if plan.chain.len() > 1 {
        format!(", on {}", plan.chain[..plan.chain.len() - 1].join(", "))
    } else {
        String::new()
    };
    let tablespaces: String =
        plan.tablespaces.iter().map(|(oid, path)| format!("  the tablespace {oid} in {}\n", path.display())).collect();
    let warnings: String = plan.warnings.iter().map(|said| format!("  warning: {said}\n")).collect();
    format!(
        "Restore of the base backup {}, taken {}{stands_on}\n  a data folder of PostgreSQL {} in {}\n{tablespaces}  \
         then recovered by its server on timeline {}, {until}\n  WAL is fetched by: {}\n{warnings}\
         Every byte is read back before the first is written. Nothing that exists is overwritten or deleted. The server archives \
         nothing: `archive_mode` is off.\nDigest: {digest}\n",
        plan.backup,
        printer.both_times(plan.at),
        plan.postgres,
        plan.data.display(),
        plan.timeline,
        plan.restore_command,
    )
}

/// What whoever confirms should know.
fn warnings(held: &Held, replay: &Replay, repository: &Repository, key: Option<&LibsodiumKey>) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some((missing, there)) = replay.gap {
        let (missing, there) = (missing.name(held.size), there.name(held.size));
        warnings.push(format!("the WAL goes on behind its end: {missing} is missing, and {there} is there"));
    }
    warnings.extend(held.unreadable.iter().map(|said| format!("left out: {said}")));
    let of_place = match &repository.place {
        Place::S3(place) => vec![&place.access_key, &place.secret_key],
        Place::Directory(_) => Vec::new(),
    };
    let secrets = of_place.into_iter().chain(key.map(|key| &key.secret));
    let of_env =
        secrets.filter_map(|secret| if let SecretRef::Env(name) = secret { Some(name.as_str()) } else { None });
    let of_env: Vec<&str> = of_env.collect();
    if !of_env.is_empty() {
        warnings.push(format!("the server that fetches WAL needs {} in its environment", of_env.join(", ")));
    }
    if rustix::process::geteuid().is_root() {
        warnings.push("it will belong to root: give it to the server's user before you start it".to_owned());
    }
    warnings
}

/// Whether the WAL leads where it is to lead; where it ends.
async fn is_possible(
    backups: &Backups,
    held: &Held,
    chosen: &BaseBackup,
    replay: &Replay,
    until: Option<Timestamp>,
) -> Result<Lsn> {
    let missing = |why: String| Failure::usage(why, POINTS);
    if let Some(at) = until.filter(|at| *at < chosen.at) {
        let why = format!("{} is consistent at {} only, and {at} is before that", chosen.name, chosen.at);
        return Err(Failure::usage(why, "name an older base backup, or leave `--point` out"));
    }
    held.until_consistent(&chosen.name).map_err(missing)?;
    let end = replay.end(held.size).ok_or_else(|| missing("there is no WAL behind the base backup".to_owned()))?;
    let Some(until) = until else {
        // Recovery would stop at the gap, and PostgreSQL with it.
        let hint = "name a moment before it by `--at`, or a base backup behind it by `--point`";
        return gap(held, replay).map_or(Ok(end), |why| Err(Failure::usage(why, hint)));
    };
    let last = backups.last_end(held, (replay.timeline, &replay.segments), chosen.sentinel.system_identifier).await?;
    if last.is_some_and(|last| until < last) {
        return Ok(end);
    }
    let reached = last
        .map_or("no transaction ended in it".to_owned(), |last| format!("the last transaction in it ended at {last}"));
    let gap =
        replay.gap.map_or(String::new(), |(missing, _)| format!("; behind it {} is missing", missing.name(held.size)));
    let why = format!("the WAL does not reach {until}: {reached}{gap}");
    Err(Failure::usage(why, "leave `--at` out to have all there is, or name a moment before that"))
}

/// Where the parts go: `data`, and tablespaces by their oid.
fn targets(arguments: &cli::Restore) -> Result<(PathBuf, BTreeMap<u32, PathBuf>)> {
    if arguments.only.is_some() {
        return Err(Failure::usage(
            "a base backup is restored whole",
            "leave `--only` out, and take what is wanted by pg_dump",
        ));
    }
    let hint = "write `--into data=/FOLDER`, and `--into OID=/FOLDER` for each tablespace";
    let (mut data, mut tablespaces) = (None, BTreeMap::new());
    for into in &arguments.into {
        let wrong = || Failure::usage(format!("`{into}` does not say what goes where"), hint);
        let (part, place) = into.split_once('=').ok_or_else(wrong)?;
        let place = std::path::absolute(place).map_err(|_| wrong())?;
        super::is_empty(&place)?;
        if place
            .symlink_metadata()
            .is_ok_and(|there| !there.is_dir() || there.uid() != rustix::process::geteuid().as_raw())
        {
            let why = format!("`{}` is a folder of somebody else, or none", place.display());
            return Err(Failure::usage(why, "name one that does not exist yet"));
        }
        let above = place::not_ours_above(&place).map_err(|source| FolderError { folder: place.clone(), source })?;
        if let Some(above) = above {
            let why = format!("`{}` is not root's alone, who could lead what root writes elsewhere", above.display());
            let hint = "run it as the server's user, such as `runuser -u postgres -- windlass restore …`";
            return Err(Failure::usage(why, hint));
        }
        let before = if part == DATA {
            data.replace(place)
        } else {
            tablespaces.insert(part.parse().map_err(|_| wrong())?, place)
        };
        if before.is_some() {
            return Err(Failure::usage(format!("`{part}` is named twice"), hint));
        }
    }
    let data: PathBuf = data.ok_or_else(|| Failure::usage("it was not said where the data folder goes", hint))?;
    let places: Vec<&PathBuf> = std::iter::once(&data).chain(tablespaces.values()).collect();
    for (index, one) in places.iter().enumerate() {
        if places.iter().enumerate().any(|(other, place)| other != index && place.starts_with(one)) {
            let why = format!("`{}` is to hold another of the folders", one.display());
            return Err(Failure::usage(why, "give each a folder of its own, beside the others"));
        }
    }
    Ok((data, tablespaces))
}

/// The base backup of that name, or the newest (that had ended at a time).
fn choose<'a>(held: &'a Held, wanted: Option<&str>, at: Option<Timestamp>) -> Result<&'a BaseBackup> {
    let none = || Failure::usage("there is no such base backup", POINTS);
    match wanted {
        Some(name) => held.backups.iter().find(|backup| backup.name.as_str() == name).ok_or_else(none),
        None => held.backups.iter().rev().find(|backup| at.is_none_or(|at| backup.at <= at)).ok_or_else(none),
    }
}

/// The command by which the restored server fetches WAL: this one, with these settings.
fn restore_command(context: &Context, repository: &Name, cluster: Option<u64>) -> Result<String> {
    let absolute = |path: &Path| {
        std::path::absolute(path)
            .map_err(|error| Failure::usage(format!("find `{}`: {error}", path.display()), "name it by its full path"))
    };
    let settings = absolute(&context.settings.file)?;
    let cluster = cluster.map_or(String::new(), |cluster| format!(" --cluster {cluster}"));
    Ok(format!(
        "{} --quiet --config {} wal-fetch --component {repository}{cluster} %f %p",
        word(&context.host.program),
        word(&settings)
    ))
}

/// `wal-fetch --component REPOSITORY NAME PATH`: whether it was there.
pub(crate) async fn fetch(
    repository: &Repository,
    key: Option<&LibsodiumKey>,
    name: &str,
    cluster: Option<u64>,
    to: &Path,
) -> Result<bool> {
    let backups = backups(repository, key)?;
    if backups.fetch(name, cluster, to).await? {
        return Ok(true);
    }
    if backups.goes_on_behind(name).await? {
        let why = format!("the archive has a gap: {name} is missing, and later segments of its timeline are there");
        return Err(Failure::usage(why, "find the segment, or restore to a moment before it"));
    }
    Ok(false)
}
