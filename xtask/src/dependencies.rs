//! What must not be in the dependency tree, so that a boundary stays one.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::root;

/// Each crate of ours (or all) and what it must not depend on.
const FORBIDDEN: [(&str, &[&str]); 6] = [
    ("windlass-core", &["tokio", "object_store", "kube", "reqwest", "rusqlite"]),
    ("windlass-engine", &["kube", "rusqlite"]),
    ("windlass-operator", &["windlass-engine", "windlass-host"]),
    ("windlass-replication", &["windlass-repo", "windlass-engine", "kube", "reqwest"]),
    ("windlass-server", &["kube", "windlass-repo"]),
    ("windlass", &["openssl", "native-tls", "aws-lc-sys", "serde_yaml", "opendal", "aws-sdk-s3"]),
];

/// Looks at the tree; `false` where something is in it that must not be.
pub(crate) fn check() -> Result<bool> {
    let mut good = true;
    for (package, forbidden) in FORBIDDEN {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--package", package, "--edges", "normal,build", "--prefix", "none", "--format", "{p}"])
            .current_dir(root()?)
            .output()
            .context("start cargo")?;
        ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8_lossy(&output.stdout);
        for name in forbidden {
            if tree.lines().any(|line| line.split(' ').next() == Some(name)) {
                eprintln!("{package} depends on {name}, which it must not");
                good = false;
            }
        }
    }
    Ok(good)
}
