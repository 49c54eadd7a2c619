//! A scratch server: made for one verification, seen by nobody, torn down whatever happens.
//!
//! It listens on a unix socket only, in a network namespace of its own where there can be one, archives nothing,
//! loads nothing beforehand, and runs as an unprivileged user where Windlass is root. It lives in one folder, and
//! [`teardown`] needs nothing but that folder.

mod place;
mod teardown;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};
use windlass_core::point::PhysicalData;
use windlass_core::wal::Lsn;

pub use self::place::{Place, stale};
pub use self::teardown::teardown;
use super::PostgresError;
use super::child::Running;
use super::physical::LaidDown;
use super::physical::recovery::replace;
use super::session::Session;
use super::tools::{Tools, server_folder};

/// The superuser of a scratch server.
const USER: &str = "postgres";

/// How long the server may take to start.
const PATIENCE: Duration = Duration::from_mins(1);

/// The same of one that recovers first.
const LONG_PATIENCE: Duration = Duration::from_hours(7 * 24);

/// Transactions that may be prepared in what is replayed, at least: it may have been set higher behind the base backup.
const PREPARED: u32 = 1000;

/// What a server that is read while it recovers has to have as much of as its source, also where that was given more since.
const AMPLE: [(&str, &str, u32); 4] = [
    ("max_connections", "max_connections", 200),
    ("max_locks_per_transaction", "max_locks_per_xact", 1024),
    ("max_wal_senders", "max_wal_senders", 32),
    ("max_worker_processes", "max_worker_processes", 32),
];

/// Why a server may go on where it was to stay: it can be read only once it knows which transactions run.
const NEVER_PAUSED: &str = "it could not stay where it was to, as it could not be read yet: transactions of more than 64 subtransactions ran \
    when its last checkpoint before was made; restore without `--pause`, or to another moment";

/// What is said of a database that is not there, or lets nobody in.
const NOT_THAT: [&str; 2] = ["does not exist", "is not currently accepting connections"];

/// How often a server is asked whether it is there yet.
const OFTEN: Duration = Duration::from_millis(50);
const SELDOM: Duration = Duration::from_secs(1);

/// Databases that a server has, mostly.
const USUAL: [&str; 2] = ["postgres", "template1"];

/// Seconds it may take to end in order: it writes everything it holds.
const STOPPED: &str = "3600";

/// What a server answers, or its socket, that is not up yet.
const NOT_YET: [&str; 5] =
    ["starting up", "accepting connections", "No such file or directory", "Connection refused", "shutting down"];

/// Characters of what `pg_amcheck` says that are told.
const SAID: usize = 2000;

/// What the server runs with. What it holds can be made again, so nothing is made durable; locks are plenty, since a
/// check may touch every partition of a table at once.
const SETTINGS: [&str; 16] = [
    "listen_addresses=",
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
    "autovacuum=off",
    "archive_mode=off",
    "max_wal_senders=0",
    "max_logical_replication_workers=0",
    "shared_preload_libraries=",
    "shared_buffers=64MB",
    "maintenance_work_mem=64MB",
    "max_connections=20",
    "max_locks_per_transaction=1024",
    "max_worker_processes=4",
    "jit=off",
    "logging_collector=off",
];

/// A running scratch server.
pub struct ScratchServer {
    /// Client tools for it.
    pub tools: Tools,
    place: PathBuf,
    data: PathBuf,
    /// Where its programs are, and who it runs as.
    folder: PathBuf,
    owner: Option<(u32, u32)>,
}

/// What `pg_amcheck` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Amcheck {
    /// Everything is as it has to be.
    Right,
    /// What is not, in its words.
    Wrong(String),
    /// It is not there.
    NotInstalled,
}

impl ScratchServer {
    /// Starts a server of at least this major version in the place.
    pub async fn start(place: &Place, major: u32) -> Result<Self, PostgresError> {
        let (version, folder) = server_folder(major).await?;
        let data = place.path.join("data");
        let failed = |why: String| PostgresError::Scratch { place: place.path.clone(), why };
        if let Err(error) = initdb(&folder, &data, place, "C.UTF-8").await {
            // Not every C library has it.
            let _ = std::fs::remove_dir_all(&data);
            initdb(&folder, &data, place, "C").await.map_err(|_| failed(error.to_string()))?;
        }
        let settings = ["wal_level=minimal".to_owned()];
        Self::up((version, folder), &data, place, (USER, &["postgres"]), &settings, PATIENCE).await
    }

    /// Starts a server of exactly the version of a base backup on what was laid down of it, and waits until it has recovered. Of its
    /// settings only those that say how it recovers are read: ours are in the place. Whatever it would archive is only marked so.
    ///
    /// It makes nothing durable: what is to stay is for the one to sync who asked. One that is `readable` while it recovers runs when
    /// this returns, and may not have come to its end.
    pub async fn start_on(
        place: &Place,
        laid_down: &LaidDown,
        of: &PhysicalData,
        readable: bool,
    ) -> Result<Self, PostgresError> {
        let (data, major) = (laid_down.data.as_path(), of.server_version / 10_000);
        let (version, folder) = server_folder(major).await?;
        let failed = |why: String| PostgresError::Scratch { place: place.path.clone(), why };
        if version != major {
            return Err(PostgresError::NoTool { tool: "postgres".into(), major, found: version.to_string() });
        }
        only_recovery(data).map_err(|error| failed(error.to_string()))?;
        if let Some(owner) = place.owner {
            laid_down.give_to(owner).map_err(|error| failed(error.to_string()))?;
        }
        let write = |name: &str, text: &str| {
            let path = place.path.join(name);
            // A new one, and nothing that it would lead to: the place is the server's user's. One before may have left its own.
            let _ = std::fs::remove_file(&path);
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
            let written = file
                .as_mut()
                .map_err(|error| error.to_string())
                .and_then(|file| std::io::Write::write_all(file, text.as_bytes()).map_err(|error| error.to_string()));
            written.map(|()| path.display().to_string()).map_err(failed)
        };
        let control = Control::read(&folder, data, place).await?;
        let setting = |name: &str| control.setting(name).map_err(failed);
        let prepared: u32 = setting("max_prepared_xacts")?.parse().unwrap_or_default();
        let wal_level = setting("wal_level")?;
        // What it writes on a timeline of its own is marked for whoever archives it later: otherwise there would be a gap.
        let commits = setting("track_commit_timestamp")?;
        let marks = if wal_level == "minimal" { "off" } else { "on" };
        let segment = of.segment_size.bytes() >> 20;
        let mut settings = vec![
            format!("config_file={}", write("postgresql.conf", "")?),
            format!("hba_file={}", write("pg_hba.conf", "local all all trust\n")?),
            format!("ident_file={}", write("pg_ident.conf", "")?),
            format!("hot_standby={}", if readable { "on" } else { "off" }),
            "huge_pages=off".to_owned(),
            // Twice a segment at least, or it does not start; otherwise as by default.
            format!("min_wal_size={}MB", (2 * segment).max(80)),
            format!("max_wal_size={}MB", (4 * segment).max(1024)),
            // As many as there can be in the WAL: recovery ends without.
            format!("max_prepared_transactions={}", prepared.max(PREPARED)),
            // Who recovers by what it writes is told, and wants no less.
            format!("wal_level={wal_level}"),
            // Without, it would forget when every transaction was committed.
            format!("track_commit_timestamp={commits}"),
            format!("archive_mode={marks}"),
            "archive_command=".to_owned(),
        ];
        if readable {
            // Less than its source had, and it would stop on the way.
            for (called, name, ample) in AMPLE {
                let of_source: u32 = setting(name)?.parse().unwrap_or_default();
                settings.push(format!("{called}={}", of_source.max(ample)));
            }
        }
        // What there was when the base backup was taken may be gone by the moment it is brought to.
        let databases: Vec<&str> = USUAL.into_iter().chain(of.databases.iter().map(String::as_str)).collect();
        Self::up((version, folder), data, place, (&of.superuser, &databases), &settings, LONG_PATIENCE).await
    }

    async fn up(
        (version, folder): (u32, PathBuf),
        data: &Path,
        place: &Place,
        (user, databases): (&str, &[&str]),
        settings: &[String],
        patience: Duration,
    ) -> Result<Self, PostgresError> {
        let failed = |why: String| PostgresError::Scratch { place: place.path.clone(), why };
        let mut child = serve(&folder, data, place, settings).await?;
        let encoded = windlass_repo::store::Key::encode;
        let host = encoded(&place.path.to_string_lossy());
        let reached_by = |database: &str| {
            let url = format!("postgresql://{}@/{}?host={host}", encoded(user), encoded(database));
            Tools::of_scratch(folder.clone(), url, version)
        };
        let began = Instant::now();
        let mut databases = databases.iter();
        let mut tools = reached_by(databases.next().copied().unwrap_or(USUAL[0]));
        loop {
            match Session::open_any(&tools).await {
                Ok(mut session) => {
                    let at = session.lines("show data_directory").await?;
                    session.close().await;
                    if at.first().is_none_or(|at| Path::new(at) != data) {
                        teardown::end(&place.path);
                        return Err(failed(format!("the server that answers is another one, in {}", at.join(""))));
                    }
                    let (place, owner) = (place.path.clone(), place.owner);
                    return Ok(Self { tools, place, data: data.to_owned(), folder, owner });
                }
                Err(error) => {
                    let ended = child.try_wait().ok().flatten().is_some();
                    let why = error.to_string();
                    if !ended
                        && NOT_THAT.iter().any(|not_that| why.contains(not_that))
                        && let Some(next) = databases.next()
                    {
                        tools = reached_by(next);
                        continue;
                    }
                    if !ended && (began.elapsed() > patience || !NOT_YET.iter().any(|not_yet| why.contains(not_yet))) {
                        // That it cannot be reached says nothing of what it runs on.
                        teardown::end(&place.path);
                        return Err(error);
                    }
                    if ended {
                        teardown::end(&place.path);
                        return Err(with_log(&place.path, &error));
                    }
                    // Whoever asks takes its time from what is replayed.
                    tokio::time::sleep((began.elapsed() / 20).clamp(OFTEN, SELDOM)).await;
                }
            }
        }
    }

    /// Has `pg_amcheck` look at every table and index of every database; what it found wrong, or that it is not installed.
    pub async fn check_all(&self) -> Result<Amcheck, PostgresError> {
        let mut command = self.tools.command("pg_amcheck");
        command.args(["--all", "--install-missing", "--no-dependent-toast", "--jobs=2", "--no-password"]);
        command.arg("--maintenance-db").arg(self.tools.url()).stdin(Stdio::null()).kill_on_drop(true);
        let output = match command.output().await {
            Ok(output) => output,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Amcheck::NotInstalled),
            Err(source) => return Err(PostgresError::Start { tool: "pg_amcheck".into(), source }),
        };
        if output.status.success() {
            return Ok(Amcheck::Right);
        }
        let said =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).trim().to_owned()).join("\n");
        Ok(Amcheck::Wrong(said.trim().chars().take(SAID).collect()))
    }

    /// Waits until one that is readable has come to where it stays, and tells where that is.
    pub async fn paused(&self) -> Result<Lsn, PostgresError> {
        #[derive(serde::Deserialize)]
        struct Replay {
            /// Absent where it does not recover any more.
            is_paused: Option<bool>,
            lsn: Option<Lsn>,
        }
        let asked = "select case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_is_wal_replay_paused() end as is_paused, \
            pg_catalog.pg_last_wal_replay_lsn()::text as lsn";
        let failed = |why: String| PostgresError::Scratch { place: self.place.clone(), why };
        let began = Instant::now();
        loop {
            let answer = async {
                let mut session = Session::open_any(&self.tools).await?;
                let answer: Replay = session.row(asked).await?;
                session.close().await;
                Ok::<_, PostgresError>(answer)
            };
            match answer.await {
                Ok(Replay { is_paused: Some(true), lsn: Some(lsn) }) => return Ok(lsn),
                Ok(Replay { is_paused: None, .. }) => return Err(failed(NEVER_PAUSED.to_owned())),
                Ok(_) => {}
                // A session may be ended by what is replayed.
                Err(_) if self.data.join("postmaster.pid").exists() => {}
                Err(error) => return Err(with_log(&self.place, &error)),
            }
            tokio::time::sleep((began.elapsed() / 20).clamp(OFTEN, SELDOM)).await;
        }
    }

    /// Ends the server in order: what it wrote is whole. Where it had recovered, it is started again without recovering.
    pub async fn stop(self) -> Result<(), PostgresError> {
        let mut command = as_owner(&self.folder.join("pg_ctl"), self.owner);
        command.arg("stop").arg("-D").arg(&self.data).args(["-m", "fast", "-w", "-t", STOPPED]).stdin(Stdio::null());
        Running::start("pg_ctl", command.stdout(Stdio::null()))?.finish().await.map(drop)
    }

    /// Ends the server; its place stays for others and goes with [`teardown`].
    pub fn halt(self) -> Result<(), PostgresError> {
        teardown::end(&self.place);
        teardown::remove(&self.data)
    }
}

async fn initdb(folder: &Path, data: &Path, place: &Place, locale: &str) -> Result<String, PostgresError> {
    let mut command = as_owner(&folder.join("initdb"), place.owner);
    command.arg("--pgdata").arg(data).args(["--username", USER, "--auth=trust", "--no-sync", "--encoding=UTF8"]);
    command.arg(format!("--locale={locale}")).stdin(Stdio::null()).stdout(Stdio::null());
    Running::start("initdb", &mut command)?.finish().await
}

async fn serve(folder: &Path, data: &Path, place: &Place, more: &[String]) -> Result<Child, PostgresError> {
    let failed = |source: std::io::Error| PostgresError::Start { tool: "postgres".into(), source };
    let program = folder.join("postgres");
    let mut server = match place.owner {
        owner if can_run(isolated(&program, owner)).await => isolated(&program, owner),
        owner => as_owner(&program, owner),
    };
    server.arg("-D").arg(data).arg("-k").arg(&place.path);
    for setting in SETTINGS.iter().copied().chain(more.iter().map(String::as_str)) {
        server.arg("-c").arg(setting);
    }
    // A new one: who owns the place may have put a link there.
    let path = place.path.join("log");
    let _ = std::fs::remove_file(&path);
    let log = std::fs::File::options().write(true).create_new(true).open(&path).map_err(failed)?;
    // A group of its own: an interrupt at the terminal is for Windlass, which then tears it down.
    server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0).spawn().map_err(failed)
}

/// Leaves of the settings of its source, which may hold addresses, commands and libraries, those that say how it recovers.
fn only_recovery(data: &Path) -> std::io::Result<()> {
    let path = data.join("postgresql.auto.conf");
    let text = std::io::read_to_string(windlass_repo::regular::open(&path)?)?;
    // It archives nothing, also where it is left behind as it is and somebody starts it.
    let kept = ["recovery_target", "restore_command", "archive_mode"];
    let is_of_recovery = |line: &&str| kept.iter().any(|name| line.starts_with(name));
    let kept: String = text.lines().filter(is_of_recovery).map(|line| format!("{line}\n")).collect();
    replace(&path, kept.as_bytes())
}

/// The settings of the server whose data folder it was, as its `pg_control` has them.
struct Control(String);

impl Control {
    async fn read(folder: &Path, data: &Path, place: &Place) -> Result<Self, PostgresError> {
        let mut command = as_owner(&folder.join("pg_controldata"), place.owner);
        command.arg(data).stdin(Stdio::null());
        let failed = |source| PostgresError::Start { tool: "pg_controldata".into(), source };
        let said = command.kill_on_drop(true).output().await.map_err(failed)?.stdout;
        Ok(Self(String::from_utf8_lossy(&said).into_owned()))
    }

    /// One of them, or what is wrong.
    fn setting(&self, name: &str) -> Result<&str, String> {
        let title = format!("{name} setting:");
        let value = self.0.lines().find_map(|line| line.strip_prefix(&title));
        value.map(str::trim).ok_or_else(|| format!("pg_controldata says nothing of {name}"))
    }
}

/// What its server said last, behind an error that says only that it cannot be reached.
fn with_log(place: &Path, error: &PostgresError) -> PostgresError {
    let log = std::fs::read_to_string(place.join("log")).unwrap_or_default();
    PostgresError::Scratch { place: place.to_owned(), why: format!("{error}\n{}", log.trim_end()) }
}

/// A program run as the owner of the place, with nothing of our environment.
fn as_owner(program: &Path, owner: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    if let Some((user, group)) = owner {
        command.uid(user).gid(group);
    }
    command.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("LC_ALL", "C");
    command
}

/// The program in a network namespace of its own. Root makes one and then gives its rights up; others get one within
/// a user namespace, where the system allows it.
fn isolated(program: &Path, owner: Option<(u32, u32)>) -> Command {
    let mut command = as_owner(Path::new("unshare"), None);
    match owner {
        Some((user, group)) => {
            command.args(["--net", "--", "setpriv", "--clear-groups"]);
            command.arg(format!("--reuid={user}")).arg(format!("--regid={group}")).arg("--");
        }
        None => {
            command.args(["--user", "--map-current-user", "--net", "--"]);
        }
    }
    command.arg(program);
    command
}

/// Whether the program answers at all when it is run so.
async fn can_run(mut command: Command) -> bool {
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().await.is_ok_and(|status| status.success())
}
