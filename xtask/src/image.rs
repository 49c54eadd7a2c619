//! Writes the container image as an OCI archive, without a daemon: the static binary and `helm`, and nothing else. Or the
//! folder that `Containerfile` makes the same image of.
//!
//! The same inputs make the same bytes. (<https://github.com/opencontainers/image-spec>, v1.1.)

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
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
const USER: &str = "65532:65532";

const ENTRYPOINT: &str = "/windlass";

const VARIABLES: [&str; 5] = [
    "PATH=/",
    "HOME=/tmp",
    "WINDLASS_HELM=/helm",
    "WINDLASS_CHART=/chart",
    "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
];

/// Where programs look for them.
const AUTHORITIES: &str = "etc/ssl/certs/ca-certificates.crt";

/// What is asked for.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// A static binary; built where none is given.
    pub(crate) binary: Option<PathBuf>,
    /// `helm`, a static binary too.
    pub(crate) helm: Option<PathBuf>,
    /// The archive.
    pub(crate) output: Option<PathBuf>,
    /// A folder in place of the archive, for `Containerfile`.
    pub(crate) folder: Option<PathBuf>,
    /// What the image is called.
    pub(crate) tag: Option<String>,
}

impl Options {
    /// Reads `--binary`, `--helm`, `--output`, `--folder` and `--tag`; `None` where there is anything else.
    pub(crate) fn read(words: &[&str]) -> Option<Self> {
        let mut options = Self::default();
        for pair in words.chunks(2) {
            let [flag, value] = pair else { return None };
            match *flag {
                "--binary" => options.binary = Some(value.into()),
                "--helm" => options.helm = Some(value.into()),
                "--output" => options.output = Some(value.into()),
                "--folder" => options.folder = Some(value.into()),
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
    let contents = contents(&[("windlass", &binary), ("helm", &helm)], &root()?.join("charts/kryton"))?;
    if let Some(folder) = &options.folder {
        lay_out(&contents, folder)?;
        println!("{}: make an image of it with Containerfile", folder.display());
        return Ok(true);
    }
    let output = options.output.clone().unwrap_or_else(|| target.join("windlass-image.tar"));
    let version = env!("CARGO_PKG_VERSION");
    let tag = options.tag.clone().unwrap_or_else(|| format!("docker.io/library/windlass:{version}"));
    archive(&output, &tag, &layer(&contents)?)?;
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

/// What is in the image, by its path: files, and folders that have no content.
type Contents = BTreeMap<PathBuf, (u32, Option<Vec<u8>>)>;

/// These files at its root, the chart, the authorities, and a folder for what is temporary.
fn contents(files: &[(&str, &Path)], chart: &Path) -> Result<Contents> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let mut contents = Contents::from([
        ("tmp".into(), (0o1777, None)),
        (AUTHORITIES.into(), (0o644, Some(authorities().into_bytes()))),
    ]);
    for (name, path) in files {
        contents.insert(name.into(), (0o755, Some(read(path)?)));
    }
    let mut templates = Vec::new();
    list(chart, &mut templates)?;
    for path in templates {
        contents.insert(Path::new("chart").join(path.strip_prefix(chart)?), (0o644, Some(read(&path)?)));
    }
    Ok(contents)
}

/// One layer with it.
fn layer(contents: &Contents) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, (mode, content)) in contents {
        let kind = if content.is_some() { tar::EntryType::Regular } else { tar::EntryType::Directory };
        let content = content.as_deref().unwrap_or_default();
        tar.append_data(&mut header(*mode, content.len() as u64, kind), path, content)?;
    }
    tar.into_inner().context("write the layer")
}

/// A folder with it, made anew.
fn lay_out(contents: &Contents, folder: &Path) -> Result<()> {
    // What is there may be somebody's: only what was written by an earlier run is taken away.
    if folder.is_dir() {
        ensure!(
            folder.join("windlass").is_file() && folder.join("chart").is_dir(),
            "{} is there, and no image",
            folder.display()
        );
        std::fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    for (path, (mode, content)) in contents {
        let path = folder.join(path);
        let failed = || format!("write {}", path.display());
        match content {
            Some(content) => {
                path.parent().map_or(Ok(()), std::fs::create_dir_all).with_context(failed)?;
                std::fs::write(&path, content).with_context(failed)?;
            }
            None => std::fs::create_dir_all(&path).with_context(failed)?,
        }
        std::fs::set_permissions(&path, Permissions::from_mode(*mode)).with_context(failed)?;
    }
    Ok(())
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
        "config": { "Entrypoint": [ENTRYPOINT], "User": USER, "Env": VARIABLES },
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What `Containerfile` says, an instruction and its words for each line.
    fn instructions() -> Result<Vec<(String, String)>> {
        let text = std::fs::read_to_string(root()?.join("Containerfile"))?;
        let text = text.replace("\\\n", " ");
        let said = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '));
        Ok(said
            .map(|(what, words)| (what.to_owned(), words.split_whitespace().collect::<Vec<_>>().join(" ")))
            .collect())
    }

    #[test]
    fn containerfile_makes_the_image_that_is_written_here() -> Result<()> {
        let expected = [
            ("FROM", "scratch".to_owned()),
            ("COPY", ". /".to_owned()),
            ("ENV", VARIABLES.join(" ")),
            ("USER", USER.to_owned()),
            ("ENTRYPOINT", format!("[\"{ENTRYPOINT}\"]")),
        ];
        assert_eq!(instructions()?, expected.map(|(what, words)| (what.to_owned(), words)));
        Ok(())
    }

    #[test]
    fn the_folder_holds_what_the_layer_holds() -> Result<()> {
        let work = std::env::temp_dir().join(format!("windlass-image-{}", std::process::id()));
        std::fs::create_dir_all(work.join("given"))?;
        let program = work.join("given/program");
        std::fs::write(&program, "a program")?;
        let contents = contents(&[("windlass", &program), ("helm", &program)], &root()?.join("charts/kryton"))?;
        // The second one takes the place of the first.
        for _ in 0..2 {
            lay_out(&contents, &work.join("folder"))?;
        }
        assert!(lay_out(&contents, &work.join("given")).is_err(), "somebody's folder");
        let mut seen = 0;
        for entry in tar::Archive::new(layer(&contents)?.as_slice()).entries()? {
            let mut entry = entry?;
            let path = work.join("folder").join(entry.path()?);
            assert_eq!(path.metadata()?.permissions().mode() & 0o7777, entry.header().mode()?, "{}", path.display());
            if path.is_file() {
                let mut content = Vec::new();
                std::io::Read::read_to_end(&mut entry, &mut content)?;
                assert_eq!(std::fs::read(&path)?, content, "{}", path.display());
                seen += 1;
            }
        }
        let mut all = Vec::new();
        list(&work.join("folder"), &mut all)?;
        assert_eq!(all.len(), seen);
        assert!(!all.iter().any(|path| path.ends_with("sh")), "no shell");
        std::fs::remove_dir_all(&work)?;
        Ok(())
    }
}
