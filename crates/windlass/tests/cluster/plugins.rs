//! Plugins: nothing starts with one that is not what it should be.

use std::io::{Read, Write};
use std::net::TcpListener;

use anyhow::Result;
use windlass_core::hex;
use windlass_testkit::cluster::HOST;

use crate::stage::{LATER, Stage, cluster, kryton};

pub(crate) const PLUGIN: &[u8] = b"the bytes of a plugin";

/// Serves the plugin at any path, for as long as the process lives.
pub(crate) fn served() -> Result<String> {
    cluster()?;
    let listener = TcpListener::bind((HOST, 0))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", PLUGIN.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(PLUGIN));
        }
    });
    Ok(format!("http://{address}"))
}

fn plugins(url: &str, sha256: &str) -> String {
    format!("  plugins:\n    - name: example-1.2.tar.gz\n      url: {url}/example\n      sha256: \"{sha256}\"\n")
}

#[test]
fn k20_a_plugin_is_there_before_the_server_starts_and_goes_when_it_is_cleared() -> Result<()> {
    let stage = Stage::new("k20")?;
    let digest = hex::sha256(PLUGIN).to_uppercase();
    stage.namespace.apply(&kryton("shelf", "k20/shelf", &plugins(&served()?, &digest)))?;
    stage.condition("shelf", "Ready", "True", LATER)?;
    let listed = stage.namespace.kubectl(&["get", "--raw", &proxied(&stage, "/api/plugins")])?;
    assert!(listed.contains("example-1.2.tar.gz"), "{listed}");
    let patch = r#"[{"op": "remove", "path": "/spec/plugins"}]"#;
    stage.namespace.kubectl(&["patch", "kryton", "shelf", "--type=json", "--patch", patch])?;
    stage.namespace.wait("the init container to go", LATER, || {
        let deployment = stage.namespace.get("deployment", "shelf")?.unwrap_or_default();
        Ok(!deployment["spec"]["template"].to_string().contains("plugin-installer"))
    })
}

#[test]
fn k21_a_plugin_with_other_bytes_keeps_the_server_from_starting_and_is_named() -> Result<()> {
    let stage = Stage::new("k21")?;
    stage.namespace.apply(&kryton("shelf", "k21/shelf", &plugins(&served()?, &"0".repeat(64))))?;
    stage.namespace.wait("the init container to fail", LATER, || {
        let pods = stage.namespace.kubectl(&[
            "get",
            "pods",
            "--output=json",
            "--selector=app.kubernetes.io/instance=shelf",
        ])?;
        Ok(pods.contains("\"exitCode\": 1") && pods.contains("plugin-installer"))
    })?;
    stage.condition("shelf", "Ready", "False", LATER)?;
    let logs = stage.namespace.kubectl(&["logs", "deployment/shelf", "--container=plugin-installer"])?;
    assert!(logs.contains("WDL-2503") && logs.contains(&hex::sha256(PLUGIN)), "{logs}");
    Ok(())
}

fn proxied(stage: &Stage, path: &str) -> String {
    format!("/api/v1/namespaces/{}/services/shelf:3001/proxy{path}", stage.namespace.name)
}
