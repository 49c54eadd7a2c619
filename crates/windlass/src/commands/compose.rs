//! What a Compose file runs: its databases, and the folders of the host its services use.
//!
//! Docker Compose itself reads the file (`docker compose config`), so that variables, includes and overrides mean what
//! they mean to it. Where it is not installed, the file is named and nothing more is known of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;
use windlass::settings::{FoundCompose, FoundDatabase, FoundFolder};
use windlass_repo::store::Key;

/// How long Compose may take to read its file.
const PATIENCE: Duration = Duration::from_secs(20);

/// Words in the names of images that are a PostgreSQL server.
const SERVERS: [&str; 5] = ["postgres", "postgis", "pgvector", "timescale", "pgautoupgrade"];

/// What was found.
#[derive(Default)]
pub(super) struct Found {
    /// The file.
    pub(super) compose: Option<FoundCompose>,
    /// Its databases.
    pub(super) databases: Vec<FoundDatabase>,
    /// Its folders.
    pub(super) folders: Vec<FoundFolder>,
}

/// Looks for a Compose file in a folder, and at what it runs.
pub(super) async fn find(here: &Path) -> Found {
    let names = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];
    let Some(file) = names.iter().map(|name| here.join(name)).find(|path| path.is_file()) else {
        return Found::default();
    };
    let project = project(&file).await.unwrap_or_default();
    let mut found = Found { compose: Some(FoundCompose { file, service: None }), ..Found::default() };
    let (servers, others): (Vec<_>, Vec<_>) = project.services.iter().partition(|(_, service)| service.is_server());
    found.databases.extend(servers.into_iter().filter_map(|(name, service)| service.database(name)));
    for (name, service) in others {
        for folder in service.folders() {
            let known = found.folders.iter().any(|other| folder.starts_with(&other.path));
            let label = if found.folders.iter().any(|other| other.name.as_str() == name) {
                format!("{name}-{}", folder.file_name().unwrap_or_default().to_string_lossy().to_lowercase())
            } else {
                name.clone()
            };
            if let (false, Ok(name)) = (known, label.parse()) {
                found.folders.push(FoundFolder { name, path: folder });
            }
        }
    }
    found
}

async fn project(file: &Path) -> Option<Project> {
    let mut docker = Command::new("docker");
    docker.args(["compose", "-f"]).arg(file).args(["config", "--format", "json"]).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, docker.stdin(std::process::Stdio::null()).output()).await.ok()?.ok()?;
    output.status.success().then(|| serde_json::from_slice(&output.stdout).ok())?
}

#[derive(Default, Deserialize)]
struct Project {
    #[serde(default)]
    services: BTreeMap<String, Service>,
}

#[derive(Deserialize)]
struct Service {
    #[serde(default)]
    image: String,
    environment: Option<BTreeMap<String, Value>>,
    volumes: Option<Vec<Volume>>,
}

#[derive(Deserialize)]
struct Volume {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    source: String,
}

impl Service {
    fn is_server(&self) -> bool {
        let image = self.image.rsplit('/').next().unwrap_or_default().split([':', '@']).next().unwrap_or_default();
        let tools = ["exporter", "backup", "rest"];
        SERVERS.iter().any(|word| image.contains(word)) && !tools.iter().any(|word| image.contains(word))
    }

    /// The database the official image makes: of the user's name where none is said. The socket within the container
    /// asks for no password.
    fn database(&self, service: &str) -> Option<FoundDatabase> {
        let of =
            |key: &str| self.environment.as_ref()?.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let user = of("POSTGRES_USER").unwrap_or("postgres");
        let database = of("POSTGRES_DB").unwrap_or(user);
        let url = format!("postgresql://{}@/{}", Key::encode(user), Key::encode(database));
        Some(FoundDatabase { name: service.parse().ok()?, url, service: Some(service.to_owned()) })
    }

    /// Folders of the host that are mounted into it.
    fn folders(&self) -> impl Iterator<Item = PathBuf> {
        let mounted = self.volumes.iter().flatten().filter(|volume| volume.kind == "bind").map(|volume| &volume.source);
        mounted.map(PathBuf::from).filter(|path| path.is_absolute() && path.is_dir())
    }
}
