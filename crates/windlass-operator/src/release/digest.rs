//! What is asked of a release: its values, and a digest by which it is known whether it was asked before. Pure.

use kube::ResourceExt;
use serde_json::{Map, Value, json};
use windlass_core::hex;

use crate::api::kryton::Kryton;
use crate::kryton::names;

/// What is asked of a release.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Desired {
    pub(crate) values: Value,
    /// Of the values and of the chart, in hex, short enough for a label.
    pub(crate) digest: String,
}

/// The values of a `Kryton`'s release. What names it, and its version, win over what the user says.
pub(crate) fn desired(kryton: &Kryton, chart: &str, more: Map<String, Value>) -> Desired {
    let name = kryton.name_any();
    let mut values = kryton.spec.values.clone().unwrap_or_default();
    merge(&mut values, more);
    let own = json!({
        "fullnameOverride": name,
        "postgresql": { "fullnameOverride": names::database_secret(&name) },
        "image": { "tag": kryton.spec.version },
    });
    if let Value::Object(own) = own {
        merge(&mut values, own);
    }
    let values = Value::Object(values);
    let digest = hex::sha256(format!("{chart}\n{values}").as_bytes());
    Desired { digest: digest.chars().take(32).collect(), values }
}

/// Lays one tree of values over another.
fn merge(under: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Object(under)), Value::Object(over)) => merge(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kryton::KrytonSpec;

    fn kryton(values: &Value) -> Kryton {
        let spec = json!({ "version": "4.5.0", "values": values });
        Kryton::new("team-a", serde_json::from_value::<KrytonSpec>(spec).unwrap())
    }

    #[test]
    fn names_and_version_win_and_everything_else_passes_through() {
        let said = json!({
            "fullnameOverride": "other", "image": { "tag": "latest", "pullPolicy": "Always" },
            "postgresql": { "enabled": true, "fullnameOverride": "other" }, "replicaCount": 2,
        });
        let desired = desired(&kryton(&said), "chart", Map::new());
        let wanted = json!({
            "fullnameOverride": "team-a", "image": { "tag": "4.5.0", "pullPolicy": "Always" },
            "postgresql": { "enabled": true, "fullnameOverride": "team-a-postgresql" }, "replicaCount": 2,
        });
        assert_eq!(desired.values, wanted);
    }

    #[test]
    fn the_digest_tells_values_and_charts_apart_and_nothing_else() {
        let one = desired(&kryton(&json!({ "a": 1, "b": 2 })), "chart", Map::new());
        assert_eq!(one.digest, desired(&kryton(&json!({ "b": 2, "a": 1 })), "chart", Map::new()).digest);
        assert_ne!(one.digest, desired(&kryton(&json!({ "a": 1 })), "chart", Map::new()).digest);
        assert_ne!(one.digest, desired(&kryton(&json!({ "a": 1, "b": 2 })), "other", Map::new()).digest);
        assert!(one.digest.len() <= 63);
    }
}
