//! Where a secret is: `{ env = … }`, `{ file = … }` or `{ command = […] }`. No value is ever repeated in a message.

use windlass_core::secret::SecretRef;

use super::cursor::{Faults, Item};
use super::keys;
use super::problem::Fault;

/// Reads where a secret is.
pub(super) fn read(item: &Item<'_>, faults: &mut Faults<'_>) -> Option<SecretRef> {
    if !item.is_table() {
        faults.add(item.at(), Fault::PlainSecret { key: item.key.clone(), place: item.place() });
        return None;
    }
    let table = item.open(faults)?;
    let sources: Vec<Item<'_>> = keys::SECRET.keys.iter().filter_map(|key| table.get(key.name)).collect();
    if let [source] = sources.as_slice() {
        table.check_keys(&[&keys::SECRET], faults);
        return match source.key.as_str() {
            "env" => variable(source, faults).map(SecretRef::Env),
            "file" => source.path(faults).map(SecretRef::File),
            _ => source.command(faults).map(SecretRef::Command),
        };
    }
    let how_many = if sources.is_empty() { "none" } else { "more than one" };
    let fault = Fault::Conflict {
        why: format!("`{}` {} has {how_many} of `env`, `file` and `command`", item.key, item.place()),
        hint: "a secret is one of { env = \"NAME\" }, { file = \"/PATH\" } and { command = [\"PROGRAM\"] }".to_owned(),
    };
    faults.add(item.at(), fault);
    None
}

/// The name of an environment variable. Anything else may be the secret itself.
fn variable(item: &Item<'_>, faults: &mut Faults<'_>) -> Option<String> {
    let text = item.text(faults)?;
    let ok =
        !text.starts_with(|c: char| c.is_ascii_digit()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !ok {
        item.refuse(
            faults,
            "is not the name of an environment variable",
            "write the variable's name (letters, digits and `_`), not its value",
        );
    }
    ok.then(|| text.to_owned())
}
