//! What there is in a namespace, without what differs from one life of the same object to the next.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::stage::{Stage, namespace_of};

/// Everything an operator, its helm, and the controllers make of a Kryton's objects, but Pods and what only they have.
const KINDS: &str = "krytons,secrets,configmaps,cronjobs,jobs,serviceaccounts,roles,rolebindings,deployments,statefulsets,\
                     services,persistentvolumeclaims,volumesnapshots,ingresses,horizontalpodautoscalers";

/// What there is: `Kind/name`, and what it is.
pub(crate) type World = BTreeMap<String, Value>;

/// The worlds of all namespaces.
pub(crate) fn worlds(stage: &Stage) -> Result<BTreeMap<String, World>> {
    let mut worlds: BTreeMap<String, World> = BTreeMap::new();
    for object in stage.list(KINDS)? {
        // What was deployed before, and what failed on the way.
        let status = &object["metadata"]["labels"]["status"];
        if object["type"] == "helm.sh/release.v1" && (status == "superseded" || status == "failed") {
            continue;
        }
        let namespace = namespace_of(&object);
        let (key, value) = told(object, &namespace);
        let there = worlds.entry(namespace).or_default();
        // A database is looked at once for every version of the Secrets on the way to it.
        if key.starts_with("Job/") {
            there.insert(key, value);
            continue;
        }
        // Two revisions of a release have the same name here: each is counted.
        let of_it = there.keys().filter(|there| **there == key || there.starts_with(&format!("{key} #"))).count();
        there.insert(if of_it == 0 { key } else { format!("{key} #{}", of_it + 1) }, value);
    }
    Ok(worlds)
}

/// What one world has that the other has not, in lines.
pub(crate) fn differences(is: &World, should: &World) -> Vec<String> {
    let mut lines = Vec::new();
    for key in is.keys().chain(should.keys().filter(|key| !is.contains_key(*key))) {
        match (is.get(key), should.get(key)) {
            (Some(is), Some(should)) if is == should => {}
            (Some(_), None) => lines.push(format!("{key} should not be there")),
            (None, _) => lines.push(format!("{key} is missing")),
            (Some(is), Some(should)) => differ(key, is, should, &mut lines),
        }
    }
    lines
}

fn differ(at: &str, is: &Value, should: &Value, lines: &mut Vec<String>) {
    match (is, should) {
        (Value::Object(is), Value::Object(should)) => {
            for key in is.keys().chain(should.keys().filter(|key| !is.contains_key(*key))) {
                let (is, should) = (is.get(key).unwrap_or(&Value::Null), should.get(key).unwrap_or(&Value::Null));
                differ(&format!("{at}.{key}"), is, should, lines);
            }
        }
        _ if is == should => {}
        _ => lines.push(format!("{at} is {is} and should be {should}")),
    }
}

/// An object by a name and a value that are the same in every life.
fn told(object: Value, namespace: &str) -> (String, Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, mut name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    let labels = object["metadata"]["labels"].clone();
    let owners = object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
    let mut value = object;
    let meta = value["metadata"].as_object().cloned().unwrap_or_default();
    value["metadata"] = kept(meta, &["labels", "finalizers"]);
    value["owners"] = owners.iter().map(|owner| json!([owner["kind"], owner["name"], owner["controller"]])).collect();
    let status = value.as_object_mut().and_then(|fields| fields.remove("status")).unwrap_or_default();
    match kind.as_str() {
        // Passwords and keys are made at random.
        "Secret" if labels["owner"] == "helm" => {
            "release".clone_into(&mut name);
            value = json!({ "status": labels["status"], "digest": labels["windlass.dev/digest"] });
        }
        "Secret" => value["data"] = json!(value["data"].as_object().map(|data| data.keys().collect::<Vec<_>>())),
        // Their names end in a digest of the versions of Secrets, and their Pods carry an identifier.
        "Job" => {
            name = name.rsplit_once('-').map_or(name.clone(), |(beginning, _)| beginning.to_owned());
            value = json!({ "conditions": conditions(&status) });
        }
        "Kryton" => {
            value["conditions"] = conditions(&status);
            value["version"] = status["observedVersion"].clone();
        }
        "Service" => without(&mut value["spec"], &["clusterIP", "clusterIPs"]),
        "Deployment" => without(&mut value["spec"]["template"]["metadata"], &["annotations"]),
        "StatefulSet" => without(&mut value["spec"]["template"]["metadata"], &["annotations"]),
        _ => {}
    }
    // The task names the repository, whose identifier is random.
    let value = value.to_string().replace(namespace, "HERE");
    let mut value: Value = serde_json::from_str(&value).unwrap_or_default();
    if let Some(task) = value["data"]["task.json"].as_str().and_then(|text| serde_json::from_str::<Value>(text).ok()) {
        value["data"]["task.json"] = task;
        without(&mut value["data"]["task.json"]["repository"], &["id"]);
    }
    (format!("{kind}/{name}"), value)
}

/// Type, status and reason of each.
fn conditions(status: &Value) -> Value {
    let all = status["conditions"].as_array().cloned().unwrap_or_default();
    let told = all
        .iter()
        .map(|now| (now["type"].as_str().unwrap_or_default().to_owned(), json!([now["status"], now["reason"]])));
    Value::Object(told.collect())
}

fn kept(map: Map<String, Value>, keys: &[&str]) -> Value {
    Value::Object(map.into_iter().filter(|(key, _)| keys.contains(&key.as_str())).collect())
}

fn without(value: &mut Value, keys: &[&str]) {
    if let Some(map) = value.as_object_mut() {
        map.retain(|key, _| !keys.contains(&key.as_str()));
    }
}
