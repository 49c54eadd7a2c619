//! Docker Compose. There is no Docker engine where these tests run: a script stands in for `docker`, which prints what
//! `docker compose config` prints for the example, and runs `exec` on this machine.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(dead_code, clippy::panic, reason = "each file of stories uses what it needs of the stage")]

mod story;

use std::process::{Command, Stdio};

use anyhow::Result;
use story::{Stage, script};

/// What Compose prints, with the paths of this machine.
const CONFIG: &str = r#"{"name":"shop","services":{
    "db":{"image":"docker.io/library/postgres:17","environment":{"POSTGRES_DB":"shop","POSTGRES_USER":"postgres"},
        "volumes":[{"type":"volume","source":"db","target":"/var/lib/postgresql/data"}]},
    "exporter":{"image":"quay.io/prometheuscommunity/postgres-exporter","environment":null,"volumes":null},
    "shop":{"image":"shop:1","volumes":[{"type":"bind","source":"HERE/media","target":"/media"},
        {"type":"bind","source":"HERE/docker.sock","target":"/var/run/docker.sock"}]}}}"#;

#[test]
fn init_finds_what_a_compose_file_runs_and_a_backup_goes_into_its_container() -> Result<()> {
    let stage = Stage::new()?;
    stage.server.psql("postgres", "create database shop");
    stage.server.psql("shop", "create table t as select n from generate_series(1, 100) n");
    let (here, bin) = (stage.path("shop"), stage.path("bin"));
    std::fs::create_dir_all(here.join("media"))?;
    std::fs::create_dir(&bin)?;
    std::fs::write(here.join("media/picture"), "content")?;
    std::fs::write(here.join("docker.sock"), "")?;
    std::fs::write(here.join("compose.yaml"), "services: {}")?;
    std::fs::write(stage.path("config"), CONFIG.replace("HERE", &here.display().to_string()))?;
    let socket = stage.server.socket();
    let docker = format!(
        "case \"$4\" in config) cat {} ;;
         exec) test \"$5 $6\" = '-T db' || exit 9; shift 6
             export PGHOST={} PATH=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1):$PATH; exec \"$@\" ;; esac",
        stage.path("config").display(),
        socket.display()
    );
    script(&bin.join("docker"), &docker)?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
    let windlass = |arguments: &[&str]| -> Result<String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
        command.args(arguments).current_dir(&here).env("PATH", &path).env("PGHOST", "/nonexistent");
        let ended = command.stdin(Stdio::null()).output()?;
        let (out, err) = (String::from_utf8(ended.stdout)?, String::from_utf8(ended.stderr)?);
        assert!(ended.status.success(), "{arguments:?}: {out}{err}");
        Ok(out)
    };
    windlass(&["init"])?;
    let settings = std::fs::read_to_string(here.join("windlass.toml"))?;
    for line in ["url       = \"postgresql://postgres@/shop\"", "\"exec\", \"-T\", \"db\"", "/media\"]"] {
        assert!(settings.contains(line), "`{line}` is not in\n{settings}");
    }
    assert!(!settings.contains("exporter") && !settings.contains("docker.sock"), "{settings}");
    let state = format!("state = \"{}\"\n{settings}", stage.path("state").display());
    std::fs::write(here.join("windlass.toml"), state)?;
    windlass(&["repo", "init"])?;
    let taken: serde_json::Value = serde_json::from_str(&windlass(&["--output", "json", "backup", "shop"])?)?;
    assert_eq!(taken["components"].as_array().unwrap().len(), 2, "{taken}");
    // A restore beside it goes the same way.
    windlass(&["restore", "shop", "--into", "db=postgresql://postgres@/copy", "--yes"])?;
    assert_eq!(stage.server.psql("copy", "select count(*) from t"), "100");
    Ok(())
}
