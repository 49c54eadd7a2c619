//! The operator as a process, which can be killed with everything it started.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use windlass_testkit::process::{Guardian, free_port, run};

use crate::stage::{Stage, root};

/// A running operator, and its helm.
pub(crate) struct Operator {
    process: Child,
    listen: String,
    log: PathBuf,
    _guardian: Guardian,
}

/// How one is started.
pub(crate) struct Options<'a> {
    /// Its name in the Lease. One that is started again in its Pod has the name it had, and need not wait for itself.
    pub(crate) identity: &'a str,
    /// Where the Lease lies.
    pub(crate) lease_in: &'a str,
    pub(crate) helm: bool,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { identity: "operator", lease_in: "windlass-system", helm: true }
    }
}

impl Operator {
    pub(crate) fn start(stage: &Stage, options: &Options<'_>) -> Result<Self> {
        let listen = format!("127.0.0.1:{}", free_port()?);
        let log = stage.folder.path().join(format!("{}.log", options.identity));
        let file = std::fs::File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
        command.args(["operator", "--image=windlass:test", "--listen", &listen, "--identity", options.identity]);
        command.args(["--namespace", options.lease_in]);
        if options.helm {
            command.arg("--helm").arg(root().join(".bench/bin/helm")).arg("--chart").arg(root().join("charts/kryton"));
        }
        // Helm keeps what it learned of the cluster at home.
        command.env("KUBECONFIG", stage.kubeconfig()).env("HOME", stage.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).process_group(0);
        let process = command.spawn()?;
        let guardian = Guardian::of_group(process.id(), "KILL")?;
        Ok(Self { process, listen, log, _guardian: guardian })
    }

    /// Kills it and its helm at once, as the end of its container does.
    pub(crate) fn kill(mut self) -> Result<()> {
        run(Command::new("kill").arg("-KILL").arg("--").arg(format!("-{}", self.process.id())))?;
        self.process.wait()?;
        Ok(())
    }

    /// It has not ended, and says that it lives.
    pub(crate) fn lives(&mut self) -> Result<()> {
        if let Some(status) = self.process.try_wait()? {
            anyhow::bail!("the operator ended with {status}\n{}", self.said()?);
        }
        ensure!(self.get("/livez")?.contains("200 OK"), "it does not say that it lives");
        Ok(())
    }

    pub(crate) fn metrics(&self) -> Result<String> {
        self.get("/metrics")
    }

    /// Its log.
    pub(crate) fn said(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }

    fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(&self.listen)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}
