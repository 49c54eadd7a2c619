//! Which settings file is meant, and what in it depends on this machine.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Settings, SettingsError};

/// Where settings are looked for when nobody says, in this order.
pub const PLACES: [&str; 2] = ["./windlass.toml", "/etc/windlass/windlass.toml"];

/// Reads the file that `--config` names, or the first of [`PLACES`] that is there.
///
/// # Errors
///
/// There is none, it cannot be read, or something in it is wrong: then every mistake in it is told.
pub fn load(config: Option<&Path>) -> Result<Settings, SettingsError> {
    let is_root = rustix::process::geteuid().is_root();
    let state = default_state(is_root, |name| std::env::var_os(name));
    let places = config.map_or_else(|| PLACES.iter().map(PathBuf::from).collect(), |file| vec![file.to_owned()]);
    for place in &places {
        if let Some(settings) = read(place, &state)? {
            return Ok(settings);
        }
    }
    Err(SettingsError::NotFound { looked: places })
}

/// The settings of a file, or nothing if the file is not there.
fn read(file: &Path, state: &Path) -> Result<Option<Settings>, SettingsError> {
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SettingsError::Read { file: file.to_owned(), source }),
    };
    // `./` says nothing in a message.
    let shown = file.strip_prefix("./").unwrap_or(file);
    Settings::parse(shown, &bytes, state).map(Some)
}

/// The folder of state where the file names none: the system's for root, else the user's own.
pub(super) fn default_state(is_root: bool, variable: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let folder = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = || folder("XDG_STATE_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/state")));
    match own() {
        Some(own) if !is_root => own.join("windlass"),
        _ => PathBuf::from("/var/lib/windlass"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_belongs_to_the_system_for_root_and_to_the_user_otherwise() {
        let home = |name: &str| (name == "HOME").then(|| OsString::from("/home/ada"));
        let both = |name: &str| match name {
            "XDG_STATE_HOME" => Some(OsString::from("/data/state")),
            other => home(other),
        };
        assert_eq!(default_state(true, home), Path::new("/var/lib/windlass"));
        assert_eq!(default_state(false, home), Path::new("/home/ada/.local/state/windlass"));
        assert_eq!(default_state(false, both), Path::new("/data/state/windlass"));
        assert_eq!(default_state(false, |_| None), Path::new("/var/lib/windlass"));
        let relative = |name: &str| (name == "XDG_STATE_HOME").then(|| OsString::from("state"));
        assert_eq!(default_state(false, relative), Path::new("/var/lib/windlass"), "XDG asks to ignore relative paths");
    }
}
