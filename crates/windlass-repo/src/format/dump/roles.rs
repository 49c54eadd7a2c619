//! The roles that an entry names besides its owner: those of privileges, policies and user mappings.
//!
//! `pg_restore` fails at the first of them that is not there, and no option of it leaves policies out. They stand in
//! the entry's definition only:
//!
//! ```sql
//! REVOKE ALL ON FUNCTION public.f() FROM PUBLIC;
//! GRANT SELECT ON TABLE public.orders TO reader WITH GRANT OPTION;
//! ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA public GRANT SELECT ON TABLES TO keeper;
//! CREATE POLICY mine ON public.orders FOR SELECT TO clerk, "Odd, role" USING (true);
//! CREATE USER MAPPING FOR app SERVER far;
//! ```

use std::collections::BTreeSet;

/// A piece of the definition, as far as it matters here.
enum Token {
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

/// The roles a definition names.
pub(super) fn read(definition: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    let (mut at, mut before) = (At::Before, String::new());
    for token in tokens(definition) {
        at = match (token, at) {
            (Token::Mark(';'), _) => At::Before,
            (_, At::Rest) => At::Rest,
            (Token::Mark(','), At::Behind) => At::Role,
            (Token::Name(role), At::Role) => {
                named.insert(role);
                At::Behind
            }
            // Names with capitals are quoted, so this is PUBLIC or DEFAULT; and no role can be called public.
            (Token::Word(word), At::Role) => {
                if word != "public" && !word.contains(|c: char| c.is_ascii_uppercase()) {
                    named.insert(word);
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
    named
}

fn tokens(definition: &str) -> impl Iterator<Item = Token> {
    let mut rest = definition;
    std::iter::from_fn(move || {
        loop {
            rest = rest.trim_start();
            let first = rest.chars().next()?;
            if let Some(comment) = rest.strip_prefix("--") {
                rest = comment.split_once('\n').map_or("", |(_, behind)| behind);
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

    fn of(definition: &str) -> Vec<String> {
        read(definition).into_iter().collect()
    }

    #[test]
    fn roles_are_found_wherever_they_stand_and_nothing_else_is_one() {
        let granted = "REVOKE ALL ON FUNCTION public.f(\"TO\" text) FROM PUBLIC;\nSET SESSION AUTHORIZATION grantor;\n\
            GRANT ALL ON FUNCTION public.f(\"TO\" text) TO reader WITH GRANT OPTION;\nRESET SESSION AUTHORIZATION;\n";
        assert_eq!(of(granted), ["grantor", "reader"]);
        let default = "ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA public REVOKE ALL ON TABLES FROM app;\n\
            ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA public GRANT SELECT ON TABLES TO keeper;\n";
        assert_eq!(of(default), ["app", "keeper"]);
        let policy = "CREATE POLICY \"to\" ON public.\"FROM\" AS RESTRICTIVE FOR SELECT TO clerk, \"Odd, \"\"role\" \
            USING ((note = 'it''s; TO y') AND EXISTS (SELECT FROM t));\n";
        assert_eq!(of(policy), ["Odd, \"role", "clerk"]);
        assert!(of("CREATE POLICY all_of_them ON public.orders USING (true);\n").is_empty());
        let mapping = "CREATE USER MAPPING FOR public SERVER far OPTIONS (password 'x');\n\
            -- FOR nobody\nCREATE USER MAPPING FOR ürsula SERVER far;\n";
        assert_eq!(of(mapping), ["ürsula"]);
    }
}
