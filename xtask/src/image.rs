//! Writes the container image as an OCI archive, without a daemon: the static binary and `helm`, and nothing else.
//!
//! The same inputs make the same bytes. (<https://github.com/opencontainers/image-spec>, v1.1.)

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::digest::{Context as Hash, SHA256};
use serde_json::{Value, json};

use crate::root;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// Who it runs as: nobody that any image knows.
const USER: u64 = 65532;

/// Where programs look for them.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What is asked for.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// A static binary; built where none is given.
    pub(crate) binary: Option<PathBuf>,
    /// `helm`, a static binary too.
    pub(crate) helm: Option<PathBuf>,
    /// The archive.
    pub(crate) output: Option<PathBuf>,
    /// What the image is called.
    pub(crate) tag: Option<String>,
}

impl Options {
    /// Reads `--binary`, `--helm`, `--output` and `--tag`; `None` where there is anything else.
    pub(crate) fn read(words: &[&str]) -> Option<Self> {
        let mut options = Self::default();
        for pair in words.chunks(2) {
            let [flag, value] = pair else { return None };
            match *flag {
                "--binary" => options.binary = Some(value.into()),
                "--helm" => options.helm = Some(value.into()),
                "--output" => options.output = Some(value.into()),
                "--tag" => options.tag = Some((*value).to_owned()),
                _ => return None,
            }
        }
        Some(options)
    }
}

/// Writes the image.
pub(crate) fn write(options: &Options) -> Result<bool> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root()?.join("target"), PathBuf::from);
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => build(&target)?,
    };
    let helm = options.helm.clone().unwrap_or(root()?.join(".bench/bin/helm"));
    ensure!(helm.is_file(), "there is no helm at {}: run `bench/install kubernetes`, or give --helm", helm.display());
    let output = options.output.clone().unwrap_or_else(|| target.join("windlass-image.tar"));
    let version = env!("CARGO_PKG_VERSION");
    let tag = options.tag.clone().unwrap_or_else(|| format!("docker.io/library/windlass:{version}"));
    let layer = layer(&[("windlass", &binary), ("helm", &helm)], &root()?.join("charts/kryton"))?;
    archive(&output, &tag, &layer)?;
    println!("{tag} in {}", output.display());
    Ok(true)
}

fn build(target: &Path) -> Result<PathBuf> {
    let flags = format!("{} -C target-feature=+crt-static", std::env::var("RUSTFLAGS").unwrap_or_default());
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--package", "windlass", "--target", TARGET])
        .env("RUSTFLAGS", flags.trim())
        .current_dir(root()?)
        .status()
        .context("start cargo")?;
    ensure!(status.success(), "the static binary does not build");
    Ok(target.join(TARGET).join("release/windlass"))
}

/// One layer with these files at its root, the chart, and a folder for what is temporary.
fn layer(files: &[(&str, &Path)], chart: &Path) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut folder = header(0o1777, 0, tar::EntryType::Directory);
    tar.append_data(&mut folder, "tmp/", std::io::empty())?;
    for (name, path) in files {
        let mut content = Vec::new();
        File::open(path)
            .and_then(|mut file| file.read_to_end(&mut content))
            .with_context(|| format!("read {}", path.display()))?;
        let mut file = header(0o755, content.len() as u64, tar::EntryType::Regular);
        tar.append_data(&mut file, name, content.as_slice())?;
    }
    let authorities = authorities();
    let mut file = header(0o644, authorities.len() as u64, tar::EntryType::Regular);
    tar.append_data(&mut file, AUTHORITIES.trim_start_matches('/'), authorities.as_bytes())?;
    let mut templates = Vec::new();
    list(chart, &mut templates)?;
    templates.sort();
    for path in templates {
        let content = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let mut file = header(0o644, content.len() as u64, tar::EntryType::Regular);
        tar.append_data(&mut file, Path::new("chart").join(path.strip_prefix(chart)?), content.as_slice())?;
    }
    tar.into_inner().context("write the layer")
}

/// The well-known authorities, in PEM: where there are none, nothing is reached, not even without TLS.
fn authorities() -> String {
    let mut pem = String::new();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in BASE64_STANDARD.encode(certificate).as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() { list(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

fn header(mode: u32, size: u64, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn archive(output: &Path, tag: &str, layer: &[u8]) -> Result<()> {
    let diff = digest(layer);
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Entrypoint": ["/windlass"], "User": format!("{USER}:{USER}"), "Env": ["PATH=/", "HOME=/tmp", "WINDLASS_HELM=/helm", "WINDLASS_CHART=/chart", format!("SSL_CERT_FILE={AUTHORITIES}")] },
        "rootfs": { "type": "layers", "diff_ids": [diff] },
    });
    let config = serde_json::to_vec(&config)?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": described(CONFIG, &config),
        "layers": [described(LAYER, layer)],
    }))?;
    let mut named = described(MANIFEST, &manifest);
    named["annotations"] = json!({ "io.containerd.image.name": tag });
    let index = serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": [named] }))?;
    let mut tar = tar::Builder::new(File::create(output).with_context(|| format!("write {}", output.display()))?);
    let mut add = |name: String, content: &[u8]| {
        let mut header = header(0o644, content.len() as u64, tar::EntryType::Regular);
        tar.append_data(&mut header, name, content)
    };
    add("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add("index.json".to_owned(), &index)?;
    for blob in [config.as_slice(), &manifest, layer] {
        add(format!("blobs/{}", digest(blob).replace(':', "/")), blob)?;
    }
    tar.into_inner()?.flush().with_context(|| format!("write {}", output.display()))
}

fn described(kind: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": digest(blob), "size": blob.len() })
}

fn digest(blob: &[u8]) -> String {
    let mut hash = Hash::new(&SHA256);
    hash.update(blob);
    let hex: String = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
