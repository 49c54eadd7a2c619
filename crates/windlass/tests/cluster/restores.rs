//! Restores: planned, confirmed, carried out, put back.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::stage::{LATER, SOON, Stage, kryton};

impl Stage {
    /// A path of a Kryton's server, as JSON.
    fn ask(&self, kryton: &str, path: &str) -> Result<Value> {
        let url = format!("/api/v1/namespaces/{}/services/{kryton}:3001/proxy{path}", self.namespace.name);
        Ok(serde_json::from_str(&self.namespace.kubectl(&["get", "--raw", &url])?)?)
    }

    /// Has a Kryton's server keep a note.
    pub(crate) fn write(&self, kryton: &str, title: &str) -> Result<()> {
        let url = format!("/api/v1/namespaces/{}/services/{kryton}:3001/proxy/api/notes", self.namespace.name);
        let note = json!({ "title": title, "body": format!("{title}: so it was") }).to_string();
        let said = self.namespace.cluster.kubectl_with(&["create", "--raw", &url, "--filename", "-"], &note)?;
        ensure!(said.0, "{}", said.1);
        Ok(())
    }

    /// The titles of all notes.
    pub(crate) fn titles(&self, kryton: &str) -> Result<Vec<String>> {
        let all = self.ask(kryton, "/api/notes")?;
        let all = all.as_array().context("a list")?;
        Ok(all.iter().filter_map(|note| note["title"].as_str()).map(str::to_owned).collect())
    }

    /// Runs a statement as the superuser of the chart's PostgreSQL.
    pub(crate) fn psql(&self, kryton: &str, sql: &str) -> Result<String> {
        let pod = format!("{kryton}-postgresql-0");
        let psql = ["psql", "--no-psqlrc", "--tuples-only", "--no-align", "--username=postgres", "--dbname=kryton"];
        let command = [&["exec", &pod, "--"], &psql[..], &["--command", sql]].concat();
        Ok(self.namespace.kubectl(&command)?.trim().to_owned())
    }

    /// Takes a recovery point.
    pub(crate) fn backed_up(&self, kryton: &str, minute: u64) -> Result<()> {
        let before = self.status(kryton)?["backup"]["points"].as_i64().unwrap_or(0);
        let job = self.run_now(&format!("{kryton}-backup"), minute)?;
        ensure!(self.ended(&job)?, "{}", self.namespace.of_job(&job));
        self.namespace
            .wait("the point", SOON, || Ok(self.status(kryton)?["backup"]["points"].as_i64().unwrap_or(0) > before))
    }

    /// Waits for a restore's phase; one that is none of those that lead there ends the wait.
    pub(crate) fn phase(&self, restore: &str, wanted: &str) -> Result<Value> {
        let mut status = Value::Null;
        self.namespace.wait(&format!("phase {wanted} of {restore}"), LATER, || {
            status = self.namespace.get("restore", restore)?.context("the Restore")?["status"].clone();
            let phase = status["phase"].as_str().unwrap_or_default();
            let is_over = ["Refused", "Failed"].contains(&phase) && phase != wanted;
            ensure!(!is_over, "{}", serde_json::to_string_pretty(&status)?);
            Ok(phase == wanted)
        })?;
        Ok(status)
    }

    /// Confirms a restore that has been asked for, once it is planned.
    pub(crate) fn confirm(&self, restore: &str) -> Result<()> {
        let planned = self.phase(restore, "Planned")?;
        self.set(restore, "confirm", planned["digest"].as_str().context("the digest")?)
    }

    pub(crate) fn set(&self, restore: &str, field: &str, value: &str) -> Result<()> {
        let patch = json!({ "spec": { field: value } }).to_string();
        self.namespace.kubectl(&["patch", "restore", restore, "--type=merge", "--patch", &patch]).map(drop)
    }
}

pub(crate) fn restore(name: &str, more: &str) -> String {
    format!(
        "apiVersion: windlass.dev/v1alpha1\nkind: Restore\nmetadata:\n  name: {name}\nspec:\n  from:\n    kryton: shelf\n{more}"
    )
}

#[test]
fn k70_a_restore_is_planned_then_confirmed_then_done_and_can_be_put_back() -> Result<()> {
    let stage = Stage::new("k70")?;
    let snapshot = "  snapshot:\n    schedule: \"0 4 * * *\"\n";
    stage.namespace.apply(&kryton("shelf", "k70/shelf", snapshot))?;
    stage.condition("shelf", "Ready", "True", LATER)?;
    stage.condition("shelf", "DatabaseReachable", "True", LATER)?;
    stage.write("shelf", "monday")?;
    stage.backed_up("shelf", 29_395_860)?;
    let job = stage.run_now("shelf-snapshot", 29_395_860)?;
    ensure!(stage.ended(&job)?, "the snapshot");
    stage.write("shelf", "tuesday")?;
    stage.write("shelf", "wednesday")?;
    stage.psql("shelf", "delete from notes where title = 'monday'")?;
    assert_eq!(stage.titles("shelf")?, ["tuesday", "wednesday"]);

    let notes = "  notes:\n    volumeSnapshot: shelf-20251121t190000z\n";
    stage.namespace.apply(&restore("back", notes))?;
    let planned = stage.phase("back", "Planned")?;
    let digest = planned["digest"].as_str().context("the digest")?.to_owned();
    let steps: Vec<&str> =
        planned["plan"]["steps"].as_array().context("steps")?.iter().filter_map(|step| step["step"].as_str()).collect();
    assert_eq!(steps, ["stop", "replace-database", "replace-volume", "start"], "{planned:#}");
    let table = planned["impact"]["databases"][0]["tables"].to_string();
    for rows in ["\"rows_now\":2", "\"rows_then\":1"] {
        assert!(table.contains(rows), "{table}");
    }
    stage.set("back", "confirm", &"0".repeat(64))?;
    stage.namespace.wait("the digest to be refused", SOON, || {
        let found = stage.namespace.condition("restore", "back", "Confirmed")?;
        Ok(found.is_some_and(|(_, reason, _)| reason == "OtherDigest"))
    })?;
    assert_eq!(stage.titles("shelf")?, ["tuesday", "wednesday"], "nothing was touched");

    stage.set("back", "confirm", &digest)?;
    let restored = stage.phase("back", "Restored")?;
    assert_eq!(stage.titles("shelf")?, ["monday"]);
    assert_eq!(stage.ask("shelf", "/api/notes/1")?["body"], "monday: so it was");
    let checked = restored["checked"].to_string();
    for held in
        ["rows as counted", "1 files it mentions are in the notes", "1.md is there and reads", "/api/version answers"]
    {
        assert!(checked.contains(held), "{held}: {checked}");
    }
    assert_eq!(stage.psql("shelf", "select count(*) from pg_database where datname like 'windlass%old'")?, "1");
    stage.condition("shelf", "Ready", "True", LATER)?;

    stage.set("back", "old", "PutBack")?;
    stage.phase("back", "PutBack")?;
    assert_eq!(stage.titles("shelf")?, ["tuesday", "wednesday"]);
    assert_eq!(stage.ask("shelf", "/api/notes/2")?["body"], "tuesday: so it was");
    stage.condition("shelf", "Ready", "True", LATER)?;
    // Somebody may have worked with what was restored: it goes when that is said.
    let private = || stage.psql("shelf", "select count(*) from pg_database where datname like 'windlass%undone'");
    assert_eq!(private()?, "1");
    stage.set("back", "old", "Remove")?;
    stage.namespace.wait("what had been restored to go", LATER, || Ok(private()? == "0"))?;
    stage.phase("back", "PutBack")?;
    let claims = stage.namespace.kubectl(&["get", "pvc", "--output=name"])?;
    assert!(claims.contains("shelf-data") && !claims.contains("shelf-data-"), "{claims}");
    Ok(())
}

#[test]
fn k71_what_fails_a_check_is_put_back_and_a_missing_file_is_told_and_is_no_failure() -> Result<()> {
    let stage = Stage::new("k71")?;
    stage.namespace.apply(&kryton("shelf", "k71/shelf", ""))?;
    stage.condition("shelf", "Ready", "True", LATER)?;
    stage.condition("shelf", "DatabaseReachable", "True", LATER)?;
    stage.write("shelf", "monday")?;
    stage.psql("shelf", "insert into notes (title, path) values ('lost', 'never-written.md')")?;
    stage.backed_up("shelf", 29_395_860)?;
    stage.write("shelf", "tuesday")?;

    let checks = "  checks:\n    sql: [\"select count(*) > 1000 from notes\"]\n";
    stage.namespace.apply(&restore("strict", checks))?;
    stage.confirm("strict")?;
    let failed = stage.phase("strict", "Failed")?;
    let failure = failed["failure"].to_string();
    assert!(failure.contains("count(*) > 1000"), "{failure}");
    assert_eq!(stage.titles("shelf")?, ["monday", "lost", "tuesday"]);
    assert_eq!(stage.psql("shelf", "select count(*) from pg_database where datname like 'windlass%'")?, "0");

    stage.namespace.apply(&restore("lenient", ""))?;
    stage.confirm("lenient")?;
    let restored = stage.phase("lenient", "Restored")?;
    assert_eq!(stage.titles("shelf")?, ["monday", "lost"]);
    let notes = restored["notes"].to_string();
    assert!(notes.contains("1 of 2 files") && notes.contains("never-written.md"), "{notes}");
    stage.set("lenient", "old", "Remove")?;
    stage.phase("lenient", "Final")?;
    assert_eq!(stage.psql("shelf", "select count(*) from pg_database where datname like 'windlass%'")?, "0");
    Ok(())
}

#[test]
fn k72_a_drill_proves_the_newest_point_and_leaves_nothing_behind() -> Result<()> {
    let stage = Stage::new("k72")?;
    let snapshot = "  snapshot:\n    schedule: \"0 4 * * *\"\n";
    stage.namespace.apply(&kryton("shelf", "k72/shelf", snapshot))?;
    stage.condition("shelf", "Ready", "True", LATER)?;
    stage.condition("shelf", "DatabaseReachable", "True", LATER)?;
    stage.write("shelf", "monday")?;
    stage.backed_up("shelf", now_minute())?;
    let job = stage.run_now("shelf-snapshot", 29_395_860)?;
    ensure!(stage.ended(&job)?, "the snapshot");
    let (_, why) = stage.condition("shelf", "Protected", "False", SOON)?;
    assert!(why.contains("not restored and checked"), "{why}");

    let spec = "spec:\n  from:\n    kryton: shelf\n  notes:\n    volumeSnapshot: shelf-20251121t190000z\n  checks:\n    http: [/api/version, /api/notes/1]\n";
    stage
        .namespace
        .apply(&format!("apiVersion: windlass.dev/v1alpha1\nkind: Drill\nmetadata:\n  name: friday\n{spec}"))?;
    let mut status = Value::Null;
    let waited = stage.namespace.wait("the end of the drill", LATER, || {
        status = stage.namespace.get("drill", "friday")?.context("the Drill")?["status"].clone();
        Ok(status["phase"] == "Complete")
    });
    waited.with_context(|| format!("{status:#}"))?;
    assert_eq!(status["verdict"], "Passed", "{status:#}");
    let checked = status["checked"].to_string();
    for held in ["rows as counted", "1.md is there and reads", "/api/notes/1 answers"] {
        assert!(checked.contains(held), "{held}: {checked}");
    }
    ensure!(status["rto"].is_string() && status["rpo"].is_string(), "{status:#}");
    stage.condition("shelf", "Protected", "True", SOON)?;
    assert_eq!(stage.status("shelf")?["backup"]["lastVerifiedLevel"], "restored");
    assert_eq!(stage.titles("shelf")?, ["monday"], "production was not touched");
    let all = "krytons,restores,deployments,statefulsets,services,pvc,secrets,configmaps,networkpolicies";
    stage.namespace.wait("nothing of the copy to be left", SOON, || {
        Ok(!stage.namespace.kubectl(&["get", all, "--output=name"])?.contains("friday"))
    })
}

#[test]
fn k73_the_command_line_plans_confirms_restores_and_puts_back() -> Result<()> {
    let stage = Stage::new("k73")?;
    stage.namespace.apply(&kryton("shelf", "k73/shelf", ""))?;
    stage.condition("shelf", "Ready", "True", LATER)?;
    stage.condition("shelf", "DatabaseReachable", "True", LATER)?;
    stage.write("shelf", "monday")?;
    stage.backed_up("shelf", 29_395_860)?;
    stage.write("shelf", "tuesday")?;
    let windlass = |verb: &str, more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_windlass"));
        command.env("KUBECONFIG", stage.namespace.cluster.kubeconfig()?).args(["--output", "json", verb]);
        let output = command.args(more).args(["--namespace", &stage.namespace.name]).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let told: Value = serde_json::from_slice(&output.stdout).with_context(|| said.clone())?;
        anyhow::Ok((output.status.code(), told, said))
    };
    let (code, told, said) = windlass("restore", &["kryton/shelf", "--in-place", "--plan"])?;
    assert_eq!(code, Some(0), "{said}");
    let digest = told["status"]["digest"].as_str().context("the digest")?.to_owned();
    let restores = || stage.namespace.kubectl(&["get", "restores", "--output=name"]);
    stage.namespace.wait("the plan to be dropped", SOON, || Ok(restores()?.trim().is_empty()))?;
    let (code, _, said) = windlass("restore", &["kryton/shelf", "--in-place"])?;
    assert_eq!(code, Some(2), "nobody confirmed: {said}");
    let (code, _, said) = windlass("restore", &["kryton/shelf", "--in-place", "--confirm", &"0".repeat(64)])?;
    assert_eq!(code, Some(2), "another plan was confirmed: {said}");
    assert_eq!(stage.titles("shelf")?, ["monday", "tuesday"], "nothing was touched");

    let (code, told, said) = windlass("restore", &["kryton/shelf", "--in-place", "--confirm", &digest])?;
    assert_eq!((code, &told["done"]), (Some(0), &Value::Bool(true)), "{said}");
    assert_eq!(stage.titles("shelf")?, ["monday"]);
    let id = told["status"]["id"].as_str().context("the identifier")?.to_owned();
    let (code, told, said) = windlass("undo", &[&id, "--yes"])?;
    assert_eq!((code, &told["done"]), (Some(0), &Value::Bool(true)), "{said}");
    assert_eq!(stage.titles("shelf")?, ["monday", "tuesday"]);
    let (code, told, _) = windlass("drill", &["kryton/nobody"])?;
    assert_eq!((code, &told["status"]["verdict"]), (Some(1), &json!("Inconclusive")), "{told:#}");
    Ok(())
}

#[test]
fn k74_an_operator_that_is_killed_again_and_again_finishes_what_was_confirmed() -> Result<()> {
    let stage = Stage::alone("k74")?;
    stage.namespace.apply(&kryton("shelf", "k74/shelf", ""))?;
    stage.condition("shelf", "Ready", "True", LATER)?;
    stage.condition("shelf", "DatabaseReachable", "True", LATER)?;
    stage.write("shelf", "monday")?;
    stage.backed_up("shelf", 29_395_860)?;
    stage.write("shelf", "tuesday")?;
    stage.namespace.apply(&restore("stubborn", ""))?;
    stage.confirm("stubborn")?;
    let mut seen = std::collections::BTreeSet::new();
    for wanted in ["LayDown", "Start"] {
        stage.namespace.wait(&format!("the step {wanted}"), LATER, || {
            let status = stage.namespace.get("restore", "stubborn")?.context("the Restore")?["status"].clone();
            seen.extend(status["step"].as_str().map(str::to_owned));
            Ok(status["step"] == wanted || status["phase"] == "Restored")
        })?;
        let kill = ["--namespace=windlass-system", "delete", "pods", "--all", "--grace-period=0", "--force"];
        stage.namespace.cluster.kubectl(&kill)?;
    }
    ensure!(seen.contains("LayDown"), "{seen:?}");
    stage.phase("stubborn", "Restored")?;
    assert_eq!(stage.titles("shelf")?, ["monday"]);
    stage.namespace.kubectl(&["delete", "restore", "stubborn", "--timeout=60s"])?;
    Ok(())
}

#[test]
fn k75_what_is_broken_off_stays_put_back_and_a_plan_that_has_aged_touches_nothing() -> Result<()> {
    let stage = Stage::new("k75")?;
    stage.namespace.apply(&kryton("shelf", "k75/shelf", ""))?;
    stage.condition("shelf", "Ready", "True", LATER)?;
    stage.condition("shelf", "DatabaseReachable", "True", LATER)?;
    stage.write("shelf", "monday")?;
    // So much that it takes a while.
    stage.psql(
        "shelf",
        "create table much as select n, md5(n::text) as text from generate_series(1, 300000) n; alter table much owner to kryton",
    )?;
    stage.backed_up("shelf", 29_395_860)?;
    stage.write("shelf", "tuesday")?;
    for name in ["hasty", "first", "second"] {
        stage.namespace.apply(&restore(name, ""))?;
    }
    let digest = |name: &str| {
        let planned = stage.phase(name, "Planned")?;
        Ok::<_, anyhow::Error>(planned["digest"].as_str().context("the digest")?.to_owned())
    };
    let (hasty, first, second) = (digest("hasty")?, digest("first")?, digest("second")?);

    stage.set("hasty", "confirm", &hasty)?;
    stage.namespace.wait("the step LayDown", LATER, || {
        Ok(stage.namespace.get("restore", "hasty")?.context("the Restore")?["status"]["step"] == "LayDown")
    })?;
    stage.set("hasty", "old", "PutBack")?;
    stage.phase("hasty", "PutBack")?;
    assert_eq!(stage.titles("shelf")?, ["monday", "tuesday"]);
    // An attempt that is made again would come within this time, and take the database away.
    std::thread::sleep(std::time::Duration::from_secs(20));
    assert_eq!(stage.titles("shelf")?, ["monday", "tuesday"]);
    assert_eq!(stage.psql("shelf", "select count(*) from pg_database where datname like 'windlass%'")?, "0");

    stage.set("first", "confirm", &first)?;
    stage.phase("first", "Restored")?;
    let pod =
        || stage.namespace.kubectl(&["get", "pods", "--selector=app.kubernetes.io/component=server", "--output=name"]);
    let before = pod()?;
    stage.set("second", "confirm", &second)?;
    let failed = stage.phase("second", "Failed")?;
    assert!(failed["failure"].to_string().contains("has changed since"), "{failed:#}");
    assert_eq!((pod()?, stage.titles("shelf")?), (before, vec!["monday".to_owned()]), "it was not even stopped");
    stage.namespace.kubectl(&["delete", "restore", "--all", "--timeout=60s"])?;
    Ok(())
}

/// The minute of now, by which a Job's name says what moment its point stands for.
fn now_minute() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_secs() / 60
}
