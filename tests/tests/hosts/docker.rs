//! `causeway import docker` on a host with a real Docker Engine: its containers become ports, and neither they nor it notice.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use causeway_proto::v1::fabric_service_client::FabricServiceClient;
use causeway_proto::v1::resource::Spec;
use causeway_proto::v1::{self, PortState};
use causeway_tests::controller::network;
use causeway_tests::process::{Daemon, program, run};
use causeway_tests::slot::Slot;
use causeway_tests::{Docker, Netns, wait_for};
use serde_json::{Value, json};

use crate::rig::{PATIENCE, Rig, key};

/// Docker's bridge of the network `web`, as the kernel calls it.
const BRIDGE: &str = "br-web";

/// A host behind a switch: its uplink is a port of Docker's bridge, so that containers are in the rack's network.
async fn rig() -> Result<(Rig, Netns)> {
    let (host, rack) = (Netns::new("dk").await?, Netns::new("rack").await?);
    Netns::join((&host, "eth1", &[]), (&rack, "eth0", &["10.213.10.200/24"])).await?;
    let leaf = v1::Node {
        name: "leaf1".into(),
        mode: v1::NodeMode::TorEvpn.into(),
        vtep: "192.0.2.1".into(),
        underlay_mtu: 1600,
        ..v1::Node::default()
    };
    let uplink = v1::Uplink { interface: "eth1".into(), switch: "leaf1".into(), ..v1::Uplink::default() };
    let node = v1::Node {
        name: "h1".into(),
        mode: v1::NodeMode::Host.into(),
        uplinks: vec![uplink],
        ..v1::Node::default()
    };
    // Docker's default bridge has the subnet that it always has.
    let networks = [network("web", 100, "10.213.10.0/24"), network("plain", 101, "172.17.0.0/16")].concat();
    let rig = Rig::of([networks, vec![Spec::Node(leaf), Spec::Node(node)]].concat(), vec![host]).await?;
    Ok((rig, rack))
}

struct Said {
    code: Option<i32>,
    out: String,
}

/// Runs the real command line where Docker is.
async fn import(rig: &Rig, docker: &Docker, more: &[&str]) -> Result<Said> {
    let netns = format!("--net=/run/netns/{}", rig.hosts[0].name());
    let mut command = Command::new("nsenter");
    command.arg(netns).arg(program("causeway")?).env("DOCKER_HOST", docker.host());
    command.arg("--server").arg(format!("unix:{}", rig.controller.socket().display()));
    command.args(["import", "docker", "--node", "h1"]).args(more);
    let done = tokio::task::spawn_blocking(move || command.output()).await??;
    let out = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    println!("import docker {more:?}: {:?}\n{out}", done.status.code());
    Ok(Said { code: done.status.code(), out })
}

/// What somebody could have changed of links and addresses, in the namespace of this path: what the kernel itself counts,
/// checks and times is left out.
async fn links(netns: &str) -> Result<Vec<Value>> {
    let text = run(&["nsenter", &format!("--net={netns}"), "ip", "-j", "-d", "address", "show"]).await?;
    let links: Vec<Value> = serde_json::from_str(&text)?;
    let kept = |link: &Value| {
        let addresses = link["addr_info"].as_array().into_iter().flatten();
        let addresses: Vec<Value> = addresses
            .filter(|address| address["scope"] != "link")
            .map(|address| json!([address["local"], address["prefixlen"]]))
            .collect();
        let up = link["flags"].as_array().is_some_and(|flags| flags.contains(&json!("UP")));
        let names = ["ifindex", "ifname", "address", "mtu", "master", "link_index"].map(|name| &link[name]);
        json!([names, up, addresses])
    };
    Ok(links.iter().map(kept).collect())
}

/// Everything of the host and of its containers.
async fn all_links(rig: &Rig, docker: &Docker, containers: &[&str]) -> Result<Vec<Vec<Value>>> {
    let mut all = vec![links(&format!("/run/netns/{}", rig.hosts[0].name())).await?];
    for name in containers {
        all.push(links(&format!("/proc/{}/ns/net", docker.pid(name).await?)).await?);
    }
    Ok(all)
}

/// Sequence numbers of the pings that were answered.
fn answered(pings: &Daemon) -> Vec<u64> {
    let log = pings.log();
    let number = |line: &str| line.split("icmp_seq=").nth(1)?.split_whitespace().next()?.parse().ok();
    log.lines().filter(|line| line.contains("bytes from")).filter_map(number).collect()
}

async fn port(rig: &Rig, network: &str, name: &str) -> Result<v1::Port> {
    let key = v1::PortKey { network: network.into(), ..key(name) };
    let request = v1::GetPortRequest { key: Some(key) };
    rig.ports()?.get_port(request).await?.into_inner().port.context("a port")
}

async fn is_ready(rig: &Rig, network: &str, name: &str) -> Result<v1::Port> {
    wait_for(&format!("{network}/{name} is advertised"), PATIENCE, async || {
        let port = port(rig, network, name).await?;
        let good = [PortState::Advertised, PortState::Ready].contains(&port.state());
        ensure!(good && port.problem.is_empty(), "{:?} {}", port.state(), port.problem);
        Ok(port)
    })
    .await
}

#[tokio::test]
async fn containers_of_a_real_docker_are_imported_while_they_run() -> Result<()> {
    let (rig, _rack) = rig().await?;
    let docker = Docker::start(&rig.hosts[0]).await?;
    let subnet = ["--subnet", "10.213.10.0/24", "--gateway", "10.213.10.1"];
    let bridge = format!("com.docker.network.bridge.name={BRIDGE}");
    docker.run(&[&["network", "create", "--opt", &bridge], &subnet[..], &["web"]].concat()).await?;
    rig.hosts[0].ip(&[&format!("link set eth1 master {BRIDGE}")]).await?;
    for (name, network) in [
        ("one", "web"),
        ("two", "web"),
        ("three", "bridge"),
        ("with-host", "host"),
        ("without", "none"),
        ("beside", "container:one"),
    ] {
        docker.container(name, &["--network", network]).await?;
    }
    let containers = ["one", "two", "three"];
    let two = docker
        .run(&["inspect", "--format", "{{.NetworkSettings.Networks.web.IPAddress}}", "two"])
        .await?
        .trim()
        .to_owned();
    let mut ping = Command::new("nsenter");
    ping.arg(format!("--net=/proc/{}/ns/net", docker.pid("one").await?));
    ping.args(["ping", "-n", "-i", "0.01", &two]);
    let directory = Slot::get()?.directory("ping")?;
    let pings = Daemon::spawn("ping", ping, &directory.path().join("log"))?.quiet();
    wait_for("pings are answered", PATIENCE, async || {
        ensure!(answered(&pings).len() > 20, "{:?}", answered(&pings));
        Ok(())
    })
    .await?;
    let before = all_links(&rig, &docker, &containers).await?;

    let dry = import(&rig, &docker, &["--dry-run"]).await?;
    ensure!(dry.code == Some(3) && dry.out.matches("would adopt").count() == 3, "three would be adopted");
    ensure!(dry.out.contains("3 would be adopted, 0 conflicts, 3 skipped"));
    ensure!(dry.out.matches("apart: leads to no uplink").count() == 1, "docker0 is behind NAT");
    for reason in [
        "it uses the machine's (container with-host)",
        "no interface with an address (network none) (container without)",
        "it uses that of container",
    ] {
        ensure!(dry.out.contains(reason), "why it is passed over: {reason}");
    }
    ensure!(port(&rig, "web", "one").await.is_err(), "and nothing was written");
    let done = import(&rig, &docker, &[]).await?;
    ensure!(done.code == Some(0) && done.out.contains("3 adopted"));
    for (network, name) in [("web", "one"), ("web", "two"), ("plain", "three")] {
        let port = is_ready(&rig, network, name).await?;
        let said = docker
            .run(&[
                "inspect",
                "--format",
                "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.MacAddress}}{{end}}",
                name,
            ])
            .await?;
        ensure!(said.trim() == format!("{} {}", port.addresses.join(","), port.mac), "{said} {port:?}");
    }
    ensure!(import(&rig, &docker, &[]).await?.out.matches("is there").count() == 3, "twice is once");
    // Those in the rack's network are announced at its switch, the one behind NAT is nobody's business.
    let mut fabric = FabricServiceClient::new(rig.controller.channel()?);
    let routes = fabric.list_routes(v1::ListRoutesRequest::default()).await?.into_inner().routes;
    let announced = |ip: &str| routes.iter().any(|route| route.ip == ip);
    ensure!(announced(&two) && !announced("172.17.0.2"), "{routes:?}");
    let after = all_links(&rig, &docker, &containers).await?;
    ensure!(before == after, "links were touched: {before:?}\n{after:?}");
    let more = answered(&pings).len() + 50;
    wait_for("pings go on", PATIENCE, async || {
        ensure!(answered(&pings).len() > more);
        Ok(())
    })
    .await?;
    let all = answered(&pings);
    let (first, last) = all.first().zip(all.last()).context("no pings")?;
    println!("{} pings answered, from {first} to {last}", all.len());
    ensure!(all.len() as u64 == last - first + 1, "pings were lost, or answered twice");

    stopped_and_started(&rig, &docker).await?;
    // It is not ours: unbinding and releasing leave it as it is.
    let kept = links(&format!("/proc/{}/ns/net", docker.pid("three").await?)).await?;
    let three = Some(v1::PortKey { network: "plain".into(), ..key("three") });
    rig.ports()?.unbind_port(v1::UnbindPortRequest { key: three.clone() }).await?;
    rig.ports()?.release_port(v1::ReleasePortRequest { key: three, ..Default::default() }).await?;
    is_ready(&rig, "web", "two").await?;
    ensure!(links(&format!("/proc/{}/ns/net", docker.pid("three").await?)).await? == kept);
    ensure!(!rig.agents[0].log().contains("panicked"));
    Ok(())
}

/// A container that ends takes its namespace with it; started again it has another one, which the next import finds.
async fn stopped_and_started(rig: &Rig, docker: &Docker) -> Result<()> {
    let first = port(rig, "web", "two").await?;
    docker.run(&["stop", "two"]).await?;
    let ended = async || {
        wait_for("its agent says that it is not there", PATIENCE, async || {
            let port = port(rig, "web", "two").await?;
            ensure!(port.state() == PortState::Failed, "{:?}", port.state());
            ensure!(port.problem.contains("not found"), "{}", port.problem);
            Ok(port)
        })
        .await
    };
    println!("stopped: {}", ended().await?.problem);
    is_ready(rig, "web", "one").await?;
    docker.run(&["start", "two"]).await?;
    let dry = import(rig, docker, &["--dry-run"]).await?;
    ensure!(dry.code == Some(0) || dry.code == Some(3), "{}", dry.out);
    let again = import(rig, docker, &[]).await?;
    ensure!(again.code == Some(0), "{}", again.out);
    let port = is_ready(rig, "web", "two").await?;
    ensure!((&port.addresses, &port.mac) == (&first.addresses, &first.mac), "{port:?}");
    ensure!(port.binding != first.binding, "it is looked for where it is now");
    docker.run(&["rm", "--force", "two"]).await?;
    println!("removed: {}", ended().await?.problem);
    docker.container("two", &["--network", "web"]).await?;
    ensure!(import(rig, docker, &[]).await?.code == Some(0));
    is_ready(rig, "web", "two").await.map(drop)
}
