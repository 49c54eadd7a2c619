//! A scratch server: made for one verification, seen by nobody, torn down whatever happens.
//!
//! It listens on a unix socket only, in a network namespace of its own where there can be one, archives nothing,
//! loads nothing beforehand, and runs as an unprivileged user where Windlass is root. It lives in one folder, and
//! [`teardown`] needs nothing but that folder.

use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::process::Command;
use windlass_repo::random;

use super::PostgresError;
use super::capture::tail;
use super::session::Session;
use super::tools::{Tools, server_folder};

/// How the name of a scratch place begins; nothing else is ever torn down.
const PREFIX: &str = "windlass-scratch-";

/// The superuser of a scratch server.
const USER: &str = "postgres";

/// How long the server may take to start, or to end.
const PATIENCE: Duration = Duration::from_mins(1);

/// A folder for scratch things, owned by the user scratch servers run as.
#[derive(Debug)]
pub struct Place {
    /// The folder.
    pub path: PathBuf,
    owner: Option<(u32, u32)>,
}

impl Place {
    /// Makes a folder below `/var/tmp`, where an unprivileged user can reach it and room is to be expected.
    pub fn make() -> Result<Self, PostgresError> {
        let failed = |place: &Path, why: String| PostgresError::Scratch { place: place.to_owned(), why };
        let base = if Path::new("/var/tmp").is_dir() { PathBuf::from("/var/tmp") } else { std::env::temp_dir() };
        let name = random::bytes::<6>().map_err(|e| failed(&base, e.to_string()))?;
        let path = base.join(format!("{PREFIX}{}", windlass_repo::hex::encode(&name)));
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(|e| failed(&path, e.to_string()))?;
        let owner = unprivileged();
        if let Some((user, group)) = owner {
            chown(&path, Some(user), Some(group)).map_err(|e| failed(&path, e.to_string()))?;
        }
        Ok(Self { path, owner })
    }
}

/// The user servers run as where we are root, which they refuse to be: `postgres`, else `nobody`.
fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    find("postgres").or_else(|| find("nobody"))
}

/// A running scratch server.
pub struct ScratchServer {
    /// Client tools for it.
    pub tools: Tools,
    place: PathBuf,
}

impl ScratchServer {
    /// Starts a server of at least this major version in the place.
    pub async fn start(place: &Place, major: u32) -> Result<Self, PostgresError> {
        let (version, folder) = server_folder(major).await?;
        let data = place.path.join("data");
        let failed = |why: String| PostgresError::Scratch { place: place.path.clone(), why };
        let mut initdb = as_owner(Command::new(folder.join("initdb")), place.owner);
        initdb.arg("--pgdata").arg(&data).args(["--username", USER, "--auth=trust", "--no-sync"]);
        initdb.args(["--encoding=UTF8", "--locale=C.UTF-8"]).stdout(Stdio::null());
        finish(initdb).await.map_err(failed)?;
        let program = folder.join("postgres");
        let mut server = match place.owner {
            Some(owner) if own_network().await => isolated(&program, owner),
            owner => as_owner(Command::new(program), owner),
        };
        server.arg("-D").arg(&data).arg("-k").arg(&place.path);
        for setting in [
            "listen_addresses=",
            "fsync=off",
            "full_page_writes=off",
            "archive_mode=off",
            "max_wal_senders=0",
            "wal_level=minimal",
            "max_logical_replication_workers=0",
            "shared_preload_libraries=",
            "shared_buffers=64MB",
            "maintenance_work_mem=64MB",
            "max_connections=20",
            "logging_collector=off",
        ] {
            server.arg("-c").arg(setting);
        }
        let log = std::fs::File::create(place.path.join("log")).map_err(|e| failed(e.to_string()))?;
        let mut child = server
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(|e| failed(e.to_string()))?;
        let host = windlass_repo::store::Key::encode(&place.path.to_string_lossy());
        let url = format!("postgresql://{USER}@/postgres?host={host}");
        let tools = Tools::local(folder, url, version, version * 10_000);
        let began = Instant::now();
        loop {
            match Session::open_any(&tools).await {
                Ok(session) => {
                    session.close().await;
                    return Ok(Self { tools, place: place.path.clone() });
                }
                Err(error) => {
                    let ended = child.try_wait().ok().flatten().is_some();
                    if ended || began.elapsed() > PATIENCE {
                        let log = std::fs::read_to_string(place.path.join("log")).unwrap_or_default();
                        let _ = teardown(&place.path);
                        return Err(failed(format!("{error}\n{}", log.trim_end())));
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Ends the server; its place stays for others and goes with [`teardown`].
    pub fn halt(self) -> Result<(), PostgresError> {
        end_server(&self.place);
        let data = self.place.join("data");
        std::fs::remove_dir_all(&data).map_err(|source| PostgresError::File { path: data, source })
    }
}

fn as_owner(mut command: Command, owner: Option<(u32, u32)>) -> Command {
    if let Some((user, group)) = owner {
        command.uid(user).gid(group);
    }
    command.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C");
    command
}

/// `unshare --net -- setpriv … postgres`: a network namespace takes our rights, which the server then gives up.
fn isolated(server: &Path, (user, group): (u32, u32)) -> Command {
    let mut command = as_owner(Command::new("unshare"), None);
    command.args(["--net", "--", "setpriv"]);
    command.arg(format!("--reuid={user}")).arg(format!("--regid={group}")).args(["--clear-groups", "--"]).arg(server);
    command
}

/// Whether a network namespace of its own can be had, and the rights given up in it.
async fn own_network() -> bool {
    let mut probe = Command::new("unshare");
    probe
        .args(["--net", "--", "setpriv", "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    probe.status().await.is_ok_and(|status| status.success())
}

async fn finish(mut command: Command) -> Result<(), String> {
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
    let stderr = match child.stderr.take() {
        Some(stderr) => tail(stderr).await,
        None => String::new(),
    };
    let status = child.wait().await.map_err(|e| e.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("initdb ended with {status}: {}", stderr.trim_end())) }
}

/// Ends the server of a scratch place, if one runs, and removes the place. Idempotent; needs the folder alone.
pub fn teardown(place: &Path) -> Result<(), PostgresError> {
    let failed = |why: &str| PostgresError::Scratch { place: place.to_owned(), why: why.to_owned() };
    let ours = place.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
    if !ours {
        return Err(failed("it is no scratch place, and is left as it is"));
    }
    end_server(place);
    match std::fs::remove_dir_all(place) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(PostgresError::File { path: place.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// Ends the server of a scratch place, if one runs.
fn end_server(place: &Path) {
    if let Some(server) = server_of(place) {
        // Immediate shutdown: nothing in it is worth keeping.
        let _ = kill_process(server, Signal::QUIT);
        let began = Instant::now();
        while test_kill_process(server).is_ok() && server_of(place).is_some() {
            if began.elapsed() > PATIENCE {
                let _ = kill_process(server, Signal::KILL);
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The server that runs in a scratch place: the process its pid file names, if it is one of that folder.
fn server_of(place: &Path) -> Option<Pid> {
    let data = place.join("data");
    let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let folder = data.to_string_lossy().into_owned();
    let names_it = command.split(|byte| *byte == 0).any(|word| word == folder.as_bytes());
    names_it.then(|| Pid::from_raw(pid)).flatten()
}
