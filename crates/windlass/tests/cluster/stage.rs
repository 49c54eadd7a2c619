//! The operator in the cluster, a store, and Krytons.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use windlass_testkit::cluster::{Cluster, HOST, Namespace};
use windlass_testkit::process::run;
use windlass_testkit::s3::{ACCESS_KEY, BUCKET, Kind, S3Server, SECRET_KEY};

pub(crate) const SOON: Duration = Duration::from_mins(1);
pub(crate) const LATER: Duration = Duration::from_mins(4);

/// The image the dumps are taken with: as new as the server of the chart.
pub(crate) const DUMPER: &str = "docker.io/pgvector/pgvector:pg16";

/// The cluster with the operator in it, made once for all stories.
pub(crate) fn cluster() -> Result<Cluster> {
    static DEPLOYED: Mutex<Option<Cluster>> = Mutex::new(None);
    let mut deployed = DEPLOYED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(cluster) = &*deployed {
        return Ok(cluster.clone());
    }
    let cluster = Cluster::with_node()?;
    deploy(&cluster)?;
    *deployed = Some(cluster.clone());
    Ok(cluster)
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Builds the image of the binary under test, and applies what a user would.
fn deploy(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (binary, image) = (folder.path().join("windlass"), folder.path().join("image.tar"));
    // Without what debuggers read it is half as large, and copied into every Pod of a backup.
    run(Command::new("strip").arg("-o").arg(&binary).arg(env!("CARGO_BIN_EXE_windlass")))?;
    let mut xtask = Command::new(env!("CARGO"));
    // What cargo tells a test of its package would have it build things anew.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_")) {
        if name != "CARGO_HOME" && name != "CARGO_TARGET_DIR" {
            xtask.env_remove(name);
        }
    }
    xtask.args(["xtask", "image", "--tag", "docker.io/library/windlass:0.1.0", "--binary"]).arg(&binary);
    run(xtask.arg("--output").arg(&image).current_dir(root()))?;
    cluster.load(&image)?;
    for folder in ["config/crd", "config/default"] {
        cluster.kubectl(&["apply", "--kustomize", &root().join(folder).display().to_string()])?;
    }
    cluster.kubectl(&["--namespace=windlass-system", "rollout", "restart", "deployment/windlass-operator"])?;
    cluster.kubectl(&[
        "--namespace=windlass-system",
        "rollout",
        "status",
        "deployment/windlass-operator",
        "--timeout=90s",
    ])?;
    Ok(())
}

/// The store of all stories; each has its own prefix.
pub(crate) fn store() -> &'static S3Server {
    static STORE: OnceLock<S3Server> = OnceLock::new();
    STORE.get_or_init(|| S3Server::start_at(Kind::Versitygw, HOST).unwrap())
}

/// A namespace with the Secret of the store.
pub(crate) struct Stage {
    pub(crate) namespace: Namespace,
    _turn: Turn,
}

/// Stories go side by side, but for those that do something to all of the cluster.
static TURNS: RwLock<()> = RwLock::new(());

enum Turn {
    Beside(#[expect(dead_code, reason = "it is held")] RwLockReadGuard<'static, ()>),
    Alone(#[expect(dead_code, reason = "it is held")] RwLockWriteGuard<'static, ()>),
}

impl Stage {
    pub(crate) fn new(name: &str) -> Result<Self> {
        Self::of(name, Turn::Beside(TURNS.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// The same, while no other story goes.
    pub(crate) fn alone(name: &str) -> Result<Self> {
        Self::of(name, Turn::Alone(TURNS.write().unwrap_or_else(PoisonError::into_inner)))
    }

    fn of(name: &str, turn: Turn) -> Result<Self> {
        // The host's address is there once the cluster is.
        let namespace = cluster()?.namespace(name)?;
        // Every Pod of every story has to get by with it.
        let level = "pod-security.kubernetes.io/enforce=restricted";
        namespace.cluster.kubectl(&["label", "namespace", &namespace.name, level])?;
        store();
        namespace.secret(
            "kryton-backup-creds",
            &[("OBJECT_STORE_ACCESS_KEY", ACCESS_KEY), ("OBJECT_STORE_SECRET_KEY", SECRET_KEY)],
        )?;
        Ok(Self { namespace, _turn: turn })
    }

    /// Waits for a condition to be `status`, and returns its reason and message.
    pub(crate) fn condition(
        &self,
        kryton: &str,
        type_: &str,
        status: &str,
        limit: Duration,
    ) -> Result<(String, String)> {
        let mut last = None;
        let waited = self.namespace.wait(&format!("{type_}={status} of {kryton}"), limit, || {
            last = self.namespace.condition("kryton", kryton, type_)?;
            Ok(last.as_ref().is_some_and(|(now, _, _)| now == status))
        });
        waited.with_context(|| format!("last: {last:?}"))?;
        let (_, reason, message) = last.context("a condition")?;
        Ok((reason, message))
    }

    /// Has the schedule of a backup come, at a minute of our choice: Jobs of CronJobs are named by it.
    pub(crate) fn run_now(&self, cron: &str, minute: u64) -> Result<String> {
        let job = format!("{cron}-{minute}");
        self.namespace.kubectl(&["create", "job", &format!("--from=cronjob/{cron}"), &job])?;
        Ok(job)
    }

    /// Waits for a Job's end; whether it ended well.
    pub(crate) fn ended(&self, job: &str) -> Result<bool> {
        let mut well = false;
        self.namespace.wait(&format!("the end of Job {job}"), LATER, || {
            let found = self.namespace.get("job", job)?.unwrap_or_default();
            let all = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let holds = |type_: &str| all.iter().any(|c| c["type"] == type_ && c["status"] == "True");
            well = holds("Complete");
            Ok(well || holds("Failed"))
        })?;
        Ok(well)
    }

    pub(crate) fn status(&self, kryton: &str) -> Result<Value> {
        Ok(self.namespace.get("kryton", kryton)?.context("the Kryton")?["status"].clone())
    }
}

/// A Kryton whose backups go to a prefix; `more` is laid over its spec, as YAML indented by two.
pub(crate) fn kryton(name: &str, prefix: &str, more: &str) -> String {
    let endpoint = store().endpoint();
    format!(
        "apiVersion: kryton.azrtydxb.io/v1alpha1\nkind: Kryton\nmetadata:\n  name: {name}\nspec:\n  version: \"4.5.0\"\n  backup:\n    schedule: \"0 3 * * *\"\n    image: {DUMPER}\n    objectStore:\n      bucket: {BUCKET}\n      endpoint: {endpoint}\n      prefix: {prefix}\n      credentialsSecretRef:\n        name: kryton-backup-creds\n{more}"
    )
}

/// The objects of the bucket under a prefix, without those of `.windlass/`.
pub(crate) fn dumps(prefix: &str) -> Result<Vec<String>> {
    let folder = store().folder().join(BUCKET).join(prefix);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The newest `pg_restore` of this machine lists a dump.
pub(crate) fn listed(prefix: &str, dump: &str) -> Result<String> {
    let file = store().folder().join(BUCKET).join(prefix).join(dump);
    ensure!(file.is_file(), "{} is not there", file.display());
    run(Command::new("pg_restore").arg("--list").arg(file))
}
