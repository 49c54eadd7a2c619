#![expect(clippy::cast_possible_truncation, reason = "the numbers of tests are small, or meant to be cut")]

use std::io::{Read, Write};

use proptest::prelude::*;
use windlass_core::hex;

use super::{CHUNK, HEADER, KeyForm, OVERHEAD, Opener, SealKey, Sealer};
use crate::format::walg::WalgError;

/// Lengths of content, headers, and the SHA-256 of what libsodium 1.0.18 itself made of them in chunks of 8192 bytes, with the
/// key 00 01 02 ... 1f and the content `byte[i] = 7 i + length`.
const BY_LIBSODIUM: [(usize, &str, &str); 11] = [
    (
        0,
        "1aa3ae27049f747fbc54670580042a14089ddf06fe2cfaa3",
        "6fb7c0af146fa0f801b6635b8c824e16e88fbbe6db462a167212f8ce5fb49b1a",
    ),
    (
        1,
        "afd9e62dd8099c5286284d7fc9f720826ae40388049b796e",
        "363cf22fc518b97745ceda83b545453b776c416f92b8a1bdc0e179719b667664",
    ),
    (
        15,
        "ec1df48d33212bd0ecbad0dc69a4675a3d3a8efdbac8d0be",
        "d007a04e9407770d6794b17718ba877b85ce5f34c2f038de5d949d856f8fac31",
    ),
    (
        16,
        "5dcf96700ed1afa289a32fdd35c6c4f715531e09c7075baf",
        "6ad0a759492f8fe14279b06235c80bdcc3bc3d4015e4d607de64062b8be60f06",
    ),
    (
        17,
        "2f72f8346d7fcdfe90bdf7a9aea0a2902851df17a04fba17",
        "c6d4328c6e4491559373db9975b2701302265243f34baa454c159f772211d668",
    ),
    (
        100,
        "4cd3017e1b87bae1e4cdb83eeabcef0e9c0fa19c181e344c",
        "949d7113ccaf173695326f5a65c433ff0558b6285be37cd33123598a3949cc60",
    ),
    (
        8191,
        "b4fc69eb91c6af6db75910619e556d0b4cdb18c5223df381",
        "be9e35c6eac24acf9d713928c289463410d37821e38accf8ba0579cbe073177f",
    ),
    (
        8192,
        "0086c868a9f7f4282036d6b27ffc6ca1c2e449616631f271",
        "8d60e8e4a43687dd701d21197c5c94162fae09e67377bba72c3c8da4df840340",
    ),
    (
        8193,
        "eced1bce3829d731290212b077d682f191b07790a2b87888",
        "99fa45f328374a609644d9273c3ccfdc4ce14a3fa1c572fea575c74c292fa9ad",
    ),
    (
        16384,
        "dc79018aff436f54eaacbb793e9d5c44ec203d14121aebe1",
        "a64a3526d360f999a2b8a6f9ef24d4d7ad065a68a2f9de59004c861c095e6d40",
    ),
    (
        20000,
        "b5235db50e5b9275d579224c7f3421b4258d55969074f4ca",
        "7bc96a5ed3d5f6fa1812aaa0f9ef407d5136820490c4db56e56ecd1d91d30cf9",
    ),
];

fn key() -> SealKey {
    let digits: String = (0..32).map(|byte| format!("{byte:02x}")).collect();
    SealKey::parse(&digits, KeyForm::Hex).unwrap()
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|index| ((index * 7 + length) % 256) as u8).collect()
}

fn sealed(content: &[u8], header: [u8; HEADER]) -> Vec<u8> {
    let mut sealer = Sealer::with_header(&key(), header, Vec::new()).unwrap();
    sealer.write_all(content).unwrap();
    sealer.finish().unwrap()
}

fn opened(key: &SealKey, sealed: &[u8]) -> Result<Vec<u8>, WalgError> {
    let mut content = Vec::new();
    let read = Opener::new(key, sealed).read_to_end(&mut content);
    read.map(|_| content).map_err(|error| WalgError::of_read("object", error))
}

#[test]
fn what_is_sealed_is_byte_for_byte_what_libsodium_makes() {
    for (length, header, digest) in BY_LIBSODIUM {
        let header = hex::decode(header).unwrap().try_into().unwrap();
        let sealed = sealed(&content(length), header);
        assert_eq!(hex::sha256(&sealed), digest, "{length}");
        assert_eq!(opened(&key(), &sealed).unwrap(), content(length), "{length}");
    }
}

#[test]
fn each_object_begins_with_another_header() {
    let [one, two] = [(); 2].map(|()| Sealer::new(&key(), Vec::new()).unwrap().finish().unwrap());
    assert_ne!(one, two);
}

#[test]
fn another_key_a_cut_and_an_exchange_are_told_apart() {
    let good = sealed(&content(3 * CHUNK + 100), [7; HEADER]);
    let other = SealKey::parse("a password of 25 characters", KeyForm::Raw).unwrap();
    assert!(matches!(opened(&other, &good), Err(WalgError::WrongKey { .. })));

    let chunk = |index: usize| HEADER + index * (CHUNK + OVERHEAD);
    for cut in [0, 10, HEADER, chunk(1), chunk(2), chunk(1) + 5, chunk(3) - 1, good.len() - 1] {
        assert!(matches!(opened(&key(), &good[..cut]), Err(WalgError::Cut { .. })), "{cut}");
    }

    let mut exchanged = good.clone();
    let (first, second) = exchanged[chunk(1)..chunk(3)].split_at_mut(CHUNK + OVERHEAD);
    first.swap_with_slice(second);
    assert!(matches!(opened(&key(), &exchanged), Err(WalgError::Damaged { .. })));

    let mut left_out = good.clone();
    left_out.drain(chunk(1)..chunk(2));
    assert!(matches!(opened(&key(), &left_out), Err(WalgError::Damaged { .. })));
}

#[test]
fn a_key_is_taken_as_wal_g_takes_it() {
    let same = [
        ("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n", KeyForm::Hex),
        ("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", KeyForm::Base64),
    ];
    for (text, form) in same {
        assert_eq!(*SealKey::parse(text, form).unwrap().0, *key().0);
    }
    let short = "x".repeat(25);
    let raw = SealKey::parse(&short, KeyForm::Raw).unwrap();
    assert_eq!((&raw.0[..25], &raw.0[25..]), (short.as_bytes(), &[0; 7][..]));
    let long = SealKey::parse(&"y".repeat(40), KeyForm::Raw).unwrap();
    assert_eq!(*long.0, [b'y'; 32]);
    for (text, form) in [("x", KeyForm::Raw), ("00", KeyForm::Hex), ("zz", KeyForm::Hex), ("AAEC", KeyForm::Base64)] {
        assert!(SealKey::parse(text, form).is_err(), "{text}");
    }
    assert_eq!(format!("{:?}", key()), "SealKey");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_content_comes_back_however_it_is_cut_up(length in 0_usize..30_000, piece in 1_usize..10_000) {
        let content = content(length);
        let mut sealer = Sealer::new(&key(), Vec::new()).unwrap();
        for piece in content.chunks(piece) {
            sealer.write_all(piece).unwrap();
        }
        let sealed = sealer.finish().unwrap();
        prop_assert_eq!(sealed.len(), HEADER + length + (length / CHUNK + 1) * OVERHEAD);
        prop_assert_eq!(opened(&key(), &sealed).unwrap(), content);
    }

    #[test]
    fn a_changed_byte_is_never_taken(length in 0_usize..20_000, place: usize, change in 1_u8..) {
        let mut sealed = sealed(&content(length), [9; HEADER]);
        let place = place % sealed.len();
        sealed[place] ^= change;
        prop_assert!(opened(&key(), &sealed).is_err());
    }

    #[test]
    fn a_cut_is_never_taken(length in 0_usize..20_000, cut: usize) {
        let sealed = sealed(&content(length), [9; HEADER]);
        prop_assert!(opened(&key(), &sealed[..cut % sealed.len()]).is_err());
    }
}
