//! How `pg_restore` ended, judged.
//!
//! From version 17 on it begins by setting `transaction_timeout`, which older servers do not know, and no older
//! `pg_restore` reads what `pg_dump` 17 wrote. So where the tools are that much newer than the server, it goes on after
//! errors, and what it says is read: this one error is none, and any other is.
//!
//! ```text
//! pg_restore: error: could not execute query: ERROR:  unrecognized configuration parameter "transaction_timeout"
//! Command was: SET transaction_timeout = 0;
//! pg_restore: warning: errors ignored on restore: 1
//! ```

use super::PostgresError;
use super::Tools;

/// The major version since which servers know the parameter and `pg_restore` sets it.
const SINCE: u32 = 17;

const PARAMETER: &str = "\"transaction_timeout\"";

/// Whether the tools set a parameter the server does not know.
pub(super) fn is_ahead(tools: &Tools) -> bool {
    tools.major >= SINCE && tools.server_version / 10_000 < SINCE
}

/// Takes the one error that is none out of how `pg_restore` ended.
pub(super) fn judge(tools: &Tools, ended: Result<String, PostgresError>) -> Result<(), PostgresError> {
    match ended {
        Err(PostgresError::Tool { stderr, .. }) if is_ahead(tools) && is_harmless(&stderr) => Ok(()),
        other => other.map(drop),
    }
}

/// Whether every error that was ignored is told, and is about the parameter.
fn is_harmless(stderr: &str) -> bool {
    let count = |words: &str| {
        stderr.lines().filter(|line| line.starts_with("pg_restore: error: ") && line.contains(words)).count()
    };
    let ignored =
        stderr.lines().rev().find_map(|line| line.strip_prefix("pg_restore: warning: errors ignored on restore: "));
    // With several jobs each of them says it for itself, and is not counted.
    let ignored: Option<usize> = ignored.and_then(|number| number.trim().parse().ok());
    ignored.is_some_and(|ignored| ignored <= count(PARAMETER)) && count("") == count(PARAMETER)
}

#[cfg(test)]
mod tests {
    use super::is_harmless;

    const PARAMETER: &str = "pg_restore: error: could not execute query: ERROR:  unrecognized configuration parameter \"transaction_timeout\"\n\
                             Command was: SET transaction_timeout = 0;\n";

    #[test]
    fn one_error_is_none_and_any_other_is() {
        let ignored = |count: u32| format!("pg_restore: warning: errors ignored on restore: {count}\n");
        assert!(is_harmless(&format!("{PARAMETER}{}", ignored(1))));
        assert!(is_harmless(&format!("{PARAMETER}{PARAMETER}{PARAMETER}{}", ignored(3))));
        assert!(is_harmless(&format!("{PARAMETER}{PARAMETER}{}", ignored(1))), "another job said it, too");
        assert!(!is_harmless(&format!("{PARAMETER}{}", ignored(2))), "one was not kept");
        assert!(!is_harmless(PARAMETER), "it did not come to its end");
        assert!(!is_harmless(&format!("{PARAMETER}pg_restore: error: COPY failed\n{}", ignored(2))));
        assert!(!is_harmless(&format!("{PARAMETER}pg_restore: error: could not read from input file\n")));
        assert!(!is_harmless(""));
    }
}
