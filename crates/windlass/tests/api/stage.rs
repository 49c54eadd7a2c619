//! A cluster without nodes, the proxy before it, a store, and Krytons.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use windlass_testkit::api_proxy::ApiProxy;
use windlass_testkit::cluster::Cluster;
use windlass_testkit::s3::{ACCESS_KEY, BUCKET, Kind, S3Server, SECRET_KEY};

pub(crate) const SOON: Duration = Duration::from_mins(1);
/// As long as a machine that has much else to do may take.
pub(crate) const LATER: Duration = Duration::from_mins(5);

/// The name of every Kryton; each has a namespace of its own.
pub(crate) const NAME: &str = "shelf";

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A cluster of one story, with what a user applies before the operator comes.
pub(crate) struct Stage {
    /// Of the story's name, by which its prefixes in the store begin.
    name: &'static str,
    pub(crate) cluster: Cluster,
    pub(crate) proxy: ApiProxy,
    /// Each namespace has its own prefix in it.
    store: S3Server,
    pub(crate) folder: TempDir,
}

impl Stage {
    pub(crate) fn new(name: &'static str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("wl-api-").tempdir_in("/var/tmp")?;
        let cluster = Cluster::api_only(&folder.path().join("cluster"))?;
        for config in ["config/crd", "config/default"] {
            cluster.kubectl(&["apply", "--kustomize", &root().join(config).display().to_string()])?;
        }
        cluster.kubectl(&["wait", "--for=condition=Established", "crd/krytons.kryton.azrtydxb.io"])?;
        let account = ["--namespace=windlass-system", "create", "token", "windlass-operator", "--duration=2h"];
        let proxy = ApiProxy::before(&cluster, cluster.kubectl(&account)?.trim())?;
        std::fs::write(folder.path().join("kubeconfig"), proxy.kubeconfig())?;
        let store = S3Server::start(Kind::Versitygw)?;
        Ok(Self { name, cluster, proxy, store, folder })
    }

    /// That by which the operator and its helm find the API server.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Applies any objects.
    pub(crate) fn apply(&self, objects: &[Value]) -> Result<()> {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        let (good, said) = self.cluster.kubectl_with(&["apply", "--filename=-"], &list.to_string())?;
        ensure!(good, "{said}");
        Ok(())
    }

    /// A Kryton that has everything one can have.
    pub(crate) fn kryton(&self, namespace: &str, deletion: &str) -> Value {
        json!({
            "apiVersion": "kryton.azrtydxb.io/v1alpha1", "kind": "Kryton",
            "metadata": { "name": NAME, "namespace": namespace },
            "spec": {
                "version": "4.5.0", "deletionPolicy": deletion,
                // Never while a story runs.
                "backup": { "schedule": "0 3 1 1 *", "retention": "30d", "objectStore": {
                    "bucket": BUCKET, "endpoint": self.store.endpoint(), "prefix": self.prefix(namespace),
                    "credentialsSecretRef": { "name": "creds" },
                } },
                "snapshot": { "schedule": "0 4 1 1 *", "retention": "7d" },
                "plugins": [{ "name": "one.tar.gz", "url": "https://example.com/one", "sha256": "0".repeat(64) }],
            },
        })
    }

    /// A Kryton of backups alone, whose database is elsewhere.
    pub(crate) fn backup_only(&self, namespace: &str) -> Vec<Value> {
        let mut kryton = self.kryton(namespace, "Retain");
        for part in ["snapshot", "plugins"] {
            kryton["spec"].as_object_mut().unwrap().remove(part);
        }
        let database = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": format!("{NAME}-postgresql"), "namespace": namespace },
            "stringData": { "password": "a-password" },
        });
        vec![database, kryton]
    }

    /// The folder in which the store keeps a namespace's dumps.
    pub(crate) fn dumps(&self, namespace: &str) -> PathBuf {
        self.store.folder().join(BUCKET).join(self.prefix(namespace))
    }

    /// What their names begin with.
    fn prefix(&self, namespace: &str) -> String {
        format!("{}/{namespace}", self.name)
    }

    /// The names of all objects of a kind, of all namespaces; JSON lists are large.
    pub(crate) fn list(&self, kinds: &str) -> Result<Vec<Value>> {
        let text = self.cluster.kubectl(&["get", kinds, "--all-namespaces", "--output=json"])?;
        let list: Value = serde_json::from_str(&text)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// The Kryton of a namespace.
    pub(crate) fn get(&self, namespace: &str) -> Result<Value> {
        let found = self.cluster.get(namespace, "kryton", NAME)?;
        found.with_context(|| format!("the Kryton of {namespace}"))
    }

    /// Waits until something is so.
    pub(crate) fn wait(&self, what: &str, limit: Duration, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
        let began = Instant::now();
        while !is_so()? {
            if began.elapsed() > limit {
                let all = self.cluster.kubectl(&["get", "krytons", "--all-namespaces", "--output=wide"])?;
                bail!("waited {limit:?} for {what}\n{all}\n{}", self.logs());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Waits for a condition of a namespace's Kryton to be `status` for a reason; returns its message.
    pub(crate) fn condition(&self, namespace: &str, wanted: (&str, &str, &str), limit: Duration) -> Result<String> {
        let mut last = Value::Null;
        let waited = self.wait(&format!("{wanted:?} of {namespace}"), limit, || {
            let now = condition(&self.get(namespace)?, wanted.0);
            let is = |key: &str, wanted: &str| now[key] == wanted || wanted.is_empty();
            let is_so = is("status", wanted.1) && is("reason", wanted.2);
            last = now;
            Ok(is_so)
        });
        waited.with_context(|| format!("last: {last}"))?;
        Ok(last["message"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until nothing is written any more.
    pub(crate) fn rests(&self) -> Result<()> {
        let mut last = (self.proxy.writes().len(), Instant::now());
        self.wait("an end of all writing", LATER, || {
            let now = self.proxy.writes().len();
            if now != last.0 {
                last = (now, Instant::now());
            }
            Ok(last.1.elapsed() > Duration::from_secs(3))
        })
    }

    /// A helm that was killed leaves a revision at work, which is taken for dead after three minutes: they are over.
    pub(crate) fn three_minutes_pass(&self) -> Result<()> {
        for secret in self.list("secrets")? {
            let labels = &secret["metadata"]["labels"];
            let status = labels["status"].as_str().unwrap_or_default();
            if labels["owner"] == "helm" && (status.starts_with("pending-") || status == "uninstalling") {
                let name = secret["metadata"]["name"].as_str().context("a name")?;
                let age = ["label", "secret", name, "--overwrite", "createdAt=1700000000", "modifiedAt=1700000000"];
                self.cluster.kubectl(&[&["--namespace", &namespace_of(&secret)][..], &age].concat())?;
            }
        }
        Ok(())
    }

    /// However many operators there were, they agreed on one.
    pub(crate) fn has_one_repository_and_one_writer(&self, namespace: &str) -> Result<()> {
        let writers = self.dumps(namespace).join(".windlass/writers");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(writers)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.retain(|name| !name.contains("endorsed"));
        ensure!(names.len() == 1, "writers of {namespace}: {names:?}");
        Ok(())
    }

    /// What the operators of the story said last.
    fn logs(&self) -> String {
        let files = std::fs::read_dir(self.folder.path()).into_iter().flatten().flatten().map(|entry| entry.path());
        let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.map(|path| {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(20).collect();
            format!("{}:\n{}\n", path.display(), lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
        })
        .collect()
    }

    /// Every right that was needed was granted.
    pub(crate) fn nothing_was_forbidden(&self) {
        assert_eq!(self.proxy.forbidden(), Vec::<String>::new(), "config/rbac grants too little");
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.cluster.down();
    }
}

/// A namespace, and the Secret of the store in it.
pub(crate) fn place(namespace: &str) -> Vec<Value> {
    vec![
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } }),
        credentials(namespace, SECRET_KEY),
    ]
}

/// The Secret of the store.
pub(crate) fn credentials(namespace: &str, secret_key: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "creds", "namespace": namespace },
        "stringData": { "OBJECT_STORE_ACCESS_KEY": ACCESS_KEY, "OBJECT_STORE_SECRET_KEY": secret_key },
    })
}

/// A condition of an object; null where it is not there.
pub(crate) fn condition(object: &Value, type_: &str) -> Value {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|condition| condition["type"] == type_).unwrap_or_default()
}

/// Whether everything is set up that can be without nodes.
pub(crate) fn is_set_up(kryton: &Value, version: &str) -> bool {
    let holds = |type_: &str| condition(kryton, type_)["status"] == "True";
    let all = ["BackupConfigured", "SnapshotConfigured", "Released", "RepositoryReady"];
    all.into_iter().all(holds) && kryton["status"]["observedVersion"] == version
}

/// The namespace of an object.
pub(crate) fn namespace_of(object: &Value) -> String {
    object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned()
}
