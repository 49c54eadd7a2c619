//! Servers that do not play fair.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::{Login, start_up};
use crate::ReplicationError;
use crate::address::ChannelBinding;
use crate::message::tests::{channel, message};
use crate::stream::Privacy;

fn login(privacy: Privacy, channel_binding: ChannelBinding) -> Login<'static> {
    Login { user: "u", application_name: "a", channel_binding, password: Ok("s3cret".into()), privacy }
}

fn tls() -> Privacy {
    Privacy::Tls { end_point: Some(vec![7; 32]) }
}

fn authentication(kind: u8, more: &[u8]) -> Vec<u8> {
    message(b'R', &[&[0, 0, 0, kind], more].concat())
}

fn offers(mechanisms: &[&str]) -> Vec<u8> {
    let list: String = mechanisms.iter().map(|name| format!("{name}\0")).collect();
    authentication(10, format!("{list}\0").as_bytes())
}

async fn read_some(server: &mut DuplexStream) -> String {
    let mut buffer = vec![0; 4096];
    let length = server.read(&mut buffer).await.unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// Logs in where the server answers so, one answer for each thing that is sent; returns what was sent.
async fn log_in(login: Login<'_>, answers: &[Vec<u8>]) -> (Result<(), ReplicationError>, String) {
    let (mut channel, mut server) = channel();
    let serve = async {
        let mut sent = read_some(&mut server).await;
        for answer in answers {
            server.write_all(answer).await.unwrap();
            // What is refused is not answered.
            let wait = std::time::Duration::from_millis(50);
            if let Ok(more) = tokio::time::timeout(wait, read_some(&mut server)).await {
                sent.push_str(&more);
            }
        }
        drop(server);
        sent
    };
    tokio::join!(start_up(&mut channel, &login), serve)
}

async fn refused(login: Login<'_>, answers: &[Vec<u8>], why: &str) {
    let (result, sent) = log_in(login, answers).await;
    let error = result.expect_err(why).to_string();
    assert!(error.contains(why), "{error}");
    assert!(!error.contains("s3cret") && !sent.contains("s3cret"), "{error} {sent}");
}

fn welcome() -> Vec<u8> {
    [authentication(0, b""), message(b'S', b"server_version\x0015.1\0"), message(b'Z', b"I")].concat()
}

#[tokio::test]
async fn a_password_in_the_clear_is_for_nobody_between() {
    let clear = || authentication(3, b"");
    refused(login(Privacy::Open, ChannelBinding::Prefer), &[clear()], "in the clear").await;
    for privacy in [tls(), Privacy::Local] {
        let (result, sent) = log_in(login(privacy, ChannelBinding::Prefer), &[clear(), welcome()]).await;
        result.unwrap();
        assert!(sent.contains("s3cret"));
    }
}

#[tokio::test]
async fn a_binding_that_is_required_is_not_talked_down() {
    let required = |privacy| login(privacy, ChannelBinding::Require);
    refused(required(tls()), &[authentication(3, b"")], "channel_binding is required").await;
    refused(required(tls()), &[authentication(5, b"salt")], "channel_binding is required").await;
    refused(required(tls()), &[welcome()], "lets us in without").await;
    refused(required(tls()), &[offers(&["SCRAM-SHA-256"])], "does not offer it").await;
    let both = || offers(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
    refused(required(Privacy::Open), &[both()], "no TLS").await;
    refused(required(Privacy::Tls { end_point: None }), &[both()], "no hash").await;
}

#[tokio::test]
async fn the_best_mechanism_is_taken_and_told_so() {
    let both = || offers(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
    let plain = || offers(&["SCRAM-SHA-256"]);
    let prefer = ChannelBinding::Prefer;
    let cases = [
        (tls(), prefer, both(), "SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,"),
        (tls(), prefer, plain(), "SCRAM-SHA-256\0", "y,,"),
        (tls(), ChannelBinding::Disable, both(), "SCRAM-SHA-256\0", "n,,"),
        (Privacy::Open, prefer, plain(), "SCRAM-SHA-256\0", "n,,"),
    ];
    for (privacy, binding, offer, mechanism, begins) in cases {
        let (_, sent) = log_in(login(privacy, binding), &[offer]).await;
        assert!(sent.contains(mechanism) && sent.contains(begins), "{mechanism} {begins}: {sent}");
    }
    refused(login(tls(), prefer), &[offers(&["OAUTHBEARER"])], "no mechanism").await;
}

#[tokio::test]
async fn nobody_is_the_server_who_did_not_prove_it() {
    let open = || login(Privacy::Open, ChannelBinding::Prefer);
    let offer = || offers(&["SCRAM-SHA-256"]);
    refused(open(), &[offer(), welcome()], "without proving").await;
    refused(open(), &[offer(), authentication(11, b"r=another,s=AAAA,i=4096")], "nonce").await;
    refused(open(), &[authentication(12, b"v=AAAA")], "not begun").await;
    refused(open(), &[authentication(7, b"")], "Kerberos").await;

    // A server that knows the client's nonce, and not the password.
    let (mut channel, mut server) = channel();
    let serve = async {
        read_some(&mut server).await;
        server.write_all(&offer()).await.unwrap();
        let sent = read_some(&mut server).await;
        let nonce = sent.rsplit_once("r=").unwrap().1.to_owned();
        server.write_all(&authentication(11, format!("r={nonce}x,s=AAAA,i=4096").as_bytes())).await.unwrap();
        read_some(&mut server).await;
        server.write_all(&authentication(12, b"v=AAAA")).await.unwrap();
        server
    };
    let who = open();
    let (result, _server) = tokio::join!(start_up(&mut channel, &who), serve);
    let error = result.unwrap_err().to_string();
    assert!(error.contains("does not prove"), "{error}");
}

#[tokio::test]
async fn without_a_password_it_is_said_why() {
    let why = Some("~/.pgpass is passed over".to_owned());
    let nobody = Login { password: Err(why), ..login(Privacy::Open, ChannelBinding::Prefer) };
    let (result, _) = log_in(nobody, &[offers(&["SCRAM-SHA-256"])]).await;
    let error = result.unwrap_err();
    assert!(matches!(error, ReplicationError::NoPassword { .. }));
    assert!(error.to_string().contains("is passed over") && !error.hints().is_empty());
}
