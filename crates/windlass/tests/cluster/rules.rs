//! What the API server refuses, with its message.

use anyhow::{Result, ensure};

use crate::stage::Stage;

const GOOD: &str = r#"
apiVersion: kryton.azrtydxb.io/v1alpha1
kind: Kryton
metadata:
  name: refused
spec:
  version: "4.5.0"
  backup:
    schedule: "0 3 * * *"
    retention: 30d
    objectStore:
      bucket: kryton-backups
      endpoint: https://minio.example.com
      prefix: refused/
      credentialsSecretRef:
        name: creds
  plugins:
    - name: example
      url: https://example.com/p.tar.gz
      sha256: "aAbBcCdDeEfF00112233445566778899aabbccddeeff00112233445566778899"
  snapshot:
    schedule: "0 4 * * *"
    retention: 7d
"#;

/// Asked, not done: what is refused is refused before that.
const DRY: [&str; 6] = ["apply", "--namespace=default", "--dry-run=server", "--validate=ignore", "--filename", "-"];

/// What is taken out of the good one, what takes its place, and what must be said.
const WRONG: [(&str, &str, &str); 18] = [
    ("  version: \"4.5.0\"\n", "", "spec.version: Required value"),
    ("version: \"4.5.0\"", "version: \"\"", "spec.version"),
    ("    schedule: \"0 3 * * *\"\n", "", "spec.backup.schedule: Required value"),
    ("\"0 3 * * *\"", "\"0 3 * *\"", "a cron expression of five fields is expected"),
    ("\"0 3 * * *\"", "\"CRON_TZ=Asia/Tokyo 0 3 * * *\"", "a cron expression of five fields is expected"),
    ("      bucket: kryton-backups\n", "", "spec.backup.objectStore.bucket: Required value"),
    ("      endpoint: https://minio.example.com\n", "", "spec.backup.objectStore.endpoint: Required value"),
    ("https://minio.example.com", "minio.example.com", "the URL of the server is expected"),
    (
        "      credentialsSecretRef:\n        name: creds\n",
        "",
        "spec.backup.objectStore.credentialsSecretRef: Required value",
    ),
    (
        "        name: creds\n",
        "        other: creds\n",
        "spec.backup.objectStore.credentialsSecretRef.name: Required value",
    ),
    ("prefix: refused/", "prefix: ../other", "a prefix is names of"),
    ("prefix: refused/", "prefix: /absolute", "a prefix is names of"),
    ("retention: 30d", "retention: thirty days", "a duration is expected, such as `30d`"),
    ("8899\"\n  snap", "889\"\n  snap", "spec.plugins[0].sha256"),
    ("name: example\n", "name: ../example\n", "the name of a file is expected"),
    ("url: https://example.com/p.tar.gz", "url: file:///etc/passwd", "a URL is expected that begins with https://"),
    ("\"0 4 * * *\"", "\"daily\"", "a cron expression of five fields is expected"),
    ("  name: refused\n", "  name: a-name-that-is-longer-than-forty-characters\n", "at most 40 characters"),
];

#[test]
fn k01_every_wrong_form_is_refused_with_a_message_that_says_what_is_wrong() -> Result<()> {
    let stage = Stage::new("k01")?;
    let (good, said) = stage.namespace.cluster.kubectl_with(&DRY, GOOD)?;
    ensure!(good, "the good one was refused: {said}");
    for (out, into, message) in WRONG {
        let wrong = GOOD.replacen(out, into, 1);
        ensure!(wrong != GOOD, "`{out}` is not in it");
        let (good, said) = stage.namespace.cluster.kubectl_with(&DRY, &wrong)?;
        ensure!(!good && said.contains(message), "`{into}` for `{out}`: expected `{message}`, got {good}: {said}");
    }
    Ok(())
}

/// As anybody might write one: it may become root, and has every capability that containers have.
const CARELESS: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: careless}
spec: {containers: [{name: careless, image: docker.io/library/busybox:1.35}]}
";

#[test]
fn k12_where_the_operator_and_its_jobs_run_no_pod_is_let_in_that_is_not_restricted() -> Result<()> {
    let stage = Stage::new("k12")?;
    for namespace in ["windlass-system", &stage.namespace.name] {
        let apply = ["apply", "--namespace", namespace, "--dry-run=server", "--filename", "-"];
        let (good, said) = stage.namespace.cluster.kubectl_with(&apply, CARELESS)?;
        ensure!(!good && said.contains("violates PodSecurity \"restricted"), "{namespace}: {good}: {said}");
    }
    Ok(())
}
