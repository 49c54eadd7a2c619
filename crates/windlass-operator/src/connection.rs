//! How a database is reached, by whatever wrote its Secret. Pure.

use k8s_openapi::api::core::v1::EnvVar;
use kube::ResourceExt;
use windlass_core::secret::SecretRef;
use windlass_core::task::{Database, Part};

use crate::api::kryton::{self as api, Kryton, Preset};
use crate::kryton::dereference::{Found, database_secret};
use crate::kryton::validate::{Fault, missing};
use crate::kryton::{names, of_secret};

/// A database, as a task names it, and the variables that the task relies on.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) database: Database,
    pub(crate) variables: Vec<EnvVar>,
    /// Who wrote the Secret, as it was said or recognised.
    pub(crate) preset: Preset,
}

/// The keys of a Secret, in the order of preference; the first that is there is used.
struct Keys {
    preset: Preset,
    host: &'static [&'static str],
    port: &'static [&'static str],
    user: &'static [&'static str],
    password: &'static [&'static str],
    database: &'static [&'static str],
}

const PRESETS: [Keys; 5] = [
    Keys {
        preset: Preset::Variables,
        host: &["PGHOST"],
        port: &["PGPORT"],
        user: &["PGUSER"],
        password: &["PGPASSWORD"],
        database: &["PGDATABASE"],
    },
    // It has `user` as well, by which Crunchy's would be recognised.
    Keys {
        preset: Preset::CloudNativePG,
        host: &["host"],
        port: &["port"],
        user: &["username"],
        password: &["password"],
        database: &["dbname"],
    },
    Keys {
        preset: Preset::Crunchy,
        host: &["host"],
        port: &["port"],
        user: &["user"],
        password: &["password"],
        database: &["dbname"],
    },
    Keys { preset: Preset::Zalando, host: &[], port: &[], user: &["username"], password: &["password"], database: &[] },
    Keys {
        preset: Preset::Bitnami,
        host: &[],
        port: &[],
        user: &[],
        password: &["password", "postgres-password"],
        database: &[],
    },
];

/// How the database of a `Kryton` is reached.
pub(crate) fn connection(
    kryton: &Kryton,
    said: Option<&api::Connection>,
    secret: Option<&Found>,
) -> Result<Connection, Fault> {
    let said = said.cloned().unwrap_or_default();
    let named = database_secret(kryton, Some(&said));
    let secret = secret.ok_or_else(|| missing(&named, "how the database is reached"))?;
    let keys = recognise(said.preset, secret)?;
    let mut variables = Vec::new();
    let mut part = |what: &str, given: Option<String>, keys: &[&str], otherwise: Option<String>| {
        if let Some(given) = given {
            return Some(Part::Value(given));
        }
        match keys.iter().find(|key| secret.has(key)) {
            Some(key) => {
                let variable = format!("SOURCE_{what}");
                variables.push(of_secret(&variable, &secret.name, key));
                Some(Part::Env(variable))
            }
            None => otherwise.map(Part::Value),
        }
    };
    let chart = |path: &[&str]| at(kryton, path);
    let administers = keys.preset == Preset::Bitnami && !secret.has("password");
    let user = if administers {
        "postgres".to_owned()
    } else {
        chart(&["auth", "username"]).unwrap_or_else(|| "kryton".to_owned())
    };
    let host = part("HOST", said.host, keys.host, Some(names::database_secret(&kryton.name_any())));
    let port = part("PORT", said.port.map(|port| port.to_string()), keys.port, None);
    let user = part("USER", said.user, keys.user, Some(user));
    let name = part(
        "DATABASE",
        said.database,
        keys.database,
        Some(chart(&["auth", "database"]).unwrap_or_else(|| "kryton".to_owned())),
    );
    let password = part("PASSWORD", None, keys.password, None);
    let lacks = |keys: &[&str]| Fault::new("SecretMalformed", secret.lacks(keys.first().copied().unwrap_or_default()));
    let password = match password {
        Some(Part::Env(variable)) => SecretRef::Env(variable),
        _ => return Err(lacks(keys.password)),
    };
    let database = Database {
        host: host.ok_or_else(|| lacks(keys.host))?,
        port,
        user: user.ok_or_else(|| lacks(keys.user))?,
        password: Some(password),
        name: name.ok_or_else(|| lacks(keys.database))?,
    };
    Ok(Connection { database, variables, preset: keys.preset })
}

/// The keys of whoever wrote the Secret: as it is said, or the first of which there is all that it must have.
fn recognise(said: Option<Preset>, secret: &Found) -> Result<&'static Keys, Fault> {
    if let Some(preset) = said {
        return PRESETS
            .iter()
            .find(|keys| keys.preset == preset)
            .ok_or_else(|| Fault::new("PresetUnknown", "the preset is not known"));
    }
    let has = |keys: &[&str]| keys.is_empty() || keys.iter().any(|key| secret.has(key));
    let is_it = |keys: &&Keys| has(keys.host) && has(keys.user) && has(keys.password) && has(keys.database);
    PRESETS.iter().find(is_it).ok_or_else(|| {
        let message = format!(
            "Secret `{}` has the keys {}, by which no database is reached: PGHOST, PGUSER, PGPASSWORD and PGDATABASE are expected, or those of Bitnami's chart (`password`), CloudNativePG, Zalando or Crunchy",
            secret.name,
            secret.keys()
        );
        Fault::new("SecretMalformed", message)
    })
}

/// A text in the values of the chart's database.
fn at(kryton: &Kryton, path: &[&str]) -> Option<String> {
    let mut value = kryton.spec.values.as_ref()?.get("postgresql")?;
    for step in path {
        value = value.get(step)?;
    }
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}
