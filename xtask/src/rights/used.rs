//! What was used: the log of requests, a line of JSON for each.
//! (<https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/>)

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::granted::{Granted, Right, full};

/// What the operator, and the accounts it made, asked the API server for.
#[derive(Default)]
pub(super) struct Log {
    pub(super) requests: u64,
    /// Requests that went well.
    well: BTreeSet<Use>,
    /// Those that nobody had granted.
    pub(super) refused: BTreeSet<String>,
    /// Those that were granted by something else than the operator's own roles.
    pub(super) elsewhere: BTreeSet<String>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    /// The role that allowed it; `None` where it is that of an account which the operator made.
    role: Option<String>,
    resource: String,
    name: String,
    verb: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    verb: String,
    user: User,
    object_ref: Option<Reference>,
    response_status: Option<Answer>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Reference {
    resource: String,
    subresource: String,
    api_group: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct Answer {
    code: u16,
}

impl Log {
    /// Reads every file of the log's folder: the log itself, and what was cut off when it grew long.
    pub(super) fn read(folder: &Path, granted: &Granted) -> Result<Self> {
        let mut lines = String::new();
        let files = std::fs::read_dir(folder).with_context(|| {
            format!("list {}: the cluster writes no log of requests; bring it up anew", folder.display())
        })?;
        for file in files {
            let path = file?.path();
            lines.push_str(&std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?);
        }
        Self::of(&lines, granted)
    }

    pub(super) fn of(lines: &str, granted: &Granted) -> Result<Self> {
        let mut events = Vec::new();
        for line in lines.lines() {
            // The last one may just be written.
            if line.ends_with('}') {
                let event: Event = serde_json::from_str(line).with_context(|| format!("read a request: {line}"))?;
                events.push(event);
            }
        }
        let of_operator = |event: &&Event| event.account() == granted.account;
        let made: BTreeSet<String> = events.iter().filter(of_operator).filter_map(Event::made_account).collect();
        ensure!(!made.contains(&granted.account), "the operator made its own account");
        let mut log = Self::default();
        for event in &events {
            if event.account() == granted.account {
                log.add_of_operator(event, granted);
            } else if made.contains(&event.account()) {
                log.add(event, None);
            }
        }
        Ok(log)
    }

    fn add_of_operator(&mut self, event: &Event, granted: &Granted) {
        let role = event.role();
        let ours = granted.rights.iter().any(|right| right.role == role);
        // What every account may do, such as asking which resources there are.
        let everybody = role.starts_with("ClusterRole system:");
        if event.is_allowed() && !ours && !everybody && event.object_ref.is_some() {
            self.elsewhere.insert(format!("{role}: {} {}", event.verb, event.resource()));
        }
        self.add(event, Some(&role));
    }

    fn add(&mut self, event: &Event, role: Option<&str>) {
        self.requests += 1;
        if !event.is_allowed() {
            self.refused.insert(format!("{}: {} {}", event.account(), event.verb, event.resource()));
        }
        for verb in event.needed() {
            self.well.insert(Use {
                role: role.map(str::to_owned),
                resource: event.resource(),
                name: event.object_ref.as_ref().map(|object| object.name.clone()).unwrap_or_default(),
                verb: verb.to_owned(),
            });
        }
    }

    /// Whether a request needed a right and went well. A right that the operator passes on to accounts it makes, which it
    /// could not if it did not hold it, is used by them.
    pub(super) fn has_used(&self, right: &Right) -> bool {
        // Asked by admission, where an object makes its owner wait: no request says so, and without it none goes well.
        let by_admission = right.verb == "update" && right.resource.contains("/finalizers");
        let passed_on = right.role.starts_with("ClusterRole ");
        by_admission
            || self.well.iter().any(|use_| {
                use_.verb == right.verb
                    && use_.resource == right.resource
                    && right.name.as_ref().is_none_or(|name| *name == use_.name)
                    && use_.role.as_ref().map_or(passed_on, |role| *role == right.role)
            })
    }
}

impl Event {
    /// `namespace/name` of the ServiceAccount.
    fn account(&self) -> String {
        self.user.username.trim_start_matches("system:serviceaccount:").replacen(':', "/", 1)
    }

    /// `resource/subresource.group`.
    fn resource(&self) -> String {
        let Some(object) = &self.object_ref else { return "what is no resource".to_owned() };
        let slash = if object.subresource.is_empty() { "" } else { "/" };
        full(&format!("{}{slash}{}", object.resource, object.subresource), &object.api_group)
    }

    /// The verbs it needed, where it went well.
    fn needed(&self) -> Vec<&str> {
        match self.response_status.as_ref().map(|answer| answer.code) {
            // An object that is applied and not there is created.
            Some(201) if self.verb == "patch" => vec!["patch", "create"],
            Some(200..=299) => vec![&self.verb],
            _ => Vec::new(),
        }
    }

    /// The ServiceAccount that it made.
    fn made_account(&self) -> Option<String> {
        let object = self.object_ref.as_ref().filter(|object| object.subresource.is_empty())?;
        let made = object.resource == "serviceaccounts" && self.needed().contains(&"create");
        made.then(|| format!("{}/{}", object.namespace, object.name))
    }

    fn is_allowed(&self) -> bool {
        self.annotations.get("authorization.k8s.io/decision").is_some_and(|decision| decision == "allow")
    }

    /// The role that allowed it: `RBAC: allowed by ClusterRoleBinding "…" of ClusterRole "name" to ServiceAccount "…"`.
    fn role(&self) -> String {
        let reason = self.annotations.get("authorization.k8s.io/reason").map(String::as_str).unwrap_or_default();
        let role = reason.split_once(" of ").and_then(|(_, role)| role.split_once(" to "));
        role.map_or_else(|| format!("`{reason}`"), |(role, _)| role.replace('"', ""))
    }
}
