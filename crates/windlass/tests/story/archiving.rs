//! A server whose WAL is archived.

use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::{Context, Result};
use windlass_testkit::postgres::PgCluster;

use super::{Stage, script, wait_until};

/// `windlass serve`, which ends with this.
pub(crate) struct Serving(Child);

impl Serving {
    /// Whether it ended by itself.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that archives, and its application.
pub(crate) struct Archive {
    pub(crate) stage: Stage,
    pub(crate) server: PgCluster,
    pub(crate) serving: Option<Serving>,
}

impl Archive {
    pub(crate) fn new() -> Result<Self> {
        Self::with(&[])
    }

    /// With settings of its server.
    pub(crate) fn with(settings: &[&str]) -> Result<Self> {
        Self::with_both(settings, "")
    }

    /// With settings of its server, and more of its component.
    pub(crate) fn with_both(settings: &[&str], more: &str) -> Result<Self> {
        let usual = ["archive_mode=on", "wal_level=replica", "max_wal_size=64MB"];
        Self::of(PgCluster::start_with(&[&usual, settings].concat())?, more, Ok)
    }

    /// Whose repository is in the bucket at an endpoint.
    pub(crate) fn in_bucket(endpoint: &str, more: &str) -> Result<Self> {
        let server = PgCluster::start_with(&["archive_mode=on", "wal_level=replica", "max_wal_size=64MB"])?;
        Self::of(server, more, |stage| stage.bucket(endpoint, "prod"))
    }

    /// Of this server.
    pub(crate) fn of(server: PgCluster, more: &str, elsewhere: impl FnOnce(Stage) -> Result<Stage>) -> Result<Self> {
        server.psql("postgres", "create database shop");
        server.psql("shop", "create table orders (id bigint primary key, note text)");
        let settings = format!(
            "kind = \"postgres\"\nmode = \"physical\"\nwal = \"archive\"\n{more}\nurl = \"{}\"",
            server.url("shop")
        );
        let stage = elsewhere(Stage::new()?)?.component("db", &settings)?;
        stage.windlass(&["repo", "init"])?.with(0);
        let serving = Some(archiving(&stage, &server)?);
        Ok(Self { stage, server, serving })
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.server.socket().join("wal.sock")
    }

    pub(crate) fn serve(&mut self) -> Result<()> {
        self.serving = Some(serve(&self.stage, &self.server, &[])?);
        Ok(())
    }

    /// The same in another environment.
    pub(crate) fn serve_with(&mut self, environment: &[(&str, &str)]) -> Result<()> {
        self.serving = Some(serve(&self.stage, &self.server, environment)?);
        Ok(())
    }

    /// Whether the server was told that this segment is stored.
    pub(crate) fn acknowledged(&self, name: &str) -> bool {
        let asked = format!("select coalesce(last_archived_wal >= '{name}', false) from pg_stat_archiver");
        self.server.psql("postgres", &asked) == "t"
    }

    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.stage.path("serve.log")).unwrap_or_default()
    }

    /// Ends the segment that is written, and returns its name.
    pub(crate) fn switch(&self) -> String {
        self.server.psql("shop", "insert into orders select coalesce(max(id), 0) + 1, 'switched' from orders");
        self.server.psql("postgres", "select pg_walfile_name(pg_switch_wal())")
    }

    /// Whether it is in the store, whole: what is still being written there has another name.
    pub(crate) fn archived(&self, name: &str) -> bool {
        self.object(name).is_ok()
    }

    /// Waits until the server was told that a segment is stored.
    pub(crate) fn wait_until_acknowledged(&self, name: &str) {
        wait_until(&format!("{name} to be acknowledged: {}", self.said()), || self.acknowledged(name));
    }

    pub(crate) fn wait_for(&self, name: &str) {
        wait_until(&format!("{name} to be archived: {}", self.said()), || self.archived(name));
    }

    /// The command that fetches.
    pub(crate) fn fetch(&self) -> String {
        format!("{} wal-fetch --component shop/db --socket {} %f %p", binary(), self.socket().display())
    }

    /// A server on the newest base backup, that fetches its WAL by this command.
    pub(crate) fn restored(&self, fetch: &str) -> Result<PgCluster> {
        let back = self.stage.path("back");
        let into = format!("db={}", back.display());
        self.stage.windlass(&["restore", "shop", "--into", &into, "--yes"])?.with(0);
        let fetch = format!("restore_command={fetch}");
        PgCluster::start_from(|to| Ok(std::fs::rename(back.join("data"), to)?), &[&fetch])
    }

    /// Writes a script that the server's user may run.
    pub(crate) fn script(&self, text: &str) -> Result<PathBuf> {
        let path = self.server.socket().join("script");
        script(&path, text)?;
        Ok(path)
    }

    pub(crate) fn object(&self, name: &str) -> Result<PathBuf> {
        let named = |object: &PathBuf| object.to_string_lossy().ends_with(&format!("/{name}.zst"));
        self.stage.objects().into_iter().find(named).with_context(|| format!("{name} in the archive"))
    }
}

/// Runs `windlass serve`, and has the server archive by it.
pub(crate) fn archiving(stage: &Stage, server: &PgCluster) -> Result<Serving> {
    let serving = serve(stage, server, &[])?;
    let socket = server.socket().join("wal.sock");
    let command = format!("{} wal-push --component shop/db --socket {} %p", binary(), socket.display());
    server.psql("postgres", &format!("alter system set archive_command = '{command}'"));
    server.psql("postgres", "select pg_reload_conf()");
    Ok(serving)
}

fn serve(stage: &Stage, server: &PgCluster, environment: &[(&str, &str)]) -> Result<Serving> {
    let socket = server.socket().join("wal.sock");
    let mut serve = stage.command(&["serve", "--socket", socket.to_str().context("UTF-8")?]);
    serve.envs(environment.iter().copied());
    // One that was killed leaves it.
    let _ = std::fs::remove_file(&socket);
    let log = std::fs::File::options().create(true).append(true).open(stage.path("serve.log"))?;
    let serving = Serving(serve.stdout(Stdio::null()).stderr(log).spawn()?);
    wait_until("the socket to be there", || socket.exists());
    Ok(serving)
}

/// The command, as a server runs it.
pub(crate) fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_windlass")
}
