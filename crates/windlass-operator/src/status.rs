//! What is told of an object: conditions, and an Event where one changed.
//!
//! Each writer has conditions of its own and its own field manager, so that none takes back what another said.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, ResourceExt};
use serde_json::{Map, Value, json};
use windlass_core::diagnose::{Diagnose, chain, without_output};

use crate::api::kryton::Kryton;
use crate::context::Context;
use crate::error::OperatorError;
use crate::kryton::validate::Fault;
use crate::objects::{Kind, kind};

/// A kind of object with a status that is told.
pub(crate) trait Told: Kind {
    /// Whether one writer writes all of its status: then what it has seen must still be so.
    const EXACT: bool;

    /// The status as it was read.
    fn told(&self) -> Value;

    /// Its conditions.
    fn conditions(&self) -> &[Condition];
}

impl Told for Kryton {
    const EXACT: bool = false;

    fn told(&self) -> Value {
        json!(self.status)
    }

    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
    }
}

/// A condition as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Now {
    pub(crate) type_: &'static str,
    /// `None`: it is not known.
    pub(crate) holds: Option<bool>,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Now {
    pub(crate) fn yes(type_: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self { type_, holds: Some(true), reason: reason.to_owned(), message: message.into() }
    }

    pub(crate) fn no(type_: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self { type_, holds: Some(false), reason: reason.to_owned(), message: message.into() }
    }

    pub(crate) fn unknown(type_: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self { type_, holds: None, reason: reason.to_owned(), message: message.into() }
    }

    pub(crate) fn fault(type_: &'static str, fault: &Fault) -> Self {
        Self::no(type_, fault.reason, fault.message.clone())
    }

    /// Of an error: what happened, why, and what to do.
    pub(crate) fn error(type_: &'static str, error: &dyn Diagnose) -> Self {
        Self::no(type_, error.reason(), in_words(error))
    }

    /// As it was told before, where it was.
    pub(crate) fn before(kryton: &Kryton, type_: &'static str) -> Option<Self> {
        let conditions = kryton.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let before = conditions.iter().find(|condition| condition.type_ == type_)?;
        let holds = match before.status.as_str() {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        };
        Some(Self { type_, holds, reason: before.reason.clone(), message: before.message.clone() })
    }

    fn status(&self) -> &'static str {
        match self.holds {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
    }
}

/// An error as a condition tells it: what happened and why, and the first hint. What a command said is left out: it may
/// hold anything.
pub(crate) fn in_words(error: &dyn Diagnose) -> String {
    let mut text = error.to_string();
    if let Some(source) = error.source() {
        text = format!("{text}: {}", chain(source));
    }
    let text = without_output(&text);
    match error.hints().first() {
        Some(hint) => shorten(&format!("{text} ({hint})")),
        None => shorten(text),
    }
}

/// The most of a message, in bytes.
const LONG: usize = 2048;

fn shorten(text: &str) -> String {
    if text.len() <= LONG {
        return text.to_owned();
    }
    let end = (0..=LONG).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", text.get(..end).unwrap_or_default())
}

/// Writes conditions and other fields of a status where they changed, and tells of changes by Events. An object that was deleted,
/// made anew or changed meanwhile brings us back.
pub(crate) async fn write<K: Told>(
    context: &Context,
    object: &K,
    manager: &str,
    conditions: Vec<Now>,
    fields: Map<String, Value>,
) -> Result<(), OperatorError> {
    let old = object.conditions();
    let merged: Vec<Condition> = conditions.iter().map(|now| merge(now, old, object.meta().generation)).collect();
    let mut status = fields;
    // What is not there is not written: a null would be kept as ours.
    status.retain(|_, value| !value.is_null());
    status.insert("conditions".to_owned(), json!(merged));
    if is_told(object, manager, &status) {
        return Ok(());
    }
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let api: Api<K> = Api::namespaced(context.client.clone(), &namespace);
    let mut metadata = json!({ "name": name, "uid": object.uid() });
    if K::EXACT {
        metadata["resourceVersion"] = json!(object.resource_version());
    }
    let patch =
        json!({ "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": metadata, "status": status });
    let written = api.patch_status(&name, &PatchParams::apply(manager).force(), &Patch::Apply(patch)).await;
    match written {
        Ok(_) => {}
        // It was deleted meanwhile; or somebody wrote it, whose change brings us back.
        Err(kube::Error::Api(answer)) if answer.code == 404 || (K::EXACT && answer.code == 409) => return Ok(()),
        // Where it was made anew under the same name, or others write as well, the next turn knows.
        Err(error) => return Err(OperatorError::write(kind::<K>(), &namespace, &name, error)),
    }
    for now in conditions.iter().filter(|now| is_news(now, old)) {
        tell(context, object, now).await;
    }
    Ok(())
}

/// Whether everything that would be written stands there already, and nothing of this writer's that would be taken back.
fn is_told<K: Told>(object: &K, manager: &str, status: &Map<String, Value>) -> bool {
    let Value::Object(old) = object.told() else { return status.is_empty() };
    let stands = |(key, value): (&String, &Value)| match (key.as_str(), old.get(key), value) {
        ("conditions", Some(Value::Array(old)), Value::Array(new)) => {
            new.iter().all(|condition| old.contains(condition))
        }
        (_, Some(old), new) => old == new,
        (_, None, new) => new.is_null() || new.as_array().is_some_and(Vec::is_empty),
    };
    status.iter().all(stands) && owned(object, manager).iter().all(|field| is_said(status, field))
}

/// A field of a status: by its name, or a condition by its type.
#[derive(Debug, PartialEq, Eq)]
enum Field {
    Named(String),
    Condition(String),
}

/// What a writer has said before, as the API server keeps it: `managedFields`.
fn owned<K: Told>(object: &K, manager: &str) -> Vec<Field> {
    let entries = object.meta().managed_fields.iter().flatten();
    let ours = entries.filter(|entry| {
        entry.manager.as_deref() == Some(manager)
            && entry.subresource.as_deref() == Some("status")
            && entry.operation.as_deref() == Some("Apply")
    });
    let fields = ours.filter_map(|entry| entry.fields_v1.as_ref()).filter_map(|fields| fields.0.get("f:status"));
    let named = |(key, below): (&String, &Value)| -> Vec<Field> {
        match (key.strip_prefix("f:"), below) {
            (Some("conditions"), Value::Object(conditions)) => {
                let types = conditions.keys().filter_map(|key| key.strip_prefix("k:"));
                let types = types.filter_map(|key| serde_json::from_str::<Value>(key).ok());
                types.filter_map(|key| key["type"].as_str().map(|type_| Field::Condition(type_.to_owned()))).collect()
            }
            (Some(name), _) => vec![Field::Named(name.to_owned())],
            (None, _) => Vec::new(),
        }
    };
    fields.filter_map(Value::as_object).flatten().flat_map(named).collect()
}

fn is_said(status: &Map<String, Value>, field: &Field) -> bool {
    match field {
        Field::Named(name) => status.get(name).is_some_and(|value| !value.is_null()),
        Field::Condition(type_) => {
            let conditions = status.get("conditions").and_then(Value::as_array);
            conditions.into_iter().flatten().any(|condition| condition["type"] == **type_)
        }
    }
}

fn merge(now: &Now, old: &[Condition], generation: Option<i64>) -> Condition {
    let before = old.iter().find(|condition| condition.type_ == now.type_);
    let since = before.filter(|before| before.status == now.status()).map(|before| before.last_transition_time.clone());
    Condition {
        type_: now.type_.to_owned(),
        status: now.status().to_owned(),
        reason: now.reason.clone(),
        message: shorten(&now.message),
        observed_generation: generation,
        last_transition_time: since.unwrap_or_else(|| Time(whole_second(Timestamp::now()))),
    }
}

/// The API server keeps times to the second.
pub(crate) fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn is_news(now: &Now, old: &[Condition]) -> bool {
    let before = old.iter().find(|condition| condition.type_ == now.type_);
    before.is_none_or(|before| before.status != now.status() || before.reason != now.reason)
}

/// Tells of a change by an Event; one that cannot be written is no failure.
async fn tell<K: Told>(context: &Context, object: &K, now: &Now) {
    let event = Event {
        type_: if now.holds == Some(false) { EventType::Warning } else { EventType::Normal },
        reason: now.reason.clone(),
        note: Some(now.message.chars().take(1000).collect()),
        action: now.type_.to_owned(),
        secondary: None,
    };
    // One that had told of the same reason before would repeat what it said then.
    let recorder = Recorder::new(context.client.clone(), context.reporter.clone());
    if let Err(error) = recorder.publish(&event, &object.object_ref(&())).await {
        tracing::debug!(%error, "an Event could not be written");
    }
}
