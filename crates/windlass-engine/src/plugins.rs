//! Fetches plugins into a folder. Promised: a file stands under its name only when all its bytes are what they should be;
//! what is there already and right is not fetched again; what is not asked for any more goes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::digest::{Context, SHA256};
use tokio::io::AsyncWriteExt;
use windlass_core::diagnose::{Diagnose, chain};
use windlass_core::hex;
use windlass_core::plugin::Plugin;

/// How often a plugin is asked for.
const ATTEMPTS: u32 = 5;

/// The largest that is fetched, in bytes.
const LARGEST: u64 = 1 << 30;

/// Plugins that are not all there: the application must not start.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// A plugin cannot be what it says.
    #[error("fetch a plugin: {0}")]
    Wrong(String),
    /// It cannot be had.
    #[error("fetch plugin {name} from {url}: {why}")]
    Fetch {
        /// The plugin.
        name: String,
        /// Where it was asked for; without what stands behind a `?`.
        url: String,
        /// Why not.
        why: String,
    },
    /// Its bytes are others.
    #[error("fetch plugin {name} from {url}: its SHA-256 is {found}, and {wanted} is asked for")]
    Digest {
        /// The plugin.
        name: String,
        /// Where it was fetched.
        url: String,
        /// What it is.
        found: String,
        /// What it should be.
        wanted: String,
    },
    /// The folder.
    #[error("write `{path}`")]
    Write {
        /// What was written.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl Diagnose for PluginError {
    fn code(&self) -> &'static str {
        match self {
            Self::Wrong(_) => "WDL-2501",
            Self::Fetch { .. } => "WDL-2502",
            Self::Digest { .. } => "WDL-2503",
            Self::Write { .. } => "WDL-2504",
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Wrong(_) => "PluginWrong",
            Self::Fetch { .. } => "PluginNotFetched",
            Self::Digest { .. } => "PluginMismatch",
            Self::Write { .. } => "PluginNotWritten",
        }
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Wrong(_) => "correct spec.plugins",
            Self::Fetch { .. } => "see whether the URL can be reached from the cluster",
            Self::Digest { .. } => {
                "compare the digest with the one its publisher gives; somebody may have replaced the file"
            }
            Self::Write { .. } => "see whether the volume is full",
        };
        vec![hint.to_owned()]
    }
}

/// Fetches all plugins, and removes every other file of the folder.
pub async fn fetch(plugins: &[Plugin], folder: &Path) -> Result<(), PluginError> {
    if let Some(fault) = plugins.iter().find_map(Plugin::fault) {
        return Err(PluginError::Wrong(fault));
    }
    let client = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(30))
        .read_timeout(Duration::from_mins(1))
        .build();
    let client = client.map_err(|error| PluginError::Wrong(chain(&error)))?;
    tidy(plugins, folder).await?;
    for plugin in plugins {
        let path = folder.join(&plugin.name);
        if digest_of(&path).await.is_some_and(|found| found.eq_ignore_ascii_case(&plugin.sha256)) {
            continue;
        }
        let mut wait = Duration::from_millis(500);
        for attempt in 1.. {
            match attempt_to(&client, plugin, folder, &path).await {
                Ok(()) => break,
                Err(error @ (PluginError::Digest { .. } | PluginError::Write { .. })) => return Err(error),
                Err(error) if attempt == ATTEMPTS => return Err(error),
                Err(_) => tokio::time::sleep(wait).await,
            }
            wait *= 2;
        }
    }
    Ok(())
}

async fn tidy(plugins: &[Plugin], folder: &Path) -> Result<(), PluginError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PluginError::Write { path, source }
    };
    let mut entries = tokio::fs::read_dir(folder).await.map_err(failed(folder))?;
    while let Some(entry) = entries.next_entry().await.map_err(failed(folder))? {
        let wanted = plugins.iter().any(|plugin| entry.file_name() == plugin.name.as_str());
        if !wanted && entry.file_type().await.is_ok_and(|kind| kind.is_file()) {
            tokio::fs::remove_file(entry.path()).await.map_err(failed(&entry.path()))?;
        }
    }
    Ok(())
}

async fn digest_of(path: &Path) -> Option<String> {
    use tokio::io::AsyncReadExt;
    let mut file = tokio::fs::File::open(path).await.ok()?;
    let mut hash = Context::new(&SHA256);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer).await.ok()? {
            0 => return Some(hex::encode(hash.finish().as_ref())),
            read => hash.update(buffer.get(..read)?),
        }
    }
}

/// One attempt: into a file beside it, which takes its name once it is right.
async fn attempt_to(client: &reqwest::Client, plugin: &Plugin, folder: &Path, path: &Path) -> Result<(), PluginError> {
    // What stands behind a `?` may be a token.
    let url = plugin.url.split('?').next().unwrap_or_default().to_owned();
    let failed = |why: String| PluginError::Fetch { name: plugin.name.clone(), url: url.clone(), why };
    let refused = |error: reqwest::Error| failed(chain(&error.without_url()));
    let mut response =
        client.get(&plugin.url).send().await.and_then(reqwest::Response::error_for_status).map_err(refused)?;
    let partial = folder.join(format!(".{}.part", plugin.name));
    let written = |source| PluginError::Write { path: partial.clone(), source };
    let mut file = tokio::fs::File::create(&partial).await.map_err(written)?;
    let mut hash = Context::new(&SHA256);
    let mut size = 0;
    while let Some(piece) = response.chunk().await.map_err(refused)? {
        size += piece.len() as u64;
        if size > LARGEST {
            return Err(failed(format!("it is larger than {LARGEST} bytes")));
        }
        hash.update(&piece);
        file.write_all(&piece).await.map_err(written)?;
    }
    file.sync_all().await.map_err(written)?;
    let found = hex::encode(hash.finish().as_ref());
    if !found.eq_ignore_ascii_case(&plugin.sha256) {
        let _ = tokio::fs::remove_file(&partial).await;
        let wanted = plugin.sha256.to_ascii_lowercase();
        return Err(PluginError::Digest { name: plugin.name.clone(), url, found, wanted });
    }
    tokio::fs::rename(&partial, path).await.map_err(written)
}
