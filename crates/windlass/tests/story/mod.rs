//! What every story begins with: a server, a folder, settings, and the real command.

pub(crate) mod archiving;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use anyhow::{Context, Result};
use serde_json::Value;
use windlass_testkit::postgres::PgCluster;
use windlass_testkit::s3::{ACCESS_KEY, BUCKET, SECRET_KEY};

/// A machine with an application on it.
pub(crate) struct Stage {
    root: tempfile::TempDir,
    /// The server of its database, started when it is first used.
    pub(crate) server: LazyLock<PgCluster>,
    components: String,
    application: String,
    repository: String,
    is_alone: bool,
}

/// What a command printed and how it ended.
pub(crate) struct Ended {
    /// The exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Ended {
    /// Fails the test with everything that was said if it did not end so.
    pub(crate) fn with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }

    /// Fails the test if standard error does not say this.
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.err.contains(text), "`{text}` is not said:\n{}\n{}", self.err, self.out);
        self
    }
}

/// The passphrase, which must never be seen anywhere.
pub(crate) const PASSPHRASE: &str = "correct-horse-battery-staple";

impl Stage {
    /// An application without components, and a repository in a directory.
    pub(crate) fn new() -> Result<Self> {
        let root = tempfile::Builder::new().prefix("wl-story-").tempdir()?;
        std::fs::write(root.path().join("passphrase"), format!("{PASSPHRASE}\n"))?;
        std::fs::set_permissions(root.path().join("passphrase"), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let repository = format!("url = \"file://{}/repository\"\n", root.path().display());
        let stage = Self {
            root,
            server: LazyLock::new(|| PgCluster::start().unwrap()),
            components: String::new(),
            application: String::new(),
            repository,
            is_alone: false,
        };
        stage.write()?;
        Ok(stage)
    }

    /// Ends the server as a crash would, and starts it again.
    pub(crate) fn restart_server(&mut self) -> Result<()> {
        let server = LazyLock::get_mut(&mut self.server).context("it was used before")?;
        server.down();
        server.up()
    }

    /// A path in the story's own folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Adds a component.
    pub(crate) fn component(mut self, name: &str, settings: &str) -> Result<Self> {
        self.components.push_str(&format!("[application.shop.component.{name}]\n{settings}\n"));
        self.write()?;
        Ok(self)
    }

    /// Adds a database of the server as the component `db`.
    pub(crate) fn database(self, name: &str) -> Result<Self> {
        let url = self.server.url(name);
        self.component("db", &format!("kind = \"postgres\"\nurl = \"{url}\""))
    }

    /// Adds the folder `uploads` as a component of that name.
    pub(crate) fn uploads(self) -> Result<Self> {
        let path = self.path("uploads");
        std::fs::create_dir_all(&path)?;
        self.component("uploads", &format!("kind = \"disk\"\npaths = [\"{}\"]", path.display()))
    }

    /// Adds lines to the application.
    pub(crate) fn application(mut self, settings: &str) -> Result<Self> {
        self.application.push_str(settings);
        self.application.push('\n');
        self.write()?;
        Ok(self)
    }

    /// Puts the repository elsewhere.
    pub(crate) fn repository(mut self, settings: &str) -> Result<Self> {
        settings.clone_into(&mut self.repository);
        self.write()?;
        Ok(self)
    }

    /// Puts the repository below a prefix of a bucket.
    pub(crate) fn bucket(self, endpoint: &str, prefix: &str) -> Result<Self> {
        let (access, secret) = (self.path("access"), self.path("secret"));
        std::fs::write(&access, ACCESS_KEY)?;
        std::fs::write(&secret, SECRET_KEY)?;
        self.repository(&format!(
            "url = \"s3://{BUCKET}/{prefix}\"\nendpoint = \"{endpoint}\"\naccess_key = {{ file = \"{}\" }}\nsecret_key = {{ file = \"{}\" }}",
            access.display(),
            secret.display()
        ))
    }

    /// Says of whose format the repository is.
    pub(crate) fn format(mut self, format: &str) -> Result<Self> {
        self.repository.push_str(&format!("\nformat = \"{format}\""));
        self.write()?;
        Ok(self)
    }

    /// Leaves the repository alone in the settings, without an application.
    pub(crate) fn alone(mut self) -> Result<Self> {
        self.is_alone = true;
        self.write()?;
        Ok(self)
    }

    fn write(&self) -> Result<()> {
        let root = self.root.path().display();
        if self.is_alone {
            let text = format!(
                "state = \"{root}/state\"\n[repository.main]\n{}\nencryption = {{ passphrase = {{ file = \"{root}/passphrase\" }} }}\n",
                self.repository
            );
            return std::fs::write(self.path("windlass.toml"), text).context("write the settings");
        }
        let text = format!(
            "state = \"{root}/state\"\n[repository.main]\n{}\nencryption = {{ passphrase = {{ file = \"{root}/passphrase\" }} }}\n\
             [application.shop]\nrepository = \"main\"\n{}\n{}",
            self.repository, self.application, self.components
        );
        std::fs::write(self.path("windlass.toml"), text).context("write the settings")
    }

    /// The command, ready to be given more.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
        command.arg("--config").arg(self.path("windlass.toml")).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs the command to its end.
    pub(crate) fn windlass(&self, arguments: &[&str]) -> Result<Ended> {
        let Output { status, stdout, stderr } = self.command(arguments).output()?;
        Ok(Ended {
            code: status.code().unwrap_or(-1),
            out: String::from_utf8(stdout)?,
            err: String::from_utf8(stderr)?,
        })
    }

    /// Makes the repository and takes a first point.
    pub(crate) fn begin(&self) -> Result<String> {
        self.windlass(&["repo", "init"])?.with(0);
        self.take()
    }

    /// Takes a point and returns its identifier.
    pub(crate) fn take(&self) -> Result<String> {
        let taken = self.windlass(&["--output", "json", "backup", "shop"])?.with(0).json();
        Ok(taken["id"].as_str().context("an id")?.to_owned())
    }

    /// The objects of the repository's directory, by key.
    pub(crate) fn objects(&self) -> Vec<PathBuf> {
        let mut all = Vec::new();
        let mut open = vec![self.path("repository")];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                if entry.path().is_dir() { open.push(entry.path()) } else { all.push(entry.path()) }
            }
        }
        all.sort();
        all
    }
}

/// Scratch places on this machine.
pub(crate) fn scratch_places() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/var/tmp").unwrap().flatten().map(|entry| entry.path());
    entries
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("windlass-scratch-")))
        .collect()
}

/// Waits until something is so, for at most three minutes: machines may be busy.
pub(crate) fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !so() {
        assert!(began.elapsed().as_secs() < 180, "still not so: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Writes a script that can be run.
pub(crate) fn script(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, format!("#!/bin/sh\n{text}\n"))?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
}

/// Runs a command where it may mount what nobody else sees: in a namespace of its own, which ends with it.
pub(crate) fn with_mounts_of_its_own() -> Command {
    let mut unshare = Command::new("unshare");
    unshare.arg("--mount");
    if !rustix::process::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    unshare
}
