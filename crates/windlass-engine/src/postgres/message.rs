//! What the server says when a statement fails, as `psql` prints it with `VERBOSITY=verbose`:
//!
//! ```text
//! ERROR:  42P01: relation "orders" does not exist
//! LINE 1: select * from orders
//!                       ^
//! LOCATION:  parserOpenTable, parse_relation.c:1392
//! ```

/// The last error in what `psql` wrote.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// The five characters of the SQLSTATE, where there are any
    /// (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
    pub(super) sqlstate: Option<String>,
    /// The message, with its detail and hint.
    pub(super) text: String,
}

impl Message {
    /// Finds it; where no error stands, everything is the message.
    pub(super) fn find(stderr: &str) -> Self {
        let lines: Vec<&str> = stderr.lines().filter(|line| !line.starts_with("LOCATION:")).collect();
        let Some((at, rest)) = lines.iter().enumerate().rev().find_map(|(at, line)| Some((at, behind_severity(line)?)))
        else {
            return Self { sqlstate: None, text: lines.join("\n").trim().to_owned() };
        };
        let (sqlstate, first) = match rest.split_once(": ") {
            Some((code, text)) if code.len() == 5 && code.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                (Some(code.to_owned()), text.trim_start())
            }
            _ => (None, rest),
        };
        let text = std::iter::once(first).chain(lines.into_iter().skip(at + 1)).collect::<Vec<_>>().join("\n");
        Self { sqlstate, text: text.trim().to_owned() }
    }
}

fn behind_severity(line: &str) -> Option<&str> {
    ["ERROR:  ", "FATAL:  ", "PANIC:  "].iter().find_map(|word| Some(line.split_once(word)?.1))
}

#[cfg(test)]
mod tests {
    use super::Message;

    #[test]
    fn the_last_error_counts_and_its_place_in_the_source_does_not() {
        let said = "WARNING:  01000: old\nERROR:  42P01: relation \"a: b\" does not exist\nLINE 1: x\n        ^\nLOCATION:  f, g.c:1\n";
        let message = Message::find(said);
        assert_eq!(message.sqlstate.as_deref(), Some("42P01"));
        assert_eq!(message.text, "relation \"a: b\" does not exist\nLINE 1: x\n        ^");
    }

    #[test]
    fn a_refused_connection_has_a_message_without_a_state() {
        let said = "psql: error: connection to server at \"h\", port 5432 failed: FATAL:  password authentication failed for user \"u\"\n";
        assert_eq!(
            Message::find(said),
            Message { sqlstate: None, text: "password authentication failed for user \"u\"".into() }
        );
        assert_eq!(Message::find(" could not start \n").text, "could not start");
    }
}
