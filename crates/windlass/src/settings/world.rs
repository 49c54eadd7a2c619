//! What the file alone cannot tell: whether the folders, programs and secrets it names are there. Asked
//! before anything runs; nothing is written, no secret is read, and no server is spoken to.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use windlass_core::application::{Action, Application, Component, Control, Disk, Hooks, Postgres, Strategy};
use windlass_core::name::Name;
use windlass_core::repository::{Encryption, Format, Place, Repository, S3};
use windlass_core::secret::SecretRef;

use super::cursor::place;
use super::excluded;
use super::locate::{Position, join};
use super::problem::{Fault, Problem};
use super::{Settings, suggest};

/// Looks whether what the settings name is on this machine: for one application with its repository, or
/// for everything. Errors and warnings, in the order of the file.
pub fn check_world(settings: &Settings, application: Option<&Name>) -> Vec<Problem> {
    let mut world = World { settings, problems: Vec::new() };
    for (name, checked) in &settings.applications {
        if application.is_none_or(|wanted| wanted == name) {
            world.application(checked);
        }
    }
    let wanted =
        application.and_then(|name| settings.applications.get(name)).map(|application| &application.repository);
    for (name, repository) in &settings.repositories {
        if application.is_none() || wanted == Some(name) {
            world.repository(repository);
        }
    }
    world.problems.sort_by_key(|problem| problem.at);
    world.problems
}

struct World<'s> {
    settings: &'s Settings,
    problems: Vec<Problem>,
}

/// A key of the file: the dotted name of its table, and itself.
#[derive(Clone)]
struct Spot {
    table: String,
    key: String,
}

impl Spot {
    fn new(table: &str, key: &str) -> Self {
        Self { table: table.to_owned(), key: key.to_owned() }
    }

    fn element(&self, index: usize) -> Self {
        Self { table: self.table.clone(), key: format!("{}[{index}]", self.key) }
    }

    fn below(&self, key: &str) -> Self {
        Self { table: join(&self.table, &self.key), key: key.to_owned() }
    }

    fn place(&self) -> String {
        place(&self.table)
    }
}

impl World<'_> {
    fn tell(&mut self, spot: &Spot, fault: Fault) {
        let at = self.settings.position(&join(&spot.table, &spot.key));
        let at = at.or_else(|| self.settings.position(&spot.table)).unwrap_or(Position { line: 1, column: 1 });
        self.problems.push(Problem::new(&self.settings.file, at, fault));
    }

    fn missing(&mut self, spot: &Spot, path: &Path, why: impl Into<String>, hint: impl Into<String>) {
        let fault = Fault::MissingPath {
            key: spot.key.clone(),
            place: spot.place(),
            path: path.to_owned(),
            why: why.into(),
            hint: hint.into(),
        };
        self.tell(spot, fault);
    }

    fn application(&mut self, application: &Application) {
        let table = format!("application.{}", application.name);
        self.control(&table, application.control.as_ref());
        self.hooks(&table, &application.hooks);
        for component in &application.components {
            self.component(application, component);
        }
    }

    fn control(&mut self, table: &str, control: Option<&Control>) {
        if let Some(control) = control {
            let spot = Spot::new(table, "control");
            self.program(&spot.below("stop"), &control.stop);
            self.program(&spot.below("start"), &control.start);
        }
    }

    fn component(&mut self, application: &Application, component: &Component) {
        let table = format!("application.{}.component.{}", application.name, component.name);
        self.hooks(&table, &component.hooks);
        match &component.strategy {
            Strategy::Postgres(postgres) => self.postgres(&table, postgres),
            Strategy::Physical(physical) => {
                self.postgres(&table, &physical.server);
                if let Some(folder) = &physical.data_directory {
                    self.source(&Spot::new(&table, "data_directory"), folder);
                }
                self.control(&table, physical.control.as_ref());
            }
            Strategy::Disk(disk) => self.disk(&table, disk, application),
            Strategy::Action(action) => self.action(&table, action),
        }
    }

    fn postgres(&mut self, table: &str, postgres: &Postgres) {
        if let Some(password) = &postgres.password {
            self.secret(&Spot::new(table, "password"), password);
        }
        self.program(&Spot::new(table, "via"), &postgres.via);
    }

    fn action(&mut self, table: &str, action: &Action) {
        self.program(&Spot::new(table, "backup"), &action.backup);
        match &action.restore {
            Some(restore) => self.program(&Spot::new(table, "restore"), restore),
            None => self
                .tell(&Spot::new(table, "restore"), Fault::NoRestore { place: format!("the action {}", place(table)) }),
        }
    }

    fn hooks(&mut self, table: &str, hooks: &Hooks) {
        for (key, hooks) in [("before", &hooks.before), ("after", &hooks.after)] {
            for (index, hook) in hooks.iter().enumerate() {
                let spot = Spot::new(&join(table, "hooks"), key).element(index).below("run");
                self.program(&spot, &hook.run);
            }
        }
    }

    fn disk(&mut self, table: &str, disk: &Disk, application: &Application) {
        let spot = Spot::new(table, "paths");
        let mut all_empty = true;
        for (index, path) in disk.paths.iter().enumerate() {
            let spot = spot.element(index);
            let empty = self.source(&spot, path);
            all_empty &= empty;
            if let Some(Repository { place: Place::Directory(repository), .. }) =
                self.settings.repositories.get(&application.repository)
            {
                self.apart(&spot, path, repository, disk);
            }
        }
        for index in excluded::unmatched(disk) {
            let spot = Spot::new(table, "exclude").element(index);
            let fault = Fault::UnmatchedPattern { key: spot.key.clone(), place: spot.place() };
            self.tell(&spot, fault);
        }
        if all_empty {
            let which = if disk.paths.len() == 1 { "the folder" } else { "every folder" };
            let what = format!("{which} of `paths` {} is empty", spot.place());
            let hint =
                "is something not mounted? Name the folder that holds the data, or take the component out".to_owned();
            self.tell(&spot, Fault::NothingToProtect { what, hint });
        }
    }

    /// Looks at something that is to be captured; true if it is an empty folder.
    fn source(&mut self, spot: &Spot, path: &Path) -> bool {
        let kind = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.missing(spot, path, "nothing of that name is there", absent_hint(path));
                return false;
            }
            Err(error) => {
                self.missing(spot, path, cannot_be_read(&error), READABLE);
                return false;
            }
        };
        if kind.is_symlink() {
            let hint = fs::canonicalize(path).map_or_else(
                |_| "it leads nowhere".to_owned(),
                |target| format!("name what it leads to: \"{}\"", target.display()),
            );
            self.missing(spot, path, "it is a symbolic link, of which only the link itself would be kept", hint);
        } else if kind.is_dir() {
            match fs::read_dir(path).map(|mut entries| entries.next().is_none()) {
                Ok(empty) => return empty,
                Err(error) => self.missing(spot, path, cannot_be_read(&error), READABLE),
            }
        } else if kind.is_file() {
            if let Err(error) = File::open(path) {
                self.missing(spot, path, cannot_be_read(&error), READABLE);
            }
        } else {
            self.missing(spot, path, "it is neither a folder nor a file", "name a folder or a file");
        }
        false
    }

    /// A repository must not be captured into itself: it would grow with every run.
    fn apart(&mut self, spot: &Spot, path: &Path, repository: &Path, disk: &Disk) {
        let (Ok(path), Ok(repository)) = (fs::canonicalize(path), fs::canonicalize(repository)) else { return };
        let excluded = disk.exclude.iter().any(|pattern| Path::new(pattern) == repository);
        if path.starts_with(&repository) || repository.starts_with(&path) && !excluded {
            let why =
                format!("`{}` {} holds the repository itself, `{}`", spot.key, spot.place(), repository.display());
            let hint = format!(
                "keep the repository elsewhere, best on another disk, or add \"{}\" to `exclude`",
                repository.display()
            );
            self.tell(spot, Fault::Conflict { why, hint });
        }
    }

    fn repository(&mut self, repository: &Repository) {
        let table = format!("repository.{}", repository.name);
        if let Place::S3(S3 { ca, access_key, secret_key, .. }) = &repository.place {
            self.secret(&Spot::new(&table, "access_key"), access_key);
            self.secret(&Spot::new(&table, "secret_key"), secret_key);
            if let Some(ca) = ca {
                self.certificates(&Spot::new(&table, "ca"), ca);
            }
        }
        let encryption = Spot::new(&table, "encryption");
        match &repository.format {
            Format::Windlass(Encryption::Passphrase(secret)) | Format::Restic { password: secret } => {
                self.secret(&encryption.below("passphrase"), secret);
            }
            Format::Windlass(Encryption::Recipients { identity: Some(identity), .. }) => {
                self.secret(&encryption.below("identity"), identity);
            }
            Format::WalG { key: Some(key) } => self.secret(&encryption.below("libsodium"), &key.secret),
            Format::Windlass(Encryption::Recipients { identity: None, .. } | Encryption::None)
            | Format::WalG { key: None } => {}
        }
    }

    fn certificates(&mut self, spot: &Spot, path: &Path) {
        match fs::read(path) {
            Ok(bytes) if String::from_utf8_lossy(&bytes).contains("-----BEGIN CERTIFICATE-----") => {}
            Ok(_) => self.missing(spot, path, "it holds no certificate", "a file of PEM certificates is expected"),
            Err(error) => self.missing(spot, path, cannot_be_read(&error), READABLE),
        }
    }

    /// Whether a secret can be had; it is not read.
    fn secret(&mut self, spot: &Spot, secret: &SecretRef) {
        match secret {
            SecretRef::Env(variable) => {
                if std::env::var_os(variable).is_none_or(|value| value.is_empty()) {
                    let (key, place, variable) = (spot.key.clone(), spot.place(), variable.clone());
                    self.tell(spot, Fault::MissingVariable { key, place, variable });
                }
            }
            SecretRef::File(path) => match File::open(path).and_then(|file| file.metadata()) {
                Ok(metadata) => {
                    let mode = metadata.permissions().mode() & 0o777;
                    if metadata.is_file() && mode & 0o077 != 0 {
                        self.tell(&spot.below("file"), Fault::ExposedSecret { path: path.clone(), mode });
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.missing(
                        &spot.below("file"),
                        path,
                        "nothing of that name is there",
                        "put the secret there, readable for the user of Windlass only",
                    );
                }
                Err(error) => self.missing(&spot.below("file"), path, cannot_be_read(&error), READABLE),
            },
            SecretRef::Command(command) => self.program(&spot.below("command"), command),
        }
    }

    /// Whether a command's program is there and may be run; an empty command is none.
    fn program(&mut self, spot: &Spot, command: &[String]) {
        let Some(program) = command.first() else { return };
        let why = match find_program(program, std::env::var_os("PATH").as_deref()) {
            Found::Runs => return,
            Found::NotExecutable => "not a program that may be run",
            Found::Missing if program.contains('/') => "not there",
            Found::Missing => "in no folder of PATH",
        };
        // Arguments are not shown: they may hold a secret.
        let (program, why) = match program.split_once(char::is_whitespace) {
            Some((first, _)) => (format!("{first} …"), "no program: its words stand in one string"),
            None => (program.clone(), why),
        };
        let fault = Fault::MissingProgram { key: spot.key.clone(), place: spot.place(), program, why };
        self.tell(&spot.element(0), fault);
    }
}

const READABLE: &str = "let the user Windlass runs as read it, or run Windlass as another user";

fn cannot_be_read(error: &io::Error) -> String {
    format!("it cannot be read: {error}")
}

/// What may have been meant by a path that is not there.
fn absent_hint(path: &Path) -> String {
    if path.to_string_lossy().contains(['*', '?', '[']) {
        return "paths are names, not patterns: name the folder, which is captured with all below it".to_owned();
    }
    let near = path.parent().zip(path.file_name()).and_then(|(parent, name)| {
        let entries =
            fs::read_dir(parent).ok()?.take(1000).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let entries: Vec<String> = entries.collect();
        let near = suggest::nearest(name.to_str()?, entries.iter().map(String::as_str))?;
        Some(parent.join(near))
    });
    match near {
        Some(near) => format!("did you mean \"{}\"?", near.display()),
        None => "correct the path, or is something not mounted?".to_owned(),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Runs,
    NotExecutable,
    Missing,
}

/// Looks a program up as a shell would.
fn find_program(program: &str, search: Option<&OsStr>) -> Found {
    let candidates: Vec<PathBuf> = if program.contains('/') {
        vec![PathBuf::from(program)]
    } else {
        search.map(std::env::split_paths).into_iter().flatten().map(|folder| folder.join(program)).collect()
    };
    let mut found = Found::Missing;
    for candidate in candidates {
        if let Ok(metadata) = fs::metadata(&candidate)
            && metadata.is_file()
        {
            if metadata.permissions().mode() & 0o111 != 0 {
                return Found::Runs;
            }
            found = Found::NotExecutable;
        }
    }
    found
}
