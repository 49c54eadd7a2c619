use std::io::Write;
use std::process::{Command, Stdio};

use super::Certificate;

/// What `openssl` says, given this.
fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("openssl is installed");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// One that signed for itself, by these options.
pub(crate) fn certificate(more: &[&str]) -> Vec<u8> {
    let begin = ["req", "-x509", "-nodes", "-keyout", "/dev/null", "-subj", "/CN=x", "-outform", "DER"];
    openssl(&[&begin, more].concat(), b"")
}

#[test]
fn the_end_point_is_the_digest_by_the_hash_of_the_signature() {
    let rsa = ["-newkey", "rsa:2048"];
    let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let pss = ["-newkey", "rsa:2048", "-sigopt", "rsa_padding_mode:pss"];
    let cases: [(&[&str], &str, &str); 7] = [
        (&rsa, "-sha256", "-sha256"),
        (&rsa, "-sha384", "-sha384"),
        (&rsa, "-sha512", "-sha512"),
        (&rsa, "-sha1", "-sha256"),
        (&ec, "-sha256", "-sha256"),
        (&ec, "-sha512", "-sha512"),
        (&pss, "-sha384", "-sha384"),
    ];
    for (key, signed_with, expected) in cases {
        let der = certificate(&[key, &[signed_with]].concat());
        let end_point = Certificate::read(&der).unwrap().end_point();
        assert_eq!(end_point, Some(openssl(&["dgst", "-binary", expected], &der)), "{key:?} {signed_with}");
    }
    let without = certificate(&["-newkey", "ed25519"]);
    assert_eq!(Certificate::read(&without).unwrap().end_point(), None, "its signature has no hash of its own");
}

#[test]
fn key_and_times_are_those_openssl_sees() {
    // More than fifty years from now the times have another form.
    for days in ["30", "36500"] {
        let der = certificate(&["-newkey", "rsa:2048", "-days", days]);
        let read = Certificate::read(&der).unwrap();
        let pem = openssl(&["x509", "-inform", "DER", "-noout", "-pubkey"], &der);
        assert_eq!(read.key_info, openssl(&["pkey", "-pubin", "-outform", "DER"], &pem));
        let dates = String::from_utf8(openssl(&["x509", "-inform", "DER", "-noout", "-dates"], &der)).unwrap();
        let year = |line: &str| line.split(' ').rev().nth(1).unwrap().to_owned();
        let years: Vec<String> = dates.lines().map(year).collect();
        assert_eq!([&read.valid.0[..4], &read.valid.1[..4]], [&years[0][..], &years[1][..]], "{dates}");
        assert_eq!((read.valid.0.len(), read.valid.1.len()), (14, 14));
    }
}

#[test]
fn what_is_cut_off_is_no_certificate() {
    let der = certificate(&["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    for length in 0..der.len() {
        assert!(Certificate::read(&der[..length]).is_none(), "{length}");
    }
    // Whatever is wrong with a byte, it is no panic.
    for index in 0..der.len() {
        for byte in [0, 0x7F, 0x80, 0x84, 0xFF] {
            let mut wrong = der.clone();
            wrong[index] = byte;
            let _ = Certificate::read(&wrong).map(|certificate| certificate.end_point());
        }
    }
}
