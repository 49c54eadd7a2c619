//! A libpq connection URI, as far as its database must be read or changed
//! (<https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>).
//!
//! A URL with a password in it is refused: it would stand in the arguments of every tool, for all to see.

use windlass_repo::store::Key;

use super::PostgresError;

/// Parameters that are secrets.
const SECRETS: [&str; 4] = ["password", "sslpassword", "scram_client_key", "scram_server_key"];

/// The parts before, of, and behind the path.
struct Parts<'a> {
    before: &'a str,
    path: &'a str,
    parameters: Vec<&'a str>,
}

fn split(url: &str) -> Result<Parts<'_>, PostgresError> {
    let rest = url.strip_prefix("postgresql://").or_else(|| url.strip_prefix("postgres://"));
    let Some(rest) = rest else {
        // What is no URL may be anything, a password as well.
        return Err(PostgresError::Url { url: "…".into(), why: "it does not begin with postgresql://" });
    };
    let scheme = url.len() - rest.len();
    let query = rest.find('?').map_or(url.len(), |at| scheme + at);
    let path = url[scheme..query].find('/').map_or(query, |at| scheme + at);
    let parameters: Vec<&str> = url[query..].trim_start_matches('?').split('&').filter(|p| !p.is_empty()).collect();
    let user = url[scheme..path].rsplit_once('@').map_or("", |(user, _)| user);
    if user.contains(':') || parameters.iter().any(|p| SECRETS.contains(&p.split('=').next().unwrap_or(p))) {
        // No part of it is repeated: an odd character in the password may have put it anywhere.
        return Err(PostgresError::Url { url: "postgresql://…".into(), why: "it holds a password" });
    }
    Ok(Parts { before: &url[..path], path: &url[path..query], parameters })
}

/// The database a URL names; `None` where it names none.
pub fn database_of(url: &str) -> Result<Option<String>, PostgresError> {
    let Parts { path, parameters, .. } = split(url)?;
    // A parameter has the last word.
    let named = parameters.iter().rev().find_map(|p| p.strip_prefix("dbname="));
    match named.or_else(|| path.strip_prefix('/')) {
        None | Some("") => Ok(None),
        Some(name) => {
            let wrong = || PostgresError::Url { url: url.to_owned(), why: "its database is not UTF-8" };
            Key::decode(name).ok_or_else(wrong).map(Some)
        }
    }
}

/// The URL with another database.
pub fn with_database(url: &str, database: &str) -> Result<String, PostgresError> {
    let Parts { before, parameters, .. } = split(url)?;
    let kept: Vec<&str> = parameters.into_iter().filter(|p| !p.starts_with("dbname=")).collect();
    let mark = if kept.is_empty() { "" } else { "?" };
    Ok(format!("{before}/{}{mark}{}", Key::encode(database), kept.join("&")))
}

#[cfg(test)]
mod tests {
    use super::{database_of, with_database};

    #[test]
    fn the_database_is_read_and_changed_and_nothing_else() {
        let url = "postgresql://u@h:5432/my%20db?sslmode=require";
        assert_eq!(database_of(url).unwrap().as_deref(), Some("my db"));
        assert_eq!(with_database(url, "a/b?c").unwrap(), "postgresql://u@h:5432/a%2Fb%3Fc?sslmode=require");
        let socket = "postgresql:///?host=/run/pg";
        assert_eq!(database_of(socket).unwrap(), None);
        assert_eq!(with_database(socket, "x").unwrap(), "postgresql:///x?host=/run/pg");
        assert_eq!(with_database("postgresql://h", "x").unwrap(), "postgresql://h/x");
        assert!(database_of("mysql://h/x").is_err());
    }

    #[test]
    fn a_database_given_as_a_parameter_is_the_one_libpq_takes() {
        let url = "postgresql://h/path?dbname=real&sslmode=require";
        assert_eq!(database_of(url).unwrap().as_deref(), Some("real"));
        assert_eq!(with_database(url, "x").unwrap(), "postgresql://h/x?sslmode=require");
    }

    #[test]
    fn a_url_with_a_password_is_refused_and_not_repeated() {
        for url in [
            "postgresql://u:s3cret@h/x",
            "postgresql://u:a@s3cret@h",
            "postgres://u@h/x?sslmode=require&password=s3cret",
        ] {
            let error = with_database(url, "y").unwrap_err().to_string();
            assert!(error.contains("it holds a password") && !error.contains("s3cret"), "{error}");
        }
        assert!(database_of("postgresql://[::1]:5432/x").is_ok());
    }
}
