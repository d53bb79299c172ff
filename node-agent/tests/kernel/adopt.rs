//! Interfaces that others made become ports as they are: nothing that runs notices.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_proto::v1;

use crate::host::{Host, PATIENCE, port, state};
use crate::lan::host_state;
use crate::netns::{Netns, run, wait_for};

const P5: &str = "default/n100/p5";
/// Between two pings.
const INTERVAL: Duration = Duration::from_millis(10);

/// A container as Docker makes one: a veth whose other end is a port of the host's `docker0`, which is its gateway.
fn container(host: &Host) -> Result<Netns> {
    let workload = Netns::new("c5")?;
    let (at, name) = (&host.netns.name, &workload.name);
    host.netns.run("ip link add docker0 type bridge")?;
    host.netns.run("ip address add 10.8.0.1/24 dev docker0")?;
    host.netns.run("ip link set docker0 up")?;
    run(&format!("ip link add eth0 netns {name} type veth peer name vetha1b2c3 netns {at}"))?;
    host.netns.run("ip link set vetha1b2c3 master docker0 up")?;
    workload.run("ip link set eth0 address 02:42:0a:08:00:05")?;
    workload.run("ip address add 10.8.0.5/24 dev eth0")?;
    workload.run("ip link set eth0 up")?;
    workload.run("ip route add default via 10.8.0.1")?;
    Ok(workload)
}

fn adopted(workload: &Netns) -> v1::NodePort {
    v1::NodePort {
        mac: "02:42:0a:08:00:05".into(),
        addresses: vec!["10.8.0.5/24".into()],
        gateways: vec!["10.8.0.1".into()],
        adopted: true,
        guarded: true,
        address_check_ms: 200,
        ..port(5, 100, workload)
    }
}

/// What the kernel has of it, inside and outside.
fn picture(host: &Host, workload: &Netns) -> Result<String> {
    let inside = workload.run("ip -o -4 address show dev eth0")?;
    let (link, routes) = (workload.run("ip -o link show dev eth0")?, workload.run("ip route")?);
    let outside = host.netns.run("ip -o link show dev vetha1b2c3")?;
    Ok(format!("{inside}{link}{routes}{outside}"))
}

async fn adopts(mut host: Host, wanted: impl Fn(Vec<v1::NodePort>) -> v1::NodeState) -> Result<()> {
    let workload = container(&host)?;
    wait_for("the container reaches its gateway", PATIENCE, || Ok(workload.pings("10.8.0.1"))).await?;
    let before = picture(&host, &workload)?;
    let ping = workload.spawn("ping -n -i 0.01 -W 1 10.8.0.1")?;
    host.set(&wanted(vec![adopted(&workload)])).await?;
    host.wait_port(P5, 1, "").await?;
    // A delta, a restart of the agent, and the end of the port are nothing to it either.
    let again = v1::NodePort { generation: 2, ..adopted(&workload) };
    let delta = v1::NodeDelta { revision: 2, ports: vec![again.clone()], ..v1::NodeDelta::default() };
    host.change(delta).await?;
    host.wait_port(P5, 2, "").await?;
    host.stop();
    host.start()?;
    let second = v1::NodeState { revision: 3, ..wanted(vec![again.clone()]) };
    host.set(&second).await?;
    host.wait_port(P5, 2, "").await?;
    host.wait_settled(&second).await?;
    let after = picture(&host, &workload)?;
    ensure!(after == before, "it was touched:\n{before}\n{after}");
    // What changes there is seen, said, and left as it is.
    workload.run("ip address add 10.8.0.77/24 dev eth0")?;
    workload.run("ip link set eth0 address 02:42:0a:08:00:06")?;
    host.wait_port(P5, 2, "has MAC 02:42:0a:08:00:06 and not 02:42:0a:08:00:05").await?;
    workload.run("ip link set eth0 address 02:42:0a:08:00:05")?;
    host.wait_port(P5, 2, "").await?;
    workload.run("ip address del 10.8.0.77/24 dev eth0")?;
    host.set(&v1::NodeState { revision: 4, ..wanted(vec![]) }).await?;
    host.wait_revision(4).await?;
    let after = picture(&host, &workload)?;
    ensure!(after == before, "it goes on when the port is gone:\n{before}\n{after}");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(ping.id())?),
        nix::sys::signal::Signal::SIGINT,
    )?;
    let said = String::from_utf8_lossy(&ping.wait_with_output()?.stdout).into_owned();
    let summary = said.lines().find(|line| line.contains("packets transmitted")).context("a summary")?;
    println!("every {INTERVAL:?}: {summary}");
    ensure!(summary.contains(" 0% packet loss"), "{summary}");
    // A container that ends is no port any more, and says so.
    host.set(&v1::NodeState { revision: 5, ..wanted(vec![again]) }).await?;
    host.wait_port(P5, 2, "").await?;
    workload.run("ip link del eth0")?;
    host.wait_port(P5, 2, "has no interface eth0 any more, which was adopted").await?;
    Ok(())
}

#[tokio::test]
async fn a_running_container_is_adopted_without_losing_a_packet() -> Result<()> {
    let host = Host::new("a", "192.0.2.1")?;
    let nobody = Netns::new("n")?;
    let like = state(&host, 5, &nobody, 6, "192.0.2.2");
    adopts(host, |ports| v1::NodeState { ports, ..like.clone() }).await
}

#[tokio::test]
async fn so_it_is_on_a_host_behind_a_switch() -> Result<()> {
    let host = Host::new("a", "192.0.2.1")?;
    adopts(host, |ports| host_state(1, ports)).await
}
