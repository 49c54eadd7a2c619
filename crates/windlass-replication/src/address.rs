//! A libpq connection URI, as far as it says where a server is and how to speak to it
//! (<https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>).
//!
//! What is written in the URL means what it means to libpq; what is not understood here is an error that names it, so
//! that nothing asked for is silently left out. libpq's environment variables and service files are not read.
//! A URL with a password in it is refused, and no part of it is repeated.
//!
//! It is stricter than libpq where that leaves something out unsaid: a file named by `sslrootcert` must be there.
//! And without `connect_timeout` a server has a minute, where libpq waits for ever; 0 means for ever here too.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::uri;

/// Where libpq looks for sockets in the builds of Debian, Red Hat and the community's images.
pub(crate) const SOCKETS: &str = "/var/run/postgresql";

/// How long a server has to answer and to authenticate, where the URL does not say.
const PATIENCE: Duration = Duration::from_mins(1);

/// A URL that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is something else.
    #[error("use the server's URL: it does not begin with postgresql://")]
    Scheme,
    /// It holds a password.
    #[error("use the server's URL: it holds a password, which would stand where everybody can read it")]
    Password,
    /// A parameter that is not understood, or that nothing here does.
    #[error("use the server's URL: {} is not supported for replication connections", named(name.as_ref()))]
    Parameter {
        /// Its name, if it looks like one.
        name: Option<String>,
    },
    /// A part whose value is wrong.
    #[error("use the server's URL: its {part} {why}")]
    Value {
        /// Which.
        part: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It names no user, and the system has no name for who asks.
    #[error("use the server's URL: it names no user, and user {uid} of this system has no name")]
    NoUser {
        /// Who asks.
        uid: u32,
    },
}

fn named(name: Option<&String>) -> String {
    name.map_or_else(|| "one of its parameters".to_owned(), |name| format!("the parameter `{name}`"))
}

/// Where a server is, who asks, and how the connection is to be protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub(crate) hosts: Vec<Host>,
    pub(crate) user: String,
    /// Not connected to: a replication connection has no database. Password files may name it.
    pub(crate) database: String,
    pub(crate) tls: TlsChoice,
    pub(crate) channel_binding: ChannelBinding,
    pub(crate) patience: Option<Duration>,
    pub(crate) application_name: Option<String>,
    pub(crate) passfile: Option<PathBuf>,
}

impl Address {
    /// From a URL such as `postgresql://backup@db.example/?sslmode=verify-full`.
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        let uri::Given {
            user,
            database,
            host,
            hostaddr,
            port,
            sslmode,
            sslrootcert,
            sslcert,
            sslkey,
            channel_binding,
            connect_timeout,
            application_name,
            passfile,
        } = uri::read(url)?;
        let user = user.map_or_else(uri::os_user, Ok)?;
        let roots = match sslrootcert.as_deref() {
            None => Roots::Usual,
            Some("system") => Roots::System,
            Some(file) => Roots::File(file.into()),
        };
        let mode = match sslmode.as_deref() {
            None if roots == Roots::System => SslMode::VerifyFull,
            None => SslMode::Prefer,
            Some(word) => SslMode::parse(word)?,
        };
        if roots == Roots::System && mode != SslMode::VerifyFull {
            let why = "must be verify-full where sslrootcert is system: anybody can have a certificate of those";
            return Err(AddressError::Value { part: "sslmode", why });
        }
        let channel_binding = match channel_binding.as_deref() {
            None | Some("prefer") => ChannelBinding::Prefer,
            Some("disable") => ChannelBinding::Disable,
            Some("require") => ChannelBinding::Require,
            Some(_) => {
                let why = "is none of disable, prefer, require";
                return Err(AddressError::Value { part: "channel_binding", why });
            }
        };
        let patience = match connect_timeout.as_deref().map(str::parse::<i64>) {
            None => Some(PATIENCE),
            Some(Ok(seconds)) => u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs),
            Some(Err(_)) => {
                return Err(AddressError::Value { part: "connect_timeout", why: "is no number of seconds" });
            }
        };
        Ok(Self {
            hosts: hosts(host.as_deref(), hostaddr.as_deref(), port.as_deref())?,
            database: database.unwrap_or_else(|| user.clone()),
            user,
            tls: TlsChoice { mode, roots, cert: sslcert.map(Into::into), key: sslkey.map(Into::into) },
            channel_binding,
            patience,
            application_name,
            passfile: passfile.map(Into::into),
        })
    }

    /// The hosts, in the order they are tried.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The role to log in as.
    pub fn user(&self) -> &str {
        &self.user
    }
}

/// One host of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub(crate) place: Place,
    pub(crate) port: u16,
}

/// How a host is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The folder of a unix socket.
    Folder(PathBuf),
    /// A name to look up, or an address.
    Name(String),
    /// An address to connect to, and the name it goes by, if it has one.
    Address(IpAddr, Option<String>),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match &self.place {
            Place::Folder(folder) => write!(f, "{}/.s.PGSQL.{port}", folder.display()),
            Place::Name(name) if name.contains(':') => write!(f, "[{name}]:{port}"),
            Place::Name(name) => write!(f, "{name}:{port}"),
            Place::Address(IpAddr::V6(address), None) => write!(f, "[{address}]:{port}"),
            Place::Address(address, None) => write!(f, "{address}:{port}"),
            Place::Address(address, Some(name)) => write!(f, "{name} ({address}):{port}"),
        }
    }
}

/// One host for each name, address and port, which are lists of one length; a single port is that of all.
fn hosts(names: Option<&str>, addresses: Option<&str>, ports: Option<&str>) -> Result<Vec<Host>, AddressError> {
    let list = |text: Option<&str>| -> Vec<String> {
        text.map(|text| text.split(',').map(str::to_owned).collect()).unwrap_or_default()
    };
    let (names, addresses, ports) = (list(names), list(addresses), list(ports));
    let count = names.len().max(addresses.len()).max(1);
    if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
        return Err(AddressError::Value { part: "hostaddr", why: "has not as many addresses as there are hosts" });
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(AddressError::Value { part: "port", why: "has not as many numbers as there are hosts" });
    }
    let mut hosts = Vec::new();
    for index in 0..count {
        let port = match ports.get(if ports.len() == 1 { 0 } else { index }).map_or("", String::as_str) {
            "" => 5432,
            text => text.parse().ok().filter(|port| *port > 0).ok_or(AddressError::Value {
                part: "port",
                // Not repeated: behind a colon there may be a password with a slash in it.
                why: "is no number of a port",
            })?,
        };
        let name = names.get(index).filter(|name| !name.is_empty());
        let address = addresses.get(index).filter(|address| !address.is_empty());
        let place = match (name, address) {
            (name, Some(address)) => {
                let wrong = AddressError::Value { part: "hostaddr", why: "is no IP address" };
                Place::Address(address.parse().map_err(|_| wrong)?, name.cloned())
            }
            (None, None) => Place::Folder(SOCKETS.into()),
            (Some(name), None) if name.starts_with('/') => Place::Folder(name.into()),
            (Some(name), None) if name.starts_with('@') => {
                return Err(AddressError::Value { part: "host", why: "is an abstract socket, which is not supported" });
            }
            (Some(name), None) => Place::Name(name.clone()),
        };
        hosts.push(Host { place, port });
    }
    Ok(hosts)
}

/// What the URL says of TLS. Unix sockets have none, whatever it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsChoice {
    pub(crate) mode: SslMode,
    pub(crate) roots: Roots,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

/// `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    fn parse(word: &str) -> Result<Self, AddressError> {
        Ok(match word {
            "disable" => Self::Disable,
            "allow" => Self::Allow,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => {
                let why = "is none of disable, allow, prefer, require, verify-ca, verify-full";
                return Err(AddressError::Value { part: "sslmode", why });
            }
        })
    }
}

/// `sslrootcert`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Roots {
    /// `~/.postgresql/root.crt`, if it is there.
    Usual,
    /// Those the system trusts.
    System,
    File(PathBuf),
}

/// `channel_binding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

#[cfg(test)]
mod tests;
