//! Commands, ports, and processes that end with the test.

use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, ensure};

/// Runs a command; a failure shows everything it said.
pub fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().with_context(|| format!("start {shown}"))?;
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    ensure!(status.success(), "{shown} ended with {status}\n{stdout}\n{stderr}");
    Ok(stdout.into_owned())
}

/// A port of the loopback address that is free now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The largest resident set a process has had, in bytes.
pub fn peak_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Ends a process by its number when the test ends, however it ends: a shell holds one end of a pipe.
#[derive(Debug)]
pub struct Guardian(Child);

impl Guardian {
    /// Watches over a process.
    pub fn of(pid: u32, signal: &str) -> Result<Self> {
        Self::of_target(&pid.to_string(), signal)
    }

    /// Watches over a process and those it starts: a group that it leads.
    pub fn of_group(pid: u32, signal: &str) -> Result<Self> {
        Self::of_target(&format!("-{pid}"), signal)
    }

    fn of_target(target: &str, signal: &str) -> Result<Self> {
        let script = format!("read -r _; kill -{signal} {target} 2>/dev/null; true");
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn()?))
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
