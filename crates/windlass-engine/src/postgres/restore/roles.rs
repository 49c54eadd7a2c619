//! Roles that a dump needs besides its owners: those that privileges, policies and user mappings name.
//!
//! `pg_restore` fails at the first of them that is not there, and no option of it leaves policies out. A table of
//! contents does not name them, so the definitions are printed and read:
//!
//! ```sql
//! -- TOC entry 3401 (class 0 OID 0)
//! REVOKE ALL ON FUNCTION public.f() FROM PUBLIC;
//! GRANT SELECT ON TABLE public.orders TO reader WITH GRANT OPTION;
//! ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA public GRANT SELECT ON TABLES TO keeper;
//! CREATE POLICY mine ON public.orders FOR SELECT TO clerk, "Odd, role" USING (true);
//! CREATE USER MAPPING FOR app SERVER far;
//! ```

use std::collections::{BTreeMap, BTreeSet};

use windlass_repo::format::dump::Entry;

use super::spool::Spool;
use super::{PostgresError, Tools, create};

/// The roles by entry, for those entries that name any.
pub(super) type Named = BTreeMap<i64, BTreeSet<String>>;

/// What entries need that the server lacks.
pub(super) async fn missing(tools: &Tools, spool: &Spool, privileges: bool) -> Result<Named, PostgresError> {
    #[derive(serde::Deserialize)]
    struct Role {
        rolname: String,
    }
    let is_meant = |entry: &&Entry| match entry.kind.as_str() {
        "POLICY" | "USER MAPPING" => true,
        // Those of the database itself are settings of it, and applied at the end.
        "ACL" | "DEFAULT ACL" => privileges && !entry.tag.starts_with("DATABASE "),
        _ => false,
    };
    let entries: Vec<&Entry> = spool.toc.entries.iter().filter(is_meant).collect();
    if entries.is_empty() {
        return Ok(Named::new());
    }
    let mut named = read(&spool.script(tools, &entries, &["--verbose", "--no-owner"]).await?);
    let mut session = create::maintenance(tools).await?;
    let known: BTreeSet<String> =
        session.all::<Role>("select rolname from pg_roles").await?.into_iter().map(|role| role.rolname).collect();
    session.close().await;
    for roles in named.values_mut() {
        roles.retain(|role| !known.contains(role));
    }
    named.retain(|_, roles| !roles.is_empty());
    Ok(named)
}

/// A piece of the script, as far as it matters here.
enum Token {
    /// The comment before an entry.
    Entry(i64),
    /// A word that is not quoted.
    Word(String),
    /// A quoted name.
    Name(String),
    Mark(char),
}

/// Where in a statement one is.
#[derive(PartialEq)]
enum At {
    /// Roles may still come.
    Before,
    /// A role comes next.
    Role,
    /// A role has just come.
    Behind,
    /// None comes before the statement ends.
    Rest,
}

/// The roles a script names, by entry.
fn read(script: &str) -> Named {
    let mut named = Named::new();
    let (mut entry, mut at, mut before) = (0, At::Before, String::new());
    for token in tokens(script) {
        at = match (token, at) {
            (Token::Entry(id), _) => {
                entry = id;
                At::Before
            }
            (Token::Mark(';'), _) => At::Before,
            (_, At::Rest) => At::Rest,
            (Token::Mark(','), At::Behind) => At::Role,
            (Token::Name(role), At::Role) => {
                named.entry(entry).or_default().insert(role);
                At::Behind
            }
            // Names with capitals are quoted, so this is PUBLIC or DEFAULT; and no role can be called public.
            (Token::Word(word), At::Role) => {
                if word != "public" && !word.contains(|c: char| c.is_ascii_uppercase()) {
                    named.entry(entry).or_default().insert(word);
                }
                At::Behind
            }
            (Token::Word(word), _) => {
                let role = match word.as_str() {
                    "TO" | "FROM" | "AUTHORIZATION" => true,
                    "ROLE" => before == "FOR",
                    "FOR" => before == "MAPPING",
                    _ => false,
                };
                let rest = matches!(word.as_str(), "USING" | "WITH");
                before = word;
                if role {
                    At::Role
                } else if rest {
                    At::Rest
                } else {
                    At::Before
                }
            }
            _ => At::Before,
        };
    }
    // What stands before the first entry belongs to none.
    named.remove(&0);
    named
}

fn tokens(script: &str) -> impl Iterator<Item = Token> {
    let mut rest = script;
    std::iter::from_fn(move || {
        loop {
            rest = rest.trim_start();
            let first = rest.chars().next()?;
            if let Some(comment) = rest.strip_prefix("--") {
                let (line, behind) = comment.split_once('\n').unwrap_or((comment, ""));
                rest = behind;
                if let Some(id) = line.strip_prefix(" TOC entry ").and_then(|text| text.split(' ').next()?.parse().ok())
                {
                    return Some(Token::Entry(id));
                }
            } else if first == '\'' {
                quoted(&mut rest, '\'');
            } else if first == '"' {
                return Some(Token::Name(quoted(&mut rest, '"')));
            } else if is_of_word(first) {
                let end = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
                let (word, behind) = rest.split_at(end);
                rest = behind;
                return Some(Token::Word(word.to_owned()));
            } else {
                rest = rest.get(first.len_utf8()..)?;
                return Some(Token::Mark(first));
            }
        }
    })
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Takes what is quoted off the beginning; a mark within is doubled.
fn quoted(rest: &mut &str, mark: char) -> String {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != mark {
            text.push(c);
        } else if chars.next_if(|(_, next)| *next == mark).is_some() {
            text.push(mark);
        } else {
            *rest = rest.get(at + 1..).unwrap_or_default();
            return text;
        }
    }
    *rest = "";
    text
}

#[cfg(test)]
mod tests {
    use super::read;

    const SCRIPT: &str = "\
\\restrict x
SET search_path TO nobody;
-- TOC entry 1 (class 0 OID 0)
-- Name: FUNCTION f(\"to\" text); Type: ACL; Schema: public; Owner: app
REVOKE ALL ON FUNCTION public.f(\"TO\" text) FROM PUBLIC;
SET SESSION AUTHORIZATION grantor;
GRANT ALL ON FUNCTION public.f(\"TO\" text) TO reader WITH GRANT OPTION;
RESET SESSION AUTHORIZATION;
-- TOC entry 2 (class 0 OID 0)
ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA public REVOKE ALL ON TABLES FROM app;
ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA public GRANT SELECT ON TABLES TO keeper;
-- TOC entry 3 (class 0 OID 0)
CREATE POLICY \"to\" ON public.\"FROM\" AS RESTRICTIVE FOR SELECT TO clerk, \"Odd, \"\"role\" USING ((note = 'it''s; TO y') AND EXISTS (SELECT FROM t));
-- TOC entry 4 (class 0 OID 0)
CREATE POLICY all_of_them ON public.orders USING (true);
-- TOC entry 5 (class 0 OID 0)
CREATE USER MAPPING FOR public SERVER far OPTIONS (password 'x');
CREATE USER MAPPING FOR ürsula SERVER far;
";

    #[test]
    fn roles_are_found_wherever_they_stand_and_nothing_else_is_one() {
        let named = read(SCRIPT);
        let of = |id: i64| named.get(&id).map(|roles| roles.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(of(1), Some(vec!["grantor", "reader"]));
        assert_eq!(of(2), Some(vec!["app", "keeper"]));
        assert_eq!(of(3), Some(vec!["Odd, \"role", "clerk"]));
        assert_eq!(of(4), None);
        assert_eq!(of(5), Some(vec!["ürsula"]));
        assert_eq!(named.len(), 4);
    }
}
