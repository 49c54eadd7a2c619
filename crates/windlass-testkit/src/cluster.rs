//! A real Kubernetes cluster: `bench/cluster`. It is brought up where it is not, and stays up for the next test.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::run;

mod reader;

use reader::Reader;

/// The address at which Pods find this machine.
pub const HOST: &str = "10.250.0.1";

/// A cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    bench: PathBuf,
    /// The cluster's directory, where it is not the machine's one with a node.
    directory: Option<PathBuf>,
    reader: Reader,
}

impl Cluster {
    /// The cluster of this machine, running.
    pub fn with_node() -> Result<Self> {
        let cluster = Self { bench: root()?.join("bench/cluster/cluster"), directory: None, reader: Reader::default() };
        run(cluster.bench().arg("up"))?;
        Ok(cluster)
    }

    /// Where it is reached, and as whom: the administrator.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        Ok(self.directory.clone().unwrap_or(root()?.join(".bench/cluster")).join("kubeconfig"))
    }

    /// A cluster of API server and controllers alone, which runs no Pods, in a directory. It ends with this process.
    pub fn api_only(directory: &Path) -> Result<Self> {
        let bench = root()?.join("bench/cluster/cluster");
        let cluster = Self { bench, directory: Some(directory.to_owned()), reader: Reader::default() };
        run(cluster.bench().args(["api", "--owner", &std::process::id().to_string()]))?;
        Ok(cluster)
    }

    /// Ends it.
    pub fn down(&self) -> Result<()> {
        run(self.bench().arg("down")).map(drop)
    }

    fn bench(&self) -> Command {
        let mut command = Command::new(&self.bench);
        if let Some(directory) = &self.directory {
            command.env("WINDLASS_CLUSTER", directory);
        }
        command
    }

    /// Runs kubectl, and returns what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run(self.tool("kubectl")?.args(arguments))
    }

    /// One of the bench's tools, for this cluster.
    fn tool(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(root()?.join(".bench/bin").join(name));
        command.env("KUBECONFIG", self.kubeconfig()?);
        Ok(command)
    }

    /// Runs kubectl with something on its standard input: what it said, and whether it went well.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<(bool, String)> {
        let mut command = self.tool("kubectl")?;
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().context("the input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    }

    /// Runs helm, and returns what it printed.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        run(self.tool("helm")?.args(arguments))
    }

    /// An object as JSON; `None` where it is not there. `namespace` is empty for an object of the cluster.
    pub fn get(&self, namespace: &str, kind: &str, name: &str) -> Result<Option<Value>> {
        self.reader.get(&self.kubeconfig()?, namespace, kind, name)
    }

    /// The objects of a kind in a namespace that a selector chooses, as JSON.
    pub fn list(&self, namespace: &str, kind: &str, selector: &str) -> Result<Vec<Value>> {
        self.reader.list(&self.kubeconfig()?, namespace, kind, selector)
    }

    /// Brings images into the node.
    pub fn load(&self, archive: &Path) -> Result<()> {
        run(self.bench().arg("load").arg(archive)).map(drop)
    }

    /// A namespace that goes with the value.
    pub fn namespace(&self, name: &str) -> Result<Namespace> {
        let name = format!("{name}-{}", std::process::id());
        self.kubectl(&["create", "namespace", &name])?;
        Ok(Namespace { cluster: self.clone(), name })
    }
}

fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("find the workspace")
}

/// A namespace, and everything in it.
#[derive(Debug)]
pub struct Namespace {
    /// The cluster it is in.
    pub cluster: Cluster,
    /// Its name.
    pub name: String,
}

impl Namespace {
    /// Runs kubectl in it.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl(&[&["--namespace", &self.name], arguments].concat())
    }

    /// What is known of a Job: its Pods may be gone, and with them what they said.
    pub fn of_job(&self, job: &str) -> String {
        let asked: [&[&str]; 3] = [
            &["logs", &format!("job/{job}"), "--pod-running-timeout=1s"],
            &["describe", "job", job],
            &["get", "events"],
        ];
        asked.map(|arguments| self.kubectl(arguments).unwrap_or_else(|error| format!("{error:#}"))).join("\n")
    }

    /// Applies objects; an error says what was refused.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        let (good, said) = self.try_apply(yaml)?;
        ensure!(good, "apply:\n{yaml}\n{said}");
        Ok(())
    }

    /// Applies objects: whether they were taken, and what was said.
    pub fn try_apply(&self, yaml: &str) -> Result<(bool, String)> {
        self.cluster.kubectl_with(&["--namespace", &self.name, "apply", "--filename", "-"], yaml)
    }

    /// An object as JSON; `None` where it is not there.
    pub fn get(&self, kind: &str, name: &str) -> Result<Option<Value>> {
        self.cluster.get(&self.name, kind, name)
    }

    /// Makes a Secret.
    pub fn secret(&self, name: &str, values: &[(&str, &str)]) -> Result<()> {
        let mut yaml = format!("apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\nstringData:\n");
        for (key, value) in values {
            writeln!(yaml, "  {key}: {}", serde_json::to_string(value)?)?;
        }
        self.apply(&yaml)
    }

    /// Waits until something is so; where it never is, everything that happened in the namespace is shown.
    pub fn wait(&self, what: &str, limit: Duration, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
        let began = Instant::now();
        while !is_so()? {
            if began.elapsed() > limit {
                let all =
                    self.kubectl(&["get", "krytons,cronjobs,jobs,pods,events", "--output=wide"]).unwrap_or_default();
                anyhow::bail!("waited {limit:?} for {what}\n{all}");
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        Ok(())
    }

    /// A condition of an object: its status, reason and message.
    pub fn condition(&self, kind: &str, name: &str, type_: &str) -> Result<Option<(String, String, String)>> {
        let Some(object) = self.get(kind, name)? else { return Ok(None) };
        let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let found = all.iter().find(|condition| condition["type"] == type_);
        Ok(found.map(|c| (text(&c["status"]), text(&c["reason"]), text(&c["message"]))))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}
