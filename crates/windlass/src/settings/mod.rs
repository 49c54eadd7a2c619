//! The settings file, `windlass.toml`, read into the types of `windlass_core`.
//!
//! What is promised: a value of [`Settings`] is right as far as the file alone can tell - known keys, right
//! types, absolute paths, references that lead somewhere, an order of capture, no secret in plain text - and
//! what is wrong is told all at once, each mistake with its line, its reason and its remedy. What the file
//! alone cannot tell, such as whether a folder is there, is asked by [`check_world`] before anything runs;
//! whether a server answers is left to those who call it.
//!
//! No secret is read here: the file says where they are, and only what uses one fetches it.

mod application;
mod component;
mod cursor;
mod error;
mod excluded;
mod find;
mod keys;
mod locate;
mod order;
mod place;
mod policy;
mod postgres_url;
mod problem;
mod reference;
mod reference_to;
mod repository;
mod retention;
mod secret;
mod suggest;
mod syntax;
mod template;
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::DeTable;
use windlass_core::application::{Application, Component, Strategy};
use windlass_core::name::Name;
use windlass_core::repository::{Encryption, Format, Repository};

use cursor::{Faults, Table};
pub use error::SettingsError;
pub use find::{PLACES, load};
pub use locate::Position;
use locate::{Lines, Locations};
pub use policy::{Policy, Verify};
pub use problem::{Fault, Problem};
pub use reference::{EXAMPLE, reference};
use reference_to::Known;
pub use template::{Findings, FoundCompose, FoundDatabase, FoundFolder, template};
pub use world::check_world;

/// What a settings file says.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The file, as messages name it.
    pub file: PathBuf,
    /// The folder of the journal and of caches.
    pub state: PathBuf,
    /// The repositories.
    pub repositories: BTreeMap<Name, Repository>,
    /// The policies.
    pub policies: BTreeMap<Name, Policy>,
    /// The applications. The repository and the policies each of them names are there.
    pub applications: BTreeMap<Name, Application>,
    locations: Locations,
}

impl Settings {
    /// Reads the content of a settings file; `state` is the folder of state if the file names none.
    ///
    /// # Errors
    ///
    /// Something in it is wrong; the error holds every mistake, in the order of the file.
    pub fn parse(file: &Path, content: &[u8], state: &Path) -> Result<Self, SettingsError> {
        let invalid = |problems| SettingsError::Invalid { file: file.to_owned(), problems };
        let text = syntax::text(file, content).map_err(|problem| invalid(vec![*problem]))?;
        let lines = Lines::new(text);
        let document = match DeTable::parse(text) {
            Ok(document) => document.into_inner(),
            Err(_) => return Err(invalid(vec![syntax::first_mistake(file, text, &lines)])),
        };
        let locations = Locations::of(&document, &lines);
        let mut faults = Faults::new(file, &lines);
        let settings = Self::read(file, &document, state, locations, &mut faults);
        let problems = faults.into_problems();
        if problems.is_empty() { Ok(settings) } else { Err(invalid(problems)) }
    }

    /// Where a value stands, by its dotted key, such as `application.shop.component.uploads.paths[0]`.
    pub fn position(&self, key: &str) -> Option<Position> {
        self.locations.get(key)
    }

    /// The application a user names.
    ///
    /// # Errors
    ///
    /// There is none of that name.
    pub fn application(&self, name: &str) -> Result<&Application, SettingsError> {
        let found = self.applications.iter().find(|(known, _)| known.as_str() == name);
        found.map(|(_, application)| application).ok_or_else(|| SettingsError::UnknownApplication {
            file: self.file.clone(),
            name: name.to_owned(),
            known: self.applications.keys().cloned().collect(),
        })
    }

    fn read(file: &Path, document: &DeTable<'_>, state: &Path, locations: Locations, faults: &mut Faults<'_>) -> Self {
        let root = Table::root(document);
        root.check_keys(&[&keys::ROOT], faults);
        let known = Known { repositories: root.names("repository"), policies: root.names("policy") };
        let state = root.get("state").and_then(|item| item.path(faults)).unwrap_or_else(|| state.to_owned());

        let mut repositories = BTreeMap::new();
        for (name, item) in root.named("repository", faults) {
            if let Some(repository) = repository::read(name.clone(), &item, faults) {
                repository::tell_same_place(&repository, repositories.values(), &item, faults);
                repositories.insert(name, repository);
            }
        }
        let mut policies = BTreeMap::new();
        for (name, item) in root.named("policy", faults) {
            if let Some(policy) = policy::read(name.clone(), &item, faults) {
                policies.insert(name, policy);
            }
        }
        let mut applications = BTreeMap::new();
        for (name, item) in root.named("application", faults) {
            if let Some(application) = application::read(name.clone(), &item, &known, faults) {
                if let Some(repository) = repositories.get(&application.repository) {
                    fits(&application, repository, &item, faults);
                }
                applications.insert(name, application);
            }
        }
        if ["repository", "application"].iter().all(|key| root.get(key).is_none()) && faults.count() == 0 {
            let what = "the file names no repository and no application".to_owned();
            let hint = "`windlass init` writes a settings file for what it finds on this machine".to_owned();
            faults.add(0, Fault::NothingToProtect { what, hint });
        }
        Self { file: file.to_owned(), state, repositories, policies, applications, locations }
    }
}

/// Tells what an application asks of its repository that the repository cannot give.
fn fits(application: &Application, repository: &Repository, item: &cursor::Item<'_>, faults: &mut Faults<'_>) {
    let Some(named) = item.open(faults).and_then(|table| table.get("repository")) else { return };
    match &repository.format {
        Format::Restic { .. } | Format::WalG { .. } => {
            let why = format!("names `{}`, someone else's repository, which Windlass never writes", repository.name);
            named.refuse(faults, why, "give the application a repository of its own");
        }
        Format::Windlass(Encryption::Recipients { identity: None, .. }) => {
            let needs = |c: &&Component| matches!(c.strategy, Strategy::Disk(_) | Strategy::Physical(_));
            if let Some(component) = application.components.iter().find(needs) {
                let name = &component.name;
                let why = match component.strategy {
                    Strategy::Disk(_) => format!(
                        "the folders of `{name}` cannot be written there, since what is there already must be read for that"
                    ),
                    _ => format!("the base backups of `{name}` cannot be sealed, as one key both seals and opens them"),
                };
                let why = format!("names `{}`, for which this host has no key: {why}", repository.name);
                let hint = format!(
                    "add `identity = {{ file = \"/PATH\" }}` to `encryption` in [repository.{}]",
                    repository.name
                );
                named.refuse(faults, why, hint);
            }
        }
        Format::Windlass(_) => {}
    }
}
