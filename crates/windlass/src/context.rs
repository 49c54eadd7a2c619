//! What every command starts from: the settings, this host, and someone to speak to.

use std::path::{Path, PathBuf};

use windlass_core::application::Application;
use windlass_core::name::Name;
use windlass_core::repository::Repository;
use windlass_host::host::{Host, Site};
use windlass_repo::vault::Vault;

use crate::failure::{Failure, Result};
use crate::printer::Printer;
use windlass::settings::{Settings, check_world, load};

/// What a command starts from.
pub(crate) struct Context {
    /// The settings.
    pub settings: Settings,
    /// This machine.
    pub host: Host,
    /// Someone to speak to.
    pub printer: Printer,
}

impl Context {
    /// Reads the settings; a file that is wrong says everything that is wrong with it.
    pub(crate) fn load(config: Option<&Path>, printer: &Printer) -> Result<Self> {
        let settings = load(config)?;
        let host = this_host(&settings.state)?;
        Ok(Self { settings, host, printer: printer.clone() })
    }

    /// An application of the settings.
    pub(crate) fn application(&self, name: &Name) -> Result<&Application> {
        self.settings.application(name.as_str()).map_err(Failure::from)
    }

    /// The repository of an application.
    pub(crate) fn repository_of(&self, application: &Application) -> Result<&Repository> {
        self.repository(Some(&application.repository))
    }

    /// A repository by name, or the only one there is.
    pub(crate) fn repository(&self, name: Option<&Name>) -> Result<&Repository> {
        let all = &self.settings.repositories;
        let known = || all.keys().map(Name::as_str).collect::<Vec<_>>().join(", ");
        match name {
            Some(name) => all.get(name).ok_or_else(|| {
                Failure::usage(format!("the settings have no repository `{name}`"), format!("they have: {}", known()))
            }),
            None if all.len() == 1 => all.values().next().ok_or_else(|| Failure::usage("no repository", "add one")),
            None => Err(Failure::usage(
                format!("the settings have {} repositories, and none was named", all.len()),
                format!("name one of: {}", known()),
            )),
        }
    }

    /// Someone else's repository of that name, where no application has it.
    pub(crate) fn foreign(&self, name: &Name) -> Option<&Repository> {
        let repository = self.settings.repositories.get(name)?;
        let foreign = repository.format.is_foreign() && !self.settings.applications.contains_key(name);
        foreign.then_some(repository)
    }

    /// Looks at what the settings name on this machine: warnings are said, the first error ends it.
    pub(crate) fn check_world(&self, application: &Name) -> Result<()> {
        let mut wrong = None;
        for problem in check_world(&self.settings, Some(application)) {
            if problem.is_warning() {
                self.printer.warning(&problem.to_string());
            } else {
                wrong.get_or_insert(problem);
            }
        }
        wrong.map_or(Ok(()), |problem| Err(problem.into()))
    }

    /// The applications whose points lie in a repository.
    pub(crate) fn applications_of<'a>(&'a self, repository: &'a Repository) -> impl Iterator<Item = &'a Application> {
        self.settings.applications.values().filter(|application| application.repository == repository.name)
    }

    /// Opens an application to work on.
    pub(crate) async fn open(&self, name: &Name) -> Result<Site> {
        let application = self.application(name)?;
        let site = self.host.open(self.repository_of(application)?, application).await?;
        self.warn_of_joining(name, &site.joins);
        Ok(site)
    }

    /// Says which hosts wrote an application before this one joined them: they may not be meant to be one.
    pub(crate) fn warn_of_joining(&self, application: &Name, hosts: &[String]) {
        if !hosts.is_empty() {
            self.printer.warning(&format!(
                "{application} was written by {} before, and from now on by this host, too: if that is another \
                 application, give one of them another name",
                hosts.join(", ")
            ));
        }
    }

    /// Opens an application to read.
    pub(crate) async fn open_vault(&self, name: &Name) -> Result<Vault> {
        let application = self.application(name)?;
        Ok(self.host.open_vault(self.repository_of(application)?, name).await?)
    }
}

/// This machine, with its state in a folder.
pub(crate) fn this_host(state: &Path) -> Result<Host> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::usage(format!("find the windlass binary: {error}"), "start it by its full path"))?;
    let uname = rustix::system::uname();
    Ok(Host { state: PathBuf::from(state), name: uname.nodename().to_string_lossy().into_owned(), program })
}
