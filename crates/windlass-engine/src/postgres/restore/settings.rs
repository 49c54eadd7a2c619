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

use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncReadExt;
use windlass_repo::format::dump::{Entry, Toc};

use super::spool::Spool;
use super::{LeftOut, PostgresError, Restore, create};
use crate::postgres::child::Running;
use crate::postgres::quote::name;
use crate::postgres::tools::Tools;

/// The most that is printed of them.
const PRINTED: u64 = 1 << 20;

/// Applies them; what could not be applied is told, for the data are there whatever becomes of it.
pub(super) async fn apply(
    restore: &Restore<'_>,
    tools: &Tools,
    spool: &Spool,
    folder: &Path,
) -> Result<LeftOut, PostgresError> {
    let Some(list) = list(&spool.toc, restore.owners) else { return Ok(Vec::new()) };
    if !tools.are_here() {
        return Ok(vec!["the settings of the database itself, which cannot be had through `via`".into()]);
    }
    let path = folder.join("settings");
    let written = tokio::fs::write(&path, list).await;
    written.map_err(|source| PostgresError::File { path: path.clone(), source })?;
    let mut command = tools.command("pg_restore");
    command.args(["--create", "--file=-"]).arg(format!("--use-list={}", path.display())).arg(&spool.path);
    let mut running = Running::start("pg_restore --create", command.stdout(Stdio::piped()))?;
    let mut script = String::new();
    let read = running.stdout()?.take(PRINTED).read_to_string(&mut script).await;
    read.map_err(|source| running.failed(source))?;
    running.finish().await?;
    let mut left_out = Vec::new();
    for statement in statements(&script, &restore.dump.name, restore.database, restore.owners) {
        if let Err(error) = create::administer(restore.tools, &statement).await {
            left_out.push(format!("a setting of the database, `{statement}`: {error}"));
        }
    }
    Ok(left_out)
}

/// The entries that hold them, as `pg_restore --use-list` wants them; `None` where there are none.
fn list(toc: &Toc, owners: bool) -> Option<String> {
    let is_meant = |entry: &&Entry| match entry.kind.as_str() {
        "DATABASE PROPERTIES" => true,
        "COMMENT" => entry.tag.starts_with("DATABASE "),
        "ACL" => owners && entry.tag.starts_with("DATABASE "),
        _ => false,
    };
    let lines: Vec<String> =
        toc.entries.iter().filter(is_meant).map(|entry| format!("{}; 0 0 {}\n", entry.id, entry.kind)).collect();
    (!lines.is_empty()).then(|| lines.concat())
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
        while !statement.ends_with(';')
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
COMMENT ON DATABASE shop IS 'two
lines';
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
                "COMMENT ON DATABASE \"co\"\"py\" IS 'two\nlines';",
                "ALTER DATABASE \"co\"\"py\" SET \"TimeZone\" TO 'Europe/Zurich';",
                "ALTER ROLE app IN DATABASE \"co\"\"py\" SET work_mem TO '9MB';",
                "GRANT CONNECT ON DATABASE \"co\"\"py\" TO app;",
            ]
        );
        assert_eq!(statements(SCRIPT, "shop", "copy", false).len(), 2, "nothing that names a role");
    }
}
