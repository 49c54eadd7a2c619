//! Makes of a `Kryton`, and of what it refers to, values that everything else can rely on. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use secrecy::{ExposeSecret, SecretString};
use windlass_core::duration;
use windlass_core::id::RepositoryId;
use windlass_core::name::Name;
use windlass_core::repository::S3;
use windlass_core::retention::Retention;
use windlass_core::schedule::Schedule;
use windlass_core::secret::SecretRef;
use windlass_repo::store::BESIDE;
use windlass_repo::store::open::Credentials;

use super::dereference::{Dereferenced, Found};
use super::names;
use crate::api::kryton::{self as api, Kryton, ObjectStore};
use crate::connection::{Connection, connection};

/// The keys of the Secret with the object store's credentials.
pub(crate) const ACCESS_KEY: &str = "OBJECT_STORE_ACCESS_KEY";
pub(crate) const SECRET_KEY: &str = "OBJECT_STORE_SECRET_KEY";

/// The keys of Windlass's own Secret.
pub(crate) const WRITER: &str = "writer";
pub(crate) const REPOSITORY: &str = "repository";

/// The image whose `pg_dump` is used where nothing else is said.
const IMAGE: &str = "postgres:16";

/// Where the agent finds the certificate of the object store.
pub(crate) const CA_FILE: &str = "/etc/windlass/ca/ca.crt";

/// Why a part cannot be set up: for a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// In one CamelCase word.
    pub(crate) reason: &'static str,
    /// What is wrong, and what to do.
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// A `Kryton` whose parts were looked at, each by itself.
pub(crate) struct Valid {
    pub(crate) name: Name,
    pub(crate) namespace: String,
    pub(crate) owner: Option<OwnerReference>,
    /// Backups, where they are asked for.
    pub(crate) backup: Option<Result<Backup, Fault>>,
    /// Snapshots, where they are asked for.
    pub(crate) snapshot: Option<Result<Snapshot, Fault>>,
}

/// Snapshots that can be set up, of a claim that is yet to be found.
pub(crate) struct Snapshot {
    pub(crate) schedule: String,
    /// As it was written, and readable.
    pub(crate) retention: Option<String>,
    pub(crate) class: Option<String>,
}

/// Backups that can be set up.
pub(crate) struct Backup {
    /// As it was written; the cluster's cron reads it.
    pub(crate) schedule: String,
    /// The same, read by us.
    pub(crate) cron: Schedule,
    /// `None` keeps everything.
    pub(crate) retention: Option<Retention>,
    /// The repository's folder, as an agent sees it.
    pub(crate) place: S3,
    /// What opens it.
    pub(crate) credentials: Credentials,
    /// The certificate of the object store, in PEM.
    pub(crate) ca: Option<(CaSecret, SecretString)>,
    /// How the database is reached.
    pub(crate) connection: Connection,
    /// The image with `pg_dump`.
    pub(crate) image: String,
    /// The Secret with the object store's credentials.
    pub(crate) credentials_secret: String,
    /// The writer and the repository that there must be; `None` until they were made.
    pub(crate) own: Option<Own>,
}

/// A Secret's key with a certificate.
#[derive(Clone, Debug)]
pub(crate) struct CaSecret {
    pub(crate) name: String,
    pub(crate) key: String,
}

/// What is kept in Windlass's own Secret.
#[derive(Clone)]
pub(crate) struct Own {
    pub(crate) writer: SecretString,
    pub(crate) repository: RepositoryId,
}

impl Own {
    /// Reads it; `None` where it is not whole, and has to be made.
    pub(crate) fn read(found: &Found) -> Option<Self> {
        let repository = found.get(REPOSITORY)?.expose_secret().trim().parse().ok()?;
        Some(Self { writer: found.get(WRITER)?.clone(), repository })
    }
}

/// Looks at a `Kryton` and what it refers to.
pub(crate) fn validate(kryton: &Kryton, found: &Dereferenced) -> Result<Valid, Fault> {
    let name = kryton.name_any();
    let name: Name = name.parse().map_err(|_| {
        Fault::new(
            "NameUnusable",
            format!("`{name}` cannot be the name of a release: 1 to 40 characters of a-z, 0-9 and `-`"),
        )
    })?;
    let backup = kryton.spec.backup.as_ref().map(|backup| validate_backup(kryton, &name, backup, found));
    let snapshot = kryton.spec.snapshot.as_ref().map(|snapshot| validate_snapshot(kryton, snapshot));
    Ok(Valid { namespace: kryton.namespace().unwrap_or_default(), owner: names::owner(kryton), name, backup, snapshot })
}

fn validate_snapshot(kryton: &Kryton, snapshot: &api::Snapshot) -> Result<Snapshot, Fault> {
    schedule(&snapshot.schedule, "spec.snapshot.schedule", &names::full(kryton))?;
    let kept = retention(snapshot.retention.as_deref(), "spec.snapshot.retention")?;
    Ok(Snapshot {
        schedule: snapshot.schedule.trim().to_owned(),
        retention: kept.and(snapshot.retention.as_ref().map(|text| text.trim().to_owned())),
        class: snapshot.volume_snapshot_class_name.clone().filter(|class| !class.is_empty()),
    })
}

fn validate_backup(kryton: &Kryton, name: &Name, backup: &api::Backup, found: &Dereferenced) -> Result<Backup, Fault> {
    let cron = schedule(&backup.schedule, "spec.backup.schedule", &names::full(kryton))?;
    let store = &backup.object_store;
    let secret = &store.credentials_secret_ref.name;
    let credentials =
        found.credentials.as_ref().ok_or_else(|| missing(secret, "the credentials of the object store"))?;
    let key =
        |key: &str| credentials.get(key).cloned().ok_or_else(|| Fault::new("SecretMalformed", credentials.lacks(key)));
    let credentials = Credentials { access_key: key(ACCESS_KEY)?, secret_key: key(SECRET_KEY)? };
    let ca = certificate(store, found.ca.as_ref())?;
    Ok(Backup {
        schedule: backup.schedule.trim().to_owned(),
        cron,
        retention: retention(backup.retention.as_deref(), "spec.backup.retention")?,
        place: place(name, store)?,
        credentials,
        ca,
        connection: connection(kryton, backup.connection.as_ref(), found.database.as_ref())?,
        image: backup.image.clone().unwrap_or_else(|| IMAGE.to_owned()),
        credentials_secret: secret.clone(),
        own: found.own.as_ref().and_then(Own::read),
    })
}

/// A schedule that the cluster's own cron understands as well.
fn schedule(text: &str, field: &str, seed: &str) -> Result<Schedule, Fault> {
    let invalid = |why: String| Fault::new("ScheduleInvalid", format!("{field}: {why}"));
    let is_spread = |part: &str| part == "H" || part.starts_with("H(");
    if text.split(|c: char| c.is_whitespace() || ",-/".contains(c)).any(is_spread) {
        return Err(invalid(format!("`{text}`: the cluster's CronJobs know no `H`; write a number")));
    }
    Schedule::parse(text.trim(), seed).map_err(|error| invalid(error.to_string()))
}

pub(crate) fn missing(secret: &str, what: &str) -> Fault {
    Fault::new(
        "SecretMissing",
        format!("there is no Secret `{secret}`, which holds {what}; it is looked at again as soon as it is made"),
    )
}

fn certificate(store: &ObjectStore, found: Option<&Found>) -> Result<Option<(CaSecret, SecretString)>, Fault> {
    let Some(reference) = &store.ca_secret_ref else { return Ok(None) };
    let key = reference.key.clone().unwrap_or_else(|| "ca.crt".to_owned());
    let found = found.ok_or_else(|| missing(&reference.name, "the certificate of the object store"))?;
    let pem = found.get(&key).cloned().ok_or_else(|| Fault::new("SecretMalformed", found.lacks(&key)))?;
    Ok(Some((CaSecret { name: reference.name.clone(), key }, pem)))
}

/// A retention of one length of time; nothing, and an empty text, keeps everything.
fn retention(text: Option<&str>, field: &str) -> Result<Option<Retention>, Fault> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else { return Ok(None) };
    let within = duration::parse(text).map_err(|e| Fault::new("RetentionInvalid", format!("{field}: {e}")))?;
    Ok(Some(Retention { within: Some(within), ..Retention::default() }))
}

/// The repository's folder: `<prefix>.windlass`.
fn place(name: &Name, store: &ObjectStore) -> Result<S3, Fault> {
    let prefix = store.prefix.as_deref().map(str::trim).filter(|prefix| !prefix.is_empty());
    let prefix = prefix.map_or_else(|| name.to_string(), |prefix| prefix.trim_end_matches('/').to_owned());
    let sound = |segment: &str| {
        !segment.is_empty()
            && !segment.starts_with('.')
            && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.=~".contains(&b))
    };
    if !prefix.split('/').all(sound) {
        let message = format!(
            "spec.backup.objectStore.prefix: `{prefix}` is no prefix: names of A-Z, a-z, 0-9 and `.-_=~` joined by `/`, none of which begins with `.`"
        );
        return Err(Fault::new("PrefixInvalid", message));
    }
    Ok(S3 {
        bucket: store.bucket.clone(),
        prefix: format!("{prefix}/{BESIDE}"),
        endpoint: Some(store.endpoint.trim_end_matches('/').to_owned()),
        region: store.region.clone().filter(|region| !region.is_empty()),
        path_style: store.path_style.unwrap_or(true),
        ca: store.ca_secret_ref.as_ref().map(|_| CA_FILE.into()),
        access_key: SecretRef::Env(ACCESS_KEY.to_owned()),
        secret_key: SecretRef::Env(SECRET_KEY.to_owned()),
    })
}

impl Backup {
    /// When the next backup is due.
    pub(crate) fn next(&self, now: Timestamp) -> Option<Timestamp> {
        self.cron.next_after(now)
    }
}
