//! From an address to a session: hosts in turn, each with TLS and without, each within its time. The rules are libpq's.

use std::sync::Arc;

use rustls::ClientConfig;
use secrecy::{ExposeSecret, SecretString};

use crate::address::{Address, Host, Place, SslMode};
use crate::message::Channel;
use crate::passfile::{self, Found, Wanted};
use crate::startup::{Login, start_up};
use crate::stream::{self, Privacy, Target};
use crate::{ReplicationError, tls};

/// What is being done, for errors.
const LOG_IN: &str = "log in";

/// Connects to the first host that answers, and logs in.
pub(crate) async fn dial(
    address: &Address,
    password: Option<SecretString>,
    application_name: &str,
) -> Result<Channel, ReplicationError> {
    let has_network = address.hosts.iter().any(|host| !matches!(host.place, Place::Folder(_)));
    let is_encrypted = has_network && address.tls.mode != SslMode::Disable;
    let config = if is_encrypted { Some(tls::configure(&address.tls)?) } else { None };
    // An empty password is none, as for libpq.
    let password = password.filter(|password| !password.expose_secret().is_empty());
    let dial = Dial { address, password, application_name, config };
    let mut failures = Vec::new();
    for host in &address.hosts {
        match dial.host(host).await {
            Ok(channel) => return Ok(channel),
            Err(error) => {
                let is_of_host = error.is_of_host();
                failures.push(error);
                if !is_of_host {
                    break;
                }
            }
        }
    }
    Err(one_of(failures))
}

/// What an attempt at any host needs.
struct Dial<'a> {
    address: &'a Address,
    password: Option<SecretString>,
    application_name: &'a str,
    config: Option<Arc<ClientConfig>>,
}

impl Dial<'_> {
    async fn host(&self, host: &Host) -> Result<Channel, ReplicationError> {
        let targets = self.in_time(host, stream::look_up(host)).await?;
        let mut failures = Vec::new();
        for target in targets {
            match self.target(host, &target).await {
                Ok(channel) => return Ok(channel),
                Err(error) if error.is_of_host() => failures.push(error),
                Err(error) => return Err(error),
            }
        }
        // Of a name with several addresses the last says enough.
        Err(failures.pop().unwrap_or(ReplicationError::Several(Vec::new())))
    }

    /// With TLS, without, or one behind the other; libpq's rules for both.
    async fn target(&self, host: &Host, target: &Target) -> Result<Channel, ReplicationError> {
        let ways: &[bool] = match (target, self.address.tls.mode) {
            (Target::Socket(_), _) | (_, SslMode::Disable) => &[false],
            (_, SslMode::Allow) => &[false, true],
            (_, SslMode::Prefer) => &[true, false],
            (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[true],
        };
        let mut failures: Vec<ReplicationError> = Vec::new();
        for is_encrypted in ways {
            match self.in_time(host, self.attempt(host, target, *is_encrypted)).await {
                Ok(channel) => return Ok(channel),
                // That there is no TLS tells nothing where the other way was allowed.
                Err(ReplicationError::TlsRefused { .. }) if ways.len() > 1 => {}
                Err(error) => {
                    let is_of_way = matches!(error, ReplicationError::Server { .. } | ReplicationError::Tls { .. });
                    let is_said =
                        failures.iter().any(|said| said.sqlstate().is_some() && said.sqlstate() == error.sqlstate());
                    if !is_said {
                        failures.push(error);
                    }
                    if !is_of_way {
                        break;
                    }
                }
            }
        }
        Err(one_of(failures))
    }

    async fn attempt(&self, host: &Host, target: &Target, is_encrypted: bool) -> Result<Channel, ReplicationError> {
        let choice = &self.address.tls;
        let config = self.config.as_ref().filter(|_| is_encrypted).map(|config| (config, choice));
        let (wire, privacy) = stream::connect(host, target, config).await?;
        let mut channel = Channel::new(wire, LOG_IN);
        start_up(&mut channel, &self.login(host, privacy)).await?;
        Ok(channel)
    }

    fn login(&self, host: &Host, privacy: Privacy) -> Login<'_> {
        let Address { user, database, channel_binding, application_name, passfile, .. } = self.address;
        let wanted = Wanted { host, databases: ["replication", database], user };
        let password = match &self.password {
            Some(password) => Ok(password.clone()),
            None => match passfile::look(passfile.as_deref(), &wanted) {
                Found::Password(password) => Ok(password),
                Found::Nothing => Err(None),
                Found::PassedOver(why) => Err(Some(why)),
            },
        };
        let application_name = application_name.as_deref().unwrap_or(self.application_name);
        Login { user, application_name, channel_binding: *channel_binding, password, privacy }
    }

    /// As long as the URL lets it take.
    async fn in_time<T>(
        &self,
        host: &Host,
        attempt: impl Future<Output = Result<T, ReplicationError>>,
    ) -> Result<T, ReplicationError> {
        let Some(patience) = self.address.patience else { return attempt.await };
        let late = |_| ReplicationError::Timeout { place: host.to_string(), seconds: patience.as_secs() };
        tokio::time::timeout(patience, attempt).await.map_err(late)?
    }
}

/// The failure there is, or all of them as one.
fn one_of(mut failures: Vec<ReplicationError>) -> ReplicationError {
    match failures.pop() {
        Some(only) if failures.is_empty() => only,
        last => {
            failures.extend(last);
            ReplicationError::Several(failures)
        }
    }
}
