//! A libpq connection URI, as far as its database must be read or changed.

use windlass_repo::store::Key;

use super::PostgresError;

/// The parts before and behind the path.
fn split(url: &str) -> Result<(&str, &str, &str), PostgresError> {
    let wrong = |why| PostgresError::Url { url: url.to_owned(), why };
    let rest = url.strip_prefix("postgresql://").or_else(|| url.strip_prefix("postgres://"));
    let rest = rest.ok_or_else(|| wrong("it does not begin with postgresql://"))?;
    let scheme = url.len() - rest.len();
    let query = rest.find('?').map_or(url.len(), |at| scheme + at);
    let path = url[scheme..query].find('/').map_or(query, |at| scheme + at);
    Ok((&url[..path], &url[path..query], &url[query..]))
}

/// The database a URL names; `None` where it names none.
pub fn database_of(url: &str) -> Result<Option<String>, PostgresError> {
    let (_, path, _) = split(url)?;
    match path.strip_prefix('/') {
        None | Some("") => Ok(None),
        Some(name) => {
            let wrong = || PostgresError::Url { url: url.to_owned(), why: "its database is not UTF-8" };
            Key::decode(name).ok_or_else(wrong).map(Some)
        }
    }
}

/// The URL with another database.
pub fn with_database(url: &str, database: &str) -> Result<String, PostgresError> {
    let (before, _, behind) = split(url)?;
    Ok(format!("{before}/{}{behind}", Key::encode(database)))
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
}
