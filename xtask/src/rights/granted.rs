//! What is granted: the roles of `config/rbac`, a right for each verb.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// Who is granted what.
pub(super) struct Granted {
    /// `namespace/name` of the ServiceAccount.
    pub(super) account: String,
    pub(super) rights: Vec<Right>,
}

/// One verb on one resource.
pub(super) struct Right {
    /// `Role name` or `ClusterRole name`.
    pub(super) role: String,
    /// `resource`, `resource.group` or `resource/subresource.group`.
    pub(super) resource: String,
    /// The one object it is limited to.
    pub(super) name: Option<String>,
    pub(super) verb: String,
}

#[derive(Deserialize)]
struct Object {
    kind: String,
    metadata: Metadata,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    subjects: Vec<Subject>,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
    verbs: Vec<String>,
}

#[derive(Deserialize)]
struct Subject {
    name: String,
    namespace: String,
}

impl Granted {
    /// Reads every file of a folder.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let mut texts = Vec::new();
        for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name != "kustomization.yaml") {
                texts.push(std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?);
            }
        }
        Self::of(&texts)
    }

    pub(super) fn of(texts: &[String]) -> Result<Self> {
        let (mut rights, mut accounts) = (Vec::new(), Vec::new());
        for text in texts {
            for object in serde_saphyr::from_multiple::<Object>(text).context("read what is granted")? {
                let role = format!("{} {}", object.kind, object.metadata.name);
                rights.extend(object.rules.iter().flat_map(|rule| rule.rights(&role)));
                accounts
                    .extend(object.subjects.iter().map(|subject| format!("{}/{}", subject.namespace, subject.name)));
            }
        }
        accounts.dedup();
        ensure!(accounts.len() == 1, "one account is expected, and there are {accounts:?}");
        ensure!(!rights.is_empty(), "nothing is granted");
        Ok(Self { account: accounts.remove(0), rights })
    }
}

impl Rule {
    fn rights(&self, role: &str) -> Vec<Right> {
        let names: Vec<Option<&String>> = match self.resource_names.as_slice() {
            [] => vec![None],
            names => names.iter().map(Some).collect(),
        };
        let mut all = Vec::new();
        for group in &self.api_groups {
            for resource in &self.resources {
                for name in &names {
                    all.extend(self.verbs.iter().map(|verb| Right {
                        role: role.to_owned(),
                        resource: full(resource, group),
                        name: name.cloned(),
                        verb: verb.clone(),
                    }));
                }
            }
        }
        all
    }
}

impl Right {
    /// Whether it grants what nobody wrote down.
    pub(super) fn is_unlimited(&self) -> bool {
        self.verb == "*" || self.resource.contains('*')
    }
}

/// `resource.group`, as kubectl writes it.
pub(super) fn full(resource: &str, group: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.role, self.verb, self.resource)?;
        match &self.name {
            Some(name) => write!(f, " `{name}`"),
            None => Ok(()),
        }
    }
}
