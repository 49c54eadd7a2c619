//! One contract for every store: a directory, and two S3 servers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::PathBuf;

use anyhow::Result;
use futures::TryStreamExt;
use windlass_core::repository::{Place, S3};
use windlass_core::secret::SecretRef;
use windlass_repo::store::open::open;
use windlass_repo::store::{Created, Key, Store, StoreError};
use windlass_testkit::s3::{ACCESS_KEY, BUCKET, Kind, S3Server, SECRET_KEY};

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

/// A place on an S3 server, with credentials in files.
fn place(server: &S3Server, prefix: &str, secrets: &std::path::Path, secret: &str) -> Place {
    let file = |name: &str, value: &str| -> PathBuf {
        let path = secrets.join(name);
        std::fs::write(&path, value).unwrap();
        path
    };
    Place::S3(S3 {
        bucket: BUCKET.into(),
        prefix: prefix.into(),
        endpoint: Some(server.endpoint()),
        region: None,
        path_style: true,
        ca: None,
        access_key: SecretRef::File(file("access", ACCESS_KEY)),
        secret_key: SecretRef::File(file("secret", secret)),
    })
}

async fn keeps_the_contract(store: &Store) -> Result<()> {
    // Create-only, and a retry of the same bytes is no error.
    assert_eq!(store.create(&key("a/one"), b"first".to_vec()).await?, Created::Now);
    assert_eq!(store.create(&key("a/one"), b"first".to_vec()).await?, Created::Before);
    assert!(matches!(store.create(&key("a/one"), b"other".to_vec()).await, Err(StoreError::Occupied { .. })));
    assert_eq!(store.get(&key("a/one")).await?, "first");

    // Names that need encoding, and every byte of an object.
    let odd = key(&format!("a/{}", Key::encode("my db \"ü\" 🧭 %2F/..")));
    let bytes: Vec<u8> = (0..=255).collect();
    store.create(&odd, bytes.clone()).await?;
    assert_eq!(store.get(&odd).await?, bytes);
    assert_eq!(store.get_range(&odd, 10..20).await?, bytes[10..20]);
    assert_eq!(store.head(&odd).await?.size, 256);
    assert_eq!(store.find(&key("a/none")).await?, None);
    assert!(matches!(store.get(&key("a/none")).await, Err(StoreError::NotFound { .. })));

    // Uploads of any size: in one request, at the border, in parts.
    for size in [0, 1, 16 << 20, (16 << 20) + 1, 40_000_000] {
        let content: Vec<u8> = (0..size).map(|i: u32| i.to_le_bytes()[1]).collect();
        let name = key(&format!("b/{size}"));
        let mut upload = store.upload(&name);
        for piece in content.chunks(300_000) {
            upload.write(piece.to_vec().into()).await?;
        }
        let stored = upload.finish().await?;
        assert_eq!(stored.size, u64::from(size));
        let read: Vec<u8> = store
            .read(&name)
            .await?
            .try_fold(Vec::new(), |mut all, piece| async move {
                all.extend_from_slice(&piece);
                Ok(all)
            })
            .await?;
        assert!(read == content, "{size} bytes");
    }

    // An upload that is given up, or just dropped, leaves nothing visible.
    let mut given_up = store.upload(&key("b/given-up"));
    given_up.write(vec![1; 20 << 20].into()).await?;
    given_up.abort().await;
    let mut dropped = store.upload(&key("b/dropped"));
    dropped.write(vec![1; 20 << 20].into()).await?;
    drop(dropped);
    let listed: Vec<String> = store.list_all(Some(&key("b"))).await?.iter().map(|o| o.key.to_string()).collect();
    assert_eq!(listed, ["b/0", "b/1", "b/16777216", "b/16777217", "b/40000000"]);

    // A listing of a folder is of that folder alone, not of one whose name begins like it.
    store.create(&key("bb/other"), b"x".to_vec()).await?;
    assert_eq!(store.list_all(Some(&key("b"))).await?.len(), 5);

    // Deleting is idempotent.
    store.delete(&key("a/one")).await?;
    store.delete(&key("a/one")).await?;
    assert_eq!(store.find(&key("a/one")).await?, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_keeps_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    keeps_the_contract(&open(&Place::Directory(folder.path().to_owned()))?).await
}

async fn server_keeps_it(kind: Kind) -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (server, secrets) = (S3Server::start(kind)?, tempfile::tempdir()?);
    keeps_the_contract(&open(&place(&server, "some/prefix", secrets.path(), SECRET_KEY))?).await?;
    // A prefix that begins like another is another place.
    let sibling = open(&place(&server, "some/pre", secrets.path(), SECRET_KEY))?;
    assert!(sibling.list_all(None).await?.is_empty());
    let wrong = open(&place(&server, "some/prefix", secrets.path(), "wrong-secret"))?;
    let error = wrong.get(&key("b/1")).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    assert!(!format!("{error:?}").contains("wrong-secret"));
    Ok(())
}

/// What an upload that died left is listed, and can be removed more than once.
async fn tidies_up(store: &Store, died: &str) -> Result<()> {
    let dead = store.dead_uploads().await?;
    assert!(dead.iter().any(|upload| upload.key == died), "{dead:?}");
    for upload in &dead {
        store.remove_dead_upload(upload).await?;
        store.remove_dead_upload(upload).await?;
    }
    assert_eq!(store.dead_uploads().await?, []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_uploads_that_died_are_found_in_a_bucket() -> Result<()> {
    // minio lists unfinished uploads only by their whole name, and removes them by itself after a day.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (server, secrets) = (S3Server::start(Kind::Versitygw)?, tempfile::tempdir()?);
    let store = open(&place(&server, "some/prefix", secrets.path(), SECRET_KEY))?;
    let sibling = open(&place(&server, "some/prefix-2", secrets.path(), SECRET_KEY))?;
    for store in [&store, &sibling] {
        let mut upload = store.upload(&key("b/my%20db"));
        upload.write(vec![1; 20 << 20].into()).await?;
        drop(upload);
    }
    tidies_up(&store, "b/my%20db").await?;
    assert_eq!(sibling.dead_uploads().await?.len(), 1, "what belongs to another place stays");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_uploads_that_died_are_found_in_a_directory() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::create_dir(folder.path().join("dumps"))?;
    std::fs::write(folder.path().join("dumps/died#3"), "half")?;
    std::fs::write(folder.path().join("dumps/whole"), "whole")?;
    let store = open(&Place::Directory(folder.path().to_owned()))?;
    tidies_up(&store, "dumps/died").await?;
    assert_eq!(store.get(&key("dumps/whole")).await?, "whole");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn versitygw_keeps_it() -> Result<()> {
    server_keeps_it(Kind::Versitygw).await
}

#[tokio::test(flavor = "multi_thread")]
async fn minio_keeps_it() -> Result<()> {
    server_keeps_it(Kind::Minio).await
}
