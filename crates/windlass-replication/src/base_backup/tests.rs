//! Servers of other versions, and such as break off, word by word.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use windlass_core::wal::{Lsn, Timeline};

use super::{BaseBackupOptions, End, Event};
use crate::message::tests::{channel, message};
use crate::{Connection, ReplicationError};

fn options() -> BaseBackupOptions {
    BaseBackupOptions { label: "it's".to_owned(), fast: true, wal: true, verify_checksums: false, max_rate: Some(64) }
}

#[test]
fn each_version_is_asked_in_its_grammar() {
    assert_eq!(
        options().command(140_009),
        "BASE_BACKUP LABEL 'it''s' PROGRESS TABLESPACE_MAP FAST WAL NOWAIT NOVERIFY_CHECKSUMS MAX_RATE 64"
    );
    assert_eq!(
        options().command(150_000),
        "BASE_BACKUP (LABEL 'it''s', PROGRESS, TABLESPACE_MAP, CHECKPOINT 'fast', WAL, WAIT false, MANIFEST 'no', \
         VERIFY_CHECKSUMS false, MAX_RATE 64)"
    );
    let quiet =
        BaseBackupOptions { label: "x".to_owned(), fast: false, wal: false, verify_checksums: true, max_rate: None };
    assert_eq!(quiet.command(130_000), "BASE_BACKUP LABEL 'x' PROGRESS TABLESPACE_MAP NOWAIT");
}

fn result(rows: &[&[Option<&str>]]) -> Vec<u8> {
    let mut said = message(b'T', &[0, 0]);
    for row in rows {
        let mut body = u16::try_from(row.len()).unwrap().to_be_bytes().to_vec();
        for column in *row {
            let length = column.map_or(-1, |text| i32::try_from(text.len()).unwrap());
            body.extend(length.to_be_bytes());
            body.extend(column.unwrap_or("").as_bytes());
        }
        said.extend(message(b'D', &body));
    }
    said.extend(message(b'C', b"SELECT\0"));
    said
}

fn announced() -> Vec<u8> {
    let start = result(&[&[Some("0/2000028"), Some("3")]]);
    let tablespaces = result(&[&[Some("16385"), Some("/t s"), Some("7")], &[None, None, None]]);
    [start, tablespaces].concat()
}

fn end() -> Vec<u8> {
    [result(&[&[Some("0/2000100"), Some("3")]]), message(b'C', b"BASE_BACKUP\0"), message(b'Z', b"I")].concat()
}

fn copy() -> Vec<u8> {
    message(b'H', &[0, 0, 0])
}

fn data(bytes: &[u8]) -> Vec<u8> {
    message(b'd', bytes)
}

fn done() -> Vec<u8> {
    message(b'c', b"")
}

/// What a server of a version gives that says this and goes away.
async fn taken(version: u32, said: Vec<Vec<u8>>) -> Result<(Vec<Event>, End), ReplicationError> {
    let (mut channel, mut server) = channel();
    channel.trust();
    let mut connection = Connection::of(channel, version);
    server.write_all(&said.concat()).await.unwrap();
    server.shutdown().await.unwrap();
    let mut backup = connection.base_backup(&options()).await?;
    assert_eq!(backup.start(), (Lsn(0x0200_0028), Timeline(3)));
    assert_eq!(backup.tablespaces()[0].location.to_str(), Some("/t s"));
    assert_eq!((backup.tablespaces()[0].size_kib, backup.main_size_kib()), (Some(7), None));
    let mut events = Vec::new();
    while let Some(event) = backup.next().await? {
        events.push(event);
    }
    assert_eq!(backup.next().await?, None);
    let end = backup.finish().await?;
    // What was asked for came as one command.
    let mut asked = vec![0; 1024];
    let length = server.read(&mut asked).await.unwrap();
    assert_eq!(asked[0], b'Q');
    assert!(length > 5);
    Ok((events, end))
}

fn bytes(text: &'static [u8]) -> Event {
    Event::Bytes(text.into())
}

const END: End = End { lsn: Lsn(0x0200_0100), timeline: Timeline(3), is_corrupt: false };

fn of_14() -> Vec<Vec<u8>> {
    vec![announced(), copy(), data(b"one"), done(), copy(), data(b"two"), data(b"three"), done(), end()]
}

fn of_15() -> Vec<Vec<u8>> {
    vec![
        announced(),
        copy(),
        data(b"n16385.tar\0/t s\0"),
        data(b"done"),
        data(b"p\0\0\0\0\0\0\0\x01"),
        data(b"nbase.tar\0\0"),
        data(b"dtwo"),
        data(b"dthree"),
        done(),
        end(),
    ]
}

#[tokio::test]
async fn an_old_server_looks_like_a_new_one() {
    let (new, end) = taken(150_018, of_15()).await.unwrap();
    let first = Event::Archive { tablespace: Some(16385) };
    let main = Event::Archive { tablespace: None };
    assert_eq!(new, [first.clone(), bytes(b"one"), main.clone(), bytes(b"two"), bytes(b"three")]);
    assert_eq!(end, END);

    let (old, end) = taken(140_009, of_14()).await.unwrap();
    let zeros = || bytes(&[0; 1024]);
    assert_eq!(old, [first, bytes(b"one"), zeros(), main, bytes(b"two"), bytes(b"three"), zeros()]);
    assert_eq!(end, END);
}

#[tokio::test]
async fn a_stream_that_breaks_off_anywhere_is_never_a_success() {
    for (version, whole) in [(150_018, of_15().concat()), (140_009, of_14().concat())] {
        for length in 0..whole.len() {
            let cut = taken(version, vec![whole[..length].to_vec()]).await;
            assert!(matches!(cut, Err(ReplicationError::Closed { .. })), "{version}, {length} bytes: {cut:?}");
        }
    }
}

#[tokio::test]
async fn an_archive_that_does_not_come_is_missed() {
    let mut without_main = of_15();
    without_main.drain(5..8);
    let mut twice = of_15();
    twice.insert(5, data(b"n16385.tar\0/t s\0"));
    let mut unannounced = of_15();
    unannounced.insert(5, data(b"n16386.tar\0/u\0"));
    let mut homeless = of_15();
    homeless.remove(2);
    let mut with_manifest = of_15();
    with_manifest.insert(8, data(b"m"));
    let mut unknown = of_15();
    unknown.insert(8, data(b"\x1B"));
    let mut empty = of_15();
    empty.insert(8, data(b""));
    for (version, said) in [
        (150_018, without_main),
        (150_018, twice),
        (150_018, unannounced),
        (150_018, homeless),
        (150_018, with_manifest),
        (150_018, unknown),
        (150_018, empty),
        (140_009, [&of_14()[..4], &[end()]].concat()),
    ] {
        let shown = String::from_utf8_lossy(&said.concat()).into_owned();
        let result = taken(version, said).await;
        assert!(matches!(result, Err(ReplicationError::Protocol { .. })), "{shown}: {result:?}");
    }
}

#[tokio::test]
async fn a_refusal_behind_the_end_is_no_success_but_damaged_pages_are_told() {
    let end = || result(&[&[Some("0/2000100"), Some("3")]]);
    let refused = message(b'E', b"SERROR\0C58P01\0Mcould not open file\0\0");
    let corrupt = message(b'E', b"SERROR\0CXX001\0Mchecksum verification failure during base backup\0\0");
    for (version, said) in [(150_018, of_15()), (140_009, of_14())] {
        let with = |last: &[u8]| {
            let mut said = said.clone();
            *said.last_mut().unwrap() = [end(), last.to_vec(), message(b'Z', b"I")].concat();
            said
        };
        assert_eq!(taken(version, with(&refused)).await.unwrap_err().sqlstate(), Some("58P01"));
        assert_eq!(taken(version, with(&corrupt)).await.unwrap().1, End { is_corrupt: true, ..END });
    }
}

#[tokio::test]
async fn what_cannot_be_asked_is_not_sent() {
    let (channel, _server) = channel();
    let mut connection = Connection::of(channel, 120_000);
    let old = connection.base_backup(&options()).await.map(|_| ());
    assert!(matches!(old, Err(ReplicationError::TooOld { version: 120_000, .. })));
    let mut connection = Connection::of(self::channel().0, 150_000);
    let lines = BaseBackupOptions { label: "a\nSTART TIMELINE: 9".to_owned(), ..options() };
    assert!(matches!(connection.base_backup(&lines).await.map(|_| ()), Err(ReplicationError::Argument { .. })));
    for name in ["x; DROP", "", "1x", "a..b", "a.b.", "ü"] {
        assert!(matches!(connection.show(name).await, Err(ReplicationError::Argument { .. })), "{name}");
    }
    for name in ["X", "a-b", "", "a\"b"] {
        let refused = connection.create_temporary_slot(name).await;
        assert!(matches!(refused, Err(ReplicationError::Argument { .. })), "{name}");
    }
}
