//! What the stories of restores in place begin with, and look at.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::Value;
use windlass_testkit::tree;

use crate::story::{Stage, script};

/// The restore that is run, and run again.
pub(crate) const RESTORE: [&str; 4] = ["restore", "shop", "--in-place", "--yes"];

/// An application with a rich database, a hard folder, and commands that stop and start it: it is up while `up` is there.
pub(crate) fn running_stage() -> Result<Stage> {
    let stage = Stage::new()?;
    stage.server.make_rich("shop")?;
    let up = stage.path("up");
    std::fs::write(&up, "")?;
    script(&stage.path("stop"), &format!("rm {}", up.display()))?;
    script(&stage.path("start"), &format!("touch {}", up.display()))?;
    let root = stage.path("");
    let root = root.display().to_string();
    let root = root.trim_end_matches('/');
    let stage = stage.application(&format!(
        "control = {{ stop = [\"{root}/stop\"], start = [\"{root}/start\"] }}\nundo = \"72h\"\n\
         checks = [ {{ component = \"db\", sql = \"select count(*) = 3000 from orders\" }} ]"
    ))?;
    let stage = stage.database("shop")?.uploads()?;
    tree::make_hard(&stage.path("uploads"))?;
    Ok(stage)
}

/// What happens to an application in a day.
pub(crate) fn live_on(stage: &Stage) -> Result<()> {
    stage.server.psql(
        "shop",
        "set row_security = off; delete from orders where id % 7 = 0; create table made_since (n int); insert into made_since values (1), (2)",
    );
    let uploads = stage.path("uploads");
    std::fs::write(uploads.join("plain"), "changed since, in place\n")?;
    std::fs::write(uploads.join("made since"), "new")?;
    std::fs::create_dir_all(uploads.join("folder made since/deep"))?;
    std::fs::write(uploads.join("folder made since/deep/file"), "new, too")?;
    std::fs::remove_dir_all(uploads.join("a/b/c"))?;
    std::fs::remove_file(uploads.join("link"))?;
    Ok(())
}

pub(crate) struct Described {
    pub(crate) database: String,
    pub(crate) files: String,
}

impl Described {
    pub(crate) fn now(stage: &Stage) -> Result<Self> {
        let files = tree::describe(&stage.path("uploads"))?;
        Ok(Self { database: stage.server.describe("shop")?, files: without_stages(&files) })
    }

    pub(crate) fn assert_is(&self, expected: &Self) {
        tree::assert_same(&self.database, &expected.database);
        tree::assert_same(&self.files, &expected.files);
    }
}

/// Without what restores keep beside what is there.
pub(crate) fn without_stages(description: &str) -> String {
    let mut lines: Vec<&str> = description.lines().filter(|line| !line.starts_with("\".windlass-")).collect();
    lines.push("");
    lines.join("\n")
}

pub(crate) fn restored(stage: &Stage, more: &[&str]) -> Result<Value> {
    let mut arguments = vec!["--output", "json", "restore", "shop", "--in-place", "--yes"];
    arguments.extend(more);
    Ok(stage.windlass(&arguments)?.with(0).json())
}

/// The databases of a restore, which are nobody else's.
pub(crate) fn private(stage: &Stage) -> String {
    let ours = "select coalesce(string_agg(datname, ' ' order by datname), '') from pg_database \
                where datname like 'windlass\\_%'";
    stage.server.psql("postgres", ours)
}

/// Runs a command that dies at a moment.
pub(crate) fn killed(stage: &Stage, moment: &str, arguments: &[&str]) -> Result<()> {
    let output = stage.command(arguments).env("WINDLASS_DIE_AT", moment).output()?;
    assert_eq!(output.status.signal(), Some(9), "{moment}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The newest restore of this machine, and how far it is.
pub(crate) fn newest(stage: &Stage) -> Result<(String, String)> {
    let all = stage.windlass(&["--output", "json", "undo"])?.with(0).json();
    let last = all.as_array().unwrap().last().unwrap().clone();
    Ok((last["restore"].as_str().unwrap().to_owned(), last["state"].as_str().unwrap().to_owned()))
}

/// The folders that restores keep in `uploads`.
pub(crate) fn stages(stage: &Stage) -> Result<Vec<PathBuf>> {
    let entries = stage.path("uploads").read_dir()?.flatten().map(|entry| entry.path());
    Ok(entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(".windlass-")).collect())
}
