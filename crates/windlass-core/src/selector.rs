//! What `--only` names: `COMPONENT[/DATABASE[/SCHEMA.TABLE]]`, several of them separated by commas.
//!
//! Databases, schemas and tables are quoted as in SQL: what is not in double quotes is folded to lower case and
//! holds letters, digits, `_` and `$` only; within quotes everything stands for itself and `""` for a quote.
//! `SCHEMA.*` is all of a schema.

use std::fmt;

use crate::diagnose::{Diagnose, Outcome};
use crate::name::Name;

/// One part of a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// The component.
    pub component: Name,
    /// One of its databases; all where absent.
    pub database: Option<String>,
    /// One of the database's relations; all where absent.
    pub relation: Option<Relation>,
}

/// A table, or all of a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// The schema.
    pub schema: String,
    /// The table; all of the schema where absent.
    pub table: Option<String>,
}

/// Text that names no part of a point.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read the selection `{text}`: {why} at character {position}")]
pub struct InvalidSelector {
    text: String,
    why: &'static str,
    position: usize,
}

impl Diagnose for InvalidSelector {
    fn code(&self) -> &'static str {
        "WDL-0201"
    }

    fn reason(&self) -> &'static str {
        "InvalidSelection"
    }

    fn outcome(&self) -> Outcome {
        Outcome::CouldNotRun
    }

    fn hints(&self) -> Vec<String> {
        vec![
            "write COMPONENT, COMPONENT/DATABASE, COMPONENT/DATABASE/SCHEMA.TABLE or …/SCHEMA.*, several separated by commas; \
             names with capitals or other characters stand in double quotes, as in SQL"
                .to_owned(),
        ]
    }
}

impl Selector {
    /// Reads a list of selectors separated by commas; at least one.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, InvalidSelector> {
        let mut reader = Reader { text, at: 0 };
        let mut all = Vec::new();
        loop {
            all.push(reader.selector()?);
            if reader.at == text.len() {
                return Ok(all);
            }
            if !reader.take(',') {
                return Err(reader.wrong("a comma or the end is expected"));
            }
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.rest().starts_with(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn wrong(&self, why: &'static str) -> InvalidSelector {
        let position = self.text.get(..self.at).unwrap_or_default().chars().count() + 1;
        InvalidSelector { text: self.text.to_owned(), why, position }
    }

    fn selector(&mut self) -> Result<Selector, InvalidSelector> {
        let end = self.rest().find(['/', ',']).unwrap_or(self.rest().len());
        let component =
            self.rest()[..end].trim().parse().map_err(|_| self.wrong("the name of a component is expected"))?;
        self.at += end;
        let mut selector = Selector { component, database: None, relation: None };
        if self.take('/') {
            selector.database = Some(self.identifier()?);
            if self.take('/') {
                selector.relation = Some(self.relation()?);
            }
        }
        Ok(selector)
    }

    fn relation(&mut self) -> Result<Relation, InvalidSelector> {
        let schema = self.identifier()?;
        if !self.take('.') {
            return Err(self.wrong("`.TABLE` or `.*` is expected"));
        }
        let table = if self.take('*') { None } else { Some(self.identifier()?) };
        Ok(Relation { schema, table })
    }

    fn identifier(&mut self) -> Result<String, InvalidSelector> {
        if self.take('"') { self.quoted() } else { self.plain() }
    }

    fn plain(&mut self) -> Result<String, InvalidSelector> {
        let allowed = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let end = self.rest().find(|c| !allowed(c)).unwrap_or(self.rest().len());
        if end == 0 {
            return Err(self.wrong("a name is expected"));
        }
        let name = self.rest()[..end].to_lowercase();
        self.at += end;
        Ok(name)
    }

    fn quoted(&mut self) -> Result<String, InvalidSelector> {
        let mut name = String::new();
        loop {
            let Some(end) = self.rest().find('"') else { return Err(self.wrong("the closing quote is missing")) };
            name.push_str(&self.rest()[..end]);
            self.at += end + 1;
            if !self.take('"') {
                break;
            }
            name.push('"');
        }
        if name.is_empty() { Err(self.wrong("a name is expected within the quotes")) } else { Ok(name) }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.component.fmt(f)?;
        if let Some(database) = &self.database {
            write!(f, "/{}", Quoted(database))?;
        }
        if let Some(relation) = &self.relation {
            write!(f, "/{relation}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.table {
            Some(table) => write!(f, "{}.{}", Quoted(&self.schema), Quoted(table)),
            None => write!(f, "{}.*", Quoted(&self.schema)),
        }
    }
}

/// A name as SQL would want it written.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !self.0.is_empty() && self.0.chars().all(plain) {
            f.write_str(self.0)
        } else {
            write!(f, "\"{}\"", self.0.replace('"', "\"\""))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Relation, Selector};
    use proptest::prelude::*;

    fn one(text: &str) -> Selector {
        Selector::parse_list(text).unwrap().remove(0)
    }

    #[test]
    fn names_are_quoted_as_in_sql() {
        let selector = one(r#"db/"My, Shop"/Public."or/""der""s.2""#);
        assert_eq!(selector.database.as_deref(), Some("My, Shop"));
        let relation = selector.relation.unwrap();
        assert_eq!((relation.schema.as_str(), relation.table.as_deref()), ("public", Some("or/\"der\"s.2")));
        assert_eq!(one("db/shop/sales.*").relation, Some(Relation { schema: "sales".into(), table: None }));
        assert_eq!(Selector::parse_list("db,uploads").unwrap().len(), 2);
    }

    #[test]
    fn what_names_nothing_is_refused_with_its_place() {
        for text in
            ["", ",", "db/", "db/shop/", "db/shop/orders", "db/\"shop", "db/shop/public.orders x", "Db", "db/\"\""]
        {
            assert!(Selector::parse_list(text).is_err(), "{text}");
        }
        let error = Selector::parse_list("db/shop/orders").unwrap_err();
        assert!(error.to_string().ends_with("at character 15"), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(database in "[^\\x00]{1,12}", schema in "\\PC{1,8}", table in "\\PC{1,8}") {
            let selector = Selector {
                component: "db".parse().unwrap(),
                database: Some(database),
                relation: Some(Relation { schema, table: Some(table) }),
            };
            prop_assert_eq!(one(&selector.to_string()), selector);
        }
    }
}
