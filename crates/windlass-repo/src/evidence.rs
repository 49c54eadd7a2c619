//! Chains of evidence: appended by one writer each, checked by anyone.
//!
//! A record is written create-only under the number after the newest there is; whoever loses that race to another
//! process of the same host takes the next number. Nothing here is ever deleted.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
pub use windlass_core::evidence::{Event, Head};
use windlass_core::evidence::{Record, follows};
use windlass_core::id::{PointId, WriterId};
use windlass_core::point::{FORMAT, RecoveryPoint};

use crate::catalog::{Catalog, point_of};
use crate::error::RepositoryError;
use crate::hex;
use crate::layout;
use crate::sign::Unchecked;
use crate::store::{Key, Store, StoreError};
use crate::vault::Vault;
use crate::writer::Writer;

/// Records read at once.
const PARALLEL: usize = 16;

/// How often another process of this host may be faster before it is given up.
const RACES: usize = 100;

/// Appends a record to the writer's chain, and returns the new head.
pub async fn append(vault: &Vault, writer: &Writer, host: &str, event: Event) -> Result<Head, RepositoryError> {
    let mut others = heads(vault).await?;
    let mut newest = others.remove(&writer.id);
    for _ in 0..RACES {
        let number = newest.as_ref().map_or(1, |head| head.number + 1);
        let record = Record {
            format: FORMAT,
            writer: writer.id,
            number,
            previous: newest.map(|head| head.sha256),
            at: Timestamp::now(),
            host: host.to_owned(),
            application: vault.application().clone(),
            event: event.clone(),
            others: others.clone(),
        };
        let bytes = writer.sign(&record)?;
        let sha256 = hex::sha256(&bytes);
        match vault.store().create(&layout::evidence_record(writer.id, number), bytes).await {
            Ok(_) => return Ok(Head { number, sha256 }),
            Err(StoreError::Occupied { .. }) => newest = head(vault.store(), writer.id).await?,
            Err(error) => return Err(RepositoryError::Store(error)),
        }
    }
    let key = layout::evidence(writer.id);
    Err(RepositoryError::Store(StoreError::Occupied { key, store: vault.store().location().to_owned() }))
}

/// The newest record of each of the application's writers that has one.
pub async fn heads(vault: &Vault) -> Result<BTreeMap<WriterId, Head>, RepositoryError> {
    let mut heads = BTreeMap::new();
    for record in vault.writers().iter().filter(|record| record.application == *vault.application()) {
        if let Some(head) = head(vault.store(), record.writer).await? {
            heads.insert(record.writer, head);
        }
    }
    Ok(heads)
}

async fn head(store: &Store, writer: WriterId) -> Result<Option<Head>, RepositoryError> {
    let Some(number) = numbers(store, writer).await?.last().copied() else { return Ok(None) };
    let bytes = store.get(&layout::evidence_record(writer, number)).await.map_err(RepositoryError::Store)?;
    Ok(Some(Head { number, sha256: hex::sha256(&bytes) }))
}

async fn numbers(store: &Store, writer: WriterId) -> Result<BTreeSet<u64>, RepositoryError> {
    let listed = store.list_all(Some(&layout::evidence(writer))).await.map_err(RepositoryError::Store)?;
    Ok(listed.iter().filter_map(|object| layout::evidence_number(object.key.file_name())).collect())
}

/// How far back [`catch_up`] looks: twice the longest run.
const HORIZON: SignedDuration = SignedDuration::from_hours(48);

/// Puts the writer's own points on record that are not: a run died right after the commit.
pub async fn catch_up(vault: &Vault, writer: &Writer, host: &str) -> Result<(), RepositoryError> {
    let store = vault.store();
    let listed = store.list_all(Some(&layout::points(vault.application()))).await.map_err(RepositoryError::Store)?;
    let Some(newest) = listed.iter().map(|object| object.modified).max() else { return Ok(()) };
    let told = lately_told(vault, writer, newest).await?;
    for object in listed.into_iter().filter(|object| newest.duration_since(object.modified) <= HORIZON) {
        let Some(point) = point_of(&object.key).filter(|point| !told.contains(point)) else { continue };
        let Some(bytes) = store.find(&object.key).await.map_err(RepositoryError::Store)? else { continue };
        let is_own = Unchecked::parse(&bytes).is_ok_and(|document| document.writer() == writer.id);
        let Ok(found) = vault.accept::<RecoveryPoint>(&object.key, &bytes) else { continue };
        if is_own {
            let event = Event::Backup { point, complete: found.is_complete(), sha256: hex::sha256(&bytes) };
            append(vault, writer, host, event).await?;
        }
    }
    Ok(())
}

/// The points the writer's newest records tell of, back to a horizon before `newest`.
async fn lately_told(vault: &Vault, writer: &Writer, newest: Timestamp) -> Result<BTreeSet<PointId>, RepositoryError> {
    let mut told = BTreeSet::new();
    let numbers = numbers(vault.store(), writer.id).await?;
    let mut records = futures::stream::iter(numbers.into_iter().rev())
        .map(|number| async move {
            let key = layout::evidence_record(writer.id, number);
            let bytes = vault.store().get(&key).await.map_err(RepositoryError::Store)?;
            // What is damaged is for `check` to say.
            Ok::<_, RepositoryError>(vault.accept::<Record>(&key, &bytes).ok())
        })
        .buffered(PARALLEL);
    while let Some(record) = records.try_next().await? {
        let Some(record) = record else { continue };
        if let Event::Backup { point, .. } = record.event {
            told.insert(point);
        }
        // A record is written after what it tells of; an hour is for clocks that differ.
        if newest.duration_since(record.at) > HORIZON + SignedDuration::from_hours(1) {
            break;
        }
    }
    Ok(told)
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// The object that is gone or is not what it should be.
    pub key: Key,
    /// Whether it is gone.
    pub missing: bool,
    /// In words.
    pub why: String,
}

/// A chain as it was found.
struct Chain {
    /// Each record's digest, by its number; none where it could not be accepted.
    digests: BTreeMap<u64, String>,
    events: Vec<Event>,
    /// What its records say of other chains.
    others: Vec<(WriterId, Head)>,
    flaws: Vec<Flaw>,
}

/// Checks every chain of the application: that it hangs together, that what points and other writers saw of it is
/// still there, and that the points it tells of are the ones that lie here.
pub async fn check(vault: &Vault, catalog: &Catalog) -> Result<Vec<Flaw>, RepositoryError> {
    let mut chains = BTreeMap::new();
    for record in vault.writers().iter().filter(|record| record.application == *vault.application()) {
        chains.insert(record.writer, read(vault, record.writer).await?);
    }
    let seen_by_points = catalog.entries.iter().flat_map(|entry| {
        let by = entry.key.to_string();
        entry.point.evidence.iter().map(move |(writer, head)| (*writer, head.clone(), by.clone()))
    });
    let seen_by_others = chains.iter().flat_map(|(by, chain)| {
        chain.others.iter().map(move |(writer, head)| (*writer, head.clone(), format!("the chain of {by}")))
    });
    let mut flaws = unseen(&chains, seen_by_points.chain(seen_by_others));
    flaws.extend(points(vault, catalog, &chains));
    flaws.extend(chains.into_values().flat_map(|chain| chain.flaws));
    flaws.sort_by(|a, b| (&a.key, &a.why).cmp(&(&b.key, &b.why)));
    flaws.dedup();
    Ok(flaws)
}

async fn read(vault: &Vault, writer: WriterId) -> Result<Chain, RepositoryError> {
    let mut chain = Chain { digests: BTreeMap::new(), events: Vec::new(), others: Vec::new(), flaws: Vec::new() };
    let numbers = numbers(vault.store(), writer).await?;
    let mut records = futures::stream::iter(numbers)
        .map(|number| async move {
            let key = layout::evidence_record(writer, number);
            let bytes = vault.store().get(&key).await.map_err(RepositoryError::Store)?;
            Ok::<_, RepositoryError>((number, hex::sha256(&bytes), vault.accept::<Record>(&key, &bytes)))
        })
        .buffered(PARALLEL);
    let mut before: Option<(u64, String)> = None;
    while let Some((number, sha256, record)) = records.try_next().await? {
        let expected = before.as_ref().map_or(1, |(number, _)| number + 1);
        for missing in expected..number {
            let why = "a record of evidence is gone".to_owned();
            chain.flaws.push(Flaw { key: layout::evidence_record(writer, missing), missing: true, why });
        }
        let key = layout::evidence_record(writer, number);
        match record {
            Err(error) => {
                let why = windlass_core::diagnose::chain(&error);
                chain.flaws.push(Flaw { key, missing: false, why });
            }
            Ok(record) => {
                // After a gap only the record itself can be checked, not what it follows.
                let previous = match &before {
                    Some((_, sha256)) if expected == number => Some(sha256.as_str()),
                    None if number == 1 => None,
                    _ => record.previous.as_deref(),
                };
                if let Err(why) = follows(&record, writer, number, previous) {
                    chain.flaws.push(Flaw { key, missing: false, why });
                }
                chain.others.extend(record.others);
                chain.events.push(record.event);
            }
        }
        chain.digests.insert(number, sha256.clone());
        before = Some((number, sha256));
    }
    Ok(chain)
}

/// Records that somebody saw, and that are gone or others now.
fn unseen(chains: &BTreeMap<WriterId, Chain>, seen: impl Iterator<Item = (WriterId, Head, String)>) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    for (writer, head, by) in seen {
        let key = layout::evidence_record(writer, head.number);
        let found = chains.get(&writer).and_then(|chain| chain.digests.get(&head.number));
        match found {
            Some(sha256) if *sha256 == head.sha256 => {}
            Some(_) => flaws.push(Flaw { key, missing: false, why: format!("it is not the record that {by} names") }),
            None => flaws.push(Flaw { key, missing: true, why: format!("{by} names it: the chain was cut") }),
        }
    }
    flaws
}

/// Points that are not the ones the evidence tells of, that are gone although no plan let them go, or that no record
/// tells of.
fn points(vault: &Vault, catalog: &Catalog, chains: &BTreeMap<WriterId, Chain>) -> Vec<Flaw> {
    let events = || chains.values().flat_map(|chain| &chain.events);
    let let_go: BTreeSet<PointId> = events()
        .filter_map(|event| match event {
            Event::Retention { points, .. } | Event::Swept { points } => Some(points),
            _ => None,
        })
        .flatten()
        .copied()
        .collect();
    let told: BTreeSet<PointId> = events()
        .filter_map(|event| match event {
            Event::Backup { point, .. } => Some(*point),
            _ => None,
        })
        .collect();
    let unreadable: BTreeSet<PointId> = catalog.damaged.iter().filter_map(|damaged| damaged.point).collect();
    let mut flaws = Vec::new();
    for event in events() {
        let Event::Backup { point, complete, sha256 } = event else { continue };
        let key = layout::point(vault.application(), *point, *complete);
        match catalog.entries.iter().find(|entry| entry.point.id == *point) {
            Some(entry) if entry.sha256 == *sha256 => {}
            Some(_) => {
                flaws.push(Flaw { key, missing: false, why: "it is not the commit record that was written".into() });
            }
            None if let_go.contains(point) || unreadable.contains(point) => {}
            None => {
                let why = "the evidence says that it was committed; it is gone, and no retention plan let it go".into();
                flaws.push(Flaw { key, missing: true, why });
            }
        }
    }
    for entry in catalog.entries.iter().filter(|entry| !told.contains(&entry.point.id)) {
        let why = format!(
            "no record tells of the point {}: a chain was cut, or its run died right after the commit; in that case \
             the host's next backup puts it on record",
            entry.point.id
        );
        flaws.push(Flaw { key: layout::all_evidence(), missing: true, why });
    }
    flaws
}
