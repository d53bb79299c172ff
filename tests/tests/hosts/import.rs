//! `causeway import` against a real controller and agent: what runs becomes a port and goes on.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use causeway_proto::v1::{self, PortState};
use causeway_tests::process::program;
use causeway_tests::slot::Slot;
use causeway_tests::{Netns, wait_for};

use crate::rig::{PATIENCE, Rig, key};

/// The first three bytes of a subnet that no other test has: namespaces of all tests on this machine are seen.
fn subnet() -> Result<String> {
    let [_, b, c, _] = Slot::get()?.loopback()?.octets();
    Ok(format!("10.{b}.{c}"))
}

/// A container as Docker makes one, with the bridge of its host as gateway.
async fn container(host: &Netns, label: &str, net: &str, last: u8) -> Result<Netns> {
    let workload = Netns::new(label).await?;
    let (up, mac) = (format!("vet{label}"), format!("02:42:0a:d5:08:{last:02x}"));
    Netns::join((&workload, "eth0", &[&format!("{net}.{last}/24")]), (host, &up, &[])).await?;
    host.ip(&[&format!("link set {up} master docker0")]).await?;
    workload
        .ip(&[&format!("link set eth0 address {mac}"), &format!("route add default via {net}.1")])
        .await?;
    Ok(workload)
}

struct Said {
    code: Option<i32>,
    out: String,
}

/// Runs the real command line; `path`: where it finds `docker`.
async fn causeway(rig: &Rig, path: Option<&std::path::Path>, arguments: &[&str]) -> Result<Said> {
    let mut command = Command::new(program("causeway")?);
    command.arg("--server").arg(rig.controller.endpoint()).args(arguments);
    if let Some(path) = path {
        let known = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{known}", path.display()));
    }
    let done = tokio::task::spawn_blocking(move || command.output()).await??;
    let out = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    println!("{arguments:?}: {:?}\n{out}", done.status.code());
    Ok(Said { code: done.status.code(), out })
}

#[tokio::test]
async fn containers_namespaces_and_files_are_imported_while_they_run() -> Result<()> {
    let net = subnet()?;
    let (gateway, nas) = (format!("{net}.1"), "192.0.2.99");
    let rig = Rig::new(&format!("{net}.0/24")).await?;
    let host = &rig.hosts[0];
    let address = format!("addr add {gateway}/24 dev docker0");
    host.ip(&["link add docker0 type bridge", &address, "link set docker0 up"]).await?;
    let (first, second) = (container(host, "c5", &net, 5).await?, container(host, "c6", &net, 6).await?);
    wait_for("the gateway answers", PATIENCE, async || first.run(&["ping", "-c1", "-W1", &gateway]).await)
        .await?;
    let ping = first
        .command("ping")
        .args(["-n", "-i", "0.01", "-W", "1", &gateway])
        .stdout(Stdio::piped())
        .spawn()?;
    // Somebody has one of the two addresses already.
    let taken = v1::CreatePortRequest {
        key: Some(key("db")),
        addresses: vec![format!("{net}.6")],
        ..v1::CreatePortRequest::default()
    };
    rig.ports()?.create_port(taken).await?;
    let netns = ["import", "netns", "--node", "h1", "--network", "web"];
    let dry = causeway(&rig, None, &[&netns[..], &["--dry-run"]].concat()).await?;
    ensure!(dry.code == Some(4) && dry.out.contains("would adopt"), "a conflict, and one that would go");
    ensure!(dry.out.contains(&format!("{net}.6 is taken by port default/web/db")), "with its reason");
    ensure!(rig.get(first.name()).await.is_err(), "and nothing was written");
    let done = causeway(&rig, None, &netns).await?;
    // The bridge of the machine that plays the host is an interface in a namespace, too.
    ensure!(done.code == Some(4) && done.out.contains("2 adopted, 1 conflicts"));
    wait_for("its node has looked at it", PATIENCE, async || {
        let port = rig.get(first.name()).await?;
        ensure!(
            [PortState::Programmed, PortState::Advertised].contains(&port.state()),
            "{:?} {}",
            port.state(),
            port.problem
        );
        ensure!(port.mac == "02:42:0a:d5:08:05" && port.addresses == [format!("{net}.5")], "{port:?}");
        Ok(())
    })
    .await?;

    // Docker's word for the other one, once its address is given up.
    let forget = v1::ReleasePortRequest {
        key: Some(key("db")),
        forget: true,
        skip_quarantine: true,
        ..v1::ReleasePortRequest::default()
    };
    rig.ports()?.release_port(forget).await?;
    let sleeper = second.command("sleep").arg("600").spawn()?;
    let directory = Slot::get()?.directory("docker")?;
    let script = format!(
        "#!/bin/sh\ncase $1 in\nps) echo abc;;\ninspect) echo '[{{\"Name\":\"/web-1\",\"State\":{{\"Running\":true,\"Pid\":{}}},\
         \"HostConfig\":{{\"NetworkMode\":\"bridge\"}}}}]';;\nesac\n",
        sleeper.id()
    );
    let docker = directory.path().join("docker");
    std::fs::write(&docker, script)?;
    std::fs::set_permissions(&docker, std::fs::Permissions::from_mode(0o755))?;
    let arguments = ["import", "docker", "--node", "h1"];
    let done = causeway(&rig, Some(directory.path()), &arguments).await?;
    ensure!(done.code == Some(0) && done.out.contains("default/web/web-1"), "it is adopted by its name");
    rig.reaches("web-1", PortState::Advertised).await?;
    let again = causeway(&rig, Some(directory.path()), &arguments).await?;
    ensure!(again.code == Some(0) && again.out.contains("is there"), "twice is once");

    // A file: addresses that nobody can look at from here.
    let file = directory.path().join("a.csv");
    std::fs::write(&file, format!("network,name,address\nweb,printer,{net}.30\nweb,nas,{nas}\n"))?;
    let file = file.display().to_string();
    let done = causeway(&rig, None, &["import", "csv", &file]).await?;
    ensure!(
        done.code == Some(4) && done.out.contains(&format!("{nas} is in no subnet of network default/web"))
    );
    ensure!(rig.get("printer").await?.addresses == [format!("{net}.30")]);

    let pid = nix::unistd::Pid::from_raw(i32::try_from(ping.id())?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
    let said = String::from_utf8_lossy(&ping.wait_with_output()?.stdout).into_owned();
    let summary = said.lines().find(|line| line.contains("packets transmitted")).context("a summary")?;
    println!("{summary}");
    ensure!(summary.contains(" 0% packet loss"), "{summary}");
    Ok(())
}
