//! A server that listens on an address of its own, with the certificates and the pg_hba.conf of a test.

#![allow(dead_code, reason = "each test takes of it what it needs")]

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tempfile::TempDir;
use windlass_replication::{Address, Connection, ReplicationError};
use windlass_testkit::postgres::PgCluster;
use windlass_testkit::process::run;

/// The name that is in certificates, and in no DNS.
pub(crate) const NAME: &str = "db.test";

/// A server that can be reached over the network of this machine.
pub(crate) struct Server {
    pub(crate) cluster: PgCluster,
    /// An address of its own, so that all of them have the usual port.
    pub(crate) address: String,
}

impl Server {
    /// With these lines in its pg_hba.conf, where `ADDRESS` stands for all of this machine; over its socket everybody is
    /// let in.
    pub(crate) fn start(lines: &str) -> Result<Self> {
        Self::start_with(lines, &[])
    }

    /// With settings as well.
    pub(crate) fn start_with(lines: &str, settings: &[&str]) -> Result<Self> {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let address = format!("127.{}.{low}.{}", 64 + high % 64, COUNT.fetch_add(1, Ordering::Relaxed));
        let listen = format!("listen_addresses={address}");
        let cluster = PgCluster::start_with(&[&[listen.as_str()], settings].concat())?;
        let server = Self { cluster, address };
        server.admit(lines)?;
        Ok(server)
    }

    /// Writes pg_hba.conf anew.
    pub(crate) fn admit(&self, lines: &str) -> Result<()> {
        let lines = lines.replace("ADDRESS", "127.0.0.0/8");
        let hba = format!("local all postgres trust\n{lines}\nlocal all all trust\nlocal replication all trust\n");
        std::fs::write(self.cluster.data().join("pg_hba.conf"), hba)?;
        self.reload()
    }

    fn reload(&self) -> Result<()> {
        let loaded = || self.cluster.try_psql("postgres", "select pg_conf_load_time()");
        let before = loaded()?;
        self.cluster.try_psql("postgres", "select pg_reload_conf()")?;
        let began = Instant::now();
        while loaded()? == before {
            ensure!(began.elapsed() < Duration::from_secs(30), "the settings are not loaded");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Switches TLS on, with this certificate; clients' are believed if this authority signed them.
    pub(crate) fn encrypt(&self, certificate: &Pair, authority: Option<&Pair>) -> Result<()> {
        let data = self.cluster.data();
        let about = std::fs::metadata(&data)?;
        let place = |from: &Path, name: &str| -> Result<()> {
            let to = data.join(name);
            std::fs::copy(from, &to)?;
            std::fs::set_permissions(&to, PermissionsExt::from_mode(0o600))?;
            Ok(chown(&to, Some(about.uid()), Some(about.gid()))?)
        };
        place(&certificate.certificate, "server.crt")?;
        place(&certificate.key, "server.key")?;
        if let Some(authority) = authority {
            place(&authority.certificate, "root.crt")?;
            self.cluster.try_psql("postgres", "alter system set ssl_ca_file = 'root.crt'")?;
        }
        self.cluster.try_psql("postgres", "alter system set ssl = on")?;
        self.reload()
    }

    /// A role that may replicate, with a password hashed so.
    pub(crate) fn role(&self, name: &str, password: &str, hashed: &str) {
        let sql = format!(
            "set password_encryption = '{hashed}'; create role \"{name}\" login replication password '{password}'"
        );
        self.cluster.psql("postgres", &format!("begin; {sql}; commit"));
    }

    /// A URL over the network, by the name that is in certificates.
    pub(crate) fn url(&self, role: &str, parameters: &str) -> String {
        self.url_by(NAME, role, parameters)
    }

    /// A URL over the network, by another name.
    pub(crate) fn url_by(&self, name: &str, role: &str, parameters: &str) -> String {
        format!("postgresql://{role}@{name}/?hostaddr={}&{parameters}", self.address)
    }

    /// A URL of its socket.
    pub(crate) fn socket(&self, role: &str) -> String {
        self.cluster.url_as(role, "postgres")
    }
}

/// Opens a connection with no password file about.
pub(crate) async fn open(url: &str, password: Option<&str>) -> Result<Connection, ReplicationError> {
    let url = if url.contains("passfile=") { url.to_owned() } else { format!("{url}&passfile=/nonexistent") };
    Connection::open(&Address::parse(&url)?, password.map(Into::into), "windlass-test").await
}

/// A certificate and its key.
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// A folder of certificates.
pub(crate) struct Certificates(TempDir);

const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

impl Certificates {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    fn pair(&self, name: &str) -> Pair {
        let at = |end: &str| self.0.path().join(format!("{name}.{end}"));
        Pair { certificate: at("crt"), key: at("key") }
    }

    /// One that signed for itself: an authority.
    pub(crate) fn authority(&self, name: &str) -> Result<Pair> {
        self.own(name, &format!("/CN={name}"), "nsComment=none")
    }

    /// One that signed for itself, with an extension.
    pub(crate) fn own(&self, name: &str, subject: &str, extension: &str) -> Result<Pair> {
        let pair = self.pair(name);
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-days", "2", "-subj", subject, "-addext", extension]).args(KEY);
        run(command.arg("-keyout").arg(&pair.key).arg("-out").arg(&pair.certificate))?;
        Ok(pair)
    }

    /// One that an authority signed, with an extension; without one it is of X.509 version 1.
    pub(crate) fn signed(&self, name: &str, by: &Pair, subject: &str, extension: Option<&str>) -> Result<Pair> {
        let (pair, request) = (self.pair(name), self.0.path().join("request"));
        let mut command = Command::new("openssl");
        command.args(["req", "-new", "-subj", subject]).args(KEY);
        run(command.arg("-keyout").arg(&pair.key).arg("-out").arg(&request))?;
        let mut command = Command::new("openssl");
        command.args(["x509", "-req", "-days", "2", "-CAcreateserial"]);
        command.arg("-in").arg(&request).arg("-CA").arg(&by.certificate).arg("-CAkey").arg(&by.key);
        if let Some(extension) = extension {
            let file = self.0.path().join("extensions");
            std::fs::write(&file, extension)?;
            command.arg("-extfile").arg(file);
        }
        run(command.arg("-out").arg(&pair.certificate))?;
        Ok(pair)
    }
}
