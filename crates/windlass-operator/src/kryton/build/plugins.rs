//! Plugins: values that give the chart a volume, its mount, and an init container that fills it before the server starts.

use serde_json::{Map, Value, json};

use super::pod::confined;
use crate::api::kryton::Kryton;

/// Where the server looks for them.
const FOLDER: &str = "/plugins";

/// What is added to the values of the chart; nothing where there are no plugins. What the user's own values add stays.
pub(crate) fn plugins(kryton: &Kryton, image: &str) -> Map<String, Value> {
    if kryton.spec.plugins.is_empty() {
        return Map::new();
    }
    let list = json!(kryton.spec.plugins).to_string();
    let installer = json!({
        "name": "plugin-installer",
        "image": image,
        "command": ["/windlass", "agent", "plugins", FOLDER],
        "env": [{ "name": "PLUGINS", "value": list }],
        "volumeMounts": [{ "name": "plugins", "mountPath": FOLDER }],
        "securityContext": confined(),
    });
    let with = |key: &str, more: Value| {
        let said = kryton.spec.values.as_ref().and_then(|values| values.get(key)).and_then(Value::as_array);
        let mut all = said.cloned().unwrap_or_default();
        all.push(more);
        (key.to_owned(), Value::Array(all))
    };
    let volume = json!({ "name": "plugins", "emptyDir": {} });
    Map::from_iter([
        with("extraVolumes", volume),
        with("extraVolumeMounts", json!({ "name": "plugins", "mountPath": FOLDER, "readOnly": true })),
        with("extraInitContainers", installer),
    ])
}
