//! Someone else's WAL-G repository: listed, verified, restored to any moment, never written.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use windlass_testkit::postgres::PgCluster;
use windlass_testkit::process::run;
use windlass_testkit::tree;

const FULL: &str = "base_000000010000000000000002";
const SECOND: &str = "base_000000010000000000000004_D_000000010000000000000002";
const THIRD: &str = "base_000000010000000000000006_D_000000010000000000000004";

/// What `wal-g` left, the binary, and settings, where anybody may read them: the server's user runs it.
struct Stage {
    folder: TempDir,
}

/// How a run ended.
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Ended {
    fn with(self, code: i32) -> Result<Self> {
        ensure!(self.code == code, "ended with {}:\n{}\n{}", self.code, self.out, self.err);
        Ok(self)
    }

    fn json(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.out)?)
    }
}

impl Stage {
    fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("wl-walg-").tempdir_in("/tmp")?;
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))?;
        let stage = Self { folder };
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../windlass-repo/tests/fixtures/walg");
        run(Command::new("cp").arg("-r").arg(fixtures).arg(stage.path("theirs")))?;
        run(Command::new("chmod").args(["-R", "a+rX"]).arg(stage.path("theirs")))?;
        std::fs::copy(env!("CARGO_BIN_EXE_windlass"), stage.path("windlass"))?;
        let settings = format!(
            "state = \"{}\"\n[repository.theirs]\nurl = \"file://{}\"\nformat = \"wal-g\"\nencryption = \"none\"\n",
            stage.path("state").display(),
            stage.path("theirs").display()
        );
        std::fs::write(stage.path("windlass.toml"), settings)?;
        Ok(stage)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn windlass(&self, arguments: &[&str]) -> Result<Ended> {
        let mut command = Command::new(self.path("windlass"));
        let output = command.arg("--config").arg(self.path("windlass.toml")).args(arguments).output()?;
        Ok(Ended {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout)?,
            err: String::from_utf8(output.stderr)?,
        })
    }

    fn restore(&self, data: &Path, more: &[&str]) -> Result<Ended> {
        let (data, tablespace) = (into("data", data), into("16384", &data.with_file_name("ts")));
        self.windlass(
            &[&["--output", "json", "restore", "theirs", "--into", &data, "--into", &tablespace], more].concat(),
        )
    }

    /// A server on what was restored, out of recovery.
    fn started(&self, more: &[&str]) -> Result<PgCluster> {
        let lay_down = |data: &Path| self.restore(data, &[&["--yes"], more].concat())?.with(0).map(drop);
        let cluster = PgCluster::start_from(lay_down, &["max_connections=100", "port=5432"])?;
        cluster.recovered()
    }
}

fn into(part: &str, folder: &Path) -> String {
    format!("{part}={}", folder.display())
}

const COUNTED: &str = "select count(*), sum(hashtext(t)) from a; select count(*) from b; select count(*) from c";

#[test]
fn it_is_listed_verified_restored_to_its_end_and_never_written() -> Result<()> {
    let stage = Stage::new()?;
    let before = tree::describe(&stage.path("theirs"))?;
    let listed = stage.windlass(&["--output", "json", "points", "theirs"])?.with(0)?.json()?;
    let names: Vec<&str> = listed.as_array().unwrap().iter().map(|row| row["backup"].as_str().unwrap()).collect();
    assert_eq!(names, [FULL, SECOND, THIRD]);
    assert_eq!((&listed[2]["stands_on"], &listed[2]["restorable_to"]), (&SECOND.into(), &"0/8000000".into()));
    let verified = stage.windlass(&["--output", "json", "verify", "theirs", "--all"])?.with(0)?.json()?;
    assert_eq!(verified.as_array().unwrap().len(), 3);

    let target = stage.path("planned/data");
    let plan = stage.restore(&target, &["--plan"])?.with(0)?.json()?;
    assert_eq!(plan["plan"]["chain"], serde_json::json!([FULL, SECOND, THIRD]));
    ensure!(!target.exists(), "a plan writes nothing");
    stage.restore(&target, &["--confirm", "other"])?.with(2)?;
    stage.restore(&target, &[])?.with(2)?;
    let said = stage.windlass(&["restore", "theirs", "--into", &into("data", &target), "--yes"])?.with(2)?.err;
    ensure!(said.contains("tablespace 16384") && said.contains("--into 16384="), "{said}");

    let there = into("17", &stage.path("planned/other"));
    let said = stage.restore(&target, &["--into", &there, "--yes"])?.with(2)?.err;
    ensure!(said.contains("no tablespace 17"), "{said}");
    stage.restore(&target, &["--plan", "--point", FULL, "--at", "2001-01-01T00:00:00Z"])?.with(2)?;

    let cluster = stage.started(&[])?;
    let expected = std::fs::read_to_string(stage.path("theirs/expect.txt"))?;
    let counted = cluster.psql("postgres", COUNTED);
    ensure!(expected.starts_with(&counted), "{counted} instead of {expected}");
    assert_eq!(cluster.psql("postgres", "show archive_mode"), "off", "it pushes into nobody's archive");
    for name in [FULL, SECOND] {
        let cluster = stage.started(&["--point", name])?;
        ensure!(expected.starts_with(&cluster.psql("postgres", COUNTED)), "{name}");
    }
    tree::assert_same(&tree::describe(&stage.path("theirs"))?, &before);
    Ok(())
}

#[test]
fn a_moment_is_restored_to_exactly_and_one_that_is_not_there_is_refused() -> Result<()> {
    let stage = Stage::new()?;
    let listed = stage.windlass(&["--output", "json", "points", "theirs"])?.with(0)?.json()?;
    let at = listed[1]["at"].as_str().context("when it ended")?;
    // The second had ended; what came after it is not to be there.
    let cluster = stage.started(&["--at", at])?;
    let late = format!("select coalesce(pg_last_xact_replay_timestamp() > '{at}', false)");
    assert_eq!(cluster.psql("postgres", &late), "f");
    assert_eq!(cluster.psql("postgres", "select to_regclass('c') is null"), "t", "a table was made later");

    let target = stage.path("late/data");
    let said = stage.restore(&target, &["--yes", "--at", "2100-01-01T00:00:00Z"])?.with(2)?.err;
    ensure!(said.contains("does not reach 2100"), "{said}");
    stage.restore(&target, &["--yes", "--at", "2001-01-01T00:00:00Z"])?.with(2)?;
    ensure!(!target.exists(), "nothing is written");
    Ok(())
}

#[test]
fn damage_and_gaps_are_found_before_anything_is_written() -> Result<()> {
    let stage = Stage::new()?;
    let part = stage.path(&format!("theirs/basebackups_005/{FULL}/tar_partitions/part_001.tar.lz4"));
    let whole = std::fs::read(&part)?;
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&part, bytes)?;
    stage.windlass(&["verify", "theirs", "--all"])?.with(1)?;
    let target = stage.path("damaged/data");
    stage.restore(&target, &["--yes"])?.with(1)?;
    ensure!(!target.exists(), "nothing is written");
    // An archive that is not there is missed by the files that should be in it.
    std::fs::rename(&part, part.with_file_name("part_002.tar.lz4"))?;
    let listed = stage.windlass(&["--output", "json", "points", "theirs"])?.with(0)?.json()?;
    ensure!(listed[2]["trouble"].as_str().is_some_and(|said| said.contains("part_001")), "{listed}");
    stage.windlass(&["verify", "theirs"])?.with(1)?;
    std::fs::remove_file(part.with_file_name("part_002.tar.lz4"))?;
    std::fs::write(&part, whole)?;

    std::fs::remove_file(stage.path("theirs/wal_005/000000010000000000000005.lz4"))?;
    let listed = stage.windlass(&["--output", "json", "points", "theirs"])?.with(0)?.json()?;
    ensure!(listed[0]["trouble"].as_str().is_some_and(|said| said.contains("000000010000000000000005")), "{listed}");
    assert_eq!(listed[2]["trouble"], Value::Null, "the newest begins behind it");
    let said = stage.restore(&target, &["--yes", "--point", FULL])?.with(2)?.err;
    ensure!(said.contains("gap"), "{said}");
    // Recovery must not end at the gap as if nothing came behind it.
    let fetch = |name: &str, to: &str| stage.windlass(&["wal-fetch", "--component", "theirs", name, to]);
    let to = stage.path("fetched").display().to_string();
    let said = fetch("000000010000000000000005", &to)?.with(126)?.err;
    ensure!(said.contains("gap"), "{said}");
    fetch("000000010000000000000008", &to)?.with(1)?;
    fetch("00000002.history", &to)?.with(1)?;
    ensure!(!stage.path("fetched").exists(), "nothing is left");
    fetch("000000010000000000000004", &to)?.with(0)?;
    assert_eq!(std::fs::metadata(stage.path("fetched"))?.len(), 16 << 20);
    for wrong in [
        vec!["wal-fetch", "--component", "theirs"],
        vec!["wal-fetch", "--component", "nobodys", "000000010000000000000004", &to],
        vec!["wal-fetch", "--component", "theirs", "--nonsense", "000000010000000000000004", &to],
        vec!["wal-fetch", "--component", "theirs", "000000010000000000000004", "/nowhere/at/all"],
    ] {
        stage.windlass(&wrong)?.with(126)?;
    }
    let cut = stage.path("theirs/wal_005/000000010000000000000004.lz4");
    std::fs::write(&cut, &std::fs::read(&cut)?[..1000])?;
    fetch("000000010000000000000004", &to)?.with(126)?;
    // A segment of another cluster, and an archive that is not there at all.
    let other = ["wal-fetch", "--component", "theirs", "--cluster", "1", "000000010000000000000006", &to];
    stage.windlass(&other)?.with(126)?;
    std::fs::rename(stage.path("theirs/wal_005"), stage.path("wal"))?;
    fetch("000000010000000000000008", &to)?.with(126)?;
    std::fs::rename(stage.path("theirs"), stage.path("away"))?;
    fetch("000000010000000000000004", &to)?.with(126)?;
    Ok(())
}
