//! From a socket to a session: startup and authentication
//! (<https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>).
//!
//! A password in the clear goes over TLS or a unix socket only. Where SCRAM was begun, nobody is taken for the server who
//! did not prove that he knows the password; with `channel_binding=require` nobody who did not prove it on this very
//! connection.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use secrecy::{ExposeSecret, SecretString};

use crate::ReplicationError;
use crate::address::ChannelBinding;
use crate::message::Channel;
use crate::stream::Privacy;

/// Who logs in.
pub(crate) struct Login<'a> {
    pub(crate) user: &'a str,
    pub(crate) application_name: &'a str,
    pub(crate) channel_binding: ChannelBinding,
    /// The password, or why there is none.
    pub(crate) password: Result<SecretString, Option<String>>,
    pub(crate) privacy: Privacy,
}

/// How far the two sides have come.
enum Proof {
    None,
    Begun { scram: ScramSha256, is_bound: bool },
    Given { is_bound: bool },
}

/// Logs in for physical replication.
pub(crate) async fn start_up(channel: &mut Channel, login: &Login<'_>) -> Result<(), ReplicationError> {
    let parameters = [
        ("user", login.user),
        ("replication", "true"),
        ("application_name", login.application_name),
        ("client_encoding", "UTF8"),
    ];
    let mut out = BytesMut::new();
    frontend::startup_message(parameters, &mut out).map_err(|error| login.failed(error.to_string()))?;
    channel.send(&out).await?;
    let mut proof = Proof::None;
    loop {
        match channel.read().await? {
            Message::AuthenticationOk => {
                login.accept(&proof)?;
                break;
            }
            Message::AuthenticationCleartextPassword => {
                login.may_answer("a password in the clear")?;
                if matches!(login.privacy, Privacy::Open) {
                    let why = "the server asks for the password in the clear, on a connection that everybody between \
                               can read; use TLS (sslmode), or scram-sha-256 in pg_hba.conf";
                    return Err(login.failed(why));
                }
                login.answer(channel, login.password()?.expose_secret().as_bytes()).await?;
            }
            Message::AuthenticationMd5Password(body) => {
                login.may_answer("a password hashed by MD5")?;
                let password = login.password()?.expose_secret().as_bytes();
                let hash = md5_hash(login.user.as_bytes(), password, body.salt());
                login.answer(channel, hash.as_bytes()).await?;
            }
            Message::AuthenticationSasl(body) => {
                let (mechanism, scram, is_bound) = login.choose(&body)?;
                let mut out = BytesMut::new();
                frontend::sasl_initial_response(mechanism, scram.message(), &mut out)
                    .map_err(|error| login.failed(error.to_string()))?;
                channel.send(&out).await?;
                proof = Proof::Begun { scram, is_bound };
            }
            Message::AuthenticationSaslContinue(body) => {
                let Proof::Begun { scram, .. } = &mut proof else { return Err(channel.wrong("SCRAM was not begun")) };
                scram.update(body.data()).map_err(|error| login.failed(format!("SCRAM: {error}")))?;
                let mut out = BytesMut::new();
                frontend::sasl_response(scram.message(), &mut out).map_err(|error| login.failed(error.to_string()))?;
                channel.send(&out).await?;
            }
            Message::AuthenticationSaslFinal(body) => {
                let Proof::Begun { mut scram, is_bound } = proof else {
                    return Err(channel.wrong("SCRAM was not begun"));
                };
                scram.finish(body.data()).map_err(|error| {
                    login.failed(format!("the server does not prove that it knows the password: {error}"))
                })?;
                proof = Proof::Given { is_bound };
            }
            Message::AuthenticationGss | Message::AuthenticationSspi | Message::AuthenticationKerberosV5 => {
                return Err(login.failed("the server asks for Kerberos, which is not supported"));
            }
            other => return Err(channel.refusal(other)),
        }
    }
    channel.trust();
    loop {
        match channel.read().await? {
            Message::BackendKeyData(_) => {}
            Message::ReadyForQuery(_) => return Ok(()),
            other => return Err(channel.refusal(other)),
        }
    }
}

impl Login<'_> {
    fn failed(&self, why: impl Into<String>) -> ReplicationError {
        ReplicationError::Authentication { user: self.user.to_owned(), why: why.into() }
    }

    fn password(&self) -> Result<&SecretString, ReplicationError> {
        let missing =
            |why: &Option<String>| ReplicationError::NoPassword { user: self.user.to_owned(), why: why.clone() };
        self.password.as_ref().map_err(missing)
    }

    async fn answer(&self, channel: &mut Channel, password: &[u8]) -> Result<(), ReplicationError> {
        let mut out = BytesMut::new();
        frontend::password_message(password, &mut out)
            .map_err(|_| self.failed("the password has a zero byte in it"))?;
        channel.send(&out).await
    }

    /// Whether anything but a bound SCRAM may be answered.
    fn may_answer(&self, asked: &str) -> Result<(), ReplicationError> {
        match self.channel_binding {
            ChannelBinding::Require => {
                Err(self.failed(format!("channel_binding is required, and the server asks for {asked}")))
            }
            _ => Ok(()),
        }
    }

    /// Whether the server may let us in now.
    fn accept(&self, proof: &Proof) -> Result<(), ReplicationError> {
        match (proof, self.channel_binding) {
            (Proof::Begun { .. }, _) => {
                Err(self.failed("the server ends SCRAM without proving that it knows the password"))
            }
            (Proof::Given { is_bound: true }, _) | (_, ChannelBinding::Disable | ChannelBinding::Prefer) => Ok(()),
            (_, ChannelBinding::Require) => {
                Err(self.failed("channel_binding is required, and the server lets us in without"))
            }
        }
    }

    /// The mechanism, and whether it is bound to the connection.
    fn choose(&self, body: &AuthenticationSaslBody) -> Result<(&'static str, ScramSha256, bool), ReplicationError> {
        let (mut has_plain, mut has_plus) = (false, false);
        let mut offered = body.mechanisms();
        while let Some(name) = offered.next().map_err(|error| self.failed(error.to_string()))? {
            has_plain |= name == SCRAM_SHA_256;
            has_plus |= name == SCRAM_SHA_256_PLUS;
        }
        let end_point = match (&self.privacy, self.channel_binding) {
            (_, ChannelBinding::Disable) | (Privacy::Local | Privacy::Open, _) => None,
            (Privacy::Tls { end_point }, _) => end_point.clone(),
        };
        let binding = match (end_point, has_plus) {
            (Some(end_point), true) => {
                let binding = sasl::ChannelBinding::tls_server_end_point(end_point);
                let scram = ScramSha256::new(self.password()?.expose_secret().as_bytes(), binding);
                return Ok((SCRAM_SHA_256_PLUS, scram, true));
            }
            // This tells the server that we could have: it ends here if somebody took its offer away.
            (Some(_), false) => sasl::ChannelBinding::unrequested(),
            (None, _) => sasl::ChannelBinding::unsupported(),
        };
        if self.channel_binding == ChannelBinding::Require {
            let why = match self.privacy {
                Privacy::Tls { .. } if has_plus => "the certificate's signature has no hash that could be used",
                Privacy::Tls { .. } => "the server does not offer it",
                Privacy::Local | Privacy::Open => "the connection has no TLS",
            };
            return Err(self.failed(format!("channel_binding is required, and {why}")));
        }
        if !has_plain {
            return Err(self.failed("the server offers no mechanism of SASL that is known here"));
        }
        let scram = ScramSha256::new(self.password()?.expose_secret().as_bytes(), binding);
        Ok((SCRAM_SHA_256, scram, false))
    }
}

#[cfg(test)]
mod tests;
