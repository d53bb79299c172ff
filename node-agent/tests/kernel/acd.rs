//! Addresses are asked for on the wire before their first use, and only then.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use causeway_proto::v1;

use crate::host::{Host, PATIENCE, dev, join, mac, port, state};
use crate::lan::{Wire, attached, host_state};
use crate::netns::{Netns, run};

const P5: &str = "default/n100/p5";
/// What a network asks by default.
const CHECK_MS: u32 = 200;

/// The next status of a port as an active one that satisfies `condition`.
async fn status(
    host: &mut Host,
    port: &str,
    condition: impl Fn(&v1::PortStatus) -> bool,
) -> Result<v1::PortStatus> {
    let statuses = &mut host.plane()?.statuses;
    let mut last = None;
    let found = async {
        while let Some(status) = statuses.recv().await {
            for found in status.ports.into_iter().filter(|p| p.port == port) {
                if found.stage() == v1::PortStage::Active && condition(&found) {
                    return Ok(found);
                }
                last = Some(found);
            }
        }
        anyhow::bail!("data plane died")
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    found.with_context(|| format!("no such status of {port}; last: {last:?}"))?
}

fn checked(port: &v1::NodePort) -> v1::NodePort {
    v1::NodePort { address_check_ms: CHECK_MS, ..port.clone() }
}

/// A machine of others in the bridge of a host, with an address.
fn stranger(host: &Host, address: &str) -> Result<(Netns, String)> {
    let other = Netns::new("x")?;
    let (at, name) = (&host.netns.name, &other.name);
    run(&format!("ip link add eth0 netns {name} type veth peer name foreign netns {at}"))?;
    host.netns.run("ip link set foreign master cwb100 up")?;
    let nodad = if address.contains(':') { "nodad" } else { "" };
    other.run(&format!("ip address add {address} dev eth0 {nodad}"))?;
    other.run("ip link set eth0 up")?;
    let mac = other.run("cat /sys/class/net/eth0/address")?.trim().to_owned();
    Ok((other, mac))
}

/// Two hosts with a network between them, and without any port.
async fn pair() -> Result<(Host, Host)> {
    let (mut a, mut b) = (Host::new("a", "192.0.2.1")?, Host::new("b", "192.0.2.2")?);
    join(&a, &b)?;
    let nobody = Netns::new("n")?;
    for (host, other, n) in [(&mut a, "192.0.2.2", 5), (&mut b, "192.0.2.1", 6)] {
        let mut state = state(host, n, &nobody, n + 10, other);
        (state.ports, state.remotes) = (Vec::new(), Vec::new());
        host.set(&state).await?;
        host.wait_revision(1).await?;
        host.wait_settled(&state).await?;
    }
    Ok((a, b))
}

fn with_port(host: &Host, workload: &Netns, revision: u64) -> v1::NodeState {
    let mut state = state(host, 5, workload, 6, "192.0.2.2");
    (state.remotes, state.revision) = (Vec::new(), revision);
    state.ports = vec![checked(&state.ports[0])];
    state
}

#[tokio::test]
async fn an_address_that_somebody_has_is_not_used_until_he_has_gone() -> Result<()> {
    // In the same bridge, and behind another VTEP; of either family.
    for (address, far) in [("10.8.0.5/24", false), ("fd00:8::5/64", true)] {
        let (mut a, b) = pair().await?;
        let (other, its_mac) = stranger(if far { &b } else { &a }, address)?;
        let workload = Netns::new("w5")?;
        let wanted = with_port(&a, &workload, 2);
        a.set(&wanted).await?;
        let refused = status(&mut a, P5, |p| !p.problem.is_empty()).await?;
        println!("{}", refused.problem);
        let found = refused.duplicate.context("the evidence")?;
        let ip = address.split('/').next().unwrap_or_default();
        let on = if far { "cwx100" } else { "cwb100" };
        ensure!(
            (found.address.as_str(), &found.mac, found.interface.as_str()) == (ip, &its_mac, on),
            "{found:?}"
        );
        ensure!(refused.problem.contains(&its_mac) && refused.problem.contains(on), "{}", refused.problem);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
        ensure!(i64::try_from(now)? - found.seen_ms < 20_000, "{found:?}");
        let link = a.netns.run(&format!("ip -o link show {}", dev(5, 100)?))?;
        ensure!(link.contains("state DOWN"), "it is down: {link}");
        // A question leaves no trace with who answered it.
        let known = other.run("ip neigh show dev eth0")?;
        ensure!(!known.contains(&mac(5)) && !known.contains(ip), "{known}");
        // It goes away: the port comes up by itself, and stays what it is.
        other.run("ip address flush dev eth0")?;
        let healed = status(&mut a, P5, |p| p.programmed).await?;
        ensure!(healed.duplicate.is_none(), "{healed:?}");
        let to = if far { "fd00:8::9/64" } else { "10.8.0.9/24" };
        other.run(&format!("ip address add {to} dev eth0"))?;
        crate::netns::wait_for("reached", PATIENCE, || Ok(other.pings(ip))).await?;
    }
    Ok(())
}

/// Of a port with several addresses of a family each is asked for, and one that somebody has keeps all from being used.
#[tokio::test]
async fn every_address_of_a_port_is_asked_for() -> Result<()> {
    const MORE: [&str; 3] = ["10.8.0.55/24", "10.8.0.56/24", "fd00:8::55/64"];
    let ip = |address: &str| address.split('/').next().unwrap_or_default().to_owned();
    for taken in MORE {
        let (mut a, _b) = pair().await?;
        let (other, its_mac) = stranger(&a, taken)?;
        let workload = Netns::new("w5")?;
        let mut wanted = with_port(&a, &workload, 2);
        wanted.ports[0].addresses.extend(MORE.map(ToOwned::to_owned));
        a.set(&wanted).await?;
        let refused = status(&mut a, P5, |p| !p.problem.is_empty()).await?;
        let found = refused.duplicate.with_context(|| format!("no evidence: {}", refused.problem))?;
        ensure!((&found.address, &found.mac) == (&ip(taken), &its_mac), "{found:?}");
        let link = a.netns.run(&format!("ip -o link show {}", dev(5, 100)?))?;
        ensure!(link.contains("state DOWN"), "none of them is used: {link}");
        other.run("ip address flush dev eth0")?;
        status(&mut a, P5, |p| p.programmed && p.duplicate.is_none()).await?;
        other.run("ip address add 10.8.0.9/24 dev eth0")?;
        other.run("ip address add fd00:8::9/64 dev eth0 nodad")?;
        for address in ["10.8.0.5", "fd00:8::5"].map(ToOwned::to_owned).into_iter().chain(MORE.map(ip)) {
            crate::netns::wait_for(&address, PATIENCE, || Ok(other.pings(&address))).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_nobody_has_is_up_in_a_moment_and_what_runs_is_not_asked_for() -> Result<()> {
    let (mut a, _b) = pair().await?;
    let workloads: Vec<Netns> = (0..20).map(|n| Netns::new(&format!("m{n}"))).collect::<Result<_>>()?;
    let ports = workloads.iter().zip(5..).map(|(netns, n)| checked(&port(n, 100, netns)));
    let mut wanted = with_port(&a, &workloads[0], 2);
    wanted.ports = ports.collect();
    let begun = Instant::now();
    a.set(&wanted).await?;
    let mut open: Vec<String> = wanted.ports.iter().map(|p| p.id.clone()).collect();
    while let Some(first) = open.pop() {
        let up = |id: &str| -> Result<bool> {
            let dev = causeway_agent::dev::Dev::port(&id.parse()?).to_string();
            // Not there yet is not up.
            Ok(a.netns.run(&format!("ip -o link show {dev}")).is_ok_and(|link| link.contains("state UP")))
        };
        crate::netns::wait_for(&first, PATIENCE, || up(&first)).await?;
    }
    let took = begun.elapsed();
    println!("20 ports, asked for {CHECK_MS} ms each: all up after {took:?}");
    // One after the other they would take 4 s for the asking alone.
    ensure!(took > Duration::from_millis(CHECK_MS.into()) && took < Duration::from_secs(4), "{took:?}");
    a.wait_settled(&wanted).await?;
    let sockets = || {
        a.netns.run("cat /proc/net/packet").map(|text| text.lines().filter(|l| l.contains(" 0003 ")).count())
    };
    crate::netns::wait_for("the detector's sockets are closed", PATIENCE, || Ok(sockets()? == 0)).await?;

    // Somebody takes the address of a port that runs. It is ours: neither a restart of the agent nor one of the workload
    // takes it away.
    let (_other, _) = stranger(&a, "10.8.0.5/24")?;
    a.stop();
    a.start()?;
    wanted.revision = 3;
    a.set(&wanted).await?;
    let first = status(&mut a, P5, |_| true).await?;
    ensure!(first.programmed && first.duplicate.is_none(), "{first:?}");
    a.wait_settled(&wanted).await?;
    let again = Netns::new("again")?;
    wanted.ports[0] = v1::NodePort { generation: 2, ..checked(&port(5, 100, &again)) };
    wanted.revision = 4;
    a.set(&wanted).await?;
    let second = status(&mut a, P5, |p| p.generation == 2).await?;
    ensure!(second.programmed, "{second:?}");
    Ok(())
}

#[tokio::test]
async fn hosts_behind_a_switch_ask_on_their_wire() -> Result<()> {
    for attachment in [v1::Attachment::Bridge, v1::Attachment::Macvlan] {
        let mut wire = Wire::new()?;
        wire.b.netns.run("ip address add 10.8.0.5/24 dev eth1")?;
        let its_mac = wire.b.netns.run("cat /sys/class/net/eth1/address")?.trim().to_owned();
        let workload = Netns::new("w5")?;
        wire.a.set(&host_state(1, vec![checked(&attached(5, &workload, attachment))])).await?;
        let refused = status(&mut wire.a, P5, |p| !p.problem.is_empty()).await?;
        println!("{}", refused.problem);
        ensure!(refused.duplicate.is_some_and(|found| found.mac == its_mac), "{}", refused.problem);
        wire.b.netns.run("ip address del 10.8.0.5/24 dev eth1")?;
        status(&mut wire.a, P5, |p| p.programmed).await?;
        wire.b.netns.run("ip address add 10.8.0.6/24 dev eth1")?;
        crate::netns::wait_for("reached", PATIENCE, || Ok(wire.b.netns.pings("10.8.0.5"))).await?;
    }
    Ok(())
}
