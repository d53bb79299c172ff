//! Ports that wait for their turn: programmed, silent, and in nobody's way.

use anyhow::{Result, ensure};
use causeway_proto::v1;

use crate::host::{Host, PATIENCE, assert_settled, dev, join, mac, remote, state};
use crate::lan::{Wire, attached, host_state, reach, settle};
use crate::netns::{Netns, wait_for};
use crate::tap::Tap;

const P5: &str = "default/n100/p5";

fn staged(port: &v1::NodePort, stage: v1::PortStage, generation: u64) -> v1::NodePort {
    v1::NodePort { stage: stage.into(), generation, ..port.clone() }
}

/// Packets that an interface has received.
fn received(netns: &Netns) -> Result<u64> {
    Ok(netns.run("cat /sys/class/net/eth0/statistics/rx_packets")?.trim().parse()?)
}

/// The one source MAC of an address that a neighbour knows.
fn neighbour(from: &Netns, ip: &str) -> Result<String> {
    from.run(&format!("ip neigh show {ip}"))
}

/// Two hosts: workload 5 lives on the first and is prepared on the second, where workload 6 lives.
struct Pair {
    a: Host,
    b: Host,
    old: Netns,
    new: Netns,
    w6: Netns,
}

impl Pair {
    async fn new() -> Result<Self> {
        let (a, b) = (Host::new("a", "192.0.2.1")?, Host::new("b", "192.0.2.2")?);
        join(&a, &b)?;
        let (old, new, w6) = (Netns::new("old")?, Netns::new("new")?, Netns::new("w6")?);
        Ok(Pair { a, b, old, new, w6 })
    }

    fn at_a(&self, revision: u64, stage: v1::PortStage, generation: u64) -> v1::NodeState {
        let mut state = state(&self.a, 5, &self.old, 6, "192.0.2.2");
        state.revision = revision;
        state.ports = vec![staged(&state.ports[0], stage, generation)];
        state
    }

    fn at_b(&self, revision: u64, stage: v1::PortStage, generation: u64) -> v1::NodeState {
        let mut state = state(&self.b, 6, &self.w6, 5, "192.0.2.1");
        state.revision = revision;
        let five = crate::host::port(5, 100, &self.new);
        state.ports.push(staged(&five, stage, generation));
        if stage == v1::PortStage::Active {
            state.remotes.clear();
        }
        state
    }
}

#[tokio::test]
async fn a_prepared_port_is_silent_and_frames_for_it_go_to_where_it_is() -> Result<()> {
    use v1::PortStage::{Active, Held, Prepared};
    let mut pair = Pair::new().await?;
    let (a1, b1) = (pair.at_a(1, Active, 1), pair.at_b(1, Prepared, 2));
    pair.a.set(&a1).await?;
    pair.b.set(&b1).await?;
    pair.a.wait_port(P5, 1, "").await?;
    pair.b.wait_port(P5, 2, "").await?;
    pair.a.wait_settled(&a1).await?;
    pair.b.wait_settled(&b1).await?;
    let link = pair.new.run("ip -o address show dev eth0")?;
    ensure!(link.contains("10.8.0.5/24") && link.contains("fd00:8::5/64"), "addresses are there: {link}");
    let link = pair.b.netns.run(&format!("ip -o link show {}", dev(5, 100)?))?;
    ensure!(link.contains("state DOWN") && link.contains("master cwb100"), "{link}");
    reach(&pair.w6, "10.8.0.5", "fd00:8::5").await?;
    ensure!(received(&pair.new)? == 0, "the prepared one hears nothing");

    // The source goes silent: nobody answers.
    let ping = pair.w6.spawn("ping -n -i 0.01 -W 1 -c 400 10.8.0.5")?;
    pair.a.set(&pair.at_a(2, Held, 1)).await?;
    pair.a.wait_port(P5, 1, "").await?;
    pair.a.wait_settled(&pair.at_a(2, Held, 1)).await?;
    let fdb = pair.a.netns.run("bridge fdb show br cwb100")?;
    ensure!(!fdb.contains(&format!("{} dev {}", mac(5), dev(5, 100)?)), "stale entry: {fdb}");
    ensure!(!pair.w6.pings("10.8.0.5"), "the held one answers");

    // A question of the workload that nobody heard: it would be asked again after a second, this one never.
    pair.new.run("ip neigh replace 10.8.0.77 dev eth0 nud incomplete")?;
    ensure!(pair.new.run("ip neigh show 10.8.0.77")?.contains("INCOMPLETE"));

    // The target takes over, with what it was prepared with.
    let before = pair.b.netns.run(&format!("ip -o link show {}", dev(5, 100)?))?;
    pair.b.set(&pair.at_b(3, Active, 2)).await?;
    pair.b.wait_port(P5, 2, "").await?;
    let mut a3 = pair.at_a(3, Held, 1);
    a3.remotes.push(remote(5, 100, "192.0.2.2"));
    pair.a.set(&a3).await?;
    reach(&pair.w6, "10.8.0.5", "fd00:8::5").await?;
    let index = |line: &str| line.split(':').next().map(ToOwned::to_owned);
    let after = pair.b.netns.run(&format!("ip -o link show {}", dev(5, 100)?))?;
    ensure!(index(&before) == index(&after), "the same link, only up: {before} {after}");
    pair.b.wait_settled(&pair.at_b(3, Active, 2)).await?;
    pair.a.wait_settled(&a3).await?;
    let forgotten = || Ok(!pair.new.run("ip neigh show 10.8.0.77")?.contains("INCOMPLETE"));
    wait_for("the lost question is forgotten", PATIENCE, forgotten).await?;
    ensure!(neighbour(&pair.w6, "10.8.0.5")?.contains(&mac(5)));
    let fdb = pair.a.netns.run("bridge fdb show dev cwx100")?;
    ensure!(fdb.contains(&format!("{} dst 192.0.2.2", mac(5))), "{fdb}");
    drop(ping.wait_with_output()?);

    // And back: a new generation, without anything made anew.
    let held = pair.at_b(4, Held, 2);
    let mut held = v1::NodeState { remotes: vec![], ..held };
    pair.b.set(&held).await?;
    pair.b.wait_port(P5, 2, "").await?;
    pair.a.set(&pair.at_a(5, Active, 3)).await?;
    pair.a.wait_port(P5, 3, "").await?;
    held.remotes = vec![remote(5, 100, "192.0.2.1")];
    held.revision = 5;
    pair.b.set(&held).await?;
    let heard = received(&pair.new)?;
    reach(&pair.w6, "10.8.0.5", "fd00:8::5").await?;
    pair.a.wait_settled(&pair.at_a(5, Active, 3)).await?;
    pair.b.wait_settled(&held).await?;
    ensure!(received(&pair.new)? == heard, "the target hears nothing any more");
    Ok(())
}

/// One that is killed and started again keeps a held port down, and does not announce it.
#[tokio::test]
async fn a_restarted_agent_keeps_silent_ports_silent() -> Result<()> {
    use v1::PortStage::{Active, Held};
    let mut pair = Pair::new().await?;
    let mut a = pair.at_a(1, Active, 1);
    pair.a.set(&a).await?;
    pair.a.wait_port(P5, 1, "").await?;
    a.ports = vec![staged(&a.ports[0], Held, 1)];
    pair.a.set(&a).await?;
    pair.a.wait_settled(&a).await?;
    pair.a.stop();
    pair.a.netns.run(&format!("ip link set {} up", dev(5, 100)?))?;
    pair.a.start()?;
    pair.a.set(&a).await?;
    pair.a.wait_port(P5, 1, "").await?;
    let link = pair.a.netns.run(&format!("ip -o link show {}", dev(5, 100)?))?;
    ensure!(link.contains("state DOWN"), "somebody set it up: it goes down again: {link}");
    assert_settled(&pair.a.look(&a)?)?;
    Ok(())
}

/// Every attachment of a host behind a switch: reachable only while it is active.
#[tokio::test]
async fn attachments_behind_a_switch_are_silent_before_and_after() -> Result<()> {
    use v1::Attachment::{Bridge, Macvlan, Routed};
    use v1::PortStage::{Active, Held, Prepared};
    for attachment in [Bridge, Macvlan, Routed] {
        let mut wire = Wire::new()?;
        wire.a.netns.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        if attachment == Routed {
            wire.a.netns.run("ip address add 10.8.0.101/24 dev eth1")?;
            wire.a.netns.run("ip address add fd00:8::101/64 dev eth1 nodad")?;
        }
        let (w5, w6) = (Netns::new("w5")?, Netns::new("w6")?);
        settle(&mut wire.b, &host_state(2, vec![attached(6, &w6, Bridge)])).await?;
        let port = attached(5, &w5, attachment);
        let stages = [(Prepared, 1, false), (Active, 1, true), (Held, 1, false), (Active, 3, true)];
        for (revision, (stage, generation, answers)) in (1..).zip(stages) {
            let ports = vec![staged(&port, stage, generation)];
            let state = v1::NodeState { revision, ..host_state(1, ports) };
            settle(&mut wire.a, &state).await?;
            if answers {
                reach(&w6, "10.8.0.5", "fd00:8::5").await?;
                continue;
            }
            // What it knows of an earlier stage would hide an answer's absence, or its presence.
            w6.run("ip neigh flush dev eth0")?;
            ensure!(!w6.pings("10.8.0.5") && !w6.pings("fd00:8::5"), "{attachment:?} {stage:?} answers");
        }
    }
    Ok(())
}

/// A VM's tap: nothing passes while its port waits.
#[tokio::test]
async fn a_tap_is_silent_before_and_after() -> Result<()> {
    use v1::PortStage::{Active, Held, Prepared};
    let mut wire = Wire::new()?;
    let w6 = Netns::new("w6")?;
    settle(&mut wire.b, &host_state(2, vec![attached(6, &w6, v1::Attachment::Bridge)])).await?;
    let port = v1::NodePort {
        netns: String::new(),
        interface: "tap5".into(),
        ..attached(5, &w6, v1::Attachment::Tap)
    };
    let mut vm: Option<Tap> = None;
    let stages = [(Prepared, 1, false), (Active, 1, true), (Held, 1, false), (Active, 3, true)];
    for (revision, (stage, generation, talks)) in (1..).zip(stages) {
        let state = v1::NodeState { revision, ..host_state(1, vec![staged(&port, stage, generation)]) };
        settle(&mut wire.a, &state).await?;
        if vm.is_none() {
            vm = Some(Tap::open(&wire.a.netns, "tap5")?);
        }
        let Some(vm) = &mut vm else { continue };
        let patience = if talks { PATIENCE } else { std::time::Duration::from_millis(600) };
        let found = vm.resolve(&mac(5), [10, 8, 0, 5], [10, 8, 0, 6], patience);
        ensure!(found.is_ok() == talks, "{stage:?}: {found:?}");
    }
    wait_for("announced", PATIENCE, || Ok(w6.run("ip neigh show 10.8.0.5")?.contains(&mac(5)))).await?;
    Ok(())
}
