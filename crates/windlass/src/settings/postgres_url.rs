//! Connection URIs of PostgreSQL, as libpq takes them:
//! `postgresql://[user@][host[:port],…][/database][?parameter=value&…]`
//! (<https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>).
//!
//! Only what can be told without the network is looked at, and no part of a URL is ever repeated in a
//! message: a password with an odd character in it can end up in any of them.

use super::place::percent_decoded;
use super::suggest;

/// Why a URL is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It holds a password.
    Password,
    /// Something else: why, and the remedy.
    Invalid(String, String),
}

/// Parameters whose value is a secret.
const SECRETS: [&str; 4] = ["password", "sslpassword", "scram_client_key", "scram_server_key"];

/// The other parameters of libpq.
const PARAMETERS: [&str; 43] = [
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "options",
    "passfile",
    "port",
    "require_auth",
    "requirepeer",
    "requiressl",
    "service",
    "servicefile",
    "ssl",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

const SSLMODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// The parts a check looks at.
struct Parts<'u> {
    user: Option<&'u str>,
    hosts: &'u str,
    database: &'u str,
    parameters: Vec<(&'u str, &'u str)>,
}

fn split(url: &str) -> Option<Parts<'_>> {
    let rest = url.strip_prefix("postgresql://").or_else(|| url.strip_prefix("postgres://"))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (Some(user), hosts),
        None => (None, authority),
    };
    let parameters = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .collect();
    Some(Parts { user, hosts, database, parameters })
}

/// Checks a URL; where `named`, it must name a database.
pub(super) fn check(url: &str, named: bool) -> Result<(), Refusal> {
    let invalid = |why: &str, hint: &str| Err(Refusal::Invalid(why.to_owned(), hint.to_owned()));
    let Some(parts) = split(url) else {
        return invalid(
            "is not a URL of PostgreSQL",
            "write \"postgresql://USER@HOST:PORT/DATABASE\", and the password as a secret in `password`",
        );
    };
    if parts.user.is_some_and(|user| user.contains(':'))
        || parts.parameters.iter().any(|(key, _)| SECRETS.contains(key))
    {
        return Err(Refusal::Password);
    }
    if percent_decoded(url).is_none() {
        return invalid("has a `%` that is not followed by two hexadecimal digits", "write `%25` for a `%`");
    }
    if !parts.hosts.split(',').all(valid_host) {
        return invalid(
            "has no valid host and port",
            "write HOST or HOST:PORT behind the user's name; a `/`, `?`, `#` or `@` in a name is written %2F, %3F, %23 or %40",
        );
    }
    for (key, value) in &parts.parameters {
        if !PARAMETERS.contains(key) {
            let hint = suggest::nearest(key, PARAMETERS).map_or_else(
                || "libpq's documentation lists them: sslmode, sslrootcert, connect_timeout, …".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            return Err(Refusal::Invalid("has a parameter that libpq does not know".to_owned(), hint));
        }
        if *key == "sslmode" && !SSLMODES.contains(value) {
            return invalid("has an unknown `sslmode`", &format!("it is one of {}", SSLMODES.join(", ")));
        }
    }
    let names_one = !parts.database.is_empty()
        || parts.parameters.iter().any(|(key, value)| matches!(*key, "dbname" | "service") && !value.is_empty());
    if named && !names_one {
        return invalid(
            "names no database",
            "write it behind the host, postgresql://HOST/DATABASE, or write databases = \"all\"",
        );
    }
    Ok(())
}

fn valid_host(host: &str) -> bool {
    let port = if host.starts_with('[') {
        match host.split_once(']') {
            Some((_, rest)) => rest.strip_prefix(':').or_else(|| rest.is_empty().then_some("")),
            None => None,
        }
    } else {
        Some(host.split_once(':').map_or("", |(_, port)| port))
    };
    port.is_some_and(|port| port.is_empty() || port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// The URL without any password, and whether it had one.
pub(super) fn without_password(url: &str) -> (String, bool) {
    let Some(parts) = split(url) else { return (url.to_owned(), false) };
    let user = parts.user.map(|user| user.split_once(':').map_or(user, |(name, _)| name));
    let kept: Vec<String> = parts
        .parameters
        .iter()
        .filter(|(key, _)| !SECRETS.contains(key))
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let mut clean = String::from("postgresql://");
    if let Some(user) = user {
        clean += user;
        clean.push('@');
    }
    clean += parts.hosts;
    if !parts.database.is_empty() {
        clean.push('/');
        clean += parts.database;
    }
    if !kept.is_empty() {
        clean.push('?');
        clean += &kept.join("&");
    }
    let had = parts.user.is_some_and(|user| user.contains(':')) || kept.len() < parts.parameters.len();
    (clean, had)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libpq_takes_is_taken() {
        for url in [
            "postgresql://localhost/shop",
            "postgres://shop@[::1]:5432/shop?sslmode=verify-full&sslrootcert=/etc/ca.pem",
            "postgresql:///shop?host=/run/postgresql",
            "postgresql://a:5432,b:5433/shop?target_session_attrs=read-write",
            "postgresql://%2Frun%2Fpostgresql/shop",
            "postgresql://shop@db/my%20shop",
            "postgresql://?service=shop",
        ] {
            assert_eq!(check(url, true), Ok(()), "{url}");
        }
        assert_eq!(check("postgresql://db", false), Ok(()), "for all databases none need be named");
    }

    #[test]
    fn a_password_is_found_wherever_it_hides_and_taken_out() {
        for (url, clean) in [
            ("postgresql://shop:pw@db/shop", "postgresql://shop@db/shop"),
            ("postgresql://shop:p@w@db/shop", "postgresql://shop@db/shop"),
            ("postgresql://shop@db/shop?password=pw&sslmode=require", "postgresql://shop@db/shop?sslmode=require"),
            ("postgresql://db/shop?sslpassword=pw", "postgresql://db/shop"),
        ] {
            assert_eq!(check(url, true), Err(Refusal::Password), "{url}");
            assert_eq!(without_password(url), (clean.to_owned(), true), "{url}");
        }
        assert!(!without_password("postgresql://db/shop").1);
    }

    #[test]
    fn a_password_with_a_slash_is_refused_too() {
        assert!(matches!(check("postgresql://shop:p/w@db/shop", true), Err(Refusal::Invalid(..))));
    }
}
