//! Properties of manifests: what is written is read, whatever it holds; and not one byte of it can be another.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use jiff::Timestamp;
use proptest::prelude::*;
use windlass_core::id::{PointId, WriterId};
use windlass_core::point::{
    ComponentData, ComponentManifest, Consistency, DatabaseDump, FORMAT, ObjectRef, PostgresData, TableCount, Window,
};
use windlass_repo::sign::{SigningKey, Unchecked};

fn moment() -> impl Strategy<Value = Timestamp> {
    (0..4_000_000_000i64, 0..1_000_000_000i32).prop_map(|(s, n)| Timestamp::new(s, n).unwrap())
}

fn object() -> impl Strategy<Value = ObjectRef> {
    ("[a-z/.%0-9]{1,60}", any::<u64>(), "[0-9a-f]{64}", any::<u64>(), proptest::option::of("age1[a-z0-9]{20}"))
        .prop_map(|(key, size, sha256, plain_size, sealed_to)| ObjectRef {
            key,
            size,
            plain_sha256: sha256.clone(),
            sha256,
            plain_size,
            sealed_to,
        })
}

fn dump() -> impl Strategy<Value = DatabaseDump> {
    // Names are whatever PostgreSQL allows: quotes, line breaks, emoji.
    let table = (any::<String>(), any::<String>(), any::<u64>(), any::<bool>());
    let tables = proptest::collection::vec(table, 0..5);
    let extensions = proptest::collection::btree_map(any::<String>(), any::<String>(), 0..3);
    (any::<String>(), object(), moment(), tables, extensions).prop_map(|(name, object, at, tables, extensions)| {
        DatabaseDump {
            owner: name.clone(),
            name,
            object,
            snapshot_at: at,
            encoding: "UTF8".into(),
            locale_provider: "icu".into(),
            collate: "C".into(),
            ctype: "C".into(),
            provider_locale: None,
            extensions,
            collations: vec![],
            tables: tables
                .into_iter()
                .map(|(schema, table, rows, exact)| TableCount { schema, table, rows, exact, bytes: 0 })
                .collect(),
            database_bytes: 1,
        }
    })
}

fn manifest() -> impl Strategy<Value = ComponentManifest> {
    (any::<u128>(), moment(), proptest::collection::vec(any::<String>(), 0..3), proptest::collection::vec(dump(), 1..4))
        .prop_map(|(random, at, warnings, databases)| ComponentManifest {
            read_back: None,
            format: FORMAT,
            point: PointId::new(at, random),
            application: "shop".parse().unwrap(),
            component: "db".parse().unwrap(),
            window: Window { from: at, to: at },
            consistency: Consistency::Component,
            started: at,
            finished: at,
            tools: vec![],
            warnings,
            data: ComponentData::Postgres(PostgresData { server_version: 150_018, databases, globals: None }),
        })
}

proptest! {
    #[test]
    fn what_is_written_is_read(manifest in manifest(), seed: [u8; 32], random: u128) {
        let (key, writer) = (SigningKey::from_seed(&seed).unwrap(), WriterId::new(Timestamp::UNIX_EPOCH, random));
        let bytes = key.sign_document(writer, &manifest).unwrap();
        prop_assert_eq!(bytes.split(|b| *b == b'\n').count(), 3, "two lines, whatever the names hold");
        let unchecked = Unchecked::parse(&bytes).unwrap();
        prop_assert_eq!(unchecked.writer(), writer);
        prop_assert_eq!(unchecked.check::<ComponentManifest>(&key.public()).unwrap(), manifest);
    }

    #[test]
    fn not_one_byte_can_be_another(manifest in manifest(), seed: [u8; 32], at: prop::sample::Index, bit in 0..8u8) {
        let (key, writer) = (SigningKey::from_seed(&seed).unwrap(), WriterId::new(Timestamp::UNIX_EPOCH, 7));
        let mut bytes = key.sign_document(writer, &manifest).unwrap();
        let document = bytes.iter().position(|b| *b == b'\n').unwrap();
        let index = at.index(document);
        bytes[index] ^= 1 << bit;
        let read = Unchecked::parse(&bytes).and_then(|unchecked| unchecked.check::<ComponentManifest>(&key.public()));
        prop_assert!(read.is_err());
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over(manifest in manifest(), field in "x_[a-z]{1,10}", value: u64) {
        let mut json = serde_json::to_value(&manifest).unwrap();
        json.as_object_mut().unwrap().insert(field, value.into());
        prop_assert_eq!(serde_json::from_value::<ComponentManifest>(json).unwrap(), manifest);
    }
}
