//! Folders and files that are replaced where they live.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;
use windlass_testkit::tree;

use crate::stage::{restored, without_stages};
use crate::story::{Stage, wait_until, with_mounts_of_its_own};

#[test]
fn who_holds_a_folder_open_goes_on_seeing_what_is_in_it() -> Result<()> {
    let stage = Stage::new()?.uploads()?;
    let uploads = stage.path("uploads");
    std::fs::create_dir_all(uploads.join("a/b"))?;
    std::fs::write(uploads.join("a/b/file"), "then")?;
    stage.begin()?;
    std::fs::write(uploads.join("a/b/file"), "since")?;
    // As a container does: the folder, and one below it, mounted elsewhere, and a shell whose folder it is.
    for name in ["whole", "part"] {
        std::fs::create_dir(stage.path(name))?;
    }
    let root = stage.path("");
    let script = format!(
        "set -e; cd {root}; mount --bind uploads whole; mount --bind uploads/a part; cd uploads/a/b; touch {root}/ready
         while [ ! -e {root}/restored ]; do sleep 0.05; done
         cat {root}/whole/a/b/file {root}/part/b/file ./file > {root}/seen",
        root = root.display()
    );
    let mut holder = with_mounts_of_its_own().arg("sh").arg("-c").arg(script).spawn()?;
    wait_until("the folder is held", || stage.path("ready").exists());
    restored(&stage, &[])?;
    std::fs::write(stage.path("restored"), "")?;
    assert!(holder.wait()?.success());
    assert_eq!(std::fs::read_to_string(stage.path("seen"))?, "thenthenthen");
    Ok(())
}

#[test]
fn a_mount_point_below_a_folder_stays_and_what_is_in_it_is_replaced() -> Result<()> {
    let stage = Stage::new()?.uploads()?;
    let (uploads, disk) = (stage.path("uploads"), stage.path("another disk"));
    std::fs::create_dir_all(uploads.join("below/mounted here"))?;
    std::fs::create_dir(&disk)?;
    std::fs::write(uploads.join("outside"), "then")?;
    std::fs::write(disk.join("inside"), "then")?;
    std::fs::create_dir(disk.join("folder"))?;
    let windlass = format!("{} --config {}", env!("CARGO_BIN_EXE_windlass"), stage.path("windlass.toml").display());
    let script = format!(
        "set -e; cd {root}; mount --bind 'another disk' 'uploads/below/mounted here'
         {windlass} repo init; {windlass} backup shop
         echo since > 'another disk/inside'; echo since > 'another disk/new'; echo since > uploads/outside; rmdir 'another disk/folder'
         {windlass} --output json restore shop --in-place --yes > done.json
         cat uploads/outside 'uploads/below/mounted here/inside' > seen; ls 'another disk' > list
         {windlass} --output json backup shop > kept.json
         {windlass} undo $(jq -r .restore done.json) --yes; cat 'another disk/inside' 'another disk/new' uploads/outside > undone
         {windlass} undo $(jq -r .restore done.json) --forget --yes; ls -A 'another disk' uploads > left",
        root = stage.path("").display()
    );
    assert!(with_mounts_of_its_own().arg("sh").arg("-c").arg(script).status()?.success());
    assert_eq!(std::fs::read_to_string(stage.path("seen"))?, "thenthen");
    assert_eq!(std::fs::read_to_string(stage.path("list"))?, "folder\ninside\n");
    assert_eq!(std::fs::read_to_string(stage.path("undone"))?, "since\nsince\nsince\n");
    assert_eq!(
        std::fs::read_to_string(stage.path("left"))?,
        "another disk:\ninside\nnew\n\nuploads:\nbelow\noutside\n"
    );
    // A point taken while the old copies are there has none of them.
    let kept: Value = serde_json::from_slice(&std::fs::read(stage.path("kept.json"))?)?;
    let list = stage.windlass(&[
        "restore",
        "shop",
        "--point",
        kept["id"].as_str().unwrap(),
        "--into",
        &format!("uploads={}", stage.path("aside").display()),
        "--yes",
    ]);
    list?.with(0);
    let aside = tree::describe(&stage.path("aside"))?;
    assert!(aside.contains("mounted here/inside") && !aside.contains(".windlass-"), "{aside}");
    let plan: Value = serde_json::from_slice(&std::fs::read(stage.path("done.json"))?)?;
    let mounts = &plan["plan"]["steps"][0]["places"][0]["mounts"];
    assert!(mounts[0].as_str().unwrap().ends_with("below/mounted here"), "{mounts}");
    Ok(())
}

#[test]
fn mounts_in_mounts_stay_and_those_in_what_is_left_out_are_not_touched() -> Result<()> {
    let stage = Stage::new()?;
    std::fs::create_dir_all(stage.path("real/uploads"))?;
    std::os::unix::fs::symlink(stage.path("real"), stage.path("link"))?;
    let path = stage.path("link/uploads");
    let stage = stage
        .component("uploads", &format!("kind = \"disk\"\npaths = [\"{}\"]\nexclude = [\"cache\"]", path.display()))?;
    let script = format!(
        "set -e; cd {root}; windlass='{windlass} --config {root}/windlass.toml'
         mkdir outer inner cached late; cd real/uploads; mkdir outer cache
         mount --bind ../../outer outer; mkdir outer/inner; mount --bind ../../inner outer/inner; mount --bind ../../cached cache
         for it in outer outer/inner cache; do echo then > $it/file; done
         $windlass repo init; $windlass backup shop
         for it in outer outer/inner cache; do echo since > $it/file; echo since > $it/more; done
         mkdir late; mount --bind ../../late late; chmod 751 ../../late; echo since > late/file
         $windlass --output json restore shop --in-place --yes > {root}/done.json
         for it in outer outer/inner cache; do cat $it/file; ls $it | tr '\\n' ' '; done > {root}/seen; ls late >> {root}/seen; stat -c %a late >> {root}/seen
         $windlass undo $(jq -r .restore {root}/done.json) --yes
         for it in outer outer/inner cache late; do cat $it/file; done > {root}/undone
         $windlass undo $(jq -r .restore {root}/done.json) --forget --yes
         ls -A . outer outer/inner late | grep windlass > {root}/left || true",
        root = stage.path("").display().to_string().trim_end_matches('/'),
        windlass = env!("CARGO_BIN_EXE_windlass"),
    );
    assert!(with_mounts_of_its_own().arg("sh").arg("-c").arg(script).status()?.success());
    let read = |name: &str| std::fs::read_to_string(stage.path(name)).unwrap();
    assert_eq!(read("seen"), "then\nfile inner then\nfile since\nfile more 751\n");
    assert_eq!(read("undone"), "since\nsince\nsince\nsince\n");
    assert_eq!(read("left"), "");
    Ok(())
}

#[test]
fn what_is_left_out_of_captures_is_not_touched() -> Result<()> {
    let stage = Stage::new()?;
    let uploads = stage.path("uploads");
    std::fs::create_dir_all(uploads.join("cache/deep"))?;
    std::fs::create_dir_all(uploads.join("gone since"))?;
    std::fs::write(uploads.join("kept"), "then")?;
    std::fs::write(uploads.join("gone since/file"), "then")?;
    let settings =
        format!("kind = \"disk\"\npaths = [\"{}\"]\nexclude = [\"*.tmp\", \"/cache/deep\"]", uploads.display());
    let stage = stage.component("uploads", &settings)?;
    std::fs::write(uploads.join("cache/deep/object"), "precious")?;
    std::fs::write(uploads.join("x.tmp"), "1")?;
    stage.begin()?;
    std::fs::remove_dir_all(uploads.join("gone since"))?;
    std::fs::create_dir(uploads.join("new folder"))?;
    std::fs::write(uploads.join("new folder/y.tmp"), "2")?;
    std::fs::write(uploads.join("new folder/file"), "new")?;
    let before = without_stages(&tree::describe(&uploads)?);
    let done = restored(&stage, &[])?;
    assert_eq!(done["impact"]["files"][0]["untouched"], 3, "{done}");
    let read = |path: &str| std::fs::read_to_string(uploads.join(path)).unwrap_or_default();
    assert_eq!(read("cache/deep/object") + &read("x.tmp") + &read("new folder/y.tmp"), "precious12");
    assert_eq!(read("gone since/file") + &read("new folder/file"), "then");
    stage.windlass(&["undo", done["restore"].as_str().unwrap(), "--yes"])?.with(0);
    tree::assert_same(&without_stages(&tree::describe(&uploads)?), &before);
    Ok(())
}

#[test]
fn single_files_and_folders_that_are_gone_come_back() -> Result<()> {
    let stage = Stage::new()?;
    let (one, two, folder) = (stage.path("etc/one.conf"), stage.path("etc/two.conf"), stage.path("srv/gone"));
    std::fs::create_dir_all(stage.path("etc"))?;
    std::fs::create_dir_all(folder.join("deep"))?;
    for (path, text) in
        [(&one, "1"), (&two, "2"), (&folder.join("deep/file"), "3"), (&stage.path("etc/foreign"), "not ours")]
    {
        std::fs::write(path, text)?;
    }
    let paths: Vec<String> = [&one, &two, &folder].iter().map(|path| format!("{path:?}")).collect();
    let stage = stage.component("files", &format!("kind = \"disk\"\npaths = [{}]", paths.join(", ")))?;
    stage.begin()?;
    let etc = tree::describe(&stage.path("etc"))?;
    std::fs::write(&one, "changed")?;
    std::fs::remove_file(&two)?;
    std::fs::remove_dir_all(stage.path("srv"))?;
    let done = restored(&stage, &[])?;
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_else(|_| "gone".into());
    assert_eq!(
        read(&one) + &read(&two) + &read(&folder.join("deep/file")) + &read(&stage.path("etc/foreign")),
        "123not ours"
    );
    let files_of = |text: &str| text.lines().filter(|l| l.contains(".conf")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(files_of(&without_stages(&tree::describe(&stage.path("etc"))?)), files_of(&etc));
    let id = done["restore"].as_str().unwrap();
    stage.windlass(&["undo", id, "--yes"])?.with(0);
    assert_eq!(read(&one) + &read(&two) + &read(&stage.path("etc/foreign")), "changedgonenot ours");
    assert!(!folder.join("deep/file").exists());
    stage.windlass(&["undo", id, "--forget", "--yes"])?.with(0);
    assert_eq!(stage.path("etc").read_dir()?.count(), 2);

    // Aside, a single file comes back under its own name.
    let aside = stage.path("aside");
    let alone = Stage::new()?;
    let alone = alone.component("one", &format!("kind = \"disk\"\npaths = [{one:?}]"))?;
    alone.begin()?;
    alone.windlass(&["restore", "shop", "--into", &format!("one={}", aside.display()), "--yes"])?.with(0);
    assert_eq!(read(&aside.join("one.conf")), "changed");
    Ok(())
}

#[test]
fn who_is_not_root_replaces_what_is_closed_to_its_owner() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65_534;
    let stage = Stage::new()?.application("control = { stop = [\"true\"], start = [\"true\"] }")?.uploads()?;
    let uploads = stage.path("uploads");
    for folder in ["closed", "gone since"] {
        std::fs::create_dir_all(uploads.join(folder))?;
        std::fs::write(uploads.join(folder).join("file"), "then")?;
        std::fs::set_permissions(uploads.join(folder), std::fs::Permissions::from_mode(0o500))?;
    }
    let is_root = rustix::process::geteuid().is_root();
    let windlass = |arguments: &[&str]| -> Result<String> {
        if is_root {
            let root = stage.path("").display().to_string();
            assert!(std::process::Command::new("chown").args(["-R", "65534:65534", &root]).status()?.success());
        }
        let mut command = stage.command(arguments);
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = command.output()?;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    windlass(&["repo", "init"])?;
    windlass(&["backup", "shop"])?;
    for folder in ["closed", "gone since"] {
        std::fs::set_permissions(uploads.join(folder), std::fs::Permissions::from_mode(0o700))?;
    }
    std::fs::write(uploads.join("closed/file"), "since")?;
    std::fs::remove_dir_all(uploads.join("gone since"))?;
    std::fs::create_dir(uploads.join("new"))?;
    std::fs::write(uploads.join("new/file"), "new")?;
    for folder in ["closed", "new"] {
        std::fs::set_permissions(uploads.join(folder), std::fs::Permissions::from_mode(0o500))?;
    }
    let done: Value =
        serde_json::from_str(&windlass(&["--output", "json", "restore", "shop", "--in-place", "--yes"])?)?;
    let seen = |path: &str| std::fs::read_to_string(uploads.join(path)).unwrap_or_else(|_| "not there".into());
    let mode = |path: &str| uploads.join(path).metadata().map_or(0, |meta| meta.permissions().mode() & 0o777);
    assert_eq!(
        (seen("closed/file"), seen("gone since/file"), seen("new/file")),
        ("then".into(), "then".into(), "not there".into())
    );
    assert_eq!((mode("closed"), mode("gone since")), (0o500, 0o500));
    let id = done["restore"].as_str().unwrap();
    windlass(&["undo", id, "--yes"])?;
    assert_eq!(
        (seen("closed/file"), seen("gone since/file"), seen("new/file")),
        ("since".into(), "not there".into(), "new".into())
    );
    assert_eq!((mode("closed"), mode("new")), (0o500, 0o500));
    windlass(&["undo", id, "--forget", "--yes"])?;
    assert!(!uploads.read_dir()?.flatten().any(|e| e.file_name().to_string_lossy().starts_with(".windlass-")));
    Ok(())
}
