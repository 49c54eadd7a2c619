//! The level `read` for snapshots: every pack a snapshot needs is read back whole and hashed.

use std::collections::{BTreeMap, HashSet};

use futures::stream::{StreamExt, TryStreamExt};
use ring::digest::{Context, SHA256};
use rustic_core::repofile::PackId;
use rustic_core::{DataId, FileType, IndexedFull, PackedId, ReadBackend, Repository, RusticResult, TreeId};
use serde::Deserialize;

use super::backend::Backend;
use super::trees::Trees;
use super::{Files, FilesError};
use crate::hex;
use crate::store::{Key, Store, StoreError};

/// Packs read at once; a piece of each is in memory.
const PARALLEL: usize = 4;

/// What came of reading a snapshot's packs back.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// Packs read.
    pub packs: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What is wrong, in words.
    pub damage: Vec<String>,
}

/// What stands in a tree that other blobs are named by.
#[derive(Deserialize)]
struct Names {
    nodes: Vec<NamesOfNode>,
}

#[derive(Deserialize)]
struct NamesOfNode {
    #[serde(default)]
    content: Option<Vec<DataId>>,
    #[serde(default)]
    subtree: Option<TreeId>,
}

/// The packs a tree and everything below it need, with the furthest byte needed of each; `None` where the index
/// lacks something of it.
pub(super) fn needed_packs<S: IndexedFull>(
    repository: &Repository<S>,
    backend: &Backend,
    root: TreeId,
) -> RusticResult<Option<BTreeMap<PackId, u32>>> {
    let trees = Trees::new(repository, backend);
    let mut packs = BTreeMap::new();
    let mut seen = HashSet::new();
    let mut open = vec![root];
    while let Some(tree) = open.pop() {
        if !seen.insert(tree) {
            continue;
        }
        if !add(repository, &tree, &mut packs) {
            return Ok(None);
        }
        for node in names(repository, &trees, &tree)? {
            open.extend(node.subtree);
            for blob in node.content.unwrap_or_default() {
                if !add(repository, &blob, &mut packs) {
                    return Ok(None);
                }
            }
        }
    }
    Ok(Some(packs))
}

/// The names in a tree. Where they cannot be had this way, `rustic_core` is asked for the whole tree, and says why.
fn names<S: IndexedFull>(
    repository: &Repository<S>,
    trees: &Trees<'_, S>,
    tree: &TreeId,
) -> RusticResult<Vec<NamesOfNode>> {
    if let Some(names) = trees.read(tree).and_then(|json| serde_json::from_slice::<Names>(&json).ok()) {
        return Ok(names.nodes);
    }
    let nodes = repository.get_tree(tree)?.nodes.into_iter();
    Ok(nodes.map(|node| NamesOfNode { content: node.content, subtree: node.subtree }).collect())
}

fn add<S: IndexedFull, T: PackedId>(repository: &Repository<S>, blob: &T, packs: &mut BTreeMap<PackId, u32>) -> bool {
    // The only error there is says that the index has no such blob.
    let Ok(entry) = repository.get_index_entry(blob) else { return false };
    let end = entry.location.offset.saturating_add(entry.location.length);
    let furthest = packs.entry(entry.pack).or_default();
    *furthest = end.max(*furthest);
    true
}

impl Files {
    /// Reads every pack the snapshot needs, whole, and compares its SHA-256 with its name.
    ///
    /// A store that cannot be reached is an error; what is missing or damaged stands in [`Verified::damage`].
    pub async fn verify(&self, snapshot: &str, moved: &(dyn Fn(u64) + Sync)) -> Result<Verified, FilesError> {
        let id = snapshot.to_owned();
        let needed = self
            .opened_with_backend("read the snapshot's trees", move |repository, backend| {
                let repository = repository.to_indexed()?;
                let snapshot = repository.get_snapshot_from_str(&id, |_| true)?;
                needed_packs(&repository, backend, snapshot.tree)
            })
            .await;
        let needed = match needed {
            Ok(Some(needed)) => needed,
            Ok(None) => {
                let damage = vec![format!("the index lacks data that snapshot {snapshot} needs")];
                return Ok(Verified { damage, ..Verified::default() });
            }
            Err(FilesError::Repository { why, .. }) => {
                let damage = vec![self.with_pack(why).await];
                return Ok(Verified { damage, ..Verified::default() });
            }
            Err(error) => return Err(error),
        };
        let store = self.store();
        let keys: Vec<(Key, String, u32)> = {
            let backend = self.backend();
            needed.iter().map(|(id, end)| (backend.key(FileType::Pack, id), id.to_hex().to_string(), *end)).collect()
        };
        let results: Vec<Result<u64, String>> = futures::stream::iter(keys)
            .map(|(key, id, end)| async move {
                match read_pack(store, &key, &id, end, moved).await {
                    Ok(bytes) => Ok(Ok(bytes)),
                    Err(Failed::Damaged(why)) => Ok(Err(why)),
                    Err(Failed::Store(error)) => Err(FilesError::Store(error)),
                }
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await?;
        let mut verified = Verified { packs: results.len() as u64, ..Verified::default() };
        for result in results {
            match result {
                Ok(bytes) => verified.bytes += bytes,
                Err(why) => verified.damage.push(why),
            }
        }
        verified.damage.sort();
        Ok(verified)
    }

    /// Compares what a snapshot needs with a listing of the packs: what is missing or too short.
    pub async fn look_through(&self, snapshot: &str) -> Result<Vec<String>, FilesError> {
        let id = snapshot.to_owned();
        let looked = self.opened_with_backend("look through the snapshot", move |repository, backend| {
            let repository = repository.to_indexed()?;
            let snapshot = repository.get_snapshot_from_str(&id, |_| true)?;
            let Some(needed) = needed_packs(&repository, backend, snapshot.tree)? else {
                return Ok(vec![format!("the index lacks data that snapshot {id} needs")]);
            };
            let there: BTreeMap<PackId, u32> = backend
                .list_with_size(FileType::Pack)?
                .into_iter()
                .map(|(id, size)| (PackId::from(id), size))
                .collect();
            let wrong = needed.iter().filter_map(|(pack, end)| {
                let key = backend.key(FileType::Pack, pack);
                match there.get(pack) {
                    None => Some(format!("`{key}` is missing")),
                    Some(size) if size < end => Some(format!("`{key}` has {size} bytes, and {end} are needed")),
                    Some(_) => None,
                }
            });
            Ok(wrong.collect())
        });
        looked.await
    }

    /// What is wrong, beginning with the key of the pack where it names one: `error processing Pack:3605ee86 at …`.
    async fn with_pack(&self, why: String) -> String {
        let digits = why.split_once("Pack:").and_then(|(_, behind)| behind.get(..8));
        let Some(digits) = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit())) else { return why };
        let folder = self.backend().below(&format!("data/{}", digits.get(..2).unwrap_or_default()));
        let listed = self.store().list_all(Some(&folder)).await.unwrap_or_default();
        match listed.iter().find(|object| object.key.file_name().starts_with(digits)) {
            Some(pack) => format!("`{}` is damaged: {why}", pack.key),
            None => why,
        }
    }
}

enum Failed {
    Damaged(String),
    Store(StoreError),
}

async fn read_pack(store: &Store, key: &Key, id: &str, end: u32, moved: &(dyn Fn(u64) + Sync)) -> Result<u64, Failed> {
    let failed = |error: StoreError| match error {
        StoreError::NotFound { .. } => Failed::Damaged(format!("`{key}` is missing")),
        error => Failed::Store(error),
    };
    let mut stream = store.read(key).await.map_err(failed)?;
    let mut hash = Context::new(&SHA256);
    let mut bytes = 0;
    while let Some(piece) = stream.try_next().await.map_err(failed)? {
        hash.update(&piece);
        bytes += piece.len() as u64;
        moved(piece.len() as u64);
    }
    if hex::encode(hash.finish().as_ref()) != id {
        return Err(Failed::Damaged(format!("`{key}` is not what its name says: it is damaged")));
    }
    if bytes < u64::from(end) {
        return Err(Failed::Damaged(format!("`{key}` is shorter than the index says")));
    }
    Ok(bytes)
}
