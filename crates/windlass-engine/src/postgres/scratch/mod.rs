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

pub use self::place::{Place, stale};
pub use self::teardown::teardown;
use super::PostgresError;
use super::child::Running;
use super::session::Session;
use super::tools::{Tools, server_folder};

/// The superuser of a scratch server.
const USER: &str = "postgres";

/// How long the server may take to start.
const PATIENCE: Duration = Duration::from_mins(1);

/// What the server runs with. What it holds can be made again, so nothing is made durable; locks are plenty, since a
/// check may touch every partition of a table at once.
const SETTINGS: [&str; 17] = [
    "listen_addresses=",
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
    "autovacuum=off",
    "archive_mode=off",
    "max_wal_senders=0",
    "wal_level=minimal",
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
        let mut child = serve(&folder, &data, place).await?;
        let host = windlass_repo::store::Key::encode(&place.path.to_string_lossy());
        let url = format!("postgresql://{USER}@/postgres?host={host}");
        let tools = Tools::of_scratch(folder, url, version);
        let began = Instant::now();
        loop {
            match Session::open_any(&tools).await {
                Ok(mut session) => {
                    let at = session.lines("show data_directory").await?;
                    session.close().await;
                    if at.first().is_none_or(|at| Path::new(at) != data) {
                        teardown::end(&place.path);
                        return Err(failed(format!("the server that answers is another one, in {}", at.join(""))));
                    }
                    return Ok(Self { tools, place: place.path.clone() });
                }
                Err(error) => {
                    let ended = child.try_wait().ok().flatten().is_some();
                    if ended || began.elapsed() > PATIENCE {
                        teardown::end(&place.path);
                        let log = std::fs::read_to_string(place.path.join("log")).unwrap_or_default();
                        return Err(failed(format!("{error}\n{}", log.trim_end())));
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Ends the server; its place stays for others and goes with [`teardown`].
    pub fn halt(self) -> Result<(), PostgresError> {
        teardown::end(&self.place);
        teardown::remove(&self.place.join("data"))
    }
}

async fn initdb(folder: &Path, data: &Path, place: &Place, locale: &str) -> Result<String, PostgresError> {
    let mut command = as_owner(&folder.join("initdb"), place.owner);
    command.arg("--pgdata").arg(data).args(["--username", USER, "--auth=trust", "--no-sync", "--encoding=UTF8"]);
    command.arg(format!("--locale={locale}")).stdin(Stdio::null()).stdout(Stdio::null());
    Running::start("initdb", &mut command)?.finish().await
}

async fn serve(folder: &Path, data: &Path, place: &Place) -> Result<Child, PostgresError> {
    let failed = |source: std::io::Error| PostgresError::Start { tool: "postgres".into(), source };
    let program = folder.join("postgres");
    let mut server = match place.owner {
        owner if can_run(isolated(&program, owner)).await => isolated(&program, owner),
        owner => as_owner(&program, owner),
    };
    server.arg("-D").arg(data).arg("-k").arg(&place.path);
    for setting in SETTINGS {
        server.arg("-c").arg(setting);
    }
    let log = std::fs::File::create(place.path.join("log")).map_err(failed)?;
    // A group of its own: an interrupt at the terminal is for Windlass, which then tears it down.
    server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0).spawn().map_err(failed)
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
