//! Stories of several hosts and processes at one repository, and of a store that is not at its best.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(dead_code, clippy::panic, reason = "each file of stories uses what it needs of the stage")]

mod story;

use std::process::{Child, Command, Stdio};

use anyhow::Result;
use story::Stage;
use windlass_testkit::network::{Network, Proxy};
use windlass_testkit::process::run;
use windlass_testkit::s3::{Kind, S3Server};
use windlass_testkit::tree;

/// A host with a database and a folder, whose policy keeps the newest point only.
fn host(repository: &str) -> Result<Stage> {
    let stage = Stage::new()?.repository(repository)?;
    stage.server.psql("postgres", "create database shop");
    stage.server.psql("shop", "create table orders as select n, md5(n::text) from generate_series(1, 5000) n");
    let policy = "policy = \"brief\"\n[policy.brief]\nretention = { within = \"1s\" }\n[application.shop.hooks]";
    let stage = stage.application(policy)?.database("shop")?.uploads()?;
    std::fs::write(stage.path("uploads/file"), vec![7; 300_000])?;
    Ok(stage)
}

#[test]
fn two_hosts_back_up_verify_restore_and_sweep_at_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let repository = format!("url = \"file://{}/repository\"", folder.path().display());
    let hosts = [host(&repository)?, host(&repository)?];
    hosts[0].windlass(&["repo", "init"])?.with(0);
    hosts[1].windlass(&["repo", "init"])?.with(0).says("was written by").says("another name");
    hosts[0].take()?;
    let mut running: Vec<(String, Child)> = Vec::new();
    for round in 0..4 {
        for (number, stage) in hosts.iter().enumerate() {
            std::fs::write(stage.path("uploads/changing"), format!("{round} {number}").repeat(30_000))?;
            let back = format!("uploads={}", stage.path(&format!("back-{round}")).display());
            for arguments in [
                vec!["backup", "shop"],
                vec!["verify", "shop"],
                vec!["retention", "apply", "shop", "--yes"],
                vec!["restore", "shop", "--yes", "--into", &back],
            ] {
                let child = stage.command(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
                running.push((format!("host {number}, round {round}: {arguments:?}"), child));
            }
        }
        // Two rounds overlap, so that a round begins while the one before is at work.
        if round % 2 == 1 {
            for (what, child) in running.drain(..) {
                let ended = child.wait_with_output()?;
                let said = String::from_utf8_lossy(&ended.stderr);
                // A plan that was shown and is another a moment later is refused, and run again.
                let changed = said.contains("the world has changed");
                assert!(ended.status.success() || changed, "{what}: {said}");
            }
        }
    }
    hosts[0].windlass(&["repo", "check", "--read-data"])?.with(0);
    let points = hosts[1].windlass(&["--output", "json", "points", "shop"])?.with(0).json();
    assert_eq!(points["points"].as_array().unwrap().len(), 9, "{points}");
    hosts[1].windlass(&["verify", "shop", "--all"])?.with(0);
    stock_restic_finds_it_whole(&hosts[0], &folder.path().join("repository/files/shop"))
}

/// Opens the keyring as the kit prints it, and has restic read every byte.
fn stock_restic_finds_it_whole(stage: &Stage, files: &std::path::Path) -> Result<()> {
    let kit = stage.windlass(&["repo", "kit"])?.with(0).out;
    let password = kit.lines().find_map(|line| line.strip_prefix("# restic-password: ")).unwrap();
    let file = stage.path("restic-password");
    std::fs::write(&file, password)?;
    let mut restic = Command::new("restic");
    restic.args(["--no-cache", "--no-lock", "check", "--read-data", "--repo"]).arg(files);
    run(restic.arg("--password-file").arg(file))?;
    Ok(())
}

#[test]
fn everything_works_through_a_store_that_refuses_a_third_of_all_requests() -> Result<()> {
    let server = S3Server::start(Kind::Versitygw)?;
    let proxy = Proxy::before(&server.address())?;
    let stage = host("url = \"file:///nowhere\"")?.bucket(&proxy.endpoint(), "prod")?;
    proxy.set(Network::Overloaded(30));
    stage.begin()?;
    stage.windlass(&["verify", "shop", "--deep"])?.with(0);
    let back = format!("uploads={}", stage.path("back").display());
    stage.windlass(&["restore", "shop", "--yes", "--into", &back])?.with(0);
    tree::assert_same(&tree::describe(&stage.path("back"))?, &tree::describe(&stage.path("uploads"))?);
    stage.windlass(&["retention", "apply", "shop", "--yes"])?.with(0);
    stage.windlass(&["repo", "check", "--read-data"])?.with(0);
    let (requests, hit) = proxy.counts();
    assert!(hit > 30, "{hit} of {requests}");
    Ok(())
}

#[test]
fn a_second_host_is_refused_where_the_store_cannot_keep_two_apart() -> Result<()> {
    let server = S3Server::start(Kind::Minio)?;
    let proxy = Proxy::before(&server.address())?;
    proxy.set(Network::NoConditions);
    let stages = [(); 2].map(|()| host("url = \"file:///nowhere\"").and_then(|s| s.bucket(&proxy.endpoint(), "prod")));
    let [first, second] = stages;
    let (first, second) = (first?, second?);
    first.windlass(&["repo", "init"])?.with(0).says("no create-only writes");
    let point = first.take()?;
    first.windlass(&["doctor"])?.with(1);
    second.windlass(&["backup", "shop"])?.with(2).says("writes it already").says("keys retire");
    // It may read, though.
    let back = format!("uploads={}", second.path("back").display());
    second.windlass(&["restore", "shop", "--yes", "--into", &back])?.with(0).says("not on record");

    // The first host is lost: whoever holds the keyring says so, and its points stay good.
    let listed = second.windlass(&["--output", "json", "repo", "keys", "list"])?.with(0).json();
    let writer = listed["writers"][0]["id"].as_str().unwrap();
    second.windlass(&["repo", "keys", "retire", writer])?.with(0);
    second.take()?;
    second.windlass(&["verify", "shop", "--point", &point])?.with(0);
    second.windlass(&["repo", "check", "--read-data"])?.with(0);
    first.windlass(&["backup", "shop"])?.with(2).says("was retired");
    Ok(())
}
