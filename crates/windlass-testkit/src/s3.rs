//! Real S3 servers: versitygw, over a folder, and minio.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::process::{Guardian, free_port, run};

/// The access key of every server here.
pub const ACCESS_KEY: &str = "windlass-test";
/// The secret key of every server here.
pub const SECRET_KEY: &str = "windlass-test-secret";
/// The bucket that is there.
pub const BUCKET: &str = "backups";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// github.com/versity/versitygw
    Versitygw,
    /// github.com/minio/minio
    Minio,
}

/// A server with one empty bucket.
#[derive(Debug)]
pub struct S3Server {
    kind: Kind,
    folder: TempDir,
    host: &'static str,
    port: u16,
    certificates: Option<TempDir>,
    server: Option<Child>,
    guardian: Option<Guardian>,
}

impl S3Server {
    /// Starts a server.
    pub fn start(kind: Kind) -> Result<Self> {
        Self::begin(kind, "127.0.0.1", None)
    }

    /// Starts a server at an address of this machine that others reach.
    pub fn start_at(kind: Kind, host: &'static str) -> Result<Self> {
        Self::begin(kind, host, None)
    }

    /// Starts a server that speaks TLS, with a certificate of an authority of its own: [`S3Server::ca`].
    pub fn start_with_tls(kind: Kind) -> Result<Self> {
        Self::start_with_tls_at(kind, "127.0.0.1")
    }

    /// The same, at an address of this machine that others reach.
    pub fn start_with_tls_at(kind: Kind, host: &'static str) -> Result<Self> {
        Self::begin(kind, host, Some(certificates(host)?))
    }

    fn begin(kind: Kind, host: &'static str, certificates: Option<TempDir>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("wl-s3-").tempdir()?;
        // Both keep buckets as folders, so this is how one is made without asking.
        std::fs::create_dir(folder.path().join(BUCKET))?;
        let mut server = Self { kind, folder, host, port: free_port()?, certificates, server: None, guardian: None };
        server.up()?;
        Ok(server)
    }

    /// Starts it again after [`S3Server::down`], at the same address.
    pub fn up(&mut self) -> Result<()> {
        let address = self.address();
        let mut command = match self.kind {
            Kind::Versitygw => {
                let mut command = Command::new(program("versitygw")?);
                command.env("ROOT_ACCESS_KEY", ACCESS_KEY).env("ROOT_SECRET_KEY", SECRET_KEY);
                if let Some(folder) = &self.certificates {
                    command.arg("--cert").arg(folder.path().join("public.crt"));
                    command.arg("--key").arg(folder.path().join("private.key"));
                }
                command.args(["--port", &address, "posix"]).arg(self.folder.path());
                command
            }
            Kind::Minio => {
                let mut command = Command::new(program("minio")?);
                command.env("MINIO_ROOT_USER", ACCESS_KEY).env("MINIO_ROOT_PASSWORD", SECRET_KEY);
                command.args(["server", "--quiet", "--address", &address]);
                if let Some(folder) = &self.certificates {
                    command.arg("--certs-dir").arg(folder.path());
                }
                command.arg(self.folder.path());
                command
            }
        };
        let log = std::fs::File::create(self.folder.path().with_extension("log"))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        self.guardian = Some(Guardian::of(child.id(), "KILL")?);
        self.server = Some(child);
        let began = Instant::now();
        while std::net::TcpStream::connect(&address).is_err() {
            ensure!(began.elapsed() < Duration::from_mins(1), "{:?} does not listen", self.kind);
            std::thread::sleep(Duration::from_millis(30));
        }
        Ok(())
    }

    /// Ends it at once.
    pub fn down(&mut self) {
        self.guardian = None;
        if let Some(mut server) = self.server.take() {
            let _ = server.wait();
        }
    }

    /// Its address, `http://127.0.0.1:…`, or `https://…`.
    pub fn endpoint(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address())
    }

    /// The same, without the scheme.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The certificate of the authority behind its own, where it speaks TLS.
    pub fn ca(&self) -> Option<PathBuf> {
        self.certificates.as_ref().map(|folder| folder.path().join("CAs/ca.pem"))
    }

    /// The folder it keeps its objects in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.down();
        let _ = std::fs::remove_file(self.folder.path().with_extension("log"));
    }
}

/// An authority, and a certificate of it for an address.
fn certificates(host: &str) -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("wl-tls-").tempdir()?;
    let script = r#"
        set -e; umask 077; mkdir CAs
        openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out CAs/ca.pem -days 2 -subj "/CN=a test's authority"
        openssl req -newkey rsa:2048 -nodes -keyout private.key -out server.csr -subj "/CN=$HOST"
        printf 'subjectAltName=IP:%s\nbasicConstraints=CA:FALSE\n' "$HOST" > server.ext
        openssl x509 -req -in server.csr -CA CAs/ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile server.ext -out public.crt
    "#;
    run(Command::new("sh").arg("-c").arg(script).env("HOST", host).current_dir(folder.path()))?;
    Ok(folder)
}

fn program(name: &str) -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("find the workspace")?;
    let path = root.join(".bench/bin").join(name);
    if path.is_file() {
        return Ok(path);
    }
    bail!("`{}` is not built: run `make tools`", path.display())
}
