//! Tears a scratch place down, by the folder alone: whoever does it may not be who started what runs there.
//!
//! Processes are found through `/proc`, and only those are signalled that are PostgreSQL's own programs *and* work in
//! the folder: a number in a stale pid file, taken by someone else since, is never trusted.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::PostgresError;
use super::place::PREFIX;

/// How long the server may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long what was killed may take to be gone.
const GRACE: Duration = Duration::from_secs(10);

/// Programs that work in a scratch place.
const PROGRAMS: [&str; 2] = ["postgres", "initdb"];

/// Ends what runs in a scratch place and removes it. Idempotent.
pub fn teardown(place: &Path) -> Result<(), PostgresError> {
    let ours = place.file_name().is_some_and(|name| name.as_bytes().starts_with(PREFIX.as_bytes()));
    if !ours || !place.is_absolute() {
        let why = "it is no scratch place, and is left as it is".to_owned();
        return Err(PostgresError::Scratch { place: place.to_owned(), why });
    }
    end(place);
    remove(place)
}

/// Ends what runs in a scratch place.
pub(super) fn end(place: &Path) {
    let running = processes_of(place);
    // Immediate shutdown: nothing in it is worth keeping. Its children end with it. Where its data lie elsewhere no pid file names it.
    let server = server_of(place).filter(|server| running.contains(server));
    if let Some(server) = server.or_else(|| running.into_iter().find(|process| has_its_socket_in(*process, place))) {
        let _ = kill_process(server, Signal::QUIT);
        gone(place, PATIENCE);
    }
    let began = Instant::now();
    while began.elapsed() < GRACE {
        let left = processes_of(place);
        if left.is_empty() {
            break;
        }
        for process in left {
            let _ = kill_process(process, Signal::KILL);
        }
        gone(place, Duration::from_millis(500));
    }
}

/// Removes a folder; one that is not there is removed.
pub(super) fn remove(folder: &Path) -> Result<(), PostgresError> {
    match std::fs::remove_dir_all(folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(PostgresError::File { path: folder.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Waits until nothing runs in the place.
fn gone(place: &Path, patience: Duration) {
    let began = Instant::now();
    while !processes_of(place).is_empty() && began.elapsed() < patience {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The process the pid file of the place's server names. While `initdb` is at work, its number is negative there,
/// and there is no server to end.
fn server_of(place: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(place.join("data/postmaster.pid")).ok()?;
    pid_of(text.lines().next()?.trim())
}

fn pid_of(text: &str) -> Option<Pid> {
    text.parse().ok().filter(|number| *number > 0).and_then(Pid::from_raw)
}

/// Whether a process is a server that was told to have its socket in the place.
fn has_its_socket_in(process: Pid, place: &Path) -> bool {
    let command = std::fs::read(format!("/proc/{}/cmdline", process.as_raw_nonzero())).unwrap_or_default();
    let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
    words.windows(2).any(|pair| pair == [b"-k".as_slice(), place.as_os_str().as_bytes()])
}

/// The processes of PostgreSQL's programs that work in the place or were told to.
fn processes_of(place: &Path) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let works_there = |process: &PathBuf| {
        let program = std::fs::read_link(process.join("exe")).unwrap_or_default();
        // A program that was replaced since, by an upgrade, is still the one that runs.
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        if !PROGRAMS.contains(&name.trim_end_matches(" (deleted)")) {
            return false;
        }
        std::fs::read_link(process.join("cwd")).is_ok_and(|folder| folder.starts_with(place))
            || std::fs::read(process.join("cmdline")).is_ok_and(|command| {
                command.split(|byte| *byte == 0).any(|word| Path::new(OsStr::from_bytes(word)).starts_with(place))
            })
    };
    let numbered = entries.filter_map(|entry| {
        let pid = pid_of(entry.file_name().to_str()?)?;
        works_there(&entry.path()).then_some(pid)
    });
    numbered.collect()
}
