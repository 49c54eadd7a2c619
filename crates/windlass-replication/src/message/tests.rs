use postgres_protocol::message::backend::Message;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

use super::{Channel, LARGEST, NOTICES, STRANGER};
use crate::ReplicationError;

/// A message as servers write it.
pub(crate) fn message(letter: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[letter][..], &length.to_be_bytes(), body].concat()
}

/// A channel, and the server's end of it.
pub(crate) fn channel() -> (Channel, DuplexStream) {
    let (ours, theirs) = duplex(1 << 20);
    (Channel::new(Box::new(ours), "try"), theirs)
}

/// What is read where a server says this and goes away.
async fn after(said: &[u8]) -> Result<Message, ReplicationError> {
    let (mut channel, mut server) = channel();
    channel.trust();
    server.write_all(said).await.unwrap();
    drop(server);
    channel.read().await
}

fn notice(text: &str) -> Vec<u8> {
    message(b'N', format!("SWARNUNG\0VWARNING\0C01000\0M{text}\0\0").as_bytes())
}

#[tokio::test]
async fn a_message_is_read_however_it_is_cut() {
    let (mut channel, mut server) = channel();
    let said = [notice("hm"), message(b'S', b"server_version\x0015.18\0"), message(b'd', b"bytes")].concat();
    let writer = tokio::spawn(async move {
        for byte in said {
            server.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        server
    });
    let Message::CopyData(body) = channel.read().await.unwrap() else { panic!("another message") };
    assert_eq!(&body.into_bytes()[..], b"bytes");
    assert_eq!(channel.server_version.as_deref(), Some("15.18"));
    assert_eq!(channel.notices.first[0].message, "hm");
    assert_eq!(channel.notices.first[0].severity, "WARNING", "not translated");
    drop(writer.await.unwrap());
    let end = channel.read().await;
    assert!(matches!(end, Err(ReplicationError::Closed { last: Some(last), .. }) if last == "hm"));
}

#[tokio::test]
async fn a_read_that_is_given_up_loses_nothing() {
    let (mut channel, mut server) = channel();
    let said = message(b'd', b"bytes");
    server.write_all(&said[..7]).await.unwrap();
    let early = tokio::time::timeout(std::time::Duration::from_millis(20), channel.read()).await;
    assert!(early.is_err());
    server.write_all(&said[7..]).await.unwrap();
    assert!(matches!(channel.read().await, Ok(Message::CopyData(body)) if body.data() == b"bytes"));
}

#[tokio::test]
async fn an_end_anywhere_is_an_end_that_is_too_early() {
    let whole = message(b'd', b"bytes");
    for length in 0..whole.len() {
        let read = after(&whole[..length]).await;
        assert!(matches!(read, Err(ReplicationError::Closed { .. })), "{length}");
    }
    assert!(after(&whole).await.is_ok());
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_read() {
    let header = |length: usize| [&b"d"[..], &u32::try_from(length).unwrap().to_be_bytes()].concat();
    let read = after(&header(LARGEST + 1)).await;
    assert!(matches!(read, Err(ReplicationError::TooLarge { bytes, .. }) if bytes == LARGEST as u64 + 1));
    assert!(matches!(after(&header(LARGEST)).await, Err(ReplicationError::Closed { .. })), "this may come");

    let (mut stranger, mut server) = channel();
    server.write_all(&header(STRANGER + 1)).await.unwrap();
    drop(server);
    assert!(matches!(stranger.read().await, Err(ReplicationError::TooLarge { .. })));
}

#[tokio::test]
async fn what_is_not_the_protocol_is_an_error() {
    let cases: [(&str, Vec<u8>); 8] = [
        ("a letter that is not known", message(b'?', b"")),
        ("a length below its own", b"d\0\0\0\x03".to_vec()),
        ("a negative length", b"d\xFF\xFF\xFF\xFF".to_vec()),
        ("a notice without an end", message(b'N', b"VWARNING")),
        ("a status without a value", message(b'S', b"server_version\0")),
        ("a way of logging in that is not known", message(b'R', &[0, 0, 0, 99])),
        ("too much in it", message(b'Z', b"II")),
        ("too little in it", message(b'Z', b"")),
    ];
    for (what, said) in cases {
        let read = after(&said).await;
        assert!(matches!(read, Err(ReplicationError::Protocol { .. })), "{what}");
    }
}

#[tokio::test]
async fn rows_and_errors_that_do_not_add_up_are_errors() {
    let Ok(Message::DataRow(row)) = after(&message(b'D', &[0, 2, 0, 0, 0, 1, b'x', 0, 0, 0, 9, b'y'])).await else {
        panic!("no row")
    };
    let (channel, _server) = channel();
    assert!(matches!(channel.columns(&row), Err(ReplicationError::Protocol { .. })));

    let refusal = channel.refusal(after(&message(b'E', b"Mno")).await.unwrap());
    assert!(matches!(refusal, ReplicationError::Protocol { .. }));
    let refusal = channel.refusal(after(&message(b'E', b"C42501\0Mno \xFF\0Hask\0\0")).await.unwrap());
    assert_eq!(refusal.to_string(), "try: no \u{FFFD} (SQLSTATE 42501); hint: ask");
}

#[tokio::test]
async fn notices_are_bounded_in_number_and_length() {
    let (mut channel, mut server) = channel();
    channel.trust();
    for _ in 0..NOTICES + 5 {
        server.write_all(&notice(&"é".repeat(3000))).await.unwrap();
        server.write_all(&message(b'c', b"")).await.unwrap();
        channel.read().await.unwrap();
    }
    assert_eq!((channel.notices.first.len(), channel.notices.more), (NOTICES, 5));
    assert!(channel.notices.first[0].message.chars().count() <= 2001);
}
