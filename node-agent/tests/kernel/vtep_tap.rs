//! Taps of VMs on hosts that encapsulate themselves.

use std::time::Duration;

use anyhow::{Result, ensure};
use causeway_proto::v1;

use crate::host::{Host, PATIENCE, dev, join, mac, state};
use crate::netns::{Netns, wait_for};
use crate::tap::Tap;

/// Two hosts; on the first a VM's tap, on the second a container.
async fn pair(tap: &str, rate: Option<v1::RateLimit>) -> Result<(Host, Host, Netns, v1::NodeState)> {
    let (mut a, mut b) = (Host::new("a", "192.0.2.1")?, Host::new("b", "192.0.2.2")?);
    join(&a, &b)?;
    let w6 = Netns::new("w6")?;
    let mut of_a = state(&a, 5, &w6, 6, &b.vtep);
    let port = &mut of_a.ports[0];
    port.kind = v1::WorkloadKind::Vm.into();
    port.attachment = v1::Attachment::Tap.into();
    port.netns = String::new();
    port.gateways.clear();
    port.interface = tap.into();
    port.guarded = true;
    port.rate = rate;
    let of_b = state(&b, 6, &w6, 5, &a.vtep);
    if !tap.is_empty() {
        a.netns.run(&format!("ip tuntap add dev {tap} mode tap"))?;
    }
    a.set(&of_a).await?;
    a.wait_port("default/n100/p5", 1, "").await?;
    b.set(&of_b).await?;
    b.wait_port("default/n100/p6", 1, "").await?;
    a.wait_settled(&of_a).await?;
    Ok((a, b, w6, of_a))
}

/// The VM finds the container through the tunnel, and cannot under another name.
fn speaks(host: &Host, tap: &str) -> Result<()> {
    let mut vm = Tap::open(&host.netns, tap)?;
    let found = vm.resolve(&mac(5), [10, 8, 0, 5], [10, 8, 0, 6], PATIENCE)?;
    ensure!(found == mac(6), "{found}");
    let brief = Duration::from_millis(600);
    for (from, source) in [(mac(5), [10, 8, 0, 77]), (mac(77), [10, 8, 0, 5])] {
        let spoofed = vm.resolve(&from, source, [10, 8, 0, 6], brief);
        ensure!(spoofed.is_err(), "a spoof is answered: {from} {source:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_tap_is_made_guarded_limited_and_removed() -> Result<()> {
    let rate = v1::RateLimit { in_kbit: 10_000, out_kbit: 20_000 };
    let (mut a, _b, _w6, mut of_a) = pair("", Some(rate)).await?;
    let tap = dev(5, 100)?;
    speaks(&a, &tap)?;
    let port = a.netns.run(&format!("bridge -d link show dev {tap}"))?;
    ensure!(port.contains("master cwb100") && port.contains("locked on"), "{port}");
    let link = a.netns.run(&format!("ip -d link show dev {tap}"))?;
    ensure!(link.contains("mtu 1450") && link.contains("tun type tap"), "{link}");
    let qdiscs = a.netns.run("tc qdisc show")?;
    ensure!(qdiscs.contains("rate 10Mbit") && qdiscs.contains("rate 20Mbit"), "{qdiscs}");
    for damage in [
        format!("ip link set dev {tap} nomaster"),
        format!("ip link set dev {tap} down"),
        format!("bridge fdb del {} dev {tap} master", mac(5)),
        format!("ip link del dev {tap}"),
        "ip link del dev cwb100".to_owned(),
    ] {
        a.netns.run(&damage)?;
        a.wait_settled(&of_a).await?;
        speaks(&a, &tap)?;
    }
    a.stop();
    a.start()?;
    a.set(&of_a).await?;
    a.wait_port("default/n100/p5", 1, "").await?;
    ensure!(a.plane()?.progress.borrow().steps == 0, "a restart took steps");
    of_a.revision = 2;
    let deleted_ports = vec!["default/n100/p5".to_owned()];
    a.change(v1::NodeDelta { revision: 2, deleted_ports, ..v1::NodeDelta::default() }).await?;
    let gone = || Ok(a.netns.run(&format!("ip link show dev {tap}")).is_err());
    wait_for("tap gone", PATIENCE, gone).await?;
    of_a.ports.clear();
    a.wait_settled(&of_a).await
}

/// As OpenStack names one: "tap" and the first 11 characters of the port's id.
#[tokio::test]
async fn a_tap_of_others_is_taken_and_never_deleted() -> Result<()> {
    let tap = "tap1f2e3d4c-5b6";
    let (mut a, _b, _w6, mut of_a) = pair(tap, None).await?;
    speaks(&a, tap)?;
    // Whoever made it makes it anew.
    a.netns.run(&format!("ip link del dev {tap}"))?;
    wait_for("made again", PATIENCE, || Ok(a.netns.run(&format!("ip link show dev {tap}")).is_ok())).await?;
    a.wait_settled(&of_a).await?;
    speaks(&a, tap)?;
    a.netns.run(&format!("ip link set dev {tap} group default"))?;
    a.stop();
    a.start()?;
    a.set(&of_a).await?;
    a.wait_port("default/n100/p5", 1, "").await?;
    speaks(&a, tap)?;
    of_a.revision = 2;
    of_a.ports.clear();
    a.set(&of_a).await?;
    let left = || {
        let link = a.netns.run(&format!("ip link show dev {tap}"))?;
        Ok(!link.contains("master") && !link.contains("causeway:"))
    };
    wait_for("left alone", PATIENCE, left).await?;
    a.wait_settled(&of_a).await
}

/// One with several pairs of queues, an MTU and a name that were asked for; and one of others, by nova's rule.
#[tokio::test]
async fn taps_have_the_queues_the_mtu_and_the_name_that_were_asked_for() -> Result<()> {
    let mut a = Host::new("a", "192.0.2.1")?;
    let nobody = Netns::new("n")?;
    let mut wanted = state(&a, 5, &nobody, 6, "192.0.2.2");
    wanted.ports[0] = v1::NodePort {
        kind: v1::WorkloadKind::Vm.into(),
        attachment: v1::Attachment::Tap.into(),
        netns: String::new(),
        interface: "vm5".into(),
        queues: 4,
        mtu: 1400,
        ..wanted.ports[0].clone()
    };
    a.set(&wanted).await?;
    a.wait_port("default/n100/p5", 1, "").await?;
    let link = a.netns.run("ip -d link show dev vm5")?;
    ensure!(link.contains("mtu 1400") && link.contains("multi_queue"), "{link}");
    let queues: Vec<Tap> = (0..4).map(|_| Tap::open_queue(&a.netns, "vm5")).collect::<Result<_>>()?;
    ensure!(queues.len() == 4 && Tap::open(&a.netns, "vm5").is_err(), "it is opened as what it is");
    drop(queues);
    a.wait_settled(&wanted).await?;
    // One that somebody else has made is taken as it is; ours goes.
    let other = "tap0a1b2c3d-4e";
    a.netns.run(&format!("ip tuntap add dev {other} mode tap multi_queue"))?;
    wanted.revision = 2;
    wanted.ports[0] =
        v1::NodePort { interface: other.into(), generation: 2, queues: 0, ..wanted.ports[0].clone() };
    a.set(&wanted).await?;
    a.wait_port("default/n100/p5", 2, "").await?;
    let link = a.netns.run(&format!("ip -d link show dev {other}"))?;
    ensure!(link.contains("master cwb100") && link.contains("mtu 1400"), "taken by its name: {link}");
    ensure!(link.contains("multi_queue"), "as its maker wanted it: {link}");
    wait_for("ours is gone", PATIENCE, || Ok(a.netns.run("ip link show dev vm5").is_err())).await?;
    wanted.revision = 3;
    wanted.ports.clear();
    a.set(&wanted).await?;
    let left = || Ok(!a.netns.run(&format!("ip -d link show dev {other}"))?.contains("master"));
    wait_for("that of others only leaves the bridge", PATIENCE, left).await?;
    Ok(())
}
