//! The custom resources. Every rule that the API server can check stands in the schema, as CEL or a pattern, so that a
//! wrong object is refused when it is applied; the reconcilers check the same again and more.

pub mod drill;
pub mod kryton;
pub mod restore;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// Definitions that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("write the definitions: {0}")]
pub struct Unwritable(String);

/// Every definition as YAML, by the name of its file.
pub fn files() -> Result<Vec<(String, String)>, Unwritable> {
    definitions()
        .into_iter()
        .map(|definition| {
            let name = format!("{}_{}.yaml", definition.spec.group, definition.spec.names.plural);
            let text = serde_saphyr::to_string(&definition).map_err(|error| Unwritable(error.to_string()))?;
            Ok((name, format!("---\n{}\n", text.trim_end())))
        })
        .collect()
}

/// Every definition, in the order in which they are to be applied.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![kryton::Kryton::crd(), restore::Restore::crd(), drill::Drill::crd()]
}
