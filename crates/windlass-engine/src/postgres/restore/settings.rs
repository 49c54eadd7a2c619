//! What a database itself was set to: parameters, its connection limit, its comment, who may connect.
//!
//! A dump holds these for the database it was taken of, and `pg_restore` applies them only to a database of that
//! name which it makes itself. So they are printed, and given to the new database:
//!
//! ```sql
//! ALTER DATABASE shop CONNECTION LIMIT = 7;
//! ALTER DATABASE shop SET "TimeZone" TO 'Europe/Zurich';
//! ALTER ROLE app IN DATABASE shop SET work_mem TO '9MB';
//! REVOKE CONNECT,TEMPORARY ON DATABASE shop FROM PUBLIC;
//! COMMENT ON DATABASE shop IS 'the shop';
//! ```

use windlass_repo::format::dump::Entry;

use super::spool::Spool;
use super::{LeftOut, PostgresError, Restore, create};
use crate::postgres::quote::name;
use crate::postgres::tools::Tools;

/// Applies them; what could not be applied is told, for the data are there whatever becomes of it.
pub(super) async fn apply(restore: &Restore<'_>, tools: &Tools, spool: &Spool) -> Result<LeftOut, PostgresError> {
    let is_meant = |entry: &&Entry| match entry.kind.as_str() {
        "DATABASE PROPERTIES" => true,
        "COMMENT" => entry.tag.starts_with("DATABASE "),
        "ACL" => restore.owners && entry.tag.starts_with("DATABASE "),
        _ => false,
    };
    let entries: Vec<&Entry> = spool.toc.entries.iter().filter(is_meant).collect();
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    if !tools.are_here() {
        return Ok(vec!["the settings of the database itself, which cannot be had through `via`".into()]);
    }
    let script = spool.script(tools, &entries, &["--create"]).await?;
    let mut left_out = Vec::new();
    for statement in statements(&script, &restore.dump.name, restore.database, restore.owners) {
        if let Err(error) = create::administer(restore.tools, &statement).await {
            left_out.push(format!("a setting of the database, `{statement}`: {error}"));
        }
    }
    Ok(left_out)
}

/// The statements of a script that are about the database, with its new name.
fn statements(script: &str, from: &str, to: &str, owners: bool) -> Vec<String> {
    // A name is quoted only where it must be.
    let needles = [format!(" DATABASE {from} "), format!(" DATABASE {} ", name(from))];
    let replacement = format!(" DATABASE {} ", name(to));
    let mut statements = Vec::new();
    let mut lines = script.lines();
    while let Some(line) = lines.next() {
        let verb = line.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let is_meant = match verb.as_str() {
            // Owner and being a template are not settings: the one is chosen, the other would keep it from being dropped.
            "ALTER DATABASE" => !line.contains(" OWNER TO ") && !line.contains(" IS_TEMPLATE "),
            "ALTER ROLE" => owners,
            "COMMENT ON" => true,
            _ => owners && (line.starts_with("GRANT ") || line.starts_with("REVOKE ")),
        };
        let Some(needle) = needles.iter().find(|needle| is_meant && line.contains(*needle)) else { continue };
        let mut statement = line.replacen(needle, &replacement, 1);
        // A comment may have lines that end like a statement; within it there is an odd number of quotes.
        let is_whole = |statement: &str| statement.ends_with(';') && statement.matches('\'').count().is_multiple_of(2);
        while !is_whole(&statement)
            && let Some(more) = lines.next()
        {
            statement.push('\n');
            statement.push_str(more);
        }
        statements.push(statement);
    }
    statements
}

#[cfg(test)]
mod tests {
    use super::statements;

    const SCRIPT: &str = "\
CREATE DATABASE shop WITH TEMPLATE = template0;
ALTER DATABASE shop OWNER TO postgres;
\\connect shop
COMMENT ON DATABASE shop IS 'two;
lines of it''s';
ALTER DATABASE shop IS_TEMPLATE = true;
ALTER DATABASE shop SET \"TimeZone\" TO 'Europe/Zurich';
ALTER ROLE app IN DATABASE shop SET work_mem TO '9MB';
GRANT CONNECT ON DATABASE shop TO app;
";

    #[test]
    fn what_is_about_the_database_is_given_to_another() {
        assert_eq!(
            statements(SCRIPT, "shop", "co\"py", true),
            [
                "COMMENT ON DATABASE \"co\"\"py\" IS 'two;\nlines of it''s';",
                "ALTER DATABASE \"co\"\"py\" SET \"TimeZone\" TO 'Europe/Zurich';",
                "ALTER ROLE app IN DATABASE \"co\"\"py\" SET work_mem TO '9MB';",
                "GRANT CONNECT ON DATABASE \"co\"\"py\" TO app;",
            ]
        );
        assert_eq!(statements(SCRIPT, "shop", "copy", false).len(), 2, "nothing that names a role");
    }
}
