//! Compares what lies in a repository with what should, and says what each difference costs.
//!
//! Without reading data it finds what is missing, truncated, extra or foreign, and every document that was changed;
//! with it, every changed byte. Nothing is mended or deleted.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use windlass_core::id::{PointId, WriterId};
use windlass_core::name::Name;
use windlass_core::point::ComponentManifest;

use crate::catalog::{Catalog, Intent, point_of};
use crate::error::RepositoryError;
use crate::evidence;
use crate::format::restic::{Files, FilesError};
use crate::format::walg;
use crate::hex;
use crate::keyring::StoredKeyring;
use crate::layout;
use crate::live::Tombstone;
use crate::manual;
use crate::object::ObjectError;
use crate::store::{Key, ObjectInfo};
use crate::vault::Vault;
use crate::verify;

/// What is wrong with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It should be there and is not.
    Missing,
    /// It is shorter or longer than it should be.
    Truncated,
    /// Its content is not what was written.
    Damaged,
    /// It is nothing that Windlass writes.
    Foreign,
    /// A run that died left it; it is swept in time.
    Leftover,
    /// It could not be looked at here.
    Unseen,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// What is wrong.
    pub kind: Kind,
    /// With which object.
    pub key: String,
    /// In words.
    pub why: String,
    /// What cannot be restored because of it: points, with the component.
    pub costs: Vec<String>,
}

/// Why a check could not be done.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The repository.
    #[error(transparent)]
    Repository(RepositoryError),
    /// An object.
    #[error(transparent)]
    Object(ObjectError),
    /// The restic repository.
    #[error(transparent)]
    Files(FilesError),
}

impl windlass_core::diagnose::Diagnose for CheckError {
    fn code(&self) -> &'static str {
        self.inner().code()
    }

    fn reason(&self) -> &'static str {
        self.inner().reason()
    }

    fn outcome(&self) -> windlass_core::diagnose::Outcome {
        self.inner().outcome()
    }

    fn hints(&self) -> Vec<String> {
        self.inner().hints()
    }
}

impl CheckError {
    fn inner(&self) -> &dyn windlass_core::diagnose::Diagnose {
        match self {
            Self::Repository(error) => error,
            Self::Object(error) => error,
            Self::Files(error) => error,
        }
    }
}

/// Everything that lies in a repository, by key.
pub type Listing = BTreeMap<Key, ObjectInfo>;

/// Lists a repository.
pub async fn list(store: &crate::store::Store) -> Result<Listing, CheckError> {
    let all = store.list_all(None).await.map_err(|e| CheckError::Repository(RepositoryError::Store(e)))?;
    Ok(all.into_iter().map(|info| (info.key.clone(), info)).collect())
}

/// What belongs to no application: the identity, the manual, and whatever is not ours.
pub async fn common(
    repository: &crate::repository::Repository,
    listing: &Listing,
    applications: &[Name],
) -> Result<Vec<Finding>, CheckError> {
    let mut findings = Vec::new();
    let readme = repository.store().find(&layout::readme()).await;
    let readme = readme.map_err(|e| CheckError::Repository(RepositoryError::Store(e)))?;
    let expected = repository.identity().readme_sha256.as_deref();
    match readme {
        None => findings.push(finding(Kind::Missing, &layout::readme(), "the manual is gone", Vec::new())),
        Some(text)
            if expected.is_some_and(|expected| hex::sha256(&text) != expected)
                || !String::from_utf8_lossy(&text).contains(&manual::made(repository.identity())) =>
        {
            let why = "the manual was changed; `windlass repo manual` prints it";
            findings.push(finding(Kind::Damaged, &layout::readme(), why, Vec::new()));
        }
        Some(_) => {}
    }
    if repository.identity().role != "primary" {
        findings.push(finding(Kind::Damaged, &layout::identity(), "its role is none that is known", Vec::new()));
    }
    for key in listing.keys().filter(|key| !is_ours(key, applications)) {
        findings.push(finding(Kind::Foreign, key, "Windlass writes no such object", Vec::new()));
    }
    Ok(findings)
}

fn finding(kind: Kind, key: &Key, why: impl Into<String>, costs: Vec<String>) -> Finding {
    Finding { kind, key: key.to_string(), why: why.into(), costs }
}

/// Whether a key's shape is one of the layout's.
fn is_ours(key: &Key, applications: &[Name]) -> bool {
    let segments: Vec<&str> = key.segments().collect();
    let known = |name: &str| applications.iter().any(|application| application.as_str() == name);
    let point = |text: &str| text.parse::<PointId>().is_ok();
    match segments.as_slice() {
        ["windlass.json" | "README.txt"] => true,
        ["keys", application, _] => known(application) && StoredKeyring::parse(key).is_some(),
        ["writers", file] => file.split_once('.').is_some_and(|(writer, ending)| {
            writer.parse::<WriterId>().is_ok() && ["json", "endorsed.json", "retired.json"].contains(&ending)
        }),
        ["points", application, _] => known(application) && point_of(key).is_some(),
        ["runs", application, run, file] => {
            let is_one = ["component.", "attempt."].iter().any(|kind| file.starts_with(kind));
            known(application) && point(run) && (*file == "intent.json" || is_one)
        }
        ["verified", application, of, file] => known(application) && point(of) && file.ends_with(".json"),
        ["holds", application, file] => known(application) && file.ends_with(".json"),
        ["dumps", application, _, of, _] => known(application) && point(of),
        ["postgres", of, _, walg::BASE_BACKUPS, ..] | ["postgres", of, _, walg::WAL, _] => {
            of.split_once('.').is_some_and(|(application, _)| known(application))
        }
        ["files", application, "config"] => known(application),
        ["files", application, "keys" | "snapshots" | "index" | "locks", id] => known(application) && id.len() == 64,
        ["files", application, "data", folder, id] => known(application) && id.len() == 64 && id.starts_with(folder),
        ["live", "pins" | "tombstones", application, _] => known(application),
        ["live", "probe", _] => true,
        ["evidence", writer, file] => writer.parse::<WriterId>().is_ok() && layout::evidence_number(file).is_some(),
        _ => false,
    }
}

/// Of an application without a keyring nothing can be opened.
pub fn without_keyring(name: &Name) -> Finding {
    let why = "there is no keyring: nothing of it can be opened without the recovery kit, which holds it";
    finding(Kind::Missing, &layout::keys(name), why, vec![format!("{name}: all of it")])
}

/// What belongs to one application. `read_data` also reads every byte back; `moved` hears of each, in bytes.
pub async fn application(
    vault: &Vault,
    listing: &Listing,
    read_data: bool,
    moved: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Finding>, CheckError> {
    let mut findings = Vec::new();
    let catalog = Catalog::load(vault).await.map_err(CheckError::Repository)?;
    for damaged in &catalog.damaged {
        let costs = damaged.point.map(|point| format!("{point}: all of it")).into_iter().collect();
        findings.push(finding(Kind::Damaged, &damaged.key, windlass_core::diagnose::chain(&damaged.error), costs));
    }
    for (entry, hold) in catalog.entries.iter().flat_map(|e| e.holds.iter().map(move |h| (e, h))) {
        if !hold.is_readable() {
            let key = layout::hold(vault.application(), entry.point.id, hold.entry);
            findings.push(finding(
                Kind::Damaged,
                &key,
                "it cannot be read or trusted; it holds all the same",
                Vec::new(),
            ));
        }
    }
    let mut manifests: Vec<(PointId, ComponentManifest)> = Vec::new();
    for entry in &catalog.entries {
        for summary in &entry.point.components {
            match vault.component(&entry.point, summary).await {
                Ok(manifest) => manifests.push((entry.point.id, manifest)),
                Err(error) => {
                    let key = layout::component(vault.application(), entry.point.id, &summary.name);
                    let kind = if listing.contains_key(&key) { Kind::Damaged } else { Kind::Missing };
                    let costs = vec![format!("{}: {}", entry.point.id, summary.name)];
                    findings.push(finding(kind, &key, windlass_core::diagnose::chain(&error), costs));
                }
            }
        }
    }
    for (point, manifest) in &manifests {
        findings.extend(objects(*point, manifest, listing));
        if read_data {
            let verdict = verify::objects(vault, manifest, moved).await.map_err(CheckError::Object)?;
            for why in verdict.findings {
                let key = manifest
                    .objects()
                    .iter()
                    .find(|o| why.contains(&o.key))
                    .map_or_else(String::new, |o| o.key.clone());
                let costs = vec![format!("{point}: {}", manifest.component)];
                let known = findings.iter().any(|f| f.key == key);
                if !known {
                    findings.push(Finding { kind: Kind::Damaged, key, why, costs });
                }
            }
        }
    }
    findings.extend(snapshots(vault, &manifests, read_data, moved).await?);
    findings.extend(leftovers(vault, &catalog, &manifests, listing).await?);
    findings.extend(flaws(vault, &catalog, &findings).await?);
    findings.sort();
    findings.dedup();
    Ok(findings)
}

/// What does not hold in the chains of evidence, unless it has been said already.
async fn flaws(vault: &Vault, catalog: &Catalog, said: &[Finding]) -> Result<Vec<Finding>, CheckError> {
    let flaws = evidence::check(vault, catalog).await.map_err(CheckError::Repository)?;
    let new = flaws.into_iter().filter(|flaw| !said.iter().any(|finding| finding.key == flaw.key.as_str()));
    let kind = |flaw: &evidence::Flaw| if flaw.missing { Kind::Missing } else { Kind::Damaged };
    Ok(new.map(|flaw| finding(kind(&flaw), &flaw.key, flaw.why, Vec::new())).collect())
}

fn objects(point: PointId, manifest: &ComponentManifest, listing: &Listing) -> Vec<Finding> {
    let mut findings = Vec::new();
    for object in manifest.objects() {
        let key = Key::foreign(&object.key);
        let costs = vec![format!("{point}: {}", manifest.component)];
        match listing.get(&key) {
            None => findings.push(finding(Kind::Missing, &key, "it is not there", costs)),
            Some(info) if info.size != object.size => {
                let why = format!("it has {} bytes instead of {}", info.size, object.size);
                findings.push(finding(Kind::Truncated, &key, why, costs));
            }
            Some(_) => {}
        }
    }
    findings
}

async fn snapshots(
    vault: &Vault,
    manifests: &[(PointId, ComponentManifest)],
    read_data: bool,
    moved: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Finding>, CheckError> {
    let mut findings = Vec::new();
    let Ok(keyring) = vault.keyring() else {
        let unseen = manifests.iter().filter(|(_, manifest)| manifest.snapshot().is_some());
        let costs: Vec<String> = unseen.map(|(point, manifest)| format!("{point}: {}", manifest.component)).collect();
        if !costs.is_empty() {
            let why = "not looked at: its keyring is not open on this host; what it may cost is named beside";
            findings.push(finding(Kind::Unseen, &layout::files(vault.application()), why, costs));
        }
        return Ok(findings);
    };
    let files = Files::ours(vault.store(), &layout::files(vault.application()), keyring.restic_password());
    for (point, manifest) in manifests {
        let Some(snapshot) = manifest.snapshot() else { continue };
        let damage = if read_data {
            files.verify(snapshot, moved).await.map(|verified| verified.damage)
        } else {
            files.look_through(snapshot).await
        };
        let damage = match damage {
            Ok(damage) => damage,
            Err(
                error @ (FilesError::Missing { .. } | FilesError::WrongPassword { .. } | FilesError::Repository { .. }),
            ) => {
                vec![windlass_core::diagnose::chain(&error)]
            }
            Err(error) => return Err(CheckError::Files(error)),
        };
        for why in damage {
            let key =
                why.split('`').nth(1).map_or_else(|| layout::files(vault.application()).to_string(), str::to_owned);
            let costs = vec![format!("{point}: {}", manifest.component)];
            let known = findings.iter_mut().find(|f: &&mut Finding| f.key == key && f.why == why);
            match known {
                Some(known) => known.costs.extend(costs),
                None => findings.push(Finding { kind: Kind::Damaged, key, why, costs }),
            }
        }
    }
    Ok(findings)
}

/// Commit records that are gone: runs that stored the manifest of every component they set out to capture.
async fn lost_commits(
    vault: &Vault,
    committed: &BTreeSet<PointId>,
    marked: &BTreeSet<PointId>,
    listing: &Listing,
) -> Result<Vec<Finding>, CheckError> {
    let application = vault.application();
    let mut findings = Vec::new();
    let runs: BTreeSet<PointId> = listing
        .keys()
        .filter_map(|key| match key.segments().collect::<Vec<_>>().as_slice() {
            ["runs", name, run, _] if *name == application.as_str() => run.parse().ok(),
            _ => None,
        })
        .collect();
    for run in runs.into_iter().filter(|run| !committed.contains(run) && !marked.contains(run)) {
        let key = layout::intent(application, run);
        let Ok(Some(bytes)) = vault.store().find(&key).await else { continue };
        let Ok(intent) = vault.accept::<Intent>(&key, &bytes) else { continue };
        let all = intent.components.iter().all(|name| listing.contains_key(&layout::component(application, run, name)));
        if all && !intent.components.is_empty() {
            let why = "every component is there, but the commit record is not: it was deleted, or the run died right before it";
            let costs = vec![format!("{run}: all of it")];
            findings.push(finding(Kind::Missing, &layout::point(application, run, true), why, costs));
        }
    }
    Ok(findings)
}

async fn leftovers(
    vault: &Vault,
    catalog: &Catalog,
    manifests: &[(PointId, ComponentManifest)],
    listing: &Listing,
) -> Result<Vec<Finding>, CheckError> {
    let application = vault.application();
    let (marks, _) = Tombstone::load_what_can_be(vault).await.map_err(CheckError::Repository)?;
    let marked: BTreeSet<PointId> = marks.into_iter().map(|mark| mark.point).collect();
    let committed: BTreeSet<PointId> =
        catalog.entries.iter().map(|e| e.point.id).chain(catalog.damaged.iter().filter_map(|d| d.point)).collect();
    let named: BTreeSet<&str> = manifests.iter().flat_map(|(_, m)| m.objects()).map(|o| o.key.as_str()).collect();
    let mut findings = lost_commits(vault, &committed, &marked, listing).await?;
    let theirs = |of: &str| of.split_once('.').is_some_and(|(name, _)| name == application.as_str());
    for key in listing.keys() {
        let segments: Vec<&str> = key.segments().collect();
        if let ["postgres", of, _, walg::BASE_BACKUPS, ..] = segments.as_slice() {
            if theirs(of) && !named.contains(key.as_str()) {
                let why = "no recovery point names it: a base backup was not finished, or is still being taken";
                findings.push(finding(Kind::Leftover, key, why, Vec::new()));
            }
            continue;
        }
        let (of, is_dump) = match segments.as_slice() {
            ["dumps", name, _, of, _] if *name == application.as_str() => (of, true),
            ["runs", name, of, _] if *name == application.as_str() => (of, false),
            _ => continue,
        };
        let Ok(of) = of.parse::<PointId>() else { continue };
        let orphan = !committed.contains(&of) || (is_dump && !named.contains(key.as_str()));
        if orphan && !marked.contains(&of) {
            let why = "no recovery point names it: a run left it, or is still at work";
            findings.push(finding(Kind::Leftover, key, why, Vec::new()));
        }
    }
    Ok(findings)
}
