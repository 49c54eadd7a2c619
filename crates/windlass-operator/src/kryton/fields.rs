//! Every field of `spec.backup`, `spec.snapshot` and `spec.plugins` has its effect on what is made. `spec.version` and
//! `spec.values` are seen to in `release::digest`, `spec.deletionPolicy` on a cluster.

use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use windlass_core::id::RepositoryId;
use windlass_repo::random::Fresh;

use super::build;
use super::dereference::{Dereferenced, Found};
use super::validate::{self, Valid, validate};
use crate::api::kryton::{Kryton, KrytonSpec};

fn found(name: &str, keys: &[&str]) -> Found {
    let values: Value = keys.iter().map(|key| ((*key).to_owned(), json!(format!("the {key}")))).collect();
    let encoded = |value: &Value| k8s_openapi::ByteString(value.as_str().unwrap_or_default().into());
    let data = values.as_object().unwrap().iter().map(|(key, value)| (key.clone(), encoded(value))).collect();
    let mut secret = Secret { data: Some(data), ..Secret::default() };
    secret.metadata.name = Some(name.to_owned());
    Found::of(&secret)
}

/// A Kryton with what is laid over its `spec.backup`, and a Secret of its database with these keys.
fn valid_with(more: &Value, database: &str, keys: &[&str]) -> Valid {
    let mut backup = json!({
        "schedule": "0 3 * * *",
        "objectStore": { "bucket": "b-1", "endpoint": "https://s3.example.com", "credentialsSecretRef": { "name": "creds" } },
    });
    lay_over(&mut backup, more);
    let spec = json!({
        "version": "4.5.0", "backup": backup,
        "snapshot": { "schedule": "0 4 * * *", "retention": "7d", "volumeSnapshotClassName": "fast" },
    });
    let mut kryton = Kryton::new("team-a", serde_json::from_value::<KrytonSpec>(spec).unwrap());
    kryton.metadata.namespace = Some("n".into());
    let found = Dereferenced {
        credentials: Some(found("creds", &[validate::ACCESS_KEY, validate::SECRET_KEY])),
        ca: Some(found("authority", &["ca.crt", "ours.pem"])),
        database: Some(found(database, keys)),
        own: None,
    };
    validate(&kryton, &found).unwrap()
}

fn valid(more: &Value) -> Valid {
    valid_with(more, "team-a-postgresql", &["PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE"])
}

fn lay_over(under: &mut Value, over: &Value) {
    for (key, value) in over.as_object().unwrap() {
        match (under.get_mut(key), value) {
            (Some(inner @ Value::Object(_)), Value::Object(_)) => lay_over(inner, value),
            _ => under[key] = value.clone(),
        }
    }
}

/// The CronJob, and the task of its agent.
fn made(valid: &Valid) -> (Value, Value) {
    let Some(Ok(backup)) = &valid.backup else { panic!("{:?}", valid.backup.as_ref().and_then(|b| b.as_ref().err())) };
    let made = build::backup(valid, backup, RepositoryId::fresh().unwrap(), "windlass:1", false);
    let task = made.task.data.unwrap()["task.json"].clone();
    (serde_json::to_value(made.cron).unwrap(), serde_json::from_str(&task).unwrap())
}

fn pod(cron: &Value) -> &Value {
    &cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
}

#[test]
fn the_schedule_the_image_and_the_retention() {
    let asked = valid(&json!({ "schedule": " 7 5 * * 1 ", "image": "mirror/postgres:18", "retention": "30d" }));
    let (cron, _) = made(&asked);
    assert_eq!(cron["spec"]["schedule"], "7 5 * * 1");
    assert_eq!(pod(&cron)["containers"][0]["image"], "mirror/postgres:18");
    let within = |valid: &Valid| valid.backup.as_ref().unwrap().as_ref().ok().unwrap().retention.clone();
    assert_eq!(within(&asked).unwrap().within.unwrap().as_hours(), 30 * 24);
    let plain = valid(&json!({ "retention": "" }));
    assert_eq!(pod(&made(&plain).0)["containers"][0]["image"], "postgres:16");
    assert_eq!(within(&plain), None, "everything is kept");
}

#[test]
fn each_part_of_the_object_store() {
    let (cron, task) = made(&valid(&json!({})));
    let place = &task["repository"]["place"];
    assert_eq!((&place["bucket"], &place["endpoint"]), (&json!("b-1"), &json!("https://s3.example.com")));
    assert_eq!((&place["prefix"], &place["path_style"]), (&json!("team-a/.windlass"), &json!(true)));
    assert_eq!((&place["region"], &place["ca"]), (&Value::Null, &Value::Null));
    assert!(!pod(&cron)["volumes"].to_string().contains("authority"));
    let env = pod(&cron)["containers"][0]["env"].to_string();
    assert_eq!(env.matches("\"name\":\"creds\"").count(), 2, "{env}");

    let store = json!({
        "endpoint": "http://10.0.0.1:9000/", "region": "eu-1", "prefix": "a/b/", "pathStyle": false,
        "credentialsSecretRef": { "name": "other" }, "caSecretRef": { "name": "authority", "key": "ours.pem" },
    });
    let (cron, task) = made(&valid(&json!({ "objectStore": store })));
    let place = &task["repository"]["place"];
    assert_eq!((&place["endpoint"], &place["region"]), (&json!("http://10.0.0.1:9000"), &json!("eu-1")));
    assert_eq!((&place["prefix"], &place["path_style"]), (&json!("a/b/.windlass"), &json!(false)));
    assert_eq!(place["ca"], validate::CA_FILE);
    let volumes = pod(&cron)["volumes"].as_array().unwrap().clone();
    let ca = volumes.iter().find(|volume| volume["name"] == "ca").unwrap();
    assert_eq!(
        (&ca["secret"]["secretName"], &ca["secret"]["items"][0]["key"]),
        (&json!("authority"), &json!("ours.pem"))
    );
    assert!(pod(&cron)["containers"][0]["env"].to_string().contains("\"name\":\"other\""));
    let (cron, _) = made(&valid(&json!({ "objectStore": { "caSecretRef": { "name": "authority" } } })));
    assert!(pod(&cron)["volumes"].to_string().contains("\"key\":\"ca.crt\""));
}

/// What the agent goes by: each part of the address as it stands, or by the key of the Secret that it is read from.
fn reached(connection: &Value, secret: &str, keys: &[&str]) -> Value {
    let (cron, task) = made(&valid_with(&json!({ "connection": connection }), secret, keys));
    let env = pod(&cron)["containers"][0]["env"].as_array().unwrap().clone();
    let part = |part: &Value| match (&part["value"], part["env"].as_str()) {
        (Value::String(value), _) => json!(value),
        (_, Some(variable)) => {
            let of = &env.iter().find(|env| env["name"] == variable).unwrap()["valueFrom"]["secretKeyRef"];
            assert_eq!(of["name"], secret);
            json!({ "key": of["key"] })
        }
        _ => Value::Null,
    };
    let capture = &task["work"]["capture"];
    ["host", "port", "user", "password", "name"].map(|name| part(&capture[name])).into()
}

fn key(key: &str) -> Value {
    json!({ "key": key })
}

#[test]
fn the_secrets_of_those_who_write_them_are_recognised_or_taken_at_their_word() {
    let recognised = [
        (
            "Variables",
            &["PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "password", "postgres-password"][..],
            json!([key("PGHOST"), key("PGPORT"), key("PGUSER"), key("PGPASSWORD"), key("PGDATABASE")]),
        ),
        (
            "CloudNativePG",
            &["dbname", "fqdn-uri", "host", "jdbc-uri", "password", "pgpass", "port", "uri", "user", "username"],
            json!([key("host"), key("port"), key("username"), key("password"), key("dbname")]),
        ),
        (
            "Crunchy",
            &["dbname", "host", "jdbc-uri", "password", "pgbouncer-host", "port", "uri", "user", "verifier"],
            json!([key("host"), key("port"), key("user"), key("password"), key("dbname")]),
        ),
        (
            "Zalando",
            &["username", "password"],
            json!(["team-a-postgresql", null, key("username"), key("password"), "kryton"]),
        ),
        (
            "Bitnami",
            &["password", "postgres-password"],
            json!(["team-a-postgresql", null, "kryton", key("password"), "kryton"]),
        ),
        (
            "Bitnami",
            &["postgres-password"],
            json!(["team-a-postgresql", null, "postgres", key("postgres-password"), "kryton"]),
        ),
    ];
    for (preset, keys, wanted) in recognised {
        for said in [json!({}), json!({ "preset": preset })] {
            assert_eq!(reached(&said, "team-a-postgresql", keys), wanted, "{preset} said as {said}");
        }
        let valid = valid_with(&json!({}), "team-a-postgresql", keys);
        let backup = valid.backup.unwrap().ok().unwrap();
        assert_eq!(format!("{:?}", backup.connection.preset), preset, "as the condition tells it");
    }
}

#[test]
fn what_is_said_of_the_connection_wins_over_its_secret() {
    let said = json!({
        "secretRef": { "name": "theirs" }, "host": "db.example.com", "port": 6432, "user": "reader", "database": "notes",
    });
    let keys = ["PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE"];
    let wanted = json!(["db.example.com", "6432", "reader", key("PGPASSWORD"), "notes"]);
    assert_eq!(reached(&said, "theirs", &keys), wanted);
}

#[test]
fn plugins_are_added_to_what_the_values_say_of_volumes() {
    let plugin = json!({ "name": "p.tar.gz", "url": "https://example.com/p", "sha256": "ab".repeat(32) });
    let theirs = json!({ "name": "theirs", "emptyDir": {} });
    let spec = json!({ "version": "4.5.0", "values": { "extraVolumes": [theirs] }, "plugins": [plugin] });
    let kryton = Kryton::new("team-a", serde_json::from_value::<KrytonSpec>(spec).unwrap());
    let made = Value::Object(build::plugins(&kryton, "windlass:1"));
    assert_eq!(made["extraVolumes"], json!([theirs, { "name": "plugins", "emptyDir": {} }]));
    let installer = &made["extraInitContainers"][0];
    let list: Value = serde_json::from_str(installer["env"][0]["value"].as_str().unwrap()).unwrap();
    assert_eq!((&list, &installer["image"]), (&json!([plugin]), &json!("windlass:1")));
    assert_eq!(made["extraVolumeMounts"][0]["readOnly"], true);
}

#[test]
fn the_schedule_the_class_and_the_retention_of_snapshots() {
    let valid = valid(&json!({}));
    let Some(Ok(snapshot)) = &valid.snapshot else { panic!("snapshots") };
    let cron = serde_json::to_value(build::snapshot(&valid, snapshot, "team-a-data", "windlass:1").cron).unwrap();
    assert_eq!(cron["spec"]["schedule"], "0 4 * * *");
    let command = pod(&cron)["containers"][0]["command"].to_string();
    for part in ["\"--claim\",\"team-a-data\"", "\"--class\",\"fast\"", "\"--retention\",\"7d\""] {
        assert!(command.contains(part), "{command}");
    }
}
