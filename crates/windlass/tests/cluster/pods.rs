//! The Pods of backups, as the node and its administrator see them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use windlass_testkit::process::run;

use crate::stage::{LATER, Stage};

/// A process in a Pod, as this machine sees it.
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) arguments: String,
}

impl Process {
    /// Whether it is a program, by the name it was started with.
    pub(crate) fn is(&self, program: &str) -> bool {
        self.arguments.split(' ').next().is_some_and(|first| first.rsplit('/').next() == Some(program))
    }

    /// Stops it where it is, until [`Process::go_on`].
    pub(crate) fn stop(&self) -> Result<()> {
        self.signal("STOP")
    }

    pub(crate) fn go_on(&self) -> Result<()> {
        self.signal("CONT")
    }

    fn signal(&self, signal: &str) -> Result<()> {
        run(std::process::Command::new("kill").arg(format!("-{signal}")).arg(self.pid.to_string())).map(drop)
    }
}

impl Stage {
    /// A Kryton that is ready to be backed up.
    pub(crate) fn ready(&self, yaml: &str) -> Result<()> {
        self.namespace.apply(yaml)?;
        for what in ["Ready", "RepositoryReady", "DatabaseReachable"] {
            self.condition("shelf", what, "True", LATER)?;
        }
        Ok(())
    }

    /// As [`Stage::run_now`], of a Job that is another in something.
    pub(crate) fn run_altered(&self, minute: u64, alter: impl FnOnce(&mut Value)) -> Result<String> {
        let job = format!("shelf-backup-{minute}");
        let made = ["create", "job", "--from=cronjob/shelf-backup", &job, "--dry-run=client", "--output=json"];
        let mut made: Value = serde_json::from_str(&self.namespace.kubectl(&made)?)?;
        alter(&mut made["spec"]);
        self.namespace.apply(&made.to_string())?;
        Ok(job)
    }

    /// Runs SQL in the database of the Kryton, as its owner.
    pub(crate) fn sql(&self, sql: &str) -> Result<String> {
        let psql = "exec psql --no-psqlrc -qtA -U kryton kryton -c \"$1\"";
        let said = self.namespace.kubectl(&["exec", "shelf-postgresql-0", "--", "sh", "-c", psql, "sh", sql])?;
        Ok(said.trim().to_owned())
    }

    /// Fills a table of some 60 MB, so that a dump takes a moment.
    pub(crate) fn fill(&self) -> Result<()> {
        let rows =
            "select string_agg(md5(random()::text), '') as text from generate_series(1, 2000000) i group by i / 1000";
        self.sql(&format!("create table filler as {rows}")).map(drop)
    }

    /// The newest Pod of a Job.
    pub(crate) fn pod_of(&self, job: &str) -> Result<Option<Value>> {
        let of_it = format!("batch.kubernetes.io/job-name={job}");
        let mut pods = self.namespace.cluster.list(&self.namespace.name, "pods", &of_it)?;
        pods.sort_by_key(|pod| pod["metadata"]["creationTimestamp"].to_string());
        Ok(pods.pop())
    }

    /// The `pg_dump` of a Job, stopped while it writes; and its Pod's name.
    pub(crate) fn dump_stopped(&self, job: &str) -> Result<(Process, String)> {
        let mut found = None;
        self.namespace.wait("pg_dump to write", LATER, || {
            for _ in 0..20 {
                let Some(pod) = self.pod_of(job)? else { break };
                let all = processes(&pod)?;
                found = all.into_iter().find(|process| process.is("pg_dump")).map(|p| (p, pod));
                if let Some((dump, _)) = &found
                    && written(dump.pid)? > 4 << 20
                {
                    dump.stop()?;
                    return Ok(true);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(false)
        })?;
        let (dump, pod) = found.context("pg_dump")?;
        Ok((dump, pod["metadata"]["name"].as_str().unwrap_or_default().to_owned()))
    }

    /// Waits for an Event of the Kryton that says something.
    pub(crate) fn tells(&self, reason: &str, what: &str) -> Result<()> {
        let of_it = format!("--field-selector=involvedObject.kind=Kryton,reason={reason}");
        self.namespace.wait(&format!("an Event {reason}: {what}"), LATER, || {
            let all = self.namespace.kubectl(&["get", "events", &of_it, "--output=jsonpath={.items[*].message}"])?;
            Ok(all.contains(what))
        })
    }

    /// The value of a metric of the Kryton `shelf`.
    pub(crate) fn metric(&self, name: &str) -> Result<Option<usize>> {
        let operator = ["--namespace=windlass-system", "get", "pods", "--field-selector=status.phase=Running"];
        let pod = self
            .namespace
            .cluster
            .kubectl(&[&operator[..], &["--output=jsonpath={.items[0].metadata.name}"]].concat())?;
        let path = format!("/api/v1/namespaces/windlass-system/pods/{}:8080/proxy/metrics", pod.trim());
        let all = self.namespace.cluster.kubectl(&["get", "--raw", &path])?;
        let is_its = |line: &str| {
            line.starts_with(&format!("{name}{{"))
                && line.contains(&format!("namespace=\"{}\"", self.namespace.name))
                && line.contains("name=\"shelf\"")
        };
        let line = all.lines().find(|line| is_its(line));
        Ok(line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()))
    }

    /// That exactly so many points and dumps are there, and nothing half.
    pub(crate) fn has_exactly(&self, points: usize, prefix: &Path) -> Result<()> {
        assert_eq!(self.status("shelf")?["backup"]["points"], json!(points));
        assert_eq!(self.metric("windlass_kryton_recovery_points")?, Some(points));
        assert_eq!(dumps_in(prefix)?.len(), points, "{:?}", dumps_in(prefix)?);
        assert_eq!(files(&prefix.join(".windlass"), "/points/")?, points);
        Ok(())
    }

    /// That a run goes well, and is told.
    pub(crate) fn backs_up(&self, minute: u64) -> Result<()> {
        let job = self.run_now("shelf-backup", minute)?;
        ensure!(self.ended(&job)?, "{}", self.namespace.of_job(&job));
        self.committed(&job)
    }

    /// Waits until a Job's point is there and told.
    pub(crate) fn committed(&self, job: &str) -> Result<()> {
        self.namespace.wait(&format!("the point of {job}"), LATER, || {
            let now = self.namespace.condition("kryton", "shelf", "BackedUp")?;
            Ok(now.is_some_and(|(_, reason, message)| reason == "Committed" && message.contains(job)))
        })
    }
}

/// The dumps in a folder of a bucket; none where there is no folder.
pub(crate) fn dumps_in(prefix: &Path) -> Result<Vec<String>> {
    let Ok(entries) = std::fs::read_dir(prefix) else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// How many files below a folder have `part` in their path.
pub(crate) fn files(folder: &Path, part: &str) -> Result<usize> {
    let mut count = 0;
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.path().display().to_string().contains(part) {
                count += 1;
            }
        }
    }
    Ok(count)
}

/// Everything that runs in a Pod.
pub(crate) fn processes(pod: &Value) -> Result<Vec<Process>> {
    let uid = pod["metadata"]["uid"].as_str().context("the Pod's UID")?;
    let is_in = |process: &Process| {
        let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", process.pid));
        groups.is_ok_and(|groups| groups.contains(uid))
    };
    Ok(running()?.into_iter().filter(is_in).collect())
}

/// Everything that runs on this machine.
pub(crate) fn running() -> Result<Vec<Process>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        let arguments = std::fs::read(path.join("cmdline")).unwrap_or_default();
        all.push(Process { pid, arguments: String::from_utf8_lossy(&arguments).replace('\0', " ") });
    }
    Ok(all)
}

/// The bytes a process has written.
fn written(pid: u32) -> Result<u64> {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/io")) else { return Ok(0) };
    let line = text.lines().find_map(|line| line.strip_prefix("wchar: ")).context("wchar")?;
    Ok(line.trim().parse()?)
}
