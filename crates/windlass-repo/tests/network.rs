//! Real S3 servers behind a bad network, behind TLS, and as old ones would be.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics, and uses what it needs of the bench"
)]

mod bench;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use bench::{Bench, shop};
use futures::TryStreamExt;
use windlass_core::repository::{Place, S3};
use windlass_core::secret::SecretRef;
use windlass_repo::catalog::Catalog;
use windlass_repo::evidence;
use windlass_repo::layout;
use windlass_repo::object::ObjectError;
use windlass_repo::random::Fresh;
use windlass_repo::store::open::open;
use windlass_repo::store::{Created, Key, Store, StoreError};
use windlass_testkit::network::{Network, Proxy};
use windlass_testkit::s3::{ACCESS_KEY, BUCKET, Kind, S3Server, SECRET_KEY};

/// A place at an endpoint, with credentials in files.
fn place(endpoint: String, ca: Option<&Path>, secrets: &Path) -> Result<Place> {
    let (access, secret) = (secrets.join("access"), secrets.join("secret"));
    std::fs::write(&access, ACCESS_KEY)?;
    std::fs::write(&secret, SECRET_KEY)?;
    Ok(Place::S3(S3 {
        bucket: BUCKET.into(),
        prefix: "prod".into(),
        endpoint: Some(endpoint),
        region: None,
        path_style: true,
        ca: ca.map(Path::to_owned),
        access_key: SecretRef::File(access),
        secret_key: SecretRef::File(secret),
    }))
}

/// A server with a bad network before it, and a store at its end.
fn behind(kind: Kind) -> Result<(S3Server, Proxy, Store, tempfile::TempDir)> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (server, secrets) = (S3Server::start(kind)?, tempfile::tempdir()?);
    let proxy = Proxy::before(&server.address())?;
    let store = open(&place(proxy.endpoint(), None, secrets.path())?)?;
    Ok((server, proxy, store, secrets))
}

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

async fn read(store: &Store, name: &Key) -> Result<Vec<u8>> {
    let pieces = store.read(name).await?;
    let all = pieces.try_fold(Vec::new(), |mut all, piece| async move {
        all.extend_from_slice(&piece);
        Ok(all)
    });
    Ok(all.await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_store_is_asked_again_until_it_answers() -> Result<()> {
    for kind in [Kind::Versitygw, Kind::Minio] {
        let (_server, proxy, store, _secrets) = behind(kind)?;
        let bench = Bench::new(store).await?;
        proxy.set(Network::Overloaded(30));
        let content: Vec<u8> = (0..40_000_000u32).map(|i| i.to_le_bytes()[1]).collect();
        let point = bench.take(&content).await?;
        assert!(bench.content(&point).await? == content);
        let catalog = Catalog::load(&bench.vault).await?;
        assert_eq!(catalog.entries.len(), 1);
        assert_eq!(evidence::check(&bench.vault, &catalog).await?, []);
        let (requests, hit) = proxy.counts();
        assert!(hit >= 5 && hit * 100 >= requests * 20, "{kind:?}: {hit} of {requests} were refused");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn latency_and_resets_cost_time_within_bounds_and_no_data() -> Result<()> {
    for kind in [Kind::Versitygw, Kind::Minio] {
        let (_server, proxy, store, _secrets) = behind(kind)?;
        let delay = Duration::from_millis(300);
        proxy.set(Network::Slow(delay, 20));
        let content: Vec<u8> = (0..50_000_000u32).map(|i| i.to_le_bytes()[1]).collect();
        let began = Instant::now();
        let mut upload = store.upload(&key("b/large"));
        for piece in content.chunks(1 << 20) {
            upload.write(piece.to_vec().into()).await?;
        }
        let stored = upload.finish().await?;
        assert_eq!(stored.size, content.len() as u64);
        assert!(read(&store, &key("b/large")).await? == content);
        // Small ones, too, and created once only though answers were lost.
        for n in 0..10 {
            store.create(&key(&format!("b/{n}")), vec![n; 10]).await?;
            assert!(matches!(
                store.create(&key(&format!("b/{n}")), vec![n; 11]).await,
                Err(StoreError::Occupied { .. })
            ));
        }
        let (requests, hit) = proxy.counts();
        assert!(hit >= 5, "{kind:?}: {hit} of {requests} were reset");
        // Parts go side by side: one after another would take longer than all requests' delays together.
        let all = delay * u32::try_from(requests)?;
        assert!(began.elapsed() < all + Duration::from_mins(1), "{kind:?}: {:?} for {requests}", began.elapsed());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_on_the_way_is_found_and_other_points_stay() -> Result<()> {
    let (_server, proxy, store, _secrets) = behind(Kind::Versitygw)?;
    let bench = Bench::new(store).await?;
    let (small, large) = (bench.take(b"small").await?, bench.take(&vec![7; 300_000]).await?);
    proxy.set(Network::FlipsBits(100_000));
    let error = bench.content(&large).await.unwrap_err().downcast::<ObjectError>()?;
    assert!(matches!(error, ObjectError::Damaged { .. }), "{error}");
    assert_eq!(bench.content(&small).await?, b"small");
    proxy.set(Network::Good);
    bench.content(&large).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_know_conditions_is_looked_at_before_each_write() -> Result<()> {
    for kind in [Kind::Versitygw, Kind::Minio] {
        let (_server, proxy, store, _secrets) = behind(kind)?;
        assert!(!store.clone().probed(&layout::probe(Fresh::fresh()?)).await?.looks_first());
        proxy.set(Network::NoConditions);
        let store = store.probed(&layout::probe(Fresh::fresh()?)).await?;
        assert!(store.looks_first());
        assert!(store.list_all(None).await?.is_empty(), "the trials are gone");
        assert_eq!(store.create(&key("a/one"), b"first".to_vec()).await?, Created::Now);
        assert_eq!(store.create(&key("a/one"), b"first".to_vec()).await?, Created::Before);
        assert!(matches!(store.create(&key("a/one"), b"other".to_vec()).await, Err(StoreError::Occupied { .. })));
        assert_eq!(store.get(&key("a/one")).await?, "first");
        let bench = Bench::new(store).await;
        assert!(bench.is_err(), "a place with something in it is no place for a repository");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_ones_own_is_trusted_when_it_is_named_and_only_then() -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    for kind in [Kind::Versitygw, Kind::Minio] {
        let (server, secrets) = (S3Server::start_with_tls(kind)?, tempfile::tempdir()?);
        let ca = server.ca();
        let store = open(&place(server.endpoint(), ca.as_deref(), secrets.path())?)?;
        let bench = Bench::new(store).await?;
        let point = bench.take(&vec![7; 20_000_000]).await?;
        assert_eq!(bench.content(&point).await?.len(), 20_000_000);
        bench.vault.store().dead_uploads().await?;

        let stranger = open(&place(server.endpoint(), None, secrets.path())?)?;
        // Asking again would not help, so nobody does.
        let error = tokio::time::timeout(Duration::from_secs(20), stranger.list_all(None)).await?.unwrap_err();
        let said = windlass_core::diagnose::chain(&error);
        assert!(said.contains("certificate"), "{said}");
    }
    assert_eq!(shop().as_str(), "shop");
    Ok(())
}
