//! Real PostgreSQL servers.

use std::fmt::Write;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::process::{Guardian, run};

/// A server of its own: a unix socket in a folder, no network, no fsync, pages with checksums.
#[derive(Debug)]
pub struct PgCluster {
    folder: TempDir,
    bin: PathBuf,
    server: Option<Child>,
    guardian: Option<Guardian>,
    settings: Vec<String>,
    user: Option<(u32, u32)>,
}

impl PgCluster {
    /// Starts a server.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts a server with settings such as `wal_level=logical`.
    pub fn start_with(settings: &[&str]) -> Result<Self> {
        Self::made_with(&["-k"], settings)
    }

    /// The same, of a cluster that `initdb` makes with these: `-k` for checksums of pages.
    pub fn made_with(initdb_with: &[&str], settings: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("wl-pg-").tempdir_in("/tmp")?;
        let user = unprivileged()?;
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid))?;
        }
        let settings = settings.iter().map(ToString::to_string).collect();
        let mut cluster = Self { folder, bin: bin()?, server: None, guardian: None, settings, user };
        let mut initdb = cluster.command("initdb");
        initdb.arg("-D").arg(cluster.data()).args([
            "-U",
            "postgres",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "-N",
            "-E",
            "UTF8",
        ]);
        run(initdb.args(["--locale=C.UTF-8"]).args(initdb_with))?;
        cluster.up()?;
        Ok(cluster)
    }

    /// Starts a server from what is laid down, such as a base backup, in a folder that is not there yet: it is given
    /// `data` in one that is empty, and may put more beside it.
    pub fn start_from(lay_down: impl FnOnce(&Path) -> Result<()>, settings: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("wl-pg-").tempdir_in("/tmp")?;
        let user = unprivileged()?;
        let settings = settings.iter().map(ToString::to_string).collect();
        let mut cluster = Self { folder, bin: bin()?, server: None, guardian: None, settings, user };
        lay_down(&cluster.data())?;
        if let Some((uid, gid)) = user {
            run(Command::new("chown").args(["-R", &format!("{uid}:{gid}")]).arg(cluster.folder.path()))?;
        }
        cluster.up()?;
        Ok(cluster)
    }

    /// Starts it again after [`PgCluster::down`].
    pub fn up(&mut self) -> Result<()> {
        let mut server = self.command("postgres");
        server.arg("-D").arg(self.data()).arg("-k").arg(self.folder.path());
        server.args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=50"]);
        for setting in &self.settings {
            server.arg("-c").arg(setting);
        }
        let log = std::fs::File::create(self.folder.path().join("log"))?;
        let mut child =
            server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().context("start postgres")?;
        self.guardian = Some(Guardian::of(child.id(), "QUIT")?);
        let began = Instant::now();
        while self.try_psql("postgres", "select 1").is_err() {
            if child.try_wait()?.is_some() || began.elapsed() > Duration::from_mins(1) {
                bail!("postgres did not start: {}", std::fs::read_to_string(self.folder.path().join("log"))?);
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        self.server = Some(child);
        Ok(())
    }

    /// Waits until it is out of recovery.
    pub fn recovered(self) -> Result<Self> {
        let began = Instant::now();
        while self.psql("postgres", "select pg_is_in_recovery()") != "f" {
            ensure!(began.elapsed() < Duration::from_mins(1), "still in recovery");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(self)
    }

    /// Ends it at once, as a crash would.
    pub fn down(&mut self) {
        self.guardian = None;
        if let Some(mut server) = self.server.take() {
            let _ = server.wait();
        }
    }

    /// The folder of its socket.
    pub fn socket(&self) -> &Path {
        self.folder.path()
    }

    /// A URL of a database, as the superuser.
    pub fn url(&self, database: &str) -> String {
        self.url_as("postgres", database)
    }

    /// A URL of a database, as a role.
    pub fn url_as(&self, role: &str, database: &str) -> String {
        format!("postgresql://{role}@/{database}?host={}", self.folder.path().display())
    }

    /// Runs SQL in a database and returns what it prints; panics with the server's words where it fails.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        self.try_psql(database, sql).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Runs SQL in a database.
    pub fn try_psql(&self, database: &str, sql: &str) -> Result<String> {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, "-h"])
            .arg(self.folder.path())
            .args(["-U", "postgres", database]);
        Ok(run(&mut psql)?.trim_end().to_owned())
    }

    /// Everything a database holds, as text: definitions by `pg_dump`, rows of every table in order, large objects.
    /// Two databases with one description are alike.
    pub fn describe(&self, database: &str) -> Result<String> {
        let mut dump = Command::new(self.bin.join("pg_dump"));
        dump.args(["--schema-only", "-h"]).arg(self.folder.path()).args(["-U", "postgres", database]);
        let definitions = run(&mut dump)?;
        let meant = definitions.lines().filter(|line| !line.starts_with("--") && !line.starts_with('\\'));
        let tables = self.try_psql(
            database,
            "select case relkind when 'S' then '(last_value, is_called)' else 't' end || '::text from ' || format('%I.%I', nspname, relname) from pg_class c join pg_namespace n on n.oid = relnamespace \
             where relkind in ('r', 'm', 'S') and nspname not in ('pg_catalog', 'information_schema') order by 1",
        )?;
        let mut text = meant.collect::<Vec<_>>().join("\n");
        for table in tables.lines() {
            let rows = self.try_psql(database, &format!("set row_security = off; select {table} t order by 1"))?;
            writeln!(text, "\n== {table}\n{rows}")?;
        }
        text.push_str(&self.try_psql(
            database,
            "select oid, encode(lo_get(oid), 'hex'), lomacl::text from pg_largeobject_metadata order by 1",
        )?);
        Ok(text)
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, tool: &str) -> Command {
        let mut command = Command::new(self.bin.join(tool));
        command.current_dir("/").env("LC_ALL", "C.UTF-8");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for PgCluster {
    fn drop(&mut self) {
        self.down();
    }
}

/// The programs of a version: of the one that PATH names, servers' and clients' in one folder, else of the newest that Debian
/// installed.
pub fn bin() -> Result<PathBuf> {
    let is_whole = |bin: &PathBuf| bin.join("initdb").is_file() && bin.join("psql").is_file();
    if let Some(named) = std::env::var_os("PATH").and_then(|path| std::env::split_paths(&path).find(is_whole)) {
        return Ok(named);
    }
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .context("no PostgreSQL server is installed: run `make tools`")?
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| is_whole(bin))
        .collect();
    versions.sort();
    let (_, bin) = versions.pop().context("no PostgreSQL server is installed: run `make tools`")?;
    Ok(bin)
}

fn unprivileged() -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    for name in ["postgres", "nobody"] {
        if let Some(line) = users.lines().find(|line| line.split(':').next() == Some(name)) {
            let ids: Vec<u32> = line.split(':').skip(2).take(2).map(str::parse).collect::<Result<_, _>>()?;
            ensure!(ids.len() == 2, "/etc/passwd is malformed");
            return Ok(Some((ids[0], ids[1])));
        }
    }
    bail!("there is no unprivileged user to run PostgreSQL as")
}

impl PgCluster {
    /// Makes a database with much of what is hard to bring back.
    pub fn make_rich(&self, database: &str) -> Result<()> {
        self.try_psql("postgres", &format!("create database {database}"))?;
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-Xq", "-v", "ON_ERROR_STOP=1", "-f", concat!(env!("CARGO_MANIFEST_DIR"), "/src/rich.sql"), "-h"]);
        run(psql.arg(self.folder.path()).args(["-U", "postgres", database]))?;
        Ok(())
    }
}
