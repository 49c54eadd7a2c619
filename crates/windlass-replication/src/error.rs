//! What can go wrong on a replication connection.

use std::io;
use std::path::PathBuf;

use rustls::CertificateError;

use crate::AddressError;

/// The SQLSTATEs that something is known about
/// (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
mod state {
    pub(super) const NO_ACCESS: &str = "28000";
    pub(super) const WRONG_PASSWORD: &str = "28P01";
    pub(super) const NO_PRIVILEGE: &str = "42501";
    pub(super) const TOO_MANY: &str = "53300";
    pub(super) const LIMIT: &str = "53400";
    pub(super) const NOT_NOW: &str = "57P03";
    pub(super) const CORRUPT: &str = "XX001";
}

/// An operation on a replication connection that did not succeed. No variant holds a password.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    /// The URL cannot be used.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Nobody listens there, or the network leads nowhere.
    #[error("connect to {place}: {source}")]
    Unreachable {
        /// The host and its port.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// `connect_timeout` is over: nobody answered, or authentication did not end.
    #[error("connect to {place}: it gave no answer within {seconds} s")]
    Timeout {
        /// The host and its port.
        place: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The server has no TLS, and the URL asks for it.
    #[error("connect to {place}: the server does not speak TLS, and sslmode asks for it")]
    TlsRefused {
        /// The host and its port.
        place: String,
    },
    /// TLS was begun and not agreed on: a certificate that is not trusted, a protocol one side does not know.
    #[error("speak TLS with {place}: {source}")]
    Tls {
        /// The host and its port.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// A certificate or key of ours cannot be used.
    #[error("use `{}` for TLS: {why}", path.display())]
    TlsFile {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The server asks for a password, and there is none.
    #[error("log in as `{user}`: the server asks for a password, and there is none{}", bracketed(why.as_ref()))]
    NoPassword {
        /// The role.
        user: String,
        /// Why the password file was passed over.
        why: Option<String>,
    },
    /// The way the server wants to be logged in to is not gone, or it did not prove that it knows the password.
    #[error("log in as `{user}`: {why}")]
    Authentication {
        /// The role.
        user: String,
        /// Why.
        why: String,
    },
    /// The server said no.
    #[error("{doing}: {message} (SQLSTATE {code}){}", more(detail.as_ref(), hint.as_ref()))]
    Server {
        /// What was asked for.
        doing: &'static str,
        /// The SQLSTATE.
        code: String,
        /// The server's words.
        message: String,
        /// More of them.
        detail: Option<String>,
        /// And what it advises.
        hint: Option<String>,
    },
    /// The connection ended before what was asked for did. What came until then is not whole.
    #[error("{doing}: the server's side of the connection ended too early{}", last.as_ref().map(|last| format!("; its last words: {last}")).unwrap_or_default())]
    Closed {
        /// What was asked for.
        doing: &'static str,
        /// The last thing the server had said.
        last: Option<String>,
    },
    /// The socket failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was asked for.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The server does not keep to the protocol, or speaks one that is not known here.
    #[error("{doing}: the server's answer is not understood: {why}")]
    Protocol {
        /// What was asked for.
        doing: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A message larger than any there should be.
    #[error("{doing}: the server announces a message of {bytes} bytes, and {limit} are the most that are taken")]
    TooLarge {
        /// What was asked for.
        doing: &'static str,
        /// What it announces.
        bytes: u64,
        /// The bound.
        limit: u64,
    },
    /// The server is older than what is spoken here.
    #[error("{doing}: the server is version {version}, and 13 is the oldest that is spoken with")]
    TooOld {
        /// What was asked for.
        doing: &'static str,
        /// Its `server_version_num`.
        version: u32,
    },
    /// What was to be asked cannot be written in the server's grammar.
    #[error("{doing}: {why}")]
    Argument {
        /// What was to be asked for.
        doing: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// Something was asked before what went before was read to its end, or behind an error that left its end unknown.
    #[error("{doing}: the connection is in the middle of something else; open another")]
    Busy {
        /// What was asked for.
        doing: &'static str,
    },
    /// None of several attempts succeeded: hosts, or one host with TLS and without.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(
        /// All of them, in the order they were tried.
        Vec<Self>,
    ),
}

fn bracketed(why: Option<&String>) -> String {
    why.map(|why| format!(" ({why})")).unwrap_or_default()
}

fn more(detail: Option<&String>, hint: Option<&String>) -> String {
    let mut text = String::new();
    for (name, value) in [("detail", detail), ("hint", hint)] {
        if let Some(value) = value {
            text.push_str(&format!("; {name}: {value}"));
        }
    }
    text
}

impl ReplicationError {
    /// The SQLSTATE, where the server gave one.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server { code, .. } => Some(code),
            _ => None,
        }
    }

    /// Whether the server found its own data damaged: a page whose checksum is wrong, at the end of a base backup.
    pub fn is_corrupt(&self) -> bool {
        self.sqlstate() == Some(state::CORRUPT)
    }

    /// Whether another host of the same URL may do: the rule is libpq's, which gives up where a server answers.
    pub(crate) fn is_of_host(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => true,
            Self::Server { code, .. } => code == state::NOT_NOW,
            Self::Several(all) => all.iter().all(Self::is_of_host),
            _ => false,
        }
    }

    /// What to do about it, most useful first; each a sentence without a full stop. Empty where nothing is known.
    pub fn hints(&self) -> Vec<String> {
        let one = match self {
            Self::Server { code, .. } => of_state(code),
            Self::NoPassword { .. } => {
                "give the role's password, or write it into ~/.pgpass, which nobody else may read (chmod 600); a \
                 database field of `replication` or `*` is meant there"
            }
            Self::TlsRefused { .. } => {
                "switch on `ssl` on the server, or say sslmode=prefer where the network is trusted"
            }
            Self::Tls { source, .. } => of_tls(source),
            Self::Unreachable { .. } | Self::Timeout { .. } => {
                "see that the server runs, that `listen_addresses` and `port` are those of the URL, and that nothing \
                 between drops the packets"
            }
            Self::Several(all) => {
                let mut hints: Vec<String> = Vec::new();
                for hint in all.iter().flat_map(Self::hints) {
                    if !hints.contains(&hint) {
                        hints.push(hint);
                    }
                }
                return hints;
            }
            _ => "",
        };
        if one.is_empty() { Vec::new() } else { vec![one.to_owned()] }
    }
}

fn of_state(code: &str) -> &'static str {
    match code {
        state::NO_ACCESS => {
            "see that the role exists, and that a line of pg_hba.conf whose database is `replication` lets it in from \
             this machine (`all` does not mean it), as in `hostssl replication backup 10.0.0.0/8 scram-sha-256`; then \
             reload the server"
        }
        state::WRONG_PASSWORD => "see that the password is the role's, and that it has not expired",
        state::NO_PRIVILEGE => "give the role what it lacks: ALTER ROLE … REPLICATION",
        state::TOO_MANY => {
            "raise `max_wal_senders` (or `max_connections`) on the server, or wait until another backup or standby \
             lets go"
        }
        state::LIMIT => "raise `max_replication_slots` on the server, or drop slots that nobody uses",
        state::NOT_NOW => "wait until the server has come up",
        state::CORRUPT => {
            "the server's data are damaged: its warnings name the files; look for an older backup before anything is \
             deleted, and at the disk"
        }
        _ => "",
    }
}

fn of_tls(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(why)) => match why {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "name the host as the server's certificate does; it must be in its subjectAltName, as the common name \
                 is not looked at"
            }
            CertificateError::UnknownIssuer => {
                "give the authority that signed the server's certificate as sslrootcert, or the certificate itself"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "renew the server's certificate",
            CertificateError::Other(_) => {
                "the certificate may be of X.509 version 1: sign it with extensions (`openssl x509 -req -extfile …`)"
            }
            _ => "",
        },
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::ReplicationError;

    fn server(code: &str) -> ReplicationError {
        let (code, message) = (code.to_owned(), "no".to_owned());
        ReplicationError::Server { doing: "log in", code, message, detail: None, hint: None }
    }

    #[test]
    fn only_a_host_that_is_not_there_or_not_up_yet_is_passed_over() {
        let away = || ReplicationError::Timeout { place: "h:1".to_owned(), seconds: 1 };
        assert!(away().is_of_host() && server("57P03").is_of_host());
        assert!(!server("28P01").is_of_host());
        assert!(ReplicationError::Several(vec![away(), away()]).is_of_host());
        assert!(!ReplicationError::Several(vec![away(), server("28P01")]).is_of_host());
    }

    #[test]
    fn what_several_attempts_hint_at_is_said_once() {
        let all = ReplicationError::Several(vec![server("28000"), server("28000"), server("28P01")]);
        assert_eq!(all.hints().len(), 2);
        assert!(server("XX001").is_corrupt() && !server("XX000").is_corrupt());
    }
}
