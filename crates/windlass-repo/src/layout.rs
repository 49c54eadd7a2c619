//! Where everything lies. The specification is `docs/reference/repository-format.md`; these functions are its keys.

use windlass_core::id::{EntryId, PointId, WriterId};
use windlass_core::name::Name;

use crate::format::walg;
use crate::store::Key;

/// `windlass.json`: the repository's identity.
pub fn identity() -> Key {
    Key::foreign("windlass.json")
}

/// `README.txt`: the manual way.
pub fn readme() -> Key {
    Key::foreign("README.txt")
}

/// `keys/<application>`: its keyrings.
pub fn keys(application: &Name) -> Key {
    Key::foreign(&format!("keys/{application}"))
}

/// `keys/<application>/<id>.<recipient>.<age|txt>`: one keyring; `age` where it is sealed.
pub fn keyring(application: &Name, id: EntryId, recipient: &str, sealed: bool) -> Key {
    let ending = if sealed { "age" } else { "txt" };
    Key::foreign(&format!("keys/{application}/{id}.{recipient}.{ending}"))
}

/// `writers`: all writers.
pub fn writers() -> Key {
    Key::foreign("writers")
}

/// `writers/<writer>.json`: a writer's public key.
pub fn writer(writer: WriterId) -> Key {
    Key::foreign(&format!("writers/{writer}.json"))
}

/// `writers/<writer>.endorsed.json`: the word of a holder of the keyring for it.
pub fn endorsement(writer: WriterId) -> Key {
    Key::foreign(&format!("writers/{writer}.endorsed.json"))
}

/// `writers/<writer>.retired.json`: the word of a holder of the keyring that it writes no more.
pub fn retirement(writer: WriterId) -> Key {
    Key::foreign(&format!("writers/{writer}.retired.json"))
}

/// `points`: all recovery points.
pub fn all_points() -> Key {
    Key::foreign("points")
}

/// `points/<application>`: its recovery points.
pub fn points(application: &Name) -> Key {
    Key::foreign(&format!("points/{application}"))
}

/// `points/<application>/<point>.json`, or `<point>.partial.json`: the commit record.
pub fn point(application: &Name, point: PointId, complete: bool) -> Key {
    let ending = if complete { "json" } else { "partial.json" };
    Key::foreign(&format!("points/{application}/{point}.{ending}"))
}

/// `runs/<application>`: its runs.
pub fn runs(application: &Name) -> Key {
    Key::foreign(&format!("runs/{application}"))
}

/// `runs/<application>/<point>`: one run.
pub fn run(application: &Name, point: PointId) -> Key {
    Key::foreign(&format!("runs/{application}/{point}"))
}

/// `runs/<application>/<point>/intent.json`: what the run sets out to do, written before anything else.
pub fn intent(application: &Name, point: PointId) -> Key {
    Key::foreign(&format!("runs/{application}/{point}/intent.json"))
}

/// `runs/<application>/<point>/component.<component>.json`: one component's manifest.
pub fn component(application: &Name, point: PointId, component: &Name) -> Key {
    Key::foreign(&format!("runs/{application}/{point}/component.{component}.json"))
}

/// `runs/<application>/<point>/attempt.<entry>.json`: what an attempt of the run is about to write beside the repository.
pub fn attempt(application: &Name, point: PointId, entry: EntryId) -> Key {
    Key::foreign(&format!("runs/{application}/{point}/attempt.{entry}.json"))
}

/// `verified/<application>`: its verifications.
pub fn verifications(application: &Name) -> Key {
    Key::foreign(&format!("verified/{application}"))
}

/// `verified/<application>/<point>/<entry>.json`: one verification.
pub fn verification(application: &Name, point: PointId, entry: EntryId) -> Key {
    Key::foreign(&format!("verified/{application}/{point}/{entry}.json"))
}

/// `holds/<application>`: its legal holds.
pub fn holds(application: &Name) -> Key {
    Key::foreign(&format!("holds/{application}"))
}

/// `holds/<application>/<point>.<entry>.json`: one hold.
pub fn hold(application: &Name, point: PointId, entry: EntryId) -> Key {
    Key::foreign(&format!("holds/{application}/{point}.{entry}.json"))
}

/// `dumps/<application>`: its dumps.
pub fn dumps(application: &Name) -> Key {
    Key::foreign(&format!("dumps/{application}"))
}

/// `dumps/<application>/<component>/<point>`: one component's dumps of one point.
pub fn dumps_of(application: &Name, component: &Name, point: PointId) -> Key {
    Key::foreign(&format!("dumps/{application}/{component}/{point}"))
}

/// `dumps/<application>/<component>/<point>/<file>`: one dump.
pub fn dump(application: &Name, component: &Name, point: PointId, file: &str) -> Key {
    Key::foreign(&format!("dumps/{application}/{component}/{point}/{file}"))
}

/// `postgres/<application>.<component>`: one component's clusters, each in the layout of WAL-G.
pub fn clusters(application: &Name, component: &Name) -> Key {
    Key::foreign(&format!("postgres/{application}.{component}"))
}

/// `postgres/<application>.<component>/<system identifier>`: one cluster's base backups and WAL.
pub fn cluster(application: &Name, component: &Name, system_identifier: &str) -> Key {
    Key::foreign(&format!("postgres/{application}.{component}/{system_identifier}"))
}

/// `<cluster>/wal_005`: a cluster's archive of WAL.
pub fn wal(cluster: &Key) -> Key {
    Key::foreign(&format!("{cluster}/{}", walg::WAL))
}

/// `<cluster>/basebackups_005/<backup>`: the folder of one base backup.
pub fn base_backup(cluster: &Key, backup: &str) -> Key {
    Key::foreign(&format!("{cluster}/{}/{backup}", walg::BASE_BACKUPS))
}

/// The sentinel of a base backup of an application, which lies beside its folder; where a key is such a folder.
pub fn sentinel_of(application: &Name, folder: &Key) -> Option<Key> {
    let segments: Vec<&str> = folder.segments().collect();
    let ["postgres", of, cluster, walg::BASE_BACKUPS, backup] = segments.as_slice() else { return None };
    let is_own = of.split_once('.').is_some_and(|(name, _)| name == application.as_str());
    let backup: walg::BackupName = backup.parse().ok().filter(|_| is_own)?;
    Some(Key::foreign(&format!("postgres/{of}/{cluster}/{}", backup.sentinel())))
}

/// `../<file>`: a dump beside the repository, whose folder is then [`BESIDE`](crate::store::BESIDE).
pub fn beside(file: &str) -> Key {
    Key::above(file)
}

/// `files/<application>`: its restic repository.
pub fn files(application: &Name) -> Key {
    Key::foreign(&format!("files/{application}"))
}

/// `evidence`: every writer's chain of evidence.
pub fn all_evidence() -> Key {
    Key::foreign("evidence")
}

/// `evidence/<writer>`: a writer's chain of evidence.
pub fn evidence(writer: WriterId) -> Key {
    Key::foreign(&format!("evidence/{writer}"))
}

/// `evidence/<writer>/<number>.json`: one record, numbered from 1, twelve digits.
pub fn evidence_record(writer: WriterId, number: u64) -> Key {
    Key::foreign(&format!("evidence/{writer}/{number:012}.json"))
}

/// The number in the name of a record of evidence.
pub fn evidence_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    let number = digits.parse().ok()?;
    (digits.len() == 12 && digits.bytes().all(|b| b.is_ascii_digit()) && number > 0).then_some(number)
}

/// `live/pins/<application>`: what must not be swept now.
pub fn pins(application: &Name) -> Key {
    Key::foreign(&format!("live/pins/{application}"))
}

/// `live/pins/<application>/<point>.<entry>.<seconds>.json`: a pin and how long it holds from when it was written.
pub fn pin(application: &Name, point: PointId, entry: EntryId, seconds: u64) -> Key {
    Key::foreign(&format!("live/pins/{application}/{point}.{entry}.{seconds}.json"))
}

/// `live/tombstones/<application>`: what is going to be swept.
pub fn tombstones(application: &Name) -> Key {
    Key::foreign(&format!("live/tombstones/{application}"))
}

/// `live/tombstones/<application>/<point>.json`: the mark that a point, or the rest of a dead run, goes.
pub fn tombstone(application: &Name, point: PointId) -> Key {
    Key::foreign(&format!("live/tombstones/{application}/{point}.json"))
}

/// `live/probe/<entry>`: a trial of what the store can do, removed at once.
pub fn probe(entry: EntryId) -> Key {
    Key::foreign(&format!("live/probe/{entry}"))
}

/// Whether an object is such a trial, which was left behind.
pub fn is_probe(key: &Key) -> bool {
    let mut segments = key.segments();
    segments.next() == Some("live") && segments.next() == Some("probe")
}
