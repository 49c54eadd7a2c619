//! What must be known of a server's certificate and no library in the tree tells: with what hash it is signed, its
//! public key, and when it is valid (RFC 5280, section 4.1). Certificates of all versions of X.509 are read.
//!
//! ```text
//! Certificate = { TBSCertificate, signatureAlgorithm { oid, parameters }, signature }
//! TBSCertificate = { [0] version?, serial, signature, issuer, { notBefore, notAfter }, subject, publicKeyInfo, … }
//! ```

use ring::digest::{Algorithm, SHA256, SHA384, SHA512, digest};

const SEQUENCE: u8 = 0x30;
const OID: u8 = 0x06;
const BIT_STRING: u8 = 0x03;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, with something in it.
const CONTEXT_0: u8 = 0xA0;

/// A certificate's parts.
pub(crate) struct Certificate<'a> {
    whole: &'a [u8],
    signature_algorithm: &'a [u8],
    /// SubjectPublicKeyInfo, as it is.
    pub(crate) key_info: &'a [u8],
    /// What is in its AlgorithmIdentifier.
    pub(crate) key_algorithm: &'a [u8],
    pub(crate) key: &'a [u8],
    /// The first and the last second, as fourteen digits of UTC.
    pub(crate) valid: (String, String),
}

/// One element of DER.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
}

/// Takes the next element off.
fn next<'a>(input: &mut &'a [u8]) -> Option<Element<'a>> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
        if digits.is_empty() || digits.len() > 4 {
            return None;
        }
        (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    let whole = &input[..input.len() - rest.len()];
    *input = rest;
    Some(Element { tag, content, whole })
}

/// The content of the next element, which must be this one.
fn expect<'a>(input: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    next(input).filter(|element| element.tag == tag).map(|element| element.content)
}

impl<'a> Certificate<'a> {
    /// From DER; `None` where it is no certificate.
    pub(crate) fn read(der: &'a [u8]) -> Option<Self> {
        let mut certificate = expect(&mut &*der, SEQUENCE)?;
        let mut signed = expect(&mut certificate, SEQUENCE)?;
        let signature_algorithm = expect(&mut certificate, SEQUENCE)?;
        if signed.first() == Some(&CONTEXT_0) {
            next(&mut signed)?;
        }
        let (_serial, _signature, _issuer) = (next(&mut signed)?, next(&mut signed)?, next(&mut signed)?);
        let mut validity = expect(&mut signed, SEQUENCE)?;
        let valid = (time(&next(&mut validity)?)?, time(&next(&mut validity)?)?);
        let _subject = next(&mut signed)?;
        let info = next(&mut signed).filter(|info| info.tag == SEQUENCE)?;
        let mut inner = info.content;
        let key_algorithm = expect(&mut inner, SEQUENCE)?;
        // The first byte of a bit string says how many bits of the last are none.
        let key = expect(&mut inner, BIT_STRING)?.strip_prefix(&[0])?;
        Some(Self { whole: der, signature_algorithm, key_info: info.whole, key_algorithm, key, valid })
    }

    /// What `tls-server-end-point` binds a login to (RFC 5929, section 4.1): the certificate's digest by the hash it is
    /// signed with, or by SHA-256 where that is MD5 or SHA-1. `None` where that hash is not one, or not known here.
    pub(crate) fn end_point(&self) -> Option<Vec<u8>> {
        Some(digest(hash(self.signature_algorithm)?, self.whole).as_ref().to_vec())
    }
}

/// The hash of a signature, by the algorithm's identifier: RFC 8017, RFC 5758, RFC 4055.
fn hash(mut algorithm: &[u8]) -> Option<&'static Algorithm> {
    // 1.2.840.113549.1.1 and 1.2.840.10045.4
    const RSA: [u8; 8] = [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01];
    const ECDSA: [u8; 6] = [0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04];
    let oid = expect(&mut algorithm, OID)?;
    if let Some(rest) = oid.strip_prefix(&RSA) {
        return match rest {
            [4 | 5 | 11] => Some(&SHA256),
            [12] => Some(&SHA384),
            [13] => Some(&SHA512),
            [10] => pss_hash(algorithm),
            _ => None,
        };
    }
    match oid.strip_prefix(&ECDSA)? {
        [1] | [3, 2] => Some(&SHA256),
        [3, 3] => Some(&SHA384),
        [3, 4] => Some(&SHA512),
        _ => None,
    }
}

/// The hash among the parameters of RSASSA-PSS, SHA-1 where there is none.
fn pss_hash(mut parameters: &[u8]) -> Option<&'static Algorithm> {
    // 2.16.840.1.101.3.4.2, and 1.3.14.3.2.26
    const SHA_2: [u8; 8] = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
    const SHA_1: [u8; 5] = [0x2B, 0x0E, 0x03, 0x02, 0x1A];
    let mut parameters = expect(&mut parameters, SEQUENCE)?;
    if parameters.first() != Some(&CONTEXT_0) {
        return Some(&SHA256);
    }
    let mut identifier = expect(&mut next(&mut parameters)?.content, SEQUENCE)?;
    let oid = expect(&mut identifier, OID)?;
    if oid == SHA_1 {
        return Some(&SHA256);
    }
    match oid.strip_prefix(&SHA_2)? {
        [1] => Some(&SHA256),
        [2] => Some(&SHA384),
        [3] => Some(&SHA512),
        _ => None,
    }
}

/// `YYMMDDHHMMSSZ` of the years 1950 to 2049, or with a century.
fn time(element: &Element<'_>) -> Option<String> {
    let digits = std::str::from_utf8(element.content).ok()?.strip_suffix('Z')?;
    let is_digits = digits.bytes().all(|digit| digit.is_ascii_digit());
    match (element.tag, digits.len()) {
        (UTC_TIME, 12) if is_digits => Some(format!("{}{digits}", if digits < "5" { "20" } else { "19" })),
        (GENERALIZED_TIME, 14) if is_digits => Some(digits.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests;
