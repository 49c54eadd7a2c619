//! What there is to be read of a data folder, and what is left out.
//!
//! Left out is what a server makes anew when it starts, or what would harm one that is restored: what the documentation of
//! `BASE_BACKUP` lists, logs, statistics, and the contents of unlogged relations, which recovery empties (their `_init` fork says
//! which they are). The WAL has an archive of its own, `pg_control` is read last.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use windlass_repo::format::restic::is_stage;

use super::pages::PAGES_OF_FILE;

/// Folders whose contents are left out, at the top of the data folder.
const EMPTIED: [&str; 11] = [
    "pg_wal",
    "pg_replslot",
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_subtrans",
    "pg_stat_tmp",
    "pg_stat",
    "log",
    "pg_log",
];

/// Files that are left out, at the top of the data folder.
const LEFT_OUT: [&str; 12] = [
    "postmaster.pid",
    "postmaster.opts",
    "postgresql.auto.conf.tmp",
    "current_logfiles",
    "current_logfiles.tmp",
    "backup_label",
    "backup_label.old",
    "tablespace_map",
    "tablespace_map.old",
    "backup_manifest",
    "standby.signal",
    "recovery.signal",
];

/// A folder or a file to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Its name in the archives: `/base/5/1259`.
    pub(super) name: String,
    /// Where it is.
    pub(super) path: PathBuf,
    /// Its permissions.
    pub(super) mode: u32,
    /// When it was changed last, in seconds since 1970.
    pub(super) modified: u64,
    /// What it is.
    pub(super) what: What,
    /// Of a relation: the fork that is there where it is unlogged.
    pub(super) init: Option<PathBuf>,
}

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A folder.
    Folder,
    /// A file of this size, for now.
    File {
        /// In bytes.
        size: u64,
        /// Of a relation: the number of its first page.
        first_page: Option<u32>,
    },
}

/// A data folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// What there is to be read: every folder before what is in it.
    pub(super) found: Vec<Found>,
    /// Where tablespaces are that are not in the data folder, by their oid.
    pub(super) tablespaces: BTreeMap<u32, PathBuf>,
    /// What a person should know.
    pub(super) warnings: Vec<String>,
}

/// Looks through a data folder.
pub(super) fn survey(data: &Path) -> io::Result<Survey> {
    let mut all = Survey::default();
    let version = fs::read_to_string(data.join("PG_VERSION"))?.trim().to_owned();
    enter(&mut all, data, "/", &fs::metadata(data)?);
    for entry in listed(data)? {
        let Some(name) = utf8(&entry) else {
            all.warnings.push(format!("`{}` was left out: its name is no text", entry.path().display()));
            continue;
        };
        // What a restore in place keeps beside what is there.
        if is_stage(&entry.file_name()) {
            continue;
        }
        let place = format!("/{name}");
        let Some(is) = still_there(fs::symlink_metadata(entry.path()))? else { continue };
        if EMPTIED.contains(&name.as_str()) {
            // It may be a link, as `pg_wal` often is: what is restored has a folder of its own.
            if let Some(folder) = still_there(fs::metadata(entry.path()))?.filter(fs::Metadata::is_dir) {
                enter(&mut all, &entry.path(), &place, &folder);
            }
        } else if name == "pg_tblspc" {
            enter(&mut all, &entry.path(), &place, &is);
            tablespaces(&mut all, &entry.path(), &version)?;
        } else if !LEFT_OUT.contains(&name.as_str()) {
            take(&mut all, &entry.path(), &place, &is)?;
        }
    }
    Ok(all)
}

/// Takes up a folder and what is below it, or a file.
fn take(all: &mut Survey, path: &Path, name: &str, is: &fs::Metadata) -> io::Result<()> {
    if is.is_file() {
        enter(all, path, name, is);
        return Ok(());
    }
    if !is.is_dir() {
        all.warnings.push(format!("`{}` was left out: it is neither a file nor a folder", path.display()));
        return Ok(());
    }
    enter(all, path, name, is);
    let entries = listed(path)?;
    let unlogged: BTreeSet<u32> = entries.iter().filter_map(utf8).filter_map(|name| unlogged(&name)).collect();
    for entry in entries {
        let Some(own) = utf8(&entry) else {
            all.warnings.push(format!("`{}` was left out: its name is no text", entry.path().display()));
            continue;
        };
        let relation = Relation::of(&own);
        let is_emptied = relation.is_some_and(|it| !it.is_init && unlogged.contains(&it.number));
        if is_emptied || is_made_anew(name, &own) {
            continue;
        }
        let Some(is) = still_there(fs::symlink_metadata(entry.path()))? else { continue };
        take(all, &entry.path(), &format!("{name}/{own}"), &is)?;
    }
    Ok(())
}

/// Follows the links to tablespaces. Those that are folders, as `allow_in_place_tablespaces` makes them, are parts of the data
/// folder.
fn tablespaces(all: &mut Survey, links: &Path, version: &str) -> io::Result<()> {
    for entry in listed(links)? {
        let Some(oid) = utf8(&entry).and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Some(is) = still_there(fs::symlink_metadata(entry.path()))? else { continue };
        let name = format!("/pg_tblspc/{oid}");
        if is.is_symlink() {
            let place = fs::read_link(entry.path())?;
            let folder = fs::metadata(entry.path())?;
            all.tablespaces.insert(oid, place);
            // It is a link, and no folder of the data folder: whoever unpacks by hand keeps the one that was made first.
            if folder.is_dir() {
                own_folders(all, &entry.path(), &name, version)?;
            }
        } else {
            take(all, &entry.path(), &name, &is)?;
        }
    }
    Ok(())
}

/// Of a tablespace, what belongs to this version: clusters of others, and whatever else lies on its disk, are not ours.
fn own_folders(all: &mut Survey, folder: &Path, name: &str, version: &str) -> io::Result<()> {
    let begins = format!("PG_{version}_");
    for entry in listed(folder)? {
        let Some(own) = utf8(&entry).filter(|own| own.starts_with(&begins)) else { continue };
        let Some(is) = still_there(fs::symlink_metadata(entry.path()))? else { continue };
        take(all, &entry.path(), &format!("{name}/{own}"), &is)?;
    }
    Ok(())
}

/// Whether something is left out that another has read, by its name in the archives; folders at the top stay.
pub(super) fn is_left_out(name: &str) -> bool {
    let (folder, own) = name.rsplit_once('/').unwrap_or_default();
    let top = name.trim_start_matches('/').split('/').next().unwrap_or_default();
    (EMPTIED.contains(&top) && !folder.is_empty())
        || (folder.is_empty() && LEFT_OUT.contains(&own))
        || is_made_anew(folder, own)
}

/// The number of the first page of a file, where it is one of a relation.
pub(super) fn first_page(name: &str) -> Option<u32> {
    let own = name.rsplit('/').next().unwrap_or_default();
    let relation = Relation::of(own).filter(|_| is_of_relations(name));
    relation.map(|it| it.file.saturating_mul(PAGES_OF_FILE))
}

fn enter(all: &mut Survey, path: &Path, name: &str, is: &fs::Metadata) {
    let own = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let relation = Relation::of(&own).filter(|_| is_of_relations(name));
    let what = if is.is_dir() { What::Folder } else { What::File { size: is.size(), first_page: first_page(name) } };
    let modified = u64::try_from(is.mtime()).unwrap_or_default();
    let init = relation.filter(|relation| !relation.is_init && is.is_file());
    let init = init.map(|relation| path.with_file_name(format!("{}_init", relation.number)));
    all.found.push(Found {
        name: name.to_owned(),
        path: path.to_owned(),
        mode: is.mode() & 0o7777,
        modified,
        what,
        init,
    });
}

/// Whether a file lies where relations do.
fn is_of_relations(name: &str) -> bool {
    ["/base/", "/global/", "/pg_tblspc/"].iter().any(|place| name.starts_with(place))
}

/// Whether a file or folder is made anew by a server that starts: temporary, or a cache.
fn is_made_anew(folder: &str, name: &str) -> bool {
    name.starts_with("pgsql_tmp")
        || name.starts_with("pg_internal.init")
        || (folder == "/global" && name == "pg_control")
        || is_temporary(name)
}

/// `t3_16384`, of a session: its number, and that of the relation.
fn is_temporary(name: &str) -> bool {
    let numbers = name.strip_prefix('t').and_then(|rest| rest.split_once('_'));
    numbers.is_some_and(|(session, relation)| is_number(session) && Relation::of(relation).is_some())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The number of a relation whose `_init` fork this is.
fn unlogged(name: &str) -> Option<u32> {
    Relation::of(name).filter(|relation| relation.is_init).map(|relation| relation.number)
}

/// What the name of a file says: `16384`, `16384.1`, `16384_fsm`, `16384_init`.
#[derive(Clone, Copy)]
struct Relation {
    number: u32,
    is_init: bool,
    /// Which of its files.
    file: u32,
}

impl Relation {
    fn of(name: &str) -> Option<Self> {
        let (name, file) = match name.split_once('.') {
            Some((name, file)) => (name, file.parse().ok().filter(|_| is_number(file))?),
            None => (name, 0),
        };
        let (number, fork) = name.split_once('_').map_or((name, None), |(number, fork)| (number, Some(fork)));
        if !is_number(number) || !matches!(fork, None | Some("fsm" | "vm" | "init")) {
            return None;
        }
        Some(Self { number: number.parse().ok()?, is_init: fork == Some("init"), file })
    }
}

fn listed(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    let Some(entries) = still_there(fs::read_dir(folder))? else { return Ok(Vec::new()) };
    let mut entries: Vec<_> = entries.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    Ok(entries)
}

fn utf8(entry: &fs::DirEntry) -> Option<String> {
    entry.file_name().into_string().ok()
}

/// What a running server removes meanwhile was dropped, and need not be there.
pub(super) fn still_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(it) => Ok(Some(it)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: &Survey) -> Vec<&str> {
        of.found.iter().map(|found| found.name.as_str()).collect()
    }

    #[test]
    fn what_a_server_makes_anew_is_left_out_and_its_folders_stay() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join("PG_VERSION"), "15\n").unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let path = data.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        };
        for path in [
            "postmaster.pid",
            "standby.signal",
            "pg_wal/000000010000000000000001",
            "pg_stat/pgstat.stat",
            "global/pg_control",
            "global/1262",
            "global/pg_internal.init.12",
            "base/5/1259",
            "base/5/t3_1259",
            "base/5/t3_1259_fsm",
            "base/5/20000",
            "base/5/20000_fsm",
            "base/5/20000_init",
            "base/5/20000.1",
            "base/5/20001.2",
            "base/pgsql_tmp/pgsql_tmp1.0",
        ] {
            write(path);
        }
        fs::create_dir_all(elsewhere.path().join("PG_15_202209061/5")).unwrap();
        fs::write(elsewhere.path().join("PG_15_202209061/5/16400"), "x").unwrap();
        fs::create_dir_all(elsewhere.path().join("PG_14_202107181/5")).unwrap();
        fs::create_dir(elsewhere.path().join("lost+found")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", data.path().join("log")).unwrap();
        fs::create_dir(data.path().join("pg_tblspc")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), data.path().join("pg_tblspc/16384")).unwrap();
        let all = survey(data.path()).unwrap();
        let expected = [
            "/",
            "/PG_VERSION",
            "/base",
            "/base/5",
            "/base/5/1259",
            "/base/5/20000_init",
            "/base/5/20001.2",
            "/global",
            "/global/1262",
            "/pg_stat",
            "/pg_tblspc",
            "/pg_tblspc/16384/PG_15_202209061",
            "/pg_tblspc/16384/PG_15_202209061/5",
            "/pg_tblspc/16384/PG_15_202209061/5/16400",
            "/pg_wal",
        ];
        assert_eq!(names(&all), expected);
        assert_eq!(all.tablespaces, BTreeMap::from([(16384, elsewhere.path().to_owned())]));
        let of = |name: &str| all.found.iter().find(|found| found.name == name).unwrap().what;
        assert_eq!(of("/base/5/20001.2"), What::File { size: 1, first_page: Some(2 * PAGES_OF_FILE) });
        assert_eq!(of("/PG_VERSION"), What::File { size: 3, first_page: None });
        assert_eq!(all.warnings, Vec::<String>::new());
    }
}
