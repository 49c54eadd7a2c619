//! What is told of an object: conditions, and an Event where one changed.
//!
//! Each writer has conditions of its own and its own field manager, so that none takes back what another said.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Resource, ResourceExt};
use serde_json::{Map, Value, json};
use windlass_core::diagnose::{Diagnose, chain, without_output};

use crate::api::kryton::Kryton;
use crate::context::Context;
use crate::error::OperatorError;
use crate::kryton::validate::Fault;

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

/// Writes conditions and other fields of a status where they changed, and tells of changes by Events.
pub(crate) async fn write(
    context: &Context,
    kryton: &Kryton,
    manager: &str,
    conditions: Vec<Now>,
    fields: Map<String, Value>,
) -> Result<(), OperatorError> {
    let old = kryton.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let merged: Vec<Condition> = conditions.iter().map(|now| merge(now, old, kryton.meta().generation)).collect();
    let mut status = fields;
    status.insert("conditions".to_owned(), json!(merged));
    let unchanged = is_told(kryton, &status);
    if unchanged {
        return Ok(());
    }
    let (namespace, name) = (kryton.namespace().unwrap_or_default(), kryton.name_any());
    let api: Api<Kryton> = Api::namespaced(context.client.clone(), &namespace);
    let patch = json!({ "apiVersion": Kryton::api_version(&()), "kind": Kryton::kind(&()), "metadata": { "name": name, "uid": kryton.uid() }, "status": status });
    let written = api.patch_status(&name, &PatchParams::apply(manager).force(), &Patch::Apply(patch)).await;
    match written {
        Ok(_) => {}
        // It was deleted, or made anew under the same name, meanwhile.
        Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => return Ok(()),
        Err(error) => return Err(OperatorError::write("Kryton", &namespace, &name, error)),
    }
    for now in conditions.iter().filter(|now| is_news(now, old)) {
        tell(context, kryton, now).await;
    }
    Ok(())
}

/// Whether everything that would be written stands there already.
fn is_told(kryton: &Kryton, status: &Map<String, Value>) -> bool {
    let Ok(Value::Object(old)) = serde_json::to_value(kryton.status.clone().unwrap_or_default()) else { return false };
    status.iter().all(|(key, value)| match (key.as_str(), old.get(key), value) {
        ("conditions", Some(Value::Array(old)), Value::Array(new)) => {
            new.iter().all(|condition| old.contains(condition))
        }
        (_, Some(old), new) => old == new,
        (_, None, new) => new.is_null(),
    })
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
async fn tell(context: &Context, kryton: &Kryton, now: &Now) {
    let event = Event {
        type_: if now.holds == Some(false) { EventType::Warning } else { EventType::Normal },
        reason: now.reason.clone(),
        note: Some(now.message.chars().take(1000).collect()),
        action: now.type_.to_owned(),
        secondary: None,
    };
    // One that had told of the same reason before would repeat what it said then.
    let recorder = Recorder::new(context.client.clone(), context.reporter.clone());
    if let Err(error) = recorder.publish(&event, &kryton.object_ref(&())).await {
        tracing::debug!(%error, "an Event could not be written");
    }
}
